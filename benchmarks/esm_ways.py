"""ESM-2 by this engine and by Hugging Face transformers, side by side in one run, on three mixes of lengths.

    python -m benchmarks.esm_ways --json esm_ways.json

Tokens a second of forward passes alone, `<cls>` and `<eos>` included, weights random: the engine in BF16 and, where the
device multiplies it, in FP8, packed as it packs; transformers in BF16 by scaled dot product attention, in padded
batches of `--batches` proteins, as they come and sorted by length, the best of each; of three turns the fastest. Then
what FP8 costs: how far vectors are from fp32, and whether other company changes a bit.
"""

from __future__ import annotations

import argparse
import importlib.util
import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial

import numpy as np
import torch

from benchmarks.bench import QUICK, WHOLE, Bench
from benchmarks.common import Report, Row, largest_difference, parser, run_main, smallest_cosine
from benchmarks.esm import RandomESMWorker, random_proteins
from virnucpro.core.device import describe, supports_bf16
from virnucpro.models.attention import PackedLayout, to_device
from virnucpro.models.esm2 import ESM2Config
from virnucpro.models.protein_tokenizer import PAD
from virnucpro.pipeline.packing import Packer
from virnucpro.pipeline.stream import Encoder

#: Name → fewest and most residues; proteins of each.
MIXES: Mapping[str, tuple[int, int]] = {"166 residues": (166, 166), "20 to 166": (20, 166), "30 to 800": (30, 800)}

TURNS = 3

Pass = Callable[[], object]
Vectors = dict[str, np.ndarray]


def proteins_of(mix: str, number: int, seed: int) -> list[str]:
    """Random proteins, lengths evenly random."""
    low, high = MIXES[mix]
    lengths = np.random.default_rng(seed).integers(low, high + 1, number)
    return [
        protein[:length] for protein, length in zip(random_proteins(number, seed, high).values(), lengths, strict=True)
    ]


def batches_of(encoder: Encoder, proteins: Sequence[str], device: torch.device) -> Iterator[tuple[list[int], Pass]]:
    """The engine's batches: which proteins are in each, and its pass."""
    packer: Packer[int] = Packer(encoder.budget)
    ids = encoder.tokenize(list(proteins))
    batches = [batch for key, item in enumerate(ids) for batch in packer.add(key, item)]
    for batch in [*batches, *packer.flush()]:
        layout = PackedLayout.build(batch.lengths, batch.size, device.type).to(device)
        tokens = to_device(torch.from_numpy(batch.tokens(encoder.pad_id)), device)
        yield batch.keys, partial(encoder.embed, tokens, layout, batch.used)


def transformers_model(config: ESM2Config, device: torch.device) -> torch.nn.Module:
    """The same network as transformers has it."""
    from transformers import EsmConfig, EsmModel

    with torch.device(device):
        model = EsmModel._from_config(  # type: ignore[no-untyped-call]
            EsmConfig(
                vocab_size=config.vocab_size,
                mask_token_id=32,
                pad_token_id=PAD,
                hidden_size=config.dim,
                num_hidden_layers=config.layers,
                num_attention_heads=config.heads,
                intermediate_size=config.intermediate,
                position_embedding_type="rotary",
                token_dropout=True,
                emb_layer_norm_before=False,
                max_position_embeddings=1026,
            ),
            attn_implementation="sdpa",
            dtype=torch.bfloat16,
            add_pooling_layer=False,
        )
    return model.eval()  # type: ignore[no-any-return]


def padded(lengths: Sequence[int], batch: int, device: torch.device) -> Iterator[dict[str, torch.Tensor]]:
    """What transformers reads of proteins of these lengths, so many at a time."""
    generator = torch.Generator().manual_seed(0)
    for start in range(0, len(lengths), batch):
        part = torch.tensor(lengths[start : start + batch]) + 2
        width = int(part.max())
        there = torch.arange(width) < part[:, None]
        ids = torch.randint(4, 24, there.shape, generator=generator).masked_fill(~there, PAD)
        yield {"input_ids": ids.to(device), "attention_mask": there.long().to(device)}


def fastest(bench: Bench, work: Pass) -> float:
    """Seconds of the fastest of three turns after a warm-up."""
    work()
    seconds = []
    for _ in range(TURNS):
        bench.sync()
        began = time.perf_counter()
        work()
        bench.sync()
        seconds.append(time.perf_counter() - began)
    return min(seconds)


