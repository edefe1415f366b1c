"""Cut records into windows by the published rule: they cover the whole record, in steps that are as even as possible.

Source: the windows ("chunks") of VirNucPro, Li et al. 2025, doi:10.1093/bib/bbaf224. Its classifiers were trained on
windows of 300 and of 500 bases.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

DEFAULT_SIZE = 500
#: Bases of the shortest window that is read as a whole: each of its six frames has two codons.
SHORTEST = 8


class Window(NamedTuple):
    """Bases `start` to `end` (from 0, `end` excluded) of a record."""

    #: See `published_id`.
    id: str
    start: int
    end: int
    #: As written in the record: case is kept.
    sequence: str


def window_count(length: int, size: int) -> int:
    """How many windows a record has."""
    return -(-length // size)


def window_bounds(length: int, size: int = DEFAULT_SIZE) -> Iterator[tuple[int, int]]:
    """Start and end, in bases, of each of a record's ceil(length / size) windows; none for an empty record.

    The surplus by which n windows of the full size are longer than the record is distributed as overlaps of `surplus //
    n` bases; the first overlaps are one base longer, until the surplus is used up. So the last window may be shorter
    than `size`, and a record of at most `size` bases is one window. Raises ValueError if `size` is not positive.
    """
    if size < 1:
        raise ValueError(f"a window needs a size of at least 1 base, not {size}")
    if not length:
        return
    # Integers one by one: where most records are reads of one window, an array costs more than it saves.
    number = window_count(length, size)
    surplus = number * size - length
    overlap = surplus // number
    longer = surplus - overlap * (number - 1)
    for index in range(number):
        start = index * (size - overlap) - min(index, longer)
        yield start, min(start + size, length)


def unknown_bases(sequence: str) -> int:
    """How many letters of an upper-case sequence are other than A, C, G and T."""
    return len(sequence) - sum(map(sequence.count, "ACGT"))


def published_id(record_id: str, window: int, frame: str = "") -> str:
    """What the published tool calls a window, by its number from 1, or one of its frames."""
    return f"{record_id}_chunk_{window}{frame}"


def iter_windows(record_id: str, sequence: str, size: int = DEFAULT_SIZE) -> Iterator[Window]:
    """The windows of a record in their order; none for an empty record, which the caller has to report.

    Raises ValueError if `size` is not positive.
    """
    for number, (start, end) in enumerate(window_bounds(len(sequence), size), 1):
        yield Window(published_id(record_id, number), start, end, sequence[start:end])
