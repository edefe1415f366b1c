"""The policy of a run, driven through random histories without processes: whatever workers do, every file ends once."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from virnucpro.errors import DeviceError, ModelError
from virnucpro.pipeline.base_worker import assign_files_by_sequences
from virnucpro.pipeline.events import (
    FLUSH,
    STOP,
    Crashed,
    Died,
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
from virnucpro.pipeline.schedule import (
    DEATHS_OF_A_SLOT,
    GRACE_SECONDS,
    LOSSES_OF_A_FILE,
    SLEPT_SECONDS,
    Kill,
    Note,
    Order,
    Reply,
    Schedule,
    Start,
    Tell,
)

STALL = 100.0
#: Files that a worker holds at once.
HANDS = 3


def schedule_of(devices: Sequence[str], sizes: Sequence[int], **options: Any) -> Schedule:
    """Files 0.fa, 1.fa, … of so many sequences, over slots on `devices`."""
    counts = {Path(f"{number}.fa"): size for number, size in enumerate(sizes)}
    lists = assign_files_by_sequences(counts, len(devices), counts)
    return Schedule(devices, lists, counts, stall_seconds=STALL, **options)


@dataclass
class Worker:
    """A worker as its parent sees it."""

    up: bool = False
    asked: bool = False
    hung: bool = False
    #: Whether it was told to stop, was killed, or said that it ends.
    ending: bool = False
    held: list[Path] = field(default_factory=list)


class World:
    """Workers that obey orders and otherwise do what the test drives them to; every order is checked when it comes."""

    def __init__(
        self,
        schedule: Schedule,
        poison: Iterable[Path] = (),
        broken: Iterable[str] = (),
        anything_happens: bool = False,
        hosts: bool = False,
    ) -> None:
        """hosts: whether hosts come and go."""
        self.schedule, self.anything_happens, self.hosts = schedule, anything_happens, hosts
        self.poison, self.broken = set(poison), set(broken)
        self.workers: dict[int, Worker] = {}
        self.ended: set[Path] = set()
        self.gone: set[int] = set()
        self.starts = [0] * len(schedule.slots)
        self.now = 0.0
        self.obey(schedule.begin(self.now))

    # Orders.

    def obey(self, orders: Iterable[Order]) -> None:
        for order in orders:
            match order:
                case Start(slot):
                    assert slot not in self.workers
                    assert slot not in self.gone
                    self.workers[slot] = Worker()
                    self.starts[slot] += 1
                case Reply(slot, Path() as path):
                    assert path not in self.ended
                    assert not any(path in worker.held for worker in self.workers.values())
                    self.answered(slot).held.append(path)
                case Reply(slot, None):
                    assert self.answered(slot).held
                case Reply(slot):
                    assert self.ended == set(self.schedule.counts)
                    self.answered(slot).ending = True
                case Kill(slot):
                    self.workers[slot].ending = True
                case Tell(_, FileDone(path) | FileFailed(path)):
                    assert path not in self.ended
                    self.ended.add(path)
                case Tell() | Note():
                    pass
        for slot_ in self.schedule.slots:
            assert slot_.left == sum(self.schedule.counts[path] for path in slot_.files)

    def answered(self, slot: int) -> Worker:
        """The worker that gets an answer: it is alive and has asked."""
        worker = self.workers[slot]
        assert worker.asked
        assert not worker.ending
        worker.asked = False
        return worker

    # What workers do.

    def say(self, slot: int, *messages: Message) -> None:
        for message in messages:
            self.now += 0.01
            self.obey(self.schedule.on(slot, message, self.now))

    def actions(self) -> list[Callable[[], None]]:
        """Everything that can happen next; what a good worker does comes first."""
        found: list[Callable[[], None]] = []
        for slot, worker in self.workers.items():
            found += self.actions_of(slot, worker)
        if self.anything_happens:
            found.append(lambda: self.wait(STALL / 4))
        if self.hosts:
            there = set(range(len(self.schedule.slots))) - self.gone
            found += [self.join, *(partial(self.leave, slot) for slot in there)]
        return found

    def actions_of(self, slot: int, worker: Worker) -> list[Callable[[], None]]:
        device = self.schedule.slots[slot].device
        doomed = worker.held and (device in self.broken or not self.poison.isdisjoint(worker.held))
        if worker.ending or (doomed and not worker.hung):
            return [lambda: self.die(slot)]
        if worker.hung:
            return []
        found: list[Callable[[], None]] = []
        if not worker.up:
            found.append(lambda: self.come_up(slot))
        elif worker.held:
            found.append(lambda: self.finish(slot))
        if worker.up and not worker.asked and len(worker.held) < HANDS:
            found.append(lambda: self.ask(slot))
        if self.anything_happens:
            found += [lambda: self.die(slot), lambda: self.hang(slot), lambda: self.end(slot)]
            if worker.held:
                found += [lambda: self.fail(slot, True), lambda: self.fail(slot, False)]
        return found

    def come_up(self, slot: int) -> None:
        self.workers[slot].up = True
        self.say(slot, Ready())

    def ask(self, slot: int) -> None:
        self.workers[slot].asked = True
        self.say(slot, Request())

    def finish(self, slot: int) -> None:
        path = self.workers[slot].held.pop(0)
        self.say(slot, Progress(1, 1, 0.1), FileDone(path, path))

    def fail(self, slot: int, out_of_memory: bool) -> None:
        self.say(slot, FileFailed(self.workers[slot].held.pop(), "why", out_of_memory))

    def die(self, slot: int) -> None:
        del self.workers[slot]
        self.say(slot, Died("SIGKILL"))

    def end(self, slot: int) -> None:
        self.workers[slot].ending = True
        self.say(slot, Unusable(no_device()))

    def leave(self, slot: int) -> None:
        self.gone.add(slot)
        self.workers.pop(slot, None)
        self.say(slot, Lost("its node has left"))

    def join(self) -> None:
        self.starts.append(0)
        self.say(len(self.schedule.slots), Joined("d"))

    def hang(self, slot: int) -> None:
        self.workers[slot].hung = True

    def wait(self, seconds: float) -> None:
        """Let time pass, in ticks."""
        end = self.now + seconds
        while self.now < end:
            self.now += SLEPT_SECONDS / 2
            self.obey(self.schedule.tick(self.now))

    # Driving.

    def run(self, history: Iterable[int]) -> World:
        """Do the drawn actions, one number per step, then what good workers do, up to the end."""
        for number in history:
            if actions := self.actions():
                actions[number % len(actions)]()
        self.anything_happens = False
        if self.hosts:
            self.hosts = False
            self.join()
        self.to_the_end()
        return self

    def to_the_end(self) -> None:
        for _ in range(100_000):
            if self.schedule.ended:
                break
            if actions := self.actions():
                actions[0]()
            else:
                self.wait_for_a_way_out()
        assert self.schedule.ended
        assert self.workers == {}
        done, failed = self.schedule.result.done, self.schedule.result.failed
        assert done.keys() | failed.keys() == set(self.schedule.counts) == self.ended
        assert done.keys().isdisjoint(failed)

    def wait_for_a_way_out(self) -> None:
        assert any(worker.hung for worker in self.workers.values()), "all wait, and nothing is to come"
        self.wait(10 * STALL)
        assert self.actions(), "a worker that hangs is not noticed"


def no_device() -> DeviceError:
    return DeviceError("cannot use it", hint="see")


SLOTS = st.lists(st.sampled_from("abc"), min_size=1, max_size=5)
SIZES = st.lists(st.integers(0, 9), max_size=14)
HISTORY = st.lists(st.integers(0, 59), max_size=100)


@settings(max_examples=300)
@given(SLOTS, SIZES, HISTORY)
def test_whatever_happens_every_file_ends_once(devices: list[str], sizes: list[int], history: list[int]) -> None:
    schedule = schedule_of(devices, sizes)
    try:
        World(schedule, anything_happens=True).run(history)
    except DeviceError:
        assert all(slot.retired for slot in schedule.slots)
        assert schedule.open


@settings(max_examples=300)
@given(SLOTS, SIZES, HISTORY)
def test_hosts_come_and_go_and_no_file_is_to_blame(devices: list[str], sizes: list[int], history: list[int]) -> None:
    schedule = schedule_of(devices, sizes, wait_seconds=math.inf)
    World(schedule, hosts=True).run(history)
    assert schedule.result.failed.keys() <= {path for path, lost in schedule.losses.items() if lost > LOSSES_OF_A_FILE}
    assert len(schedule.result.stats) == len(schedule.slots)


@settings(max_examples=300)
@given(SLOTS, SIZES, HISTORY)
def test_whatever_happens_where_hosts_come_and_go(devices: list[str], sizes: list[int], history: list[int]) -> None:
    schedule = schedule_of(devices, sizes, wait_seconds=math.inf)
    try:
        World(schedule, anything_happens=True, hosts=True).run(history)
    except DeviceError:
        assert not schedule.usable
        assert schedule.open


@settings(max_examples=200)
@given(SLOTS, SIZES, st.sets(st.integers(0, 13), max_size=DEATHS_OF_A_SLOT - 1), HISTORY)
def test_poison_fails_and_nothing_else(
    devices: list[str], sizes: list[int], some: set[int], history: list[int]
) -> None:
    """More poison in a row would look like a broken device."""
    schedule = schedule_of(devices, sizes)
    poison = {file(number) for number in some} & schedule.counts.keys()
    world = World(schedule, poison=poison).run(history)
    assert schedule.result.failed.keys() == poison
    for path in poison:
        died_on = schedule.tried[path]
        assert len(died_on) == 2
        assert len(set(died_on)) == min(2, len(set(devices)))
    assert not any(slot.retired for slot in schedule.slots)
    assert sum(world.starts) <= len(devices) + 2 * len(poison)


@settings(max_examples=200)
@given(SLOTS, SIZES, HISTORY)
def test_a_broken_device_loses_nothing(devices: list[str], sizes: list[int], history: list[int]) -> None:
    schedule = schedule_of([*devices, "whole"], sizes)
    broken = devices[:1]
    world = World(schedule, broken=broken).run(history)
    assert schedule.result.failed == {}
    for slot, starts in zip(schedule.slots, world.starts, strict=True):
        assert starts <= (DEATHS_OF_A_SLOT if slot.device in broken else 1)
    assert len(schedule.tried) <= len(devices) * (HANDS + DEATHS_OF_A_SLOT - 1)


@settings(max_examples=100)
@given(SLOTS, SIZES, HISTORY)
def test_good_workers_start_once_and_share_all(devices: list[str], sizes: list[int], history: list[int]) -> None:
    schedule = schedule_of(devices, sizes)
    world = World(schedule).run(history)
    assert schedule.result.done.keys() == set(schedule.counts)
    assert max(world.starts) <= 1
    assert sum(world.starts) <= len(sizes)  # and none without anything to do
    assert sum(stats.files for stats in schedule.result.stats) == len(sizes)


# Single rules.


class Play:
    """One history, written step by step."""

    def __init__(self, devices: Sequence[str], sizes: Sequence[int], **options: Any) -> None:
        self.schedule = schedule_of(devices, sizes, **options)
        self.now = 0.0
        self.orders = self.schedule.begin(0.0)

    def __call__(self, slot: int, *messages: Message) -> list[Order]:
        """The orders that follow, without notes and without events for the listener."""
        found: list[Order] = []
        for message in messages:
            self.orders = self.schedule.on(slot, message, self.now)
            found += [order for order in self.orders if not isinstance(order, (Note, Tell))]
        return found

    def after(self, seconds: float) -> list[Order]:
        end, found = self.now + seconds, []
        while self.now < end:
            self.now += 1
            found += [order for order in self.schedule.tick(self.now) if isinstance(order, Kill)]
        return found


def file(number: int) -> Path:
    return Path(f"{number}.fa")


def done(number: int) -> FileDone:
    return FileDone(file(number), file(number))


UP = (Ready(), Request())


def test_a_suspect_goes_to_another_device_first_and_alone() -> None:
    play = Play(["a", "b"], [9, 8, 7, 6])
    assert play.orders == [Start(0), Start(1)]
    assert play(0, *UP, Request()) == [Reply(0, file(0)), Reply(0, file(3))]
    assert play(0, Died("SIGSEGV")) == [Start(0)]
    assert play(0, *UP) == [Reply(0, file(2))]  # at first alone: the smallest file that is left
    assert play(0, Request()) == [Reply(0, FLUSH)]
    assert play(1, *UP) == [Reply(1, file(1))]
    assert play(0, Request(), done(2)) == []  # both suspects wait for b
    assert play(1, Request()) == [Reply(1, FLUSH)]
    assert play(1, Request(), done(1)) == [Reply(1, file(0))]
    assert play(1, Request()) == [Reply(1, FLUSH)]
    assert play(1, Request(), done(0)) == [Reply(1, file(3))]
    assert play(1, Request(), Request(), done(3)) == [Reply(1, FLUSH), Reply(0, STOP), Reply(1, STOP)]


def test_one_device_tries_a_suspect_twice() -> None:
    play = Play(["a"], [1])
    assert play(0, *UP) == [Reply(0, file(0))]
    assert play(0, Died("SIGKILL; out of memory?")) == [Start(0)]
    assert play(0, *UP) == [Reply(0, file(0))]
    play(0, Died("SIGKILL; out of memory?"))
    assert play.schedule.ended
    assert play.schedule.result.failed == {file(0): "2 workers died on it, the last on a (SIGKILL; out of memory?)"}
    assert Tell(0, FileFailed(file(0), play.schedule.result.failed[file(0)])) in play.orders


def test_the_last_error_of_a_traceback_is_the_reason() -> None:
    """CUDA's messages have several lines, of which the first says what happened."""
    play = Play(["a"], [1])
    began = "Traceback (most recent call last):\n  …\n"
    traceback = (
        f"{began}KeyError: 1\n\nDuring handling of the above exception, another exception occurred:\n\n"
        f"{began}torch.AcceleratorError: CUDA error: unspecified launch failure\n"
        "CUDA kernel errors might be asynchronously reported at some other API call.\n"
        "Compile with `TORCH_USE_CUDA_DSA` to enable device-side assertions.\n\n"
    )
    for _ in range(2):
        play(0, *UP, Crashed(traceback))
        assert Note(logging.ERROR, f"the worker on a crashed:\n{traceback.rstrip()}") in play.orders
        play(0, Died("exit code 1"))
    reason = "2 workers died on it, the last on a (torch.AcceleratorError: CUDA error: unspecified launch failure)"
    assert play.schedule.result.failed == {file(0): reason}


