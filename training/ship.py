"""Put trained encoders and classifiers into the package, measure them there, and write what they are worth.

    python -m training.ship --trained FOLDER --dev dev.npz

Writes `dnabert-mini/`, `esm2-mini/` and `mini/` under virnucpro/models/embedded, the last with `model.json` and
`MODEL_CARD.md`, whose figures are those of `training.evaluate`.
"""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from safetensors.torch import load_file

from training.encoders import load_dna, load_protein
from training.evaluate import evaluate
from training.genomes import load
from training.init_mini import DNA, PROTEIN
from virnucpro.calls.verdicts import LONG
from virnucpro.models import classifier
from virnucpro.models.card import DEFAULT_PRESET, DNA_ONLY, ClassifierCard, EncoderPin
from virnucpro.models.registry import EMBEDDED, resolve
from virnucpro.train.evaluation import PRESETS

MINI = EMBEDDED / "mini-1"
MODEL_CARD = "MODEL_CARD.md"
#: What `model.json` keeps of the figures.
KEPT = ("windows", "windows with a frame", "windows without a frame", "sequences", "recall", "calibration error")


def install(trained: Path) -> ClassifierCard:
    """Copy the encoders and write the classifiers; returns the card, as yet without figures."""
    for name in (DNA, PROTEIN):
        for file in ("config.json", "model.safetensors"):
            shutil.copyfile(trained / name / file, EMBEDDED / name / file)
    card = ClassifierCard(
        name="mini-1",
        trained=True,
        window=(500, 300),
        dna=EncoderPin(DNA, load_dna(EMBEDDED).dim, (resolve(DNA).sha256,)),
        protein=EncoderPin(PROTEIN, load_protein(EMBEDDED).dim, (resolve(PROTEIN).sha256,)),
        citation="virnucpro; architecture: Li J et al. VirNucPro. Briefings in Bioinformatics 2025",
        licence="MIT",
        source="training/, on RefSeq and GenBank genomes; see MODEL_CARD.md",
    )
    save(trained, card)
    return card


def save(trained: Path, card: ClassifierCard) -> None:
    """Write both classifiers and the card."""
    both, alone = (load_file(trained / name) for name in ("classifier.safetensors", DNA_ONLY))
    classifier.save(MINI, both, card, alone)


def complete(card: ClassifierCard, figures: dict[str, Any]) -> ClassifierCard:
    """The card with the figures, and thresholds by the windows of the first size."""
    presets = {name: min(1.0, round(value, 6)) for name, value in figures["500"]["presets"].items()}
    long = {name: min(1.0, round(figures["500"]["long"][name]["score"], 6)) for name in PRESETS}
    kept = {f"dev, {size} bases": {name: found[name] for name in KEPT} for size, found in figures.items()}
    return replace(card, metrics=kept, presets=presets, long_presets=long, min_score=presets[DEFAULT_PRESET])


