"""Embedded work files → scored windows, in input order: join by id, classify, take the best frame of each window."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

from virnucpro.core.paths import PredictPaths
from virnucpro.io.store import Shard, read_shard
from virnucpro.models.classifier import Classifier
from virnucpro.pipeline.consensus import WindowScore, window_score
from virnucpro.pipeline.encode import Encoding
from virnucpro.pipeline.features import Features, merge_features
from virnucpro.pipeline.frame_split import FramePart, IndexedSequence, IndexedWindow, read_index

T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True)
class ScoredWindow:
    """A window with what came out for it.

    frames: names and scores (others, virus) of its open frames; score: None where there is none, and `reason` says why.
    """

    window: IndexedWindow
    frames: list[tuple[str, float, float]]
    score: WindowScore | None
    reason: str


#: What a work file gives, in input order: each sequence before its windows.
Row = IndexedSequence | ScoredWindow


class Scorer:
    """Scores work files whose frames both encoders have embedded; failed: file name → why an encoder gave it up."""

    def __init__(
        self, paths: PredictPaths, dna: Encoding, protein: Encoding, classifier: Classifier, failed: dict[str, str]
    ) -> None:
        self.paths, self.dna, self.protein = paths, dna, protein
        self.classifier, self.failed = classifier, failed

    def rows(self, parts: Iterable[FramePart], threads: int) -> Iterator[Row]:
        """All rows, in input order; `threads` work files are scored at a time."""
        for rows in in_order(self._part_rows, parts, threads):
            yield from rows

    def shards(self, part: FramePart) -> tuple[Shard, Shard] | None:
        """The DNA and protein embeddings of a work file; None if it holds no frame or an encoder failed on it."""
        if not part.frames or self._failure(part):
            return None
        dna = read_shard(self.dna.shard(self.paths.part_file(part.name, ".fna")))
        protein = read_shard(self.protein.shard(self.paths.part_file(part.name, ".faa")))
        return dna, protein

    def _failure(self, part: FramePart) -> str:
        reasons = [self.failed.get(f"{part.name}{suffix}") for suffix in (".fna", ".faa")]
        return next((f"its work file failed: {reason}" for reason in reasons if reason), "")

    def _part_rows(self, part: FramePart) -> list[Row]:
        scores, lost = self._frame_scores(part)
        rows: list[Row] = []
        for row in read_index(self.paths.part_file(part.name, ".index")):
            rows.append(row if isinstance(row, IndexedSequence) else _scored(row, scores, lost, self._failure(part)))
        return rows

    def features(self, part: FramePart) -> tuple[Features, dict[str, str]] | None:
        """The joined features of a work file's frames, and why others have none; None as for `shards`."""
        shards = self.shards(part)
        if shards is None:
            return None
        lost = {name: reason for shard in shards for _, name, reason in shard.failed}
        dna, protein = (_without(shard, lost) for shard in shards)
        return merge_features(dna, protein), lost

    def _frame_scores(self, part: FramePart) -> tuple[dict[str, tuple[float, float]], dict[str, str]]:
        """Scores (others, virus) of each frame, and why others have none."""
        found = self.features(part)
        if found is None:
            return {}, {}
        (ids, features), lost = found
        scores = self.classifier.score(features).tolist()
        return {name: (other, virus) for name, (other, virus) in zip(ids, scores, strict=True)}, lost


def _without(shard: Shard, lost: dict[str, str]) -> Features:
    if not lost:
        return shard.ids, shard.embeddings
    kept = [row for row, name in enumerate(shard.ids) if name not in lost]
    return [shard.ids[row] for row in kept], shard.embeddings[kept]


def _scored(
    window: IndexedWindow, scores: dict[str, tuple[float, float]], lost: dict[str, str], failure: str
) -> ScoredWindow:
    names = [name for name in window.frames if window.key + name in scores]
    found = [scores[window.key + name] for name in names]
    frames = [(name, other, virus) for name, (other, virus) in zip(names, found, strict=True)]
    if frames:
        return ScoredWindow(window, frames, window_score(names, found), "")
    reasons = [lost[window.key + name] for name in window.frames if window.key + name in lost]
    return ScoredWindow(window, [], None, window.reason or failure or reasons[0])


def in_order(work: Callable[[T], R], items: Iterable[T], threads: int) -> Iterator[R]:
    """Results of `work` in the order of `items`, several computed at a time, few kept waiting."""
    with ThreadPoolExecutor(threads) as pool:
        waiting: deque[Future[R]] = deque()
        for item in items:
            waiting.append(pool.submit(work, item))
            if len(waiting) > threads:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
