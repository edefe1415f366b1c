"""The bytes of a file before it was compressed by gzip, bzip2, xz or zstd: all bytes before any damage, in flat memory.

The format is recognised by the first bytes, never by the name. This is done here since the libraries for it lose what
they have decompressed when they meet damage, skip what follows the last stream, and miss the end of a truncated BGZF
file. Text whose lines end in CR alone is given with LF instead.
"""

from __future__ import annotations

import bz2
import io
import lzma
import re
import sys
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import BinaryIO

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

from virnucpro.errors import InputError

FETCH_AGAIN = "download or create the file again"

#: Compressed bytes read at a time.
_INPUT_BYTES = 1 << 16
#: Bytes requested at a time: at damage, what a decompressor has ready of one request is lost.
OUTPUT_BYTES = 1 << 14


class Damaged(Exception):
    """Reading cannot go on; the message holds the reason and the hint."""


class _Gzip:
    """zlib's decompressor with the interface of the others; checks the sums of a gzip member."""

    def __init__(self) -> None:
        self._zlib = zlib.decompressobj(wbits=31)
        self.needs_input = True

    @property
    def eof(self) -> bool:
        return self._zlib.eof

    @property
    def unused_data(self) -> bytes:
        return self._zlib.unused_data

    def decompress(self, data: bytes, max_length: int) -> bytes:
        found = self._zlib.decompress(self._zlib.unconsumed_tail + data, max_length)
        self.needs_input = not self._zlib.unconsumed_tail and len(found) < max_length
        return found


#: What `zstd --long=31` writes can be read.
_ZSTD_OPTIONS = {int(zstd.DecompressionParameter.window_log_max): 31}
#: Decompresses one stream (member, frame) of a file; may raise anything, since each library has its own errors.
_Decompressor = _Gzip | bz2.BZ2Decompressor | lzma.LZMADecompressor | zstd.ZstdDecompressor

#: What a stream begins with (zstd: also a frame to be skipped, such as pzstd's), and its decompressor.
_FORMATS: tuple[tuple[re.Pattern[bytes], Callable[[], _Decompressor]], ...] = (
    (re.compile(rb"\x1f\x8b"), _Gzip),
    (re.compile(rb"BZh[1-9]"), bz2.BZ2Decompressor),
    (re.compile(rb"\xfd7zXZ\x00"), lzma.LZMADecompressor),
    (
        re.compile(rb"\x28\xb5\x2f\xfd|[\x50-\x5f]\x2a\x4d\x18", re.DOTALL),
        partial(zstd.ZstdDecompressor, options=_ZSTD_OPTIONS),
    ),
)
_LONGEST_MAGIC = 6
#: The beginning of a BGZF block; a file of them ends with an empty one.
_BGZF = re.compile(rb"\x1f\x8b\x08\x04.{8}BC\x02\x00", re.DOTALL)
_BGZF_MAGIC = 16
#: The beginning of BAM, which has no lines.
BAM_MAGIC = b"BAM\1"


class Content(io.RawIOBase):
    """The decompressed bytes of `source`, which begins with `head`; Damaged is raised when all before it is read."""

    def __init__(self, source: BinaryIO, head: bytes) -> None:
        self._source = source
        self._make = next((make for magic, make in _FORMATS if magic.match(head)), None)
        self._stream = self._make() if self._make else None
        self._pending = b""
        self._is_bgzf = _BGZF.match(head) is not None
        #: Whether the current stream has given nothing so far, like BGZF's end block.
        self._is_empty = True
        self._damage: Damaged | None = None
        #: Whether lines end in CR alone; known from the first bytes on.
        self._ends_in_cr: bool | None = None
        #: What follows the last whole stream but is not a stream; to be reported by whoever reads to the end.
        self.leftover = ""

    def readable(self) -> bool:
        """True."""
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]  # what BufferedReader hands in
        """Fill the buffer; it is filled in part only at the end or before damage."""
        if self._damage:
            raise self._damage
        done = 0
        try:
            while done < len(buffer) and (data := self._next(len(buffer) - done)):
                buffer[done : done + len(data)] = data
                done += len(data)
        except MemoryError:
            raise
        except Exception as error:
            cause = str(error) or type(error).__name__
            self._damage = Damaged(f"the file is damaged or truncated ({cause}): {FETCH_AGAIN}")
            if not done:
                raise self._damage from error
        if self._ends_in_cr is None:
            data = bytes(buffer[:done])
            self._ends_in_cr = b"\r" in data[:-1] and b"\n" not in data and not data.startswith(BAM_MAGIC)
        if self._ends_in_cr:
            buffer[:done] = bytes(buffer[:done]).replace(b"\r", b"\n")
        return done

    def _next(self, most: int) -> bytes:
        """Some of the next bytes, at most `most`; none at the end."""
        if self._stream is None:
            return self._source.read(most)
        while not self._stream.eof or self._began_another():
            data = b""
            if self._stream.needs_input:
                data, self._pending = self._pending or self._input(), b""
                if not data:
                    raise EOFError("its end is missing")
            if found := self._stream.decompress(data, most):
                self._is_empty = False
                return found
        return b""

    def _input(self) -> bytes:
        return self._source.read(_INPUT_BYTES)

    def _began_another(self) -> bool:
        """Go on to the next stream; zeros behind the last one, as on tapes, are passed over."""
        assert self._stream is not None
        assert self._make is not None
        rest = self._stream.unused_data.lstrip(b"\0")
        while len(rest) < _LONGEST_MAGIC and (more := self._input()):
            rest = (rest + more).lstrip(b"\0")
        if self._is_bgzf and not rest and not self._is_empty:
            raise EOFError("its BGZF end block is missing")
        if not any(magic.match(rest) for magic, make in _FORMATS if make is self._make):
            self.leftover = (
                f"the data after the last complete compressed stream is damaged: {FETCH_AGAIN}" if rest else ""
            )
            return False
        self._stream, self._pending, self._is_empty = self._make(), rest, True
        return True


@contextmanager
def opened(path: Path) -> Iterator[Content]:
    """The content of a file or pipe. Raises InputError if it cannot be opened."""
    try:
        # A pipe may give its first bytes one by one; a buffer over a buffer waits until it has enough of them.
        source = io.BufferedReader(io.BufferedReader(open(path, "rb", buffering=0)))  # noqa: SIM115
        content = Content(source, source.peek(_BGZF_MAGIC))
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}", hint=_opening_cure(error)) from error
    with source:
        yield content


def _opening_cure(error: OSError) -> str:
    if isinstance(error, FileNotFoundError):
        return "check the spelling and the folder"
    if isinstance(error, IsADirectoryError):
        return "give the files in this folder, for example with a pattern such as *.fasta"
    if isinstance(error, PermissionError):
        return "ask its owner for read permission, or use a copy"
    return "check the path"
