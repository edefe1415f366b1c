"""Embeddings that `virnucpro predict --keep-embeddings` leaves behind, under the published ids of frames or windows."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

from virnucpro.input.index import WHOLE, IndexedSequence, WorkFile, read_index
from virnucpro.input.windows import published_id
from virnucpro.io.results import Layout, write_merged
from virnucpro.io.store import Shard
from virnucpro.models.card import Reads
from virnucpro.pipeline.caller import Called
from virnucpro.pipeline.features import join
from virnucpro.runs.paths import PredictPaths

Shards = Callable[[], Iterator[Shard]]


def kept_paths(paths: PredictPaths, reads: Reads, vanilla: bool) -> tuple[Path, ...]:
    """An HDF5 file for each encoder; with `vanilla` the published tool's three as well."""
    hdf5 = tuple(paths.embeddings(which, ".h5") for which in ("dna", "protein")[: 2 if reads == "frames" else 1])
    return (*hdf5, *(paths.embeddings(which, ".pt") for which in ("DNABERT_S", "ESM", "merged"))) if vanilla else hdf5


def keep_embeddings(
    called: Called, parts: Sequence[WorkFile], paths: PredictPaths, vanilla: bool, names: Mapping[Path, Path]
) -> None:
    """Write the embeddings of all frames, or windows, in input order; `names`: where each of `kept_paths` goes."""
    dna, protein = (partial(_named, called, parts, encoder) for encoder in range(2))
    jobs: list[tuple[Path, Shards, Mapping[str, object], Layout]] = [
        (paths.embeddings(which, ".h5"), source, called.files.attributes(encoder), "hdf5")
        for encoder, (which, source) in enumerate((("dna", dna), ("protein", protein))[: len(called.files.models)])
    ]
    if vanilla:
        jobs += [
            (paths.embeddings("DNABERT_S", ".pt"), dna, {}, "nucleotide"),
            (paths.embeddings("ESM", ".pt"), protein, {}, "proteins"),
            (paths.embeddings("merged", ".pt"), partial(_merged, called, parts), {}, "merged"),
        ]
    for path, source, attributes, layout in jobs:
        write_merged(names[path], source(), attributes, layout)


def _named(called: Called, parts: Sequence[WorkFile], encoder: int) -> Iterator[Shard]:
    """One encoder's embeddings of frames, a work file at a time, under their published ids."""
    for part in parts:
        if source := called.source(part):
            names = _published_ids(called, part)
            shard = called.files.read_vectors(source)[encoder]
            rows = [row for row, key in enumerate(shard.headers) if key in names]
            if rows:
                yield Shard([names[shard.headers[row]] for row in rows], shard.embeddings[rows])


def _published_ids(called: Called, part: WorkFile) -> dict[str, str]:
    """By key, the ids of frames, or of windows where the set reads these."""
    names: dict[str, str] = {}
    sequence_id = ""
    for row in read_index(called.paths.part_file(part.name, ".index")):
        if isinstance(row, IndexedSequence):
            sequence_id = row.id
            continue
        for frame in row.frames:
            names[row.key + frame] = published_id(sequence_id, row.number, frame)
        if len(called.files.models) == 1:
            names[row.key + WHOLE] = published_id(sequence_id, row.number)
    return names


def _merged(called: Called, parts: Sequence[WorkFile]) -> Iterator[Shard]:
    """Both vectors of each frame, a work file at a time, under their published ids."""
    for part in parts:
        if source := called.source(part):
            keys, vectors = join(called.files.read_vectors(source)).frames
            names = _published_ids(called, part)
            if keys:
                yield Shard([names[key] for key in keys], vectors)
