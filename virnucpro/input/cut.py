"""Inputs → sequences → windows → open frames → work files, the unit of work, failure and resuming.

The encoders read the open frames of a sequence's windows, or whole windows, or the whole record. A work file is several
files of one name: `.fna` and `.faa` hold nucleotides and proteins of frames, `.fna` also whole windows, `.fa` records;
`.index` says what was cut from what (`input/index.py`).

Work files grow with the input: none holds more than a small share of what came before it, up to the requested size. So
even a small input keeps every device busy, and a bin-packing plan has small files to balance with, although the length
of a stream is not known beforehand. Memory stays flat.
"""

from __future__ import annotations

import contextlib
import logging
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import BinaryIO, Literal

from virnucpro.core.words import counted
from virnucpro.errors import InputError
from virnucpro.input.fasta import DNA, PROTEIN, Alphabet, BadRecord, Record, looks_like_dna, read_records, write_fasta
from virnucpro.input.frames import ALL_STOPPED, BATCH_BASES, NO_CODON, Scan, batches, scan_windows
from virnucpro.input.index import WHOLE, IndexedSequence, IndexedWindow, Plan, WorkFile, index_line
from virnucpro.input.windows import DEFAULT_SIZE, SHORTEST, Window, iter_windows, unknown_bases, window_count
from virnucpro.io.files import BUFFER, sealed

logger = logging.getLogger("virnucpro.cut")

#: Suffixes of the files of a work file, by what is read.
SUFFIXES: Mapping[str, tuple[str, ...]] = {
    "frames": (".fna", ".faa", ".index"),
    "windows": (".fna", ".index"),
    "records": (".fa", ".index"),
}

#: A work file may hold this many frames, windows or records, if so many are allowed at all …
FEWEST_SEQUENCES = 8
#: … and at most this share, for each device, of those before it …
SHARE_OF_A_DEVICE = 1 / 8
#: … nor more bases than this, so that long records are spread too …
MOST_BASES = 20_000_000
#: … nor more windows for each frame that it may hold, so that input without frames does not make one large file …
WINDOWS_A_FRAME = 8
#: … and with so many rows of its index no further sequence begins in it: those that are too short have no windows.
MOST_ROWS = 50_000

#: Bases of the sequences that are read ahead, since scanning many windows at a time is faster; each sequence counts a
#: few bases more than it has.
AHEAD_BASES, AHEAD_BASES_A_SEQUENCE = 4 * BATCH_BASES, 25
#: Ids with which later ones are compared; about 70 bytes each.
MOST_WATCHED = 1_000_000

#: Why a window is not read as a whole, unless it has no codon.
TOO_SHORT = f"shorter than {SHORTEST} bases"
_CODON = re.compile("[ACGT]{3}")


@dataclass(frozen=True)
class Rules:
    """How sequences are cut.

    reads: what is embedded of a sequence; alphabet: of the records. If windows are cut: window: their size in bases;
    min_length: the shortest sequence that is scored. If frames are read: exact: without the extra base; dna_only: also
    score windows with stop codons in all frames, by their DNA alone.
    """

    window: int = DEFAULT_SIZE
    exact: bool = False
    min_length: int = 0
    dna_only: bool = False
    reads: Literal["frames", "windows", "records"] = "frames"
    alphabet: Alphabet = DNA

    @property
    def suffixes(self) -> tuple[str, ...]:
        """Suffixes of the files of a work file."""
        return SUFFIXES[self.reads]

    def too_short(self, sequence: str) -> str:
        """Why a sequence is not cut; empty if it is. Bases that are not known do not make it longer."""
        least = self.min_length
        if len(sequence) < least:
            return f"shorter than {counted(least, 'bases')} (--min-length)"
        if least and len(sequence) - unknown_bases(sequence) < least:
            return f"fewer than {counted(least, 'known bases')} (--min-length)"
        return ""

    def scan(self, windows: Iterable[Window]) -> Iterator[Scan]:
        """What is found in each window, in order; windows that are read as a whole are not searched."""
        if self.reads == "frames":
            return scan_windows(windows, exact=self.exact)
        return (Scan(window, [], _why_not(window.sequence)) for window in windows)

    def reads_whole(self, scan: Scan) -> bool:
        """Whether a window is embedded as a whole."""
        return self.dna_only and scan.reason == ALL_STOPPED if self.reads == "frames" else not scan.reason


