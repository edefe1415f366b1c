"""How fast and how exact the engine is on one GPU, in eight minutes: `python -m benchmarks.gpu --json gpu.json`.

Tables, in this order: the product of two large matrices (the peak that the rest is held against); the forward pass by
batch size, of DNABERT-S and of ESM-2 3B; its operations, each alone; FASTA to HDF5, beside the published way and padded
batches under autocast (their time is the forward pass and the copies only); the stages on the host, each alone on one
thread; whether embeddings keep their bits in other company; how far BF16 is from FP32. If bits differ, a probe says
which operation is to blame.

The networks have the published shapes and random weights. `--device cpu --quick` tries the script without a GPU;
without CUDA it ends with exit code 5 otherwise.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import cycle
from pathlib import Path

import numpy as np
import torch

from benchmarks.bench import QUICK, WHOLE, Bench
from benchmarks.bits import bit_tables, mixed_sequences, random_rows, row_operations, shuffled
from benchmarks.common import EngineRun, Report, Row, flops_per_token, parser, random_sequences, run_main, write_files
from benchmarks.esm import RESIDUES, esm_flops_per_token, random_proteins
from benchmarks.reference import Reference, padded_batches
from virnucpro.errors import DeviceError
from virnucpro.input.fasta import PROTEIN, Record, read_records
from virnucpro.io.store import Shard, write_shard
from virnucpro.models.attention import PackedLayout, packed_attention, segment_mean, to_device
from virnucpro.models.dnabert_s import DNABERT
from virnucpro.pipeline.base_worker import TORCH_DTYPES
from virnucpro.pipeline.packing import PackedBatch, Packer, round_budget
from virnucpro.pipeline.stream import Encoder

#: The plan's budget of a padded batch under autocast.
PLAN_TOKENS = 3072


def matrix_peak(bench: Bench, dtype: str) -> float:
    """Operations a second of one large product."""
    n = bench.scale.matrix
    a, b = (torch.randn(n, n, device=bench.device, dtype=TORCH_DTYPES[dtype]) for _ in range(2))
    return 2 * n**3 / bench.seconds(lambda: a @ b)


def forward_row(bench: Bench, network: str, dtype: str, size: int, peak: float) -> Row:
    """The forward pass and pooling of one full buffer of `size` tokens."""
    if bench.device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(bench.device)
    make = bench.esm_encoder if network == "esm2" else bench.encoder
    try:
        encoder = make(dtype, size)
    except DeviceError:
        return {"batch": size, "tokens/s": "out of memory"}
    batch, tokens, layout = full_batch(bench, encoder, size)
    seconds = bench.seconds(lambda: encoder.embed(tokens, layout, batch.used))
    rate = bench.rates[network, dtype, size] = batch.used / seconds
    row = {"batch": size, "real tokens": batch.used, "ms": seconds * 1000, "tokens/s": rate}
    row["share of peak"] = rate * _flops(bench, network, batch.lengths[0]) / peak
    if bench.device.type == "cuda":
        row["peak GiB"] = torch.cuda.max_memory_allocated(bench.device) / 2**30
    return row


def _flops(bench: Bench, network: str, tokens: int) -> int:
    if network == "esm2":
        return esm_flops_per_token(bench.scale.esm_config, tokens)
    return flops_per_token(bench.scale.config, tokens)


def full_batch(bench: Bench, encoder: Encoder, size: int) -> tuple[PackedBatch[int], torch.Tensor, PackedLayout]:
    """The first buffer that the engine's packing closes, its ids and its layout on the device."""
    packer: Packer[int] = Packer(size)
    make = random_proteins if encoder.alphabet is PROTEIN else random_sequences
    ids = encoder.tokenize(list(make(200, bench.seed).values()))
    batch = next(batch for key, item in enumerate(cycle(ids)) for batch in packer.add(key, item))
    layout = PackedLayout.build(batch.lengths, size, bench.device.type).to(bench.device)
    return batch, to_device(torch.from_numpy(batch.tokens(encoder.pad_id)), bench.device), layout


