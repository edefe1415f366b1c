"""Which worker computes which file, and what happens when one dies: the policy of a run, without I/O or a clock.

A slot is a place for one worker on a device. `Schedule.on` takes the messages of a worker, or its end, and returns
orders for a launcher (`pipeline/launch_local.py`); `pipeline/work_queue.py` passes them between both. The rules:

- Files start in bin-packed lists, each in input order, so that results can be taken in that order while others are
  still being made. A slot whose list is empty takes from the longest remaining list.
- A file that a worker held when it died is a suspect. It is tried again when all other files are done, alone, on a
  device where it has not died yet if there is one. After two deaths, on two devices if there are two, it is given up. A
  file for which a device had no memory is tried on another device in the same way.
- A worker that replaces a dead one first gets a single small file, which shows whether the device still works. A slot
  is retired after three deaths in a row without a finished file in between; retried suspects do not count.
- A worker that has work and says nothing for longer than the stall limit is killed, which counts as a death.
- A host that goes away is nobody's fault, up to five times per file. If no slot is left, the run waits for another
  host.
"""

from __future__ import annotations

import logging
import math
from collections import Counter, deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from virnucpro.errors import DeviceError
from virnucpro.pipeline.events import (
    FLUSH,
    STOP,
    Answer,
    Crashed,
    Died,
    Event,
    Fatal,
    FileDone,
    FileFailed,
    Joined,
    Lost,
    Message,
    Progress,
    Ready,
    Request,
    Unusable,
)

#: Deaths after which a file is given up, and deaths in a row after which a slot is retired.
DEATHS_OF_A_FILE, DEATHS_OF_A_SLOT = 2, 3

#: How many hosts may go away while they hold a file; any more count as deaths.
LOSSES_OF_A_FILE = 5

#: A busy worker counts as hung after so many seconds of silence at least, and after so many times what its files take
#: at its rate until then, with each letter counted as a token.
STALL_SECONDS, STALL_FACTOR = 1800.0, 10.0

#: Seconds for a worker to end by itself, once it was told to or has said that it will.
GRACE_SECONDS = 30.0

#: More seconds between two ticks mean that this host was asleep, or this job suspended.
SLEPT_SECONDS = 60.0


@dataclass(frozen=True)
class Start:
    """Start a worker in the slot."""

    slot: int


@dataclass(frozen=True)
class Reply:
    """Answer the worker's request."""

    slot: int
    answer: Answer


@dataclass(frozen=True)
class Kill:
    """End the worker by force."""

    slot: int


@dataclass(frozen=True)
class Tell:
    """Tell the run's listener."""

    slot: int
    event: Event


@dataclass(frozen=True)
class Note:
    """Write to the log, at a level of `logging`."""

    level: int
    text: str


Order = Start | Reply | Kill | Tell | Note


@dataclass
class DeviceStats:
    """What one slot did, for the record of the balance; seconds: from its first worker's Ready to its last file."""

    device: str
    files: int = 0
    sequences: int = 0
    tokens: int = 0
    busy_seconds: float = 0.0
    seconds: float = 0.0

    @property
    def busy_share(self) -> float:
        """Share of the time in which the device computed."""
        return self.busy_seconds / self.seconds if self.seconds else 0.0


@dataclass
class QueueResult:
    """How each file ended, and what each slot did."""

    done: dict[Path, Path] = field(default_factory=dict)
    failed: dict[Path, str] = field(default_factory=dict)
    stats: list[DeviceStats] = field(default_factory=list)


@dataclass
class _Slot:
    """A place on a device, its list of files, and its current worker."""

    index: int
    stats: DeviceStats
    files: deque[Path]
    #: Sequences in `files`.
    left: int
    retired: bool = False
    #: In a row, without a finished file in between.
    deaths: int = 0
    #: When its first worker was ready.
    ready_since: float | None = None
    #: Whether there is a worker, and whether it has started, was told to flush, was told to stop.
    alive: bool = False
    ready: bool = False
    flushed: bool = False
    stopped: bool = False
    held: dict[Path, None] = field(default_factory=dict)
    #: When it sent its last message; why it is ending, once that is known.
    heard: float = 0.0
    cause: str = ""

    @property
    def device(self) -> str:
        return self.stats.device

    def begin(self, now: float) -> None:
        """A worker is started."""
        self.alive, self.heard, self.cause = True, now, ""
        self.ready = self.flushed = self.stopped = False


