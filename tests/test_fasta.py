from __future__ import annotations

import bz2
import gzip
import lzma
import os
import random
import threading
import time
import tracemalloc
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path

import pysam
import pytest
from hypothesis import given
from hypothesis import strategies as st

from virnucpro.errors import InputError
from virnucpro.input.compressed import zstd
from virnucpro.input.fasta import BadRecord, Record, count_records, read_records, write_fasta

ALLOWED = "ACGTURYSWKMBDHVNX"
Pair = tuple[str, str]


def pairs(count: int, length: int = 90, seed: int = 1) -> list[Pair]:
    rng = random.Random(seed)
    return [(f"read{i}/1 of a test", "".join(rng.choices("ACGTN", k=length + i % 7))) for i in range(count)]


def fasta(records: Sequence[Pair], width: int = 40) -> bytes:
    def lines(sequence: str) -> str:
        return "".join(sequence[at : at + width] + "\n" for at in range(0, len(sequence), width))

    return "".join(f">{header}\n{lines(sequence)}" for header, sequence in records).encode()


def fastq(records: Sequence[Pair]) -> bytes:
    return "".join(f"@{header}\n{seq}\n+\n{'@' * len(seq)}\n" for header, seq in records).encode()


def ubam(path: Path, records: Sequence[Pair], flag: int = 4) -> Path:
    head = pysam.AlignmentHeader.from_dict({"HD": {"VN": "1.6"}})
    with pysam.AlignmentFile(str(path), "wb", header=head) as out:
        for name, sequence in records:
            read = pysam.AlignedSegment(head)
            read.query_name, read.flag, read.query_sequence = name, flag, sequence
            out.write(read)
    return path


def two_members(data: bytes) -> bytes:
    half = len(data) // 2
    return gzip.compress(data[:half]) + gzip.compress(b"") + gzip.compress(data[half:])


COMPRESSIONS: dict[str, Callable[[bytes], bytes]] = {
    "plain": bytes,
    "gz": gzip.compress,
    "gz of several members": two_members,
    "bz2": bz2.compress,
    "xz": lzma.compress,
    "zst": zstd.compress,
}
compressions = pytest.mark.parametrize("compress", COMPRESSIONS.values(), ids=COMPRESSIONS)


def bz2_in_small_blocks(data: bytes) -> bytes:
    return bz2.compress(data, compresslevel=1)


truly_compressed = pytest.mark.parametrize(
    "compress", [gzip.compress, bz2_in_small_blocks, lzma.compress, zstd.compress], ids=["gz", "bz2", "xz", "zst"]
)
text_formats = pytest.mark.parametrize("encode", [fasta, fastq])


@pytest.fixture
def save(tmp_path: Path) -> Callable[[bytes], Path]:
    def save(data: bytes) -> Path:
        path = tmp_path / "reads.dat"
        path.write_bytes(data)
        return path

    return save


Save = Callable[[bytes], Path]


def whole(records: Sequence[Pair]) -> list[Record | BadRecord]:
    return [Record(header, sequence, number) for number, (header, sequence) in enumerate(records, 1)]


def only_bad(path: Path) -> BadRecord:
    (bad,) = (record for record in read_records(path) if isinstance(record, BadRecord))
    return bad


# Formats, compressions, and where the bytes come from


@compressions
@text_formats
def test_formats_and_compressions_are_told_by_content(
    save: Save, encode: Callable[[Sequence[Pair]], bytes], compress: Callable[[bytes], bytes]
) -> None:
    path = save(compress(encode(pairs(300))))
    assert list(read_records(path)) == whole(pairs(300))
    assert count_records(path) == 300


