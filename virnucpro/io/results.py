"""Write the embeddings of a run in the user's format, appending rows before their number is known."""

from __future__ import annotations

import contextlib
import io
import json
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import chain, islice
from pathlib import Path
from typing import IO, Any, Literal

import numpy as np
from numpy.typing import NDArray

from virnucpro.io.store import Shard, hdf5
from virnucpro.io.target import Target

OUTPUT_SUFFIXES = (".h5", ".hdf5", ".npy", ".pt")

#: Layouts of a result: HDF5, NumPy, and the published tool's for DNABERT-S, for ESM-2, and for both joined.
Layout = Literal["hdf5", "npy", "nucleotide", "proteins", "merged"]

#: Ids and headers given to HDF5 at a time; a fixed number, so that the bytes do not depend on how the input was split.
MERGE_ROWS = 4096


def layout_of(path: Path, proteins: bool) -> Layout:
    """The layout of a result by its suffix; a `.pt` of proteins is the published tool's for ESM-2."""
    if path.suffix == ".pt":
        return "proteins" if proteins else "nucleotide"
    return "npy" if path.suffix == ".npy" else "hdf5"


def result_paths(output: Path) -> tuple[Path, ...]:
    """The files of a result: `output`, and beside a `.npy` its ids, one per line."""
    return (output, output.with_suffix(".ids.txt")) if output.suffix == ".npy" else (output,)


class Result(ABC):
    """A result that grows in its `paths`: `append` repeatedly, `finish`, and always `close`.

    `rows` of width `dim` are in it.
    """

    def __init__(self, *paths: Path) -> None:
        self.paths = paths
        self.rows = self.dim = 0

    def append(self, shard: Shard) -> None:
        """Add the rows of a shard. Raises OSError."""
        self.dim = shard.embeddings.shape[1]
        self._add(shard)
        self.rows += len(shard.headers)

    @abstractmethod
    def _add(self, shard: Shard) -> None: ...

    @abstractmethod
    def finish(self) -> None:
        """Complete the result. Raises OSError."""

    @abstractmethod
    def close(self) -> None:
        """Close the files; an unfinished result is useless."""

    def discard(self) -> None:
        """Close and remove the files."""
        self.close()
        for path in self.paths:
            path.unlink(missing_ok=True)


def open_result(paths: Sequence[Path], attributes: Mapping[str, object], layout: Layout) -> Result:
    """An empty result in its files, as `result_paths` has them, or under other names. Raises OSError."""
    if layout == "hdf5":
        return _Hdf5Result(paths[0], attributes)
    if layout == "npy":
        return _NpyResult(*paths)
    return _PtResult(paths[0], layout)


def write_merged(
    paths: Sequence[Path], shards: Iterable[Shard], attributes: Mapping[str, object], layout: Layout
) -> None:
    """Write a whole result, in the order of `shards`; arguments and errors as for `open_result`."""
    with contextlib.closing(open_result(paths, attributes, layout)) as result:
        for shard in shards:
            result.append(shard)
        result.finish()


