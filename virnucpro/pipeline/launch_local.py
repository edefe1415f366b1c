"""Workers on this host: spawned processes with one pipe each, or, on a single CPU, the worker called in this process.

`pipeline/schedule.py` decides what is started when, and who gets which file; this module carries it out. A process that
dies closes its pipe, so its death is noticed at once; a process whose parent is gone ends by itself within a second or
two, whatever it is doing. It ignores Ctrl-C, which a terminal sends to all processes: the parent decides.

Workers launched by `Workers` stay for the next run when a run has ended, and keep the models that they have loaded.
They can also be started before the first run (`started_ahead`), since a process takes seconds to import PyTorch.

This module is all that a new process imports before it watches its parent, so it imports nothing of PyTorch.
"""

from __future__ import annotations

import contextlib
import logging
import multiprocessing
import os
import pickle
import queue
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from multiprocessing.reduction import ForkingPickler
from pathlib import Path
from typing import Any, Protocol

from virnucpro.core.device import select_devices
from virnucpro.errors import DeviceError, UsageError, VirnucproError
from virnucpro.pipeline.events import STOP, Answer, Crashed, Died, Fatal, Message, Request, Unusable

#: What comes from a worker.
Said = Message | logging.LogRecord

#: Takes what comes from the worker in a slot.
Deliver = Callable[[int, Said], None]

#: What a worker that stays keeps from one run to the next, such as loaded models.
Kept = dict[str, Any]

#: How many threads the tokenizers library starts in a process, when it is first used there.
_TOKENIZER_THREADS = "RAYON_NUM_THREADS"

#: Seconds to wait for the end of a process after its pipe is closed, or after it was killed.
GONE_SECONDS = 10.0


#: A module-level function such as `process_dnabert_files_worker`: (files, device, batch_size, output_dir, **kwargs);
#: its events are put into `kwargs["progress_queue"]`.
Worker = Callable[..., object]


@dataclass(frozen=True)
class Work:
    """What every worker of a run is called with, and the device of each slot.

    beside: suffixes of the other files of a work file.
    """

    worker: Worker
    devices: Sequence[str]
    batch_size: int
    output_dir: Path
    kwargs: Mapping[str, Any]
    beside: Sequence[str] = ()


class Launcher(Protocol):
    """Starts workers, receives their messages, answers and ends them. Slots are numbered from 0.

    wait_seconds: for how long another host may come once the last one has gone.
    """

    wait_seconds: float

    def start(self, slot: int) -> None:
        """Start a worker in a slot, unless one was started there ahead of the run and is still there."""

    def answer(self, slot: int, answer: Answer) -> None:
        """Answer a request; nothing happens if the worker has died by now."""

    def kill(self, slot: int) -> None:
        """End a worker by force; its death is delivered like any other."""

    def pump(self, deliver: Deliver, seconds: float) -> None:
        """Deliver messages of workers, a `Died` after their last one; return after `seconds` without a message.

        Those of one worker come in order, but a request may overtake others.
        """

    def close(self) -> None:
        """End every worker that is left."""


def runs_inline(devices: Sequence[str]) -> bool:
    """Whether a run on `devices` needs no process of its own: one worker, on a CPU. A GPU can take its process down."""
    return list(devices) == ["cpu"]


#: Makes the launcher of a run.
Launch = Callable[[Work], Launcher]


def launcher_for(work: Work, workers: Workers | None = None) -> Launcher:
    """The launcher that suits the devices; workers: those that stay between runs.

    Raises UsageError if processes are needed and cannot be started.
    """
    if runs_inline(work.devices):
        return Inline(work, workers)
    check_can_spawn(work.devices)
    return Processes(work, workers)


def check_can_spawn(devices: Sequence[str]) -> None:
    """Raise UsageError if a run on `devices` needs worker processes and this process cannot start any."""
    if runs_inline(devices):
        return
    process, program = multiprocessing.current_process(), sys.modules["__main__"]
    path = getattr(program, "__file__", None)
    if process.daemon:
        raise UsageError(
            "a daemonic process, such as those of multiprocessing.Pool, cannot start workers",
            hint="use concurrent.futures.ProcessPoolExecutor, or one CPU as the device",
        )
    if getattr(process, "_inheriting", False):
        raise UsageError("a worker process reached this call as it imported the program", hint=_GUARD)
    if path and program.__spec__ is None and not Path(path).exists():
        raise UsageError(f"workers cannot import the program, since there is no file {path}", hint="save it as a file")