def _why_not(sequence: str) -> str:
    """Why a window is not read as a whole; empty if it is."""
    if len(sequence) < SHORTEST:
        return TOO_SHORT
    return "" if _CODON.search(sequence) else NO_CODON


# What is in the input.


def read_sequences(
    paths: Iterable[Path], names: Iterable[Path], rules: Rules
) -> Iterator[tuple[IndexedSequence, Record | None]]:
    """The sequences of all inputs, in order, each with its record; None for what is not to be read.

    The part of a file that cannot be read comes after its records, and is not one of the numbered sequences. names: the
    names of the files in messages, since `paths` may be copies.
    """
    number = 0
    for index, (path, name) in enumerate(zip(paths, names, strict=True)):
        for record in _records(path, rules.alphabet):
            place = number, index, record.number, record.id
            if isinstance(record, BadRecord):
                yield IndexedSequence(*place, 0, record.reason.replace(str(path), str(name)), True), None
            else:
                reason = rules.too_short(record.sequence)
                sequence = IndexedSequence(*place, len(record.sequence), reason, False, record.note)
                yield sequence, None if reason else record
            number += record.number > 0


def _records(path: Path, alphabet: Alphabet) -> Iterator[Record | BadRecord]:
    """The records of a file; number 0 for what could not be read of it."""
    try:
        if alphabet is PROTEIN and looks_like_dna(path):
            raise InputError(
                f"{path} looks like DNA, but the model embeds proteins",
                hint="translate it (`virnucpro orfs` finds open frames), or choose a DNA model",
            )
        yield from read_records(path, alphabet)
    except InputError as error:
        yield BadRecord("", 0, str(error))


def scan_sequences(
    sequences: Iterable[tuple[IndexedSequence, Record | None]], rules: Rules
) -> Iterator[tuple[IndexedSequence, Iterator[Scan]]]:
    """Each of `read_sequences` with its windows and what was found in them, to be taken before the next sequence is."""
    size = rules.window
    for batch in batches(sequences, lambda pair: pair[0].length + AHEAD_BASES_A_SEQUENCE, AHEAD_BASES):
        windows = (iter_windows(each.id, record.sequence, size) for each, record in batch if record is not None)
        scans = rules.scan(chain.from_iterable(windows))
        for sequence, record in batch:
            yield sequence, islice(scans, 0 if record is None else window_count(sequence.length, size))


class NameWatch:
    """Warns once when an id is repeated, and once when a record has no id."""

    def __init__(self) -> None:
        #: Hashes of the first ids; a set of the ids themselves would be several times larger.
        self._seen: set[int] = set()
        self._warned_again = self._warned_note = False

    def see(self, sequence: IndexedSequence) -> None:
        """Note the id of a usable record."""
        if sequence.failed:
            return
        key = hash(sequence.id)
        if key in self._seen and not self._warned_again:
            logger.warning("the id %r occurs more than once; all are kept, in input order", sequence.id[:80])
            self._warned_again = True
        if len(self._seen) < MOST_WATCHED:
            self._seen.add(key)
        if sequence.note and not self._warned_note:
            logger.warning(
                "a record has %s and is called %s, after its position in its file", sequence.note, sequence.id
            )
            self._warned_note = True


# Work files.


def part_limit(before: int, most: int, devices: int) -> int:
    """The most frames, windows or records of the next work file, when the ones before hold `before` of them."""
    return min(most, max(FEWEST_SEQUENCES, int(before * SHARE_OF_A_DEVICE / devices)))


