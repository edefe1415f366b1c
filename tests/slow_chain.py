"""The published chain done a frame at a time, and what `virnucpro predict` makes of it: lines of every table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from conftest import Records, to_fasta
from numpy.typing import NDArray
from test_consensus import Expected
from test_consensus import reference as reference_call
from test_sequence import reference_frames, reference_windows

from virnucpro.io.fasta import BadRecord, read_records
from virnucpro.models.classifier import Classifier
from virnucpro.pipeline.features import extract_dnabert_features, extract_esm_features
from virnucpro.sequence.frames import ALL_STOPPED, NO_CODON, TOO_SHORT, Frame
from virnucpro.sequence.windows import Window

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
    failed: list[Line] = field(default_factory=list)
    #: The published tool's tables.
    scores: list[Line] = field(default_factory=list)
    calls: dict[str, bool] = field(default_factory=dict)
    #: DNA and protein vector of each frame, by its published id.
    vectors: dict[str, tuple[Vector, Vector]] = field(default_factory=dict)


class SlowChain:
    """Does all steps for one FASTA file of `records`; the bad ones and the reasons are those that reading it gives."""

    def __init__(self, path: Path, records: Records, model: Path, window: int) -> None:
        self.path, self.records, self.window = path, records, window
        self.slow = Slow()
        self.bad = {record.number: record for record in read_records(path) if isinstance(record, BadRecord)}
        frames = dict(self._frames())
        dna, protein = _vectors(path, frames)
        scores = Classifier.load(model).score(np.concatenate((dna, protein), axis=1))
        #: Name, score of others, score of virus, DNA vector, protein vector of each frame of a window.
        self.found: dict[tuple[int, int], list[tuple[str, np.float32, np.float32, Vector, Vector]]] = {}
        for (number, place, name), (others, virus), *pair in zip(frames, scores, dna, protein, strict=True):
            self.found.setdefault((number, place), []).append((name, others, virus, *pair))

    def _frames(self) -> list[tuple[tuple[int, int, str], Frame]]:
        return [
            ((number, place, frame.name), frame)
            for number, (_, sequence) in enumerate(self.records, 1)
            if number not in self.bad
            for place, window in enumerate(reference_windows("", sequence, self.window), 1)
            for frame in reference_frames(window.sequence)
        ]

    def run(self) -> Slow:
        for number, (header, sequence) in enumerate(self.records, 1):
            name = header.split()[0]
            if number in self.bad:
                reason, place = self.bad[number].reason, (self.path, number)
                self.slow.failed.append((*place, name, reason))
                self.slow.sequences.append((number, name, 0, "not_scored", "", 0, 0, 0, "", 0, *place, reason))
            else:
                self._sequence(number, name, header, sequence)
        return self.slow

    def _sequence(self, number: int, name: str, header: str, sequence: str) -> None:
        windows = reference_windows("", sequence, self.window)
        scores = [self._window(number, place, name, window) for place, window in enumerate(windows, 1)]
        known = zip(windows, scores, strict=True)
        call = reference_call([(window.start, window.end, score) for window, score in known], MIN_SCORE)
        cut, scored, viral = call.counts
        note = "" if scored else counted([reason_of(window.sequence) for window in windows])
        numbers = (call.verdict.value, six(call.score), cut, scored, viral, six(viral / scored) if scored else "")
        row = (number, name, len(sequence), *numbers, len(call.regions), self.path, number, note)
        self.slow.sequences.append(row)
        self._regions(name, sequence, call)
        if call.verdict == "virus":
            self.slow.viruses.append((header, sequence.upper()))

    def _window(self, number: int, place: int, name: str, window: Window) -> float | None:
        found = self.found.get((number, place), [])
        where = (number, name, place, window.start + 1, window.end, ",".join(frame for frame, *_ in found))
        if not found:
            self.slow.windows.append((*where, "", "", "", "", "not_scored", reason_of(window.sequence)))
            return None
        names, others, viruses, *_ = zip(*found, strict=True)
        self._published(f"{name}_chunk_{place}", max(others), max(viruses), number, place)
        virus, other = float(max(viruses)), float(max(others))
        score = virus / (virus + other)
        call = "virus" if score >= MIN_SCORE else "other"
        best = names[viruses.index(max(viruses))]
        self.slow.windows.append((*where, best, six(virus), six(other), six(score), call, ""))
        return score

    def _published(self, window: str, others: np.float32, virus: np.float32, number: int, place: int) -> None:
        self.slow.calls[window] = bool(virus >= others)
        for frame, score1, score2, dna, protein in self.found[number, place]:
            label = "virus" if score2 > score1 else "others"
            self.slow.scores.append((window + frame, label, str(score1), str(score2)))
            self.slow.vectors[window + frame] = dna, protein

    def _regions(self, name: str, sequence: str, call: Expected) -> None:
        for start, end, windows, viral, score in call.regions:
            place = f"{name}:{start + 1}-{end}"
            row = (name, start, end, place, round(1000 * score), ".", six(score), windows, viral)
            self.slow.regions.append(row)
            if call.verdict == "mixed":
                self.slow.viruses.append((place, sequence[start:end].upper()))


def _vectors(path: Path, frames: dict[tuple[int, int, str], Frame]) -> tuple[Vector, Vector]:
    fna = to_fasta(path.with_suffix(".fna"), [("x", frame.nucleotide) for frame in frames.values()])
    faa = to_fasta(path.with_suffix(".faa"), [("x", frame.protein) for frame in frames.values()])
    return extract_dnabert_features(fna, dtype="fp32")[1], extract_esm_features(faa, dtype="fp32")[1]


def six(value: float | None) -> str:
    return "" if value is None else f"{value:.6f}"


def counted(reasons: list[str]) -> str:
    kinds = sorted(set(reasons), key=lambda reason: -reasons.count(reason))
    return "; ".join(f"{kind} ({reasons.count(kind)} windows)" if reasons.count(kind) > 1 else kind for kind in kinds)


def reason_of(bases: str) -> str:
    """Why a window has no frame."""
    if len(bases) < 3:
        return TOO_SHORT
    return ALL_STOPPED if any(set(bases[i : i + 3]) <= set("ACGT") for i in range(len(bases) - 2)) else NO_CODON