_GUARD = 'put the call under `if __name__ == "__main__":`'


class Workers:
    """Workers that stay from one run to the next. All go at the end of the `with` block, or by `close`.

    once: at the end of the first run. One whose run did not end well is none of them: the next run starts another in
    its place.
    """

    def __init__(self, once: bool = False) -> None:
        self.once = once
        self.resting: dict[str, list[_Running]] = {}
        #: What the worker in this process keeps; other workers keep theirs in their own process.
        self.kept: Kept = {}

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def launch(self, work: Work) -> Launcher:
        """The launcher of the next run. Raises UsageError as `launcher_for` does."""
        return launcher_for(work, self)

    def rest(self, device: str, running: _Running) -> None:
        """Keep a worker whose run has ended."""
        self.resting.setdefault(device, []).append(running)

    def wake(self, device: str) -> _Running | None:
        """A worker on a device that waits for a run, if there is one; workers that have died meanwhile are dropped."""
        left = self.resting.get(device, [])
        while left:
            running = left.pop()
            if running.process.is_alive() and not running.killed:
                return running
            _end([running])
        return None

    def close(self) -> None:
        """End those that wait, and forget what was kept."""
        _end([running for each in self.resting.values() for running in each])
        self.resting.clear()
        self.kept.clear()


@contextlib.contextmanager
def started_ahead(spec: str | None) -> Iterator[Launch]:
    """Start workers before there is work for them, and launch the one run in the block on these; they end with it.

    spec: their devices, as for `--device`; None: those of another host. None are started for one CPU, whose worker is
    called in this process, nor if they cannot be started: the run will report that.
    """
    devices: list[str] = []
    with contextlib.suppress(VirnucproError):
        found = [device.name for device in select_devices(spec)] if spec else []
        check_can_spawn(found)
        devices = found
    if not devices or runs_inline(devices):
        yield launcher_for
        return
    with Workers(once=True) as workers:
        for device in devices:
            running = _Running.of(None, device, stays=True)
            workers.rest(device, running)
            running.start()
        yield workers.launch


# In this process.


class Inline:
    """One worker, called in the thread that pumps. It cannot be killed."""

    wait_seconds = 0.0

    def __init__(self, work: Work, workers: Workers | None = None) -> None:
        self.work = work
        self.kept = workers.kept if workers else None
        self.started = False
        self.answers: queue.SimpleQueue[Answer] = queue.SimpleQueue()

    def start(self, slot: int) -> None:
        """The worker runs in the next `pump`."""
        self.started, self.answers = True, queue.SimpleQueue()

    def answer(self, slot: int, answer: Answer) -> None:
        """Answer a request."""
        self.answers.put(answer)

    def kill(self, slot: int) -> None:
        """Does nothing: `pump` waits for the worker."""

    def pump(self, deliver: Deliver, seconds: float) -> None:
        """Run the worker that was started, to its end."""
        if self.started:
            self.started = False
            try:
                sink = Sink(lambda said: deliver(0, said))
                _call(self.work, self.work.devices[0], self.answers.get, sink, self.kept)
            finally:
                self.answers.put(STOP)  # for a thread of the worker that may still be waiting
            deliver(0, Died("it returned"))

    def close(self) -> None:
        """There is nothing to end."""


class Sink:
    """Sends the messages of a worker, one at a time; `broken`: why nobody receives them any more."""

    def __init__(self, send: Callable[[Any], None]) -> None:
        self._send = send
        self._lock = threading.Lock()
        self.broken: BaseException | None = None

    def put(self, item: Any, /) -> None:
        """Send one thing."""
        with self._lock:
            try:
                self._send(item)
            except BaseException as error:
                self.broken = error
                raise


def _call(
    work: Work, device: str, receive: Callable[[], Answer], sink: Sink, kept: Kept | None, **options: Any
) -> Exception | None:
    """Call the worker; returns what it raised, after reporting it. kept: None if nothing is to be kept.

    Raises what breaks the sink, which is not an error of the worker.
    """
    files = _requested(receive, sink)
    options |= work.kwargs if kept is None else {**work.kwargs, "kept": kept}
    try:
        with _tokenizing(work.kwargs.get("threads") or 1):
            work.worker(files, device, work.batch_size, work.output_dir, progress_queue=sink, **options)
    except Exception as error:
        if sink.broken is not None:
            raise sink.broken from None
        sink.put(_told(error))
        return error
    return None


