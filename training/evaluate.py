"""Measure a model set on held-out genomes through the package's own engine, beside the 5-mer baseline.

    python -m training.evaluate --dev dev.npz --baseline FOLDER/fivemer.safetensors --out figures.json

Windows of 500 and 300 bases by the published rule; a window with open frames is scored as `predict` does it, one
without from its DNA vector alone. The source of every figure in the model card and the README. Groups of viruses are
measured against all that is not viral, groups of others against all viruses. Intervals are 95 % bootstrap ones that
draw whole clusters of records.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file

from training.encoders import TOKENIZER
from training.genomes import Genomes, load
from training.heldout import HeldOut
from training.metrics import Comparison, calibration_error, reliability
from training.networks import FiveMerNetwork
from training.train_mini import fivemer_scores
from training.windows import SIZES
from virnucpro.calls.verdicts import LONG
from virnucpro.models.classifier import Classifier
from virnucpro.models.sets import ModelSet, resolve_set
from virnucpro.pipeline.features import extract_dnabert_features, extract_esm_features, merge_features
from virnucpro.runs.config import DEFAULT_MODEL_SET
from virnucpro.train import metrics
from virnucpro.train.evaluation import PRESETS


@dataclass(frozen=True)
class Scored:
    """Scores of windows or records by both ways.

    unit: what the bootstrap draws; group: places in the names; bases: how long each is.
    """

    mini: NDArray[np.float64]
    fivemer: NDArray[np.float64]
    viral: NDArray[np.bool_]
    unit: NDArray[np.int64]
    group: NDArray[np.int64]
    record: NDArray[np.int64]
    bases: NDArray[np.int64]

    def part(self, rows: NDArray[np.bool_] | NDArray[np.int64]) -> Scored:
        """Some of them."""
        return Scored(*(getattr(self, name)[rows] for name in self.__dataclass_fields__))

    def records(self) -> Scored:
        """One score a record: the mean of its windows, weighted by their bases, as `predict` has it."""
        _, first, place = np.unique(self.record, return_index=True, return_inverse=True)
        bases = np.bincount(place, self.bases)
        mini, fivemer = (np.bincount(place, each * self.bases) / bases for each in (self.mini, self.fivemer))
        rows = self.part(first)
        return replace(rows, mini=mini, fivemer=fivemer, bases=bases.astype(np.int64))

    def aurocs(self) -> dict[str, Any]:
        """AUROC of both ways, and the gain."""
        return asdict(Comparison.of(self.mini, self.fivemer, self.viral, self.unit))

    def figures(self) -> dict[str, Any]:
        """All metrics of the set, and the AUROCs of both ways."""
        found = metrics.evaluate(self.viral.astype(np.int64), self.mini, self.unit, 0)
        return {name: each.to_json() for name, each in found.items()} | {"beside 5-mers": self.aurocs()}


def vectors(held: HeldOut, models: ModelSet) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Features of the frames, and DNA vectors of the windows without one, by the engine on the CPU in fp32."""
    frames = [frame for window in held.windows for frame in window.frames]
    of_dna, of_proteins = models.encoders
    with tempfile.TemporaryDirectory() as folder:
        dna, protein, bare = (Path(folder, name) for name in ("frames.fna", "frames.faa", "bare.fna"))
        write(dna, (nucleotide for _, nucleotide, _ in frames))
        write(protein, (residues for _, _, residues in frames))
        write(bare, (held.windows[index].sequence for index in held.bare))
        options: dict[str, Any] = {"dtype": "fp32"}
        found = extract_dnabert_features(dna, model=of_dna, **options)
        _, both = merge_features(found, extract_esm_features(protein, model=of_proteins, **options))
        return both, extract_dnabert_features(bare, model=of_dna, **options)[1]


def write(path: Path, sequences: Iterable[str]) -> None:
    """A FASTA file of sequences named by their numbers."""
    path.write_text("".join(f">{i}\n{sequence}\n" for i, sequence in enumerate(sequences)), encoding="ascii")


