"""Fit how a model set calls sequences, and write it into the set's card.

    python -m training.fit_sequences --called fold_0_called fold_1_called --model FOLDER

`--called` are folders of `training.engine`: scores of pieces of clusters that the networks which gave them have not
seen. What is fitted to them, for each size of windows, and why, says docs/calls.md. Forms are compared by
cross-validation over clusters; of those that are not worse than the best by more than their error, the one is kept
whose scores are nearest to the shares of viral sequences.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from training.engine import Called, load
from training.kingdoms import KINGDOMS, kingdom_of
from training.metrics import calibration_error
from training.pieces import FIT_KINDS, LONGEST, SHORTEST
from virnucpro.calls.model import (
    ORIGIN,
    CallModel,
    FalsePositives,
    RegionModel,
    SequenceModel,
    ThresholdsByLength,
    probability,
)
from virnucpro.calls.segment import ModelCaller
from virnucpro.calls.verdicts import Verdict
from virnucpro.models.card import CARD, DEFAULT_PRESET, ClassifierCard

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Truth = NDArray[np.bool_]

#: Degrees of the level and of the slope in octaves of length, the simplest first.
FORMS = ((0, 0), (0, 1), (1, 1), (1, 2), (2, 2))
FOLDS = 10
#: Weight of the coefficients' squares, each in units of its column's spread.
RIDGE = 1e-4
#: Others of any length that a preset lets through. A score below `LEAST` is called by none: it speaks against a virus.
PRESETS: Mapping[str, float] = {"conservative": 0.01, "default": 0.02, "relaxed": 0.05}
LEAST = 0.5
#: False regions a Mbp of host that a setting may have: one in a bacterial genome.
FALSE = 0.2
#: Scores of host beside a region that are tried, and what one may cost that "costs nothing".
HOSTS, HOST_COST = (0.01, 0.02, 0.05, 0.1, 0.2), 0.005
#: Scores at which false positives are counted, and over how many octaves of length each way (standard deviation).
SCORES = (0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.75, 0.8, 0.85, 0.9, 0.925, 0.95, 0.965, 0.98, 0.99, 0.995, 0.999)
BREADTH = 0.8


#: What more could be known of a sequence; `choose_form` tells what each would gain.
EXTRA: Mapping[str, Callable[[Called], float]] = {
    "spread of the windows": lambda each: float(np.std([window.log_odds for window in each.windows])),
    "highest window": lambda each: max(window.log_odds for window in each.windows),
    "mean score": lambda each: float(np.mean([probability(window.log_odds) for window in each.windows])),
}


@dataclass(frozen=True)
class Table:
    """Sequences in columns: mean log-odds, scored bases, classes, clusters, kingdoms, weights, and what more was tried.

    Weights: in each octave of length both classes weigh the same, and in a class its kingdoms as in
    `training.kingdoms`.
    """

    mean: Floats
    bases: Ints
    viral: Truth
    cluster: Ints
    kingdom: NDArray[np.str_]
    weight: Floats
    extra: Mapping[str, Floats]

    @classmethod
    def of(cls, sequences: Sequence[Called]) -> Table:
        """Of those that have a score."""
        scored = [each for each in sequences if each.windows]
        mean, bases = np.array([each.mean for each in scored]), np.array([each.bases for each in scored])
        viral = np.array([each.piece.viral for each in scored])
        cluster = np.array([each.piece.cluster for each in scored])
        kingdom = np.array([kingdom_of(each.piece.group) for each in scored])
        extra = {name: np.array([of(each) for each in scored]) for name, of in EXTRA.items()}
        return cls(mean, bases, viral, cluster, kingdom, weights(bases, viral, kingdom), extra)

    @property
    def octave(self) -> Floats:
        """Octaves of length from the model's origin."""
        found: Floats = np.log2(np.clip(self.bases, SHORTEST, LONGEST) / ORIGIN)
        return found


def weights(bases: Ints, viral: Truth, kingdom: NDArray[np.str_]) -> Floats:
    """(sequences,) what each weighs."""
    octave, found = np.log2(np.maximum(bases, SHORTEST) / SHORTEST).astype(int), np.zeros(len(bases))
    for band in np.unique(octave):
        here = octave == band
        for side in (True, False):
            shares = {
                name: share for name, share in KINGDOMS.items() if (here & (viral == side) & (kingdom == name)).any()
            }
            for name, share in shares.items():
                members = here & (viral == side) & (kingdom == name)
                found[members] = share / sum(shares.values()) / members.sum()
    return found


