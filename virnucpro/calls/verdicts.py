"""What a sequence is called, and where in it a virus was found."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple

from virnucpro.calls.model import ThresholdsByLength


def added(values: Iterable[float]) -> float:
    """Their sum, one after the other: `sum` rounds otherwise from Python 3.12 on, and results are the same on any."""
    total = 0.0
    for value in values:
        total += value
    return total


class Verdict(str, Enum):
    """What a sequence is called."""

    VIRUS = "virus"
    MIXED = "mixed"
    OTHER = "other"
    NOT_SCORED = "not_scored"


#: Scored bases from which on a sequence is long: the more windows, the less does their mean stray by chance.
LONG = 8_000


@dataclass(frozen=True)
class Thresholds:
    """From which score on a window is viral, a sequence, and a long one, with `LONG` scored bases or more."""

    window: float
    sequence: float
    long: float

    def of_sequence(self, bases: int) -> float:
        """That of a sequence with so many scored bases."""
        return self.long if bases >= LONG else self.sequence


@dataclass(frozen=True)
class Region:
    """Where a sequence is viral: bases `start` to `end`, from 0, `end` excluded.

    score: 0 to 1; windows: those in it that have a score; viral: those of them that are viral.
    """

    start: int
    end: int
    score: float
    windows: int
    viral: int

    @property
    def bases(self) -> int:
        """Its length."""
        return self.end - self.start


def region_id(sequence_id: str, region: Region) -> str:
    """`ID:START-END`, both from 1 and included, as samtools writes a region."""
    return f"{sequence_id}:{region.start + 1}-{region.end}"


@dataclass(frozen=True)
class SequenceCall:
    """What came out for a sequence.

    windows, scored, viral: how many it has, how many have a score, how many are viral. score: None where no window has
    one; threshold: the score from which on it is viral; false_positives: share of other sequences of its length that
    reach the threshold, None where that was not measured.
    """

    windows: int = 0
    scored: int = 0
    viral: int = 0
    score: float | None = None
    threshold: float | None = None
    false_positives: float | None = None
    verdict: Verdict = Verdict.NOT_SCORED
    regions: tuple[Region, ...] = ()

    @property
    def viral_fraction(self) -> float | None:
        """Viral windows of those scored."""
        return self.viral / self.scored if self.scored else None


class ScoredBases(NamedTuple):
    """A window with a score: bases `start` to `end`, from 0, `end` excluded; unknown: so many are no A, C, G or T."""

    start: int
    end: int
    score: float
    viral: bool
    unknown: int

    @property
    def bases(self) -> int:
        """Those that count."""
        return self.end - self.start - self.unknown


class Caller(ABC):
    """Takes the windows of one sequence in their order, then calls it.

    windows: how many there are; length: where the last one ends; scored: those with a score.
    """

    def __init__(self, thresholds: Thresholds | ThresholdsByLength) -> None:
        self.thresholds = thresholds
        self.windows = self.length = 0
        self.scored: list[ScoredBases] = []

    def add(self, start: int, end: int, score: float | None, unknown: int = 0) -> bool:
        """Take a window, `score` None if it has none; returns whether it is viral.

        unknown: its bases that are none of A, C, G and T. It counts by the others.
        """
        self.windows, self.length = self.windows + 1, end
        if score is None:
            return False
        viral = score >= self.thresholds.window
        self.scored.append(ScoredBases(start, end, score, viral, unknown))
        return viral

    @abstractmethod
    def finish(self) -> SequenceCall:
        """The call, when all windows are in."""


#: Makes a caller for the next sequence.
Callers = Callable[[], Caller]
