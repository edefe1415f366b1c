"""Process work files until each is done or failed, with one worker per device: `WorkQueue(…).run()`.

It passes the messages of workers to a schedule (`pipeline/schedule.py`: who gets what, and what happens when one dies)
and the orders of the schedule to a launcher (`pipeline/launch_local.py`: processes and pipes, or
`pipeline/launch_ray.py`: the nodes of a cluster). The messages are in `pipeline/events.py`.
"""

from __future__ import annotations

import contextlib
import logging
import math
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from virnucpro.pipeline.base_worker import assign_files_by_sequences
from virnucpro.pipeline.events import Listener, unheard
from virnucpro.pipeline.launch_local import Launch, Said, Work, Worker, launcher_for, runs_inline
from virnucpro.pipeline.schedule import (
    STALL_SECONDS,
    DeviceStats,
    Kill,
    Note,
    Order,
    QueueResult,
    Reply,
    Schedule,
    Start,
    Tell,
)

__all__ = ["DeviceStats", "QueueResult", "WorkQueue", "Worker"]

logger = logging.getLogger("virnucpro.queue")

#: Seconds between two looks at the clock.
TICK_SECONDS = 1.0


class WorkQueue:
    """One run of work files over devices.

    worker: a module-level function; device_names: one entry per worker; counts: sequences of each file, in input order;
    kwargs: passed to every worker; on_event: called with each event and the index of its worker;
    stall_seconds: a busy worker that is silent for at least this long counts as hung (except on a single CPU);
    launch: makes the launcher; beside: as in `Work`.
    Raises InputError if two files would have the same result, UsageError if workers cannot be started.
    """

    def __init__(
        self,
        worker: Worker,
        device_names: Sequence[str],
        batch_size: int,
        output_dir: Path,
        counts: Mapping[Path, int],
        kwargs: Mapping[str, Any] | None = None,
        on_event: Listener = unheard,
        stall_seconds: float = STALL_SECONDS,
        launch: Launch = launcher_for,
        beside: Sequence[str] = (),
    ) -> None:
        place = {path: number for number, path in enumerate(counts)}
        packed = assign_files_by_sequences(counts, len(device_names), counts)
        lists = [sorted(files, key=place.__getitem__) for files in packed]
        stall = math.inf if runs_inline(device_names) else stall_seconds
        self.launcher = launch(Work(worker, device_names, batch_size, output_dir, dict(kwargs or {}), beside))
        self.schedule = Schedule(device_names, lists, counts, _sizes(counts), stall, self.launcher.wait_seconds)
        self.on_event = on_event

    def run(self) -> QueueResult:
        """Process all files until done or failed. Raises ModelError, DeviceError; files on disk are always whole."""
        try:
            self._carry_out(self.schedule.begin(time.monotonic()))
            while not self.schedule.ended:
                self.launcher.pump(self._hear, TICK_SECONDS)
                self._carry_out(self.schedule.tick(time.monotonic()))
        finally:
            self.launcher.close()
        return self.schedule.result

    def _hear(self, slot: int, said: Said) -> None:
        if isinstance(said, logging.LogRecord):
            logging.getLogger(said.name).handle(said)
        else:
            self._carry_out(self.schedule.on(slot, said, time.monotonic()))

    def _carry_out(self, orders: Iterable[Order]) -> None:
        for order in orders:
            match order:
                case Start(slot):
                    self.launcher.start(slot)
                case Reply(slot, answer):
                    self.launcher.answer(slot, answer)
                case Kill(slot):
                    self.launcher.kill(slot)
                case Tell(slot, event):
                    self.on_event(slot, event)
                case Note(level, text):
                    logger.log(level, "%s", text)


def _sizes(paths: Iterable[Path]) -> dict[Path, int]:
    """Bytes of each file, which are at least its letters; a file that cannot be found is left to the worker."""
    sizes = {}
    for path in paths:
        with contextlib.suppress(OSError):
            sizes[path] = path.stat().st_size
    return sizes
