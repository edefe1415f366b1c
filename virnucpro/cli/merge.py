"""`virnucpro merge`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import rich_click as click

from virnucpro.cli.options import FORCE, MODELS_DIR, PREFIX, QUIET, options, output
from virnucpro.errors import EXIT_SOME_FAILED
from virnucpro.runs.config import MergeConfig

PANELS = {
    "Output": [
        output(
            "OUT", "Folder for the results, as of predict; or file for the embeddings (.h5, .npy, .pt), as of embed."
        ),
        PREFIX,
        FORCE,
    ],
    "Model": [MODELS_DIR],
    "Messages": [QUIET],
}


@click.command()
@click.argument("pieces", metavar="DIR", type=click.Path(path_type=Path, exists=True, file_okay=False))
@options(PANELS, MergeConfig)
def merge(quiet: bool, **settings: Any) -> int:
    """Join the results of the pieces that `virnucpro split` made in DIR: the same bytes as of one run over all.

    \b
    virnucpro split contigs.fa -n 20 -o parts
    virnucpro predict parts/0001.fa -o parts/0001        (or: virnucpro embed parts/0001.fa -o parts/0001.h5)
    virnucpro merge parts -o out                         (or: virnucpro merge parts -o out.h5)

    Refused: pieces without results, whose run failed or is not complete, that were changed, or that differ in models,
    dtype, batch size, kind of device, versions or settings. No device is needed.
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