def columns(table: Table, form: tuple[int, int]) -> Floats:
    """(sequences, coefficients): powers of the octave, then these times the mean."""
    powers = table.octave[:, None] ** np.arange(max(form) + 1)
    return np.concatenate((powers[:, : form[0] + 1], powers[:, : form[1] + 1] * table.mean[:, None]), 1)


def logistic(features: Floats, viral: Truth, weight: Floats) -> Floats:
    """Coefficients of a logistic regression with a small ridge, by Newton's method."""
    scale = np.sqrt((features**2).mean(0)).clip(1e-9)
    x, share, found = features / scale, weight / weight.sum(), np.zeros(features.shape[1])
    for _ in range(100):
        p = 1 / (1 + np.exp(-np.clip(x @ found, -30, 30)))
        gradient = x.T @ (share * (p - viral)) + RIDGE * found
        hessian = (x * (share * p * (1 - p))[:, None]).T @ x + RIDGE * np.eye(len(found))
        step = np.linalg.solve(hessian, gradient)
        found -= step
        if np.abs(step).max() < 1e-10:
            break
    coefficients: Floats = found / scale
    return coefficients


def out_of_fold(table: Table, features: Floats) -> Floats:
    """(sequences,) log-odds of each by a fit without the clusters of its fold."""
    found = np.zeros(len(table.bases))
    _, cluster = np.unique(table.cluster, return_inverse=True)
    fold = np.random.default_rng(0).permutation(cluster.max() + 1)[cluster] % FOLDS
    for held in range(FOLDS):
        rest = fold != held
        found[~rest] = features[~rest] @ logistic(features[rest], table.viral[rest], table.weight[rest])
    return found


def losses(table: Table, odds: Floats) -> Floats:
    """(sequences,) weighted cross entropy of each."""
    found: Floats = table.weight * np.logaddexp(0, np.where(table.viral, -odds, odds)) / table.weight.sum()
    return found


def choose_form(table: Table) -> tuple[tuple[int, int], dict[str, Any]]:
    """Of the forms that are not worse than the best by more than the error of their difference the best calibrated."""
    odds = {form: out_of_fold(table, columns(table, form)) for form in FORMS}
    found = {form: losses(table, each) for form, each in odds.items()}
    best = min(found.values(), key=lambda each: float(each.sum()))
    _, cluster = np.unique(table.cluster, return_inverse=True)
    report: dict[str, Any] = {}
    good: dict[tuple[int, int], float] = {}
    for form, each in found.items():
        difference = np.bincount(cluster, each - best)
        error, calibration = float(np.sqrt((difference**2).sum())), miscalibration(table, odds[form])
        report[f"level {form[0]}, slope {form[1]}"] = [round(float(each.sum()), 4), round(error, 4), calibration]
        if difference.sum() <= error:
            good[form] = calibration
    chosen = min(good, key=lambda form: good[form])
    for name, extra in table.extra.items():
        features = np.c_[columns(table, chosen), extra, extra * table.octave]
        difference = np.bincount(cluster, losses(table, out_of_fold(table, features)) - found[chosen])
        report[f"gain of {name}"] = [
            round(-float(difference.sum()), 4),
            round(float(np.sqrt((difference**2).sum())), 4),
        ]
    return chosen, report


def miscalibration(table: Table, odds: Floats) -> float:
    """Mean over the octaves of length of the distance of score and share of viral."""
    octave, scores = np.log2(np.maximum(table.bases, SHORTEST) / SHORTEST).astype(int), 1 / (1 + np.exp(-odds))
    parts = [octave == band for band in np.unique(octave)]
    both = [part for part in parts if 0 < table.viral[part].sum() < part.sum()]
    return round(float(np.mean([calibration_error(scores[part], table.viral[part]) for part in both])), 4)


def sequence_model(table: Table, form: tuple[int, int]) -> SequenceModel:
    """Fitted to all."""
    found = [round(float(each), 5) for each in logistic(columns(table, form), table.viral, table.weight)]
    bases = int(max(SHORTEST, table.bases.min())), int(min(LONGEST, table.bases.max()))
    return SequenceModel(bases, tuple(found[: form[0] + 1]), tuple(found[form[0] + 1 :]))


