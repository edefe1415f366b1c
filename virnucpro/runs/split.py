"""One run of `virnucpro split`: inputs → pieces of whole records, each for a separate run on any host.

The record, `split.json`, says what each piece holds, where its records come from, what could not be used, and the
checksums of the pieces: by this `virnucpro merge` joins the results.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import NamedTuple

from msgspec import ValidationError, convert

from virnucpro._version import __version__
from virnucpro.errors import InputError, UsageError
from virnucpro.input.cut import Rules, read_sequences
from virnucpro.input.fasta import DNA_AS_WRITTEN, PROTEIN, Record, write_fasta
from virnucpro.input.index import IndexedSequence
from virnucpro.io.files import BUFFER, sha256_of
from virnucpro.pipeline.events import Listener, unheard
from virnucpro.runs.config import MOST_PIECES, SplitConfig
from virnucpro.runs.inputs import Failure, Inputs
from virnucpro.runs.names import check, check_names
from virnucpro.runs.paths import SplitPaths
from virnucpro.runs.record import RunRecord
from virnucpro.runs.session import session

#: How to choose other names for the pieces.
HINT = "choose another folder"


class Place(NamedTuple):
    """The place of a record: in the whole input, from 0; that of its input; that in its input, from 1."""

    number: int
    input_index: int
    record: int


@dataclass
class Piece:
    """A piece.

    origins: its runs of consecutive records, in order: (place of the first in the whole input, from 0; place of its
    input; its place there, from 1; number of records). notes: what the user should know about a record, by its place
    in the piece.
    """

    name: str
    records: int = 0
    bases: int = 0
    sha256: str = ""
    origins: list[list[int]] = field(default_factory=list)
    notes: dict[str, str] = field(default_factory=dict)

    def add(self, sequence: IndexedSequence) -> None:
        """Count one more record."""
        if sequence.note:
            self.notes[str(self.records)] = sequence.note
        self.records += 1
        self.bases += sequence.length
        origin = [sequence.number, sequence.input_index, sequence.record]
        if self.origins:
            first, of, place, count = self.origins[-1]
            if [first + count, of, place + count] == origin:
                self.origins[-1][3] += 1
                return
        self.origins.append([*origin, 1])

    def places(self) -> Iterator[Place]:
        """The place of each of its records in the inputs."""
        for number, index, record, count in self.origins:
            for step in range(count):
                yield Place(number + step, index, record + step)


@dataclass
class Split:
    """How inputs were split; rejected: what could not be used."""

    pieces: list[Piece] = field(default_factory=list)
    rejected: list[IndexedSequence] = field(default_factory=list)


def split_of(record: RunRecord) -> Split:
    """The split that a record tells of. Raises InputError where another version wrote it in another way."""
    try:
        return convert(record.plan, Split)
    except ValidationError as error:
        raise InputError(
            f"{record.path} was not written by this version of virnucpro", hint="split the input again with --force"
        ) from error


@dataclass
class SplitResult:
    """How a run ended."""

    paths: SplitPaths
    split: Split


def run_split(config: SplitConfig, listener: Listener = unheard) -> SplitResult:
    """Split `config.inputs` into pieces in `config.output`; raises VirnucproError."""
    paths = SplitPaths(config.output / "split")
    check(paths, paths.pieces(config.pieces or 1), config.inputs, force=config.force, hint=HINT)
    with session("split", paths, config.described, force=config.force, listen=listener) as run:
        with run.stage("reading input"):
            inputs = Inputs(config.inputs, paths)
            total = sum(sequence.length for sequence, _ in _sequences(config, inputs))
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
        # A complete earlier run has left out pieces without records.
        made = run.record.results if run.record and run.record.state == "complete" else ()
        if done := run.already_done([paths.folder / name for name in made] or results, identity, {}):
            return SplitResult(paths, split_of(done))
        run.begin(results, identity, {}, {}, {"inputs": inputs.described})
        failures: list[Failure] = []
        with run.stage("splitting"), run.publishing(results, failures) as names:
            split = _write(config, inputs, [names[path] for path in results], total)
            failures += inputs.failures(sequence.failure for sequence in split.rejected)
            inputs.refuse_changed()
            for path in results[len(split.pieces) :]:
                del names[path]
        if not split.pieces:
            raise InputError("no usable sequence in the input", hint=f"see {paths.failed}")
        run.own.plan = asdict(split)
        run.own.choices["results"] = [piece.name for piece in split.pieces]
        run.complete({"result": {"pieces": len(split.pieces)}})
    return SplitResult(paths, split)


def _sequences(config: SplitConfig, inputs: Inputs) -> Iterator[tuple[IndexedSequence, Record | None]]:
    rules = Rules(alphabet=PROTEIN if config.protein else DNA_AS_WRITTEN)
    return read_sequences(inputs.paths, inputs.shown, rules)


def _write(config: SplitConfig, inputs: Inputs, files: Sequence[Path], total: int) -> Split:
    """Write pieces with about the same number of letters, in input order, into some or all of `files`.

    A record goes into the piece in which its first letter is; pieces without records are left out.
    """
    split = Split()
    for _, rows in groupby(_shares(config, inputs, split, len(files), total), key=itemgetter(0)):
        piece = Piece(f"{len(split.pieces) + 1:04d}.fa")
        path = files[len(split.pieces)]
        with open(path, "wb", BUFFER) as file:
            for _, sequence, record in rows:
                write_fasta(file, record.header, record.sequence)
                piece.add(sequence)
        piece.sha256 = sha256_of(path)
        split.pieces.append(piece)
    return split


def _shares(
    config: SplitConfig, inputs: Inputs, split: Split, most: int, total: int
) -> Iterator[tuple[int, IndexedSequence, Record]]:
    """The usable records, each with the number of the share of all letters in which it begins; others are rejected."""
    before = 0
    for sequence, record in _sequences(config, inputs):
        if record is None:
            split.rejected.append(sequence)
        else:
            yield before * most // total, sequence, record
            before += sequence.length
