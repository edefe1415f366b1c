"""`virnucpro summarize`."""

from __future__ import annotations

from pathlib import Path

import rich_click as click

from virnucpro.cli.options import QUIET, options, output
from virnucpro.errors import UsageError

PANELS = {
    "Output": [
        output(
            "DIR",
            "Folder for the table and the page; default: the DIR that is given, if it is one. An earlier summary there "
            "is replaced, nothing else is.",
            file_okay=False,
        )
    ],
    "Messages": [QUIET],
}


@click.command()
@click.argument(
    "folders", metavar="DIR...", nargs=-1, required=True, type=click.Path(path_type=Path, exists=True, file_okay=False)
)
@options(PANELS)
def summarize(folders: tuple[Path, ...], output: Path | None, quiet: bool) -> None:
    """Put the results of several samples into one table and on one page.

    DIR: a folder that `virnucpro predict` wrote, or one that holds such folders.

    \b
    virnucpro summarize out
    virnucpro summarize run1/out run2/out -o all

    \b
    samples.tsv           a row for each sample: sequences, verdicts, what failed, expected false calls, settings that
                          differ
    samples.report.html   the same to look at and to sort
    """
    import logging

    from rich.console import Console

    from virnucpro.core import log
    from virnucpro.report import summarize as write
    from virnucpro.runs.paths import SamplePaths

    if output is None and len(folders) > 1:
        raise UsageError("several folders, and none to write into", hint="name one with -o")
    log.set_up(Console(stderr=True), quiet)
    paths = SamplePaths((output or folders[0]) / "samples")
    found = write(folders, paths.folder)
    logger = logging.getLogger("virnucpro.cli")
    logger.info("%d of %d samples have results: %s", len(found.complete), len(found.all), paths.table)
