"""Embeddings on disk: one HDF5 file a work file, and the merged result in the user's format.

Layout of an HDF5 file: `embeddings` (n, dim) float32, `ids` (n,) the first word of each header, `headers` (n,) whole
headers, attributes that say what made it. Nothing in it depends on time, place, or the number of workers, so equal
embeddings give equal bytes. Shards hold besides `failed_records`, `failed_ids`, `failed_reasons`.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import h5py
import numpy as np
from numpy.typing import NDArray

from virnucpro.errors import InputError, OutputError
from virnucpro.io.fasta import first_word

FORMAT_VERSION = 1
TEXT = h5py.string_dtype("utf-8")

#: Rows written at a time when results are merged; fixed, so that the bytes do not depend on how the input was split.
MERGE_ROWS = 4096

OUTPUT_SUFFIXES = (".h5", ".hdf5", ".npy", ".pt")


@dataclass
class Shard:
    """The embeddings of one work file, or part of them.

    failed: (record number in the work file, id, reason) of sequences without an embedding.
    """

    headers: list[str]
    embeddings: NDArray[np.float32]
    failed: list[tuple[int, str, str]] = field(default_factory=list)

    @property
    def ids(self) -> list[str]:
        """First word of each header."""
        return [first_word(header) for header in self.headers]


@contextlib.contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """A temporary name beside `path` that becomes `path` when the block ends well, and vanishes when it does not.

    The file is synced before it is renamed, and its folder after: what has the final name is whole, even after a
    power cut. Raises OutputError (disk full, no permission) naming the file.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        _sync(temporary)
        os.replace(temporary, path)
        _sync(path.parent)
    except (OSError, RuntimeError) as error:  # h5py raises RuntimeError for a disk that fills up while it closes
        raise OutputError(
            f"cannot write {path}: {getattr(error, 'strerror', None) or error}",
            hint="free space or choose another place, then rerun",
        ) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _hdf5(path: Path, rows: int, dim: int, attributes: Mapping[str, object]) -> Iterator[h5py.File]:
    with h5py.File(path, "w", libver="v110") as file:
        file.attrs["format_version"] = FORMAT_VERSION
        for name, value in attributes.items():
            file.attrs[name] = value
        file.create_dataset("embeddings", (rows, dim), np.float32)
        file.create_dataset("ids", (rows,), TEXT)
        file.create_dataset("headers", (rows,), TEXT)
        yield file


def write_shard(path: Path, shard: Shard, attributes: Mapping[str, object]) -> None:
    """Write one work file's result, whole or not at all."""
    rows, dim = shard.embeddings.shape
    with atomic_path(path) as temporary, _hdf5(temporary, rows, dim, attributes) as file:
        file["embeddings"][...] = shard.embeddings
        file["ids"][...] = shard.ids
        file["headers"][...] = shard.headers
        numbers, ids, reasons = zip(*shard.failed, strict=True) if shard.failed else ((), (), ())
        file.create_dataset("failed_records", data=np.array(numbers, dtype=np.int64))
        file.create_dataset("failed_ids", data=list(ids), dtype=TEXT, shape=(len(ids),))
        file.create_dataset("failed_reasons", data=list(reasons), dtype=TEXT, shape=(len(ids),))


def read_shard(path: Path) -> Shard:
    """Read a shard; InputError when it is damaged or holds numbers that are not finite."""
    try:
        with h5py.File(path) as file:
            shard = Shard(_text(file["headers"]), file["embeddings"][...], _failures(file))
    except (OSError, KeyError, ValueError) as error:
        raise InputError(f"{path} is damaged: {error}", hint="it will be made again") from error
    if len(shard.headers) != len(shard.embeddings):
        raise InputError(f"{path} is damaged: ids and embeddings differ in number", hint="it will be made again")
    return shard


def _text(dataset: h5py.Dataset) -> list[str]:
    return [value.decode("utf-8") for value in dataset[...]]


def _failures(file: h5py.File) -> list[tuple[int, str, str]]:
    numbers = file["failed_records"][...].tolist()
    return list(zip(numbers, _text(file["failed_ids"]), _text(file["failed_reasons"]), strict=True))


def read_result(path: Path) -> tuple[list[str], NDArray[np.float32]]:
    """Ids and (n, dim) embeddings of an HDF5 result."""
    with h5py.File(path) as file:
        return _text(file["ids"]), file["embeddings"][...]


def read_attributes(path: Path) -> dict[str, object]:
    """Attributes of an HDF5 result; empty when the file is not one that can be opened."""
    try:
        with h5py.File(path) as file:
            return dict(file.attrs)
    except OSError:
        return {}


def write_merged(path: Path, shards: Iterable[Shard], rows: int, dim: int, attributes: Mapping[str, object]) -> None:
    """Write the user's result in the format its suffix names, `rows` rows in the order of `shards`."""
    writer = {".npy": _write_npy, ".pt": _write_pt}.get(path.suffix, _write_hdf5)
    writer(path, _even_blocks(shards), rows, dim, attributes)


def _even_blocks(shards: Iterable[Shard]) -> Iterator[Shard]:
    """The same rows in blocks of MERGE_ROWS, whatever the sizes of the shards."""
    headers: list[str] = []
    rows: list[NDArray[np.float32]] = []
    for shard in shards:
        start = 0
        while start < len(shard.headers):
            take = min(MERGE_ROWS - len(headers), len(shard.headers) - start)
            headers += shard.headers[start : start + take]
            rows.append(shard.embeddings[start : start + take])
            start += take
            if len(headers) == MERGE_ROWS:
                yield Shard(headers, np.concatenate(rows))
                headers, rows = [], []
    if headers:
        yield Shard(headers, np.concatenate(rows))


def _write_hdf5(path: Path, blocks: Iterable[Shard], rows: int, dim: int, attributes: Mapping[str, object]) -> None:
    with atomic_path(path) as temporary, _hdf5(temporary, rows, dim, attributes) as file:
        start = 0
        for block in blocks:
            end = start + len(block.headers)
            file["embeddings"][start:end] = block.embeddings
            file["ids"][start:end] = block.ids
            file["headers"][start:end] = block.headers
            start = end


def ids_path(path: Path) -> Path:
    """Where the ids of a `.npy` result stand, one a line."""
    return path.with_suffix(".ids.txt")


def _write_npy(path: Path, blocks: Iterable[Shard], rows: int, dim: int, attributes: Mapping[str, object]) -> None:
    with atomic_path(path) as temporary, atomic_path(ids_path(path)) as ids_temporary:
        header = {"descr": "<f4", "fortran_order": False, "shape": (rows, dim)}
        with open(temporary, "wb") as data, open(ids_temporary, "w", encoding="utf-8") as ids:
            np.lib.format.write_array_header_1_0(data, header)
            for block in blocks:
                data.write(np.ascontiguousarray(block.embeddings, dtype="<f4").tobytes())
                ids.writelines(f"{name}\n" for name in block.ids)


def _write_pt(path: Path, blocks: Iterable[Shard], rows: int, dim: int, attributes: Mapping[str, object]) -> None:
    """The published tool's dictionary; it is one Python object, so the whole result is held in memory."""
    import torch

    ids: list[str] = []
    data: list[dict[str, object]] = []
    for block in blocks:
        ids += block.ids
        for name, vector in zip(block.ids, block.embeddings.tolist(), strict=True):
            data.append({"label": name, "mean_representation": vector})
    with atomic_path(path) as temporary, open(temporary, "wb") as file:
        torch.save({"nucleotide": ids, "data": data}, file)
