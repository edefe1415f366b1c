"""Standard output and error that may fail: a message can be lost, a run cannot."""

from __future__ import annotations

import contextlib
import io
import os
import sys
from collections.abc import Iterator
from typing import TextIO

from virnucpro.errors import OutputError


@contextlib.contextmanager
def guarded() -> Iterator[None]:
    """Replace both streams during the block: see `_Messages` and `_Answer`."""
    _keep_open()
    with _replaced("stderr", _Messages), _replaced("stdout", _Answer):
        yield


class _Messages(io.TextIOWrapper):
    """Standard error. When its reader goes away (`| head -1`) or its disk is full, all that follows is dropped."""

    def write(self, text: str, /) -> int:
        try:
            return super().write(text)
        except OSError as error:
            self._failed(error)
            return len(text)

    def flush(self) -> None:
        try:
            super().flush()
        except OSError as error:
            self._failed(error)

    def _failed(self, error: OSError) -> None:
        null = os.open(os.devnull, os.O_WRONLY)  # which also takes what is still in buffers
        os.dup2(null, self.fileno())
        os.close(null)


class _Answer(_Messages):
    """Standard output: the requested answer, so a full disk is an error; but its reader may go away."""

    def _failed(self, error: OSError) -> None:
        super()._failed(error)
        if not isinstance(error, BrokenPipeError):
            raise OutputError(f"cannot write standard output: {error.strerror}", hint="free space there") from error


@contextlib.contextmanager
def _replaced(name: str, kind: type[_Messages]) -> Iterator[None]:
    real: TextIO = getattr(sys, name)
    if not hasattr(real, "buffer"):
        yield
        return
    stream = kind(real.buffer, real.encoding, real.errors, line_buffering=True)
    setattr(sys, name, stream)
    try:
        yield
        stream.flush()
    finally:
        setattr(sys, name, real)
        with contextlib.suppress(OutputError):  # it has been reported
            stream.detach()


def _keep_open() -> None:
    """Replace a closed stream (`2>&-`): the next opened file would get its number, and so its messages."""
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115  # for as long as the process lives
