"""Options that several commands share: devices, the run, messages."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import rich_click as click
from rich_click.utils import OptionGroupDict

from virnucpro.runs.config import DEFAULT_RAY_MINUTES, DEFAULT_STALL_MINUTES

Command = TypeVar("Command", bound=Callable[..., Any])
Option = Callable[[Any], Any]

#: Option groups shown in the help of every command that has these options.
GROUPS: list[OptionGroupDict] = [
    {"name": "Devices and speed", "options": ["--device", "--dtype", "--batch-size", "--threads", "--stall-minutes"]},
    {"name": "Cluster", "options": ["--ray", "--ray-wait"]},
    {"name": "Run", "options": ["--resume", "--work-dir", "--sequences-per-file"]},
    {"name": "Messages", "options": ["--quiet", "--log-format", "--help"]},
]

inputs_argument = click.argument(
    "inputs", metavar="INPUT...", nargs=-1, required=True, type=click.Path(path_type=Path, allow_dash=True)
)


class OutputPath(click.Path):
    """A path for results. An empty one is refused, since it would mean the current folder."""

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
    help="Folder with downloaded models, searched before $VIRNUCPRO_MODELS and the Hub cache.",
)

_DEVICES = [
    click.option(
        "-d",
        "--device",
        default="auto",
        show_default=True,
        help="auto (all visible GPUs, or else the CPU), cpu, cuda (all visible GPUs), or a list of GPU numbers such as "
        "0,2, counted within CUDA_VISIBLE_DEVICES. An entry given twice (cpu,cpu or 0,0) starts two workers.",
    ),
    click.option(
        "--dtype",
        type=click.Choice(["auto", "fp32", "bf16", "fp16", "fp8"]),
        default="auto",
        show_default=True,
        help="Number format of the networks. auto: bf16 if every device supports it, else fp32. fp16: GPUs only. "
        "fp8: matrix products of ESM-2 in FP8, all else in bf16; GPUs of compute capability 8.9 or higher.",
    ),
    click.option(
        "--batch-size",
        type=click.IntRange(min=1),
        metavar="TOKENS",
        help="Tokens per batch, rounded up to a multiple of 256; default: chosen by device (see `virnucpro devices`).",
    ),
    click.option(
        "-t",
        "--threads",
        type=click.IntRange(min=1),
        help="CPU threads for the whole run, with --ray on each node; default: all.",
    ),
    click.option(
        "--stall-minutes",
        type=click.FloatRange(min=0, min_open=True),
        default=DEFAULT_STALL_MINUTES,
        show_default=True,
        metavar="MINUTES",
        help="Replace a worker process that has been silent for this long; large work files get more time.",
    ),
]

_CLUSTER = [
    click.option(
        "--ray",
        metavar="ADDRESS",
        help="Compute on the nodes of a running Ray cluster: auto (that of this host) or HOST:PORT; docs/cluster.md.",
    ),
    click.option(
        "--ray-wait",
        type=click.FloatRange(min=0),
        default=DEFAULT_RAY_MINUTES,
        show_default=True,
        metavar="MINUTES",
        help="With --ray, wait this long for a node when there is none.",
    ),
]

_RUN = [
    click.option(
        "--resume/--no-resume",
        default=True,
        show_default=True,
        help="Continue an interrupted run with the same input, settings and model.",
    ),
    click.option(
        "--work-dir",
        type=OutputPath(file_okay=False),
        metavar="DIR",
        help="Folder for work files, for example on a fast disk; default: beside the result. Removed at the end.",
    ),
]

_MESSAGES = [
    click.option("-q", "--quiet", is_flag=True, help="Show errors only."),
    click.option(
        "--log-format",
        type=click.Choice(["text", "json"]),
        default="text",
        show_default=True,
        help="Format of the messages on stderr: text, or one JSON object per line.",
    ),
]


def run_options(sequences_per_file: int) -> Callable[[Command], Command]:
    """Add the options for devices, the run and messages to a command, in this order."""
    per_file = click.option(
        "--sequences-per-file",
        type=click.IntRange(min=1),
        default=sequences_per_file,
        show_default=True,
        help="Largest number of sequences, or open frames, in a work file, the unit of work and of resuming.",
    )
    options: list[Option] = [*_DEVICES, *_CLUSTER, *_RUN, per_file, *_MESSAGES]

    def give(command: Command) -> Command:
        for option in reversed(options):
            command = option(command)
        return command

    return give
