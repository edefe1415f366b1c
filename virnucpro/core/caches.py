"""Where Numba and Triton keep what they made, if they may not write at home: the ordinary container."""

from __future__ import annotations

import os
import stat
import tempfile
from pathlib import Path

#: Variables that name a folder for one of them, and the folder that it takes at home without.
_PLACES = {"NUMBA_CACHE_DIR": ".cache/numba", "TRITON_HOME": ".triton"}


def settle_caches() -> None:
    """Give each of them that cannot write at home a folder below the temporary one; call this before its import.

    A variable that the user has set stays. Without a folder each does as it does: Numba and Triton compile again at
    each start, or fail.
    """
    for variable, place in _PLACES.items():
        if variable not in os.environ and not _is_writable(os.path.join(os.path.expanduser("~"), place)):
            folder = _own_folder()
            if folder is not None:
                os.environ[variable] = str(folder)


def _is_writable(path: str) -> bool:
    """Whether a folder can be written, or made where it is to be."""
    if not os.path.isabs(path):  # a user without a home
        return False
    while not os.path.exists(path):
        path = os.path.dirname(path)
    return os.access(path, os.W_OK)


def _own_folder() -> Path | None:
    """A folder that nobody else can write, since code is loaded from it; None if there cannot be one."""
    folder = Path(tempfile.gettempdir()) / f"virnucpro-{os.getuid()}"
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        found = folder.lstat()
    except OSError:
        return None
    is_own = stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid() and not found.st_mode & 0o022
    return folder if is_own else None
