"""`virnucpro split`."""

from __future__ import annotations

import logging
from pathlib import Path

import rich_click as click
from rich.console import Console

from virnucpro.cli.options import OutputPath, force_option, inputs_argument, quiet_option
from virnucpro.errors import EXIT_SOME_FAILED
from virnucpro.runs.config import MOST_PIECES, SplitConfig

logger = logging.getLogger("virnucpro.cli")

click.rich_click.OPTION_GROUPS["virnucpro split"] = [
    {"name": "Output", "options": ["--output", "--force"]},
    {"name": "Pieces", "options": ["--pieces", "--bases", "--protein"]},
    {"name": "Messages", "options": ["--quiet", "--help"]},
]


@click.command()
@inputs_argument
@click.option(
    "-o",
    "--output",
    required=True,
    type=OutputPath(file_okay=False),
    metavar="DIR",
    help="Folder for the pieces; created if it does not exist.",
)
@force_option
@click.option("-n", "--pieces", type=click.IntRange(1, MOST_PIECES), help="Number of pieces, of about the same size.")
@click.option("--bases", type=click.IntRange(min=1), help="Size of a piece in bases, instead of the number of pieces.")
@click.option("--protein", is_flag=True, help="The inputs are proteins.")
@quiet_option
def split(
    inputs: tuple[Path, ...],
    output: Path,
    force: bool,
    pieces: int | None,
    bases: int | None,
    protein: bool,
    quiet: bool,
) -> int:
    """Cut inputs into pieces of whole records, so that many hosts can work on them; `merge` joins the results.

    \b
    virnucpro split contigs.fa -n 20 -o parts
    virnucpro predict parts/0001.fa -o parts/0001        one task for each piece, on any host
    virnucpro merge parts -o out                         the same bytes as `predict contigs.fa -o out`

    \b
    DIR/0001.fa, 0002.fa …   the pieces
    DIR/split.json           what each piece holds, and the checksums of it all
    DIR/split.failed.tsv     records that cannot be used, and why; only if there are any

    docs/cluster.md has job scripts for SLURM, Nextflow and Snakemake.
    """
    from virnucpro.core import log
    from virnucpro.runs.split import run_split

    log.set_up(Console(stderr=True), quiet)
    result = run_split(SplitConfig(inputs, output, pieces, bases, protein, force))
    found = result.split
    logger.info("%d records in %d pieces", sum(piece.records for piece in found.pieces), len(found.pieces))
    if found.rejected:
        logger.warning("%d failed; see %s", len(found.rejected), result.paths.failed)
    return EXIT_SOME_FAILED if found.rejected else 0
