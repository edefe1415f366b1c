"""Measure a model set as it is shipped, on genomes that nothing of it was trained or fitted on.

    python -m training.pieces --genomes dev.npz --out dev_pieces --kinds windows lengths short records spliced sweep
    python -m training.measure --pieces dev_pieces --model mini --runs dev_runs --out measured.json

Everything goes through `virnucpro predict` with its defaults. Figures stand as [value, low, high] with a 95% interval
from drawing clusters. The source of the figures in the model card.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from training import metrics
from training.engine import Called, called
from training.fit_sequences import compare
from training.kingdoms import kingdom_of
from training.pieces import LENGTHS, SHORT_LENGTHS
from virnucpro.calls.read import Results

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Truth = NDArray[np.bool_]

ROUNDS = 200
KINDS = ("windows", "lengths", "short", "records", "spliced", "sweep")
OTHERS = ("prokaryote", "eukaryote")
VIRAL = ("phage", "virus")


@dataclass(frozen=True)
class Sample:
    """Sequences in columns; score: 0 where there is none; called: by its verdict virus or mixed."""

    score: Floats
    called: Truth
    viral: Truth
    length: Ints
    cluster: Ints
    group: NDArray[np.str_]

    @classmethod
    def of(cls, sequences: Sequence[Called]) -> Sample:
        """All sequences; one that is not scored counts as not called."""
        return cls(
            np.array([each.score or 0.0 for each in sequences]),
            np.array([each.verdict in ("virus", "mixed") for each in sequences]),
            np.array([each.piece.viral for each in sequences]),
            np.array([each.length for each in sequences]),
            np.array([each.piece.cluster for each in sequences]),
            np.array([each.piece.group for each in sequences]),
        )

    @cached_property
    def kingdom(self) -> NDArray[np.str_]:
        """Of each."""
        return np.array([kingdom_of(name) for name in self.group.tolist()])

    def part(self, rows: Truth | Ints) -> Sample:
        """Some of them."""
        return Sample(*(getattr(self, name)[rows] for name in self.__dataclass_fields__))

    def named(self, word: str) -> Truth:
        """Which are of groups with that word in their names."""
        found: Truth = np.char.find(self.group, word) >= 0
        return found


Figure = Callable[[Sample], float]


def with_interval(sample: Sample, figure: Figure) -> list[float]:
    """[value, low, high] from drawing clusters."""
    order = np.argsort(sample.cluster, kind="stable")
    members = np.split(order, np.flatnonzero(np.diff(sample.cluster[order])) + 1)
    random = np.random.default_rng(0)
    draws = (random.integers(len(members), size=len(members)) for _ in range(ROUNDS))
    values = [figure(sample.part(np.concatenate([members[i] for i in draw]))) for draw in draws]
    low, high = np.nanpercentile(values, [2.5, 97.5]) if not np.isnan(values).all() else (np.nan, np.nan)
    return [round(float(each), 4) for each in (figure(sample), low, high)]


def against(positive: Callable[[Sample], Truth], kingdoms: Sequence[str] = OTHERS) -> Figure:
    """Mean AUROC of some viral ones against each kingdom."""

    def figure(sample: Sample) -> float:
        here, found = positive(sample), []
        for kingdom in kingdoms:
            both = here | (sample.kingdom == kingdom)
            found.append(metrics.auroc(sample.score[both], here[both]))
        return float(np.mean(found))

    return figure


def recall_at(share: float) -> Figure:
    """Share of the viral ones above the score that this share of the others exceeds, kingdoms weighing the same."""

    def figure(sample: Sample) -> float:
        weight = np.zeros(len(sample.score))
        for kingdom in OTHERS:
            here = sample.kingdom == kingdom
            weight[here] = 0.5 / max(1, here.sum())
        order = np.argsort(-sample.score, kind="stable")
        last = int(np.searchsorted(np.cumsum(weight[order]), share, side="right"))
        return float(sample.viral[order[:last]].sum() / max(1, sample.viral.sum()))

    return figure


WINDOW_FIGURES: Mapping[str, Figure] = {
    "AUROC overall": against(lambda sample: sample.viral),
    "AUROC against prokaryotes": against(lambda sample: sample.viral, ("prokaryote",)),
    "AUROC against eukaryotes": against(lambda sample: sample.viral, ("eukaryote",)),
    "AUROC of tailed phages against prokaryotes": against(lambda sample: sample.named("phage_dsDNA"), ("prokaryote",)),
    "AUROC of uncultured phages": against(lambda sample: sample.named("phage_uncultured")),
    "recall at 1% false positives": recall_at(0.01),
    "recall at 5% false positives": recall_at(0.05),
}


def share_called(kingdoms: Sequence[str]) -> Figure:
    """Mean share of each kingdom that is called."""

    def figure(sample: Sample) -> float:
        parts = [sample.called[sample.kingdom == kingdom] for kingdom in kingdoms]
        return float(np.mean([part.mean() for part in parts if len(part)])) if any(map(len, parts)) else float("nan")

    return figure


def calibration(others: Sequence[str]) -> Figure:
    """Mean distance of score and share of viral, viral ones against some kingdoms, classes weighing the same."""

    def figure(sample: Sample) -> float:
        both = sample.viral | np.isin(sample.kingdom, others)
        if not 0 < sample.viral[both].sum() < both.sum():
            return float("nan")
        return float(metrics.calibration_error(sample.score[both], sample.viral[both]))

    return figure


def by_length(sample: Sample, lengths: Sequence[int]) -> dict[str, Any]:
    """Recall, false positives and calibration at each of the lengths, as called by default."""
    found: dict[str, Any] = {}
    for length in lengths:
        here = sample.part(sample.length == length)
        row: dict[str, Any] = {"viral": int(here.viral.sum()), "others": int((~here.viral).sum())}
        row["recall"] = with_interval(here, share_called(VIRAL))
        row["false positives"] = with_interval(here, share_called(OTHERS))
        for kingdom in (*VIRAL, *OTHERS):
            row[f"called, {kingdom}"] = with_interval(here, share_called((kingdom,)))
        for name, kingdoms in (("all", OTHERS), *((kingdom, (kingdom,)) for kingdom in OTHERS)):
            row[f"calibration error, {name}"] = with_interval(here, calibration(kingdoms))
        row["AUROC"] = with_interval(here, WINDOW_FIGURES["AUROC overall"])
        found[str(length)] = row
    return found


def of_groups(sample: Sample) -> dict[str, Any]:
    """By group: how many, and the share that is called."""
    names, counts = np.unique(sample.group, return_counts=True)
    found = {}
    for name, count in zip(names.tolist(), counts.tolist(), strict=True):
        here = sample.part(sample.group == name)
        found[name] = [count, *with_interval(here, lambda part: float(part.called.mean()))]
    return found


def smoothness(sequences: Sequence[Called]) -> list[dict[str, Any]]:
    """Of each record of the sweep: its lowest and highest score, and the largest step between neighbouring lengths."""
    found = []
    for record in dict.fromkeys(each.piece.record for each in sequences):
        here = [each for each in sequences if each.piece.record == record]
        scores = np.array([each.score for each in here], float)
        steps = np.abs(np.diff(scores))
        found.append(
            {
                "group": here[0].piece.group,
                "scores": [round(float(scores.min()), 4), round(float(scores.max()), 4)],
                "largest step": round(float(steps.max()), 4),
                "verdicts": sorted({each.verdict for each in here}),
            }
        )
    return found


def spliced(sequences: Sequence[Called]) -> dict[str, Any]:
    """What is found of phages in hosts."""
    found = compare(sequences, [[(region.start, region.end) for region in each.regions] for each in sequences])
    with_phage = [each for each in sequences if each.piece.at >= 0]
    verdicts = {verdict: sum(each.verdict == verdict for each in with_phage) for verdict in ("mixed", "virus", "other")}
    host = sum(each.length - (each.piece.to - each.piece.at) for each in sequences)
    return {"phages": len(with_phage), "Mbp of host": round(host / 1e6, 2)} | found.to_json() | {"verdicts": verdicts}


def measure(parts: Mapping[str, Sequence[Called]]) -> dict[str, Any]:
    """All figures of the kinds that are there."""
    found: dict[str, Any] = {}
    if "windows" in parts:
        sample = Sample.of(parts["windows"])
        found["windows of 500"] = {name: with_interval(sample, figure) for name, figure in WINDOW_FIGURES.items()}
        found["groups of windows"] = of_groups(sample)
    if "lengths" in parts:
        found["lengths"] = by_length(Sample.of(parts["lengths"]), LENGTHS)
    if "short" in parts:  # more pieces: those of these lengths count instead
        found.setdefault("lengths", {}).update(by_length(Sample.of(parts["short"]), SHORT_LENGTHS))
    if "records" in parts:
        sample = Sample.of(parts["records"])
        found["records of 2 to 8 kb"] = {
            "viral": int(sample.viral.sum()),
            "others": int((~sample.viral).sum()),
            "AUROC": with_interval(sample, WINDOW_FIGURES["AUROC overall"]),
            "recall": with_interval(sample, lambda part: float(part.called[part.viral].mean())),
            "false positives": with_interval(sample, share_called(OTHERS)),
            **{f"called, {kingdom}": with_interval(sample, share_called((kingdom,))) for kingdom in (*VIRAL, *OTHERS)},
        }
        found["groups of records"] = of_groups(sample)
    if "spliced" in parts:
        found["spliced"] = spliced(parts["spliced"])
    if "sweep" in parts:
        found["sweep"] = smoothness(parts["sweep"])
    return found


def main() -> None:
    """Call, measure, write."""
    parser = argparse.ArgumentParser(description="Measure a model set as it is shipped.")
    parser.add_argument("--pieces", type=Path, required=True, help="folder of training.pieces")
    parser.add_argument("--model", required=True, help="the set")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, help="(those in the folder)")
    parser.add_argument("--runs", type=Path, required=True, help="folder for the runs of `virnucpro predict`")
    parser.add_argument("--out", type=Path, required=True, help="JSON file to write")
    parser.add_argument("--device", default="auto", help="(%(default)s)")
    args = parser.parse_args()
    kinds = args.kinds or [kind for kind in KINDS if (args.pieces / f"{kind}.fa").exists()]
    parts = {kind: called(args.pieces / f"{kind}.fa", args.model, args.runs, device=args.device) for kind in kinds}
    records = (Results(args.runs, kind).record() for kind in kinds)
    found = {"dtypes": sorted({record["identity"]["dtype"] for record in records})} | measure(parts)
    args.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
