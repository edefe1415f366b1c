"""A file for HDF5 and PyTorch to write to, so that a full disk becomes a clear error."""

from __future__ import annotations

import io
import os
from pathlib import Path


class Target(io.RawIOBase):
    """A file that never reports an error to HDF5, and at first looks empty to it.

    HDF5 crashes the process when it cannot write. So after the first failure, what HDF5 writes is kept in memory, where
    it can read it again and finish; `check`, called often, ends the writing before this grows large. What was put into
    the file before HDF5 began is found by HDF5 in the place that it allocates for it, and need not be written.
    """

    def __init__(self, path: Path) -> None:
        self._file = open(path, "w+b", buffering=0)  # noqa: SIM115  # closed by close
        self._end = 0
        self._error: OSError | None = None
        self._kept: list[tuple[int, bytes]] = []

    def put(self, data: memoryview, offset: int) -> None:
        """Write all of `data` at an offset, before HDF5 begins. Raises OSError."""
        while data:
            written = os.pwrite(self._file.fileno(), data, offset)
            data, offset = data[written:], offset + written

    def get(self, count: int, offset: int) -> bytes:
        """Read what was put at an offset. Raises OSError."""
        return os.pread(self._file.fileno(), count, offset)

    def check(self) -> None:
        """Raise the first failure."""
        if self._error is not None:
            raise self._error

    def stop(self) -> None:
        """Make the next `check` raise."""
        self._error = self._error or OSError("stopped")

    def write(self, data: memoryview) -> int:  # type: ignore[override]  # what h5py hands in
        """Write all of `data`, or keep it in memory after a failure."""
        start, rest = self.tell(), memoryview(data)
        while rest and self._error is None:
            try:
                rest = rest[self._file.write(rest) :]
            except OSError as error:
                self._error = error
        if self._error is not None:
            self._kept.append((start, bytes(data)))
        self._end = max(self._end, start + len(data))
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
        """Set the size, as HDF5 does before closing."""
        self._end = size or 0
        try:
            return self._file.truncate(size)
        except OSError as error:
            self._error = self._error or error
            return size or 0

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Go to `offset`; the end is the end of what HDF5 wrote."""
        return self._file.seek(self._end + offset) if whence == io.SEEK_END else self._file.seek(offset, whence)

    def tell(self) -> int:
        """The current position."""
        return self._file.tell()

    def close(self) -> None:
        """Close the file."""
        self._file.close()
        super().close()
