"""Input files → work files: the unit of work, of failure, of resuming.

Work files grow with the input: none holds more than a small share of what came before it, up to the size asked for. So
even a small input keeps every device busy, and a bin-packing plan has small files to even things out with, though a
stream's length is not known beforehand. Memory stays flat.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from virnucpro.errors import InputError
from virnucpro.input.fasta import DNA, PROTEIN, Alphabet, BadRecord, Record, looks_like_dna, read_records, write_fasta
from virnucpro.io.files import SummedFile
from virnucpro.runs.paths import RunPaths

logger = logging.getLogger("virnucpro.split")

#: A work file holds at least this many sequences (but for the last), if so many are allowed at all …
FEWEST_SEQUENCES = 8
#: … and at most this share, for each device, of the sequences before it …
SHARE_OF_A_DEVICE = 1 / 8
#: … nor more bases than this, so that long sequences are spread too.
MOST_BASES = 20_000_000
#: Ids that later ones are compared with: about 70 bytes each.
MOST_WATCHED = 1_000_000


@dataclass
class Part:
    """A work file.

    sha256: checksum, once it is written; origins: runs of (input index, first record number there, records) that it was
    cut from.
    """

    name: str
    sequences: int = 0
    bases: int = 0
    sha256: str = ""
    origins: list[list[int]] = field(default_factory=list)

    def add(self, input_index: int, record: Record) -> None:
        """Count one record in."""
        self.sequences += 1
        self.bases += len(record.sequence)
        if self.origins:
            index, first, count = self.origins[-1]
            if index == input_index and first + count == record.number:
                self.origins[-1][2] += 1
                return
        self.origins.append([input_index, record.number, 1])

    def origin(self, number: int) -> tuple[int, int]:
        """(input index, record number there) of record `number` (from 1) of this work file."""
        before = number - 1
        for index, first, count in self.origins:
            if before < count:
                return index, first + before
            before -= count
        raise IndexError(f"{self.name} has no record {number}")


@dataclass(frozen=True)
class Rejected:
    """A record, or with record 0 the rest of a file, that could not be used."""

    input_index: int
    record: int
    id: str
    reason: str


@dataclass
class Plan:
    """How an input was split."""

    parts: list[Part] = field(default_factory=list)
    rejected: list[Rejected] = field(default_factory=list)

    @property
    def sequences(self) -> int:
        """Sequences in all work files."""
        return sum(part.sequences for part in self.parts)

    def to_json(self) -> dict[str, Any]:
        """Plain values for the run record."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Plan:
        """The plan in a run record."""
        return cls([Part(**part) for part in values["parts"]], [Rejected(**item) for item in values["rejected"]])


def part_limit(before: int, most: int, devices: int) -> int:
    """The most sequences of the next work file, when the ones before hold `before` of them."""
    return min(most, max(FEWEST_SEQUENCES, int(before * SHARE_OF_A_DEVICE / devices)))


class NameWatch:
    """Warns once when an id comes again, and once when a record has none of its own."""

    def __init__(self) -> None:
        #: Hashes of the first ids: a set of the ids themselves would be several times larger.
        self._seen: set[int] = set()
        self._warned_again = self._warned_note = False

    def see(self, record: Record) -> None:
        """Take note of one record's id."""
        key = hash(record.id)
        if key in self._seen and not self._warned_again:
            logger.warning("the id %r occurs more than once; all are kept, in input order", record.id[:80])
            self._warned_again = True
        if len(self._seen) < MOST_WATCHED:
            self._seen.add(key)
        if record.note and not self._warned_note:
            logger.warning("a record has %s and is called %s, by its place in its file", record.note, record.id)
            self._warned_note = True


class Splitter:
    """Cuts inputs into work files of at most `most` sequences, sized for `devices` devices."""

    def __init__(self, paths: RunPaths, most: int, devices: int, alphabet: Alphabet = DNA) -> None:
        self.paths, self.most, self.devices, self.alphabet = paths, most, devices, alphabet
        self.plan = Plan()
        self._part: Part | None = None
        self._file: SummedFile | None = None
        self._limit = 0
        self._total = 0
        self._names = NameWatch()

    def split(self, inputs: Iterable[Path], names: Sequence[Path]) -> Plan:
        """Write the work files. Raises InputError when no input holds a usable sequence; bad records go to the plan."""
        for index, path in enumerate(inputs):
            try:
                if self.alphabet is PROTEIN and looks_like_dna(path):
                    raise InputError(
                        f"{path} looks like DNA, and the model embeds proteins",
                        hint="translate it (`virnucpro orfs` finds open frames), or choose a DNA model",
                    )
                for record in read_records(path, self.alphabet):
                    if isinstance(record, BadRecord):
                        self._reject(index, record.renamed(path, names[index]))
                    else:
                        self._take(index, record)
            except InputError as error:
                self._reject(index, BadRecord("", 0, str(error)).renamed(path, names[index]))
        self._close()
        return self.plan

    def _take(self, index: int, record: Record) -> None:
        self._names.see(record)
        if self._part is None:
            self._open()
        assert self._part is not None
        assert self._file is not None
        write_fasta(self._file, record.header, record.sequence)
        self._part.add(index, record)
        self._total += 1
        if self._part.sequences >= self._limit or self._part.bases >= MOST_BASES:
            self._close()

    def _reject(self, index: int, record: BadRecord) -> None:
        self.plan.rejected.append(Rejected(index, record.number, record.id, record.reason))

    def _open(self) -> None:
        self._limit = part_limit(self._total, self.most, self.devices)
        path = self.paths.part(len(self.plan.parts) + 1)
        self._part = Part(path.name)
        self._file = SummedFile(path)

    def _close(self) -> None:
        if self._part is not None and self._file is not None:
            self._file.close()
            self._part.sha256 = self._file.sha256
            self.plan.parts.append(self._part)
        self._part = self._file = None
