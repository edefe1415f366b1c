"""Unaligned BAM, record by record: names and sequences, with every length checked before it is used.

Format: section 4.2 of the SAM specification, https://samtools.github.io/hts-specs/SAMv1.pdf.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator
from typing import Any, BinaryIO

from virnucpro.input.compressed import BAM_MAGIC, FETCH_AGAIN, Damaged

# refID, pos, l_read_name, mapq, bin, n_cigar_op, flag, l_seq, next_refID, next_pos, tlen
_FIXED = struct.Struct("<iiBBHHHiiii")
_NUMBER = struct.Struct("<i")
_UNMAPPED, _QC_FAIL, _DUPLICATE = 0x4, 0x200, 0x400
#: A byte holds two letters: the hexadecimal digits of the packed sequence, and the letter that each stands for.
_LETTERS = str.maketrans("0123456789abcdef", "=ACMGRSVTWYHKDBN")
_PIECE = 1 << 20


def read_bam(stream: io.BufferedReader[Any]) -> Iterator[tuple[bytes, bytes]]:
    """Name and sequence of each record; `stream` is decompressed. Raises Damaged if it is not unaligned BAM."""
    _skip(stream, len(BAM_MAGIC))
    _skip(stream, _number(stream))  # the text of the header
    for _ in range(_number(stream)):
        _skip(stream, _number(stream) + _NUMBER.size)  # a reference
    number = 0
    while stream.peek(1):
        number += 1
        yield _record(stream, _number(stream), number)


def _record(stream: BinaryIO, size: int, number: int) -> tuple[bytes, bytes]:
    """The next record, of `size` bytes."""
    _, _, l_name, _, _, n_cigar, flag, l_seq, _, _, _ = _FIXED.unpack(_exactly(stream, _FIXED.size))
    packed = (l_seq + 1) // 2
    tags = size - (_FIXED.size + l_name + 4 * n_cigar + packed + l_seq)
    if l_name < 1 or l_seq < 0 or tags < 0:
        raise _contradiction(number)
    if flag & ~(_QC_FAIL | _DUPLICATE) != _UNMAPPED:
        raise Damaged("BAM of aligned or paired reads: convert it to FASTQ with `samtools fastq`")
    name = _exactly(stream, l_name)
    if name.find(b"\0") != l_name - 1:
        raise _contradiction(number)
    _skip(stream, 4 * n_cigar)
    letters = _exactly(stream, packed).hex().translate(_LETTERS)[:l_seq]
    _skip(stream, l_seq + tags)  # qualities and tags of the read
    return name[:-1], letters.encode()


def _number(stream: BinaryIO) -> int:
    (number,) = _NUMBER.unpack(_exactly(stream, _NUMBER.size))
    if number < 0:
        raise Damaged(f"a negative length in the BAM: {FETCH_AGAIN}")
    return int(number)


def _exactly(stream: BinaryIO, size: int) -> bytes:
    """Read bytes in pieces, so that a wrong length takes no more memory than the file has bytes."""
    found = bytearray()
    while len(found) < size and (data := stream.read(min(size - len(found), _PIECE))):
        found += data
    if len(found) < size:
        raise _cut_off()
    return bytes(found)


def _skip(stream: BinaryIO, size: int) -> None:
    while size and (data := stream.read(min(size, _PIECE))):
        size -= len(data)
    if size:
        raise _cut_off()


def _contradiction(number: int) -> Damaged:
    return Damaged(f"the lengths in BAM record {number} contradict each other: {FETCH_AGAIN}")


def _cut_off() -> Damaged:
    return Damaged(f"the BAM is truncated: {FETCH_AGAIN}")
