"""The file that a large HDF5 result is written to, such that a full disk is an error and not a crash."""

from __future__ import annotations

import io
from pathlib import Path


class Target(io.RawIOBase):
    """A file for HDF5 to write in that never fails it.

    HDF5 crashes the process when it cannot write. So from the first failure on, what it writes is kept in memory, for
    it to read again and come to its end; `check`, called often, ends the writing before that grows large.
    """

    def __init__(self, path: Path) -> None:
        self._file = open(path, "w+b", buffering=0)  # noqa: SIM115  # closed by close
        self._error: OSError | None = None
        self._kept: list[tuple[int, bytes]] = []

    def check(self) -> None:
        """Raise the first failure."""
        if self._error is not None:
            raise self._error

    def stop(self) -> None:
        """Make the next `check` end the writing."""
        self._error = self._error or OSError("stopped")

    def write(self, data: memoryview) -> int:  # type: ignore[override]  # what h5py hands in
        """Write all of `data`, or keep it."""
        start, rest = self.tell(), memoryview(data)
        while rest and self._error is None:
            try:
                rest = rest[self._file.write(rest) :]
            except OSError as error:
                self._error = error
        if self._error is not None:
            self._kept.append((start, bytes(data)))
        return len(data)

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]  # what h5py hands in
        """Read what was written or kept."""
        start, count = self.tell(), self._file.readinto(buffer)
        for offset, data in self._kept:
            low, high = max(start, offset), min(start + len(buffer), offset + len(data))
            if low < high:
                buffer[low - start : high - start] = data[low - offset : high - offset]
                count = max(count, high - start)
        return count

    def truncate(self, size: int | None = None) -> int:
        """Set the size, which HDF5 does before it closes."""
        try:
            return self._file.truncate(size)
        except OSError as error:
            self._error = self._error or error
            return size or 0

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Go to `offset`."""
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        """Where the next byte is read or written."""
        return self._file.tell()

    def close(self) -> None:
        """Close the file."""
        self._file.close()
        super().close()
