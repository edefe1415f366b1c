"""Options, with defaults and types from the settings of a run, and those that several commands share."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

import rich_click as click
from msgspec import Meta
from rich_click.utils import OptionGroupDict

from virnucpro.runs.config import Settings, annotation

Command = TypeVar("Command", bound=Callable[..., Any])

inputs_argument = click.argument(
    "inputs", metavar="INPUT...", nargs=-1, required=True, type=click.Path(path_type=Path, allow_dash=True)
)


class OutputPath(click.Path):
    """A path for results. An empty one is refused, since it would mean the current folder."""

    def __init__(self, *, file_okay: bool = True) -> None:
        super().__init__(path_type=Path, file_okay=file_okay)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The path that a user has typed."""
        if value == "":
            self.fail("it is empty", param, ctx)
        return super().convert(value, param, ctx)


class Option:
    """An option that is not yet part of a command; `details` are those of Click."""

    def __init__(self, *names: str, help: str, **details: Any) -> None:
        self.names, self.details = names, {"help": help, **details}

    @property
    def flag(self) -> str:
        """Its long name."""
        return next(name for name in self.names if name.startswith("--")).partition("/")[0]

    def of(self, settings: type[Settings] = Settings) -> Callable[[Command], Command]:
        """The option of a command; default and type are those of the setting with its name, if there is one."""
        name = self.names[-1].lstrip("-").partition("/")[0].replace("-", "_")
        return click.option(*self.names, **(_of_setting(settings, name) | self.details))


def _of_setting(settings: type[Settings], name: str) -> dict[str, Any]:
    """Click's details of an option, from its setting: whether it is required, default, type."""
    setting = next((field for field in fields(settings) if field.name == name), None)
    if setting is None:
        return {}
    if setting.default is MISSING:
        return {"required": True}
    kind, meta = annotation(get_type_hints(settings, include_extras=True)[name])
    return {"default": setting.default, "show_default": True} | _type(kind, meta)


def _type(kind: Any, meta: Meta) -> dict[str, Any]:
    """The type by which Click checks the same as a setting."""
    if kind is bool:
        return {"is_flag": True}
    if meta.extra:
        return {"type": click.Choice(meta.extra["choices"])}
    if kind is int:
        return {"type": click.IntRange(min=meta.ge)}  # type: ignore[arg-type]
    if kind is float:
        high = meta.le if meta.le != sys.float_info.max else None
        return {"type": click.FloatRange(meta.ge if meta.gt is None else meta.gt, high, min_open=meta.gt is not None)}
    return {"type": click.Path(path_type=Path, file_okay=False) if kind is Path else str}


def options(
    panels: Mapping[str, Sequence[Option]], settings: type[Settings] = Settings
) -> Callable[[Command], Command]:
    """Give a command its options, in the panels of its help; settings: those that it makes from them."""

    def give(command: Command) -> Command:
        shown = {name: [option.flag for option in panel] for name, panel in panels.items()}
        shown["Messages"].append("--help")
        groups = [OptionGroupDict(name=name, options=flags) for name, flags in shown.items()]
        click.rich_click.OPTION_GROUPS[f"virnucpro {command.__name__}"] = groups
        for option in reversed([option for panel in panels.values() for option in panel]):
            command = option.of(settings)(command)
        return command

    return give


def output(metavar: str, help: str, file_okay: bool = True, **details: Any) -> Option:
    """The option for the place of the results."""
    return Option("-o", "--output", type=OutputPath(file_okay=file_okay), metavar=metavar, help=help, **details)


QUIET = Option("-q", "--quiet", is_flag=True, help="Show errors only.")
FORCE = Option("--force", help="Overwrite existing results.")
PREFIX = Option("-p", "--prefix", help="Prefix of the results' file names; default: the name of the first input.")
FRAMES = Option(
    "--frames",
    "exact",
    is_flag=False,
    type=click.Choice(["published", "exact"]),
    default="published",
    show_default=True,
    callback=lambda _context, _option, value: value == "exact",
    help="published: the DNA of a frame includes one base after its last codon, if there is one, as in the published "
    "tool. exact: it does not.",
)
MODELS_DIR = Option(
    "--models-dir",
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder of models, one subfolder each; searched before $VIRNUCPRO_MODELS and the Hub cache.",
)

#: The last panels of every command that embeds.
RUN: Mapping[str, Sequence[Option]] = {
    "Devices and speed": [
        Option(
            "-d",
            "--device",
            help="auto (all visible GPUs, or else the CPU), cpu, cuda (all visible GPUs), or a list of GPU numbers "
            "such as 0,2, counted within CUDA_VISIBLE_DEVICES. An entry given twice (cpu,cpu or 0,0) starts two "
            "workers.",
        ),
        Option(
            "--dtype",
            help="Number format of the networks. auto: bf16 if every device supports it, else fp32. fp16: GPUs only. "
            "fp8: matrix products of ESM-2 in FP8, all else in bf16; GPUs of compute capability 8.9 or higher.",
        ),
        Option(
            "--batch-size",
            metavar="TOKENS",
            help="Tokens per batch, rounded up to a multiple of 256; default: as suits the devices and the models. A "
            "run says at its start what it uses.",
        ),
        Option("-t", "--threads", help="CPU threads for the whole run, with --ray on each node; default: all."),
        Option(
            "--stall-minutes",
            metavar="MINUTES",
            help="Replace a worker process that has been silent for this long; large work files get more time.",
        ),
    ],
    "Cluster": [
        Option(
            "--ray",
            metavar="ADDRESS",
            help="Compute on the nodes of a running Ray cluster: auto (that of this host) or HOST:PORT; "
            "docs/cluster.md.",
        ),
        Option("--ray-wait", metavar="MINUTES", help="With --ray, wait this long for a node when there is none."),
    ],
    "Run": [
        Option("--resume/--no-resume", help="Continue an interrupted run with the same input, settings and model."),
        Option(
            "--work-dir",
            type=OutputPath(file_okay=False),
            metavar="DIR",
            help="Folder for work files, for example on a fast disk; default: beside the result. Removed at the end.",
        ),
        Option(
            "--sequences-per-file",
            help="Largest number of sequences, or open frames, in a work file, the unit of work and of resuming.",
        ),
    ],
    "Messages": [
        QUIET,
        Option(
            "--log-format",
            type=click.Choice(["text", "json"]),
            default="text",
            show_default=True,
            help="Format of the messages on stderr: text, or one JSON object per line.",
        ),
    ],
}
