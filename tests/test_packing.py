"""Packing: every sequence once, in a buffer whose size depends only on the length of the sequence."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from virnucpro.pipeline.packing import BUDGET_STEP, PackedBatch, Packer, buffer_size, round_budget


def pack(lengths: list[int], budget: int) -> list[PackedBatch[int]]:
    packer: Packer[int] = Packer(budget)
    batches = [batch for key, n in enumerate(lengths) for batch in packer.add(key, np.full(n, key + 10))]
    return batches + list(packer.flush())


@given(st.lists(st.integers(1, 2000), max_size=200), st.sampled_from([256, 512, 2048]))
def test_every_sequence_is_packed_once(lengths: list[int], budget: int) -> None:
    batches = pack(lengths, budget)
    assert sorted(key for batch in batches for key in batch.keys) == list(range(len(lengths)))
    for batch in batches:
        assert batch.used == sum(batch.lengths) <= batch.size
        for key, n in zip(batch.keys, batch.lengths, strict=True):
            assert n == lengths[key]
            assert batch.size == buffer_size(n, budget)


@given(st.lists(st.integers(1, 300), min_size=1, max_size=50))
def test_tokens_lie_back_to_back_and_the_tail_is_inert(lengths: list[int]) -> None:
    for batch in pack(lengths, 512):
        tokens = batch.tokens(3)
        assert len(tokens) == 512
        assert tokens[: batch.used].tolist() == [key + 10 for key in batch.keys for _ in range(lengths[key])]
        assert (tokens[batch.used :] == 3).all()


@pytest.mark.parametrize(("length", "size"), [(1, 2048), (2048, 2048), (2049, 4096), (8192, 8192), (8193, 16384)])
def test_longer_sequences_take_the_next_shape(length: int, size: int) -> None:
    assert buffer_size(length, 2048) == size


def test_windows_of_one_length_fill_their_buffers() -> None:
    batches = pack([105] * 1900, 2048)
    assert len(batches) == 100


@given(st.integers(1, 10**6))
def test_budgets_are_rounded_up(tokens: int) -> None:
    budget = round_budget(tokens)
    assert budget % BUDGET_STEP == 0
    assert tokens <= budget < tokens + BUDGET_STEP