def model_card(card: ClassifierCard, figures: dict[str, Any]) -> Iterator[str]:
    """The lines of MODEL_CARD.md."""
    yield from [
        "# mini-1",
        "",
        f"Two small encoders ({DNA}, {PROTEIN}) and a classifier over their vectors, for windows of 500 and of 300 "
        "bases. Windows without an open frame are scored from their DNA alone by a second network.",
        "",
        "Trained from nothing on viral and other genomes and genes (RefSeq, GenBank, and uncultured phages); nothing "
        "of a published model is in it. How: training/README.md in the source repository.",
        "",
        "All figures: `python -m training.evaluate` on dev, genomes of clusters and genera that nothing was trained "
        "on, all windows by the published rule. Brackets: 95% intervals from drawing clusters. Dev chose the recipe, "
        "the temperatures and the thresholds, so expect a little less elsewhere.",
        "",
        "**Not for clinical use. A call is a hint, not evidence:** look at what a sequence encodes before you believe "
        "it.",
    ]
    worse = [name for name, each in figures["500"]["groups of windows"].items() if each["gain"][0] < 0]
    yield from ["", f"The 5-mer network is better on 500-base windows of: {', '.join(worse) or 'none'}."]
    for size, found in figures.items():
        yield from _size(size, found)
    yield from ["", "## Presets", "", "| preset | score | others called viral, 500 bases | viral found |"]
    yield "|---|---|---|---|"
    for name, share in PRESETS.items():
        yield f"| {name} | {card.presets[name]:.3f} | {share:.0%} | {figures['500']['recall'][name]:.1%} |"
    long = figures["500"]["long"]
    yield from ["", f"Sequences of {LONG:,} bases or more, by windows of 500:", ""]
    yield from ["| preset | score | others called viral | viral found |", "|---|---|---|---|"]
    for name in PRESETS:
        wrong, right = (f"{long[name][which]} of {long[which]}" for which in ("other", "viral"))
        yield f"| {name} | {card.long_presets[name]:.3f} | {wrong} | {right} |"
    yield from ["", "## Calibration, 500 bases, both classes weighing the same", ""]
    yield from ["| score from | windows | mean score | share viral |", "|---|---|---|---|"]
    for low, windows, _, mean, share in figures["500"]["reliability"]:
        yield f"| {low:.1f} | {windows} | {mean:.2f} | {share:.2f} |"
    yield from ["", f"Mean distance of the last two columns: {figures['500']['calibration error']:.3f}."]


def _size(size: str, found: dict[str, Any]) -> Iterator[str]:
    counts = found["counts"]
    yield from ["", f"## Windows of {size} bases", ""]
    yield f"{counts['viral']} viral windows and {counts['other']} others; {counts['framed']} with an open frame."
    yield from ["", "| AUROC | mini | 5-mer network | gain |", "|---|---|---|---|"]
    parts = {
        "all windows": found["windows"]["beside 5-mers"],
        "with an open frame": found["windows with a frame"],
        "without": found["windows without a frame"],
        "sequences": found["sequences"]["beside 5-mers"],
    }
    for name, each in parts.items():
        yield f"| {name} | {_figure(each['ours'])} | {_figure(each['theirs'])} | {_figure(each['gain'])} |"
    yield from ["", "| of mini | windows | sequences |", "|---|---|---|"]
    for name in [name for name in found["windows"] if name != "beside 5-mers"]:
        yield f"| {name} | {_figure(found['windows'][name])} | {_figure(found['sequences'][name])} |"
    yield from ["", "| group | windows | records | AUROC mini | 5-mers | gain | sequences: mini | 5-mers |"]
    yield "|---|---|---|---|---|---|---|---|"
    for name, each in found["groups of windows"].items():
        whole = found["groups of sequences"][name]
        yield (
            f"| {name} | {each['count']} | {each['records']} | {_figure(each['ours'])} | {each['theirs'][0]:.3f} | "
            f"{_figure(each['gain'])} | {whole['ours'][0]:.3f} | {whole['theirs'][0]:.3f} |"
        )


def _figure(values: list[float]) -> str:
    value, low, high = values
    return f"{value:.3f} [{low:.3f}, {high:.3f}]"


def main() -> None:
    """Install, measure, write."""
    parser = argparse.ArgumentParser(description="Put the set mini-1 into the package.")
    parser.add_argument("--trained", type=Path, required=True, help="folder of training.train_mini and fit_mini")
    parser.add_argument("--dev", type=Path, required=True, help="packed genomes that nothing was trained on")
    parser.add_argument("--measured", action="store_true", help="take the figures.json that is in the folder")
    args = parser.parse_args()
    card = install(args.trained)
    path = args.trained / "figures.json"
    if not args.measured:
        figures = evaluate(load(args.dev), args.trained / "fivemer.safetensors", "mini-1")
        path.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    figures = json.loads(path.read_text(encoding="utf-8"))
    card = complete(card, figures)
    save(args.trained, card)
    (MINI / MODEL_CARD).write_text("\n".join(model_card(card, figures)) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
