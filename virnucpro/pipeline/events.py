"""What a worker tells its parent while it runs. Small, picklable, nothing of torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol


@dataclass(frozen=True)
class Ready:
    """The model is loaded and work begins."""


@dataclass(frozen=True)
class Progress:
    """One batch is done: what it held, and how long the device was busy with it."""

    sequences: int
    tokens: int
    busy_seconds: float


@dataclass(frozen=True)
class FileDone:
    """A work file's result is on disk."""

    path: Path
    output: Path
    sequences: int


@dataclass(frozen=True)
class FileFailed:
    """A work file came to nothing."""

    path: Path
    reason: str


class EventSink(Protocol):
    """Takes events: a `multiprocessing.Queue`, or anything with its `put`."""

    def put(self, item: object, /) -> None:
        """Take one event."""
