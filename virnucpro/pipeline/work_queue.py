"""Hands work files to one worker a device, watches the workers, and brings every file to an end: done or failed.

Files start in the bin-packed plan; a worker whose list runs dry takes from the longest remaining one. Several devices:
a spawned process each, which asks for its next file through a pipe of its own. A process that dies closes its pipe, so
its death is seen at once; the files it held are run again, each alone, and a file that takes a second worker down is
reported failed. One device: the same worker called inline, no process.

What crosses a pipe: worker → parent the events of `pipeline.events`, log records, `Request`, `Finished`, `Fatal`;
parent → worker a path, FLUSH (finish what you hold, then ask again) or STOP.
"""

from __future__ import annotations

import contextlib
import logging
import multiprocessing
import os
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, Protocol

from virnucpro.errors import DeviceError, VirnucproError
from virnucpro.pipeline.base_worker import assign_files_by_sequences
from virnucpro.pipeline.events import FileDone, FileFailed, Progress, Ready
from virnucpro.pipeline.stream import FLUSH

logger = logging.getLogger("virnucpro.queue")

#: Parent → worker: there is nothing more, return.
STOP = "stop"

#: A file in the hands of this many dying workers is given up; as often may a device's workers die with none in hand.
MOST_DEATHS = 2

#: Seconds that a worker gets to end by itself before it is killed.
GRACE_SECONDS = 10.0


@dataclass(frozen=True)
class Request:
    """Worker → parent: my hands are free for a file."""


@dataclass(frozen=True)
class Finished:
    """Worker → parent: I have stopped in order."""


@dataclass(frozen=True)
class Fatal:
    """Worker → parent: no worker can do this run."""

    error: VirnucproError


class Worker(Protocol):
    """A module-level function such as `process_dnabert_files_worker`."""

    def __call__(
        self, file_subset: Iterable[Any], device_id: str, batch_size: int, output_dir: Path, **kwargs: Any
    ) -> object:
        """Embed the files; what happens is told through `kwargs["progress_queue"]`."""


@dataclass
class DeviceStats:
    """What one worker did, for the record of balance. `seconds` runs from ready to the last file's end."""

    device: str
    files: int = 0
    sequences: int = 0
    tokens: int = 0
    busy_seconds: float = 0.0
    seconds: float = 0.0

    @property
    def busy_share(self) -> float:
        """Share of its time that the device computed."""
        return self.busy_seconds / self.seconds if self.seconds else 0.0


@dataclass
class QueueResult:
    """Every file's end, and each device's part."""

    done: dict[Path, Path] = field(default_factory=dict)
    failed: dict[Path, str] = field(default_factory=dict)
    stats: list[DeviceStats] = field(default_factory=list)


@dataclass
class _Slot:
    """A device and its process of the moment."""

    index: int
    stats: DeviceStats
    process: multiprocessing.process.BaseProcess | None = None
    connection: Connection | None = None
    in_flight: list[Path] = field(default_factory=list)
    ready_since: float | None = None
    deaths_without_file: int = 0
    waiting: bool = False
    flushed: bool = False
    stopped: bool = False


