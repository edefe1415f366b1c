"""The published steps done one frame at a time, and the lines of every table that `virnucpro predict` writes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from conftest import Records, to_fasta
from numpy.typing import NDArray
from test_consensus import Expected
from test_consensus import reference as reference_call
from test_sequence import reference_frames, reference_windows

from virnucpro.input.fasta import BadRecord, read_records
from virnucpro.input.frames import ALL_STOPPED, NO_CODON, TOO_SHORT
from virnucpro.input.windows import Window
from virnucpro.models.classifier import Classifier
from virnucpro.pipeline.features import extract_dnabert_features, extract_esm_features

Line = Sequence[object]
Vector = NDArray[np.float32]
MIN_SCORE = 0.5


@dataclass
class Slow:
    """The lines of each table, without headers."""

    sequences: list[Line] = field(default_factory=list)
    windows: list[Line] = field(default_factory=list)
    regions: list[Line] = field(default_factory=list)
    viruses: list[tuple[str, str]] = field(default_factory=list)
    #: In input order.
    summary: list[Line] = field(default_factory=list)
    failed: list[Line] = field(default_factory=list)
    #: The published tool's tables.
    scores: list[Line] = field(default_factory=list)
    calls: dict[str, bool] = field(default_factory=dict)
    #: DNA and protein vector of each frame, by its published id.
    vectors: dict[str, tuple[Vector, Vector]] = field(default_factory=dict)


class SlowChain:
    """Does all steps for one FASTA file of `records`; bad records and their reasons come from the reader.

    Windows with a stop codon in every frame are scored by their DNA alone if the model has a network for it.
    """

    def __init__(self, path: Path, records: Records, model: Path, window: int) -> None:
        self.path, self.records, self.window = path, records, window
        self.slow = Slow()
        self.bad = {record.number: record for record in read_records(path) if isinstance(record, BadRecord)}
        self._score_frames(model)
        self._score_whole_windows(model)

    def _windows(self) -> Iterator[tuple[int, int, str]]:
        """Number of the sequence, number of the window in it, bases."""
        for number, (_, sequence) in enumerate(self.records, 1):
            if number not in self.bad:
                for place, window in enumerate(reference_windows("", sequence, self.window), 1):
                    yield number, place, window.sequence

    def _score_frames(self, model: Path) -> None:
        cut = [(number, place, frame) for number, place, dna in self._windows() for frame in reference_frames(dna)]
        dna = extract_dnabert_features(_fasta(self.path, [frame.nucleotide for *_, frame in cut]), dtype="fp32")[1]
        protein = extract_esm_features(_fasta(self.path, [frame.protein for *_, frame in cut]), dtype="fp32")[1]
        scores = Classifier.load(model).score(np.concatenate((dna, protein), axis=1))
        #: Name, score of others, score of virus, DNA vector, protein vector of each frame of a window.
        self.found: dict[tuple[int, int], list[tuple[str, np.float32, np.float32, Vector, Vector]]] = {}
        for (number, place, frame), (others, virus), *pair in zip(cut, scores, dna, protein, strict=True):
            self.found.setdefault((number, place), []).append((frame.name, others, virus, *pair))

    def _score_whole_windows(self, model: Path) -> None:
        classifier = Classifier.load_dna_only(model)
        stopped = [
            (number, place, dna)
            for number, place, dna in self._windows()
            if (number, place) not in self.found and reason_of(dna) == ALL_STOPPED
        ]
        #: Scores for others and for virus of a whole window.
        self.whole: dict[tuple[int, int], tuple[np.float32, np.float32]] = {}
        if classifier and stopped:
            dna = extract_dnabert_features(_fasta(self.path, [bases for *_, bases in stopped]), dtype="fp32")[1]
            for (number, place, _), (others, virus) in zip(stopped, classifier.score(dna), strict=True):
                self.whole[number, place] = others, virus

    def run(self) -> Slow:
        for number, (header, sequence) in enumerate(self.records, 1):
            name = header.split()[0]
            if number in self.bad:
                reason, place = self.bad[number].reason, (self.path, number)
                self.slow.failed.append((*place, name, reason))
                self.slow.sequences.append((number, name, 0, "not_scored", "", "", "", 0, 0, 0, "", 0, *place, reason))
            else:
                self._sequence(number, name, header, sequence)
        return self.slow

    def _sequence(self, number: int, name: str, header: str, sequence: str) -> None:
        windows = reference_windows("", sequence, self.window)
        scores = [self._window(number, place, name, window) for place, window in enumerate(windows, 1)]
        known = zip(windows, scores, strict=True)
        call = reference_call([(window.start, window.end, score) for window, score in known], MIN_SCORE, MIN_SCORE)
        cut, scored, viral = call.counts
        note = "" if scored else counted([reason_of(window.sequence) for window in windows])
        threshold = six(MIN_SCORE) if scored else ""
        numbers = (
            call.verdict.value,
            six(call.score),
            threshold,
            "",
            cut,
            scored,
            viral,
            six(viral / scored) if scored else "",
        )
        row = (number, name, len(sequence), *numbers, len(call.regions), self.path, number, note)
        self.slow.sequences.append(row)
        self._regions(number, name, sequence, call)
        if call.verdict == "virus":
            self.slow.viruses.append((header, sequence))
            place = (1, len(sequence), len(sequence))
            self.slow.summary.append((name, number, name, *place, "virus", six(call.score), "", scored, viral))

    def _window(self, number: int, place: int, name: str, window: Window) -> float | None:
        found, whole = self.found.get((number, place), []), self.whole.get((number, place))
        where = (number, name, place, window.start + 1, window.end, ",".join(frame for frame, *_ in found))
        if not found and not whole:
            self.slow.windows.append((*where, "", "", "", "", "", "not_scored", reason_of(window.sequence)))
            return None
        evidence, best = "dna", ""
        if whole:
            other, virus = map(float, whole)
        else:
            names, others, viruses, *_ = zip(*found, strict=True)
            self._published(f"{name}_chunk_{place}", max(others), max(viruses), number, place)
            evidence, best = "dna+protein", names[viruses.index(max(viruses))]
            other, virus = float(max(others)), float(max(viruses))
        score = virus / (virus + other)
        call = "virus" if score >= MIN_SCORE else "other"
        self.slow.windows.append((*where, evidence, best, six(virus), six(other), six(score), call, ""))
        return score

    def _published(self, window: str, others: np.float32, virus: np.float32, number: int, place: int) -> None:
        self.slow.calls[window] = bool(virus >= others)
        for frame, score1, score2, dna, protein in self.found[number, place]:
            label = "virus" if score2 > score1 else "others"
            self.slow.scores.append((window + frame, label, str(score1), str(score2)))
            self.slow.vectors[window + frame] = dna, protein

    def _regions(self, number: int, name: str, sequence: str, call: Expected) -> None:
        for start, end, windows, viral, score in call.regions:
            place = f"{name}:{start + 1}-{end}"
            row = (name, start, end, place, round(1000 * score), ".", six(score), windows, viral)
            self.slow.regions.append(row)
            if call.verdict == "mixed":
                self.slow.viruses.append((place, sequence[start:end]))
                where = (start + 1, end, end - start)
                self.slow.summary.append((place, number, name, *where, "mixed", six(score), "", windows, viral))


def _fasta(beside: Path, sequences: Sequence[str]) -> Path:
    return to_fasta(beside.with_suffix(".slow.fa"), [("x", sequence) for sequence in sequences])


def six(value: float | None) -> str:
    return "" if value is None else f"{value:.6f}"


def counted(reasons: list[str]) -> str:
    kinds = sorted(set(reasons), key=lambda reason: -reasons.count(reason))
    return "; ".join(f"{kind} ({reasons.count(kind)} windows)" if reasons.count(kind) > 1 else kind for kind in kinds)


def reason_of(bases: str) -> str:
    """Why a window has no open frame."""
    if len(bases) < 3:
        return TOO_SHORT
    return ALL_STOPPED if any(set(bases[i : i + 3]) <= set("ACGT") for i in range(len(bases) - 2)) else NO_CODON
