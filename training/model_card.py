"""Write what a measured set is worth: `MODEL_CARD.md`, and the figures in its `model.json`.

    python -m training.model_card --model FOLDER --figures measured.json --peers peers.json

The figures are those of `training.measure`, the thresholds those of `training.fit_sequences`, and other tools stand
beside the set if there is the JSON file of `benchmarks.peers`.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from virnucpro.calls.model import CallModel
from virnucpro.models.card import CARD, ClassifierCard

MODEL_CARD = "MODEL_CARD.md"
#: What `model.json` keeps of the figures.
KEPT = ("windows of 500", "lengths", "records of 2 to 8 kb", "spliced")
KINGDOMS = {"phage": "phages", "virus": "other viruses", "prokaryote": "prokaryotes", "eukaryote": "eukaryotes"}


def model_card(card: ClassifierCard, figures: Mapping[str, Any], beside: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """The lines of `MODEL_CARD.md`; beside: rows of `benchmarks.peers`, if there are any."""
    size = card.window[0]
    encoders = " and ".join(f"`{pin.name}`" for pin in card.encoders)
    sizes = " and of ".join(map(str, card.window))
    yield from [
        f"# {card.name}",
        "",
        f"{encoders} and a classifier on its vectors, for windows of {sizes} bases. "
        "Trained from scratch on viral and other genomes and genes, without any published model. Details: "
        "training/README.md in the source repository.",
        "",
        "All figures are from `python -m training.measure`, which runs `virnucpro predict` with default settings on "
        "sequences (dev) from clusters that were used neither for training the networks nor for fitting the "
        "thresholds. Brackets: 95% intervals by bootstrap over clusters. Dev was used to choose between training "
        "recipes, so expect slightly less elsewhere. Computed in "
        f"{' and '.join(figures['dtypes'])}.",
        "",
        "**Not for clinical use. A call is a hint, not evidence:** check what a sequence encodes before you trust it.",
        "",
        "## Sequences by length, default settings",
        "",
        *table(by_length(figures["lengths"])),
        "",
        "Calibration error: mean difference between the score and the share of viral sequences, with equal weight for "
        "both classes.",
        "",
        *table(calibration(figures["lengths"])),
        "",
        "## Whole records of 2 to 8 kb",
        "",
        *records(figures["records of 2 to 8 kb"]),
        "",
        "## Phages in bacterial sequences",
        "",
        *spliced(figures["spliced"]),
        "",
        "## The same record cut at every length from 7.5 to 8.5 kb",
        "",
        *table(sweep(figures["sweep"])),
        "",
        "## Windows of 500 bases",
        "",
        *table([("", "value"), *((name, figure(each)) for name, each in figures["windows of 500"].items())]),
        "",
        *peers(beside),
        "## Thresholds",
        "",
        *thresholds(card.calls[size], size),
        "",
        "## Groups: windows of 500 bases and records of 2 to 8 kb",
        "",
        *table(groups(figures["groups of windows"], figures["groups of records"])),
    ]


def table(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Rows of cells, the first one the header."""
    header, *others = rows
    yield f"| {' | '.join(header)} |"
    yield "|---" * len(header) + "|"
    yield from (f"| {' | '.join(row)} |" for row in others)


def figure(values: Sequence[float], percent: bool = False) -> str:
    """A figure with its interval."""
    value, low, high = values
    if percent:
        return f"{value:.1%} [{low:.1%}, {high:.1%}]"
    return f"{value:.3f} [{low:.3f}, {high:.3f}]"


