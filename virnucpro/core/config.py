"""The settings of a run, frozen."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

#: Standard input, as an input's name.
STDIN = Path("-")

DEFAULT_MODEL = "dnabert-mini"
DEFAULT_PROTEIN_MODEL = "esm2-mini"
DEFAULT_MODEL_SET = "mini"
DEFAULT_MAX_TOKENS = 8192
DEFAULT_SEQUENCES_PER_FILE = 10_000
#: Of open frames: results of whole work files are held when they are joined and scored.
DEFAULT_FRAMES_PER_FILE = 2_000
#: A batch of long sequences on a CPU may take this long.
DEFAULT_STALL_MINUTES = 30.0


@dataclass(frozen=True)
class RunConfig:
    """What every command that embeds can be told; the options of the commands explain each."""

    inputs: tuple[Path, ...]
    #: What the results are named after.
    output: Path
    models_dir: Path | None = None
    device: str = "auto"
    batch_size: int | None = None
    dtype: str = "auto"
    sequences_per_file: int = DEFAULT_SEQUENCES_PER_FILE
    work_dir: Path | None = None
    resume: bool = True
    force: bool = False
    threads: int | None = None
    stall_minutes: float = DEFAULT_STALL_MINUTES


@dataclass(frozen=True)
class EmbedConfig(RunConfig):
    """What `virnucpro embed` was asked for: `output` is the file of embeddings."""

    model: str = DEFAULT_MODEL
    max_tokens: int = DEFAULT_MAX_TOKENS


@dataclass(frozen=True)
class TrainConfig(RunConfig):
    """What `virnucpro train` was asked for: `output` is the folder of the classifier.

    virus: so many of the inputs, the first ones, are viral.
    model: a set or the folder of a classifier, whose encoders are taken. window: bases. validation_fraction,
    test_fraction: of the windows of each class. group_by: a table of record ids and groups, which are never divided
    between the parts; None: every record is a group. dna_only: also fit a network for windows without an open frame.
    """

    sequences_per_file: int = DEFAULT_FRAMES_PER_FILE
    virus: int = 1
    model: str = DEFAULT_MODEL_SET
    window: int = 500
    validation_fraction: float = 0.1
    test_fraction: float = 0.1
    group_by: Path | None = None
    dna_only: bool = False
    epochs: int = 200
    patience: int = 5
    learning_rate: float = 1e-3
    seed: int = 1


@dataclass(frozen=True)
class PredictConfig(RunConfig):
    """What `virnucpro predict` was asked for: `output` is the folder of the results.

    prefix: how the results' names begin; None takes the first input's name. window: bases; None takes what the
    classifier was trained on. min_score: from which a window, or a sequence, counts as viral; None takes those of
    `preset`, a name in the classifier's card, or what the card says. min_length: shorter sequences are listed and not
    scored; None takes what the classifier was measured from. viral_share: of the sequences, for the expected number of
    false calls; None estimates it. exact: frames without the extra base of the published rule.
    """

    sequences_per_file: int = DEFAULT_FRAMES_PER_FILE
    prefix: str | None = None
    model: str = DEFAULT_MODEL_SET
    window: int | None = None
    min_score: float | None = None
    preset: str | None = None
    min_length: int | None = None
    viral_share: float | None = None
    exact: bool = False
    vanilla_output: bool = False
    keep_embeddings: bool = False
    report: bool = False
