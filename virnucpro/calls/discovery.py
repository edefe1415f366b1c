"""How many of the calls of a sample are false, estimated from the scores.

A score is the probability that a sequence is viral if half of all sequences are. In a sample with another share of
viral sequences the odds differ: by Bayes' rule they are multiplied by share / (1 - share). The share is given, or is
the one under which the scores are most likely, found by expectation maximisation (Saerens et al. 2002,
doi:10.1162/089976602753284446).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from virnucpro.calls.model import MOST, log_odds
from virnucpro.core.words import counted

#: Scores are counted in bins of log-odds, so that memory does not grow with the sample and order does not matter.
BINS = 4096
#: Sequences of each kind that are added to the sample: with few scores alone, the share would tend to 0 or 1.
SUPPOSED = 1.0
#: The largest number of rounds of estimation, and the change of the share at which it ends.
ROUNDS, ENOUGH = 10_000, 1e-9


@dataclass(frozen=True)
class FalseDiscovery:
    """How many calls are expected to be false, and what is assumed for it.

    share: of viral sequences in the sample; estimated: whether from the scores, or given. calls: sequences called
    virus; expected_false: how many of these. regions: viral regions of mixed sequences; expected_false_regions: the
    number that was measured in hosts, for as many bases of host as in the sample.
    """

    share: float
    estimated: bool
    calls: int
    expected_false: float
    regions: int
    expected_false_regions: float

    def __str__(self) -> str:
        how = "estimated from the scores" if self.estimated else "given"
        regions = f"; {self.expected_false_regions:.1f} of {counted(self.regions, 'regions')} in mixed sequences"
        return (
            f"expected false calls: {self.expected_false:.1f} of {self.calls} called virus, assuming that "
            f"{self.share:.1%} of the sequences are viral ({how}){regions if self.regions else ''}"
        )


class Discovery:
    """Counts the scores of a sample, then says how many calls are false."""

    def __init__(self) -> None:
        self._all = np.zeros(BINS, np.int64)
        self._called = np.zeros(BINS, np.int64)
        self._odds = (np.arange(BINS) + 0.5) / BINS * 2 * MOST - MOST

    def add(self, score: float, called: bool) -> None:
        """Count a sequence that is not mixed."""
        place = min(int((log_odds(score) + MOST) / (2 * MOST) * BINS), BINS - 1)
        self._all[place] += 1
        self._called[place] += called

    def expected(self, regions: int, false_regions: float, share: float | None = None) -> FalseDiscovery:
        """The expectation, with a given or an estimated share; regions: found ones, and those expected to be false."""
        used = self._estimated() if share is None else share
        false = float(((1 - self._viral(used)) * self._called).sum())
        calls, rounded = int(self._called.sum()), (round(used, 6), round(false, 3), round(false_regions, 3))
        return FalseDiscovery(rounded[0], share is None, calls, rounded[1], regions, rounded[2])

    def _viral(self, share: float) -> NDArray[np.float64]:
        """(BINS,) the probability that sequences of each bin are viral."""
        with np.errstate(divide="ignore"):
            prior = np.log(share) - np.log1p(-share)
        found: NDArray[np.float64] = 1 / (1 + np.exp(-(self._odds + prior)))
        return found

    def _estimated(self) -> float:
        share, total = 0.5, int(self._all.sum()) + 2 * SUPPOSED
        for _ in range(ROUNDS):
            before, share = share, (float((self._viral(share) * self._all).sum()) + SUPPOSED) / total
            if abs(share - before) < ENOUGH:
                break
        return share