class _Hdf5Result(Result):
    """The place of the embeddings in an HDF5 file does not depend on their number, so they are put there as they come.

    At the end HDF5 writes its structure before them and the strings behind them, as if it had written everything: the
    bytes are the same. Ids and headers wait in a file without a name, since memory may be too small.
    """

    def __init__(self, path: Path, attributes: Mapping[str, object]) -> None:
        super().__init__(path)
        self._attributes = attributes
        self._offset = 0
        self._target = Target(path)
        self._names = tempfile.TemporaryFile("w+", encoding="utf-8", dir=path.parent)  # noqa: SIM115  # see `close`

    def _add(self, shard: Shard) -> None:
        self._offset = self._offset or _offset_of_rows(self.dim, self._attributes)
        data = np.ascontiguousarray(shard.embeddings, "<f4")
        self._target.put(data.reshape(-1).view(np.uint8).data, self._offset + self.rows * self.dim * data.itemsize)
        self._names.write(json.dumps([shard.ids, shard.headers]) + "\n")

    def finish(self) -> None:
        # In a thread, since HDF5 calls Python code to write, and a signal breaks into that only in the main thread.
        with ThreadPoolExecutor(1) as pool:
            writing = pool.submit(self._write)
            try:
                writing.result()
            except BaseException:
                self._target.stop()
                raise

    def _write(self) -> None:
        with hdf5(self._target, self.rows, self.dim, self._attributes) as file:
            if self.rows:  # what is there already is written again, so that HDF5 allocates all of it
                file["embeddings"][0] = np.frombuffer(self._target.get(4 * self.dim, self._offset), "<f4")
            start = 0
            for ids, headers in self._blocks():
                end = start + len(ids)
                file["ids"][start:end] = ids
                file["headers"][start:end] = headers
                self._target.check()
                start = end
        self._target.check()

    def _blocks(self) -> Iterator[tuple[list[str], list[str]]]:
        """All ids and headers, MERGE_ROWS at a time."""
        self._names.seek(0)
        names = chain.from_iterable(zip(*json.loads(line), strict=True) for line in self._names)
        while block := list(islice(names, MERGE_ROWS)):
            ids, headers = map(list, zip(*block, strict=True))
            yield ids, headers

    def close(self) -> None:
        self._target.close()
        _abandon(self._names)


def _abandon(file: IO[Any]) -> None:
    with contextlib.suppress(OSError):  # the disk is full: what has not been written yet is not needed
        file.close()


def _offset_of_rows(dim: int, attributes: Mapping[str, object]) -> int:
    """Offset of the first row, which is the same for any number of rows."""
    with hdf5(io.BytesIO(), 1, dim, attributes) as file:
        file["embeddings"][0] = 0
        return int(file["embeddings"].id.get_offset())


class _NpyResult(Result):
    """The header has room for any number of rows, so it is rewritten at the end."""

    def __init__(self, path: Path, ids: Path) -> None:
        super().__init__(path, ids)
        self._data = open(path, "wb")  # noqa: SIM115  # closed by close
        self._ids = open(ids, "w", encoding="utf-8")  # noqa: SIM115

    def _add(self, shard: Shard) -> None:
        if not self.rows:
            self._write_header()
        self._data.write(np.ascontiguousarray(shard.embeddings, "<f4").tobytes())
        self._ids.writelines(f"{name}\n" for name in shard.ids)

    def _write_header(self) -> None:
        self._data.seek(0)
        header = {"descr": "<f4", "fortran_order": False, "shape": (self.rows, self.dim)}
        np.lib.format.write_array_header_1_0(self._data, header)

    def finish(self) -> None:
        self._write_header()
        for file in (self._data, self._ids):
            file.close()

    def close(self) -> None:
        for file in (self._data, self._ids):
            _abandon(file)


class _PtResult(Result):
    """The dictionaries of the published tool; each is one Python object, so the whole result is kept in memory."""

    def __init__(self, path: Path, layout: Layout) -> None:
        super().__init__(path)
        self._layout = layout
        self._ids: list[str] = []
        self._arrays: list[NDArray[np.float32]] = []

    def _add(self, shard: Shard) -> None:
        self._ids += shard.ids
        self._arrays.append(shard.embeddings)

    def finish(self) -> None:
        import torch

        with Target(self.paths[0]) as target:  # PyTorch does not say why it cannot write
            torch.save(self._content(), target)  # type: ignore[arg-type]  # it asks for no more than `write`
            target.check()

    def _content(self) -> dict[str, object]:
        import torch

        vectors = np.concatenate(self._arrays) if self._arrays else np.empty((0, 0), np.float32)
        if self._layout == "merged":
            return {"ids": self._ids, "data": torch.from_numpy(vectors)}
        if self._layout == "proteins":
            return {"proteins": self._ids, "data": list(torch.from_numpy(vectors))}
        pairs = zip(self._ids, vectors.tolist(), strict=True)
        return {
            "nucleotide": self._ids,
            "data": [{"label": name, "mean_representation": row} for name, row in pairs],
        }

    def close(self) -> None:
        """Nothing is open between calls."""