@contextlib.contextmanager
def _tokenizing(threads: int) -> Iterator[None]:
    """The tokenizers library, if it is first used in the block, tokenizes in so many threads in this process."""
    before = os.environ.get(_TOKENIZER_THREADS)
    os.environ.setdefault(_TOKENIZER_THREADS, str(threads))
    try:
        yield
    finally:
        if before is None:
            os.environ.pop(_TOKENIZER_THREADS, None)


def _told(error: Exception) -> Message:
    if isinstance(error, DeviceError):
        return Unusable(error)
    if isinstance(error, VirnucproError):
        return Fatal(error)
    return Crashed(traceback.format_exc())


def _requested(receive: Callable[[], Answer], sink: Sink) -> Iterator[Path | None]:
    """Request files from the parent; yields them, and FLUSH in between."""
    while True:
        sink.put(Request())
        answer = receive()
        if answer == STOP:
            return
        yield answer


# In processes of their own.

#: Bytes of a piece of a message. A pipe takes so few bytes as a whole or not at all, so a worker that is stopped in the
#: middle of a message never keeps its parent waiting for the rest.
_PIECE_BYTES = 8192


def _send(connection: Connection, said: Any) -> None:
    """Send a message in pieces, the last of which is not full."""
    packed = bytes(ForkingPickler.dumps(said))
    for start in range(0, len(packed) + 1, _PIECE_BYTES):
        connection.send_bytes(packed[start : start + _PIECE_BYTES])


@dataclass(frozen=True)
class _Started:
    """Worker → launcher: this process has come up."""


@dataclass(frozen=True)
class _Rests:
    """Worker → launcher: my run has ended, and I wait for the next."""


@dataclass
class _Running:
    """A process, and the pieces of a message that have come from it."""

    process: BaseProcess
    connection: Connection
    theirs: Connection
    pieces: bytes = b""
    started: bool = False
    killed: bool = False

    @classmethod
    def of(cls, parcel: _Parcel | None, device: str, stays: bool) -> _Running:
        """A worker on a device, not yet started; parcel: None if its work will come later."""
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe()
        level = logging.getLogger("virnucpro").getEffectiveLevel()
        process = context.Process(target=_worker_process, args=(theirs, parcel, device, level, stays), daemon=True)
        return cls(process, ours, theirs)

    def start(self) -> None:
        """Start the process."""
        with spawning():
            self.process.start()
        self.theirs.close()  # only the process keeps it, so that its death closes it


class Processes:
    """A spawned process for each slot."""

    wait_seconds = 0.0

    def __init__(self, work: Work, workers: Workers | None = None) -> None:
        self.work = work
        self.workers = workers
        self.running: dict[int, _Running] = {}

    def start(self, slot: int) -> None:
        """Start a process, or wake one; it says nothing before it has loaded its model."""
        if slot in self.running:
            return
        device, parcel = self.work.devices[slot], _Parcel(self.work)
        if woken := self.workers.wake(device) if self.workers else None:
            self.running[slot] = woken
            with contextlib.suppress(OSError):  # it died just now: its closed pipe is the next thing heard
                woken.connection.send(parcel)
        else:
            self.running[slot] = _Running.of(parcel, device, self.workers is not None)
            self.running[slot].start()

    def answer(self, slot: int, answer: Answer) -> None:
        """Answer a request."""
        with contextlib.suppress(OSError):  # it died just now: its closed pipe is the next thing heard
            self.running[slot].connection.send(answer)

    def kill(self, slot: int) -> None:
        """End a process by force; one that hangs in its driver, where nothing can end it, is left alone."""
        self.running[slot].process.kill()
        self.running[slot].killed = True

    def pump(self, deliver: Deliver, seconds: float) -> None:
        """Deliver at most one message of each process that has said something."""
        for slot in [slot for slot, running in self.running.items() if running.killed]:
            if not self.running[slot].connection.poll():
                deliver(slot, self._reap(slot))
        slots = {running.connection: slot for slot, running in self.running.items()}
        for connection in wait(list(slots), seconds):
            slot = slots[connection]  # type: ignore[index]
            said = self._receive(slot)
            if isinstance(said, _Rests):  # its run has ended
                assert self.workers is not None
                self.workers.rest(self.work.devices[slot], self.running.pop(slot))
                deliver(slot, Died("it returned"))
            elif not isinstance(said, _Started | None):
                deliver(slot, said)

    def _receive(self, slot: int) -> Said | _Started | _Rests | None:
        """The message that the next piece completes, if it does."""
        running = self.running[slot]
        try:
            piece = running.connection.recv_bytes()
        except (EOFError, OSError):
            return self._reap(slot)
        packed, running.started = running.pieces + piece, True
        if len(piece) == _PIECE_BYTES:
            running.pieces = packed
            return None
        running.pieces = b""
        said: Said | _Started | _Rests = pickle.loads(packed)
        return said

    def _reap(self, slot: int) -> Message:
        """A worker's pipe was closed."""
        running = self.running.pop(slot)
        running.process.join(GONE_SECONDS)
        running.process.kill()  # if it hangs at its end
        running.connection.close()
        code = running.process.exitcode
        if code and code > 0 and not running.started:
            return Fatal(UsageError("worker processes fail as they import this program; see above", hint=_GUARD))
        return Died(cause_of(code))

    def close(self) -> None:
        """Kill what is left, also what would wait for a run that does not come: it holds memory of its GPU."""
        _end([*self.running.values()])
        self.running.clear()
        if self.workers and self.workers.once:
            self.workers.close()