def lengths(longest: int) -> list[int]:
    """Where false positives are told: every half octave."""
    return [round(SHORTEST * 2 ** (step / 2)) for step in range(int(2 * np.log2(longest / SHORTEST)) + 1)]


def false_positives(table: Table, odds: Floats) -> FalsePositives:
    """Share of the others that reach each score, by length, kingdoms weighing the same; odds: out of fold."""
    rows, places = [], lengths(int(table.bases[~table.viral].max()))
    for length in places:
        near = np.exp(-0.5 * (np.log2(table.bases / length) / BREADTH) ** 2) * ~table.viral
        weight = np.zeros(len(near))
        for name in ("prokaryote", "eukaryote"):
            here = table.kingdom == name
            if (total := near[here].sum()) > 1e-6:
                weight[here] = near[here] / total
        scores = 1 / (1 + np.exp(-odds))
        rows.append(tuple(round(float(weight[scores >= score].sum() / weight.sum()), 5) for score in SCORES))
    return FalsePositives(tuple(places), SCORES, tuple(rows))


def threshold(scores: Floats, weight: Floats, share: float) -> float:
    """The lowest score that at most that share of the weight reaches."""
    order = np.argsort(-scores, kind="stable")
    above = np.cumsum(weight[order]) / weight.sum()
    last = int(np.searchsorted(above, share, side="right"))
    return min(1.0, round(float(scores[order[min(last, len(order) - 1)]]) + 1e-6, 6))


def window_thresholds(sequences: Sequence[Called], size: int) -> dict[str, float]:
    """By preset, of the windows of the full size, kingdoms weighing the same."""
    others = [each for each in sequences if not each.piece.viral]
    rows = [
        (probability(window.log_odds), kingdom_of(each.piece.group))
        for each in others
        for window in each.windows
        if window.end - window.start > 0.9 * size
    ]
    scores, kingdom = np.array([score for score, _ in rows]), np.array([name for _, name in rows])
    _, place, counts = np.unique(kingdom, return_inverse=True, return_counts=True)
    return {name: threshold(scores, 1 / counts[place], share) for name, share in PRESETS.items()}


def sequence_thresholds(rates: FalsePositives) -> dict[str, tuple[float, ...]]:
    """By preset, for each length of `rates`: the least score, from `LEAST` on, that no more of the others reach."""
    tried: list[float] = np.round(np.arange(LEAST, 0.9999, 0.0005), 4).tolist()

    def least(bases: int, share: float) -> float:
        return next((score for score in tried if rates.at(bases, score) <= share), tried[-1])

    return {name: tuple(least(bases, share) for bases in rates.bases) for name, share in PRESETS.items()}


# Regions.


@dataclass(frozen=True)
class Found:
    """What a segmentation finds.

    phage: bases of phages in hosts; found: of them in regions; edges: distances of the edges of phages that are found
    by half from the nearest edge of a region; host: bases of hosts; false: regions that touch no phage; broken: share
    of whole viral sequences of 5 kb or more that are divided.
    """

    phage: int
    found: int
    edges: Sequence[int]
    host: int
    false: int
    broken: float

    def to_json(self) -> dict[str, float]:
        """The figures that count."""
        return {
            "bases found": round(self.found / max(1, self.phage), 4),
            "median edge": float(np.median(self.edges)) if self.edges else float("nan"),
            "false regions a Mbp": round(1e6 * self.false / max(1, self.host), 3),
            "viral sequences divided": round(self.broken, 4),
        }


def compare(sequences: Sequence[Called], regions: Sequence[Sequence[tuple[int, int]]], broken: float = 0.0) -> Found:
    """Regions (start, end) of spliced sequences against where their phages are."""
    phage = found = host = false = 0
    edges: list[int] = []
    for each, places in zip(sequences, regions, strict=True):
        at, to = each.piece.at, each.piece.to
        inside = sum(max(0, min(end, to) - max(start, at)) for start, end in places) if at >= 0 else 0
        phage, found, host = phage + to - at, found + inside, host + each.length - (to - at)
        false += sum(at < 0 or end <= at or start >= to for start, end in places)
        if at >= 0 and 2 * inside >= to - at:
            edges += [min(abs(place[side] - edge) for place in places) for side, edge in ((0, at), (1, to))]
    return Found(phage, found, edges, host, false, broken)