def forward_tables(bench: Bench) -> None:
    """What the device can do by itself."""
    peaks = {dtype: matrix_peak(bench, dtype) for dtype in bench.scale.sizes}
    rows = [{"dtype": dtype, "TFLOP/s": peak / 1e12} for dtype, peak in peaks.items()]
    bench.report.table("matrix_peak", f"product of two {bench.scale.matrix}² matrices", rows)
    for dtype, sizes in bench.scale.sizes.items():
        forward = [forward_row(bench, "dnabert", dtype, size, peaks[dtype]) for size in sizes]
        title = f"forward pass and pooling, {dtype}, sequences of about 105 tokens"
        bench.report.table(f"forward_{dtype}", title, forward)
    esm = [forward_row(bench, "esm2", "bf16", size, peaks["bf16"]) for size in bench.scale.esm_sizes]
    bench.report.table("forward_esm2", f"ESM-2, bf16, proteins of {RESIDUES} residues", esm)


def default_size(bench: Bench) -> int:
    """Tokens of a batch as the engine chooses them, as far as they are measured here."""
    return min(round_budget(bench.default_budget("bf16")), bench.scale.sizes["bf16"][-1])


def part_table(bench: Bench) -> None:
    """Where the time of the forward pass goes: each operation alone, times the layers."""
    size = default_size(bench)
    encoder, network = bench.encoder("bf16", size), bench.network("bf16", size)
    layers = bench.scale.config.num_hidden_layers
    rows = []
    for name, calls_a_layer, work in _parts(bench, encoder, network, size):
        calls = calls_a_layer * layers or 1
        rows.append({"operation": name, "calls": calls, "ms": calls * bench.seconds(work) * 1000})
    bench.report.table("parts", f"operations of a forward pass of {size} tokens, bf16", rows)


