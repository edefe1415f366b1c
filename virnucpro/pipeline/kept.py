"""Embeddings that `virnucpro predict --keep-embeddings` leaves behind, under the published ids of frames or windows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from virnucpro.input.index import WHOLE, IndexedSequence, WorkFile, read_index
from virnucpro.input.windows import published_id
from virnucpro.io.results import Layout, write_merged
from virnucpro.io.store import Shard
from virnucpro.models.card import Reads
from virnucpro.pipeline.caller import Processed, ScoredFiles
from virnucpro.pipeline.features import Features, join
from virnucpro.runs.paths import PredictPaths


def kept_paths(paths: PredictPaths, reads: Reads, vanilla: bool) -> tuple[Path, ...]:
    """An HDF5 file for each encoder, and with `vanilla` the three files of the published tool."""
    return tuple(path for path, *_ in _kept(paths, 2 if reads == "frames" else 1, vanilla))


def _kept(paths: PredictPaths, encoders: int, vanilla: bool) -> list[tuple[Path, int | None, Layout]]:
    """Each file, whose vectors it holds (None: of both encoders, joined), and its layout."""
    found: list[tuple[Path, int | None, Layout]] = [(paths.embeddings("dna", ".h5"), 0, "hdf5")]
    if encoders > 1:
        found.append((paths.embeddings("protein", ".h5"), 1, "hdf5"))
    if vanilla:
        found.append((paths.embeddings("DNABERT_S", ".pt"), 0, "nucleotide"))
        found.append((paths.embeddings("ESM", ".pt"), 1, "proteins"))
        found.append((paths.embeddings("merged", ".pt"), None, "merged"))
    return found


def keep_embeddings(
    processed: Processed, parts: Sequence[WorkFile], paths: PredictPaths, vanilla: bool, names: Mapping[Path, Path]
) -> None:
    """Write the embeddings of all frames, or windows, in input order; `names`: where each of `kept_paths` goes."""
    for path, encoder, layout in _kept(paths, len(processed.files.models), vanilla):
        attributes = processed.files.attributes(encoder) if encoder is not None and layout == "hdf5" else {}
        write_merged([names[path]], _named(processed, parts, encoder), attributes, layout)


def _named(processed: Processed, parts: Sequence[WorkFile], encoder: int | None) -> Iterator[Shard]:
    """The vectors of one encoder, or of both joined, one work file at a time, with their published ids."""
    for part in parts:
        if source := processed.source(part):
            (keys, vectors), names = _vectors(processed.files, source, encoder), _published_ids(processed, part)
            rows = [row for row, key in enumerate(keys) if key in names]
            if rows:
                yield Shard([names[keys[row]] for row in rows], vectors[rows])


def _vectors(files: ScoredFiles, source: Path, encoder: int | None) -> Features:
    """The keys and vectors of a work file: of one encoder, or of frames, with both joined."""
    if encoder is None:
        return join(files.read_vectors(source)).frames
    shard = files.read_vectors_of(source, encoder)
    return shard.headers, shard.embeddings


def _published_ids(processed: Processed, part: WorkFile) -> dict[str, str]:
    """The published ids by key: of frames, or of windows if the set reads windows."""
    names: dict[str, str] = {}
    sequence_id = ""
    for row in read_index(processed.paths.part_file(part.name, ".index")):
        if isinstance(row, IndexedSequence):
            sequence_id = row.id
            continue
        for frame in row.frames:
            names[row.key + frame] = published_id(sequence_id, row.number, frame)
        if len(processed.files.models) == 1:
            names[row.key + WHOLE] = published_id(sequence_id, row.number)
    return names
