"""Inputs that other tools have damaged, joined, truncated or written in their own way, and how they are handled."""

from __future__ import annotations

import bz2
import gzip
import lzma
import os
import random
import struct
import subprocess
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import HANGS, command_line, random_records

from virnucpro.core.words import counted
from virnucpro.errors import InputError
from virnucpro.input import cut
from virnucpro.input.compressed import zstd
from virnucpro.input.fasta import BadRecord, Record, read_records
from virnucpro.input.index import IndexedSequence

TWO = b">a\nACGT\n>b\nTTGC\n"
BOTH = [Record("a", "ACGT", 1), Record("b", "TTGC", 2)]
#: The end of BGZF files, by the SAM specification, section 4.1.2.
END_BLOCK = bytes.fromhex("1f8b08040000000000ff0600424302001b0003000000000000000000")
Outcome = list[Record | BadRecord]


@pytest.fixture
def read(tmp_path: Path) -> Callable[[bytes], Outcome]:
    def read(data: bytes) -> Outcome:
        (tmp_path / "in").write_bytes(data)
        return list(read_records(tmp_path / "in"))

    return read


Read = Callable[[bytes], Outcome]


def check_end(outcome: Outcome, records: Outcome, *reasons: str) -> None:
    """Check the records, and then the reason why the file could not be read further."""
    *found, end = outcome
    assert found == records
    assert isinstance(end, BadRecord)
    assert (end.id, end.number) == ("", 0)
    assert f"reading stopped after {counted(len(records), 'records')}" in end.reason
    assert all(reason in end.reason for reason in reasons), end.reason


# Compressed


def bgzf_block(data: bytes) -> bytes:
    """One block; `data` is short."""
    packed = gzip.compress(data, mtime=0)
    body = packed[10:]
    size = 18 + len(body) - 1
    return b"\x1f\x8b\x08\x04\0\0\0\0\0\xff\x06\0BC\x02\0" + struct.pack("<H", size) + body


def skippable(content: bytes = b"size") -> bytes:
    return b"\x50\x2a\x4d\x18" + struct.pack("<I", len(content)) + content


def test_zstd_frames_to_be_skipped(read: Read) -> None:
    assert read(skippable() + zstd.compress(TWO)) == BOTH
    first, second = zstd.compress(TWO[:9]), zstd.compress(TWO[9:])
    assert read(skippable() + first + skippable(b"") + second + skippable(b"x" * 100_000)) == BOTH


def test_zstd_of_the_largest_window(read: Read) -> None:
    options = {zstd.CompressionParameter.window_log: 28, zstd.CompressionParameter.enable_long_distance_matching: 1}
    assert read(zstd.compress(TWO, options=options)) == BOTH


COMPRESS: dict[str, Callable[[bytes], bytes]] = {
    "gz": gzip.compress,
    "bz2": bz2.compress,
    "xz": lzma.compress,
    "zst": zstd.compress,
    "bgzf": lambda data: bgzf_block(data) + END_BLOCK,
}
compressed = pytest.mark.parametrize("compress", COMPRESS.values(), ids=COMPRESS)


@compressed
def test_what_follows_a_whole_stream_is_told_and_the_stream_read(
    read: Read, compress: Callable[[bytes], bytes]
) -> None:
    check_end(read(compress(TWO) + b"GARBAGE-and-more"), BOTH, "damaged", "again")
    check_end(read(compress(TWO[:9]) + compress(TWO[9:]) + b"x"), BOTH, "damaged", "again")


@compressed
def test_streams_one_behind_the_other_and_zeros_behind_the_last(read: Read, compress: Callable[[bytes], bytes]) -> None:
    assert read(compress(TWO[:5]) + compress(b"") + compress(TWO[5:])) == BOTH
    assert read(compress(TWO) + bytes(100_000)) == BOTH


def test_bgzf_without_its_end_block(read: Read) -> None:
    assert read(bgzf_block(TWO) + END_BLOCK) == BOTH
    # The last record may continue in the missing block.
    check_end(read(bgzf_block(TWO)), BOTH[:1], "end block", "again")
    check_end(read(bgzf_block(TWO) + END_BLOCK[:20]), BOTH[:1], "truncated")


def test_bam_without_its_end_block(read: Read) -> None:
    assert read(bgzf_block(bam(bam_record())) + END_BLOCK) == [Record("r1", "ACGT", 1)]
    check_end(read(bgzf_block(bam(bam_record()))), [Record("r1", "ACGT", 1)], "end block", "again")


# BAM


def bam_record(
    name: bytes = b"r1",
    *,
    flag: int = 4,
    l_seq: int = 4,
    l_name: int = 3,
    n_cigar: int = 0,
    block: int | None = None,
    tags: bytes = b"",
) -> bytes:
    """A record of four letters, or one with wrong lengths."""
    fixed = struct.pack("<iiBBHHHiiii", -1, -1, l_name, 0, 4680, n_cigar, flag, l_seq, -1, -1, 0)
    body = fixed + name + b"\0" + b"\x12\x48" + bytes(4) + tags
    return struct.pack("<i", len(body) if block is None else block) + body


