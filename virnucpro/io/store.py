"""Embeddings in HDF5: one shard per work file, and the layout of every result.

Layout of an HDF5 file: `embeddings` (n, dim) float32, `ids` (n,) the first word of each header, `headers` (n,) whole
headers, and attributes that say how it was made. Nothing depends on time, place, or the number of workers, so equal
embeddings give equal bytes. Shards also hold `failed_records`, `failed_ids` and `failed_reasons`, and in their user
block the sha256 of all that follows: HDF5 may crash, hang or report nothing when it reads damaged bytes.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import h5py
import numpy as np
from numpy.typing import NDArray

from virnucpro.core.threads import in_order
from virnucpro.errors import InputError
from virnucpro.input.fasta import first_word
from virnucpro.io.files import atomic_path, failing_as, open_regular

FORMAT_VERSION = 1
TEXT = h5py.string_dtype("utf-8")

#: Shards read ahead, each in a thread, when results are merged.
READ_AHEAD = 4

#: Rows of a result that are read at a time.
BLOCK_ROWS = 4096

#: Attribute of a shard: the name under which it was written.
FILE = "file"

#: Bytes of a shard's user block; the smallest size that HDF5 allows.
USER_BLOCK = 512


@dataclass
class Shard:
    """The embeddings of a work file, or some of them.

    failed: (record number in the work file, id, reason) of sequences without an embedding; attributes: those of a
    shard that was read.
    """

    headers: list[str]
    embeddings: NDArray[np.float32]
    failed: list[tuple[int, str, str]] = field(default_factory=list)
    attributes: Mapping[str, object] = field(default_factory=dict)

    @property
    def ids(self) -> list[str]:
        """First word of each header."""
        return [first_word(header) for header in self.headers]


@contextlib.contextmanager
def hdf5(
    target: object, rows: int, dim: int, attributes: Mapping[str, object], user_block: int = 0
) -> Iterator[h5py.File]:
    """An HDF5 file in the file-like object `target`."""
    with h5py.File(target, "w", libver="v110", userblock_size=user_block) as file:
        file.attrs["format_version"] = FORMAT_VERSION
        for name, value in attributes.items():
            file.attrs[name] = value
        file.create_dataset("embeddings", (rows, dim), np.float32)
        file.create_dataset("ids", (rows,), TEXT)
        file.create_dataset("headers", (rows,), TEXT)
        yield file


def write_shard(path: Path, shard: Shard, attributes: Mapping[str, object]) -> None:
    """Write the result of a work file atomically; it contains its own name, since all shards of a run look alike."""
    rows, dim = shard.embeddings.shape
    content = io.BytesIO()
    with hdf5(content, rows, dim, {**attributes, FILE: os.fsencode(path.name)}, USER_BLOCK) as file:
        file["embeddings"][...] = shard.embeddings
        file["ids"][...] = shard.ids
        file["headers"][...] = shard.headers
        numbers, ids, reasons = zip(*shard.failed, strict=True) if shard.failed else ((), (), ())
        file.create_dataset("failed_records", data=np.array(numbers, dtype=np.int64))
        file.create_dataset("failed_ids", data=list(ids), dtype=TEXT, shape=(len(ids),))
        file.create_dataset("failed_reasons", data=list(reasons), dtype=TEXT, shape=(len(ids),))
    data = content.getbuffer()
    digest = _digest(data)
    data[: len(digest)] = digest
    with atomic_path(path) as temporary:
        temporary.write_bytes(data)


def _digest(shard: memoryview) -> bytes:
    return hashlib.sha256(shard[USER_BLOCK:]).digest()


def read_shard(path: Path) -> Shard:
    """Read a shard. Raises InputError if it is not what was written under this name."""
    with failing_as(InputError, f"cannot read {path}", "run the same command again"), open_regular(path) as content:
        data = content.read()
    digest = _digest(memoryview(data))
    if data[: len(digest)] != digest:
        raise InputError(f"{path} is damaged: its checksum differs", hint="run the same command again")
    with h5py.File(io.BytesIO(data)) as file:
        attributes = dict(file.attrs)
        if attributes.get(FILE) != path.name:  # h5py decodes these like Python decodes the names of files
            raise InputError(f"{path} is the result of another file", hint="run the same command again")
        numbers = file["failed_records"][...].tolist()
        failed = list(zip(numbers, _text(file["failed_ids"]), _text(file["failed_reasons"]), strict=True))
        return Shard(_text(file["headers"]), file["embeddings"][...], failed, attributes)


def read_shards(paths: Iterable[Path]) -> Iterator[Shard]:
    """Read shards in order, a few ahead in threads, since checksums take most of the time. Raises InputError."""
    return in_order(read_shard, paths, READ_AHEAD)


def _text(dataset: h5py.Dataset, rows: slice = slice(None)) -> list[str]:
    return [value.decode("utf-8") for value in dataset[rows]]


def read_blocks(path: Path) -> Iterator[Shard]:
    """Read an HDF5 result, some rows at a time."""
    with h5py.File(path) as file:
        for start in range(0, len(file["embeddings"]), BLOCK_ROWS):
            rows = slice(start, start + BLOCK_ROWS)
            yield Shard(_text(file["headers"], rows), file["embeddings"][rows])


def result_attributes(path: Path) -> dict[str, object]:
    """The attributes of an HDF5 result, which say how it was made."""
    with h5py.File(path) as file:
        return dict(file.attrs)


def read_result(path: Path) -> tuple[list[str], NDArray[np.float32]]:
    """Ids and (n, dim) embeddings of an HDF5 result."""
    with h5py.File(path) as file:
        return _text(file["ids"]), file["embeddings"][...]
