"""Train the BPE tokenizer of `dnabert-mini` on pieces of viral and other genomes.

Reads `--data DIR`, a folder with `viral/*.fa.gz` and `other/*.fa.gz`, and writes a `tokenizer.json` with the
conventions of DNABERT-S: 4096 entries, `[CLS] x [SEP]`, one [UNK] for each letter other than upper-case ACGT.
No padding and no truncation are stored. No token is longer than 12 bases: long repeats (homopolymers,
microsatellites) would otherwise take entries that few sequences use.

The default sample, 64 Mbp, trains in about 100 s on one core (`RAYON_NUM_THREADS=1`) and 3.5 GB of memory.
The same data, options and version of `tokenizers` give the same bytes, whatever the number of threads.
"""

from __future__ import annotations

import argparse
import random
import time
from collections.abc import Iterator
from itertools import accumulate, chain
from pathlib import Path

from tokenizers import Tokenizer
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.processors import TemplateProcessing
from tokenizers.trainers import BpeTrainer

from virnucpro.input.fasta import Record, read_records

SPECIALS = ["[UNK]", "[CLS]", "[SEP]", "[PAD]", "[MASK]"]
CLASSES = ("viral", "other")
VOCABULARY = 4096
MAX_TOKEN = 12
PIECE = (500, 1000)
WINDOW = (500, 500)
DEV_WINDOWS = 2000
COMPLEMENT = str.maketrans("ACGT", "TGCA")


def read_sequences(folder: Path) -> list[str]:
    """Every sequence of `folder/*.fa.gz` that is long enough for a piece, upper case."""
    records: list[str] = []
    for path in sorted(folder.glob("*.fa.gz")):
        found = (record.sequence for record in read_records(path) if isinstance(record, Record))
        records.extend(sequence for sequence in found if len(sequence) >= PIECE[0])
    if not records:
        raise SystemExit(f"{folder}: no *.fa.gz with sequences of {PIECE[0]} bases or more")
    return records


def sample(records: list[str], bases: int, lengths: tuple[int, int], rng: random.Random) -> Iterator[str]:
    """Random ACGT pieces of `records`, on a random strand, until they hold `bases` bases.

    A record is drawn in proportion to its length, with replacement; a piece is never longer than its record.
    """
    ends = list(accumulate(map(len, records)))
    while bases > 0:
        record = rng.choices(records, cum_weights=ends)[0]
        length = min(rng.randint(*lengths), len(record))
        start = rng.randint(0, len(record) - length)
        piece = record[start : start + length]
        if piece.strip("ACGT"):
            continue
        bases -= length
        yield piece if rng.random() < 0.5 else piece.translate(COMPLEMENT)[::-1]


def train(pieces: Iterator[str]) -> Tokenizer:
    """A tokenizer trained on `pieces`."""
    tokenizer = Tokenizer(BPE(unk_token="[UNK]", fuse_unk=False))
    tokenizer.pre_tokenizer = Whitespace()
    trainer = BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=SPECIALS,
        initial_alphabet=list("ACGT"),
        limit_alphabet=4,
        max_token_length=MAX_TOKEN + 1,  # the library's bound is exclusive
        show_progress=False,
    )
    tokenizer.train_from_iterator(pieces, trainer)
    tokenizer.post_processor = TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[(name, SPECIALS.index(name)) for name in ("[CLS]", "[SEP]")],
    )
    return tokenizer


def check(tokenizer: Tokenizer) -> None:
    """Stop if the vocabulary is not what the model expects."""
    vocabulary = tokenizer.get_vocab()
    if sorted(vocabulary.values()) != list(range(VOCABULARY)):
        raise SystemExit(f"{len(vocabulary)} entries instead of {VOCABULARY}: give more --bases")
    if [vocabulary.get(name) for name in SPECIALS] != list(range(len(SPECIALS))):
        raise SystemExit("the special tokens are not the first entries")
    if longest(tokenizer) > MAX_TOKEN:
        raise SystemExit(f"a token is longer than {MAX_TOKEN} bases")


def longest(tokenizer: Tokenizer) -> int:
    """Bases of the longest token."""
    return max(len(token) for token in tokenizer.get_vocab() if token not in SPECIALS)


def bases_per_token(tokenizer: Tokenizer, windows: list[str]) -> float:
    """Mean bases a token over `windows`; [CLS] and [SEP] are not counted."""
    encodings = tokenizer.encode_batch_fast(windows, add_special_tokens=False)
    return sum(map(len, windows)) / sum(len(encoding.ids) for encoding in encodings)


def report_dev(tokenizer: Tokenizer, folder: Path, seed: int) -> None:
    """Print the bases a token on random 500-bp windows of each class of `folder`."""
    for name in CLASSES:
        records = read_sequences(folder / name)
        windows = list(sample(records, DEV_WINDOWS * WINDOW[0], WINDOW, random.Random(seed)))
        print(f"dev {name}: {bases_per_token(tokenizer, windows):.2f} bases a token, {len(windows)} windows")


def parse_args() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description="Train the BPE tokenizer of dnabert-mini.")
    parser.add_argument(
        "--data", type=Path, required=True, help="folder with viral/*.fa.gz and other/*.fa.gz to train on"
    )
    parser.add_argument("--out", type=Path, required=True, help="the tokenizer.json to write")
    parser.add_argument("--dev", type=Path, help="folder like --data on which to measure bases a token")
    parser.add_argument(
        "--bases", type=int, default=64_000_000, help="bases to train on, half of them viral (%(default)s)"
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of the samples (%(default)s)")
    return parser.parse_args()


def main() -> None:
    """Sample, train, check, write, measure."""
    args = parse_args()
    start = time.perf_counter()
    rng = random.Random(args.seed)
    tokenizer = train(
        chain.from_iterable(
            sample(read_sequences(args.data / name), args.bases // len(CLASSES), PIECE, rng) for name in CLASSES
        )
    )
    check(tokenizer)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(args.out))
    print(f"{args.out}: {tokenizer.get_vocab_size()} entries, longest {longest(tokenizer)} bases")
    print(f"trained on {args.bases:,} bases in {time.perf_counter() - start:.0f} s")
    if args.dev:
        report_dev(tokenizer, args.dev, args.seed)


if __name__ == "__main__":
    main()
