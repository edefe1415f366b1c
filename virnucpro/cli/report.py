"""`virnucpro report`."""

from __future__ import annotations

from pathlib import Path

import rich_click as click

from virnucpro.cli.options import QUIET, Option, options, output

PANELS = {
    "Which, and where to": [
        Option("-p", "--prefix", help="Prefix of the results' file names; needed if OUT_DIR holds several."),
        output(
            "FILE",
            "The page; default: OUT_DIR/PREFIX.report.html. An earlier report there is replaced, nothing else is.",
        ),
    ],
    "Messages": [QUIET],
}


@click.command()
@click.argument("folder", metavar="OUT_DIR", type=click.Path(path_type=Path))
@options(PANELS)
def report(folder: Path, prefix: str | None, output: Path | None, quiet: bool) -> None:
    """Show results of `virnucpro predict` on one page, to open in a browser.

    OUT_DIR: the folder that `virnucpro predict` wrote.

    \b
    virnucpro report out

    What was found and how many calls are expected to be false; scores by length, and what another threshold would
    call; all sequences, to sort and to filter; the windows and regions of each; sequences that are viral in part; what
    was not used, and why; settings and a paragraph for the methods of a paper. The page is one file that needs no
    network, to keep or to send.
    """
    from rich.console import Console

    from virnucpro.calls.read import find_prefix
    from virnucpro.core import log
    from virnucpro.report import write_report

    log.set_up(Console(stderr=True), quiet)
    write_report(folder, find_prefix(folder) if prefix is None else prefix, output)
