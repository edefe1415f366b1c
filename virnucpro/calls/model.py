"""The numbers by which a measured model set calls sequences, for one size of windows; they stand in its card.

`training/fit_sequences.py` fits them, on sequences of clusters that the encoders have not seen; docs/calls.md says how
they are used and why.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any

#: Bases at which the length of a sequence counts as 0; it is counted in octaves.
ORIGIN = 500
#: The most that is said by a score of 0 or 1, in log-odds.
MOST = 12.0


def log_odds(score: float) -> float:
    """ln(score / (1 - score)), within `MOST` of 0."""
    if score <= 0 or score >= 1:
        return math.copysign(MOST, score - 0.5)
    return max(-MOST, min(MOST, math.log(score / (1 - score))))


def probability(odds: float) -> float:
    """The score of log-odds."""
    return 1 / (1 + math.exp(-odds)) if odds >= 0 else math.exp(odds) / (1 + math.exp(odds))


@dataclass(frozen=True)
class SequenceModel:
    """Windows → log-odds that the sequence is viral, where as many sequences are viral as not.

    With x octaves of scored bases from `ORIGIN`, within `bases`, and m the mean log-odds of the windows, weighted by
    their bases: level(x) + slope(x) m. level, slope: coefficients of x to the power 0, 1, …
    """

    bases: tuple[int, int]
    level: tuple[float, ...]
    slope: tuple[float, ...]

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
    """Share of other sequences of a length that reach a score: rates (lengths, scores), read in between.

    In between by octaves of length and by log-odds of the score; beyond, the nearest.
    """

    bases: tuple[int, ...]
    scores: tuple[float, ...]
    rates: tuple[tuple[float, ...], ...]

    def at(self, bases: int, score: float) -> float:
        """Of sequences of so many bases."""
        lengths = [math.log2(each) for each in self.bases]
        odds = [log_odds(each) for each in self.scores]
        by_length = [_between(odds, row, log_odds(score)) for row in self.rates]
        return _between(lengths, by_length, math.log2(max(bases, 1)))


@dataclass(frozen=True)
class ThresholdsByLength:
    """From which score on a window is viral, and a sequence by its length: scores at lengths, read in between.

    In between by octaves of length and by log-odds of the score; beyond, the nearest.
    """

    window: float
    bases: tuple[int, ...]
    scores: tuple[float, ...]

    def of_sequence(self, bases: int) -> float:
        """That of a sequence with so many scored bases."""
        lengths = [math.log2(each) for each in self.bases]
        return probability(_between(lengths, [log_odds(each) for each in self.scores], math.log2(max(bases, 1))))


def _between(places: Sequence[float], values: Sequence[float], at: float) -> float:
    """The value at a place, on straight lines between `places`, which rise."""
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

    bias: log-odds from which on a window speaks for a virus; clip: the most that one window counts, either way; cost:
    evidence that a region needs, and that host needs to end or divide one; min_bases: of a region, and of host beside
    it; host: the highest score of what is host beside a region of a sequence that is viral as a whole; false_per_mbp:
    regions found in a million bases of hosts without any.
    """

    bias: float
    clip: float
    cost: float
    min_bases: int
    host: float
    false_per_mbp: float


