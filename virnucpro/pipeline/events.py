"""What a worker tells its parent while it runs, and a run its listener. Small, picklable, nothing of torch."""

from __future__ import annotations

from collections.abc import Callable
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


@dataclass(frozen=True)
class Phase:
    """A stage of a run begins; `total` sequences are ahead of it, `done` of them from an earlier run."""

    name: str
    total: int = 0
    done: int = 0
    workers: tuple[str, ...] = ()


#: A listener for progress: the index of a worker and one of its events, or -1 and a `Phase`.
Listener = Callable[[int, object], None]
