"""Scored rows → the tables that a user reads, and those of the published tool."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import BinaryIO, NamedTuple, TextIO

import numpy as np

from virnucpro.calls import tables
from virnucpro.calls.discovery import Discovery
from virnucpro.calls.gff3 import Annotation
from virnucpro.calls.scoring import Row, ScoredWindow
from virnucpro.calls.verdicts import Callers, Region, SequenceCall, Verdict, region_id
from virnucpro.input.cut import Rules, read_sequences
from virnucpro.input.fasta import DNA_AS_WRITTEN, Record, write_fasta
from virnucpro.input.index import IndexedSequence
from virnucpro.input.windows import published_id
from virnucpro.io.tables import Table, number


class Viral(NamedTuple):
    """A viral sequence, or a viral region of a mixed one; number: the sequence's place in the whole input, from 0."""

    number: int
    id: str
    verdict: Verdict
    region: Region
    false_positives: float | None

    @property
    def name(self) -> str:
        """Its name in the FASTA of viruses."""
        return self.id if self.verdict is Verdict.VIRUS else region_id(self.id, self.region)


@dataclass
class Summary:
    """The results of a run in short.

    frames: open ones; viral: sequences and regions, in input order; discovery: the scores of sequences that are not
    mixed; regions, host: viral regions in sequences that are not viral as a whole, and the bases around them; failures:
    (index of the input, record or 0, id, reason).
    """

    verdicts: Counter[Verdict] = field(default_factory=Counter)
    bases: int = 0
    windows: int = 0
    frames: int = 0
    windows_scored: int = 0
    viral: list[Viral] = field(default_factory=list)
    discovery: Discovery = field(default_factory=Discovery)
    regions: int = 0
    host: int = 0
    failures: list[tuple[int, int, str, str]] = field(default_factory=list)


class ResultWriter:
    """Takes rows in input order; each sequence is called and written when the next one begins."""

    def __init__(
        self,
        sequences: TextIO,
        windows: TextIO,
        regions: TextIO,
        annotation: TextIO,
        inputs: Sequence[Path],
        callers: Callers,
        vanilla: VanillaTables | None,
    ) -> None:
        self.inputs, self.callers, self.vanilla = inputs, callers, vanilla
        self.sequences = Table(sequences, tables.SEQUENCES)
        self.windows = Table(windows, tables.WINDOWS)
        self.regions = Table(regions, tables.REGIONS)
        self.annotation = Annotation(annotation)
        self.summary = Summary()
        self._sequence: IndexedSequence | None = None

    def take(self, row: Row) -> None:
        """Take the next row."""
        if isinstance(row, ScoredWindow):
            self._window(row)
        elif row.record == 0:
            self._fail(row, row.reason)
        elif self._sequence is None or row.number != self._sequence.number:
            self.finish()
            self._begin(row)

    def _fail(self, sequence: IndexedSequence, reason: str) -> None:
        self.summary.failures.append((sequence.input_index, sequence.record, sequence.id, reason))

    def _begin(self, sequence: IndexedSequence) -> None:
        self._sequence = sequence
        self._caller = self.callers()
        self._silent: Counter[str] = Counter()
        self._lost: Counter[str] = Counter()
        if sequence.failed:
            self._fail(sequence, sequence.reason)

    def _window(self, row: ScoredWindow) -> None:
        assert self._sequence is not None
        window, score = row.window, row.score
        viral = self._caller.add(window.start, window.end, score.score if score else None, window.unknown)
        self._count(row)
        shown = [""] * 5
        if score:
            shown = [row.evidence, score.best_frame, *map(number, (score.virus, score.other, score.score))]
        call = Verdict.NOT_SCORED if score is None else Verdict.VIRUS if viral else Verdict.OTHER
        who = (self._sequence.number + 1, self._sequence.id)
        where = (window.number, window.start + 1, window.end, ",".join(window.frames))
        self.windows.row(*who, *where, *shown, call.value, row.reason)
        if self.vanilla and row.frames:
            self.vanilla.take(published_id(self._sequence.id, window.number), row.frames)

    def _count(self, row: ScoredWindow) -> None:
        self.summary.windows += 1
        self.summary.frames += len(row.window.frames)
        self.summary.windows_scored += row.score is not None
        if row.score is None:
            reasons = self._silent if row.reason == row.window.reason else self._lost
            reasons[row.reason] += 1

    def finish(self) -> None:
        """Call and write the current sequence, if there is one."""
        sequence, self._sequence = self._sequence, None
        if sequence is None:
            return
        if self._lost:
            self._fail(sequence, _counted(self._lost))
        call = self._caller.finish()
        self._sum(sequence, call)
        self._write(sequence, call)

    def _sum(self, sequence: IndexedSequence, call: SequenceCall) -> None:
        summary, verdict = self.summary, call.verdict
        summary.verdicts[verdict] += 1
        summary.bases += sequence.length
        summary.viral.extend(_viral(sequence, call))
        if verdict in (Verdict.MIXED, Verdict.OTHER):
            summary.regions += len(call.regions)
            summary.host += sequence.length - sum(region.bases for region in call.regions)
        if verdict in (Verdict.VIRUS, Verdict.OTHER) and call.score is not None:
            summary.discovery.add(call.score, verdict is Verdict.VIRUS)

    def _write(self, sequence: IndexedSequence, call: SequenceCall) -> None:
        reason = sequence.reason or _counted(self._lost) or ("" if call.scored else _counted(self._silent))
        self.sequences.row(
            *(sequence.number + 1, sequence.id, sequence.length, call.verdict.value),
            *map(number, (call.score, call.threshold, call.false_positives)),
            *(call.windows, call.scored, call.viral, number(call.viral_fraction), len(call.regions)),
            *(self.inputs[sequence.input_index], sequence.record, "; ".join(filter(None, (sequence.note, reason)))),
        )
        for region in call.regions:
            place = sequence.id, region.start, region.end, region_id(sequence.id, region)
            score = round(1000 * region.score), ".", number(region.score)
            self.regions.row(*place, *score, region.windows, region.viral)
        if call.verdict in (Verdict.VIRUS, Verdict.MIXED):
            self.annotation.add(sequence, call)


