"""Work files and what was cut from what: the plan, and the index next to each work file.

Internally a frame is identified by numbers: `{sequence}_{window}{frame}`, such as `17_3R1`, with sequences counted over
all of the input. So ids that occur twice, or contain anything, cannot be mixed up (DESIGN rule 5).

An index has one JSON list per line, in input order: each sequence and each of its windows, also those without anything
to read. Records of a work file of records have a line only if they cannot be used, or do not follow the record before
them in its input.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import count, zip_longest
from pathlib import Path
from typing import NamedTuple

#: In a key, in place of a frame's name: the whole window.
WHOLE = "W"


@dataclass(frozen=True)
class WorkFile:
    """A work file that was written: its windows or records, their frames, and how many are embedded as a whole.

    sums: sha256 of its files.
    """

    name: str
    windows: int
    frames: int
    whole: int
    sums: list[str]


@dataclass
class Plan:
    """How an input was cut; parts: its work files; bases: letters of the sequences that can be used."""

    parts: list[WorkFile] = field(default_factory=list)
    sequences: int = 0
    bases: int = 0

    @property
    def whole(self) -> int:
        """Windows or records that are embedded as a whole."""
        return sum(part.whole for part in self.parts)


class IndexedSequence(NamedTuple):
    """A record of the input, in the index."""

    #: Place in all of the input, from 0.
    number: int
    input_index: int
    #: Place in its input, from 1; 0 for the part of a file that could not be read.
    record: int
    id: str
    #: Letters; 0 for a record that cannot be used.
    length: int
    #: Why it has no windows; empty if it has.
    reason: str
    #: Whether that is a failure and not a consequence of settings.
    failed: bool
    #: What else the user should know about it; empty if nothing.
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
    #: Why there is none; empty if there is one, or if the window is read as a whole.
    reason: str
    #: Bases other than A, C, G and T: they do not count in the weights of windows.
    unknown: int = 0

    @property
    def number(self) -> int:
        """Place in the sequence, from 1."""
        return int(self.key.partition("_")[2])


def window_key(key: str) -> str:
    """The key of the window to which a frame, or a whole window, with that key belongs."""
    return key.removesuffix(WHOLE) if key.endswith(WHOLE) else key[:-2]


def index_line(row: IndexedSequence | IndexedWindow) -> bytes:
    """A row as it is written in an index."""
    kind = "sequence" if isinstance(row, IndexedSequence) else "window"
    return json.dumps((kind, *row)).encode() + b"\n"


def read_index(path: Path) -> Iterator[IndexedSequence | IndexedWindow]:
    """The rows of a work file's index; a sequence that began in an earlier one is repeated before its windows."""
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
