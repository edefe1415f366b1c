"""Work ahead of who waits for it: in order, not too far ahead, and what fails is told in its turn."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator

import pytest
from conftest import HANGS, interrupted_at_random

from virnucpro.core.threads import in_order, unbroken
from virnucpro.models.registry import EMBEDDED
from virnucpro.models.weights import read_weights


def test_results_come_in_order_and_few_wait() -> None:
    taken: list[int] = []

    def items() -> Iterator[int]:
        for item in range(50):
            taken.append(item)
            yield item

    for place, found in enumerate(in_order(lambda item: item * item, items(), 3)):
        assert found == place * place
        assert len(taken) <= place + 4


def test_a_failure_is_told_in_its_turn_and_nothing_new_is_begun() -> None:
    begun: list[int] = []
    first_is_read = threading.Event()

    def work(item: int) -> int:
        begun.append(item)
        if item == 1:
            raise ValueError("poison")
        if item > 1:
            first_is_read.wait(HANGS)
        return item

    results = in_order(work, range(100), 2)
    assert next(results) == 0
    first_is_read.set()
    with pytest.raises(ValueError, match="poison"):
        list(results)
    assert len(begun) < 10


def test_no_signal_breaks_into_weights_that_are_read() -> None:
    """Their readers call Python code, and took an interrupt in there for damage: one in three came out as that."""
    path = EMBEDDED / "mini-1" / "model.safetensors"
    expected = read_weights(path).keys()

    def read() -> None:
        assert read_weights(path).keys() == expected

    assert any(interrupted_at_random(read, times=100, seed=1))


def test_unbroken_gives_results_and_errors() -> None:
    assert unbroken(lambda: threading.current_thread() is not threading.main_thread())
    with pytest.raises(ZeroDivisionError):
        unbroken(lambda: 1 // 0)


def test_an_interrupt_is_met_when_the_work_is_done() -> None:
    """A process that ended before, while PyTorch reads weights in the thread, would be aborted."""
    done = []

    def work() -> None:
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.3)
        done.append("done")

    with pytest.raises(KeyboardInterrupt):
        unbroken(work)
    assert done
