"""The engine beside the published way and the plan's way on this CPU: `python -m benchmarks.embed --json embed.json`.

A network of DNABERT-S's shape with random weights embeds sequences of 500 bp by

- published: one sequence at a time, FP32, no padding, plain PyTorch with its default number of threads;
- plan fp32, plan bf16: padded batches of 2048 tokens in FP32, of 3072 under `torch.autocast` to BF16;
- engine fp32, engine auto: this package, all cores; auto is BF16 where the CPU has it.

The ways take turns for several rounds, each round on sequences of its own, and the medians are compared, so that a
machine whose speed drifts slows all of them alike. Loading of weights is timed for none. The engine's time runs from
the moment that its worker is ready to the end of its last file: reading FASTA, tokenizing, the last batches that leave
a core idle, and writing HDF5 are in it. The other ways get their tokens for nothing and write nothing. Since their
speed is the same for any number of sequences, they embed only the first of a round; speeds are compared a sequence, and
embeddings where there are both. "others' cores" says how much else the machine had to do.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

import torch

from benchmarks.common import (
    FULL,
    SMALL,
    TOKENIZER_FILE,
    Embeddings,
    Others,
    Report,
    Row,
    even_sizes,
    largest_difference,
    median,
    parser,
    random_sequences,
    run_engine,
    run_main,
    smallest_cosine,
    write_files,
    write_model,
)
from benchmarks.reference import Reference, padded_batches
from virnucpro.models.registry import resolve
from virnucpro.models.tokenizer import DNATokenizer
from virnucpro.pipeline.parallel_dnabert import process_dnabert_files_worker

CPU = torch.device("cpu")

#: The plan's tokens a batch, padding included.
PLAN_TOKENS, PLAN_TOKENS_BF16 = 2048, 3072


@dataclass(frozen=True)
class Measured:
    """One way on sequences of one round."""

    seconds: float
    tokens: int
    embeddings: Embeddings
    others: float = 0.0

    @property
    def speed(self) -> float:
        """Sequences a second."""
        return len(self.embeddings) / self.seconds


#: Embeds the sequences of a round.
Way = Callable[[Mapping[str, str]], Measured]


class Ways:
    """The ways, on one network."""

    def __init__(self, folder: Path, model_folder: Path, plain: int) -> None:
        self.folder, self.plain = folder, plain
        self.model = resolve(str(model_folder))
        self.tokenizer = DNATokenizer(TOKENIZER_FILE)
        self.reference = Reference(model_folder, CPU)
        self.threads = torch.get_num_threads()
        self.runs = 0

    def all(self) -> dict[str, Way]:
        """Every way by its name, the yardstick first."""
        return {
            "published": self.published,
            "plan fp32": lambda sequences: self.plan(sequences, PLAN_TOKENS, bf16=False),
            "plan bf16": lambda sequences: self.plan(sequences, PLAN_TOKENS_BF16, bf16=True),
            "engine fp32": lambda sequences: self.engine(sequences, "fp32"),
            "engine auto": lambda sequences: self.engine(sequences, "auto"),
        }

    def published(self, sequences: Mapping[str, str]) -> Measured:
        """One at a time."""
        return self._padded(sequences, 1, bf16=False)

    def plan(self, sequences: Mapping[str, str], budget: int, bf16: bool) -> Measured:
        """Padded batches in the order of the sequences."""
        return self._padded(sequences, budget, bf16)

    def _padded(self, sequences: Mapping[str, str], budget: int, bf16: bool) -> Measured:
        some = dict(islice(sequences.items(), self.plain))
        ids = self.tokenizer.encode(list(some.values()))
        batches = list(padded_batches(ids, budget))
        torch.set_num_threads(self.threads)
        began = time.perf_counter()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bf16):
            vectors = [row for batch in batches for row in self.reference.embed(batch)]
        seconds = time.perf_counter() - began
        return Measured(seconds, sum(map(len, ids)), dict(zip(some, vectors, strict=True)))

    def engine(self, sequences: Mapping[str, str], dtype: str) -> Measured:
        """From FASTA to HDF5."""
        self.runs += 1
        here = self.folder / f"run{self.runs}"
        counts = write_files(here / "in", sequences, even_sizes(len(sequences), 4))
        run = run_engine(process_dnabert_files_worker, ["cpu"], 0, here / "out", counts, model=self.model, dtype=dtype)
        return Measured(run.seconds, run.tokens, run.embeddings())


def measure(ways: Ways, rounds: Sequence[Mapping[str, str]]) -> dict[str, list[Measured]]:
    """Every way on every round, in turns."""
    found: dict[str, list[Measured]] = {name: [] for name in ways.all()}
    for number, sequences in enumerate(rounds):
        print(f"round {number + 1}, sequences/s:", end="", flush=True)
        for name, way in ways.all().items():
            others = Others()
            run = replace(way(sequences), others=others.cores())
            found[name].append(run)
            print(f"  {name} {run.speed:.2f}", end="", flush=True)
        print()
    return found


def way_row(name: str, runs: Sequence[Measured], yardstick: Sequence[Measured]) -> Row:
    """One way's speed and its distance from the yardstick."""
    pairs = list(zip(runs, yardstick, strict=True))
    return {
        "way": name,
        "sequences": sum(len(run.embeddings) for run in runs),
        "seconds": sum(run.seconds for run in runs),
        "sequences/s": median(run.speed for run in runs),
        "tokens/s": median(run.tokens / run.seconds for run in runs),
        "times published": median(run.speed / base.speed for run, base in pairs),
        "others' cores": max(run.others for run in runs),
        "largest difference": max(largest_difference(run.embeddings, base.embeddings) for run, base in pairs),
        "smallest cosine": min(smallest_cosine(run.embeddings, base.embeddings) for run, base in pairs),
    }


def parse_args(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    made = parser(__doc__.splitlines()[0] if __doc__ else None)
    made.add_argument("--sequences", type=int, default=340, metavar="N", help="sequences a round")
    made.add_argument("--plain", type=int, default=80, metavar="N", help="sequences a round without the engine")
    made.add_argument("--rounds", type=int, default=3, metavar="N", help="how often each way takes its turn")
    made.add_argument("--bases", type=int, default=500, metavar="N", help="length of a sequence")
    return made.parse_args(arguments)


def main() -> None:
    """Measure and report."""
    args = parse_args()
    config = FULL
    if args.quick:
        config, args.sequences, args.plain, args.rounds = SMALL, 60, 20, 2
    report = Report("embed", args)
    with tempfile.TemporaryDirectory(prefix="virnucpro-") as name:
        folder = Path(name)
        ways = Ways(folder, write_model(folder / "random", config, args.seed), args.plain)
        rounds = [random_sequences(args.sequences, args.seed + i, args.bases) for i in range(args.rounds)]
        for way in ways.all().values():
            way(random_sequences(4, args.seed + args.rounds, args.bases))  # warm-up
        found = measure(ways, rounds)
    rows = [way_row(name, runs, found["published"]) for name, runs in found.items()]
    report.table("ways", f"{args.rounds} rounds of {args.sequences} sequences, medians", rows)


if __name__ == "__main__":
    run_main(main)
