"""Records → windows → open frames → work files for the encoders, and an index of what was cut from what.

Inside, a frame is known by numbers: `{sequence}_{window}{frame}`, such as `17_3R1`, where the sequence is counted over
all of the input. So ids that occur twice, or hold anything, cannot be mixed up (DESIGN rule 5). A work file is three
files of one name: `.fna` and `.faa` hold the frames' nucleotides and proteins, `.index` a JSON list a line for each
sequence and each window, also those without a frame, in input order.

For a set that reads whole windows, `.fna` holds these, and there are no frames and no `.faa`.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

from virnucpro.errors import InputError
from virnucpro.input.fasta import BadRecord, Record, read_records, write_fasta
from virnucpro.input.frames import ALL_STOPPED, NO_CODON, Scan, scan_windows
from virnucpro.input.windows import SHORTEST, Window, unknown_bases, window_bounds
from virnucpro.io.files import SummedFile
from virnucpro.models.card import Reads
from virnucpro.pipeline.split import NameWatch, part_limit
from virnucpro.runs.paths import RunPaths

#: Of the files of a work file, by what the set reads.
SUFFIXES: Mapping[Reads, tuple[str, ...]] = {"frames": (".fna", ".faa", ".index"), "windows": (".fna", ".index")}

#: In a key, in place of a frame's name: the window as it stands.
WHOLE = "W"

#: Windows in a work file for each frame that it may hold, so that input without frames does not make one large file.
WINDOWS_A_FRAME = 8
#: Rows of an index with which no further sequence begins in it: those that are too short have no windows to count.
MOST_ROWS = 50_000
#: Sequences that may wait for windows before them to be scanned; many at once are scanned faster.
MOST_AHEAD = 10_000

#: Why a window is not read as a whole, if it is not that it has no codon.
TOO_SHORT = f"shorter than {SHORTEST} bases"


class IndexedSequence(NamedTuple):
    """A record of the input, in the index."""

    #: Place in all of the input, from 0.
    number: int
    input_index: int
    #: Place in its input, from 1; 0 for what could not be read of a file.
    record: int
    id: str
    #: Bases; 0 for a record that cannot be used.
    length: int
    #: Why it has no windows; empty if it has.
    reason: str
    #: Whether that is a failure, and no matter of settings.
    failed: bool
    #: What else the user should know of it; empty if nothing.
    note: str = ""


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
    #: Bases that are none of A, C, G and T: they do not count where windows are weighed.
    unknown: int = 0

    @property
    def number(self) -> int:
        """Place in the sequence, from 1."""
        return int(self.key.partition("_")[2])


@dataclass
class FramePart:
    """A work file; `sums`: sha256 of its files."""

    name: str
    windows: int = 0
    frames: int = 0
    #: Windows that are embedded as they stand.
    whole: int = 0
    sums: list[str] = field(default_factory=list)


@dataclass
class FramePlan:
    """How an input was cut."""

    parts: list[FramePart] = field(default_factory=list)
    sequences: int = 0
    bases: int = 0

    def to_json(self) -> dict[str, Any]:
        """Plain values for the run record."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> FramePlan:
        """The plan in a run record."""
        return cls([FramePart(**part) for part in values["parts"]], values["sequences"], values["bases"])

    @property
    def frames(self) -> int:
        """Open frames in all work files."""
        return sum(part.frames for part in self.parts)


@dataclass(frozen=True)
class Rules:
    """How sequences are cut.

    window: bases; exact: frames without the extra base; min_length: the shortest sequence that is scored; dna_only:
    windows with stop codons in all frames are scored, too, by their DNA alone; reads: what is embedded of a window.
    """

    window: int
    exact: bool
    min_length: int
    dna_only: bool = False
    reads: Reads = "frames"

    @property
    def suffixes(self) -> tuple[str, ...]:
        """Of the files of a work file."""
        return SUFFIXES[self.reads]

    def scan(self, windows: Iterable[Window]) -> Iterator[Scan]:
        """What is found in each window, in order; in one that is read as a whole, nothing is sought."""
        if self.reads == "frames":
            return scan_windows(windows, exact=self.exact)
        return (Scan(window, [], _why_not(window.sequence)) for window in windows)

    def whole(self, reason: str) -> bool:
        """Whether a window without frames, for that reason, is embedded as it stands."""
        return self.dna_only and reason == ALL_STOPPED if self.reads == "frames" else not reason


def _why_not(sequence: str) -> str:
    """Why a window is not read as a whole; empty if it is."""
    if len(sequence) < SHORTEST:
        return TOO_SHORT
    return "" if _CODON.search(sequence) else NO_CODON


_CODON = re.compile("[ACGT]{3}")


