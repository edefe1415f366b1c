"""The settings of a run, frozen."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

#: Standard input, as an input's name.
STDIN = Path("-")

DEFAULT_MODEL = "dnabert-mini"
DEFAULT_PROTEIN_MODEL = "esm2-mini"
DEFAULT_MAX_TOKENS = 8192
DEFAULT_SEQUENCES_PER_FILE = 10_000


@dataclass(frozen=True)
class EmbedConfig:
    """What `virnucpro embed` was asked for; the options of the command explain each."""

    inputs: tuple[Path, ...]
    output: Path
    model: str = DEFAULT_MODEL
    models_dir: Path | None = None
    device: str = "auto"
    batch_size: int | None = None
    dtype: str = "auto"
    sequences_per_file: int = DEFAULT_SEQUENCES_PER_FILE
    max_tokens: int = DEFAULT_MAX_TOKENS
    work_dir: Path | None = None
    resume: bool = True
    force: bool = False
    threads: int | None = None
