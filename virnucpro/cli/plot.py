"""`virnucpro plot`."""

from __future__ import annotations

from pathlib import Path

import rich_click as click

from virnucpro.cli.options import OutputPath
from virnucpro.report import DEFAULT_TOP, FORMATS

click.rich_click.OPTION_GROUPS["virnucpro plot"] = [
    {"name": "Which", "options": ["--prefix", "--top", "--id"]},
    {"name": "Output", "options": ["--output", "--format", "--force"]},
    {"name": "Messages", "options": ["--quiet", "--help"]},
]


@click.command()
@click.argument("folder", metavar="OUT_DIR", type=click.Path(path_type=Path))
@click.option("-p", "--prefix", help="Beginning of the results' names; needed if OUT_DIR holds several.")
@click.option(
    "-o",
    "--output",
    type=OutputPath(),
    metavar="FOLDER",
    help="Folder for the pictures; default: OUT_DIR/PREFIX.plots.",
)
@click.option(
    "--format",
    "file_format",
    type=click.Choice(FORMATS),
    default=FORMATS[0],
    show_default=True,
    help="png: dots, 200 an inch; svg: lines and text that can be edited.",
)
@click.option(
    "--top",
    type=click.IntRange(min=1),
    metavar="N",
    help=f"Most pictures: viruses first, then mixed sequences, higher scores first; default: {DEFAULT_TOP}.",
)
@click.option(
    "--id",
    "ids",
    multiple=True,
    metavar="SEQUENCE_ID",
    help="Draw this sequence, viral or not, instead; may be given several times.",
)
@click.option("--force", is_flag=True, help="Overwrite pictures that are there; others in FOLDER stay.")
@click.option("-q", "--quiet", is_flag=True, help="Say nothing but errors.")
def plot(
    folder: Path,
    prefix: str | None,
    output: Path | None,
    file_format: str,
    top: int | None,
    ids: tuple[str, ...],
    force: bool,
    quiet: bool,
) -> None:
    """Draw results of `virnucpro predict`: the scores along each viral sequence, its viral regions shaded.

    OUT_DIR: the folder that `virnucpro predict` wrote.

    \b
    virnucpro plot out
    virnucpro plot out --id contig7 --format svg

    A picture is named by the sequence's number in the input and its id: 000012_contig7.png. Each window is a line from
    its first to its last base at the height of its score, grey along the bottom if it has none.

    Needs matplotlib: pip install 'virnucpro[report]'
    """
    from rich.console import Console

    from virnucpro.calls.read import find_prefix
    from virnucpro.core import log
    from virnucpro.report import plot_results
    from virnucpro.runs.paths import PredictPaths

    if ids and top:
        raise click.UsageError("--id and --top contradict each other")
    log.set_up(Console(stderr=True), "quiet" if quiet else "normal")
    if prefix is None:
        prefix = find_prefix(folder)
    if output is None:
        output = PredictPaths(folder / prefix).plots
    plot_results(folder, prefix, output, file_format=file_format, top=top or DEFAULT_TOP, ids=ids, force=force)
