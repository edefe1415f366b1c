"""Work files and what was cut from what: the plan, and the index that stands beside each work file.

Inside, a frame is known by numbers: `{sequence}_{window}{frame}`, such as `17_3R1`, where the sequence is counted over
all of the input. So ids that occur twice, or hold anything, cannot be mixed up (DESIGN rule 5).

An index holds a JSON list a line, in input order: each sequence, and each of its windows, also those that hold nothing
to read. Records of a work file of records have a line only where they cannot be used, or do not follow the record
before them in its input.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import count, zip_longest
from pathlib import Path
from typing import NamedTuple

#: In a key, in place of a frame's name: the window as it stands.
WHOLE = "W"


@dataclass(frozen=True)
class WorkFile:
    """A work file that was written: windows, or records, in it, frames of them, and those that are embedded whole.

    sums: sha256 of its files.
    """

    name: str
    windows: int
    frames: int
    whole: int
    sums: list[str]


@dataclass
class Plan:
    """How an input was cut; bases: letters of the sequences that can be used."""

    parts: list[WorkFile] = field(default_factory=list)
    sequences: int = 0
    bases: int = 0

    @property
    def whole(self) -> int:
        """Windows, or records, that are embedded as they stand."""
        return sum(part.whole for part in self.parts)


class IndexedSequence(NamedTuple):
    """A record of the input, in the index."""

    #: Place in all of the input, from 0.
    number: int
    input_index: int
    #: Place in its input, from 1; 0 for what could not be read of a file.
    record: int
    id: str
    #: Letters; 0 for a record that cannot be used.
    length: int
    #: Why it has no windows; empty if it has.
    reason: str
    #: Whether that is a failure, and no matter of settings.
    failed: bool
    #: What else the user should know of it; empty if nothing.
    note: str = ""

    @property
    def failure(self) -> tuple[int, int, str, str]:
        """Of one that cannot be used: index of the input, record, id, reason."""
        return self.input_index, self.record, self.id, self.reason

    def follows(self, other: IndexedSequence | None) -> bool:
        """Whether both can be used, and this one comes next in the same input."""
        if other is None or other.failed or self.failed:
            return False
        return (self.input_index, self.record) == (other.input_index, other.record + 1)


class IndexedWindow(NamedTuple):
    """A window, in the index: bases `start` to `end` of its sequence, from 0, `end` excluded."""

    #: `{number of the sequence}_{number of the window, from 1}`.
    key: str
    start: int
    end: int
    #: Names of the open frames, in their order.
    frames: tuple[str, ...]
    #: Why there is none; empty if there is one, or if the window is read as it stands.
    reason: str
    #: Bases that are none of A, C, G and T: they do not count where windows are weighed.
    unknown: int = 0

    @property
    def number(self) -> int:
        """Place in the sequence, from 1."""
        return int(self.key.partition("_")[2])


def window_key(key: str) -> str:
    """The key of the window that a frame, or a whole window, of that key belongs to."""
    return key.removesuffix(WHOLE) if key.endswith(WHOLE) else key[:-2]


def index_line(row: IndexedSequence | IndexedWindow) -> bytes:
    """A row as it stands in an index."""
    kind = "sequence" if isinstance(row, IndexedSequence) else "window"
    return json.dumps((kind, *row)).encode() + b"\n"


def read_index(path: Path) -> Iterator[IndexedSequence | IndexedWindow]:
    """The rows of a work file's index; a sequence that began in an earlier one comes again before its windows."""
    with open(path, encoding="utf-8") as lines:
        for line in lines:
            kind, *row = json.loads(line)
            if kind == "sequence":
                yield IndexedSequence(*row)
            else:
                key, start, end, frames, reason, unknown = row
                yield IndexedWindow(key, start, end, tuple(frames), reason, unknown)


def origins(sequences: Sequence[IndexedSequence]) -> Iterator[tuple[int, int]]:
    """(input index, number there) of each record of a work file of records, by its index; without end."""
    for first, after in zip_longest(sequences, sequences[1:]):
        run = count() if after is None else range(after.number - first.number)
        if not first.failed:
            yield from ((first.input_index, first.record + step) for step in run)