def test_what_one_device_has_no_memory_for_is_tried_on_another() -> None:
    play = Play(["a", "b"], [1, 1])
    assert play(0, *UP) == [Reply(0, file(0))]
    assert play(1, *UP, done(1), Request()) == [Reply(1, file(1))]
    assert play(0, FileFailed(file(0), "out of memory", out_of_memory=True)) == [Reply(1, file(0))]
    assert play(1, done(0), Request()) == [Reply(1, STOP)]
    alone = Play(["a"], [1])
    alone(0, *UP, FileFailed(file(0), "out of memory", out_of_memory=True))
    assert alone.schedule.result.failed == {file(0): "out of memory"}


def test_an_idle_death_after_the_last_file_goes_unnoticed() -> None:
    play = Play(["a", "b"], [1, 1])
    play(0, *UP)
    play(1, *UP)
    play(0, done(0), Request())
    play(1, done(1))
    assert play(0, Died("SIGKILL")) == []
    assert not any(isinstance(order, Note) for order in play.orders)
    assert play(1, Request()) == [Reply(1, STOP)]
    play(1, Died("exit code 0"))
    assert play.schedule.ended


def test_a_device_that_cannot_be_used_leaves_the_work_to_the_others() -> None:
    play = Play(["a", "b"], [1, 1])
    assert play(0, Unusable(no_device()), Died("exit code 0")) == []
    assert play(1, *UP, Request()) == [Reply(1, file(1)), Reply(1, file(0))]
    with pytest.raises(DeviceError, match="cannot use it"):
        play(1, Unusable(no_device()))


