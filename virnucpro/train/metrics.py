"""Measure scores: areas under curves, recall at a share of false positives, with intervals over groups."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from virnucpro.errors import UsageError
from virnucpro.pipeline.events import Listener, Step, unheard

#: Shares of false positives at which recall is measured.
FALSE_POSITIVES = (0.01, 0.05)
RESAMPLES = 200

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Metric = Callable[[Ints, Floats], float]


@dataclass(frozen=True)
class Estimate:
    """A figure and its 95% interval, from resampling whole groups, since members of a group are not independent."""

    value: float
    low: float
    high: float

    def to_json(self) -> list[float]:
        """[value, low, high], to four decimals."""
        return [round(each, 4) for each in (self.value, self.low, self.high)]


def check_sklearn() -> None:
    """Raise UsageError unless scikit-learn is there."""
    try:
        import sklearn  # noqa: F401
    except ImportError as error:
        raise UsageError("training needs scikit-learn", hint="pip install 'virnucpro[train]'") from error


def auroc(labels: Ints, scores: Floats) -> float:
    """Area under the ROC curve; labels (n,) 0 or 1, scores (n,)."""
    from sklearn.metrics import roc_auc_score

    return float(roc_auc_score(labels, scores))


def auprc(labels: Ints, scores: Floats) -> float:
    """Average precision, which depends on how frequent the classes are."""
    from sklearn.metrics import average_precision_score

    return float(average_precision_score(labels, scores))


def threshold_at(labels: Ints, scores: Floats, false_positives: float) -> float:
    """The lowest threshold at which at most this share of the others is called viral."""
    others = np.sort(scores[labels == 0])[::-1]
    allowed = int(false_positives * len(others))
    if allowed >= len(others):
        return 0.0
    return float(np.nextafter(others[allowed], np.inf))


def recall_at(false_positives: float) -> Metric:
    """Share of the viral ones that is called at this share of false positives."""

    def recall(labels: Ints, scores: Floats) -> float:
        return float((scores[labels == 1] >= threshold_at(labels, scores, false_positives)).mean())

    return recall


METRICS: Mapping[str, Metric] = {
    "auroc": auroc,
    "auprc": auprc,
    **{f"recall at {share:.0%} false positives": recall_at(share) for share in FALSE_POSITIVES},
}


def evaluate(labels: Ints, scores: Floats, groups: Ints, seed: int, listen: Listener = unheard) -> dict[str, Estimate]:
    """Every metric with its interval, each a step for the listener; groups (n,) numbers. Both classes must be there."""
    samples, found = _resampled(labels, groups, seed), {}
    for name, metric in METRICS.items():
        values = [metric(labels[rows], scores[rows]) for rows in samples]
        low, high = np.percentile(values, [2.5, 97.5]) if values else (np.nan, np.nan)
        found[name] = Estimate(metric(labels, scores), float(low), float(high))
        listen(None, Step(name))
    return found


def _resampled(labels: Ints, groups: Ints, seed: int) -> list[Ints]:
    """Rows of groups drawn with replacement; draws with only one class are left out."""
    rng = np.random.default_rng(seed)
    order = np.argsort(groups, kind="stable")
    members = np.split(order, np.flatnonzero(np.diff(groups[order])) + 1)
    draws = (rng.integers(0, len(members), len(members)) for _ in range(RESAMPLES))
    samples = (np.concatenate([members[group] for group in draw]) for draw in draws)
    return [rows for rows in samples if len(np.unique(labels[rows])) == 2]


def confusion(labels: Ints, scores: Floats, min_score: float) -> dict[str, int]:
    """How many windows of each class were called viral or not."""
    called = scores >= min_score
    return {
        "virus called virus": int((called & (labels == 1)).sum()),
        "virus called other": int((~called & (labels == 1)).sum()),
        "other called virus": int((called & (labels == 0)).sum()),
        "other called other": int((~called & (labels == 0)).sum()),
    }
