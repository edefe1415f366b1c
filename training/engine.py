"""Sequences through the package's own engine, read back from its tables.

    python -m training.engine --pieces fit_pieces --model FOLDER --out fit_called

writes the scores of what `training.pieces` made as `KIND-SIZE.jsonl.gz`, for each size of windows that the set serves:
what `training.fit_sequences` fits to.
"""

from __future__ import annotations

import argparse
import gzip
import json
from collections.abc import Iterable, Sequence
from dataclasses import astuple, dataclass, replace
from pathlib import Path
from typing import Any

from training.pieces import FIT_KINDS, KINDS, Piece, read
from virnucpro.calls.model import log_odds
from virnucpro.calls.read import RegionRow, Results, WindowRow
from virnucpro.calls.segment import WindowOdds
from virnucpro.models.card import CARD, ClassifierCard
from virnucpro.runs.config import PredictConfig
from virnucpro.runs.predict import run_predict


@dataclass(frozen=True)
class Called:
    """A sequence with what came out for it; windows: those that have a score; bases: of these, all together."""

    piece: Piece
    length: int
    verdict: str
    score: float | None
    windows: Sequence[WindowOdds]
    regions: Sequence[RegionRow]

    @property
    def bases(self) -> int:
        """Of its windows."""
        return sum(window.end - window.start for window in self.windows)

    @property
    def mean(self) -> float:
        """Mean log-odds of its windows, weighted by their bases."""
        return sum(window.log_odds * (window.end - window.start) for window in self.windows) / self.bases


def called(fasta: Path, model: str, out: Path, **settings: Any) -> list[Called]:
    """What `virnucpro predict` makes of the sequences of `training.pieces`, in order; a complete run is taken up."""
    run_predict(PredictConfig((fasta,), out, model=model, **settings))
    pieces = {piece.name: piece for piece in read(fasta.with_suffix(".tsv"))}
    return [
        Called(pieces[row["sequence_id"]], row["length"], row["verdict"], row["score"], _scored(windows), regions)
        for row, windows, regions in Results(out, fasta.stem).called()
    ]


def _scored(windows: Iterable[WindowRow]) -> list[WindowOdds]:
    return [WindowOdds(row.start, row.end, log_odds(row.score), False) for row in windows if row.score is not None]


def save(path: Path, sequences: Iterable[Called]) -> None:
    """What is known of sequences before they are called: a line each, its piece, length and windows."""
    with gzip.open(path, "wt", encoding="utf-8") as lines:
        for each in sequences:
            windows = [(window.start, window.end, round(window.log_odds, 6)) for window in each.windows]
            lines.write(json.dumps([astuple(each.piece), each.length, windows], separators=(",", ":")) + "\n")


def load(path: Path) -> list[Called]:
    """What `save` wrote."""
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        return [
            Called(
                Piece(*piece),
                length,
                "",
                None,
                [WindowOdds(start, end, odds, False) for start, end, odds in windows],
                [],
            )
            for piece, length, windows in map(json.loads, lines)
        ]


def uncalled(folder: Path) -> ClassifierCard:
    """The card of a set, written anew without what was fitted before, so that every sequence is scored."""
    card = replace(ClassifierCard.read(folder), calls={})
    (folder / CARD).write_text(card.to_json(), encoding="utf-8")
    return card


def main() -> None:
    """Score, write."""
    parser = argparse.ArgumentParser(description="Score the sequences that calls are fitted to.")
    parser.add_argument("--pieces", type=Path, required=True, help="folder of training.pieces")
    parser.add_argument("--model", type=Path, required=True, help="folder of the set; its card loses its `calls`")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=FIT_KINDS, help="(%(default)s)")
    parser.add_argument("--out", type=Path, required=True, help="folder for the scores, and the runs")
    parser.add_argument("--device", default="auto", help="(%(default)s)")
    args = parser.parse_args()
    for size in uncalled(args.model).window:
        settings = {"window": size, "min_length": 0, "device": args.device, "min_score": 0.5}
        for kind in args.kinds:
            found = called(args.pieces / f"{kind}.fa", str(args.model), args.out / str(size), **settings)
            save(args.out / f"{kind}-{size}.jsonl.gz", found)


if __name__ == "__main__":
    main()
