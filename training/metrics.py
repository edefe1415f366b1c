"""Figures beside those of `virnucpro.train.metrics`: a fast AUROC, gains over another way, calibration."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Scores = NDArray[np.float64]
Truth = NDArray[np.bool_]
Ints = NDArray[np.int64]
ROUNDS = 300
BINS = 10


def auroc(scores: Scores, viral: Truth) -> float:
    """Area under the ROC curve: how often a viral one scores above another, ties counting half."""
    positives, negatives = int(viral.sum()), int((~viral).sum())
    if not positives or not negatives:
        return float("nan")
    _, place, counts = np.unique(scores, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[place]
    return float((ranks[viral].sum() - positives * (positives + 1) / 2) / (positives * negatives))


@dataclass(frozen=True)
class Comparison:
    """AUROCs of two ways and the first one's gain, each with its 95 % interval."""

    ours: tuple[float, float, float]
    theirs: tuple[float, float, float]
    gain: tuple[float, float, float]

    @classmethod
    def of(cls, ours: Scores, theirs: Scores, viral: Truth, unit: Ints, seed: int = 0) -> Comparison:
        """Intervals from drawing whole units (clusters): windows of one are alike. Both ways see the same draws."""
        draws = [rows for rows in _draws(unit, seed) if 0 < viral[rows].sum() < len(rows)]
        first, second = (
            np.array([auroc(scores, viral), *(auroc(scores[rows], viral[rows]) for rows in draws)])
            for scores in (ours, theirs)
        )
        return cls(_with_interval(first), _with_interval(second), _with_interval(first - second))


def _draws(unit: Ints, seed: int) -> list[Ints]:
    order = np.argsort(unit, kind="stable")
    members = np.split(order, np.flatnonzero(np.diff(unit[order])) + 1)
    rng = np.random.default_rng(seed)
    return [np.concatenate([members[i] for i in rng.integers(len(members), size=len(members))]) for _ in range(ROUNDS)]


def _with_interval(values: Scores) -> tuple[float, float, float]:
    """The first value, and the middle 95 % of the others."""
    low, high = np.percentile(values[1:], [2.5, 97.5]) if len(values) > 1 else (np.nan, np.nan)
    return round(float(values[0]), 4), round(float(low), 4), round(float(high), 4)


def reliability(scores: Scores, viral: Truth) -> list[tuple[float, int, float, float, float]]:
    """Bins of equal width: lower bound, windows, their weight, mean score, share of viral; classes weigh the same."""
    weights = np.where(viral, 0.5 / viral.sum(), 0.5 / (~viral).sum())
    place = np.minimum((scores * BINS).astype(np.int64), BINS - 1)
    rows = []
    for at in np.unique(place).tolist():
        here = place == at
        weight = float(weights[here].sum())
        mean, share = (float((weights[here] * each[here]).sum() / weight) for each in (scores, viral))
        rows.append((at / BINS, int(here.sum()), round(weight, 4), round(mean, 4), round(share, 4)))
    return rows


def calibration_error(scores: Scores, viral: Truth) -> float:
    """Mean distance of score and share of viral over the bins."""
    return sum(weight * abs(mean - share) for _, _, weight, mean, share in reliability(scores, viral))
