"""Send randomly damaged inputs through the reader and the commands: nothing may crash, hang or give wrong results.

A short run is a test; a long one is `python tests/fuzz.py --reader 5000 --command 200 [--seed 1]`. A finding is printed
with the number of its case; `--case N` makes that input again and keeps it in a file.
"""

from __future__ import annotations

import argparse
import bz2
import contextlib
import gzip
import io
import lzma
import random
import struct
import sys
import tempfile
import traceback
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from unittest.mock import patch

from virnucpro.cli import main
from virnucpro.errors import InputError
from virnucpro.input.compressed import zstd
from virnucpro.input.fasta import DNA, PROTEIN, Alphabet, BadRecord, Record, count_records, read_records, write_fasta

#: Exit codes of a command for any input: done, nothing usable, some failed.
FINE = {0, 3, 6}
#: Bytes that have a meaning in some format.
TOKENS = (
    *(b">", b"@", b"+", b";", b"\n", b"\r", b"\r\n", b"\n>", b"\n@", b"\n+\n", b"\0", b"\t", b" ", b"*", b"-", b"#"),
    *("\ufeff".encode(), "é".encode(), b"\xe9", b"\xff\xfe", b"BAM\1", b"\x1f\x8b", b"BZh9", b"\xfd7zXZ\0"),
    *(b"\x28\xb5\x2f\xfd", b"\x50\x2a\x4d\x18\4\0\0\0", b"ACGT" * 300, b"N" * 2000, b"A\n" * 500, b"x" * 70_000),
    *(struct.pack("<i", number) for number in (-1, 0, 1, 32, 255, 65535, 10**6, 2**31 - 1, -(2**31))),
)


# Whole inputs.


def letters(rng: random.Random, most: int = 400) -> str:
    return "".join(rng.choices("ACGTNacgtURX", (9, 9, 9, 9, 2, 1, 1, 1, 1, 1, 1, 1), k=rng.randint(1, most)))


def wrapped(text: str, width: int) -> str:
    return "".join(text[at : at + width] + "\n" for at in range(0, len(text), width))


def fasta(rng: random.Random) -> bytes:
    return "".join(
        f">s{i} x\n{wrapped(letters(rng), rng.choice((1, 60, 999)))}" for i in range(rng.randint(1, 12))
    ).encode()


def fastq(rng: random.Random) -> bytes:
    found = []
    for i in range(rng.randint(1, 12)):
        sequence, width = letters(rng), rng.choice((50, 999, 999))
        quality = "".join(rng.choices("@+>;IJK#", k=len(sequence)))
        found.append(f"@s{i}/1\n{wrapped(sequence, width)}+\n{wrapped(quality, width)}")
    return "".join(found).encode()


def protein(rng: random.Random) -> bytes:
    return "".join(f">p{i}\n{''.join(rng.choices('ACDEFGHIKLMNPQRSTVWY', k=80))}*\n" for i in range(9)).encode()


