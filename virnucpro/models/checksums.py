"""Checksums of large weights, remembered between runs, so that 11 GB are not read only to compute them.

A file is recognised by its path, size, inode, and times of change. If one of them differs, or if the remembered
checksum is damaged, the file is read.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import time
from dataclasses import dataclass
from pathlib import Path

from virnucpro.core.caches import own_folder
from virnucpro.errors import ModelError, OutputError
from virnucpro.io.files import atomic_path, failing_as, open_regular, sha256_of

#: What to do about a file of a model that is gone or cannot be read.
PUT_BACK = "put it there, readable, then run the same command again"
#: Smallest size in bytes for which a checksum is remembered; smaller files are read quickly.
LARGE = 64 << 20
#: Nanoseconds for which a file must be unchanged: two changes in quick succession may leave the same times.
SETTLED = 2 * 10**9


@dataclass(frozen=True)
class FileState:
    """The properties that identify an unchanged file; times in nanoseconds."""

    path: str
    size: int
    inode: int
    modified: int
    changed: int

    @classmethod
    def of(cls, path: Path) -> FileState:
        """The current state of a file, or of the target of a link. Raises OSError."""
        real = os.path.realpath(path)
        found = os.stat(real)
        return cls(real, found.st_size, found.st_ino, found.st_mtime_ns, found.st_ctime_ns)


@dataclass(frozen=True)
class Checksum:
    """SHA-256 of a file, in hexadecimal, and the state of the file at that time."""

    state: FileState
    sha256: str

    @classmethod
    def of(cls, path: Path) -> Checksum:
        """Compute or recall the checksum of a file. Raises ModelError if it cannot be read or changes meanwhile."""
        with failing_as(ModelError, f"cannot read {path}", PUT_BACK):
            state = FileState.of(path)
            known = _recall(state) if state.size >= LARGE else None
            return cls(state, known or _read(path, state))

    def refuse_changed(self, path: Path) -> None:
        """Raise ModelError if the file at `path` has changed, or is gone."""
        with failing_as(ModelError, f"cannot read {path}", PUT_BACK):
            is_same = FileState.of(path) == self.state or sha256_of(path) == self.sha256
        if not is_same:
            raise _changed(path)


def _read(path: Path, state: FileState) -> str:
    found = sha256_of(path)
    if FileState.of(path) != state:
        raise _changed(path)
    if state.size >= LARGE and time.time_ns() - state.changed >= SETTLED:
        _remember(Checksum(state, found))
    return found


def _changed(path: Path) -> ModelError:
    return ModelError(f"{path} changed while it was read", hint="run the same command again once it is whole")


def _recall(state: FileState) -> str | None:
    memory, found = _memory(state), ""
    with contextlib.suppress(OSError, ValueError):
        if memory:
            with open_regular(memory) as file:
                found = file.read().decode()
    return found if re.fullmatch("[0-9a-f]{64}", found) else None


def _remember(checksum: Checksum) -> None:
    if memory := _memory(checksum.state):
        with contextlib.suppress(OSError, OutputError):  # the file will be read again
            memory.parent.mkdir(exist_ok=True)
            with atomic_path(memory) as temporary:
                temporary.write_text(checksum.sha256, encoding="utf-8")


def _memory(state: FileState) -> Path | None:
    """The file that holds the checksum of a file with this state; None if there is no cache folder."""
    folder, name = own_folder(), hashlib.sha256(repr(state).encode("utf-8", "surrogateescape")).hexdigest()[:32]
    return folder / "checksums" / name if folder else None
