"""The codon network on one thread: milliseconds of CPU a window of 500 bases, by the tokens a batch.

    python -m benchmarks.codon --json codon.json

Random weights; forward pass and pooling of a full batch, in turns over the budgets; thread time, so that other programs
count only by the caches and the cores that they share. `Gmult/s`: thousand million multiplications a second, of those
with a weight; `large product` is what oneDNN reaches with the same call on a large square matrix.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import numpy as np
import torch

from benchmarks.common import Report, Row, median, parser, random_dna, run_main
from virnucpro.models.attention import PackedLayout
from virnucpro.models.codon import FRAMES, OUTSIDE, CodonConfig, CodonNetwork, CodonTokenizer
from virnucpro.models.linear import TAPS, Linear, prepack

BASES = 500
SQUARE = 1024


def random_network(config: CodonConfig, seed: int) -> CodonNetwork:
    """On the CPU, in fp32; what is outside of a frame is not at zero, which does not matter here."""
    generator = torch.Generator().manual_seed(seed)
    network = CodonNetwork(config)
    for name, parameter in network.named_parameters():
        values = torch.randn(parameter.shape, generator=generator) / parameter.shape[-1] ** 0.5
        parameter.data = values + 1 if name.endswith("norm.weight") else values
    return network.eval()


class Batch:
    """A full batch of windows for a network of its own, whose products are laid out for it."""

    def __init__(self, config: CodonConfig, tokens: int, seed: int) -> None:
        self.network = random_network(config, seed)
        prepack(self.network, tokens // config.stride)
        rng = np.random.default_rng(seed)
        tokenizer = CodonTokenizer(config.stride)
        self.windows = tokens // len(tokenizer.encode(["A" * BASES])[0])
        ids = tokenizer.encode([random_dna(rng, BASES) for _ in range(self.windows)])
        self.lengths = [len(each) for each in ids]
        self.tokens = torch.full((tokens,), OUTSIDE)
        self.tokens[: sum(self.lengths)] = torch.from_numpy(np.concatenate(ids))

    @torch.no_grad()
    def run(self) -> None:
        """Embed the windows."""
        layout = PackedLayout.build(self.lengths, len(self.tokens), "cpu")
        self.network.pool(self.network(self.tokens, layout), self.tokens, layout.lengths, sum(self.lengths))


def multiplications(config: CodonConfig) -> int:
    """With weights of the convolutions and products, a window."""
    positions = FRAMES * -(-(BASES // 3) // config.stride)
    return positions * config.members * config.blocks * (TAPS + 1) * config.channels**2


def thread_seconds(work: Callable[[], object]) -> float:
    """Of one call."""
    began = time.thread_time()
    work()
    return time.thread_time() - began


def large_product(rounds: int) -> float:
    """Gmult/s of a square product."""
    layer = Linear(SQUARE, SQUARE, bias=False)
    torch.nn.init.normal_(layer.weight)
    prepack(layer, SQUARE)
    x = torch.randn(SQUARE, SQUARE)
    layer(x)
    return float(SQUARE**3 / median(thread_seconds(lambda: layer(x)) for _ in range(rounds)) / 1e9)


def measure(args: argparse.Namespace, report: Report) -> None:
    """The table."""
    config = CodonConfig(args.channels, args.blocks, args.stride, args.members)
    batches = {tokens: Batch(config, tokens, args.seed) for tokens in args.tokens}
    seconds: dict[int, list[float]] = {tokens: [] for tokens in batches}
    for turn in range(args.rounds + 1):
        for tokens, batch in batches.items():
            taken = thread_seconds(batch.run)
            if turn:  # the first warms up
                seconds[tokens].append(taken / batch.windows)
    many = multiplications(config)
    rows: list[Row] = [
        {
            "tokens": tokens,
            "windows": batches[tokens].windows,
            "ms a window": 1000 * median(times),
            "fastest tenth": 1000 * float(np.quantile(times, 0.1)),
            "Gmult/s": many / median(times) / 1e9,
        }
        for tokens, times in seconds.items()
    ]
    report.table("batches", f"codon network, {many / 1e6:.0f} million multiplications a window", rows)
    report.table("large", "large product", [{"size": SQUARE, "Gmult/s": large_product(args.rounds)}])


def main() -> None:
    """Read the options, measure, report."""
    command = parser(__doc__)
    for name, value in (("channels", 192), ("blocks", 4), ("stride", 6), ("members", 2), ("rounds", 25)):
        command.add_argument(f"--{name}", type=int, default=value)
    command.add_argument("--tokens", type=int, nargs="+", default=[2304, 4352, 6656, 8704, 13056], help="a batch")
    args = command.parse_args()
    if args.quick:
        args.channels, args.members, args.rounds, args.tokens = 16, 1, 1, [2304]
    torch.set_num_threads(1)
    measure(args, Report("codon", args))


if __name__ == "__main__":
    run_main(main)
