"""Calls of measured model sets: the probability that a sequence is viral, and its viral regions with their edges."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from virnucpro.calls.model import CallModel, RegionModel, ThresholdsByLength, log_odds, probability
from virnucpro.calls.verdicts import Caller, Region, SequenceCall, Thresholds, Verdict, added


class WindowOdds(NamedTuple):
    """A window with a score: bases `start` to `end`, from 0, `end` excluded; its log-odds; whether it is viral.

    unknown: the number of its bases other than A, C, G and T.
    """

    start: int
    end: int
    log_odds: float
    viral: bool
    unknown: int = 0

    @property
    def bases(self) -> int:
        """The number of known bases, which count."""
        return self.end - self.start - self.unknown


class ModelCaller(Caller):
    """Calls one sequence by the model of its set."""

    def __init__(self, model: CallModel, thresholds: Thresholds | ThresholdsByLength) -> None:
        super().__init__(thresholds)
        self.model = model

    def finish(self) -> SequenceCall:
        """The call, after all windows."""
        windows = [
            WindowOdds(each.start, each.end, log_odds(each.score), each.viral, each.unknown) for each in self.scored
        ]
        return self.call(windows, self.length, self.windows) if windows else SequenceCall(self.windows)

    def call(self, windows: Sequence[WindowOdds], length: int, number: int) -> SequenceCall:
        """The call of a sequence of `length` bases with `number` windows; windows: those with a score."""
        whole = self._region(0, length, windows)
        bases = sum(window.bases for window in windows)
        threshold = self.thresholds.of_sequence(bases)
        viral = whole.score >= threshold
        regions = self._regions(windows, length, self.model.regions.host if viral else 1.0)
        if viral and not regions:
            verdict, regions = Verdict.VIRUS, (whole,)
        else:
            verdict = Verdict.MIXED if regions else Verdict.OTHER
        counts = number, whole.windows, whole.viral
        rate = self.model.false_positives.at(bases, threshold)
        return SequenceCall(*counts, whole.score, threshold, rate, verdict, regions)

    def _regions(self, windows: Sequence[WindowOdds], length: int, host: float) -> tuple[Region, ...]:
        """Viral regions next to which host with a score of at most `host` remains."""
        found = []
        for first, end in divide(windows, length, self.model.regions, lambda beside: self._score(beside) <= host):
            start = windows[first].start if first else 0
            stop = windows[end - 1].end if end < len(windows) else length
            region = self._region(start, stop, windows[first:end])
            if region.score >= self.thresholds.of_sequence(sum(window.bases for window in windows[first:end])):
                found.append(region)
        return tuple(found)

    def _region(self, start: int, end: int, windows: Sequence[WindowOdds]) -> Region:
        return Region(start, end, self._score(windows), len(windows), sum(window.viral for window in windows))

    def _score(self, windows: Sequence[WindowOdds]) -> float:
        bases = sum(window.bases for window in windows)
        mean = added(window.log_odds * window.bases for window in windows) / bases
        return probability(self.model.sequences.log_odds(bases, mean))


def divide(
    windows: Sequence[WindowOdds],
    length: int,
    model: RegionModel,
    passes_for_host: Callable[[Sequence[WindowOdds]], bool],
) -> list[tuple[int, int]]:
    """The viral regions of a sequence of `length` bases: places of the first window of each, and after its last one.

    Empty if no host remains: a region must have host next to it.
    """
    evidence = [_evidence(window, model) for window in windows]
    found = _best(evidence, model.cost)

    def is_host(first: int, last: int) -> bool:
        """Whether the windows between two places are enough to be host."""
        bases = (windows[last].start if last < len(windows) else length) - (windows[first - 1].end if first else 0)
        enough = bases >= model.min_bases and -added(evidence[first:last]) >= model.cost
        return enough and passes_for_host(windows[first:last])

    joined: list[tuple[int, int]] = []
    for first, last in found:
        before = joined[-1][1] if joined else 0
        if is_host(before, first):
            joined.append((first, last))
        else:
            joined[-1:] = [(joined[-1][0] if joined else 0, last)]
    if joined and not is_host(joined[-1][1], len(windows)):
        joined[-1] = joined[-1][0], len(windows)
    if joined == [(0, len(windows))]:
        return []
    return [(first, last) for first, last in joined if windows[last - 1].end - windows[first].start >= model.min_bases]


def _evidence(window: WindowOdds, model: RegionModel) -> float:
    """The evidence of a window for a virus, in proportion to its share of known bases."""
    share = window.bases / (window.end - window.start)
    return (min(max(window.log_odds, -model.clip), model.clip) - model.bias) * share


def _best(evidence: Sequence[float], cost: float) -> list[tuple[int, int]]:
    """The stretches with the most evidence in total, where each costs `cost`: the first place, and that after the last.

    By dynamic programming over two states (Viterbi): outside of a stretch and inside one.
    """
    outside, inside = 0.0, float("-inf")
    began: list[bool] = []  # at each place: whether the best stretch that reaches it begins there
    ended: list[bool] = []  # whether the best way to be outside after it ends a stretch with it
    for each in evidence:
        began.append(outside - cost > inside)
        inside = max(inside, outside - cost) + each
        ended.append(inside > outside)
        outside = max(outside, inside)
    found: list[tuple[int, int]] = []
    place = len(evidence)
    while place:
        place -= 1
        if ended[place]:
            last = place + 1
            while not began[place]:
                place -= 1
            found.append((place, last))
    return found[::-1]
