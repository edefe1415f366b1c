"""`virnucpro report` and `virnucpro summarize`."""

from __future__ import annotations

import logging
from pathlib import Path

import rich_click as click
from rich.console import Console

from virnucpro.cli.options import QUIET, Option, options, output
from virnucpro.core import log
from virnucpro.core.words import counted
from virnucpro.errors import UsageError

PAGE = {
    "Results": [
        Option("-p", "--prefix", help="Prefix of the results' file names; needed if OUT_DIR holds several."),
        output(
            "FILE",
            "The page; default: OUT_DIR/PREFIX.report.html. Only an earlier report is overwritten.",
        ),
    ],
    "Messages": [QUIET],
}


@click.command()
@click.argument("folder", metavar="OUT_DIR", type=click.Path(path_type=Path))
@options(PAGE)
def report(folder: Path, prefix: str | None, output: Path | None, quiet: bool) -> None:
    """Write a page for the browser that shows the results of `virnucpro predict`.

    OUT_DIR: the folder that `virnucpro predict` wrote.

    \b
    virnucpro report out

    The page shows what was found and how many calls are expected to be false; scores by length, and what another
    threshold would call; a table of all sequences to sort and filter; the windows and regions of each; sequences that
    are viral in part; what was not used, and why; settings, and a paragraph for the methods of a paper. It is a single
    file that needs no network, so it can be kept and sent.
    """
    from virnucpro.calls.read import find_prefix
    from virnucpro.report import write_report

    log.set_up(Console(stderr=True), quiet)
    write_report(folder, find_prefix(folder) if prefix is None else prefix, output)


SUMMARY = {
    "Output": [
        output(
            "DIR",
            "Folder for the table and the page; default: DIR, if only one is given. Only an earlier "
            "summary is overwritten.",
            file_okay=False,
        )
    ],
    "Messages": [QUIET],
}


@click.command()
@click.argument(
    "folders", metavar="DIR...", nargs=-1, required=True, type=click.Path(path_type=Path, exists=True, file_okay=False)
)
@options(SUMMARY)
def summarize(folders: tuple[Path, ...], output: Path | None, quiet: bool) -> None:
    """Put the results of several samples into one table and on one page.

    DIR: a folder that `virnucpro predict` wrote, or one that holds such folders.

    \b
    virnucpro summarize out
    virnucpro summarize run1/out run2/out -o all

    \b
    samples.tsv           one row per sample: sequences, verdicts, failures, expected false calls, settings that differ
    samples.report.html   the same as a sortable page for the browser
    """
    from virnucpro.report import summarize as write
    from virnucpro.runs.paths import SamplePaths

    if output is None and len(folders) > 1:
        raise UsageError("several folders are given, but no output folder", hint="choose one with -o")
    log.set_up(Console(stderr=True), quiet)
    paths = SamplePaths((output or folders[0]) / "samples")
    found = write(folders, paths.folder)
    logging.getLogger("virnucpro.cli").info(
        "%d of %s with results: %s", len(found.complete), counted(len(found.all), "samples"), paths.table
    )
