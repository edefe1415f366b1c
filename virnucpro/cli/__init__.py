"""The command line: each command turns its options into a frozen config and calls the library once.

Nothing heavy is imported here, so that `--help` answers at once.
"""

from __future__ import annotations

import logging
import signal
import sys
from types import FrameType
from typing import NoReturn

import rich_click as click

from virnucpro._version import __version__
from virnucpro.cli import streams
from virnucpro.cli.devices import devices
from virnucpro.cli.doctor import doctor
from virnucpro.cli.embed import embed
from virnucpro.cli.models import models
from virnucpro.cli.orfs import orfs
from virnucpro.cli.plot import plot
from virnucpro.cli.predict import predict
from virnucpro.cli.train import train
from virnucpro.core import log
from virnucpro.errors import Interrupted, VirnucproError

EXIT_CODES = """
Exit codes: 0 done · 2 usage · 3 input or output · 4 model · 5 device · 6 done, but some sequences failed ·
130/143 interrupted (run the same command again to continue).
"""


@click.group(epilog=EXIT_CODES, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="virnucpro")
def cli() -> None:
    """Find viral sequences with language models of DNA and protein, on every device at hand.

    Start with: virnucpro predict contigs.fa -o out
    """


for command in (predict, plot, train, embed, orfs, models, devices, doctor):
    cli.add_command(command)


def main() -> NoReturn:
    """Entry point: runs a command and turns its end into an exit code."""
    signal.signal(signal.SIGTERM, _stop)
    with streams.guarded():
        code = _run()
    sys.exit(code)


def _run() -> int:
    try:
        code = cli.main(standalone_mode=False, prog_name="virnucpro")
        sys.stdout.flush()
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (KeyboardInterrupt, click.Abort):
        return _report(Interrupted(signal.SIGINT))
    except _Stopped as stopped:
        return _report(Interrupted(stopped.signal_number))
    except VirnucproError as error:
        return _report(error)
    return code if isinstance(code, int) else 0


class _Stopped(BaseException):
    """A signal asks for an end. No `Exception`, so that nothing on the way takes it for a failure of its own."""

    def __init__(self, signal_number: int) -> None:
        self.signal_number = signal_number


def _stop(number: int, _frame: FrameType | None) -> NoReturn:
    raise _Stopped(number)


def _report(error: VirnucproError) -> int:
    if log.writes_json():
        logging.getLogger("virnucpro.cli").error("%s", error)
        return error.exit_code
    print(f"virnucpro: error: {error.message}", file=sys.stderr)
    if error.hint:
        print(f"  → {error.hint}", file=sys.stderr)
    return error.exit_code