def score(held: HeldOut, models: ModelSet) -> NDArray[np.float64]:
    """(windows,) scores of a model set."""
    framed, bare = vectors(held, models)
    both = Classifier.load(models.classifier_folder)
    alone = Classifier.load_dna_only(models.classifier_folder)
    if alone is None:
        raise SystemExit(f"{models.name} does not score windows without an open frame")
    return held.scores(both.score(framed), alone.score(bare)[:, 1])


def figures_of(scored: Scored, framed: NDArray[np.bool_], names: tuple[str, ...]) -> dict[str, Any]:
    """Every figure of the windows of one size; framed: (windows,) which have an open frame."""
    labels = scored.viral.astype(np.int64)
    presets = {name: metrics.threshold_at(labels, scored.mini, share) for name, share in PRESETS.items()}
    return {
        "windows": scored.figures(),
        "windows with a frame": scored.part(framed).aurocs(),
        "windows without a frame": scored.part(~framed).aurocs(),
        "sequences": scored.records().figures(),
        "groups of windows": groups(scored, names),
        "groups of sequences": groups(scored.records(), names),
        "presets": presets,
        "long": long_sequences(scored.records()),
        "recall": {name: round(float((scored.mini[scored.viral] >= at).mean()), 4) for name, at in presets.items()},
        "reliability": reliability(scored.mini, scored.viral),
        "calibration error": round(calibration_error(scored.mini, scored.viral), 4),
        "counts": {"viral": int(scored.viral.sum()), "other": int((~scored.viral).sum()), "framed": int(framed.sum())},
    }


def long_sequences(records: Scored) -> dict[str, Any]:
    """Of sequences of `LONG` bases or more: how many there are, and by preset the score and how many it calls viral.

    No threshold is below 0.5: where a mean tends to viral, the published rule holds.
    """
    long = records.part(records.bases >= LONG)
    found: dict[str, Any] = {"viral": int(long.viral.sum()), "other": int((~long.viral).sum())}
    for name, share in PRESETS.items():
        score = max(0.5, metrics.threshold_at(long.viral.astype(np.int64), long.mini, share))
        called = long.mini >= score
        found[name] = {"score": score, "viral": int(called[long.viral].sum()), "other": int(called[~long.viral].sum())}
    return found


def groups(scored: Scored, names: tuple[str, ...]) -> dict[str, Any]:
    """Both ways on each group against the other class."""
    found = {}
    for index, name in enumerate(names):
        here = scored.group == index
        against = scored.viral != name.startswith("viral/")
        counts = {"count": int(here.sum()), "records": len(np.unique(scored.record[here]))}
        found[name] = counts | scored.part(here | against).aurocs()
    return found


def evaluate(dev: Genomes, baseline: Path, set_name: str) -> dict[str, Any]:
    """Every figure, by window size."""
    models, network = resolve_set(set_name), FiveMerNetwork().eval()
    network.load_state_dict(load_file(baseline))
    found = {}
    for size in SIZES:
        held = HeldOut.cut(dev, size, TOKENIZER)
        fivemer = fivemer_scores(network, held, torch.device("cpu"))
        units, groups = dev.cluster[held.record], dev.group[held.record]
        bases = np.array([len(window.sequence) for window in held.windows])
        scored = Scored(score(held, models), fivemer, held.viral, units, groups, held.record, bases)
        framed = np.isin(np.arange(len(held.windows)), held.frames)
        found[str(size)] = figures_of(scored, framed, dev.names)
    return found


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description="Measure a model set on held-out genomes.")
    parser.add_argument("--dev", type=Path, required=True, help="packed genomes that nothing was trained on")
    parser.add_argument("--baseline", type=Path, required=True, help="fivemer.safetensors of the training")
    parser.add_argument("--model", default=DEFAULT_MODEL_SET, help="the set to measure (%(default)s)")
    parser.add_argument("--out", type=Path, required=True, help="JSON file to write")
    args = parser.parse_args()
    figures = evaluate(load(args.dev), args.baseline, args.model)
    args.out.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
