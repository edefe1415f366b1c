"""Windows and their open frames: this package beside loops over codons in plain Python, in one process on one core.

    python -m benchmarks.orfs --json orfs.json

Two loops are timed: `whole` translates each frame to its end and then looks for a stop codon; `early` leaves a frame at
its first one, which most frames of random sequence have soon. All three do the same work, from a record in memory to
its windows and the ids, nucleotides and proteins of their frames; that these are equal is checked first. They run in
turn. A speed is the median of the rounds, in millions of bases (MB) a second; a ratio is the median of the rounds' own
ratios. The last table is the whole command, from a file to files.

Kinds of records: `random`; `genes`, 9 of 10 bases in genes without stop codons, with runs of N, IUPAC codes and lower
case; `reads`, 150 bases of the same; `open`, genes end to end, so that there is most to write out.
"""

from __future__ import annotations

import argparse
import gc
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterator
from itertools import product
from pathlib import Path

import numpy as np
from click.testing import CliRunner

from benchmarks.common import Report, Row, median, parser, random_dna, run_main
from virnucpro.cli.orfs import orfs
from virnucpro.input.fasta import write_fasta
from virnucpro.input.frames import FRAME_NAMES, scan_windows
from virnucpro.input.windows import DEFAULT_SIZE, iter_windows, window_bounds

Records = dict[str, str]
#: Id, nucleotides and protein of each frame.
Found = Iterator[tuple[str, str, str]]

_AMINO_ACIDS = "FFLLSSSSYY**CC*WLLLLPPPPHHQQRRRRIIIMTTTTNNKKSSRRVVVVAAAADDEEGGGG"
_TABLE = dict(zip(map("".join, product("TCAG", repeat=3)), _AMINO_ACIDS, strict=True))
_SENSE = [codon for codon, letter in _TABLE.items() if letter != "*"]
_COMPLEMENT = str.maketrans("ACGT", "TGCA")


# The loops.


def _whole(strand: str, offset: int) -> str:
    protein = ""
    for at in range(offset, len(strand) - 2, 3):
        protein += _TABLE.get(strand[at : at + 3], "")
    return "" if "*" in protein else protein


def _early(strand: str, offset: int) -> str:
    protein = ""
    for at in range(offset, len(strand) - 2, 3):
        letter = _TABLE.get(strand[at : at + 3], "")
        if letter == "*":
            return ""
        protein += letter
    return protein


def _by_loop(translate: Callable[[str, int], str], records: Records, size: int) -> Found:
    for record_id, sequence in records.items():
        for window in iter_windows(record_id, sequence, size):
            forward = window.sequence.upper()
            backward = forward[::-1].translate(_COMPLEMENT)
            for number, name in enumerate(FRAME_NAMES):
                strand, offset = (backward if number > 2 else forward), number % 3
                if protein := translate(strand, offset):
                    yield window.id + name, strand[offset : offset + 1 + 3 * len(protein)], protein


def _by_package(records: Records, size: int) -> Found:
    windows = (window for item in records.items() for window in iter_windows(*item, size))
    for window, frames, _ in scan_windows(windows):
        for frame in frames:
            yield window.id + frame.name, frame.nucleotide, frame.protein


# The records.