def bam(rng: random.Random) -> bytes:
    text = b"@HD\tVN:1.6\n"
    found = [b"BAM\1", struct.pack("<i", len(text)), text, struct.pack("<i", 1), struct.pack("<i", 2), b"c\0", bytes(4)]
    for i in range(rng.randint(1, 9)):
        name, size = f"r{i}".encode() + b"\0", rng.randint(0, 200)
        packed, flag = rng.randbytes((size + 1) // 2), rng.choice((4, 4, 4, 516, 1028, 0, 77))
        fixed = struct.pack("<iiBBHHHiiii", -1, -1, len(name), 0, 4680, 0, flag, size, -1, -1, 0)
        body = fixed + name + packed + bytes(size) + rng.choice((b"", b"RGZx\0"))
        found.append(struct.pack("<i", len(body)) + body)
    return b"".join(found)


def text(rng: random.Random) -> bytes:
    lines = (
        "@HD\tVN:1.6",
        "r1\t4\t*\t0\t0\t*\t*\t0\t0\tAC\tII",
        "LOCUS       X",
        "1 acgt acgt",
        "; c",
        ">a",
        "ACGT",
        "",
    )
    return "\n".join(rng.choices(lines, k=rng.randint(0, 20))).encode()


def bgzf(data: bytes) -> bytes:
    """Blocks of 500 bytes, and the end block."""
    blocks = []
    for at in (*range(0, len(data), 500), len(data)):
        body = gzip.compress(data[at : at + 500], mtime=0)[10:]
        blocks.append(b"\x1f\x8b\x08\x04\0\0\0\0\0\xff\x06\0BC\x02\0" + struct.pack("<H", 17 + len(body)) + body)
    return b"".join(blocks)


MAKERS: tuple[Callable[[random.Random], bytes], ...] = (fasta, fasta, fastq, fastq, bam, bam, protein, text)
PACKERS: tuple[Callable[[bytes], bytes], ...] = (
    *(bytes, bytes, bytes, gzip.compress, gzip.compress, bgzf, bgzf, bz2.compress, lzma.compress, zstd.compress),
)


# Damage.


def damaged(data: bytes, rng: random.Random) -> bytes:
    """The data after up to four changes, and perhaps truncated."""
    for _ in range(rng.choice((0, 1, 1, 1, 2, 4))):
        start = rng.randint(0, len(data))
        end = start + rng.choice((0, 1, 1, 4, 50, 5000))
        data = data[:start] + changed(data[start:end], rng) + data[end:]
    return data[: rng.randint(0, len(data))] if rng.random() < 0.15 else data


def changed(data: bytes, rng: random.Random) -> bytes:
    """Something else in place of a piece."""
    flipped = bytes(byte ^ 1 << rng.randrange(8) for byte in data)
    token = rng.choice(TOKENS)
    return rng.choice((b"", rng.randbytes(rng.randint(1, 20)), token, data + token, data * 2, flipped))


def changed_lines(data: bytes, rng: random.Random) -> bytes:
    ending = rng.choice((b"\r", b"\r\n", b" \n", b"\n\n", b"\n "))
    return data.replace(b"\n", ending) if rng.random() < 0.2 else data


def case(seed: int, number: int) -> bytes:
    """The bytes of one input."""
    rng = random.Random(f"{seed} {number}")
    parts = []
    for _ in range(rng.choice((1, 1, 1, 2))):
        content = damaged(changed_lines(rng.choice(MAKERS)(rng), rng), rng)
        parts.append(rng.choice(PACKERS)(content))
    return damaged(b"".join(parts), rng) if rng.random() < 0.3 else b"".join(parts)


# What must hold.


def check_reader(path: Path, alphabet: Alphabet) -> str:
    """Read a file in every way; returns how it ended."""
    try:
        found = list(read_records(path, alphabet))
    except InputError as error:
        assert error.hint and str(path) in error.message  # noqa: PT017, PT018
        return "refused"
    assert found == list(read_records(path, alphabet))  # the result depends on nothing but the file
    ends = isinstance(found[-1], BadRecord) and found[-1].number == 0
    numbers = [record.number for record in found[: len(found) - ends]]
    assert numbers == list(range(1, len(numbers) + 1))
    good = [record for record in found if isinstance(record, Record)]
    for record in good:
        assert record.id
        assert record.sequence.isalpha()
        assert record.sequence.isupper()
        assert not set(record.sequence) - set("ACGTRYSWKMBDHVN" if alphabet is DNA else "ABCDEFGHIJKLMNOPQRSTUVWXYZ")
    assert all("\n" not in record.reason and ":" in record.reason for record in found if isinstance(record, BadRecord))
    check_counting(path, None if ends else len(numbers))
    check_round_trip(path, good, alphabet)
    return "damaged" if ends else "read"


def check_counting(path: Path, expected: int | None) -> None:
    try:
        counted = count_records(path)
    except InputError:
        counted = None
    assert counted == expected


def check_round_trip(path: Path, good: list[Record], alphabet: Alphabet) -> None:
    copy = path.with_name("copy")
    with open(copy, "wb") as file:
        for record in good:
            write_fasta(file, record.header, record.sequence)
    if good:
        again = [
            (record.header, record.sequence) for record in read_records(copy, alphabet) if isinstance(record, Record)
        ]
        assert again == [(record.header, record.sequence) for record in good]


def check_command(path: Path, number: int) -> str:
    """Run a command over a file, in this process; returns its exit code."""
    folder = path.with_name(f"out{number}")
    folder.mkdir()
    cpu = ("-d", "cpu", "--dtype", "fp32", "-t", "1", "-q")
    arguments = (
        ("orfs", path, "-o", folder / "x", "-q"),
        ("embed", path, "-o", folder / "x.h5", *cpu),
        ("predict", path, "-o", folder, *cpu),
        ("embed", path, "-o", folder / "x.npy", "--model", "esm2-mini", *cpu),
    )[number % 4]
    said = io.StringIO()
    try:
        with patch.object(sys, "argv", ["virnucpro", *map(str, arguments)]), contextlib.redirect_stderr(said):
            main()
    except SystemExit as end:
        assert end.code in FINE and "Traceback" not in said.getvalue()  # noqa: PT017, PT018
        return f"{arguments[0]} {end.code}"


def run(reader: int, command: int, seed: int, only: int | None = None) -> tuple[Counter[str], list[int]]:
    """How the cases ended, and the numbers of those where something did not hold."""
    ends: Counter[str] = Counter()
    findings = []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "in"
        for number in range(max(reader, command)) if only is None else (only,):
            path.write_bytes(case(seed, number))
            try:
                if number < reader:
                    ends[check_reader(path, PROTEIN if number % 5 == 0 else DNA)] += 1
                if number < command:
                    ends[check_command(path, number)] += 1
            except Exception:
                print(f"case {number} of seed {seed}:", file=sys.stderr)
                traceback.print_exc()
                findings.append(number)
    return ends, findings


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reader", type=int, default=5000, help="cases through the reader")
    parser.add_argument("--command", type=int, default=200, help="cases through a command")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--case", type=int, help="only this case; it is left in fuzz_case")
    options = parser.parse_args()
    if options.case is not None:
        Path("fuzz_case").write_bytes(case(options.seed, options.case))
    ended, found = run(options.reader, options.command, options.seed, options.case)
    print(*(f"{name}: {count}" for name, count in sorted(ended.items())), f"findings: {found or 0}", sep="\n")
    sys.exit(bool(found))
