"""`virnucpro merge`."""

from __future__ import annotations

from pathlib import Path

import rich_click as click

from virnucpro.cli.options import OutputPath, force_option, models_dir_option, prefix_option, quiet_option
from virnucpro.errors import EXIT_SOME_FAILED
from virnucpro.runs.config import MergeConfig

click.rich_click.OPTION_GROUPS["virnucpro merge"] = [
    {"name": "Output", "options": ["--output", "--prefix", "--force"]},
    {"name": "Model", "options": ["--models-dir"]},
    {"name": "Messages", "options": ["--quiet", "--help"]},
]


@click.command()
@click.argument("pieces", metavar="DIR", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.option(
    "-o",
    "--output",
    required=True,
    type=OutputPath(),
    metavar="OUT",
    help="Folder for the results, as of predict; or file for the embeddings (.h5, .npy, .pt), as of embed.",
)
@prefix_option
@force_option
@models_dir_option
@quiet_option
def merge(pieces: Path, output: Path, prefix: str | None, force: bool, models_dir: Path | None, quiet: bool) -> int:
    """Join the results of the pieces that `virnucpro split` made in DIR: the same bytes as of one run over all.

    \b
    virnucpro split contigs.fa -n 20 -o parts
    virnucpro predict parts/0001.fa -o parts/0001        (or: virnucpro embed parts/0001.fa -o parts/0001.h5)
    virnucpro merge parts -o out                         (or: virnucpro merge parts -o out.h5)

    Refused: pieces without results, whose run failed or is not complete, that were changed, or that differ in models,
    dtype, batch size, kind of device, versions or settings. No device is needed.
    """
    from virnucpro.cli.progress import Reporter
    from virnucpro.runs.embed import EmbedResult

    config = MergeConfig(pieces, output, prefix, models_dir, force)
    with Reporter(quiet, "text") as reporter:
        from virnucpro.runs.merge import run_merge

        result = run_merge(config, reporter)
        if isinstance(result, EmbedResult):
            reporter.summary(result)
        else:
            reporter.predict_summary(result)
    return EXIT_SOME_FAILED if result.failures else 0