class FrameSplitter:
    """Cuts inputs into work files of at most about `most` frames, sized for `devices` devices."""

    def __init__(self, paths: RunPaths, rules: Rules, most: int, devices: int) -> None:
        self.paths, self.rules, self.most, self.devices = paths, rules, most, devices
        self.plan = FramePlan()
        #: Of the work file that is open: the most frames, and the rows of its index so far.
        self._limit = self._rows = 0
        #: What is to be embedded, of all work files.
        self._embedded = 0
        self._files: dict[str, SummedFile] = {}
        #: Sequences that were read but are not in the index yet: windows are scanned many at a time.
        self._ahead: deque[IndexedSequence] = deque()
        #: The last sequence in the index.
        self._current: IndexedSequence | None = None
        self._names = NameWatch()

    def split(self, inputs: Iterable[Path], names: Sequence[Path]) -> FramePlan:
        """Write the work files; what cannot be used stands in their indices. Raises OSError."""
        with contextlib.closing(self):
            records = self._records(inputs, names)
            while (first := next(records, None)) is not None:
                for scan in self.rules.scan(self._windows(chain((first,), records))):
                    self._take(scan)
                self._index_sequences(self.plan.sequences)
        return self.plan

    def _records(self, inputs: Iterable[Path], names: Sequence[Path]) -> Iterator[tuple[int, Record | BadRecord]]:
        for index, path in enumerate(inputs):
            try:
                for record in read_records(path):
                    yield index, record.renamed(path, names[index]) if isinstance(record, BadRecord) else record
            except InputError as error:
                yield index, BadRecord("", 0, str(error)).renamed(path, names[index])

    def _windows(self, records: Iterable[tuple[int, Record | BadRecord]]) -> Iterator[Window]:
        """The windows of the next records, not of all if many wait."""
        for index, record in records:
            sequence = self._described(index, record)
            self._ahead.append(sequence)
            self.plan.sequences += sequence.record > 0
            self.plan.bases += sequence.length
            if isinstance(record, Record) and not sequence.reason:
                bounds = window_bounds(sequence.length, self.rules.window)
                for place, (start, end) in enumerate(bounds, 1):
                    yield Window(f"{sequence.number}_{place}", start, end, record.sequence[start:end])
            if len(self._ahead) >= MOST_AHEAD:
                return

    def _described(self, index: int, record: Record | BadRecord) -> IndexedSequence:
        number = self.plan.sequences
        if isinstance(record, BadRecord):
            return IndexedSequence(number, index, record.number, record.id, 0, record.reason, True)
        self._names.see(record)
        length, reason = len(record.sequence), self._too_short(record.sequence)
        return IndexedSequence(number, index, record.number, record.id, length, reason, False, record.note)

    def _too_short(self, sequence: str) -> str:
        """Why a sequence is not cut into windows; empty if it is. Bases that are not known do not make it longer."""
        least = self.rules.min_length
        if len(sequence) < least:
            return f"shorter than {least} bases (--min-length)"
        if len(sequence) - unknown_bases(sequence) < least:
            return f"fewer than {least} known bases (--min-length)"
        return ""

    def _take(self, scan: Scan) -> None:
        """Write one window and its frames."""
        key = scan.window.id
        self._index_sequences(int(key.partition("_")[0]))
        names = tuple(frame.name for frame in scan.frames)
        unknown = unknown_bases(scan.window.sequence)
        self._index("window", IndexedWindow(key, scan.window.start, scan.window.end, names, scan.reason, unknown))
        for frame in scan.frames:
            write_fasta(self._files[".fna"], key + frame.name, frame.nucleotide)
            write_fasta(self._files[".faa"], key + frame.name, frame.protein)
        part = self.plan.parts[-1]
        part.windows += 1
        part.frames += len(names)
        whole = not scan.frames and self.rules.whole(scan.reason)
        if whole:
            write_fasta(self._files[".fna"], key + WHOLE, scan.window.sequence)
        part.whole += whole
        self._embedded += len(names) + whole
        if part.frames + part.whole >= self._limit or part.windows >= WINDOWS_A_FRAME * self._limit:
            self.close()

    def _index_sequences(self, last: int) -> None:
        """Write down the sequences up to number `last` that are not in the index yet."""
        while self._ahead and self._ahead[0].number <= last:
            self._current = None  # else a new work file would begin with the one before
            if self._rows >= MOST_ROWS:
                self.close()
            self._index("sequence", sequence := self._ahead.popleft())
            self._current = sequence

    def _index(self, kind: str, row: IndexedSequence | IndexedWindow) -> None:
        if not self._files:
            self._open()
        self._rows += 1
        self._files[".index"].write(json.dumps((kind, *row)).encode() + b"\n")

    def _open(self) -> None:
        """Begin a work file; a sequence that runs on into it is named again."""
        self._rows = 0
        self._limit = part_limit(self._embedded, self.most, self.devices)
        name = f"{len(self.plan.parts) + 1:06d}"
        self.plan.parts.append(FramePart(name))
        self._files = {suffix: SummedFile(self.paths.part_file(name, suffix)) for suffix in self.rules.suffixes}
        if self._current is not None:
            self._index("sequence", self._current)

    def close(self) -> None:
        """End the work file that is open, if one is."""
        files, self._files = self._files, {}  # first, for a full disk is met here, and `close` then called again
        with contextlib.ExitStack() as stack:
            for file in files.values():
                stack.enter_context(file)
        if files:
            self.plan.parts[-1].sums = [file.sha256 for file in files.values()]


def window_key(key: str) -> str:
    """The key of the window that a frame, or a whole window, of that key belongs to."""
    return key.removesuffix(WHOLE) if key.endswith(WHOLE) else key[:-2]


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