def test_a_fatal_error_is_raised() -> None:
    with pytest.raises(ModelError, match="no weights"):
        Play(["a", "b"], [1])(0, Fatal(ModelError("no weights")))


def test_files_without_sequences_are_taken_over_too() -> None:
    play = Play(["a", "b"], [0, 0])
    play(0, Unusable(no_device()), Died("exit code 0"))
    assert play(1, *UP, Request()) == [Reply(1, file(0)), Reply(1, file(1))]


def test_a_file_is_to_blame_where_hosts_go_again_and_again() -> None:
    play = Play(["a"], [1], wait_seconds=1)
    for slot in range(LOSSES_OF_A_FILE + 1):
        assert play(slot, *UP) == [Reply(slot, file(0))]
        assert play(slot, Lost("its node has left")) == []
        assert play(slot + 1, Joined("a")) == [Start(slot + 1)]
    assert play.schedule.result.failed == {}
    play(LOSSES_OF_A_FILE + 1, *UP, Lost("its node has left"))
    assert play.schedule.result.failed == {file(0): "2 workers died on it, the last on a (its node has left)"}


def test_where_no_host_is_left_another_is_waited_for() -> None:
    play = Play(["a", "b"], [1, 1], wait_seconds=60)
    play(0, Lost("its node has left"))
    assert play.after(100) == []  # b is there
    play(1, *UP, Lost("its node has left"))
    assert play.after(59) == []
    assert play(2, Joined("c")) == [Start(2)]
    assert play.after(STALL - 1) == []
    play(2, *UP, Lost("its node has left"))
    with pytest.raises(DeviceError, match="no host is left, and none joined within 1 min"):
        play.after(62)