class Cutter:
    """Cuts inputs into work files of at most about `most` frames, windows or records, sized for `devices` devices.

    part_file: where the file of a name and a suffix stands; on_work: called when a work file with something to embed is
    written, and another begins.
    """

    def __init__(
        self,
        rules: Rules,
        part_file: Callable[[str, str], Path],
        most: int,
        devices: int,
        on_work: Callable[[], None] = lambda: None,
    ) -> None:
        self.rules, self.part_file, self.most, self.devices, self.on_work = rules, part_file, most, devices, on_work
        self.plan = Plan()
        self._names = NameWatch()
        self._embedded = 0
        self._open: _OpenFile | None = None

    def cut(self, inputs: Iterable[Path], names: Sequence[Path]) -> Plan:
        """Write the work files; what cannot be used stands in their indices. Raises OSError."""
        with contextlib.closing(self):
            sequences = read_sequences(inputs, names, self.rules)
            if self.rules.reads == "records":
                self._take_records(sequences)
            else:
                self._take_windows(scan_sequences(sequences, self.rules))
        return self.plan

    def _take_records(self, sequences: Iterable[tuple[IndexedSequence, Record | None]]) -> None:
        for sequence, record in sequences:
            file = self._begin(sequence)
            if record is not None:
                file.write_record(record)

    def _take_windows(self, sequences: Iterable[tuple[IndexedSequence, Iterable[Scan]]]) -> None:
        for sequence, scans in sequences:
            file = self._begin(sequence)
            for place, scan in enumerate(scans, 1):
                if file.is_full:
                    file = self._next_file()
                    file.begin(sequence)  # again in each work file into which it continues
                file.write_window(f"{sequence.number}_{place}", scan)

    def _begin(self, sequence: IndexedSequence) -> _OpenFile:
        """The work file in which a sequence begins."""
        self.plan.sequences += sequence.record > 0
        self.plan.bases += sequence.length
        self._names.see(sequence)
        file = self._open
        if file is None or file.is_full or file.rows >= MOST_ROWS:
            file = self._next_file()
        file.begin(sequence)
        return file

    def _next_file(self) -> _OpenFile:
        self.close()
        if self.plan.parts and self.plan.parts[-1].frames + self.plan.parts[-1].whole:
            self.on_work()
        name = f"{len(self.plan.parts) + 1:06d}"
        paths = {suffix: self.part_file(name, suffix) for suffix in self.rules.suffixes}
        files = {suffix: open(path, "wb", BUFFER) for suffix, path in paths.items()}  # noqa: SIM115  # closed by closed
        self._open = _OpenFile(self.rules, name, files, part_limit(self._embedded, self.most, self.devices))
        return self._open

    def close(self) -> None:
        """End the work file that is open, if one is."""
        file, self._open = self._open, None  # first: on a full disk this fails, and `close` is called again
        if file is not None:
            self.plan.parts.append(file.closed())
            self._embedded += file.frames + file.whole


class _OpenFile:
    """A work file that is being written; limit: of frames, windows or records that are embedded."""

    def __init__(self, rules: Rules, name: str, files: Mapping[str, BinaryIO], limit: int) -> None:
        self.rules, self.name, self.files, self.limit = rules, name, files, limit
        self.rows = self.windows = self.frames = self.whole = self.bases = 0
        self._nucleotides = files[rules.suffixes[0]]
        self._sequence: IndexedSequence | None = None

    @property
    def is_full(self) -> bool:
        """Whether no window may be added."""
        many = self.frames + self.whole >= self.limit or self.windows >= WINDOWS_A_FRAME * self.limit
        return many or self.bases >= MOST_BASES

    def begin(self, sequence: IndexedSequence) -> None:
        """Begin a sequence: what is written next belongs to it."""
        if self.rules.reads != "records" or not sequence.follows(self._sequence):
            self._index(sequence)
        self._sequence = sequence

    def write_record(self, record: Record) -> None:
        """Add the whole sequence."""
        write_fasta(self._nucleotides, record.header, record.sequence)
        self.windows += 1
        self.whole += 1
        self.bases += len(record.sequence)

    def write_window(self, key: str, scan: Scan) -> None:
        """Add one window of the sequence, and its frames."""
        window, frames, reason = scan
        names = tuple(frame.name for frame in frames)
        self._index(IndexedWindow(key, window.start, window.end, names, reason, unknown_bases(window.sequence)))
        for name, protein, nucleotide in frames:
            write_fasta(self._nucleotides, key + name, nucleotide)
            write_fasta(self.files[".faa"], key + name, protein)
        if whole := self.rules.reads_whole(scan):
            write_fasta(self._nucleotides, key + WHOLE, window.sequence)
        self.windows += 1
        self.frames += len(frames)
        self.whole += whole
        self.bases += len(window.sequence)

    def _index(self, row: IndexedSequence | IndexedWindow) -> None:
        self.rows += 1
        self.files[".index"].write(index_line(row))

    def closed(self) -> WorkFile:
        """Close all its files; returns what is in them. Raises OSError."""
        with contextlib.ExitStack() as stack:
            for file in self.files.values():
                stack.enter_context(file)
        sums = [sealed(Path(file.name)) for file in self.files.values()]
        return WorkFile(self.name, self.windows, self.frames, self.whole, sums)
