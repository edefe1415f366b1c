"""Evaluate a trained classifier: figures on groups that it has not seen, thresholds, the card, the curves."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from virnucpro._version import __version__
from virnucpro.models.card import DEFAULT_PRESET, ClassifierCard
from virnucpro.pipeline.events import Listener, unheard
from virnucpro.train.curves import write_curves
from virnucpro.train.dataset import Dataset, Subset
from virnucpro.train.fit import Fitted
from virnucpro.train.metrics import METRICS, Estimate, Floats, Ints, confusion, evaluate, threshold_at

#: Name of a preset → share of the other windows that it may call viral.
PRESETS: Mapping[str, float] = {"conservative": 0.01, "default": 0.05, "relaxed": 0.10}

#: The card warns of a preset with more than so many times the false positives that it stands for.
TOO_MANY = 2

_NAMES = {Subset.VALIDATION: "validation", Subset.TEST: "test"}
#: Figures of both, of windows and of sequences.
FIGURES = len(_NAMES) * 2 * len(METRICS)


@dataclass
class Trial:
    """scores (n,) of a dataset's windows, NaN where there is none; subsets (n,). Figures are steps for the listener."""

    data: Dataset
    subsets: Ints
    scores: Floats
    seed: int
    listen: Listener = unheard

    def of(self, subset: Subset) -> tuple[Ints, Floats, Ints]:
        """Labels, scores and groups of a subset's windows that have a score."""
        rows = (self.subsets == subset) & ~np.isnan(self.scores)
        return self.data.label[rows], self.scores[rows], self.data.group[rows]

    def by_sequence(self, subset: Subset) -> tuple[Ints, Floats, Ints]:
        """The same for sequences: the mean of their windows, weighted by bases."""
        rows = (self.subsets == subset) & ~np.isnan(self.scores)
        _, first, place = np.unique(self.data.sequence[rows], return_index=True, return_inverse=True)
        bases = self.data.bases[rows]
        scores = np.bincount(place, self.scores[rows] * bases) / np.bincount(place, bases)
        return self.data.label[rows][first], scores, self.data.group[rows][first]

    @cached_property
    def presets(self) -> dict[str, float]:
        """Thresholds, measured on the validation subset: the test subset decides nothing."""
        labels, scores, _ = self.of(Subset.VALIDATION)
        return {name: min(1.0, threshold_at(labels, scores, share)) for name, share in PRESETS.items()}

    @cached_property
    def estimates(self) -> dict[str, dict[str, Estimate]]:
        """For windows and sequences of the validation and the test subset, every metric."""
        found = {}
        for subset, name in _NAMES.items():
            for unit, take in (("windows", self.of), ("sequences", self.by_sequence)):
                labels, scores, groups = take(subset)
                if len(np.unique(labels)) == 2:
                    found[f"{name} {unit}"] = evaluate(labels, scores, groups, self.seed, self.listen)
        return found

    @property
    def confusion(self) -> dict[str, int]:
        """The confusion of the test windows at the default threshold."""
        labels, scores, _ = self.of(Subset.TEST)
        return confusion(labels, scores, self.presets[DEFAULT_PRESET])

    @cached_property
    def false_positives(self) -> dict[str, float]:
        """By preset: the share of other windows of the test subset that reach its threshold; NaN if there are none."""
        labels, scores, _ = self.of(Subset.TEST)
        others = scores[labels == 0]
        return {
            name: float(np.mean(others >= score)) if len(others) else float("nan")
            for name, score in self.presets.items()
        }

    @property
    def surprises(self) -> list[str]:
        """Presets with far more false positives in the test subset than they stand for, in words."""
        return [
            f"preset {name} calls {seen:.1%} of the other windows of the test part viral; the target is {meant:.0%}"
            for name, meant in PRESETS.items()
            if (seen := self.false_positives[name]) > TOO_MANY * meant
        ]

    @property
    def divided(self) -> dict[str, dict[str, list[int]]]:
        """The number of records and groups, by class and subset."""
        data, found = self.data, {}
        for label, kind in ((1, "viral"), (0, "other")):
            rows = [(subset, (data.label == label) & (self.subsets == subset)) for subset in Subset]
            found[kind] = {
                subset.name.lower(): [len(np.unique(each[here])) for each in (data.sequence, data.group)]
                for subset, here in rows
            }
        return found

    @property
    def counts(self) -> dict[str, int]:
        """Windows of each subset, with and without a score."""
        found = {}
        for subset in Subset:
            rows = self.subsets == subset
            found[f"{subset.name.lower()} windows"] = int(rows.sum())
            found[f"{subset.name.lower()} windows scored"] = int((rows & ~np.isnan(self.scores)).sum())
        return found

    def findings(self) -> dict[str, Any]:
        """The fields of a card that a trial fills in."""
        metrics: dict[str, Any] = {
            name: {metric: estimate.to_json() for metric, estimate in found.items()}
            for name, found in self.estimates.items()
        }
        metrics |= {
            "confusion of test windows": self.confusion,
            "false positives of test windows": {
                name: None if np.isnan(rate) else round(rate, 4) for name, rate in self.false_positives.items()
            },
            "counts": self.counts,
            "records and groups": self.divided,
        }
        return {"metrics": metrics, "presets": self.presets, "min_score": self.presets[DEFAULT_PRESET]}