def test_a_silent_worker_is_killed() -> None:
    play = Play(["a"], [1, 1])
    assert play.after(STALL) == []
    assert play.after(1) == [Kill(0)]  # it hangs while it loads
    assert play.after(10 * STALL) == []
    assert play(0, Died("SIGKILL")) == [Start(0)]
    play(0, *UP)
    assert play.after(STALL) == []
    play(0, Progress(1, 1, 1.0))
    assert play.after(STALL) == []
    assert play.after(1) == [Kill(0)]
    assert play(0, Request()) == []  # its last message
    assert play(0, Died("SIGKILL")) == [Start(0)]
    assert play.schedule.slots[0].deaths == 2


def test_a_large_file_on_a_slow_device_gets_longer() -> None:
    play = Play(["a"], [1], letters={file(0): 50})
    play(0, *UP)
    assert play.after(10) == []
    play(0, Progress(1, 1, 10.0))  # a token in ten seconds, and up to 50 tokens
    assert play.after(10 * 10 * 50) == []
    assert play.after(1) == [Kill(0)]


def test_an_idle_worker_may_be_silent_and_one_that_ends_not_for_long() -> None:
    play = Play(["a", "b"], [1, 1])
    play(0, *UP)
    play(1, *UP)
    play(0, done(0), Request())
    for _ in range(20):
        assert play.after(STALL / 2) == []
        play(1, Progress(1, 1, 1.0))
    assert play(1, Crashed("Why")) == []
    assert play.after(GRACE_SECONDS) == []
    assert play.after(1) == [Kill(1)]
    assert play(1, Died("SIGKILL")) == [Reply(0, file(1))]
    assert play(0, done(1), Request()) == [Reply(0, STOP)]
    assert play.after(GRACE_SECONDS + 1) == [Kill(0)]


def test_workers_of_a_job_that_was_suspended_do_not_hang() -> None:
    play = Play(["a"], [1])
    play(0, *UP)
    play.after(STALL / 2)
    play.now += 100 * STALL
    assert play.schedule.tick(play.now) == []
    assert play.after(STALL) == []
    assert play.after(1) == [Kill(0)]


def test_who_has_not_come_up_by_the_end_is_not_waited_for() -> None:
    play = Play(["a", "b"], [1, 1])
    play(0, *UP, done(0), Request())
    assert play(0, done(1), Request()) == [Kill(1), Reply(0, STOP)]
    play(1, Died("SIGKILL"))
    assert not any(isinstance(order, Note) for order in play.orders)
    play(0, Died("exit code 0"))
    assert play.schedule.ended


def test_no_limit_where_nothing_can_be_killed() -> None:
    schedule = Schedule(["cpu"], [[file(0)]], {file(0): 1}, stall_seconds=math.inf)
    schedule.begin(0.0)
    assert all(schedule.tick(second) == [] for second in range(100_000))