def _end(workers: Sequence[_Running]) -> None:
    left = [running for running in workers if running.process.pid]  # otherwise a signal came when it started
    for running in left:
        running.process.kill()
    for running in left:
        running.process.join(GONE_SECONDS)
        running.connection.close()


@contextlib.contextmanager
def spawning() -> Iterator[None]:
    """A process started in the block ignores Ctrl-C, and at its start finds no modules in the current folder."""
    before = os.environ.get("PYTHONSAFEPATH", "")
    os.environ["PYTHONSAFEPATH"] = "1"  # Python 3.11 and newer; afterwards it uses the path of this process
    resource_tracker.ensure_running()  # its start would unblock the signal
    masked = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        os.environ["PYTHONSAFEPATH"] = before  # empty is the same as none
        signal.pthread_sigmask(signal.SIG_SETMASK, masked)


def cause_of(exit_code: int | None) -> str:
    """Why a process ended, in words."""
    if exit_code is None or exit_code >= 0:
        return f"exit code {exit_code}"
    try:
        name = signal.Signals(-exit_code).name
    except ValueError:  # real-time signals have no names
        return f"signal {-exit_code}"
    return f"{name}; out of memory?" if name == "SIGKILL" else name


class _Parcel:
    """Work that a process unpacks once it watches its parent, since this imports PyTorch, which may take long.

    It is packed when the process starts, as locks and queues of multiprocessing must be.
    """

    def __init__(self, work: Work) -> None:
        self.work = work

    def __getstate__(self) -> bytes:
        return bytes(ForkingPickler.dumps(self.work))

    def __setstate__(self, packed: bytes) -> None:
        self.packed = packed

    def open(self) -> Work:
        work: Work = pickle.loads(self.packed)
        return work


def _worker_process(connection: Connection, parcel: _Parcel | None, device: str, log_level: int, stays: bool) -> None:
    """Run a spawned process; stays: for run after run, until it is killed; parcel: None if it comes later."""
    threading.Thread(target=end_with_parent, daemon=True).start()
    sink = Sink(lambda said: _send(connection, said))
    kept: Kept | None = {} if stays else None
    try:
        sink.put(_Started())
        logging.getLogger("virnucpro").setLevel(log_level)
        if parcel is None:
            _warm_up(device)
            parcel = connection.recv()
        error = _unpack_and_call(connection, parcel, device, sink, kept)
        while stays and error is None:
            sink.put(_Rests())
            error = _unpack_and_call(connection, connection.recv(), device, sink, kept)
    except (EOFError, OSError) as gone:  # the parent is gone: there is nothing left to do
        error = gone
    if not (error is None or isinstance(error, VirnucproError)):
        os._exit(1)  # at once, without waiting for a broken device


def _warm_up(device: str) -> None:
    """Import what a worker needs, and begin to use its GPU; what fails here will fail again, and be reported then."""
    with contextlib.suppress(Exception):
        from virnucpro.pipeline.caller import warm_up

        warm_up(device)


def _unpack_and_call(
    connection: Connection, parcel: _Parcel, device: str, sink: Sink, kept: Kept | None
) -> Exception | None:
    try:
        work = parcel.open()
    except Exception as error:
        sink.put(_told(error))
        return error
    return _call(work, device, connection.recv, sink, kept, forward_logs=True)


def end_with_parent() -> None:
    """Watch the parent, and end this process when it is gone."""
    parent = multiprocessing.parent_process()
    while parent is not None and os.getppid() == parent.pid:
        time.sleep(1)
    os._exit(1)
