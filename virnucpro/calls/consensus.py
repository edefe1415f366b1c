"""Calls of model sets that were not measured: by means, and runs of viral windows (docs/calls.md).

A window is viral if its score reaches the threshold, a sequence if the mean of its windows does; a viral region is a
run of viral windows. All sums are in input order, in float64, so that equal scores give equal calls.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from virnucpro.calls.verdicts import Caller, Region, ScoredBases, SequenceCall, Verdict, added

#: Viral windows with at most this many other scored windows between them are one region.
MOST_GAP = 2
#: A region of a sequence that is not viral as a whole needs this many viral windows: single ones are chance.
FEWEST_VIRAL = 3


class ConsensusCaller(Caller):
    """Calls a sequence by the mean of its windows. Windows without a score neither end a region nor count in it."""

    def finish(self) -> SequenceCall:
        """The call, after all windows."""
        if not self.scored:
            return SequenceCall(self.windows)
        whole = _region(self.scored)
        threshold = self.thresholds.of_sequence(sum(window.bases for window in self.scored))
        viral = whole.score >= threshold
        found = map(_region, _runs(self.scored))
        regions = tuple(region for region in found if viral or region.viral >= FEWEST_VIRAL)
        verdict = Verdict.VIRUS if viral else Verdict.MIXED if regions else Verdict.OTHER
        counts = self.windows, whole.windows, whole.viral
        return SequenceCall(*counts, whole.score, threshold, None, verdict, regions)


def _runs(windows: Sequence[ScoredBases]) -> Iterator[Sequence[ScoredBases]]:
    """Windows from one viral window to another, with at most MOST_GAP others between neighbouring viral ones."""
    runs: list[tuple[int, int]] = []
    for place in (place for place, window in enumerate(windows) if window.viral):
        if runs and place - runs[-1][1] <= MOST_GAP + 1:
            runs[-1] = runs[-1][0], place
        else:
            runs.append((place, place))
    return (windows[first : last + 1] for first, last in runs)


def _region(windows: Sequence[ScoredBases]) -> Region:
    """A region with the mean score of its windows, weighted by their bases."""
    score = added(window.score * window.bases for window in windows) / sum(window.bases for window in windows)
    viral = sum(window.viral for window in windows)
    return Region(windows[0].start, windows[-1].end, score, len(windows), viral)
