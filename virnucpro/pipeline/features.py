"""The input of the classifier: DNA vector and protein vector of each open frame, joined by id, or of each window.

The two extractions run one file through one encoder in this process; `virnucpro predict` does the same for many files
on every device, and joins with the same `merge_features`.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from virnucpro.errors import InputError
from virnucpro.input.index import WHOLE
from virnucpro.io.store import Shard, read_shard
from virnucpro.pipeline.parallel_dnabert import process_dnabert_files_worker
from virnucpro.pipeline.parallel_esm import process_esm_files_worker

#: Ids, and a (n, dim) float32 array with a row for each.
Features = tuple[list[str], NDArray[np.float32]]


def extract_dnabert_features(path: Path, device: int | str = "cpu", batch_size: int = 0, **options: Any) -> Features:
    """Embed the DNA of one file, in order; `device`, `batch_size` and `options` as for the worker.

    Raises InputError for a file, or a record in it, that cannot be embedded; ModelError, DeviceError.
    """
    return _extract(process_dnabert_files_worker, path, device, batch_size, options)


def extract_esm_features(path: Path, device: int | str = "cpu", batch_size: int = 0, **options: Any) -> Features:
    """Embed the proteins of one file; all as for `extract_dnabert_features`."""
    return _extract(process_esm_files_worker, path, device, batch_size, options)


def _extract(
    worker: Callable[..., tuple[list[Path], list[tuple[Path, str]]]],
    path: Path,
    device: int | str,
    batch_size: int,
    options: dict[str, Any],
) -> Features:
    with tempfile.TemporaryDirectory(prefix="virnucpro-") as folder:
        outputs, failed = worker([Path(path)], device, batch_size, Path(folder), **options)
        if failed:
            raise InputError(f"{path}: {failed[0][1]}")
        shard = read_shard(outputs[0])
    if shard.failed:
        record, name, reason = shard.failed[0]
        raise InputError(f"{path}: record {record} ({name}): {reason}")
    return shard.ids, shard.embeddings


def merge_features(dna: Features, protein: Features) -> Features:
    """Join DNA and protein vectors by id, in the order of `dna`: (n, dna dim + protein dim) float32.

    Raises InputError naming an id that one side lacks, or that a side has twice.
    """
    (dna_ids, dna_vectors), (protein_ids, protein_vectors) = dna, protein
    rows = _rows(protein_ids, "protein")
    _refuse_missing(dna_ids, rows, "protein")
    _refuse_missing(protein_ids, _rows(dna_ids, "DNA"), "DNA")
    order = [rows[name] for name in dna_ids]
    return dna_ids, np.concatenate((dna_vectors, protein_vectors[order]), axis=1)


def _rows(ids: Sequence[str], side: str) -> dict[str, int]:
    rows: dict[str, int] = {}
    for row, name in enumerate(ids):
        if rows.setdefault(name, row) != row:
            raise InputError(f"{name!r} occurs twice among the {side} vectors", hint="ids must differ")
    return rows


def _refuse_missing(ids: Sequence[str], there: dict[str, int], side: str) -> None:
    missing = [name for name in ids if name not in there]
    if missing:
        raise InputError(
            f"{missing[0]!r} has no {side} vector ({len(missing)} of {len(ids)} have none)",
            hint="embed the nucleotides and the proteins of the same frames",
        )


class ClassifierInput(NamedTuple):
    """The input of a classifier from a work file: features of frames, vectors of whole windows, and what has none."""

    frames: Features
    whole: Features
    failed: list[tuple[int, str, str]]


def join(shards: Sequence[Shard]) -> ClassifierInput:
    """Join the vectors of one work file by id; shards: that of DNA first. Without proteins all windows are whole ones.

    Raises InputError that names an id which one side lacks.
    """
    failed = [each for shard in shards for each in shard.failed]
    lost = {name for _, name, _ in failed}
    dna, *proteins = shards
    whole = _rows_of(dna, lambda name: name.endswith(WHOLE))
    if not proteins:
        return ClassifierInput(([], np.empty((0, 0), np.float32)), whole, failed)
    frames = _rows_of(dna, lambda name: not name.endswith(WHOLE) and name not in lost)
    return ClassifierInput(merge_features(frames, _rows_of(proteins[0], lambda name: name not in lost)), whole, failed)


def _rows_of(shard: Shard, wanted: Callable[[str], bool]) -> Features:
    rows = [row for row, name in enumerate(shard.headers) if wanted(name)]
    return [shard.headers[row] for row in rows], shard.embeddings[rows]
