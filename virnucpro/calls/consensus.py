"""Frames → windows → sequences and viral regions. The rules and their reasons: docs/calls.md.

A window counts by the published rule: viral if the highest virus score of its frames is not below the highest score
for others (Li et al. 2025, doi:10.1093/bib/bbaf224). The rest is ours. Everything is added up in input order, in
float64, so that equal scores give equal calls.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from enum import Enum

#: Viral windows with at most this many other scored windows between them are one region.
MOST_GAP = 2
#: A region of a sequence that is not viral as a whole needs this many viral windows: single ones are chance.
FEWEST_VIRAL = 3
#: Scored bases from which on a sequence is long: the more windows, the less does their mean stray by chance.
LONG = 8_000


class Verdict(str, Enum):
    """What a sequence is called."""

    VIRUS = "virus"
    MIXED = "mixed"
    OTHER = "other"
    NOT_SCORED = "not_scored"


@dataclass(frozen=True)
class WindowScore:
    """The scores of a window.

    best_frame: the frame with the highest virus score, of equals the first, or empty for a window that was scored as it
    stands; virus, other: the highest score of each kind over the frames, 0 to 1.
    """

    best_frame: str
    virus: float
    other: float

    @property
    def score(self) -> float:
        """virus / (virus + other): at least 0.5 exactly where the published rule calls the window viral."""
        return self.virus / (self.virus + self.other)


def window_score(frames: Sequence[str], scores: Iterable[tuple[float, float]]) -> WindowScore:
    """The score of a window from its frames' names and their scores (others, virus), softmaxed."""
    other, virus = zip(*scores, strict=True)
    return WindowScore(frames[virus.index(max(virus))], max(virus), max(other))


@dataclass
class Region:
    """A run of windows: bases `start` to `end` of the sequence, from 0, `end` excluded."""

    start: int
    end: int
    windows: int = 0
    viral: int = 0
    bases: int = 0
    weighted: float = 0.0

    @property
    def score(self) -> float:
        """Mean score of the windows, weighted by their bases; 0 to 1."""
        return self.weighted / self.bases

    def add(self, start: int, end: int, score: float) -> None:
        """Count one scored window in."""
        self.end = max(self.end, end)
        self.windows += 1
        self.bases += end - start
        self.weighted += score * (end - start)

    def absorb(self, gap: Region) -> None:
        """Count in a run that follows."""
        self.end = gap.end
        self.windows += gap.windows
        self.bases += gap.bases
        self.weighted += gap.weighted


@dataclass
class SequenceCall:
    """What came out for a sequence; `score` is None where no window has one."""

    windows: int = 0
    scored: int = 0
    viral: int = 0
    score: float | None = None
    verdict: Verdict = Verdict.NOT_SCORED
    regions: list[Region] = field(default_factory=list)

    @property
    def viral_fraction(self) -> float | None:
        """Viral windows of those scored."""
        return self.viral / self.scored if self.scored else None


@dataclass(frozen=True)
class MinScores:
    """From which score on a window or a sequence is viral, and a sequence of `LONG` scored bases or more."""

    score: float
    long: float

    def of_sequence(self, bases: int) -> float:
        """That of a sequence with so many scored bases."""
        return self.long if bases >= LONG else self.score


class SequenceCaller:
    """Takes the windows of one sequence in their order, and keeps none of them but runs of viral ones."""

    def __init__(self, min_scores: MinScores) -> None:
        self.min_scores = min_scores
        self._call = SequenceCall()
        self._whole = Region(0, 0)
        self._runs: list[Region] = []
        #: Scored windows since the last viral one.
        self._gap: Region | None = None

    def add(self, start: int, end: int, score: float | None) -> bool:
        """Take a window, `score` None if it has none; returns whether it is viral."""
        self._call.windows += 1
        if score is None:
            return False  # what is not known neither ends a region nor counts in it
        self._whole.add(start, end, score)
        viral = score >= self.min_scores.score
        self._extend(start, end, score, viral)
        return viral

    def _extend(self, start: int, end: int, score: float, viral: bool) -> None:
        if not viral:
            self._gap = self._gap or Region(start, end)
            self._gap.add(start, end, score)
            return
        self._whole.viral += 1
        if self._runs and (self._gap is None or self._gap.windows <= MOST_GAP):
            if self._gap is not None:
                self._runs[-1].absorb(self._gap)
        else:
            self._runs.append(Region(start, end))
        self._gap = None
        self._runs[-1].add(start, end, score)
        self._runs[-1].viral += 1

    def finish(self) -> SequenceCall:
        """The call, when all windows are in."""
        call = self._call
        call.scored, call.viral = self._whole.windows, self._whole.viral
        if not call.scored:
            return call
        call.score = self._whole.score
        viral = call.score >= self.min_scores.of_sequence(self._whole.bases)
        call.regions = [run for run in self._runs if viral or run.viral >= FEWEST_VIRAL]
        call.verdict = Verdict.VIRUS if viral else Verdict.MIXED if call.regions else Verdict.OTHER
        return call
