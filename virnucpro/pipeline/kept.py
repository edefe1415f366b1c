"""Embeddings that `virnucpro predict --keep-embeddings` leaves behind, under the published ids of their frames."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

from virnucpro.core.paths import PredictPaths
from virnucpro.io.store import Layout, Shard, write_merged
from virnucpro.pipeline.frame_split import FramePart, IndexedSequence, read_index
from virnucpro.pipeline.results import published_id
from virnucpro.pipeline.scoring import Scorer

Shards = Callable[[], Iterator[Shard]]


def kept_paths(paths: PredictPaths, vanilla: bool) -> tuple[Path, ...]:
    """Both HDF5 files; with `vanilla` the published tool's three as well."""
    hdf5 = (paths.embeddings("dna", ".h5"), paths.embeddings("protein", ".h5"))
    return (*hdf5, *(paths.embeddings(which, ".pt") for which in ("DNABERT_S", "ESM", "merged"))) if vanilla else hdf5


def keep_embeddings(scorer: Scorer, parts: Sequence[FramePart], names: Mapping[Path, Path], vanilla: bool) -> None:
    """Write the embeddings of all frames, in input order; `names`: where each of `kept_paths` is written."""
    dna, protein = (partial(_shards, scorer, parts, side) for side in range(2))
    merged = partial(_merged, scorer, parts)
    paths = scorer.paths
    jobs: list[tuple[Path, Shards, Mapping[str, object], Layout]] = [
        (paths.embeddings("dna", ".h5"), dna, scorer.dna.attributes, "hdf5"),
        (paths.embeddings("protein", ".h5"), protein, scorer.protein.attributes, "hdf5"),
    ]
    if vanilla:
        jobs += [
            (paths.embeddings("DNABERT_S", ".pt"), dna, {}, "nucleotide"),
            (paths.embeddings("ESM", ".pt"), protein, {}, "proteins"),
            (paths.embeddings("merged", ".pt"), merged, {}, "merged"),
        ]
    for path, source, attributes, layout in jobs:
        rows, dim = _shape(source())
        write_merged(names[path], source(), rows, dim, attributes, layout)


def _shape(shards: Iterator[Shard]) -> tuple[int, int]:
    rows = dim = 0
    for shard in shards:
        rows, dim = rows + len(shard.headers), shard.embeddings.shape[1]
    return rows, dim


def _shards(scorer: Scorer, parts: Sequence[FramePart], side: int) -> Iterator[Shard]:
    """The embeddings of one encoder (0: DNA, 1: protein), a work file at a time, under their published ids."""
    for part in parts:
        shards = scorer.shards(part)
        if shards is not None:
            names = _published_ids(scorer.paths, part)
            yield Shard([names[key] for key in shards[side].headers], shards[side].embeddings)


def _published_ids(paths: PredictPaths, part: FramePart) -> dict[str, str]:
    names: dict[str, str] = {}
    sequence_id = ""
    for row in read_index(paths.part_file(part.name, ".index")):
        if isinstance(row, IndexedSequence):
            sequence_id = row.id
            continue
        for frame in row.frames:
            names[row.key + frame] = published_id(sequence_id, row.number, frame)
    return names


def _merged(scorer: Scorer, parts: Sequence[FramePart]) -> Iterator[Shard]:
    """Both vectors of each frame, a work file at a time, under their published ids."""
    for part in parts:
        found = scorer.features(part)
        if found is not None:
            (keys, vectors), _ = found
            names = _published_ids(scorer.paths, part)
            yield Shard([names[key] for key in keys], vectors)
