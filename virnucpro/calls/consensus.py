"""The rule of calls for model sets whose calls were not measured: means, and runs of viral windows (docs/calls.md).

A window is viral from a score on. A sequence is by the mean of its windows; a viral region is a run of viral windows.
Everything is added up in input order, in float64, so that equal scores give equal calls.
"""

from __future__ import annotations

from dataclasses import dataclass

from virnucpro.calls.model import ThresholdsByLength
from virnucpro.calls.verdicts import Region, SequenceCall, Thresholds, Verdict

#: Viral windows with at most this many other scored windows between them are one region.
MOST_GAP = 2
#: A region of a sequence that is not viral as a whole needs this many viral windows: single ones are chance.
FEWEST_VIRAL = 3


@dataclass
class _Run:
    """Windows in a row: bases `start` to `end`; how many windows and viral ones, known bases, and these times score."""

    start: int
    end: int
    windows: int = 0
    viral: int = 0
    bases: int = 0
    weighted: float = 0.0

    def add(self, end: int, score: float, bases: int) -> None:
        """Count one scored window in."""
        self.end = max(self.end, end)
        self.windows += 1
        self.bases += bases
        self.weighted += score * bases

    def absorb(self, gap: _Run) -> None:
        """Count in a run that follows."""
        self.end = gap.end
        self.windows += gap.windows
        self.bases += gap.bases
        self.weighted += gap.weighted

    @property
    def region(self) -> Region:
        """With the mean score of the windows, weighted by their bases."""
        return Region(self.start, self.end, self.weighted / self.bases, self.windows, self.viral)


class ConsensusCaller:
    """Calls one sequence; keeps none of its windows but runs of viral ones."""

    def __init__(self, thresholds: Thresholds | ThresholdsByLength) -> None:
        self.thresholds = thresholds
        self._windows = 0
        self._whole = _Run(0, 0)
        self._runs: list[_Run] = []
        #: Scored windows since the last viral one.
        self._gap: _Run | None = None

    def add(self, start: int, end: int, score: float | None, unknown: int = 0) -> bool:
        """Take a window, as a `Caller` does."""
        self._windows += 1
        if score is None:
            return False  # what is not known neither ends a region nor counts in it
        bases = end - start - unknown
        self._whole.add(end, score, bases)
        viral = score >= self.thresholds.window
        self._extend(start, end, score, bases, viral)
        return viral

    def _extend(self, start: int, end: int, score: float, bases: int, viral: bool) -> None:
        if not viral:
            self._gap = self._gap or _Run(start, end)
            self._gap.add(end, score, bases)
            return
        self._whole.viral += 1
        if self._runs and (self._gap is None or self._gap.windows <= MOST_GAP):
            if self._gap is not None:
                self._runs[-1].absorb(self._gap)
        else:
            self._runs.append(_Run(start, end))
        self._gap = None
        self._runs[-1].add(end, score, bases)
        self._runs[-1].viral += 1

    def finish(self) -> SequenceCall:
        """The call, when all windows are in."""
        if not self._whole.windows:
            return SequenceCall(self._windows)
        whole = self._whole.region
        threshold = self.thresholds.of_sequence(self._whole.bases)
        viral = whole.score >= threshold
        regions = tuple(run.region for run in self._runs if viral or run.viral >= FEWEST_VIRAL)
        verdict = Verdict.VIRUS if viral else Verdict.MIXED if regions else Verdict.OTHER
        counts = self._windows, whole.windows, whole.viral
        return SequenceCall(*counts, whole.score, threshold, None, verdict, regions)
