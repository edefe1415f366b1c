"""One run of `virnucpro split`: inputs → pieces of whole records, each for a run of its own on any host.

The record, `split.json`, says what each piece holds and where its records come from, what could not be used, and the
checksums of it all: `virnucpro merge` puts the results together by it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from virnucpro._version import __version__
from virnucpro.errors import InputError, UsageError
from virnucpro.input.cut import read_inputs
from virnucpro.input.fasta import DNA_AS_WRITTEN, PROTEIN, BadRecord, Record, write_fasta
from virnucpro.io.files import SummedFile
from virnucpro.io.tables import FAILED, Table, text_file
from virnucpro.pipeline.events import Listener, unheard
from virnucpro.runs.config import MOST_PIECES, SplitConfig
from virnucpro.runs.inputs import Inputs
from virnucpro.runs.names import check, check_names
from virnucpro.runs.paths import SplitPaths
from virnucpro.runs.record import Record as RunRecord
from virnucpro.runs.session import session

#: How to choose other names for the pieces.
HINT = "choose another folder"


class Place(NamedTuple):
    """Of a record: in all of the input, from 0; the place of its input; its place there, from 1."""

    number: int
    input_index: int
    record: int


@dataclass
class Piece:
    """A piece.

    origins: runs of (place of the first in all of the input, from 0; place of its input; its place there, from 1;
    records) that it holds, in their order. notes: what the user should know of a record, by its place in the piece.
    """

    name: str
    records: int = 0
    bases: int = 0
    sha256: str = ""
    origins: list[list[int]] = field(default_factory=list)
    notes: dict[str, str] = field(default_factory=dict)

    def add(self, number: int, index: int, record: Record) -> None:
        """Count one record in."""
        if record.note:
            self.notes[str(self.records)] = record.note
        self.records += 1
        self.bases += len(record.sequence)
        if self.origins:
            first, of, place, count = self.origins[-1]
            if (first + count, of, place + count) == (number, index, record.number):
                self.origins[-1][3] += 1
                return
        self.origins.append([number, index, record.number, 1])

    def places(self) -> Iterator[Place]:
        """Where each of its records stands in the inputs."""
        for number, index, record, count in self.origins:
            for step in range(count):
                yield Place(number + step, index, record + step)


@dataclass
class Split:
    """How inputs were split; rejected: (place in all of the input, input, record or 0, id, reason)."""

    pieces: list[Piece] = field(default_factory=list)
    rejected: list[tuple[int, int, int, str, str]] = field(default_factory=list)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Split:
        """What stands in a record."""
        return cls([Piece(**piece) for piece in values["pieces"]], [tuple(row) for row in values["rejected"]])


@dataclass
class SplitResult:
    """How a run ended."""

    paths: SplitPaths
    split: Split


def run_split(config: SplitConfig, listener: Listener = unheard) -> SplitResult:
    """Split `config.inputs` into pieces in `config.output`; raises VirnucproError."""
    paths = SplitPaths(config.output / "split")
    check(paths, paths.pieces(config.pieces or 1), config.inputs, force=config.force, hint=HINT)
    with session("split", paths, force=config.force, listen=listener) as run:
        with run.stage("reading input"):
            inputs = Inputs(config.inputs, paths)
            total = sum(len(record.sequence) for _, _, record in _usable(config, inputs))
        most = min(config.pieces or math.ceil(total / (config.bases or 1)), total)
        if most > MOST_PIECES:
            raise UsageError(f"--bases {config.bases} makes {most} pieces, more than {MOST_PIECES}", hint="take more")
        results = paths.pieces(most)
        check_names(paths, results, config.inputs, HINT)
        identity = {
            "inputs": inputs.sums,
            "pieces": most,
            "protein": config.protein,
            "virnucpro_version": __version__,
        }
        if done := run.already_done(_made(run.record, paths) or results, identity, {}):
            return SplitResult(paths, Split.from_json(done.plan))
        run.begin(results, identity, {}, {}, {"inputs": inputs.described})
        with run.stage("splitting"), run.publishing((*results, paths.failed), replaced=[paths.failed]) as names:
            split = _write(config, inputs, [names[path] for path in results], total)
            _write_failed(names[paths.failed], split, inputs)
            inputs.refuse_changed()
            for path in results[len(split.pieces) :]:
                del names[path]
            if not split.rejected:
                del names[paths.failed]
        if not split.pieces:
            raise InputError("no usable sequence in the input", hint=f"see {paths.failed}")
        run.own.plan = asdict(split)
        run.own.choices["results"] = [piece.name for piece in split.pieces]
        run.complete({"result": {"pieces": len(split.pieces)}})
    return SplitResult(paths, split)


def _made(record: RunRecord | None, paths: SplitPaths) -> tuple[Path, ...]:
    """The pieces of an earlier run that is complete: what would hold no record was left out there."""
    names = record.results if record and record.state == "complete" else ()
    return tuple(paths.folder / name for name in names)


def _records(config: SplitConfig, inputs: Inputs) -> Iterator[tuple[int, int, Record | BadRecord]]:
    """Every record with its place in all of the input, and its input's."""
    number = 0
    alphabet = PROTEIN if config.protein else DNA_AS_WRITTEN
    for index, record in read_inputs(inputs.paths, inputs.shown, alphabet):
        yield number, index, record
        number += record.number > 0


def _usable(config: SplitConfig, inputs: Inputs) -> Iterator[tuple[int, int, Record]]:
    for number, index, record in _records(config, inputs):
        if isinstance(record, Record):
            yield number, index, record


def _write(config: SplitConfig, inputs: Inputs, files: Sequence[Path], total: int) -> Split:
    """Pieces of about the same number of letters, in input order, in so many files at most."""
    split, writer = Split(), _Writer(files, total)
    with closing(writer):
        for number, index, record in _records(config, inputs):
            if isinstance(record, BadRecord):
                split.rejected.append((number, index, record.number, record.id, record.reason))
            else:
                writer.take(number, index, record)
    split.pieces = writer.pieces
    return split


class _Writer:
    """Writes records into pieces; each goes where its first letter lies, and what would hold none is left out."""

    def __init__(self, files: Sequence[Path], total: int) -> None:
        self.files, self.total = files, total
        self.pieces: list[Piece] = []
        self._before, self._share = 0, -1
        self._file: SummedFile | None = None

    def take(self, number: int, index: int, record: Record) -> None:
        """Write the next record."""
        share = self._before * len(self.files) // self.total
        if self._file is None or share > self._share:
            self.close()
            self._share = share
            self.pieces.append(Piece(f"{len(self.pieces) + 1:04d}.fa"))
            self._file = SummedFile(self.files[len(self.pieces) - 1])
        write_fasta(self._file, record.header, record.sequence)
        self.pieces[-1].add(number, index, record)
        self._before += len(record.sequence)

    def close(self) -> None:
        """End the piece that is open."""
        file, self._file = self._file, None
        if file is not None:
            file.close()
            self.pieces[-1].sha256 = file.sha256


def _write_failed(path: Path, split: Split, inputs: Inputs) -> None:
    with text_file(path) as file:
        table = Table(file, FAILED)
        for _, index, record, name, reason in split.rejected:
            table.row(inputs.names[index], record, name, reason)