def bam(*records: bytes) -> bytes:
    return b"BAM\1" + struct.pack("<ii", 0, 0) + b"".join(records)


LIES = {
    "l_seq_1e8": {"l_seq": 10**8},
    "l_seq_max": {"l_seq": 2**31 - 1},
    "l_seq_min": {"l_seq": -(2**31)},
    "l_seq_-1": {"l_seq": -1},
    "l_seq_5": {"l_seq": 8},
    "l_name_0": {"l_name": 0},
    "l_name_2": {"l_name": 2},
    "l_name_4": {"l_name": 4},
    "l_name_255": {"l_name": 255},
    "n_cigar_1": {"n_cigar": 1},
    "n_cigar_65535": {"n_cigar": 65535},
    "block_-1": {"block": -1},
    "block_0": {"block": 0},
    "block_32": {"block": 32},
    "block_max": {"block": 2**31 - 1},
}


@pytest.mark.parametrize("lie", LIES.values(), ids=LIES)
@pytest.mark.parametrize("compress", [bytes, gzip.compress], ids=["plain", "gz"])
def test_bam_record_that_lies_about_its_lengths(
    read: Read, lie: dict[str, int], compress: Callable[[bytes], bytes]
) -> None:
    data = bam(bam_record(b"ok"), bam_record(**lie), bam_record())
    check_end(read(compress(data)), [Record("ok", "ACGT", 1)], "again")


@pytest.mark.parametrize("place", [4, 8, 12])
@pytest.mark.parametrize("number", [-1, 2**31 - 1, 1000])
def test_bam_header_that_lies_about_its_lengths(read: Read, place: int, number: int) -> None:
    """Text, number of references, length of a reference's name."""
    data = bytearray(b"BAM\1" + struct.pack("<iii", 0, 1, 2) + b"c\0" + struct.pack("<i", 9) + bam_record())
    assert read(bytes(data)) == [Record("r1", "ACGT", 1)]
    data[place : place + 4] = struct.pack("<i", number)
    check_end(read(bytes(data)), [], "again")


def test_bam_with_more_than_name_and_letters(read: Read) -> None:
    data = bam(bam_record(tags=b"RGZx\0"), bam_record(b"r2"))
    assert read(data) == [Record("r1", "ACGT", 1), Record("r2", "ACGT", 2)]


@pytest.mark.parametrize("flag", [4, 4 + 512, 4 + 1024, 4 + 512 + 1024])
def test_bam_of_unaligned_reads_of_poor_quality(read: Read, flag: int) -> None:
    assert read(bam(bam_record(flag=flag))) == [Record("r1", "ACGT", 1)]


@pytest.mark.parametrize("flag", [0, 16, 512, 77, 141, 4 + 16, 4 + 256, 4 + 2048])
def test_bam_of_aligned_or_paired_reads(read: Read, flag: int) -> None:
    check_end(read(bam(bam_record(flag=flag))), [], "samtools fastq")


def test_bam_name_that_is_no_header(read: Read) -> None:
    bad, good = read(bam(bam_record(b"r\nx", l_name=4), bam_record()))
    assert isinstance(bad, BadRecord)
    assert "line break in the header" in bad.reason
    assert good == Record("r1", "ACGT", 2)


# Text


def test_lone_cr_in_a_file_of_other_line_ends(read: Read) -> None:
    """One file that ends with CR alone and another one, joined by `cat`: the line ends cannot be told apart."""
    first, bad, last = read(b">a\nACGT\n>b\rAC\rGT\n>c\nTTGC\n")
    assert (first, last) == (Record("a", "ACGT", 1), Record("c", "TTGC", 3))
    assert isinstance(bad, BadRecord)
    assert (bad.id, bad.reason[:8]) == ("b", "line 3: ")
    assert r"tr '\r' '\n'" in bad.reason


def test_line_numbers_where_comments_and_marks_stand_between(read: Read) -> None:
    (bad,) = read(b"; one\n\n\xef\xbb\xbf>a\n;three\nAC\n ;five\nA!\n")
    assert isinstance(bad, BadRecord)
    assert bad.reason.startswith("line 7: '!' ")


