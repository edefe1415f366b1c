"""The numbers with which a measured model set calls sequences, for one window size; they are stored in its card.

`training/fit_sequences.py` fits them, on sequences of clusters that the encoders have not seen; docs/calls.md says how
they are used and why.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Annotated

from msgspec import Meta

#: Bases at which the length of a sequence counts as 0; it is counted in octaves.
ORIGIN = 500
#: The log-odds of a score of 1, and, negative, of 0.
MOST = 12.0

#: Types of numbers in a card. They exclude NaN and infinity, which Python's JSON accepts.
Share = Annotated[float, Meta(ge=0, le=1)]
Number = Annotated[float, Meta(ge=-1e9, le=1e9)]
Positive = Annotated[float, Meta(ge=0, le=1e9)]
Bases = Annotated[int, Meta(ge=1)]
Coefficients = Annotated[tuple[Number, ...], Meta(min_length=1)]


def log_odds(score: float) -> float:
    """ln(score / (1 - score)), within `MOST` of 0."""
    if score <= 0 or score >= 1:
        return math.copysign(MOST, score - 0.5)
    return max(-MOST, min(MOST, math.log(score / (1 - score))))


def probability(odds: float) -> float:
    """The score with these log-odds."""
    return 1 / (1 + math.exp(-odds)) if odds >= 0 else math.exp(odds) / (1 + math.exp(odds))


@dataclass(frozen=True)
class SequenceModel:
    """Windows → log-odds that the sequence is viral, if half of all sequences are.

    With x octaves of scored bases from `ORIGIN`, within `bases`, and m the mean log-odds of the windows, weighted by
    their bases: level(x) + slope(x) m. level, slope: coefficients of x to the power 0, 1, …
    """

    bases: tuple[Bases, Bases]
    level: Coefficients
    slope: Coefficients

    def __post_init__(self) -> None:
        _want(_rise(self.bases), "bases must be the shortest and the longest length")

    def log_odds(self, bases: int, mean: float) -> float:
        """Of a sequence with so many scored bases."""
        low, high = self.bases
        x = math.log2(min(max(bases, low), high) / ORIGIN)
        return _polynomial(self.level, x) + _polynomial(self.slope, x) * mean


def _polynomial(coefficients: Sequence[float], x: float) -> float:
    found = 0.0
    for coefficient in reversed(coefficients):
        found = found * x + coefficient
    return found


@dataclass(frozen=True)
class FalsePositives:
    """Share of other sequences of a length that reach a score: rates (lengths, scores), interpolated.

    Linear in octaves of length and in log-odds of the score; beyond the ends the nearest value.
    """

    bases: Annotated[tuple[Bases, ...], Meta(min_length=1)]
    scores: Annotated[tuple[Annotated[float, Meta(gt=0, lt=1)], ...], Meta(min_length=1)]
    rates: tuple[tuple[Share, ...], ...]

    def __post_init__(self) -> None:
        _want(_rise(self.bases) and _rise(self.scores), "bases and scores must be increasing")
        _want(len(self.rates) == len(self.bases), "rates must be a row for each length")
        _want(all(len(row) == len(self.scores) for row in self.rates), "rates must be a share for each score")

    def at(self, bases: int, score: float) -> float:
        """The rate for sequences of so many bases."""
        lengths = [math.log2(each) for each in self.bases]
        odds = [log_odds(each) for each in self.scores]
        by_length = [_between(odds, row, log_odds(score)) for row in self.rates]
        return _between(lengths, by_length, math.log2(max(bases, 1)))


@dataclass(frozen=True)
class ThresholdsByLength:
    """The scores from which a window is viral, and a sequence by its length: scores at lengths, interpolated.

    Linear in octaves of length and in log-odds of the score; beyond the ends the nearest value.
    """

    window: float
    bases: tuple[int, ...]
    scores: tuple[float, ...]

    def of_sequence(self, bases: int) -> float:
        """The threshold of a sequence with so many scored bases."""
        lengths = [math.log2(each) for each in self.bases]
        return probability(_between(lengths, [log_odds(each) for each in self.scores], math.log2(max(bases, 1))))


def _between(places: Sequence[float], values: Sequence[float], at: float) -> float:
    """The value at a place, interpolated linearly between `places`, which rise."""
    if at <= places[0]:
        return values[0]
    if at >= places[-1]:
        return values[-1]
    i = bisect_right(places, at)
    share = (at - places[i - 1]) / (places[i] - places[i - 1])
    return values[i - 1] + share * (values[i] - values[i - 1])


@dataclass(frozen=True)
class RegionModel:
    """What a viral region must show.

    bias: log-odds above which a window is evidence for a virus; clip: the most that one window counts, either way;
    cost: evidence that a region needs, and that host needs to end or divide one; min_bases: of a region, and of the
    host next to it; host: the highest score of host next to a region of a sequence that is viral as a whole;
    false_per_mbp: regions found in a million bases of hosts without any.
    """

    bias: Number
    clip: Positive
    cost: Positive
    min_bases: Annotated[int, Meta(ge=0)]
    host: Positive
    false_per_mbp: Positive


@dataclass(frozen=True)
class CallModel:
    """All numbers for the calls of one window size.

    min_length: bases of the shortest sequences that were measured; presets: thresholds by name, for sequences one for
    each length of `false_positives`.
    """

    min_length: Annotated[int, Meta(ge=0)]
    window_presets: Mapping[str, Share]
    sequence_presets: Mapping[str, tuple[Share, ...]]
    sequences: SequenceModel
    false_positives: FalsePositives
    regions: RegionModel

    def __post_init__(self) -> None:
        same = self.window_presets.keys() == self.sequence_presets.keys() and "default" in self.window_presets
        _want(same, "sequence_presets must be of the same names as window_presets, default among them")
        fitting = all(len(row) == len(self.false_positives.bases) for row in self.sequence_presets.values())
        _want(fitting, "sequence_presets must be a score for each length of false_positives")

    def thresholds(self, preset: str) -> ThresholdsByLength:
        """The thresholds of a preset."""
        return ThresholdsByLength(
            self.window_presets[preset], self.false_positives.bases, self.sequence_presets[preset]
        )


def _want(good: bool, what: str) -> None:
    if not good:
        raise ValueError(what)


def _rise(numbers: Sequence[float]) -> bool:
    return all(one < two for one, two in pairwise(numbers))