class Schedule:
    """One run of files over slots.

    devices: that of each slot; lists: the files planned for each; counts: sequences of each file; letters: its size;
    stall_seconds: the least silence after which a busy worker counts as hung; wait_seconds: how long to wait for
    another host once the last one has gone.
    """

    def __init__(
        self,
        devices: Sequence[str],
        lists: Sequence[Iterable[Path]],
        counts: Mapping[Path, int],
        letters: Mapping[Path, int] | None = None,
        stall_seconds: float = STALL_SECONDS,
        wait_seconds: float = 0.0,
    ) -> None:
        self.counts, self.letters = counts, letters or {}
        self.stall_seconds, self.wait_seconds = stall_seconds, wait_seconds
        self.slots = [
            _Slot(index, DeviceStats(device), deque(files), sum(counts[path] for path in files))
            for index, (device, files) in enumerate(zip(devices, map(list, lists), strict=True))
        ]
        #: Files that no worker has had yet, and the number of files that have not ended.
        self.fresh = self.open = sum(len(slot.files) for slot in self.slots)
        #: Files to be tried again, and the devices on which each has failed.
        self.suspects: deque[Path] = deque()
        self.tried: dict[Path, list[str]] = {}
        #: How many hosts went away with each file, and when the last host did.
        self.losses: Counter[Path] = Counter()
        self.lost_at = 0.0
        #: Slots that are not retired, by device.
        self.usable = Counter(devices)
        #: Slots whose worker waits for an answer, slots that could have a worker but have none, and the number of
        #: workers.
        self.hungry: dict[int, _Slot] = {}
        self.down = {slot.index: slot for slot in self.slots}
        self.alive = 0
        self.result = QueueResult(stats=[slot.stats for slot in self.slots])
        self.last_tick = 0.0
        self._orders: list[Order] = []

    @property
    def ended(self) -> bool:
        """Whether every file has ended and every worker is gone."""
        return not self.open and not self.alive

    def begin(self, now: float) -> list[Order]:
        """The first orders, at the time `now` in seconds."""
        self.last_tick = now
        return self._settle(now)

    def on(self, index: int, message: Message, now: float) -> list[Order]:
        """Orders after a message of, or about, the worker in slot `index`.

        Raises the error of `Fatal`, and DeviceError if files are left but no slot.
        """
        if isinstance(message, Joined):
            self._join(message.device)
            return self._settle(now)
        slot = self.slots[index]
        slot.heard = now
        match message:
            case Request():
                slot.ready = True
                if not slot.cause:
                    self.hungry[index] = slot
            case Ready() | Progress() | FileDone() | FileFailed():
                self._event(slot, message, now)
            case Crashed():
                self._doom(slot, message.reason)
                self._note(logging.ERROR, f"the worker on {slot.device} crashed:\n{message.traceback.rstrip()}")
            case Unusable(error):
                self._doom(slot, str(error))
                self._retire(slot, error)
            case Fatal(error):
                raise error
            case Died(cause):
                self._died(slot, slot.cause or cause)
            case Lost(cause):
                self._lose(slot, cause, now)
        return self._settle(now)

    def tick(self, now: float) -> list[Order]:
        """Orders that depend on the time alone; call it at least every second. Raises DeviceError."""
        if now - self.last_tick < 1:
            return []
        if self.open and not self.usable and now - self.lost_at > self.wait_seconds:
            raise DeviceError(
                f"no host is left, and none joined within {self.wait_seconds / 60:.0f} min",
                hint="run the same command again when there is one: it continues from the finished work files",
            )
        slept = now - self.last_tick > SLEPT_SECONDS
        self.last_tick = now
        for slot in self.slots:
            if slot.alive and slept:
                slot.heard = now  # the workers were asleep, too
            elif slot.alive and now - slot.heard > self._patience(slot):
                self._kill(slot, f"it was silent for {now - slot.heard:.0f} s")
        return self._taken()

    # Messages of a worker.

    def _event(self, slot: _Slot, event: Event, now: float) -> None:
        match event:
            case Ready():
                slot.ready = True
                slot.ready_since = now if slot.ready_since is None else slot.ready_since
            case Progress():
                slot.stats.sequences += event.sequences
                slot.stats.tokens += event.tokens
                slot.stats.busy_seconds += event.busy_seconds
            case FileFailed(path, reason, out_of_memory=True) if path in slot.held:
                del slot.held[path]
                self._doubt(slot, path, reason, died=False)
                return
            case FileDone() | FileFailed() if event.path in slot.held:
                self._finish(slot, event)
        self._orders.append(Tell(slot.index, event))

    def _finish(self, slot: _Slot, event: FileDone | FileFailed) -> None:
        del slot.held[event.path]
        slot.deaths = 0
        self.open -= 1
        if isinstance(event, FileDone):
            slot.stats.files += 1
            self.result.done[event.path] = event.output
        else:
            self.result.failed[event.path] = event.reason

    # The end of a worker.

    def _doom(self, slot: _Slot, cause: str) -> None:
        """This worker is about to end: it gets no more files."""
        slot.cause = cause
        self.hungry.pop(slot.index, None)

    def _kill(self, slot: _Slot, cause: str) -> None:
        self._doom(slot, cause)
        slot.heard = math.inf
        self._orders.append(Kill(slot.index))

    def _died(self, slot: _Slot, cause: str) -> None:
        held, slot.held, slot.alive = slot.held, {}, False
        self.alive -= 1
        self.hungry.pop(slot.index, None)
        if not slot.retired:
            self.down[slot.index] = slot
        if slot.stopped or not self.open or (slot.retired and not held):
            return
        self._note(logging.WARNING, f"the worker on {slot.device} died ({cause})")
        if self.tried.keys().isdisjoint(held):  # otherwise the file is to blame
            slot.deaths += 1
        for path in held:
            self._doubt(slot, path, cause, died=True)
        if slot.deaths >= DEATHS_OF_A_SLOT and not slot.retired:
            self._retire(slot, DeviceError(f"{slot.deaths} workers died there without finishing a file: {cause}"))

    def _doubt(self, slot: _Slot, path: Path, why: str, died: bool) -> None:
        """A file failed in this slot: try it again, or give it up."""
        tried = self.tried.setdefault(path, [])
        tried.append(slot.device)
        everywhere = len(set(tried)) > 1 or not self._untried(path)
        if not everywhere or (died and len(tried) < DEATHS_OF_A_FILE):
            self.suspects.append(path)
            return
        if died:
            why = f"{len(tried)} workers died on it, the last on {slot.device} ({why})"
        self.open -= 1
        self.result.failed[path] = why
        self._note(logging.ERROR, f"{path} failed: {why}")
        self._orders.append(Tell(slot.index, FileFailed(path, why)))

    def _untried(self, path: Path) -> bool:
        """Whether there is a device on which this file has not failed."""
        return any(device not in self.tried[path] for device in self.usable)

    def _retire(self, slot: _Slot, error: DeviceError) -> None:
        self._close(slot)
        if self.open and not self.usable:
            if error.hint is not None:  # a worker reported it, and knows best
                raise error
            devices = ", ".join(sorted({slot.device for slot in self.slots}))
            cure = "see the log, and `virnucpro doctor`"
            raise DeviceError(f"no worker on {devices} stays alive: {error}", hint=cure)
        self._note(logging.ERROR, f"no more workers are started on {slot.device}: {error}")

    def _close(self, slot: _Slot) -> None:
        """No more workers in this slot."""
        slot.retired = True
        self.down.pop(slot.index, None)
        self.usable -= Counter([slot.device])

    def _lose(self, slot: _Slot, cause: str, now: float) -> None:
        held, slot.held = slot.held, {}
        self.lost_at = now
        self.alive -= slot.alive
        slot.alive = False
        self.hungry.pop(slot.index, None)
        if not slot.retired:
            self._close(slot)
        for path in reversed(held):
            self._return(slot, path, cause)
        if self.open:
            self._note(logging.WARNING, f"{slot.device} is gone ({cause}); its files go to others")

    def _return(self, slot: _Slot, path: Path, cause: str) -> None:
        """A file whose host went away is put back, unless this happens again and again."""
        self.losses[path] += 1
        if self.losses[path] > LOSSES_OF_A_FILE:
            self._doubt(slot, path, cause, died=True)
        elif path in self.tried:
            self.suspects.appendleft(path)
        else:
            slot.files.appendleft(path)
            slot.left += self.counts[path]
            self.fresh += 1

    def _join(self, device: str) -> None:
        slot = _Slot(len(self.slots), DeviceStats(device), deque(), 0)
        self.slots.append(slot)
        self.result.stats.append(slot.stats)
        self.usable[device] += 1
        self.down[slot.index] = slot
        self._note(logging.INFO, f"{device} has joined")

    def _patience(self, slot: _Slot) -> float:
        """Seconds for which this worker may be silent."""
        if slot.stopped or slot.cause:
            return GRACE_SECONDS
        if slot.index in self.hungry and not slot.held:
            return math.inf
        tokens, began = slot.stats.tokens, slot.ready_since
        seconds_a_token = (slot.heard - began) / tokens if tokens and began is not None else 0.0
        letters = sum(self.letters.get(path, 0) for path in slot.held)
        return max(self.stall_seconds, STALL_FACTOR * seconds_a_token * letters)

    # Orders.

    def _settle(self, now: float) -> list[Order]:
        """Answer every worker that can be answered now, and start those that are needed."""
        if self.open:
            for slot in list(self.hungry.values()):
                self._feed(slot, now)
            self._start_needed(now)
        else:
            self._dismiss(now)
        return self._taken()

    def _feed(self, slot: _Slot, now: float) -> None:
        path = self._next_file(slot)
        if path is not None:
            slot.held[path] = None
            slot.flushed = False
            self._reply(slot, path, now)
        elif slot.held and not slot.flushed:
            slot.flushed = True
            self._reply(slot, FLUSH, now)

    def _reply(self, slot: _Slot, answer: Answer, now: float) -> None:
        slot.heard = now
        del self.hungry[slot.index]
        self._orders.append(Reply(slot.index, answer))

    def _next_file(self, slot: _Slot) -> Path | None:
        alone = slot.deaths or not self.tried.keys().isdisjoint(slot.held)
        if slot.held and (alone or not self.fresh):
            return None
        if self.fresh:
            return self._fresh_file(slot)
        path = next((path for path in self.suspects if self._may_try(slot, path)), None)
        if path is not None:
            self.suspects.remove(path)
        return path

    def _fresh_file(self, slot: _Slot) -> Path:
        source = slot if slot.files else max(self.slots, key=lambda other: (other.left, len(other.files)))
        path = min(source.files, key=self.counts.__getitem__) if slot.deaths else source.files[0]
        source.files.remove(path)
        source.left -= self.counts[path]
        self.fresh -= 1
        return path

    def _may_try(self, slot: _Slot, path: Path) -> bool:
        return slot.device not in self.tried[path] or not self._untried(path)

    def _start_needed(self, now: float) -> None:
        """Start workers, but no more than there are files to do."""
        if not self.down or not (self.fresh or self.suspects):
            return
        free = sum(slot.alive and not slot.retired and not slot.held for slot in self.slots)
        for slot in list(self.down.values()):
            if self.fresh > free or any(self._may_try(slot, path) for path in self.suspects):
                free += 1
                self.alive += 1
                del self.down[slot.index]
                slot.begin(now)
                self._orders.append(Start(slot.index))

    def _dismiss(self, now: float) -> None:
        """Everything has ended: stop all workers."""
        for slot in self.slots:
            slot.stats.seconds = slot.stats.seconds or (now - slot.ready_since if slot.ready_since is not None else 0.0)
            if not slot.alive or slot.stopped:
                continue
            if slot.index in self.hungry:
                slot.stopped = True
                self._reply(slot, STOP, now)
            elif not slot.ready:
                slot.stopped = True
                self._kill(slot, "not needed any more")

    def _note(self, level: int, text: str) -> None:
        self._orders.append(Note(level, text))

    def _taken(self) -> list[Order]:
        orders, self._orders = self._orders, []
        return orders