def write_text(
    path: Path, card: ClassifierCard, trial: Trial, fitted: Fitted, files: Mapping[str, Sequence[Path]]
) -> None:
    """Write the card for readers; files: of each class. Raises OSError."""
    path.write_text("\n".join(_text(card, trial, fitted, files)) + "\n", "utf-8", "surrogateescape")


def _text(card: ClassifierCard, trial: Trial, fitted: Fitted, files: Mapping[str, Sequence[Path]]) -> Iterator[str]:
    yield f"# {card.name}"
    yield ""
    encoders = " and ".join(pin.name for pin in card.encoders)
    yield f"A classifier for windows of {card.window[0]} bases over {encoders}, made by"
    yield f"`virnucpro train`. Use it: `virnucpro predict contigs.fa -o out --model {card.name}/`"
    yield f"Made on {datetime.now(timezone.utc):%Y-%m-%d} with virnucpro {__version__}, PyTorch {version('torch')};"
    yield f"embedded in {' and '.join(card.dtypes)}."
    yield ""
    yield from _false_positives(trial)
    yield ""
    yield "| class | files | part | records | groups |"
    yield "|---|---|---|---|---|"
    for kind, subsets in trial.divided.items():
        names = ", ".join(str(path.name) for path in files[kind])
        for name, (records, groups) in subsets.items():
            yield f"| {kind} | {names} | {name} | {records} | {groups} |"
    yield ""
    yield f"Epochs: {len(fitted.training_loss)}, the best one kept. Temperature: {fitted.temperature:.3g}."
    yield "Parts are made of whole groups; figures are with 95% intervals over groups. The validation part chose the"
    yield "epoch, the temperature and the thresholds; the test part decided nothing."
    yield ""
    yield "| part | metric | value | 95% interval |"
    yield "|---|---|---|---|"
    for name, found in trial.estimates.items():
        for metric, estimate in found.items():
            yield f"| {name} | {metric} | {estimate.value:.4f} | {estimate.low:.4f} to {estimate.high:.4f} |"
    yield ""
    yield "| test windows at the default score | |"
    yield "|---|---|"
    for name, count in (trial.confusion | trial.counts).items():
        yield f"| {name} | {count} |"
    yield ""
    yield "![curves](curves.svg)"


def _false_positives(trial: Trial) -> Iterator[str]:
    """What a preset stands for, and what was measured on groups that decided nothing."""
    yield "| preset | score | false positives: target (validation) | **observed (test)** |"
    yield "|---|---|---|---|"
    for name, score in trial.presets.items():
        seen, meant = trial.false_positives[name], PRESETS[name]
        shown = "none has a score" if np.isnan(seen) else f"{seen:.1%}"
        warning = " **more than twice the target**" if seen > TOO_MANY * meant else ""
        yield f"| {name} | {score:.4f} | {meant:.0%} | {shown}{warning} |"


def draw_curves(path: Path, trial: Trial, fitted: Fitted) -> None:
    """Losses by epoch, and ROC and precision-recall curves of the windows. Raises OSError."""
    subsets = ((name, *trial.of(subset)[:2]) for subset, name in _NAMES.items())
    scored = {name: (labels, scores) for name, labels, scores in subsets if len(np.unique(labels)) == 2}
    write_curves(path, {"training": fitted.training_loss, "validation": fitted.validation_loss}, scored)
