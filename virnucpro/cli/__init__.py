"""The command line: each command turns its options into a frozen config and calls the library once.

Nothing heavy is imported here, so that `--help` answers at once.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
from types import FrameType
from typing import NoReturn

import rich_click as click

from virnucpro._version import __version__
from virnucpro.cli import streams
from virnucpro.cli.doctor import devices, doctor
from virnucpro.cli.embed import embed
from virnucpro.cli.models import models
from virnucpro.cli.orfs import orfs
from virnucpro.cli.predict import predict
from virnucpro.cli.report import report, summarize
from virnucpro.cli.split import merge, split
from virnucpro.cli.train import train
from virnucpro.core import log
from virnucpro.errors import InputError, Interrupted, VirnucproError, lack_of_memory
from virnucpro.io.files import failing_as

EXIT_CODES = """
Exit codes: 0 done · 2 usage · 3 input or output · 4 model · 5 device · 6 done, but some sequences failed ·
130/143 interrupted (run the same command again to continue).
"""


click.rich_click.COMMAND_GROUPS["virnucpro"] = [
    {"name": "Find viruses", "commands": ["predict", "report", "summarize"]},
    {"name": "On several hosts", "commands": ["split", "merge"]},
    {"name": "Training and single steps", "commands": ["train", "embed", "orfs"]},
    {"name": "This machine", "commands": ["models", "devices", "doctor"]},
]


@click.group(epilog=EXIT_CODES, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="virnucpro")
def cli() -> None:
    """Find viral sequences with language models of DNA and protein, on all available devices.

    Start with: virnucpro predict contigs.fa -o out
    """


for command in (predict, report, summarize, train, embed, orfs, split, merge, models, devices, doctor):
    cli.add_command(command)


def main() -> NoReturn:
    """Entry point: runs a command and turns its end into an exit code."""
    for number in (signal.SIGINT, signal.SIGTERM):
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _stop)
    with streams.guarded():
        code = _run()
    if code > 128:  # by a signal: Python would wait for threads, or abort if one is in foreign code
        os._exit(code)
    sys.exit(code)


def _run() -> int:
    try:
        _find_folder()
        code = cli.main(standalone_mode=False, prog_name="virnucpro")
        sys.stdout.flush()
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (KeyboardInterrupt, click.Abort):
        return _interrupted(signal.SIGINT)
    except _Stopped as stopped:
        return _interrupted(stopped.signal_number)
    except VirnucproError as error:
        return _report(error)
    except Exception as error:
        if (cause := lack_of_memory(error)) is None:
            raise
        return _report(cause)
    return code if isinstance(code, int) else 0


def _find_folder() -> None:
    """Raise InputError if the current folder is gone: libraries of PyTorch would end the process while they load."""
    with failing_as(InputError, "cannot use the current folder", "it has been removed: change to another folder"):
        os.getcwd()


class _Stopped(BaseException):
    """A signal has asked the program to end. Not an `Exception`, so that no code handles it as an error."""

    def __init__(self, signal_number: int) -> None:
        self.signal_number = signal_number


def _stop(number: int, _frame: FrameType | None) -> NoReturn:
    raise _Stopped(number)


def _interrupted(number: int) -> int:
    """Report the interruption; further signals are ignored."""
    for each in (signal.SIGINT, signal.SIGTERM):
        signal.signal(each, signal.SIG_IGN)
    return _report(Interrupted(number))


def _report(error: VirnucproError) -> int:
    if log.writes_json():
        logging.getLogger("virnucpro.cli").error("%s", error)
        return error.exit_code
    print(f"virnucpro: error: {error.message}", file=sys.stderr)
    for cure in (error.hint or "").splitlines():
        print(f"  → {cure}", file=sys.stderr)
    return error.exit_code
