"""Cache folders of this package, Numba and Triton.

In many containers users cannot write to the home folder; then a folder of their own in the temporary folder is used.
"""

from __future__ import annotations

import os
import stat
import tempfile
from pathlib import Path

#: The variable that names the folder of each, and the folder in the user's home that is used without it.
_PLACES = {"NUMBA_CACHE_DIR": ".cache/numba", "TRITON_HOME": ".triton"}


def own_folder() -> Path | None:
    """This package's folder in the user's cache, or else in the temporary folder; None if neither can be made."""
    cache = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    return (_private(Path(cache, "virnucpro")) if _is_writable(cache) else None) or _temporary_folder()


def settle_caches() -> None:
    """Give those that cannot write to the home folder one in the temporary folder; call this before importing them.

    A variable that the user has set is kept. If no folder can be made, Numba and Triton compile again at each start, or
    fail.
    """
    for variable, place in _PLACES.items():
        if variable not in os.environ and not _is_writable(os.path.join(os.path.expanduser("~"), place)):
            folder = _temporary_folder()
            if folder is not None:
                os.environ[variable] = str(folder)


def _is_writable(path: str) -> bool:
    """Whether a folder can be written to, or created."""
    if not os.path.isabs(path):  # a user without a home
        return False
    while not os.path.exists(path):
        path = os.path.dirname(path)
    return os.access(path, os.W_OK)


def _temporary_folder() -> Path | None:
    return _private(Path(tempfile.gettempdir()) / f"virnucpro-{os.getuid()}")


def _private(folder: Path) -> Path | None:
    """Create `folder` so that nobody else can write to it, since its content is trusted; None if that is impossible."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = folder.lstat()
    except OSError:
        return None
    is_own = stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid() and not found.st_mode & 0o022
    return folder if is_own else None
