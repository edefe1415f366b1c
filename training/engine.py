"""Sequences through the package's own engine, read back from its tables."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from training.pieces import Piece, read
from virnucpro.calls.model import log_odds
from virnucpro.calls.read import Region, Results, ScoredWindow
from virnucpro.calls.segment import WindowOdds
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
    regions: Sequence[Region]

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
        Called(pieces[row.id], row.length, row.verdict, row.score, _scored(windows), regions)
        for row, windows, regions in Results(out, fasta.stem).called()
    ]


def _scored(windows: Iterable[ScoredWindow]) -> list[WindowOdds]:
    return [WindowOdds(row.start, row.end, log_odds(row.score), False) for row in windows if row.score is not None]