def _viral(sequence: IndexedSequence, call: SequenceCall) -> Iterator[Viral]:
    if call.verdict is Verdict.VIRUS and call.score is not None:
        whole = Region(0, sequence.length, call.score, call.scored, call.viral)
        yield Viral(sequence.number, sequence.id, call.verdict, whole, call.false_positives)
    if call.verdict is Verdict.MIXED:
        for region in call.regions:
            yield Viral(sequence.number, sequence.id, call.verdict, region, None)


def _counted(reasons: Counter[str]) -> str:
    """Reasons, the most frequent first, each with its number of windows."""
    return "; ".join(f"{reason} ({count} windows)" if count > 1 else reason for reason, count in reasons.most_common())


class VanillaTables:
    """The published tool's two results, byte for byte: scores of frames, calls of windows.

    `calls` is written at the end, sorted by id, so the windows' scores are held until then.
    """

    def __init__(self, scores: TextIO, calls: TextIO) -> None:
        self._scores, self._calls = scores, calls
        self._scores.write("Sequence_ID\tPrediction\tscore1\tscore2\n")
        self._best: dict[str, tuple[float, float]] = {}

    def take(self, window_id: str, frames: Sequence[tuple[str, float, float]]) -> None:
        """The frames of one window, each with its scores (others, virus)."""
        other, virus = self._best.get(window_id, (0.0, 0.0))
        for name, others, viral in frames:
            label = "virus" if viral > others else "others"
            self._scores.write(f"{window_id}{name}\t{label}\t{np.float32(others)!s}\t{np.float32(viral)!s}\n")
            other, virus = max(other, others), max(virus, viral)
        self._best[window_id] = other, virus

    def finish(self) -> None:
        """Write the calls."""
        self._calls.write("Modified_ID\tIs_Virus\n")
        for name, (other, virus) in sorted(self._best.items()):
            self._calls.write(f"{name}\t{virus >= other}\n")


def virus_rows(viral: Sequence[Viral]) -> Iterator[tuple[object, ...]]:
    """A row for each record of the FASTA of viruses, the highest score first."""
    for each in sorted(viral, key=lambda each: -each.region.score):
        region = each.region
        place = each.name, each.number + 1, each.id, region.start + 1, region.end, region.bases
        scores = number(region.score), number(each.false_positives)
        yield *place, each.verdict.value, *scores, region.windows, region.viral


def numbered_records(inputs: Sequence[Path]) -> Iterator[tuple[int, Record]]:
    """The usable records of all inputs, as they are written there, each with its place in the whole input."""
    found = read_sequences(inputs, inputs, Rules(alphabet=DNA_AS_WRITTEN))
    return ((sequence.number, record) for sequence, record in found if record)


def write_viruses(file: BinaryIO, records: Iterator[tuple[int, Record]], viral: Sequence[Viral]) -> None:
    """Write the viral sequences, and the viral regions of mixed ones, from all `records`; both are in input order."""
    for wanted, found in groupby(viral, lambda each: each.number):
        record = next((record for number, record in records if number == wanted), None)
        if record is None:
            continue  # the input has changed, which is reported when all is written
        for each in found:
            header = record.header if each.verdict is Verdict.VIRUS else each.name
            write_fasta(file, header, record.sequence[each.region.start : each.region.end])
