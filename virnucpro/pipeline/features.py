"""What the classifier reads: the DNA vector and the protein vector of each open frame, joined by id, or of each window.

The two extractions run one file through one encoder in this process; `virnucpro predict` does the same for many files
on every device, and joins with the same `merge_features`.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from virnucpro.errors import InputError
from virnucpro.input.index import WHOLE, WorkFile
from virnucpro.io.store import Shard, read_shard
from virnucpro.pipeline.encode import Encoding
from virnucpro.pipeline.parallel_dnabert import process_dnabert_files_worker
from virnucpro.pipeline.parallel_esm import process_esm_files_worker
from virnucpro.runs.paths import RunPaths

#: Ids, and a (n, dim) float32 array with a row for each.
Features = tuple[list[str], NDArray[np.float32]]


def extract_dnabert_features(path: Path, device: int | str = "cpu", batch_size: int = 0, **options: Any) -> Features:
    """Embed the DNA of one file, in its order; `device`, `batch_size` and `options` as for the worker.

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

    Raises InputError that names an id which one side lacks, or which a side has twice.
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


@dataclass(frozen=True)
class EmbeddedParts:
    """Work files that the encoders have been over; failed: file name → why an encoder gave it up.

    protein: None where the set reads whole windows.
    """

    paths: RunPaths
    dna: Encoding
    protein: Encoding | None
    failed: dict[str, str]

    def failure(self, part: WorkFile) -> str:
        """Why a work file has no embeddings; empty if it has."""
        reasons = [self.failed.get(f"{part.name}{suffix}") for suffix in (".fna", ".faa")]
        return next((f"its work file failed: {reason}" for reason in reasons if reason), "")

    def dna_shard(self, part: WorkFile) -> Shard | None:
        """The DNA embeddings of a work file; None if it holds nothing to embed or an encoder failed on it."""
        there = part.frames + part.whole and not self.failure(part)
        return read_shard(self.dna.shard(self.paths.part_file(part.name, ".fna"))) if there else None

    def protein_shard(self, part: WorkFile) -> Shard | None:
        """The protein embeddings of a work file; None as for `dna_shard`."""
        if self.protein is None or not part.frames or self.failure(part):
            return None
        return read_shard(self.protein.shard(self.paths.part_file(part.name, ".faa")))

    def features(self, part: WorkFile) -> tuple[Features | None, Features | None, dict[str, str]]:
        """Joined features of a work file's frames, DNA vectors of its whole windows, and why others have none."""
        dna, protein = self.dna_shard(part), self.protein_shard(part)
        lost = {name: reason for shard in (dna, protein) if shard for _, name, reason in shard.failed}
        if dna is None:
            return None, None, lost
        whole = _rows_of(dna, lambda name: name.endswith(WHOLE))
        if protein is None:
            return None, whole, lost
        dna_of_frames = _rows_of(dna, lambda name: not name.endswith(WHOLE) and name not in lost)
        return merge_features(dna_of_frames, _rows_of(protein, lambda name: name not in lost)), whole, lost


def _rows_of(shard: Shard, wanted: Callable[[str], bool]) -> Features:
    rows = [row for row, name in enumerate(shard.headers) if wanted(name)]
    return [shard.headers[row] for row in rows], shard.embeddings[rows]