def divided(each: Called, calls: CallModel, least: ThresholdsByLength) -> list[tuple[int, int]]:
    """The regions of a sequence as `predict` would have them."""
    if not each.windows:
        return []
    call = ModelCaller(calls, least).call(each.windows, each.length, len(each.windows))
    return [(region.start, region.end) for region in call.regions] if call.verdict is Verdict.MIXED else []


def trials() -> Iterator[RegionModel]:
    """The settings that are tried."""
    tried = product(
        (-0.5, 0.0, 0.5, 1.0), (2.0, 3.0, 4.0, 6.0), (3, 5, 8, 12, 16, 20, 25, 30), (2000, 3000, 4000, 5000)
    )
    return (RegionModel(bias, clip, float(cost), bases, 1.0, 0.0) for bias, clip, cost, bases in tried)


def choose_regions(spliced: Sequence[Called], pieces: Sequence[Called], calls: CallModel) -> tuple[RegionModel, Found]:
    """Of the settings with at most `FALSE` false regions a Mbp the one with the most bases found, less its other costs.

    These are the share of viral sequences that are divided, and edges that are off: 50 bases as much as 1%. With it
    goes the lowest score of host that costs nothing: no sequence that is viral as a whole is divided without need.
    """
    whole = [each for each in pieces if each.piece.viral and each.length >= 5_000]
    least = calls.thresholds(DEFAULT_PRESET)

    def found(regions: RegionModel) -> Found:
        tried = replace(calls, regions=regions)
        broken = float(np.mean([bool(divided(each, tried, least)) for each in whole])) if whole else 0.0
        return compare(spliced, [divided(each, tried, least) for each in spliced], broken)

    best = max(((worth(each), regions, each) for regions in trials() for each in [found(regions)]), key=itemgetter(0))
    hosts = ((regions, found(regions)) for regions in (replace(best[1], host=host) for host in HOSTS))
    regions, chosen = next((each for each in hosts if worth(each[1]) >= best[0] - HOST_COST), best[1:])
    return replace(regions, false_per_mbp=chosen.to_json()["false regions a Mbp"]), chosen


def worth(found: Found) -> float:
    """Of what a setting finds: the higher the better."""
    figures = found.to_json()
    edge = figures["median edge"] if found.edges else 10_000.0
    gained = figures["bases found"] - found.broken - edge / 5_000
    return gained - max(0.0, figures["false regions a Mbp"] - FALSE)  # where none is so good, the nearest to it


def fit(
    pieces: Sequence[Called], records: Sequence[Called], spliced: Sequence[Called], size: int
) -> tuple[CallModel, dict[str, Any]]:
    """All that is measured for windows of one size, and a report.

    The model of sequences is fitted to the pieces; how many others reach a score is counted in whole records, too,
    which are harder: a long gene of one family all through.
    """
    table = Table.of(pieces)
    form, report = choose_form(table)
    both = Table.of([*pieces, *records])
    weight = np.concatenate((table.weight, np.zeros(len(both.weight) - len(table.weight))))
    rates = false_positives(both, out_of_fold(replace(both, weight=weight), columns(both, form)))
    calls = CallModel(
        min_length=SHORTEST,
        window_presets=window_thresholds(pieces, size),
        sequence_presets=sequence_thresholds(rates),
        sequences=sequence_model(table, form),
        false_positives=rates,
        regions=RegionModel(0.0, 0.0, 0.0, 0, 1.0, 0.0),
    )
    regions, found = choose_regions(spliced, pieces, calls)
    return replace(calls, regions=regions), {"forms": report, "chosen": form, "regions": found.to_json()}


def main() -> None:
    """Call, fit, write."""
    parser = argparse.ArgumentParser(description="Fit how a model set calls sequences.")
    parser.add_argument("--called", type=Path, nargs="+", required=True, help="folders of training.engine, together")
    parser.add_argument("--model", type=Path, required=True, help="folder of the set, whose card is written anew")
    args = parser.parse_args()
    card, calls = ClassifierCard.read(args.model), {}
    for size in card.window:
        pieces, short, records, spliced = (
            [each for folder in args.called for each in load(folder / f"{kind}-{size}.jsonl.gz")] for kind in FIT_KINDS
        )
        found, report = fit([*pieces, *short], records, spliced, size)
        print(
            json.dumps(
                {size: report | {"thresholds": found.sequence_presets, "of windows": found.window_presets}}, indent=1
            )
        )
        calls[size] = found
    (args.model / CARD).write_text(replace(card, calls=calls).to_json(), encoding="utf-8")


if __name__ == "__main__":
    main()