@dataclass(frozen=True)
class CallModel:
    """All of it.

    min_length: bases from which on sequences were measured; presets: thresholds by name, those of sequences one for
    each length of `false_positives`.
    """

    min_length: int
    window_presets: Mapping[str, float]
    sequence_presets: Mapping[str, tuple[float, ...]]
    sequences: SequenceModel
    false_positives: FalsePositives
    regions: RegionModel

    def thresholds(self, preset: str) -> ThresholdsByLength:
        """Those of a preset."""
        return ThresholdsByLength(
            self.window_presets[preset], self.false_positives.bases, self.sequence_presets[preset]
        )

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> CallModel:
        """From the plain values of a card; a ValueError says what is wrong."""
        sequences, rates, regions = (_object(values, name) for name in ("sequences", "false_positives", "regions"))
        found = cls(
            min_length=_whole(values, "min_length"),
            window_presets=_scores(values, "window_presets"),
            sequence_presets=_rows(values, "sequence_presets"),
            sequences=SequenceModel(
                _pair(sequences, "bases"), _numbers(sequences, "level"), _numbers(sequences, "slope")
            ),
            false_positives=_false_positives(rates),
            regions=RegionModel(
                bias=_number(regions, "bias"),
                min_bases=_whole(regions, "min_bases"),
                **{name: _number(regions, name, 0.0) for name in ("clip", "cost", "host", "false_per_mbp")},
            ),
        )
        same = found.window_presets.keys() == found.sequence_presets.keys() and "default" in found.window_presets
        _want(same, "sequence_presets", "of the same names as window_presets, default among them")
        fitting = all(len(row) == len(found.false_positives.bases) for row in found.sequence_presets.values())
        _want(fitting, "sequence_presets", "a score for each length of false_positives")
        return found

    def to_json(self) -> dict[str, Any]:
        """Plain values for a card."""
        return asdict(self)


def _false_positives(values: Mapping[str, Any]) -> FalsePositives:
    bases, scores = _numbers(values, "bases"), _numbers(values, "scores")
    for name, each in (("bases", bases), ("scores", scores)):
        _want(all(one < two for one, two in pairwise(each)), name, "numbers that rise")
    _want(bases[0] >= 1, "bases", "lengths")
    _want(scores[0] > 0 and scores[-1] < 1, "scores", "between 0 and 1")
    rows = values.get("rates")
    good = isinstance(rows, list) and len(rows) == len(bases)
    _want(good, "rates", "a row for each length")
    rates = tuple(_numbers({"rates": row}, "rates") for row in rows or ())
    good = all(len(row) == len(scores) and all(0 <= rate <= 1 for rate in row) for row in rates)
    _want(good, "rates", "a share from 0 to 1 for each score")
    return FalsePositives(tuple(map(int, bases)), scores, rates)


def _want(good: bool, name: str, what: str) -> None:
    if not good:
        raise ValueError(f"{name} must be {what}")


def _is_number(value: object) -> bool:
    # A bool is an int to Python, but not to a reader of the file; JSON in Python knows NaN.
    return type(value) in (int, float) and math.isfinite(value)  # type: ignore[arg-type]


def _number(values: Mapping[str, Any], name: str, least: float = -math.inf) -> float:
    _want(_is_number(values.get(name)) and values[name] >= least, name, f"a number, not below {least:g}")
    return float(values[name])


def _whole(values: Mapping[str, Any], name: str) -> int:
    _want(type(values.get(name)) is int and values[name] >= 0, name, "a whole number, not below 0")
    return int(values[name])


def _numbers(values: Mapping[str, Any], name: str) -> tuple[float, ...]:
    found = values.get(name)
    _want(isinstance(found, list) and bool(found) and all(map(_is_number, found)), name, "a list of numbers")
    return tuple(map(float, found or ()))


def _pair(values: Mapping[str, Any], name: str) -> tuple[int, int]:
    found = _numbers(values, name)
    _want(len(found) == 2 and 1 <= found[0] < found[-1], name, "the shortest and the longest length")
    return int(found[0]), int(found[1])


def _scores(values: Mapping[str, Any], name: str) -> dict[str, float]:
    found = _object(values, name)
    _want(all(_is_number(each) and 0 <= each <= 1 for each in found.values()), name, "scores from 0 to 1 by name")
    return dict(found)


def _rows(values: Mapping[str, Any], name: str) -> dict[str, tuple[float, ...]]:
    inside = _object(values, name)
    found = {key: _numbers(inside, key) for key in inside}
    _want(all(0 <= each <= 1 for row in found.values() for each in row), name, "lists of scores from 0 to 1 by name")
    return found


def _object(values: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    found = values.get(name)
    _want(isinstance(found, dict), name, "an object")
    return dict(found or {})