def transformers_rows(bench: Bench, args: argparse.Namespace, mix: str, lengths: list[int]) -> Iterator[Row]:
    """As they come, and sorted."""
    model, tokens = transformers_model(bench.scale.esm_config, bench.device), sum(lengths) + 2 * len(lengths)
    for way, order in (("as they come", lengths), ("sorted", sorted(lengths, reverse=True))):
        rates = {}
        for size in args.batches:
            inputs = list(padded(order, size, bench.device))

            @torch.no_grad()
            def everything(inputs: list[dict[str, torch.Tensor]] = inputs) -> None:
                for each in inputs:
                    model(**each)

            rates[size] = tokens / fastest(bench, everything)
        best = max(rates, key=lambda size: rates[size])
        yield {"lengths": mix, "way": f"transformers, {way}, {best} at a time", "tokens/s": rates[best]}


def _all(passes: Sequence[Pass]) -> None:
    for run in passes:
        run()


def engine_rows(bench: Bench, mix: str, proteins: list[str], budget: int) -> Iterator[Row]:
    """In each dtype that the device has."""
    tokens = sum(map(len, proteins)) + 2 * len(proteins)
    for dtype in ("bf16", "fp8") if describe(bench.device).fp8 else ("bf16",):
        passes = [run for _, run in batches_of(bench.esm_encoder(dtype, budget), proteins, bench.device)]
        seconds = fastest(bench, partial(_all, passes))
        yield {"lengths": mix, "way": f"virnucpro, {dtype}, {budget} tokens", "tokens/s": tokens / seconds}


def vectors_of(bench: Bench, dtype: str, proteins: Mapping[str, str], budget: int) -> Vectors:
    """Embeddings in the order that they are given."""
    worker = RandomESMWorker(bench.scale.esm_config, dtype, bench.device, bench.seed)
    names = list(proteins)
    found: Vectors = {}
    for keys, run in batches_of(worker.load(bench.device, dtype, budget), list(proteins.values()), bench.device):
        rows = run().cpu().numpy()  # type: ignore[attr-defined]
        found |= {names[key]: row for key, row in zip(keys, rows, strict=True)}
    return found


def cost_rows(bench: Bench, budget: int) -> Iterator[Row]:
    """How far each dtype is from fp32, and how many vectors change a bit in other company."""
    named = {f"p{i}": each for i, each in enumerate(proteins_of("20 to 166", bench.scale.esm_bits, bench.seed))}
    items = list(named.items())
    random.Random(bench.seed).shuffle(items)
    shuffled = dict(items)
    half = dict(list(shuffled.items())[::2])
    exact = vectors_of(bench, "fp32", named, budget)
    for dtype in ("bf16", "fp8") if describe(bench.device).fp8 else ("bf16",):
        found = vectors_of(bench, dtype, named, budget)
        others = [vectors_of(bench, dtype, each, budget) for each in (shuffled, half)]
        differing = sum(not np.array_equal(row, found[name]) for other in others for name, row in other.items())
        yield {
            "dtype": dtype,
            "smallest cosine": smallest_cosine(found, exact),
            "largest difference": largest_difference(found, exact),
            "differing in other company": differing,
        }


def measure(args: argparse.Namespace, report: Report) -> None:
    """Speeds, then costs."""
    import tempfile
    from pathlib import Path

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    with tempfile.TemporaryDirectory(prefix="virnucpro-") as folder:
        bench = Bench(Path(folder), device, QUICK if args.quick else WHOLE, args.seed, report)
        rows: list[Row] = []
        for mix in MIXES:
            proteins = proteins_of(mix, args.proteins, args.seed)
            rows += engine_rows(bench, mix, proteins, args.budget)
            if importlib.util.find_spec("transformers"):
                rows += transformers_rows(bench, args, mix, [len(protein) for protein in proteins])
            report.table("ways", f"ESM-2, forward passes, {args.proteins} proteins", rows)
        native = "native" if supports_bf16(device) else "imitated"
        report.table("cost", f"against fp32 (BF16 {native})", list(cost_rows(bench, args.budget)))


def main() -> None:
    """Read the options, measure, report."""
    command = parser(__doc__)
    command.add_argument("--proteins", type=int, default=1024, help="of each mix")
    command.add_argument("--budget", type=int, default=8192, help="tokens of the engine's batches")
    command.add_argument("--batches", type=int, nargs="+", default=[64], help="proteins of transformers' batches")
    args = command.parse_args()
    if args.quick:
        args.proteins, args.budget, args.batches = 12, 1024, [4]
    measure(args, Report("esm_ways", args))


if __name__ == "__main__":
    run_main(main)
