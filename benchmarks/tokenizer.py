"""How fast DNA is tokenized on one core: `python -m benchmarks.tokenizer --json tokenizer.json`.

The linear-time BPE of `models/bpe.py` beside the `tokenizers` library, on sequences of several kinds, in groups as the
engine hands them over; every id is compared. `--tokenizer` names the published file, which is not part of this package.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from benchmarks.common import TOKENIZER_FILE, Report, Row, median, parser, random_sequences, run_main
from virnucpro.models.bpe import FastBPE
from virnucpro.pipeline.stream import LETTERS_AT_ONCE, LETTERS_OF_ONE

#: Sequences that a worker tokenizes in one call.
AT_ONCE = LETTERS_AT_ONCE // LETTERS_OF_ONE

Ids = Sequence[NDArray[np.int64]]


def kinds(number: int, seed: int) -> dict[str, list[str]]:
    """Sequences of 500 bases of several kinds."""
    rng = np.random.default_rng(seed)
    units = [unit[: rng.integers(1, 12)] for unit in random_sequences(number, seed + 1, 12).values()]
    spotted = [list(sequence) for sequence in random_sequences(number, seed + 2).values()]
    for letters in spotted:
        for place in rng.integers(0, len(letters), 50):
            letters[place] = "N"
    return {
        "random": list(random_sequences(number, seed).values()),
        "repetitive": [(unit * 500)[:500] for unit in units],
        "a tenth N": ["".join(letters) for letters in spotted],
    }


def tokenizer_table(path: Path, number: int, repeats: int, seed: int, report: Report) -> None:
    """Megabases a second of both ways, in turns."""
    fast, library = FastBPE(path), Tokenizer.from_file(str(path))
    library.no_padding()
    library.no_truncation()

    def by_library(group: list[str]) -> Ids:
        return [np.array(encoding.ids, dtype=np.int64) for encoding in library.encode_batch_fast(group)]

    def by_us(group: list[str]) -> Ids:
        found = fast.encode(group)
        assert found is not None, "all of them are letters"
        return found

    rows = []
    for kind, sequences in kinds(number, seed).items():
        pairs = [(_run(by_us, sequences), _run(by_library, sequences)) for _ in range(repeats + 1)][1:]
        rows.append(_row(kind, sequences, pairs))
    report.table("tokenizer", "megabases a second on one core", rows)


def _run(encode: Callable[[list[str]], Ids], sequences: list[str]) -> tuple[float, Ids]:
    began = time.perf_counter()
    found = [ids for first in range(0, len(sequences), AT_ONCE) for ids in encode(sequences[first : first + AT_ONCE])]
    return time.perf_counter() - began, found


def _row(kind: str, sequences: list[str], pairs: Sequence[tuple[tuple[float, Ids], tuple[float, Ids]]]) -> Row:
    ours, theirs = (median(pair[way][0] for pair in pairs) for way in (0, 1))
    megabases = sum(map(len, sequences)) / 1e6
    same = sum(np.array_equal(a, b) for a, b in zip(pairs[0][0][1], pairs[0][1][1], strict=True))
    return {
        "sequences": kind,
        "number": len(sequences),
        "ours": megabases / ours,
        "tokenizers": megabases / theirs,
        "times": theirs / ours,
        "differing": len(sequences) - same,
    }


def parse_args(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    made = parser(__doc__.splitlines()[0] if __doc__ else None)
    made.add_argument("--tokenizer", type=Path, default=TOKENIZER_FILE, metavar="FILE", help="a tokenizer.json")
    return made.parse_args(arguments)


def main() -> None:
    """Measure and report."""
    os.environ["RAYON_NUM_THREADS"] = "1"  # of the library, before its first batch
    args = parse_args()
    number, repeats = (50, 1) if args.quick else (10_000, 5)
    tokenizer_table(args.tokenizer, number, repeats, args.seed, Report("tokenizer", args))


if __name__ == "__main__":
    run_main(main)