@pytest.mark.parametrize(
    ("data", "what", "hint"),
    [
        (b"@HD\tVN:1.6\n@SQ\tSN:c\tLN:9\n", "SAM", "samtools fastq"),
        (b"@SQ\tSN:c\tLN:9\n", "SAM", "samtools fastq"),
        (b"r1\t4\t*\t0\t0\t*\t*\t0\t0\tACGT\tIIII\n", "SAM", "samtools fastq"),
        (b"CRAM\3\0", "CRAM", "samtools fastq"),
        (b"LOCUS       NC_001416   48502 bp\n", "GenBank", "FASTA"),
        (b"ID   X56734; SV 1; linear; mRNA\n", "EMBL", "FASTA"),
        (TWO.decode().encode("utf-16"), "UTF-16", "iconv -f UTF-16"),
        (b"PK\3\4", "archive", "unpack"),
        (b"reads.fa".ljust(257, b"\0") + b"ustar\0", "archive", "unpack"),
    ],
)
def test_other_formats_are_named_with_their_cure(read: Read, data: bytes, what: str, hint: str) -> None:
    for packed in (data, gzip.compress(data)):
        with pytest.raises(InputError) as caught:
            read(packed)
        assert what in caught.value.message
        assert hint in str(caught.value.hint)


@pytest.mark.parametrize(
    "data", [b">1\t2\tx\t4\t5\t6\nACGT\n", b"@HD\n" + b"ACGT\n+\nIIII\n", b">" + b"ustar" * 60 + b"\nAC\n"]
)
def test_headers_that_look_like_another_format(read: Read, data: bytes) -> None:
    (record,) = read(data)
    assert isinstance(record, Record)


def test_fastq_of_wrapped_lines(read: Read) -> None:
    rng = random.Random(1)
    records = [(name, sequence) for name, sequence in random_records(40, shortest=1)]

    def wrapped(text: str, width: int) -> str:
        return "".join(text[at : at + width] + "\n" for at in range(0, len(text), width))

    text = "".join(
        f"@{name}\n{wrapped(sequence, 60)}+\n{wrapped(''.join(rng.choices('@+I>', k=len(sequence))), 60)}"
        for name, sequence in records
    )
    assert [(record.header, record.sequence) for record in read(text.encode()) if isinstance(record, Record)] == records


# Memory


def peak_of(read: Read, data: bytes) -> tuple[Outcome, int]:
    tracemalloc.start()
    try:
        return read(data), tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("before", [b">x\n", b"@x\n"])
def test_memory_for_one_letter_lines(read: Read, before: bytes) -> None:
    body = b"A\n" * 150_000
    outcome, peak = peak_of(read, gzip.compress(before + body + (b"+\n" + body) * before.startswith(b"@"), 1))
    assert outcome == [Record("x", "A" * 150_000, 1)]
    assert peak < 2_500_000  # 0.3 MB of text; one object per line would take 5 MB or more


@pytest.mark.parametrize("mark", [b">", b"@"])
def test_memory_for_a_header_without_end(read: Read, mark: bytes) -> None:
    rest = b"\nAC\n+\nII\n@b\nACGT\n+\nIIII\n" if mark == b"@" else b"\nAC\n>b\nACGT\n"
    (bad, good), peak = peak_of(read, gzip.compress(mark + b"x" * 40_000_000 + rest, 1))
    assert isinstance(bad, BadRecord)
    assert "the header is longer than" in bad.reason
    assert len(bad.id) < 100
    assert good == Record("b", "ACGT", 2)
    assert peak < 10_000_000


def test_memory_for_a_bam_record_of_gigabytes(read: Read) -> None:
    data = bam(bam_record(l_seq=10**9, block=2**31 - 1)) + bytes(1000)
    outcome, peak = peak_of(read, data)
    check_end(outcome, [], "truncated")
    assert peak < 4_000_000


def named(name: str) -> IndexedSequence:
    return IndexedSequence(0, 0, 1, name, 1, "", False)


def test_memory_for_ids_is_bounded(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """A repeated id is reported if it was among the first; later ids are not kept."""
    monkeypatch.setattr(cut, "MOST_WATCHED", 1000)
    watch = cut.NameWatch()
    tracemalloc.start()
    try:
        for number in range(50_000):
            watch.see(named(f"r{number}"))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 300_000  # all of them take 3 MB or more
    watch.see(named("r40000"))
    assert caplog.text == ""
    watch.see(named("r7"))
    watch.see(named("r8"))
    assert caplog.text.count("the id 'r7' occurs more than once") == caplog.text.count("more than once") == 1


@pytest.mark.parametrize("command", ["orfs", "embed"])
def test_too_little_memory_is_said(tmp_path: Path, command: str) -> None:
    """A sequence of 300 MB with 400 MB of memory; PyTorch alone needs more than that."""
    with gzip.open(tmp_path / "in.fa.gz", "wb", 1) as file:
        file.write(b">x\n")
        for _ in range(300):
            file.write(b"ACGTACGTAC" * 100_000)
    done = subprocess.run(
        ["bash", "-c", 'ulimit -v 400000; exec "$@"', "-", *command_line(command, "in.fa.gz", "-o", "x")],
        env=os.environ | {"OPENBLAS_NUM_THREADS": "1"}, cwd=tmp_path, capture_output=True, text=True, timeout=HANGS,
    )  # fmt: skip
    assert done.returncode == 5
    assert "virnucpro: error: not enough memory" in done.stderr
    assert "ulimit -v" in done.stderr
    assert "Traceback" not in done.stderr
