"""Messages between workers, their parent and a run's listener: small, picklable, without torch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from logging import LogRecord
from pathlib import Path
from typing import Literal, Protocol

from virnucpro.errors import DeviceError, VirnucproError

#: Parent → worker, in a stream of files: there is none now, so finish the open batches and ask again.
FLUSH = None

#: Parent → worker: there is nothing more, return.
STOP: Literal["stop"] = "stop"

#: The answer to a request: a file, FLUSH, or STOP.
Answer = Path | None | Literal["stop"]

# Worker → parent, and on to the listener.


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


@dataclass(frozen=True)
class FileFailed:
    """A work file failed. `out_of_memory`: of this device, so that another may succeed."""

    path: Path
    reason: str
    out_of_memory: bool = False


Event = Ready | Progress | FileDone | FileFailed


# Worker → parent only.


@dataclass(frozen=True)
class Request:
    """The worker is ready for a file."""


@dataclass(frozen=True)
class Crashed:
    """The worker ends because of an unexpected error."""

    traceback: str

    @property
    def reason(self) -> str:
        """The kind of error and the first line of its message, since CUDA's messages have several."""
        last = self.traceback.rpartition("Traceback (most recent call last):\n")[2]
        return next((line for line in last.splitlines() if line and not line.startswith(" ")), "")


@dataclass(frozen=True)
class Unusable:
    """No worker can do this run on my device."""

    error: DeviceError


@dataclass(frozen=True)
class Fatal:
    """No worker can do this run anywhere."""

    error: VirnucproError


# Launcher → schedule.


@dataclass(frozen=True)
class Died:
    """A worker has ended, for whatever reason."""

    cause: str


@dataclass(frozen=True)
class Lost:
    """The host of this slot is gone for good, with its worker if it had one."""

    cause: str


@dataclass(frozen=True)
class Joined:
    """A new slot on this device, with the next number."""

    device: str


Message = Event | Request | Crashed | Unusable | Fatal | Died | Lost | Joined


class EventSink(Protocol):
    """Takes events: a `multiprocessing.Queue`, or anything else with a `put`."""

    def put(self, item: Message | LogRecord, /) -> None:
        """Take one event, or a log record."""


@dataclass(frozen=True)
class Phase:
    """A stage of a run begins with `total` sequences, `done` of them by an earlier run.

    unit: what is counted, if not sequences; workers: their devices.
    """

    name: str
    total: int = 0
    done: int = 0
    workers: tuple[str, ...] = ()
    unit: str = "sequences"


@dataclass(frozen=True)
class Step:
    """A phase without workers has done one of its units; note: the result, in words."""

    note: str = ""


#: What a listener receives.
Heard = Event | Phase | Step

#: A listener for progress: the index of a worker and one of its events, or None and a `Phase` or `Step` of the run.
Listener = Callable[[int | None, Heard], None]


def unheard(worker: int | None, event: Heard) -> None:
    """A listener that ignores everything."""