def by_length(lengths: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """What is called of each kingdom."""
    header = ("bases", "viral found", *(KINGDOMS[name] for name in ("phage", "virus")), "others called")
    rows: list[tuple[str, ...]] = [
        (*header, *(KINGDOMS[name] for name in ("prokaryote", "eukaryote")), "AUROC", "pieces")
    ]
    for bases, each in lengths.items():
        parts = (
            "recall",
            "called, phage",
            "called, virus",
            "false positives",
            "called, prokaryote",
            "called, eukaryote",
        )
        cells = [figure(each[part], percent=True) for part in parts]
        rows.append((bases, *cells, figure(each["AUROC"]), f"{each['viral']} and {each['others']}"))
    return rows


def calibration(lengths: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """Of each length and kingdom of others."""
    rows: list[tuple[str, ...]] = [("bases", "all", "against prokaryotes", "against eukaryotes")]
    for bases, each in lengths.items():
        names = (f"calibration error, {part}" for part in ("all", "prokaryote", "eukaryote"))
        rows.append((bases, *(figure(each[name]) for name in names)))
    return rows


def records(found: Mapping[str, Any]) -> Iterator[str]:
    """Of short records."""
    yield f"{found['viral']} viral and {found['others']} others. AUROC {figure(found['AUROC'])}."
    yield ""
    rows = [("", "called virus, default settings"), ("viral", figure(found["recall"], percent=True))]
    rows += [(name, figure(found[f"called, {key}"], percent=True)) for key, name in KINGDOMS.items()]
    rows.append(("others, equal weight for each kingdom", figure(found["false positives"], percent=True)))
    yield from table(rows)


def spliced(found: Mapping[str, Any]) -> Iterator[str]:
    """Of phages in hosts."""
    verdicts = ", ".join(f"{count} {name}" for name, count in found["verdicts"].items())
    yield f"{found['phages']} phages of 15 to 40 kb, each inserted into a slice of a bacterial or archaeal genome, and"
    yield f"slices without a phage; {found['Mbp of host']} Mbp of host. Verdicts for slices with a phage: {verdicts}."
    yield ""
    yield from table(
        [
            ("", ""),
            ("bases of phages found", f"{found['bases found']:.1%}"),
            ("median error of a region's end", f"{found['median edge']:.0f} bases"),
            ("false regions per Mbp of host", f"{found['false regions a Mbp']:.2f}"),
        ]
    )


def sweep(found: Sequence[Mapping[str, Any]]) -> list[tuple[str, ...]]:
    """Of records cut at many lengths."""
    rows: list[tuple[str, ...]] = [("group", "lowest and highest score", "largest step in 50 bases", "verdicts")]
    for each in found:
        low, high = each["scores"]
        row = (each["group"], f"{low:.3f} to {high:.3f}", f"{each['largest step']:.3f}", ", ".join(each["verdicts"]))
        rows.append(row)
    return rows


def peers(rows: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Of other tools and this set on the same sequences."""
    if not rows:
        return
    yield from [
        "## Compared with other tools",
        "",
        "`python -m benchmarks.peers`: AUROC and recall from the scores of each tool, not from its thresholds. All "
        "tools got the same sequences, a subset of those above. Windows shorter than 500 bases are left out because "
        "DeepMicroClass does not accept them; Jaeger needs 2,000 bases or more and recognises no viruses other than "
        "phages. **Their training data may include these sequences; those of this set do not.**",
        "",
    ]
    yield from table([tuple(rows[0]), *(tuple(map(str, row.values())) for row in rows)])
    yield ""


def thresholds(calls: CallModel, size: int) -> Iterator[str]:
    """By preset, with the false positives of sequences of some lengths in the fit."""
    lengths = [bases for bases in (300, 500, 1_000, 2_000, 4_000, 8_000, 20_000) if bases >= calls.min_length]
    yield f"Sequences of {calls.min_length} bases or more are scored. The threshold at some lengths, and the share of"
    yield "non-viral sequences that reach it, in the fit:"
    yield ""
    rows: list[tuple[str, ...]] = [("preset", "threshold of windows", *(f"{bases} bases" for bases in lengths))]
    for name, score in calls.window_presets.items():
        scores = [(bases, calls.thresholds(name).of_sequence(bases)) for bases in lengths]
        cells = (f"{each:.3f}, {calls.false_positives.at(bases, each):.1%}" for bases, each in scores)
        rows.append((name, f"{score:.3f}", *cells))
    yield from table(rows)


def groups(windows: Mapping[str, Any], whole: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """What is called of each group."""
    rows: list[tuple[str, ...]] = [("group", "windows", "called", "records", "called")]
    for name, (count, *called) in windows.items():
        of_records = whole.get(name)
        cells = (str(of_records[0]), figure(of_records[1:], percent=True)) if of_records else ("0", "")
        rows.append((name, str(count), figure(called, percent=True), *cells))
    return rows


def main() -> None:
    """Write both."""
    parser = argparse.ArgumentParser(description="Write what a measured set is worth.")
    parser.add_argument("--model", type=Path, required=True, help="folder of the set")
    parser.add_argument("--figures", type=Path, required=True, help="file of training.measure")
    parser.add_argument("--peers", type=Path, help="file of benchmarks.peers")
    args = parser.parse_args()
    figures = json.loads(args.figures.read_text(encoding="utf-8"))
    card = ClassifierCard.read(args.model)
    beside = json.loads(args.peers.read_text(encoding="utf-8"))["results"]["peers"] if args.peers else ()
    (args.model / MODEL_CARD).write_text("\n".join(model_card(card, figures, beside)) + "\n", encoding="utf-8")
    kept = {name: figures[name] for name in KEPT}
    (args.model / CARD).write_text(
        replace(card, metrics=kept, dtypes=tuple(figures["dtypes"])).to_json(), encoding="utf-8"
    )


if __name__ == "__main__":
    main()
