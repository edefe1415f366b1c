"""Scores of frames → scored windows, in input order: the best frame of each window.

A window counts by the published rule: viral if the highest virus score of its frames is not below the highest score
for others (Li et al. 2025, doi:10.1093/bib/bbaf224).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain

from virnucpro.core.threads import in_order
from virnucpro.input.frames import ALL_STOPPED
from virnucpro.input.index import WHOLE, IndexedSequence, IndexedWindow, WorkFile, read_index
from virnucpro.io.store import READ_AHEAD, Shard
from virnucpro.pipeline.caller import Called


@dataclass(frozen=True)
class WindowScore:
    """The scores of a window.

    best_frame: the frame with the highest virus score, of equals the first, or empty for a window that was scored as it
    stands; virus, other: the highest score of each kind over the frames, 0 to 1.
    """

    best_frame: str
    virus: float
    other: float

    @property
    def score(self) -> float:
        """virus / (virus + other): at least 0.5 exactly where the published rule calls the window viral."""
        return self.virus / (self.virus + self.other)


def window_score(frames: Sequence[str], scores: Iterable[tuple[float, float]]) -> WindowScore:
    """The score of a window from its frames' names and their scores (others, virus), softmaxed."""
    other, virus = zip(*scores, strict=True)
    return WindowScore(frames[virus.index(max(virus))], max(virus), max(other))


@dataclass(frozen=True)
class ScoredWindow:
    """A window with what came out for it.

    frames: names and scores (others, virus) of its open frames; score: None where there is none, and `reason` says why.
    """

    window: IndexedWindow
    frames: list[tuple[str, float, float]]
    score: WindowScore | None
    reason: str

    @property
    def evidence(self) -> str:
        """What the score rests on; empty without one."""
        return "" if self.score is None else "dna+protein" if self.frames else "dna"


#: What a work file gives, in input order: each sequence before its windows.
Row = IndexedSequence | ScoredWindow


@dataclass
class _Scores:
    """By key, scores (others, virus) of frames and whole windows, and why others have none."""

    found: dict[str, tuple[float, float]]
    lost: dict[str, str]

    @classmethod
    def of(cls, shard: Shard) -> _Scores:
        each = zip(shard.headers, shard.embeddings.tolist(), strict=True)
        return cls({key: (other, virus) for key, (other, virus) in each}, {key: why for _, key, why in shard.failed})

    def window(self, window: IndexedWindow, failure: str) -> ScoredWindow:
        names = [name for name in window.frames if window.key + name in self.found]
        scores = [self.found[window.key + name] for name in names]
        if names:
            frames = [(name, other, virus) for name, (other, virus) in zip(names, scores, strict=True)]
            return ScoredWindow(window, frames, window_score(names, scores), "")
        whole = window.key + WHOLE
        if whole in self.found:
            return ScoredWindow(window, [], window_score([""], [self.found[whole]]), "")
        lost = [self.lost[window.key + name] for name in (*window.frames, WHOLE) if window.key + name in self.lost]
        return ScoredWindow(window, [], None, failure or (lost[0] if lost else window.reason))


def scored_rows(called: Called, parts: Iterable[WorkFile], dna_only: bool) -> Iterator[Row]:
    """All rows of work files that were scored, in input order.

    dna_only: whether windows with stop codons in all frames were scored, too.
    """
    sequence: Row | None = None
    for row in chain.from_iterable(in_order(partial(_part_rows, called, dna_only), parts, READ_AHEAD)):
        if row == sequence:
            continue  # one that runs on into another work file, where it is named again
        if isinstance(row, IndexedSequence):
            sequence = row
        yield row


def _part_rows(called: Called, dna_only: bool, part: WorkFile) -> list[Row]:
    source, failure = called.source(part), called.failure(part)
    scores = _Scores({}, {}) if source is None else _Scores.of(called.files.scores(source))

    def scored(window: IndexedWindow) -> ScoredWindow:
        was_embedded = not window.reason or (dna_only and window.reason == ALL_STOPPED)
        return scores.window(window, failure if was_embedded else "")

    index = read_index(called.paths.part_file(part.name, ".index"))
    return [row if isinstance(row, IndexedSequence) else scored(row) for row in index]
