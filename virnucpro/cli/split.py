"""`virnucpro split`."""

from __future__ import annotations

import logging
from typing import Any

import rich_click as click
from rich.console import Console

from virnucpro.cli.options import FORCE, QUIET, Option, inputs_argument, options, output
from virnucpro.errors import EXIT_SOME_FAILED
from virnucpro.runs.config import SplitConfig

logger = logging.getLogger("virnucpro.cli")

PANELS = {
    "Output": [output("DIR", "Folder for the pieces; created if it does not exist.", file_okay=False), FORCE],
    "Pieces": [
        Option("-n", "--pieces", help="Number of pieces, of about the same size."),
        Option("--bases", help="Size of a piece in bases, instead of the number of pieces."),
        Option("--protein", help="The inputs are proteins."),
    ],
    "Messages": [QUIET],
}


@click.command()
@inputs_argument
@options(PANELS, SplitConfig)
def split(quiet: bool, **settings: Any) -> int:
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
    result = run_split(SplitConfig(**settings))
    found = result.split
    logger.info("%d records in %d pieces", sum(piece.records for piece in found.pieces), len(found.pieces))
    if found.rejected:
        logger.warning("%d failed; see %s", len(found.rejected), result.paths.failed)
    return EXIT_SOME_FAILED if found.rejected else 0
