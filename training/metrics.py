"""How well scores tell viral from other: areas, recalls at few false positives, thresholds, intervals, calibration."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Scores = NDArray[np.float64]
Truth = NDArray[np.bool_]
#: Takes scores and truth, gives a figure.
Figure = Callable[[Scores, Truth], float]


def auroc(scores: Scores, viral: Truth) -> float:
    """Area under the ROC curve: how often a viral one scores above another, ties counting half."""
    positives, negatives = int(viral.sum()), int((~viral).sum())
    if not positives or not negatives:
        return float("nan")
    _, place, counts = np.unique(scores, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[place]
    return float((ranks[viral].sum() - positives * (positives + 1) / 2) / (positives * negatives))


def auprc(scores: Scores, viral: Truth) -> float:
    """Average precision; its chance level is the share of viral ones."""
    order = np.argsort(-scores, kind="stable")
    last_of_ties = np.r_[np.diff(scores[order]) != 0, True]
    found = np.cumsum(viral[order])[last_of_ties]
    called = np.flatnonzero(last_of_ties) + 1
    return float((np.diff(np.r_[0, found]) * found / called).sum() / max(1, found[-1]))


def threshold(scores: Scores, viral: Truth, false_positives: float) -> float:
    """The lowest score from which at most that share of the others is called viral."""
    others = np.sort(scores[~viral])[::-1]
    allowed = int(false_positives * len(others))
    return float(np.nextafter(others[allowed], 2)) if allowed < len(others) else 0.0


def recall_at(false_positives: float) -> Figure:
    """Share of viral ones found at that share of false positives."""
    return lambda scores, viral: float((scores[viral] >= threshold(scores, viral, false_positives)).mean())


def interval(
    figure: Figure, scores: Scores, viral: Truth, unit: NDArray[np.int64], rounds: int = 500, seed: int = 0
) -> tuple[float, float]:
    """95 % bootstrap interval of a figure; whole units (clusters) are drawn, since windows of one are alike."""
    rows = _rows_by_unit(unit)
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(rounds):
        drawn = np.concatenate([rows[i] for i in rng.integers(len(rows), size=len(rows))])
        if 0 < viral[drawn].sum() < len(drawn):
            found.append(figure(scores[drawn], viral[drawn]))
    low, high = np.percentile(found, [2.5, 97.5])
    return float(low), float(high)


def paired_interval(
    figure: Figure, ours: Scores, theirs: Scores, viral: Truth, unit: NDArray[np.int64], rounds: int = 500
) -> tuple[float, float]:
    """95 % interval of how much better `ours` is, both measured on the same draws."""
    places = np.arange(len(viral), dtype=np.float64)
    return interval(lambda at, truth: _gain(figure, ours, theirs, at, truth), places, viral, unit, rounds)


def _gain(figure: Figure, ours: Scores, theirs: Scores, places: Scores, viral: Truth) -> float:
    at = places.astype(np.int64)
    return figure(ours[at], viral) - figure(theirs[at], viral)


def _rows_by_unit(unit: NDArray[np.int64]) -> list[NDArray[np.int64]]:
    order = np.argsort(unit, kind="stable")
    return np.split(order, np.flatnonzero(np.diff(unit[order])) + 1)


def reliability(scores: Scores, viral: Truth, bins: int = 10) -> list[tuple[float, float, int, float, float]]:
    """Bins of equal width: bounds, windows, mean score, share of viral ones, both classes weighing the same."""
    weights = np.where(viral, 0.5 / viral.sum(), 0.5 / (~viral).sum())
    place = np.minimum((scores * bins).astype(np.int64), bins - 1)
    rows = []
    for at in np.unique(place):
        here = place == at
        weight = weights[here]
        mean, share = np.average(scores[here], weights=weight), weight[viral[here]].sum() / weight.sum()
        rows.append((at / bins, (at + 1) / bins, int(here.sum()), float(mean), float(share)))
    return rows


def calibration_error(scores: Scores, viral: Truth, bins: int = 10) -> float:
    """Mean distance between score and share of viral ones over the bins, both classes weighing the same."""
    weights = np.where(viral, 0.5 / viral.sum(), 0.5 / (~viral).sum())
    place = np.minimum((scores * bins).astype(np.int64), bins - 1)
    rows = reliability(scores, viral, bins)
    total = [weights[place == round(low * bins)].sum() for low, *_ in rows]
    return float(sum(weight * abs(row[3] - row[4]) for weight, row in zip(total, rows, strict=True)))