@pytest.mark.parametrize("name", ["a.fastq", "a.fa.gz", "a.bz2", "a.xz", "a.fq.zst", "a.bam", "-"])
def test_misleading_names_do_not_matter(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(fasta(pairs(3)))
    assert list(read_records(path)) == whole(pairs(3))


def test_unaligned_bam(tmp_path: Path) -> None:
    reads = [(f"read{i}", sequence) for i, (_, sequence) in enumerate(pairs(2000))]
    path = ubam(tmp_path / "reads.dat", reads)
    assert list(read_records(path)) == whole(reads)
    assert count_records(path) == 2000


@compressions
def test_named_pipe(tmp_path: Path, compress: Callable[[bytes], bytes]) -> None:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    feeder = threading.Thread(target=path.write_bytes, args=(compress(fasta(pairs(5000))),))
    feeder.start()
    assert list(read_records(path)) == whole(pairs(5000))
    feeder.join()


def test_pipe_that_gives_its_first_bytes_one_by_one() -> None:
    read_end, write_end = os.pipe()

    def feed() -> None:
        data = gzip.compress(fasta(pairs(3)))
        for byte in data[:8]:
            os.write(write_end, bytes([byte]))
            time.sleep(0.01)
        os.write(write_end, data[8:])
        os.close(write_end)

    feeder = threading.Thread(target=feed)
    feeder.start()
    assert list(read_records(Path(f"/dev/fd/{read_end}"))) == whole(pairs(3))
    feeder.join()
    os.close(read_end)


def test_memory_stays_flat(save: Save) -> None:
    path = save(gzip.compress(fasta(pairs(6_000, length=1000)), 1))
    tracemalloc.start()
    assert sum(1 for _ in read_records(path)) == 6_000
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2e6  # the file holds 6 MB


def times_open(path: Path) -> int:
    """How often this process has this file open; other files may be open after other tests."""
    links = (Path("/dev/fd", number) for number in os.listdir("/dev/fd"))
    return sum(link.exists() and link.samefile(path) for link in links)


@compressions
@pytest.mark.filterwarnings("error")
def test_reader_that_stops_early_closes_the_file(save: Save, compress: Callable[[bytes], bytes]) -> None:
    path = save(compress(fasta(pairs(5000))))
    records = read_records(path)
    next(records)
    assert times_open(path) == 1
    del records
    assert times_open(path) == 0


# Sequences


def test_lower_case_uracil_and_masked_bases(save: Save) -> None:
    path = save(b">a\nacgtuU\n>masked\nACXxT\n>b\nNnryswkmbdhv\nRYSWKMBDHV\n")
    assert list(read_records(path)) == whole([("a", "ACGTTT"), ("masked", "ACNNT"), ("b", "NNRYSWKMBDHVRYSWKMBDHV")])


def test_of_all_bytes_only_dna_letters_pass(save: Save) -> None:
    inside_a_line = [bytes([byte]) for byte in range(256) if not bytes([byte]).isspace()]
    path = save(b"".join(b">x\nAC" + byte + b"GT\n" for byte in inside_a_line))
    passed = {
        byte for byte, record in zip(inside_a_line, read_records(path), strict=True) if isinstance(record, Record)
    }
    assert passed == {letter.encode() for letter in ALLOWED + ALLOWED.lower()}


@pytest.mark.parametrize(
    ("character", "hint"),
    [
        ("E", "protein"),
        ("l", "protein"),
        ("*", "protein"),
        ("-", "gap"),
        (".", "gap"),
        ("7", "numbering"),
        (">", "on a new line"),
        ("\ufeff", "on a new line"),
        ("#", "use N"),
        ("?", "use N"),
        ("é", "use N"),
        ("ſ", "use N"),
        ("\0", "download"),
    ],
)
@compressions
def test_foreign_character_is_named_with_its_line_and_cure(
    save: Save, compress: Callable[[bytes], bytes], character: str, hint: str
) -> None:
    text = f"\n>good\nACGT\n\nACGT\n>bad one\r\nACGT\r\n\r\nAC{character}T\r\nACJJ\r\n>next\nTTTT\n"
    first, bad, last = read_records(save(compress(text.encode())))
    assert first == Record("good", "ACGTACGT", 1)
    assert isinstance(bad, BadRecord)
    assert (bad.id, bad.number) == ("bad", 2)
    assert bad.reason.startswith(f"line 9: {character!r} ")
    assert hint in bad.reason
    assert last == Record("next", "TTTT", 3)


def test_foreign_character_in_fastq(save: Save) -> None:
    path = save(b"@a\nACGT\n+\nIIII\n\n@b\nAC-T\n+\nIIII\n@c\nA\n+\nI\n")
    first, bad, last = read_records(path)
    assert (first, last) == (Record("a", "ACGT", 1), Record("c", "A", 3))
    assert isinstance(bad, BadRecord)
    assert (bad.id, bad.number) == ("b", 2)
    assert bad.reason.startswith("line 7: '-' ")


def test_foreign_character_in_bam(tmp_path: Path) -> None:
    bad = only_bad(ubam(tmp_path / "u.bam", [("a", "ACGT"), ("b", "AC=T"), ("c", "ACGT")]))
    assert (bad.id, bad.number) == ("b", 2)
    assert bad.reason.startswith("position 3 of the sequence: '=' ")


@pytest.mark.parametrize(
    ("text", "number", "line"),
    [
        (b">a\n>b\nAC\n", 1, 1),
        (b">b\nAC\n>a\n\n \n>c\nAC\n", 2, 3),
        (b">b\nAC\n>a\n", 2, 3),
        (b">b\nAC\n>a", 2, 3),
        (b"@b\nAC\n+\nII\n@a\n\n+\n\n@c\nA\n+\nI\n", 2, 5),
    ],
)
def test_header_without_sequence(save: Save, text: bytes, number: int, line: int) -> None:
    path = save(text)
    bad = only_bad(path)
    assert (bad.id, bad.number) == ("a", number)
    assert bad.reason.startswith(f"line {line}: no sequence")
    assert sum(isinstance(record, Record) for record in read_records(path)) == count_records(path) - 1


def test_bam_read_without_sequence(tmp_path: Path) -> None:
    bad = only_bad(ubam(tmp_path / "u.bam", [("a", ""), ("b", "ACGT")]))
    assert (bad.id, bad.number) == ("a", 1)
    assert bad.reason.startswith("no sequence")


# Lines and headers


@pytest.mark.parametrize(
    "text",
    [
        b">a x\nACGT\nAC\n>b\nTT\n",
        b">a x\rACGT\rAC\r>b\rTT\r",
        b"@a x\rACGTAC\r+\rIIIIII\r@b\rTT\r+\rII",
        b" >a x\nACGTAC\n\t >b\nTT\n",
        b"\xef\xbb\xbf>a x\nACGTAC\n\xef\xbb\xbf>b\nTT\n",
        b"\n\xef\xbb\xbf\n\xef\xbb\xbf>a x\nACGTAC\n\xef\xbb\xbf \xef\xbb\xbf>b\nTT\n\xef\xbb\xbf",
        b"; a comment\n>a x\n;another\nACGT\n ; one more >c\nAC\n>b\nTT\n;",
        b"@a x\nACGTAC \n+\nIIIIII\n\xef\xbb\xbf@b\nTT\n+\nII \n",
        b"@a x\nACGT\nAC\n+a x\n@@@@\n+@\n@b\nT\nT\n+\nI\nI\n",
        b">a x\nACGT\nAC\n>b\nTT",
        b">a x\r\nACGT\r\nAC\r\n>b\r\nTT\r\n",
        b"\n \n\r\n>a x\n\nACGT\n\nAC\n\n\n>b\nTT\n\n\n",
        b"\xef\xbb\xbf>a x\nACGTAC\n>b\nTT\n",
        b">a x\nACGT  \n\tAC\n>b\nT T\n",
        b"@a x\nACGTAC\n+\nIIIIII\n@b\nTT\n+\nII\n",
        b"@a x\nACGTAC\n+\nIIIIII\n@b\nTT\n+\nII",
        b"@a x\r\nACGTAC\r\n+a x\r\nIIIIII\r\n@b\r\nTT\r\n+\r\n@@\r\n",
        b"\n@a x\nACGTAC\n+\nIIIIII\n\n\n@b\nTT\n+\nII\n\n",
    ],
)
def test_line_ends_blank_lines_and_layout(save: Save, text: bytes) -> None:
    assert list(read_records(save(text))) == whole([("a x", "ACGTAC"), ("b", "TT")])


HEADERS = [
    "x" * 10_240,
    "a/1",
    "a\tb",
    "gi|5|ref|NC_1.1| virus",
    "Ünï 病毒",
    " a  b ",
    "a>b",
    ">",
    "a #; b\t",
]


@text_formats
@pytest.mark.parametrize("header", HEADERS)
def test_headers_are_kept_as_they_are(save: Save, encode: Callable[[Sequence[Pair]], bytes], header: str) -> None:
    path = save(encode([("first", "AC"), (header, "ACGT")]))
    assert list(read_records(path)) == whole([("first", "AC"), (header, "ACGT")])


def test_id_is_the_first_word_of_the_header() -> None:
    ids = [Record(header, "A", 1).id for header in ("a b", "a\tb", " a", "a/1|x y")]
    assert ids == ["a", "a", "a", "a/1|x"]


@text_formats
@pytest.mark.parametrize("header", ["", " ", "\t "])
def test_empty_header_becomes_a_name_and_a_note(
    save: Save, encode: Callable[[Sequence[Pair]], bytes], header: str
) -> None:
    first, nameless = read_records(save(encode([("a", "AC"), (header, "ACGT")])))
    assert first == Record("a", "AC", 1)
    assert nameless == Record("record_2", "ACGT", 2, "no name in its header")


def test_header_that_is_not_utf8_is_latin1(save: Save) -> None:
    path = save(">São Paulo\nACGT\n".encode("latin-1"))
    assert list(read_records(path)) == [Record("São Paulo", "ACGT", 1)]


def test_no_setting_of_the_locale_matters(save: Save, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("locale.getpreferredencoding", lambda *_: "ascii")
    path = save(">São\nACGT\n".encode())
    assert list(read_records(path)) == [Record("São", "ACGT", 1)]


# Damaged files


@text_formats
@truly_compressed
def test_cut_compressed_file_yields_only_whole_records(
    save: Save, encode: Callable[[Sequence[Pair]], bytes], compress: Callable[[bytes], bytes]
) -> None:
    data = compress(encode(pairs(3000)))
    expected = whole(pairs(3000))
    most = 0
    for cut in sorted(random.Random(2).sample(range(50, len(data)), 12)):
        *records, end = read_records(path := save(data[:cut]))
        assert records == expected[: len(records)], cut
        assert isinstance(end, BadRecord)
        assert end.number == 0
        assert end.reason.startswith(f"{path}: reading stopped after {len(records)} records: ")
        assert "again" in end.reason
        most = max(most, len(records))
    assert most > 1000


def test_all_that_comes_before_the_cut_is_read(save: Save) -> None:
    data = gzip.compress(fasta(pairs(6000)))
    for cut in random.Random(3).sample(range(1000, len(data)), 25):
        there = zlib.decompressobj(31).decompress(data[:cut])
        *records, _ = read_records(save(data[:cut]))
        # All except the last record that has begun, which may continue after the cut, and one buffer of 16 KiB.
        assert there[:-20_000].count(b">") <= len(records) <= there.count(b">") - 1


def test_cut_bam(tmp_path: Path) -> None:
    reads = [(f"read{i}", sequence) for i, (_, sequence) in enumerate(pairs(3000))]
    path = ubam(tmp_path / "u.bam", reads)
    data = path.read_bytes()
    for cut in random.Random(4).sample(range(30, len(data) - 28), 20):
        path.write_bytes(data[:cut])
        *records, end = read_records(path)
        assert records == whole(reads)[: len(records)]
        assert isinstance(end, BadRecord)
        assert (end.id, end.number) == ("", 0)


def test_fastq_cut_at_any_byte(save: Save) -> None:
    reads = pairs(4, length=8)
    data = fastq(reads)
    for cut in range(1, len(data)):
        path = save(data[:cut])
        records = [record for record in read_records(path) if isinstance(record, Record)]
        lines = data[:cut].splitlines(keepends=True)
        is_whole = len(lines) % 4 == 0 and len(lines[-1].strip()) == len(lines[-3].strip())
        assert records == whole(reads)[: len(lines) // 4 if is_whole else (len(lines) - 1) // 4]
        assert all(record.number == 0 for record in read_records(path) if isinstance(record, BadRecord))
        assert len(list(read_records(path))) == len(records) + (not is_whole)


@pytest.mark.parametrize(
    "broken",
    [
        b"b\nAC\n+\nII\n",
        b"@b\nAC\n-\nII\n",
        b"@b\nAC\n+\nIII\n",
        b"@b\nAC\nACG\n+\nII\n",
        b"@b\n@c\n",
        b">b\nAC\n",
    ],
)
def test_malformed_fastq_ends_the_reading_and_names_the_line(save: Save, broken: bytes) -> None:
    first, end = read_records(path := save(b"@a\nAC\n+\nII\n\n" + broken + b"@c\nAC\n+\nII\n"))
    assert first == Record("a", "AC", 1)
    assert isinstance(end, BadRecord)
    assert end.number == 0
    assert str(path) in end.reason
    assert "line 6 " in end.reason


def test_bam_whose_content_is_cut(tmp_path: Path) -> None:
    path = tmp_path / "u.bam"
    header = gzip.decompress(ubam(path, []).read_bytes())
    content = gzip.decompress(ubam(path, [("a", "ACGT"), ("b", "ACGT")]).read_bytes())
    second = (len(header) + len(content)) // 2
    for cut in range(second + 1, len(content)):
        path.write_bytes(gzip.compress(content[:cut]))
        first, end = read_records(path)
        assert first == Record("a", "ACGT", 1)
        assert isinstance(end, BadRecord)
        assert end.number == 0
        assert end.reason.startswith(f"{path}: reading stopped after 1 record: ")
        assert "again" in end.reason


@pytest.mark.parametrize("flag", [0, 77])
def test_bam_of_aligned_or_paired_reads_names_the_cure(tmp_path: Path, flag: int) -> None:
    bad = only_bad(path := ubam(tmp_path / "a.bam", [("a", "ACGT")], flag))
    assert bad.number == 0
    assert str(path) in bad.reason
    assert "samtools fastq" in bad.reason


def test_altered_bytes_are_noticed(save: Save) -> None:
    data = bytearray(gzip.compress(fasta(pairs(1000))))
    data[-8] ^= 1  # in the checksum
    *_, end = read_records(save(bytes(data)))
    assert isinstance(end, BadRecord)
    assert end.number == 0


def test_count_of_a_cut_file_is_an_error(save: Save) -> None:
    path = save(gzip.compress(fasta(pairs(1000)))[:-100])
    with pytest.raises(InputError, match=r"reads\.dat.*damaged or truncated.*again"):
        count_records(path)


# Files without records


def check_refused(path: Path, message: str, hint: str) -> None:
    for read in (lambda: list(read_records(path)), lambda: count_records(path)):
        with pytest.raises(InputError) as caught:
            read()
        assert str(path) in caught.value.message
        assert message in caught.value.message
        assert hint in str(caught.value.hint)


@pytest.mark.parametrize("text", [b"<html>\n", b"ACGT\n", b"\n\n{}", b"\x1f", b"; a comment\nACGT\n"])
def test_unknown_format(save: Save, text: bytes) -> None:
    check_refused(save(text), "unknown format", "FASTA, FASTQ or unaligned BAM")


@truly_compressed
def test_unknown_format_compressed(save: Save, compress: Callable[[bytes], bytes]) -> None:
    check_refused(save(compress(b"\nhello\n")), "line 2 ", "FASTA")


@compressions
@pytest.mark.parametrize("text", [b"", b"\n \r\n"])
def test_empty_file(save: Save, compress: Callable[[bytes], bytes], text: bytes) -> None:
    check_refused(save(compress(text)), "holds no sequences", "check")


def test_empty_bam(tmp_path: Path) -> None:
    check_refused(ubam(tmp_path / "u.bam", []), "holds no sequences", "check")


def test_missing_file(tmp_path: Path) -> None:
    check_refused(tmp_path / "none.fa", "No such file", "spelling")


def test_directory(tmp_path: Path) -> None:
    check_refused(tmp_path, "Is a directory", "*.fasta")


def test_file_without_permission(save: Save, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save(b">a\nAC\n")
    path.chmod(0)
    if os.access(path, os.R_OK):  # root can read anything

        def refuse(*_: object, **__: object) -> None:
            raise PermissionError(13, "Permission denied")

        monkeypatch.setattr("virnucpro.input.compressed.open", refuse, raising=False)
    check_refused(path, "Permission denied", "permission")


# Writing

one_line = st.text().filter(lambda text: text.strip() and not {"\n", "\0", "\r"} & set(text))
headers = one_line | st.sampled_from(HEADERS)
sequences = st.text(alphabet="ACGTRYSWKMBDHVN", min_size=1)


@given(st.lists(st.tuples(headers, sequences), min_size=1))
def test_round_trip(tmp_path_factory: pytest.TempPathFactory, records: list[Pair]) -> None:
    path = tmp_path_factory.mktemp("round") / "work.fasta"
    with open(path, "wb") as out:
        for header, sequence in records:
            write_fasta(out, header, sequence)
    assert list(read_records(path)) == whole(records)
    assert len(path.read_bytes().split(b"\n")) == 2 * len(records) + 1


@pytest.mark.parametrize("header", ["a\nACGT", "a\n", "a\r", "a\rb"])
def test_header_with_a_line_break_is_not_written(tmp_path: Path, header: str) -> None:
    with open(tmp_path / "work.fasta", "wb") as out, pytest.raises(InputError, match="line break"):
        write_fasta(out, header, "ACGT")
    assert (tmp_path / "work.fasta").read_bytes() == b""
