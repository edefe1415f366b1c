"""The settings of a run: frozen, and checked where they are made, so that Python and the command line agree."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any, get_args, get_type_hints

from msgspec import Meta, convert

from virnucpro.errors import UsageError
from virnucpro.input.windows import DEFAULT_SIZE

#: The name of standard input as an input.
STDIN = Path("-")

DEFAULT_MODEL = "dnabert-mini"
DEFAULT_PROTEIN_MODEL = "esm2-mini"
DEFAULT_CODON_MODEL = "codon-mini"
DEFAULT_MODEL_SET = "mini"
DEFAULT_MAX_TOKENS = 8192
DEFAULT_SEQUENCES_PER_FILE = 10_000
#: Of open frames: results of whole work files are held when they are joined and scored.
DEFAULT_FRAMES_PER_FILE = 2_000
DTYPES = ("auto", "fp32", "bf16", "fp16", "fp8")

#: More would not fit into any memory, or start more threads than any machine has.
MOST_TOKENS, MOST_THREADS = 1 << 24, 1 << 10
MOST_SEED = 2**63 - 1
MOST_PIECES = 100_000


def whole(least: int, most: int | None = None) -> Meta:
    """A whole number from `least` to `most`, if there is one."""
    return Meta(
        ge=least,
        le=most,
        description=f"a whole number {f'of at least {least}' if most is None else f'from {least} to {most}'}",
    )


def number(low: float, high: float | None = None) -> Meta:
    """A finite number from `low` to `high`, if there is one."""
    end = "" if high is None else f" to {high}"
    return Meta(ge=low, le=high or sys.float_info.max, description=f"a number from {low}{end}")


def above(low: float, high: float | None = None) -> Meta:
    """The same without `low` itself."""
    end = "" if high is None else f" to {high}"
    return Meta(gt=low, le=high or sys.float_info.max, description=f"a number above {low}{end}")


def one_of(*words: str) -> Meta:
    """One of these words."""
    choices = {"choices": words}
    return Meta(pattern=rf"^({'|'.join(words)})\Z", extra=choices, description=f"one of {', '.join(words)}")


APath = Annotated[Path, Meta(description="a path")]
Paths = Annotated[tuple[Path, ...], Meta(min_length=1, description="a list of paths, of one at least")]
Text = Annotated[str, Meta(pattern="^[^\0]+$", description="text")]
_PREFIX = "the beginning of a file name (the folder is named by output)"
Prefix = Annotated[str, Meta(pattern=r"^(?!\.{1,2}$)[^/\0]+$", description=_PREFIX)]
Devices = Annotated[str, Meta(min_length=1, description="auto, cpu, cuda, or GPU numbers such as 0,2")]
_ADDRESS = r"^(auto|[^\s:/]+:\d{1,5}|\[[0-9a-fA-F:]+\]:\d{1,5})\Z"
Address = Annotated[str, Meta(pattern=_ADDRESS, description="auto or HOST:PORT")]
Switch = Annotated[bool, Meta(description="True or False")]
Count = Annotated[int, whole(1)]
Tokens = Annotated[int, whole(1, MOST_TOKENS)]
Score = Annotated[float, number(0, 1)]
Share = Annotated[float, above(0, 0.5)]


@dataclass(frozen=True)
class Settings:
    """Checks each field by its annotation when it is made. Raises UsageError for an invalid value."""

    @property
    def described(self) -> dict[str, str]:
        """Each setting as text, for the run record; without the inputs, which it describes separately."""
        return {field.name: str(getattr(self, field.name)) for field in fields(self) if field.name != "inputs"}

    def __post_init__(self) -> None:
        for field, hint in get_type_hints(type(self), include_extras=True).items():
            kind, meta = annotation(hint)
            try:
                value = convert(_plain(getattr(self, field), kind), hint, dec_hook=_path)
                object.__setattr__(self, field, value)
            except (ValueError, TypeError, OverflowError) as error:
                raise UsageError(f"{field} must be {meta.description}, not {getattr(self, field)!r}") from error


def annotation(hint: Any) -> tuple[Any, Meta]:
    """The type of a setting, without None, and its other requirements."""
    annotated = hint if hasattr(hint, "__metadata__") else get_args(hint)[0]
    return annotated.__origin__, annotated.__metadata__[0]


def _plain(value: Any, kind: Any) -> Any:
    """A value of NumPy or the like as a value of Python; a path as text, for the name of a model."""
    if isinstance(value, bool):
        return value
    if kind is int and hasattr(value, "__index__"):
        return value.__index__()
    if kind is float and hasattr(value, "__float__"):
        return float(value)
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, str):
        return str(value)
    return tuple(value) if isinstance(value, Iterable) else value


def _path(_kind: Any, value: Any) -> Path:
    if not isinstance(value, str | os.PathLike) or not os.fspath(value) or "\0" in str(value):
        raise ValueError("no path")
    return Path(value)


@dataclass(frozen=True)
class RunConfig(Settings):
    """The settings of every command that embeds; the help of the commands explains each.

    Paths may be given as text, GPUs as numbers. Raises UsageError for a value that makes no sense.
    """

    inputs: Paths
    #: What the results are named after.
    output: APath
    models_dir: APath | None = None
    device: Devices = "auto"
    batch_size: Tokens | None = None
    dtype: Annotated[str, one_of(*DTYPES)] = "auto"
    sequences_per_file: Count = DEFAULT_SEQUENCES_PER_FILE
    work_dir: APath | None = None
    resume: Switch = True
    force: Switch = False
    threads: Annotated[int, whole(1, MOST_THREADS)] | None = None
    stall_minutes: Annotated[float, above(0)] = 30.0  # a batch of long sequences may take as long on a CPU
    ray: Address | None = None
    ray_wait: Annotated[float, number(0)] = 10.0  # for another node of a cluster after the last one has gone

    def __post_init__(self) -> None:
        if isinstance(self.device, int) and not isinstance(self.device, bool) and self.device >= 0:
            object.__setattr__(self, "device", str(self.device))  # a GPU by its number alone
        super().__post_init__()
        if self.ray is not None and self.device not in ("auto", "cpu", "cuda"):
            raise UsageError(
                f"--device {self.device}: on a cluster, all devices of the nodes are used", hint="use auto, cpu or cuda"
            )


@dataclass(frozen=True)
class EmbedConfig(RunConfig):
    """The settings of `virnucpro embed`: `output` is the file of embeddings."""

    model: Text = DEFAULT_MODEL
    max_tokens: Annotated[int, whole(16, MOST_TOKENS)] = DEFAULT_MAX_TOKENS


@dataclass(frozen=True)
class TrainConfig(RunConfig):
    """The settings of `virnucpro train`: `output` is the folder of the classifier.

    virus: how many of the inputs are viral; they come first.
    model_set: a set or the folder of a classifier, whose encoders are used. window: bases. validation_fraction,
    test_fraction: of the windows of each class. group_by: a table of record ids and groups, which are never divided
    between the parts; None: every record is a group. dna_only_head: also fit a network for windows without an open
    frame.
    """

    sequences_per_file: Count = DEFAULT_FRAMES_PER_FILE
    virus: Count = 1
    model_set: Text = DEFAULT_MODEL_SET
    window: Count = DEFAULT_SIZE
    validation_fraction: Share = 0.1
    test_fraction: Share = 0.1
    group_by: APath | None = None
    dna_only_head: Switch = False
    epochs: Count = 200
    patience: Count = 5
    learning_rate: Annotated[float, above(0)] = 1e-3
    seed: Annotated[int, whole(0, MOST_SEED)] = 1


@dataclass(frozen=True)
class PredictConfig(RunConfig):
    """The settings of `virnucpro predict`: `output` is the folder of the results.

    prefix: of the results' names; None: the name of the first input. window: bases; None: the length that the
    classifier was trained on. min_score: the lowest score at which a window or a sequence is called viral; None: those
    of `preset`, a name in the classifier's card, or its default ones. min_length: shorter sequences are listed but not
    scored; None: the shortest length that the classifier was measured on. viral_share: of the sequences, for the
    expected number of false calls; None: estimated. exact: frames without the extra base of the published rule.
    """

    sequences_per_file: Count = DEFAULT_FRAMES_PER_FILE
    prefix: Prefix | None = None
    model: Text = DEFAULT_MODEL_SET
    window: Count | None = None
    min_score: Score | None = None
    preset: Text | None = None
    min_length: Annotated[int, whole(0)] | None = None
    viral_share: Score | None = None
    exact: Switch = False
    vanilla_output: Switch = False
    keep_embeddings: Switch = False
    report: Switch = False


@dataclass(frozen=True)
class SplitConfig(Settings):
    """The settings of `virnucpro split`: `output` is the folder of the pieces.

    Either pieces: how many, with about the same number of letters each; or bases: letters of a piece. protein: the
    inputs are proteins.
    """

    inputs: Paths
    output: APath
    pieces: Annotated[int, whole(1, MOST_PIECES)] | None = None
    bases: Count | None = None
    protein: Switch = False
    force: Switch = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if (self.pieces is None) == (self.bases is None):
            raise UsageError("one way to split must be given", hint="give either the number of pieces or their bases")


@dataclass(frozen=True)
class MergeConfig(Settings):
    """The settings of `virnucpro merge`.

    pieces: the folder that `split` made; output: a folder for the results of `predict`, or a file for those of `embed`;
    prefix: of the names in the folder; None: the name of the first input.
    """

    pieces: APath
    output: APath
    prefix: Prefix | None = None
    models_dir: APath | None = None
    force: Switch = False


@dataclass(frozen=True)
class OrfsConfig(Settings):
    """The settings of `virnucpro orfs`: `output` is the prefix of the results' names; window: bases."""

    inputs: Paths
    output: APath
    window: Count = DEFAULT_SIZE
    exact: Switch = False
    force: Switch = False
