"""Embedded work files → scored windows, in input order: join by id, classify, take the best frame of each window.

A window counts by the published rule: viral if the highest virus score of its frames is not below the highest score
for others (Li et al. 2025, doi:10.1093/bib/bbaf224).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from virnucpro.core.threads import in_order
from virnucpro.input.frames import ALL_STOPPED
from virnucpro.input.index import WHOLE, IndexedSequence, IndexedWindow, WorkFile, read_index
from virnucpro.models.classifier import Classifier
from virnucpro.pipeline.features import EmbeddedParts, Features


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

    found: dict[str, tuple[float, float]] = field(default_factory=dict)
    lost: dict[str, str] = field(default_factory=dict)

    def add(self, classifier: Classifier, features: Features) -> None:
        ids, vectors = features
        for name, (other, virus) in zip(ids, classifier.score(vectors).tolist(), strict=True):
            self.found[name] = other, virus

    def of(self, window: IndexedWindow, failure: str) -> ScoredWindow:
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


class Scorer:
    """Scores embedded work files; classifier: of frames; dna_only: of whole windows, or None."""

    def __init__(self, embedded: EmbeddedParts, classifier: Classifier, dna_only: Classifier | None) -> None:
        self.embedded, self.classifier, self.dna_only = embedded, classifier, dna_only

    def rows(self, parts: Iterable[WorkFile], threads: int) -> Iterator[Row]:
        """All rows, in input order; `threads` work files are scored at a time."""
        for rows in in_order(self._part_rows, parts, threads):
            yield from rows

    def _part_rows(self, part: WorkFile) -> list[Row]:
        scores, failure = self._scores(part), self.embedded.failure(part)
        index = read_index(self.embedded.paths.part_file(part.name, ".index"))
        return [row if isinstance(row, IndexedSequence) else self._scored(row, scores, failure) for row in index]

    def _scored(self, window: IndexedWindow, scores: _Scores, failure: str) -> ScoredWindow:
        was_embedded = not window.reason or (self.dna_only and window.reason == ALL_STOPPED)
        return scores.of(window, failure if was_embedded else "")

    def _scores(self, part: WorkFile) -> _Scores:
        scores = _Scores()
        frames, whole, scores.lost = self.embedded.features(part)
        if frames is not None:
            scores.add(self.classifier, frames)
        if whole is not None and self.dna_only is not None:
            scores.add(self.dna_only, whole)
        return scores