def _parts(
    bench: Bench, encoder: Encoder, network: DNABERT, size: int
) -> Iterator[tuple[str, int, Callable[[], object]]]:
    """(name, calls a layer or 0 for once, operation)."""
    dim, heads = bench.scale.config.hidden_size, bench.scale.config.num_attention_heads
    batch, tokens, layout = full_batch(bench, encoder, size)
    for name, operation, width in row_operations(bench, network):
        x = random_rows(bench, network, size, width)
        yield name, 2 if name.startswith("LayerNorm") else 1, partial(operation, x)
    q, k, v = (random_rows(bench, network, size, dim).view(size, heads, -1) for _ in range(3))
    scale, slopes = float(dim // heads) ** -0.5, network.slopes
    yield "attention", 1, lambda: packed_attention(q, k, v, layout, scale, slopes)
    hidden = random_rows(bench, network, size, dim)
    yield "mean", 0, lambda: segment_mean(hidden, layout.lengths, batch.used)
    yield "all of it", 0, lambda: encoder.embed(tokens, layout, batch.used)


def end_to_end_table(bench: Bench) -> None:
    """FASTA → HDF5 by the engine, and the forward pass alone by the other ways."""
    total, files = bench.scale.end_to_end, bench.scale.files
    sequences = random_sequences(total, bench.seed)
    some = dict(list(sequences.items())[: total // 8])
    mixed = shuffled(mixed_sequences(total // 10, 100, 3000, bench.seed), bench.seed)
    dna, protein = (bench.rates.get((network, "bf16", default_size(bench))) for network in ("dnabert", "esm2"))
    bench.embed(some, files, "bf16", 0)  # warm-up
    rows = [_engine_row(f"engine bf16, run {i + 1}", bench.embed(sequences, files, "bf16", 0), dna) for i in (0, 1)]
    rows.append(_engine_row("engine bf16, 8192 tokens", bench.embed(some, files, "bf16", 8192)))
    rows.append(_engine_row("engine fp32", bench.embed(some, files, "fp32", 0)))
    rows.append(_engine_row("engine bf16, lengths mixed", bench.embed(mixed, files, "bf16", 0)))
    proteins = random_proteins(bench.scale.esm_end_to_end, bench.seed)
    rows.append(_engine_row("ESM-2 bf16", bench.embed_proteins(proteins, files, "bf16", 0), protein))
    others = list(sequences.values())
    rows.append(_other_row(bench, f"plan: padded {PLAN_TOKENS}, autocast", others[: bench.scale.padded], PLAN_TOKENS))
    rows.append(_other_row(bench, "plan, lengths mixed", list(mixed.values())[: bench.scale.padded], PLAN_TOKENS))
    rows.append(_other_row(bench, "published: one at a time, fp32", others[: bench.scale.published], None))
    bench.report.table("end_to_end", "FASTA → HDF5 (plan and published: forward pass and copies only)", rows)


def _engine_row(way: str, run: EngineRun, forward: float | None = None) -> Row:
    """`forward`: tokens a second of the forward pass alone, to compare with."""
    row = _speed(way, run.sequences, run.tokens, run.seconds)
    if forward:
        row["of forward pass"] = run.tokens / run.seconds / forward
    return row | {"busy share": sum(run.busy_seconds) / run.seconds, "startup s": run.startup_seconds}


def _speed(way: str, sequences: int, tokens: int, seconds: float) -> dict[str, object]:
    return {
        "way": way,
        "sequences": sequences,
        "seconds": seconds,
        "sequences/s": sequences / seconds,
        "tokens/s": tokens / seconds,
    }


def _other_row(bench: Bench, way: str, sequences: list[str], budget: int | None) -> Row:
    """Padded batches of `budget` tokens under autocast, or without one each sequence by itself in fp32."""
    ids = bench.tokenizer.encode(sequences)
    batches = [[item] for item in ids] if budget is None else list(padded_batches(ids, budget))
    reference = Reference(bench.model.weights.parent, bench.device)
    with torch.autocast(bench.device.type, dtype=torch.bfloat16, enabled=budget is not None):
        for batch in batches[:5]:
            reference.embed(batch)
        began = time.perf_counter()
        for batch in batches:
            reference.embed(batch)
        seconds = time.perf_counter() - began
    return _speed(way, len(ids), sum(map(len, ids)), seconds)


def stage_table(bench: Bench) -> None:
    """Each stage of the host alone, on one file of the end-to-end run."""
    number = bench.scale.end_to_end // bench.scale.files
    sequences = random_sequences(number, bench.seed)
    (path,) = write_files(bench.folder / "stages", sequences, [number])
    budget = bench.default_budget("bf16")
    encoder = bench.encoder("bf16", budget)
    rows = []
    for stage, seconds in _stages(bench, encoder, path, round_budget(budget)):
        rows.append({"stage": stage, "s a million": seconds / number * 1e6, "sequences/s": number / seconds})
    bench.report.table("stages", "stages of the host, each alone", rows)


def _stages(bench: Bench, encoder: Encoder, path: Path, budget: int) -> Iterator[tuple[str, float]]:
    clock = time.perf_counter
    began = clock()
    records = [record for record in read_records(path) if isinstance(record, Record)]
    yield "read", clock() - began

    began = clock()
    ids = [
        item
        for i in range(0, len(records), 512)
        for item in encoder.tokenize([r.sequence for r in records[i : i + 512]])
    ]
    yield "tokenize", clock() - began

    began = clock()
    packer: Packer[int] = Packer(budget)
    batches = [batch for key, item in enumerate(ids) for batch in packer.add(key, item)] + list(packer.flush())
    yield "pack", clock() - began

    began = clock()
    layouts = [PackedLayout.build(batch.lengths, batch.size, bench.device.type) for batch in batches]
    tokens = [torch.from_numpy(batch.tokens(encoder.pad_id)) for batch in batches]
    yield "lay out", clock() - began

    bench.sync()
    began = clock()
    for layout, ids_of_batch in zip(layouts, tokens, strict=True):
        layout.to(bench.device)
        to_device(ids_of_batch, bench.device)
    bench.sync()
    yield "to the device", clock() - began

    embeddings = np.ones((len(records), encoder.dim), dtype=np.float32)
    began = clock()
    write_shard(bench.folder / "stage.h5", Shard([record.header for record in records], embeddings), {})
    yield "write", clock() - began


def parse_args(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    made = parser(__doc__.splitlines()[0] if __doc__ else None)
    made.add_argument("--device", default="cuda:0", help="the device to measure; cpu with --quick tries the script")
    made.add_argument("--probe", action="store_true", help="probe the operations even if no bits differ")
    return made.parse_args(arguments)


def main() -> None:
    """Measure and report."""
    args = parse_args()
    device = torch.device(args.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise DeviceError("this machine has no CUDA device", hint="--device cpu --quick tries the script on a CPU")
    if device.type == "cuda":
        torch.cuda.set_device(device)
    else:
        torch.set_num_threads(1)  # as the engine computes a batch
    report = Report("gpu", args, device)
    began = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="virnucpro-") as folder:
        bench = Bench(Path(folder), device, QUICK if args.quick else WHOLE, args.seed, report)
        forward_tables(bench)
        part_table(bench)
        end_to_end_table(bench)
        stage_table(bench)
        bit_tables(bench, args.probe)
    print(f"\n{time.perf_counter() - began:.0f} s in all")


if __name__ == "__main__":
    run_main(main)