class WorkQueue:
    """One run of work files over devices.

    worker: a module-level function; device_names: one entry a worker; counts: sequences of each file;
    kwargs: passed to every worker; on_event: told of each event with the index of its worker.
    """

    def __init__(
        self,
        worker: Worker,
        device_names: Sequence[str],
        batch_size: int,
        output_dir: Path,
        counts: Mapping[Path, int],
        kwargs: Mapping[str, Any] | None = None,
        on_event: Callable[[int, object], None] | None = None,
    ) -> None:
        self.worker, self.batch_size, self.output_dir = worker, batch_size, output_dir
        self.kwargs = dict(kwargs or {})
        self.counts = counts
        self.on_event = on_event or (lambda _index, _event: None)
        self.slots = [_Slot(i, DeviceStats(name)) for i, name in enumerate(device_names)]
        self.lists = [deque(files) for files in assign_files_by_sequences(counts, len(device_names), counts)]
        #: Files that were in the hands of a worker when it died, and how often.
        self.suspects: deque[Path] = deque()
        self.deaths: dict[Path, int] = {}
        self.result = QueueResult(stats=[slot.stats for slot in self.slots])
        self.last_end = 0.0

    def run(self) -> QueueResult:
        """Bring every file to its end. Raises ModelError, DeviceError; what is on disk stays whole at any exit."""
        if self.counts and len(self.slots) == 1:
            self._run_inline(self.slots[0])
        elif self.counts:
            self._run_processes()
        return self.result

    # One device: no process, the same worker and the same events.

    def _run_inline(self, slot: _Slot) -> None:
        files = list(self.lists[0])
        sink = _InlineSink(lambda event: self._handle(slot, event))
        self.worker(files, slot.stats.device, self.batch_size, self.output_dir, progress_queue=sink, **self.kwargs)
        self._close_stats()

    # Several devices.

    def _run_processes(self) -> None:
        try:
            for slot in self.slots:
                self._start(slot)
            while connections := {slot.connection: slot for slot in self.slots if slot.connection}:
                for connection in wait(list(connections)):
                    self._receive(connections[connection])  # type: ignore[index]
                self._feed()
            self._close_stats()
            self._check_all_ended()
        finally:
            self._end_processes()

    def _start(self, slot: _Slot) -> None:
        context = multiprocessing.get_context("spawn")
        slot.connection, theirs = context.Pipe()
        arguments = (theirs, self.worker, slot.stats.device, self.batch_size, self.output_dir, self.kwargs)
        slot.process = context.Process(target=_worker_process, args=arguments, daemon=True)
        with _interrupts_blocked():
            slot.process.start()
        theirs.close()  # theirs alone, so that their death closes it
        slot.waiting = slot.flushed = slot.stopped = False

    def _receive(self, slot: _Slot) -> None:
        assert slot.connection is not None
        try:
            message = slot.connection.recv()
        except (EOFError, OSError):
            self._ended(slot)
        else:
            self._handle(slot, message)

    def _handle(self, slot: _Slot, message: object) -> None:
        if isinstance(message, Request):
            slot.waiting = True
            return
        if isinstance(message, Fatal):
            raise message.error
        if isinstance(message, logging.LogRecord):
            logging.getLogger(message.name).handle(message)
            return
        if isinstance(message, Ready):
            slot.ready_since = slot.ready_since or time.monotonic()
        elif isinstance(message, Progress):
            slot.stats.sequences += message.sequences
            slot.stats.tokens += message.tokens
            slot.stats.busy_seconds += message.busy_seconds
        elif isinstance(message, FileDone):
            slot.stats.files += 1
            self.result.done[message.path] = message.output
            self._release(slot, message.path)
        elif isinstance(message, FileFailed):
            self.result.failed[message.path] = message.reason
            self._release(slot, message.path)
        self.on_event(slot.index, message)

    def _release(self, slot: _Slot, path: Path) -> None:
        self.last_end = time.monotonic()
        if path in slot.in_flight:
            slot.in_flight.remove(path)

    def _feed(self) -> None:
        """Answer every waiting worker that can be answered now."""
        for slot in self.slots:
            if not slot.waiting:
                continue
            path = self._next_file(slot)
            if path is not None:
                slot.in_flight.append(path)
                slot.flushed = False
                self._answer(slot, path)
            elif self._nothing_left():
                slot.stopped = True
                self._answer(slot, STOP)
            elif not slot.flushed:
                slot.flushed = True
                self._answer(slot, FLUSH)

    def _answer(self, slot: _Slot, answer: Path | str | None) -> None:
        assert slot.connection is not None
        slot.waiting = False
        with contextlib.suppress(OSError):  # it died just now: its closed pipe is the next thing received
            slot.connection.send(answer)

    def _next_file(self, slot: _Slot) -> Path | None:
        if any(path in self.deaths for path in slot.in_flight):
            return None  # a suspect runs alone, so that a second death is surely its own
        if self.suspects and not slot.in_flight:
            return self.suspects.popleft()
        source = self.lists[slot.index] or max(self.lists, key=self._remaining)
        return source.popleft() if source else None

    def _remaining(self, files: Iterable[Path]) -> int:
        return sum(self.counts[path] for path in files)

    def _nothing_left(self) -> bool:
        return not self.suspects and not any(self.lists) and not any(slot.in_flight for slot in self.slots)

    def _ended(self, slot: _Slot) -> None:
        """A worker's pipe closed: it was told to stop, or it died."""
        assert slot.process is not None
        assert slot.connection is not None
        slot.process.join(GRACE_SECONDS)
        slot.process.kill()  # if it hangs as it ends
        slot.connection.close()
        slot.connection = None
        if slot.stopped:
            return
        cause = _cause(slot.process.exitcode)
        logger.warning("the worker on %s died (%s); its files go to another", slot.stats.device, cause)
        if not slot.in_flight:
            slot.deaths_without_file += 1
        for path in slot.in_flight:
            self._suspect(path, slot, cause)
        slot.in_flight = []
        if not self._nothing_left() and slot.deaths_without_file < MOST_DEATHS:
            self._start(slot)

    def _suspect(self, path: Path, slot: _Slot, cause: str) -> None:
        self.deaths[path] = self.deaths.get(path, 0) + 1
        if self.deaths[path] < MOST_DEATHS:
            self.suspects.append(path)
            return
        reason = f"{self.deaths[path]} workers died on it, the last on {slot.stats.device} ({cause})"
        logger.error("%s failed: %s", path, reason)
        self.result.failed[path] = reason
        self.on_event(slot.index, FileFailed(path, reason))

    def _check_all_ended(self) -> None:
        if not self._nothing_left():
            devices = ", ".join(sorted({slot.stats.device for slot in self.slots}))
            raise DeviceError(f"no worker on {devices} stays alive", hint="see the log, and `virnucpro doctor`")

    def _close_stats(self) -> None:
        for slot in self.slots:
            slot.stats.seconds = max(0.0, self.last_end - slot.ready_since) if slot.ready_since else 0.0

    def _end_processes(self) -> None:
        for slot in self.slots:
            if slot.process and slot.process.is_alive() and not slot.stopped:
                slot.process.terminate()
        for slot in self.slots:
            if slot.process and slot.process.pid:  # else a signal came while it was being started
                slot.process.join(GRACE_SECONDS)
                slot.process.kill()
            if slot.connection:
                slot.connection.close()


