"""Sequences → buffers of a fixed number of tokens.

Every forward pass has one of a few shapes, chosen by a sequence's own length alone: the token budget T, and 2T, 4T, …
for sequences that are longer than T. Within a shape the matrix products see the same number of rows whatever is packed,
so the embedding of a sequence does not depend on its neighbours (DESIGN rule 1). Policy only: no tensors of a model
here.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

Key = TypeVar("Key")

#: Budgets are multiples of this, so that the tiles of the products are full.
BUDGET_STEP = 256

#: Open buffers of one shape; more of them pack tighter but delay results.
OPEN_BUFFERS = 8

#: A buffer counts as full if a smaller share of it than this is free: it is passed on at once, and the next stage need
#: not wait for a sequence that would fill it to the last token.
ROOM_LEFT = 256


def round_budget(tokens: int) -> int:
    """The smallest budget of this engine that is not below `tokens`."""
    return max(1, -(-tokens // BUDGET_STEP)) * BUDGET_STEP


def buffer_size(length: int, budget: int) -> int:
    """Tokens of the buffer for a sequence of `length` tokens: `budget` doubled until it fits."""
    size = budget
    while size < length:
        size *= 2
    return size


@dataclass
class PackedBatch(Generic[Key]):
    """Sequences that share a buffer of `size` tokens, back to back in the order of `keys`."""

    size: int
    keys: list[Key] = field(default_factory=list)
    ids: list[NDArray[np.int64]] = field(default_factory=list)
    used: int = 0

    @property
    def lengths(self) -> list[int]:
        """Tokens of each sequence."""
        return [len(ids) for ids in self.ids]

    def add(self, key: Key, ids: NDArray[np.int64]) -> None:
        """Append one sequence; the caller has checked that it fits."""
        self.keys.append(key)
        self.ids.append(ids)
        self.used += len(ids)

    def tokens(self, pad_id: int) -> NDArray[np.int64]:
        """(size,) ids of the whole buffer, its tail filled with the inert `pad_id`."""
        buffer = np.full(self.size, pad_id, dtype=np.int64)
        if self.ids:
            buffer[: self.used] = np.concatenate(self.ids)
        return buffer


class Packer(Generic[Key]):
    """Packs a stream of sequences best-fit into a few open buffers of each shape."""

    def __init__(self, budget: int) -> None:
        self.budget = budget
        self._open: dict[int, list[PackedBatch[Key]]] = {}

    def add(self, key: Key, ids: NDArray[np.int64]) -> Iterator[PackedBatch[Key]]:
        """Add one sequence; yields a buffer if one had to be closed for it."""
        size = buffer_size(len(ids), self.budget)
        batches = self._open.setdefault(size, [])
        fitting = [batch for batch in batches if batch.used + len(ids) <= size]
        best = max(fitting, key=lambda batch: batch.used, default=None)
        if best is None:
            if len(batches) >= OPEN_BUFFERS:
                fullest = max(range(len(batches)), key=lambda i: batches[i].used)
                yield batches.pop(fullest)
            best = PackedBatch(size)
            batches.append(best)
        best.add(key, ids)
        if best.used > size - size // ROOM_LEFT:
            batches.remove(best)
            yield best

    def flush(self) -> Iterator[PackedBatch[Key]]:
        """Close every open buffer, the fullest first."""
        for batches in self._open.values():
            yield from sorted(batches, key=lambda batch: -batch.used)
        self._open.clear()