def random_genes(rng: np.random.Generator, bases: int, between: int = 100) -> str:
    """Genes of 900 bases on either strand, `between` random bases apart."""
    parts = []
    for _ in range(-(-bases // (900 + between))):
        gene = "".join(np.array(_SENSE)[rng.integers(0, len(_SENSE), 300)])
        parts.append(gene if rng.random() < 0.5 else gene[::-1].translate(_COMPLEMENT))
        parts.append(random_dna(rng, between) if between else "")
    return "".join(parts)[:bases]


def _blemished(rng: np.random.Generator, sequence: str) -> str:
    """With a run of N and one of lower case every 20,000 bases or so, and an IUPAC code every 5,000."""
    letters = np.frombuffer(sequence.encode(), np.uint8).copy()
    for start in rng.integers(0, len(letters), len(letters) // 20_000 + 1):
        letters[start : start + 100] = ord("N")
    for start in rng.integers(0, len(letters), len(letters) // 20_000 + 1):
        letters[start : start + 300] |= 0x20
    places = rng.integers(0, len(letters), len(letters) // 5_000 + 1)
    letters[places] = rng.choice(np.frombuffer(b"RYSWKM", np.uint8), len(places))
    return bytes(letters).decode()


def _cut(sequence: str, length: int) -> Records:
    return {f"r{start}": sequence[start : start + length] for start in range(0, len(sequence), length)}


def make_records(seed: int, bases: int) -> dict[str, Records]:
    """Kind → records, about `bases` bases each."""
    rng = np.random.default_rng(seed)
    genes = _blemished(rng, random_genes(rng, bases))
    return {
        "random": _cut(random_dna(rng, bases), 10_000),
        "genes": _cut(genes, 10_000),
        "reads": _cut(genes, 150),
        "open": _cut(random_genes(rng, bases, between=0), 10_000),
    }


# Timing.


def _seconds(way: Callable[[], Found]) -> float:
    gc.collect()
    began = time.process_time()
    deque(way(), maxlen=0)
    return time.process_time() - began


def compare(kind: str, records: Records, args: argparse.Namespace) -> Row:
    """One row: the three ways in turn, `rounds` times. RuntimeError if their results differ."""
    ways: dict[str, Callable[[], Found]] = {
        "whole": lambda: _by_loop(_whole, records, args.window),
        "early": lambda: _by_loop(_early, records, args.window),
        "package": lambda: _by_package(records, args.window),
    }
    frames = list(ways["package"]())
    if any(list(way()) != frames for way in ways.values()):
        raise RuntimeError(f"the results differ for {kind}")
    rounds = [{name: _seconds(way) for name, way in ways.items()} for _ in range(args.rounds)]
    megabases = sum(map(len, records.values())) / 1e6
    windows = sum(1 for text in records.values() for _ in window_bounds(len(text), args.window))
    row: dict[str, object] = {"records": kind, "MB": megabases, "windows": windows, "frames": len(frames)}
    row |= {f"{name} MB/s": median(megabases / turn[name] for turn in rounds) for name in ways}
    return row | {f"× {name}": median(turn[name] / turn["package"] for turn in rounds) for name in ("whole", "early")}


def run_command(kind: str, records: Records, args: argparse.Namespace, folder: Path) -> Row:
    """One row: `virnucpro orfs`, from reading to the rename of the last result."""
    path = folder / f"{kind}.fa"
    with path.open("wb") as file:
        for record_id, sequence in records.items():
            write_fasta(file, record_id, sequence)
    arguments = [str(path), "-o", str(folder / kind), "--force", "-q", "--window", str(args.window)]
    seconds = list(_command_seconds(arguments, args.rounds))
    megabases = sum(map(len, records.values())) / 1e6
    return {"records": kind, "MB": megabases, "command MB/s": megabases / median(seconds)}


def _command_seconds(arguments: list[str], rounds: int) -> Iterator[float]:
    for _ in range(rounds):
        began = time.perf_counter()
        result = CliRunner().invoke(orfs, arguments, standalone_mode=False)
        yield time.perf_counter() - began
        if result.exception is not None:
            raise result.exception


def main() -> None:
    """Run it."""
    made = parser(__doc__)
    made.formatter_class = argparse.RawDescriptionHelpFormatter
    made.add_argument("--bases", type=int, default=5_000_000, help="bases of each kind (default: %(default)s)")
    made.add_argument("--window", type=int, default=DEFAULT_SIZE, help="most bases in a window (default: %(default)s)")
    made.add_argument("--rounds", type=int, default=5, help="times that each is measured (default: %(default)s)")
    args = made.parse_args()
    if args.quick:
        args.bases, args.rounds = 100_000, 2
    report = Report("orfs", args)
    kinds = make_records(args.seed, args.bases)
    rows = [compare(kind, records, args) for kind, records in kinds.items()]
    report.table("frames", "Records in memory → windows and frames, CPU time of one core", rows)
    with tempfile.TemporaryDirectory() as folder:
        rows = [run_command(kind, records, args, Path(folder)) for kind, records in kinds.items()]
        report.table("command", "virnucpro orfs, file → files, wall time", rows)


if __name__ == "__main__":
    run_main(main)