@contextlib.contextmanager
def _interrupts_blocked() -> Iterator[None]:
    """A process started here stays deaf to Ctrl-C, which reaches the whole group: the parent decides."""
    resource_tracker.ensure_running()  # it would unblock the signal as it starts
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _cause(exit_code: int | None) -> str:
    if exit_code is not None and exit_code < 0:
        name = signal.Signals(-exit_code).name
        return f"{name}; was memory short?" if name == "SIGKILL" else name
    return f"exit code {exit_code}"


class _InlineSink:
    """Takes a worker's events in the same process; its threads take turns."""

    def __init__(self, handle: Callable[[object], None]) -> None:
        self._handle = handle
        self._lock = threading.Lock()

    def put(self, item: object, /) -> None:
        with self._lock:
            self._handle(item)


def _worker_process(
    connection: Connection,
    worker: Worker,
    device: str,
    batch_size: int,
    output_dir: Path,
    kwargs: Mapping[str, Any],
) -> None:
    """What runs in a spawned process."""
    os.environ.setdefault("RAYON_NUM_THREADS", str(kwargs.get("threads") or 1))  # threads of the tokenizer
    sink = _InlineSink(connection.send)
    try:
        files = _requested(connection, sink)
        worker(files, device, batch_size, output_dir, progress_queue=sink, forward_logs=True, **kwargs)
        sink.put(Finished())
    except VirnucproError as error:
        sink.put(Fatal(error))
    except (EOFError, ConnectionError):
        os._exit(1)  # the parent is gone: there is nobody to work for


def _requested(connection: Connection, sink: _InlineSink) -> Iterator[Path | None]:
    """Files as the parent hands them out, with FLUSH in between."""
    while True:
        sink.put(Request())
        answer = connection.recv()
        if answer == STOP:
            return
        yield answer
