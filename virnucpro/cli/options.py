"""Options that several commands share: devices, the run, messages."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import rich_click as click
from rich_click.utils import OptionGroupDict

from virnucpro.runs.config import DEFAULT_STALL_MINUTES

Command = TypeVar("Command", bound=Callable[..., Any])
Option = Callable[[Any], Any]

#: Groups of the help that all commands with these options have.
GROUPS: list[OptionGroupDict] = [
    {"name": "Devices and speed", "options": ["--device", "--dtype", "--batch-size", "--threads", "--stall-minutes"]},
    {"name": "Run", "options": ["--resume", "--work-dir", "--sequences-per-file"]},
    {"name": "Messages", "options": ["--quiet", "--verbose", "--log-format", "--help"]},
]

inputs_argument = click.argument(
    "inputs", metavar="INPUT...", nargs=-1, required=True, type=click.Path(path_type=Path, allow_dash=True)
)


class OutputPath(click.Path):
    """Where results go. Nothing at all is no path: it would mean the folder that one happens to be in."""

    def __init__(self, *, file_okay: bool = True) -> None:
        super().__init__(path_type=Path, file_okay=file_okay)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The path of a word."""
        if value == "":
            self.fail("it is empty", param, ctx)
        return super().convert(value, param, ctx)


force_option = click.option("--force", is_flag=True, help="Overwrite existing results.")

models_dir_option = click.option(
    "--models-dir",
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder with downloaded models, sought first; then $VIRNUCPRO_MODELS, then the Hub cache.",
)

_DEVICES = [
    click.option(
        "-d",
        "--device",
        default="auto",
        show_default=True,
        help="auto (all visible GPUs, else the CPU), cpu, cuda, or a list such as 0,2 as CUDA_VISIBLE_DEVICES "
        "counts; an entry given twice (cpu,cpu or 0,0) means two workers there.",
    ),
    click.option(
        "--dtype",
        type=click.Choice(["auto", "fp32", "bf16", "fp16", "fp8"]),
        default="auto",
        show_default=True,
        help="Numbers to compute in. auto: bf16 where all devices have it natively, else fp32. fp16: GPUs only. "
        "fp8: products of ESM-2 in FP8, the rest in bf16, on GPUs of compute capability 8.9 or more.",
    ),
    click.option(
        "--batch-size",
        type=click.IntRange(min=1),
        metavar="TOKENS",
        help="Tokens a batch, rounded up to a multiple of 256; default: by device (`virnucpro devices`).",
    ),
    click.option("-t", "--threads", type=click.IntRange(min=1), help="CPU threads of the whole run; default: all."),
    click.option(
        "--stall-minutes",
        type=click.FloatRange(min=0, min_open=True),
        default=DEFAULT_STALL_MINUTES,
        show_default=True,
        metavar="MINUTES",
        help="A worker process that says nothing for so long is replaced; longer if its files are large for its pace.",
    ),
]

_RUN = [
    click.option(
        "--resume/--no-resume",
        default=True,
        show_default=True,
        help="Continue an interrupted run of the same input, settings and model.",
    ),
    click.option(
        "--work-dir",
        type=OutputPath(file_okay=False),
        metavar="DIR",
        help="Folder for work files, for example on a fast disk; default: beside the result. Removed when all is done.",
    ),
]

_MESSAGES = [
    click.option("-q", "--quiet", is_flag=True, help="Say nothing but errors."),
    click.option("-v", "--verbose", is_flag=True, help="Say more."),
    click.option(
        "--log-format",
        type=click.Choice(["text", "json"]),
        default="text",
        show_default=True,
        help="Messages on stderr as text, or one JSON object a line.",
    ),
]


def run_options(sequences_per_file: int) -> Callable[[Command], Command]:
    """Give a command the options of devices, the run, and messages, in this order."""
    per_file = click.option(
        "--sequences-per-file",
        type=click.IntRange(min=1),
        default=sequences_per_file,
        show_default=True,
        help="Most sequences, or open frames, in a work file, the unit of work and of resuming.",
    )
    options: list[Option] = [*_DEVICES, *_RUN, per_file, *_MESSAGES]

    def give(command: Command) -> Command:
        for option in reversed(options):
            command = option(command)
        return command

    return give


def message_level(quiet: bool, verbose: bool) -> str:
    """quiet, normal or verbose; a usage error for both at once."""
    if quiet and verbose:
        raise click.UsageError("--quiet and --verbose contradict each other")
    return "quiet" if quiet else "verbose" if verbose else "normal"
