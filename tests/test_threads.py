"""Work ahead of who waits for it: in order, not too far ahead, and what fails is told in its turn."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from virnucpro.core.threads import in_order


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
            first_is_read.wait(10)
        return item

    results = in_order(work, range(100), 2)
    assert next(results) == 0
    first_is_read.set()
    with pytest.raises(ValueError, match="poison"):
        list(results)
    assert len(begun) < 10
