"""Which groups are of prokaryotes, which of eukaryotes, and how well windows of each are told from viral ones."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from training.metrics import auroc

#: How often windows of each are drawn: half of a class each.
KINGDOMS: Mapping[str, float] = {"prokaryote": 0.5, "eukaryote": 0.5, "phage": 0.35, "virus": 0.65}
_PROKARYOTES = ("bacteria", "archaea", "amr", "dnaA", "repA", "transposase")


def kingdom_of(name: str) -> str:
    """`prokaryote` or `eukaryote` of a group of others, `phage` or `virus` of a viral one."""
    side, _, group = name.partition("/")
    group = group.removeprefix("more_")
    if side == "viral":
        return "phage" if group.startswith("phage") else "virus"
    return "prokaryote" if group.startswith(_PROKARYOTES) else "eukaryote"


def separation(logits: NDArray[np.float64], viral: NDArray[np.bool_], names: NDArray[np.str_]) -> dict[str, float]:
    """AUROCs of windows, and the recall at 1% and 5% false positives; kingdoms of others weigh the same."""
    kingdoms = np.array([kingdom_of(name) for name in names.tolist()])
    sides = {kingdom: kingdoms == kingdom for kingdom in ("prokaryote", "eukaryote")}

    def against(positive: NDArray[np.bool_], others: NDArray[np.bool_]) -> float:
        return auroc(
            np.r_[logits[positive], logits[others]], np.r_[np.ones(positive.sum()), np.zeros(others.sum())] > 0
        )

    found = {kingdom: against(viral, here) for kingdom, here in sides.items()}
    found["overall"] = sum(found.values()) / 2
    tails = np.char.find(names, "phage_dsDNA") >= 0
    uncultured = np.char.find(names, "phage_uncultured") >= 0
    found["tailed"] = against(tails, sides["prokaryote"])
    found["uncultured"] = against(uncultured, sides["prokaryote"] | sides["eukaryote"])
    for share in (0.01, 0.05):
        found[f"recall at {share:.0%}"] = recall_at(logits, viral, sides, share)
    return {name: round(float(value), 4) for name, value in found.items()}


def recall_at(
    logits: NDArray[np.float64], viral: NDArray[np.bool_], sides: Mapping[str, NDArray[np.bool_]], share: float
) -> float:
    """Share of viral windows above the score that `share` of the others exceed, kingdoms weighing the same."""
    weights = sum(np.where(here, 0.5 / max(1, here.sum()), 0) for here in sides.values())
    order = np.argsort(-logits, kind="stable")
    false = np.cumsum(np.asarray(weights)[order])
    last = int(np.searchsorted(false, share, side="right"))
    return float(viral[order[:last]].sum() / max(1, viral.sum()))
