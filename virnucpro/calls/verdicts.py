"""The verdict on a sequence, and where in it a virus was found."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple

from virnucpro.calls.model import ThresholdsByLength


def added(values: Iterable[float]) -> float:
    """The sum, number by number, so that it is the same in every Python: from 3.12 on `sum` rounds differently."""
    total = 0.0
    for value in values:
        total += value
    return total


class Verdict(str, Enum):
    """The verdicts on a sequence."""

    VIRUS = "virus"
    MIXED = "mixed"
    OTHER = "other"
    NOT_SCORED = "not_scored"


#: Scored bases of the shortest long sequence: the more windows, the less their mean varies by chance.
LONG = 8_000


@dataclass(frozen=True)
class Thresholds:
    """The scores from which a window, a sequence, and one with `LONG` scored bases or more are viral."""

    window: float
    sequence: float
    long: float

    def of_sequence(self, bases: int) -> float:
        """The threshold of a sequence with so many scored bases."""
        return self.long if bases >= LONG else self.sequence


@dataclass(frozen=True)
class Region:
    """A viral part of a sequence: bases `start` to `end`, from 0, `end` excluded.

    score: 0 to 1; windows: how many in it have a score; viral: how many of them are viral.
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
    """`ID:START-END`, both from 1 and inclusive, as samtools writes a region."""
    return f"{sequence_id}:{region.start + 1}-{region.end}"


@dataclass(frozen=True)
class SequenceCall:
    """The call of a sequence.

    windows, scored, viral: how many windows it has, how many have a score, how many are viral. score: None if no window
    has one; threshold: the lowest score at which it is viral; false_positives: share of other sequences of its length
    that reach the threshold, None if that was not measured.
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
        """The share of viral windows among those with a score."""
        return self.viral / self.scored if self.scored else None


class ScoredBases(NamedTuple):
    """A window with a score: bases `start` to `end`, from 0, `end` excluded; unknown: how many are not known."""

    start: int
    end: int
    score: float
    viral: bool
    unknown: int

    @property
    def bases(self) -> int:
        """The number of known bases, which count."""
        return self.end - self.start - self.unknown


class Caller(ABC):
    """Takes the windows of one sequence in order, then calls it.

    windows: how many there are; length: the end of the last one; scored: those with a score.
    """

    def __init__(self, thresholds: Thresholds | ThresholdsByLength) -> None:
        self.thresholds = thresholds
        self.windows = self.length = 0
        self.scored: list[ScoredBases] = []

    def add(self, start: int, end: int, score: float | None, unknown: int = 0) -> bool:
        """Take a window, with `score` None if it has none; returns whether it is viral.

        unknown: the number of its bases other than A, C, G and T; only the others count in its weight.
        """
        self.windows, self.length = self.windows + 1, end
        if score is None:
            return False
        viral = score >= self.thresholds.window
        self.scored.append(ScoredBases(start, end, score, viral, unknown))
        return viral

    @abstractmethod
    def finish(self) -> SequenceCall:
        """The call, after all windows."""


#: Makes a caller for the next sequence.
Callers = Callable[[], Caller]
