"""The settings of a run: frozen, and checked where they are made, so that Python and the command line agree."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, get_args, get_type_hints

from virnucpro.errors import UsageError
from virnucpro.input.windows import DEFAULT_SIZE

#: Standard input, as an input's name.
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

#: More would not fit any memory there is, or start more threads than any machine has.
MOST_TOKENS, MOST_THREADS = 1 << 24, 1 << 10
MOST_SEED = 2**63 - 1
MOST_PIECES = 100_000

#: The value of a setting as it is kept; raises ValueError, which says what it must be.
Check = Callable[[Any], Any]


@dataclass(frozen=True)
class Whole:
    """A whole number from `least` on."""

    least: int
    most: int | None = None

    def __call__(self, value: Any) -> int:
        """The number."""
        fits = hasattr(value, "__index__") and not isinstance(value, bool) and self.least <= value.__index__()
        if not fits or (self.most is not None and value.__index__() > self.most):
            raise ValueError(f"a whole number from {self.least} {'on' if self.most is None else f'to {self.most}'}")
        return int(value.__index__())


@dataclass(frozen=True)
class Number:
    """A finite number from `low` (itself too, unless `open_low`) to `high`."""

    low: float
    high: float = math.inf
    open_low: bool = False

    def __call__(self, value: Any) -> float:
        """The number."""
        found = float(value) if hasattr(value, "__float__") and not isinstance(value, bool) else math.nan
        if not self.low <= found <= self.high or math.isinf(found) or (self.open_low and found == self.low):
            end = "" if math.isinf(self.high) else f" to {self.high}"
            raise ValueError(f"a number {'above' if self.open_low else 'from'} {self.low}{end}")
        return found


@dataclass(frozen=True)
class OneOf:
    """One of these words."""

    choices: tuple[str, ...]

    def __call__(self, value: Any) -> str:
        """The word."""
        if value not in self.choices:
            raise ValueError(f"one of {', '.join(self.choices)}")
        return str(value)


def yes_or_no(value: Any) -> bool:
    """A switch."""
    if not isinstance(value, bool):
        raise ValueError("True or False")
    return value


def path(value: Any) -> Path:
    """A path, also as text."""
    if not isinstance(value, str | os.PathLike) or not os.fspath(value) or "\0" in str(value):
        raise ValueError("a path")
    return Path(value)


def paths(value: Any) -> tuple[Path, ...]:
    """One path at least."""
    if isinstance(value, str | os.PathLike) or not isinstance(value, Iterable):
        raise ValueError("a list of paths")
    if not (found := tuple(map(path, value))):
        raise ValueError("at least one path")
    return found


def text(value: Any) -> str:
    """A word, such as the name of a model."""
    if not isinstance(value, str) or not value or "\0" in value:
        raise ValueError("text")
    return value


def name(value: Any) -> str:
    """A model by its name, or by its path."""
    return text(os.fspath(value) if isinstance(value, os.PathLike) else value)


def device(value: Any) -> str:
    """Devices as `--device` has them; a GPU also by its number alone."""
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return str(value)
    if not isinstance(value, str) or not value:
        raise ValueError("auto, cpu, cuda, or GPU numbers such as 0,2")
    return value


def cluster(value: Any) -> str:
    """The address of a Ray cluster."""
    if not isinstance(value, str) or not re.fullmatch(r"auto|[^\s:/]+:\d{1,5}|\[[0-9a-fA-F:]+\]:\d{1,5}", value):
        raise ValueError("auto or HOST:PORT")
    return value


def beginning_of_a_name(value: Any) -> str:
    """What names of files can begin with."""
    if not isinstance(value, str) or value in ("", ".", "..") or "\0" in value or Path(value).name != value:
        raise ValueError("the beginning of a file name (the folder is named by output)")
    return value


APath = Annotated[Path, path]
Paths = Annotated[tuple[Path, ...], paths]
Name = Annotated[str, name]
Switch = Annotated[bool, yes_or_no]
Count = Annotated[int, Whole(1)]
Tokens = Annotated[int, Whole(1, MOST_TOKENS)]
Share = Annotated[float, Number(0, 0.5, open_low=True)]


@dataclass(frozen=True)
class Settings:
    """Checks each field by its annotation as soon as all are there. Raises UsageError for a value that is none."""

    def __post_init__(self) -> None:
        for field, (check, optional) in checks(type(self)).items():
            value = getattr(self, field)
            if value is None and optional:
                continue
            try:
                object.__setattr__(self, field, check(value))
            except (ValueError, TypeError, OverflowError) as error:
                raise UsageError(f"{field} must be {error}, not {value!r}") from error


def checks(config: type[Settings]) -> dict[str, tuple[Check, bool]]:
    """By field: its check, and whether it may be None."""
    hints = get_type_hints(config, include_extras=True)
    annotated = {field: hint if hasattr(hint, "__metadata__") else get_args(hint)[0] for field, hint in hints.items()}
    return {field: (annotated[field].__metadata__[0], type(None) in get_args(hint)) for field, hint in hints.items()}


@dataclass(frozen=True)
class RunConfig(Settings):
    """What every command that embeds can be told; the options of the commands explain each.

    Paths may be given as text, GPUs as numbers. Raises UsageError for a value that makes no sense.
    """

    inputs: Paths
    #: What the results are named after.
    output: APath
    models_dir: APath | None = None
    device: Annotated[str, device] = "auto"
    batch_size: Tokens | None = None
    dtype: Annotated[str, OneOf(DTYPES)] = "auto"
    sequences_per_file: Count = DEFAULT_SEQUENCES_PER_FILE
    work_dir: APath | None = None
    resume: Switch = True
    force: Switch = False
    threads: Annotated[int, Whole(1, MOST_THREADS)] | None = None
    stall_minutes: Annotated[float, Number(0, open_low=True)] = (
        30.0  # so long may a batch of long sequences take on a CPU
    )
    ray: Annotated[str, cluster] | None = None
    ray_wait: Annotated[float, Number(0)] = 10.0  # for another node of a cluster, where the last one has gone

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.ray is not None and self.device not in ("auto", "cpu", "cuda"):
            raise UsageError(
                f"--device {self.device}: of a cluster's nodes all devices are used", hint="say auto, cpu or cuda"
            )


@dataclass(frozen=True)
class EmbedConfig(RunConfig):
    """What `virnucpro embed` was asked for: `output` is the file of embeddings."""

    model: Name = DEFAULT_MODEL
    max_tokens: Annotated[int, Whole(16, MOST_TOKENS)] = DEFAULT_MAX_TOKENS


@dataclass(frozen=True)
class TrainConfig(RunConfig):
    """What `virnucpro train` was asked for: `output` is the folder of the classifier.

    virus: so many of the inputs, the first ones, are viral.
    model: a set or the folder of a classifier, whose encoders are taken. window: bases. validation_fraction,
    test_fraction: of the windows of each class. group_by: a table of record ids and groups, which are never divided
    between the parts; None: every record is a group. dna_only: also fit a network for windows without an open frame.
    """

    sequences_per_file: Count = DEFAULT_FRAMES_PER_FILE
    virus: Count = 1
    model: Name = DEFAULT_MODEL_SET
    window: Count = DEFAULT_SIZE
    validation_fraction: Share = 0.1
    test_fraction: Share = 0.1
    group_by: APath | None = None
    dna_only: Switch = False
    epochs: Count = 200
    patience: Count = 5
    learning_rate: Annotated[float, Number(0, open_low=True)] = 1e-3
    seed: Annotated[int, Whole(0, MOST_SEED)] = 1


@dataclass(frozen=True)
class PredictConfig(RunConfig):
    """What `virnucpro predict` was asked for: `output` is the folder of the results.

    prefix: how the results' names begin; None takes the first input's name. window: bases; None takes what the
    classifier was trained on. min_score: from which a window, or a sequence, counts as viral; None takes those of
    `preset`, a name in the classifier's card, or what the card says. min_length: shorter sequences are listed and not
    scored; None takes what the classifier was measured from. viral_share: of the sequences, for the expected number of
    false calls; None estimates it. exact: frames without the extra base of the published rule.
    """

    sequences_per_file: Count = DEFAULT_FRAMES_PER_FILE
    prefix: Annotated[str, beginning_of_a_name] | None = None
    model: Name = DEFAULT_MODEL_SET
    window: Count | None = None
    min_score: Annotated[float, Number(0, 1)] | None = None
    preset: Annotated[str, text] | None = None
    min_length: Annotated[int, Whole(0)] | None = None
    viral_share: Annotated[float, Number(0, 1)] | None = None
    exact: Switch = False
    vanilla_output: Switch = False
    keep_embeddings: Switch = False
    report: Switch = False


@dataclass(frozen=True)
class SplitConfig(Settings):
    """What `virnucpro split` was asked for: `output` is the folder of the pieces.

    pieces: how many, of about the same number of letters; bases: letters of a piece; one of both. protein: the inputs
    are proteins.
    """

    inputs: Paths
    output: APath
    pieces: Annotated[int, Whole(1, MOST_PIECES)] | None = None
    bases: Count | None = None
    protein: Switch = False
    force: Switch = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if (self.pieces is None) == (self.bases is None):
            raise UsageError("one way to split must be given", hint="give either the number of pieces or their bases")


@dataclass(frozen=True)
class MergeConfig(Settings):
    """What `virnucpro merge` was asked for.

    pieces: the folder that `split` made; output: a folder for the results of `predict`, or a file for those of `embed`;
    prefix: how names in the folder begin; None takes the first input's name.
    """

    pieces: APath
    output: APath
    prefix: Annotated[str, beginning_of_a_name] | None = None
    models_dir: APath | None = None
    force: Switch = False


@dataclass(frozen=True)
class OrfsConfig(Settings):
    """What `virnucpro orfs` was asked for: `output` is how the results' names begin; window: bases."""

    inputs: Paths
    output: APath
    window: Count = DEFAULT_SIZE
    exact: Switch = False
    force: Switch = False
