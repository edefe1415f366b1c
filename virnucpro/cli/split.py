"""`virnucpro split` and `virnucpro merge`."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import rich_click as click
from rich.console import Console

from virnucpro.cli.options import FORCE, MODELS_DIR, PREFIX, QUIET, Option, inputs_argument, options, output
from virnucpro.core.words import counted
from virnucpro.errors import EXIT_SOME_FAILED
from virnucpro.runs.config import MergeConfig, SplitConfig

logger = logging.getLogger("virnucpro.cli")

SPLIT = {
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
@options(SPLIT, SplitConfig)
def split(quiet: bool, **settings: Any) -> int:
    """Cut inputs into pieces of whole records, to be processed on several hosts; `merge` joins the results.

    \b
    virnucpro split contigs.fa -n 20 -o parts
    virnucpro predict parts/0001.fa -o parts/0001        one task for each piece, on any host
    virnucpro merge parts -o out                         the same bytes as `predict contigs.fa -o out`

    \b
    DIR/0001.fa, 0002.fa …   the pieces
    DIR/split.json           contents and checksums of the pieces
    DIR/split.failed.tsv     records that cannot be used, and why; only if there are any

    docs/cluster.md has job scripts for SLURM, Nextflow and Snakemake.
    """
    from virnucpro.core import log
    from virnucpro.runs.split import run_split

    log.set_up(Console(stderr=True), quiet)
    result = run_split(SplitConfig(**settings))
    found = result.split
    records = counted(sum(piece.records for piece in found.pieces), "records")
    logger.info("%s in %s", records, counted(len(found.pieces), "pieces"))
    if found.rejected:
        logger.warning("%d failed; see %s", len(found.rejected), result.paths.failed)
    return EXIT_SOME_FAILED if found.rejected else 0


MERGE = {
    "Output": [
        output("OUT", "Folder for the results of predict, or file (.h5, .npy, .pt) for the embeddings of embed."),
        PREFIX,
        FORCE,
    ],
    "Model": [MODELS_DIR],
    "Messages": [QUIET],
}


@click.command()
@click.argument("pieces", metavar="DIR", type=click.Path(path_type=Path, exists=True, file_okay=False))
@options(MERGE, MergeConfig)
def merge(quiet: bool, **settings: Any) -> int:
    """Join the results of the pieces that `virnucpro split` made in DIR: byte for byte those of a single run.

    \b
    virnucpro split contigs.fa -n 20 -o parts
    virnucpro predict parts/0001.fa -o parts/0001        (or: virnucpro embed parts/0001.fa -o parts/0001.h5)
    virnucpro merge parts -o out                         (or: virnucpro merge parts -o out.h5)

    Pieces are refused if they were changed, if they have no results or an incomplete run, or if their runs differ in
    models, dtype, batch size, kind of device, versions or settings. No GPU is needed.
    """
    from virnucpro.cli.progress import Reporter, tell_called, tell_embedded
    from virnucpro.runs.embed import EmbedResult

    config = MergeConfig(**settings)
    with Reporter(quiet, "text") as reporter:
        from virnucpro.runs.merge import run_merge

        result = run_merge(config, reporter)
    if isinstance(result, EmbedResult):
        tell_embedded(result)
    else:
        tell_called(result)
    return EXIT_SOME_FAILED if result.failures else 0
