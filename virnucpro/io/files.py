"""Write files atomically (temporary name, sync, rename), compute checksums, and read regular files only."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import re
import socket
import stat
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from virnucpro.errors import OutputError, VirnucproError

#: Largest number of bytes by which the temporary name of a file is longer than its own name.
TEMPORARY_BYTES = len("..01234567-4194304.tmp")

#: Bytes of the buffer for files that are written a little at a time.
BUFFER = 1 << 20

#: A temporary name given by any process on any host; the first group is the final name.
_TEMPORARY = re.compile(r"\.(.+)\.[0-9a-f]{8}-[0-9]+\.tmp", re.DOTALL)


def temporary_name(path: Path) -> Path:
    """The temporary name beside `path` that only this process of this host uses."""
    host = zlib.crc32(socket.gethostname().encode())
    return path.with_name(f".{path.name}.{host:08x}-{os.getpid()}.tmp")


def unfinished(paths: Iterable[Path]) -> Iterator[Path]:
    """Temporary files of `paths`, left by any process."""
    names: dict[Path, set[str]] = {}
    for path in paths:
        names.setdefault(path.parent, set()).add(path.name)
    for folder, wanted in names.items():
        for each in folder.glob(".*.tmp"):
            if (match := _TEMPORARY.fullmatch(each.name)) and match[1] in wanted:
                yield each


def remove_unfinished(paths: Iterable[Path]) -> None:
    """Remove temporary files of `paths` that killed runs have left."""
    for each in unfinished(paths):
        with contextlib.suppress(OSError):
            each.unlink()


@contextlib.contextmanager
def atomic_paths(paths: Iterable[Path]) -> Iterator[dict[Path, Path]]:
    """Yield temporary names for `paths`; they are renamed when the block succeeds and removed when it fails.

    All files are synced before the first is renamed, and their folders after the last: a file with its final name is
    whole, even after a power cut. The block removes from the mapping the files that it does not write after all. Raises
    OutputError (disk full, no permission) naming the first of `paths`.
    """
    names = {path: temporary_name(path) for path in paths}
    first, begun = next(iter(names), Path()), list(names.values())
    try:
        with writing(first):
            yield names
            for temporary in names.values():
                sync(temporary)
            for path, temporary in names.items():
                os.replace(temporary, path)
            for folder in {path.parent for path in names}:
                sync(folder)
    finally:
        for temporary in begun:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """The same for one file."""
    with atomic_paths((path,)) as names:
        yield names[path]


@contextlib.contextmanager
def failing_as(kind: type[VirnucproError], what: str, hint: str | None = None) -> Iterator[None]:
    """Raise an error of that kind for an OSError in the block: what failed, and why."""
    try:
        yield
    except OSError as error:
        raise kind(f"{what}: {error.strerror or error}", hint=hint) from error


def writing(path: Path) -> contextlib.AbstractContextManager[None]:
    """Raise OutputError, naming `path`, for an OSError in the block."""
    return failing_as(OutputError, f"cannot write {path}", "free space or choose another place, then rerun")


def make_folder(path: Path) -> None:
    """Make a folder, and those above it, unless it exists. Raises OutputError."""
    with failing_as(OutputError, f"cannot create the folder {path}", "choose another place with -o"):
        path.mkdir(parents=True, exist_ok=True)


def refuse_other(path: Path, beginning: bytes, what: str) -> None:
    """Raise OutputError for an existing file that does not begin with these bytes; what: what would be written."""
    hint = "choose another place or name with -o"
    with (
        failing_as(OutputError, f"cannot write {path}", hint),
        contextlib.suppress(FileNotFoundError),
        open(path, "rb") as file,
    ):
        if file.read(len(beginning)) != beginning:
            raise OutputError(f"{path} exists and is not a {what}", hint=hint)


def sync(path: Path) -> None:
    """Wait until a file, or the entries of a folder, are on the disk. Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def open_regular(path: Path) -> BinaryIO:
    """Open a regular file for reading: a pipe or a device might never end. Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "not a regular file", str(path))
    return open(descriptor, "rb")


def sha256_of(path: Path) -> str:
    """SHA-256 of a regular file, in hexadecimal. Raises OSError."""
    digest = hashlib.sha256()
    with open_regular(path) as file:
        while block := file.read(BUFFER):
            digest.update(block)
    return digest.hexdigest()


def sealed(path: Path) -> str:
    """SHA-256 of a file that was just written, once it is on the disk. Raises OSError."""
    sync(path)
    return sha256_of(path)


def read_object(path: Path) -> dict[str, Any]:
    """The JSON object that a regular file holds. Raises OSError, ValueError."""
    with open_regular(path) as file:
        data = file.read()
    try:
        values = json.loads(data.decode("utf-8"))
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    if not isinstance(values, dict):
        raise ValueError("it is not a JSON object")
    return values
