"""Scores of frames → scored windows, in input order: the best frame of each window.

A window counts by the published rule: viral if the highest virus score of its frames is not below the highest score
for others (Li et al. 2025, doi:10.1093/bib/bbaf224).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain

import numpy as np

from virnucpro.core.threads import in_order
from virnucpro.input.frames import ALL_STOPPED
from virnucpro.input.index import WHOLE, IndexedSequence, IndexedWindow, WorkFile, read_index
from virnucpro.io.store import READ_AHEAD, Shard
from virnucpro.pipeline.caller import Processed


@dataclass(frozen=True)
class WindowScore:
    """The scores of a window.

    best_frame: the frame with the highest virus score, the first of several equal ones, or empty for a window that was
    scored as a whole; virus, other: the highest score of each kind over the frames, 0 to 1.
    """

    best_frame: str
    virus: float
    other: float

    @property
    def score(self) -> float:
        """virus / (virus + other): at least 0.5 exactly where the published rule calls the window viral."""
        return self.virus / (self.virus + self.other)


#: A scored frame of a window, by its name, or the whole window, with an empty name; its scores for others and virus,
#: softmaxed.
Scored = tuple[str, float, float]


def window_score(scored: Sequence[Scored]) -> WindowScore:
    """The score of a window by all that was scored of it."""
    names, other, virus = zip(*scored, strict=True)
    return WindowScore(names[virus.index(max(virus))], max(virus), max(other))


@dataclass(frozen=True)
class ScoredWindow:
    """A window with its scores.

    frames: its open frames that were scored; score: None if there is none, and then `reason` says why.
    """

    window: IndexedWindow
    frames: list[Scored]
    score: WindowScore | None
    reason: str

    @classmethod
    def of(cls, window: IndexedWindow, scored: Sequence[Scored], reason: str) -> ScoredWindow:
        """Make one from all that was scored of a window; reason: why nothing was, if `scored` is empty."""
        if not scored:
            return cls(window, [], None, reason)
        return cls(window, [each for each in scored if each[0]], window_score(scored), "")

    @property
    def evidence(self) -> str:
        """What the score is based on; empty without one."""
        return "" if self.score is None else "dna+protein" if self.frames else "dna"


#: A row of a work file, in input order: each sequence comes before its windows.
Row = IndexedSequence | ScoredWindow


def scored_rows(processed: Processed, parts: Iterable[WorkFile], dna_only: bool) -> Iterator[Row]:
    """All rows of work files that were scored, in input order.

    dna_only: whether windows with stop codons in all frames were scored, too.
    """
    sequence: Row | None = None
    for row in chain.from_iterable(in_order(partial(_part_rows, processed, dna_only), parts, READ_AHEAD)):
        if row == sequence:
            continue  # a sequence that continues in another work file, where it is repeated
        if isinstance(row, IndexedSequence):
            sequence = row
        yield row


def _part_rows(processed: Processed, dna_only: bool, part: WorkFile) -> list[Row]:
    source, failure = processed.source(part), processed.failure(part)
    shard = processed.files.scores(source) if source else Shard([], np.empty((0, 2), np.float32))
    found = dict(zip(shard.headers, shard.embeddings.tolist(), strict=True))
    lost = {key: reason for _, key, reason in shard.failed}

    def scored(window: IndexedWindow) -> ScoredWindow:
        keys = {name: window.key + name for name in window.frames} | {"": window.key + WHOLE}
        scores = [(name, *found[key]) for name, key in keys.items() if key in found]
        was_embedded = not window.reason or (dna_only and window.reason == ALL_STOPPED)
        reasons = failure if was_embedded else "", *(lost[key] for key in keys.values() if key in lost), window.reason
        return ScoredWindow.of(window, scores, next(filter(None, reasons), ""))

    index = read_index(processed.paths.part_file(part.name, ".index"))
    return [row if isinstance(row, IndexedSequence) else scored(row) for row in index]
