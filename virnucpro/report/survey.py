"""A first pass over the sequences of a run: counts over all of them, and the choice of those on the page."""

from __future__ import annotations

import re
from array import array
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from virnucpro.calls.read import SequenceRow
from virnucpro.calls.verdicts import Verdict

#: Verdicts by their numbers.
VERDICTS = tuple(verdict.value for verdict in (Verdict.VIRUS, Verdict.MIXED, Verdict.OTHER, Verdict.NOT_SCORED))
VIRUS, MIXED, OTHER, NOT_SCORED = range(len(VERDICTS))

#: Sequences in full, and windows, that fit into a page of 5 MB.
MOST_ROWS, MOST_WINDOWS = 100_000, 800_000

#: Scores are counted in thousandths.
SCORES = 1001
#: Cells of the density: octaves of length by 4, scores by 50.
LENGTHS_AN_OCTAVE, LENGTH_CELLS, SCORE_CELLS = 4, 128, 50

_MOST_EXAMPLES = 20
_MOST_REASONS = 100

#: Parts of a note that differ between sequences with the same reason.
_PLACE = re.compile(r"(?:line|position) \d+(?: of the sequence)?: | \(\d+ windows\)")

Counts = NDArray[np.int64]


@dataclass
class Reason:
    """Why sequences were not scored: how many, their total length, and the first of them as (number, id)."""

    text: str
    sequences: int = 0
    bases: int = 0
    examples: list[tuple[int, str]] = field(default_factory=list)

    def add(self, sequence: SequenceRow) -> None:
        """Count one more."""
        self.sequences += 1
        self.bases += sequence["length"]
        if len(self.examples) < _MOST_EXAMPLES:
            self.examples.append((sequence["number"], sequence["sequence_id"]))


@dataclass(frozen=True)
class Survey:
    """All sequences of a run, counted.

    scores: (verdicts, SCORES); rows: which sequences are in the table; tracks: which of them with their windows;
    density: (LENGTH_CELLS, SCORE_CELLS) of the other sequences with a score; reasons: the most frequent first.
    """

    sequences: int
    scores: Counts
    rows: NDArray[np.bool_]
    tracks: NDArray[np.bool_]
    density: Counts
    reasons: tuple[Reason, ...]

    @property
    def complete(self) -> bool:
        """Whether all sequences are in the table."""
        return bool(self.rows.all())


def survey(sequences: Iterable[SequenceRow]) -> Survey:
    """Count the sequences of a run; memory: 20 bytes for each."""
    verdicts, scores, lengths, windows = array("B"), array("d"), array("q"), array("l")
    reasons: dict[str, Reason] = {}
    for sequence in sequences:
        verdicts.append(VERDICTS.index(sequence["verdict"]))
        scores.append(-1.0 if sequence["score"] is None else sequence["score"])
        lengths.append(sequence["length"])
        windows.append(sequence["windows"])
        if sequence["verdict"] == Verdict.NOT_SCORED.value:
            _reason(reasons, sequence["note"]).add(sequence)
    verdict, score, length = np.array(verdicts, np.int64), np.array(scores), np.array(lengths, np.int64)
    rows, tracks = _choose(verdict, score, np.array(windows, np.int64))
    left = ~rows & (score >= 0)
    return Survey(
        len(verdicts),
        _counts(verdict, score),
        rows,
        tracks,
        _density(length[left], score[left]),
        tuple(sorted(reasons.values(), key=lambda reason: -reason.sequences)),
    )


def _reason(reasons: dict[str, Reason], note: str) -> Reason:
    """The reason of a note; if there are very many different ones, the rare ones count as one."""
    text = _PLACE.sub("", note)
    if text not in reasons and len(reasons) >= _MOST_REASONS:
        text = "for other reasons (see the tables)"
    return reasons.setdefault(text, Reason(text))


def _choose(verdict: Counts, score: NDArray[np.float64], windows: Counts) -> tuple[NDArray[np.bool_], ...]:
    """Which sequences are shown in full, and which of them with their windows: viral first, higher scores first."""
    best_first = np.lexsort((-score, verdict))
    if len(verdict) > MOST_ROWS:
        best_first = best_first[verdict[best_first] <= MIXED][:MOST_ROWS]
    with_windows = best_first[np.cumsum(windows[best_first]) <= MOST_WINDOWS]
    rows, tracks = np.zeros((2, len(verdict)), np.bool_)
    rows[best_first], tracks[with_windows] = True, True
    return rows, tracks


def _counts(verdict: Counts, score: NDArray[np.float64]) -> Counts:
    scored = score >= 0
    place = verdict[scored] * SCORES + np.floor(score[scored] * (SCORES - 1)).astype(np.int64)
    return np.bincount(place, minlength=len(VERDICTS) * SCORES).reshape(len(VERDICTS), SCORES)


def _density(length: Counts, score: NDArray[np.float64]) -> Counts:
    x = np.floor(np.log2(np.maximum(length, 1)) * LENGTHS_AN_OCTAVE).astype(np.int64)
    y = np.minimum(np.floor(score * SCORE_CELLS), SCORE_CELLS - 1).astype(np.int64)
    found = np.bincount(x * SCORE_CELLS + y, minlength=LENGTH_CELLS * SCORE_CELLS)
    return found.reshape(LENGTH_CELLS, SCORE_CELLS)
