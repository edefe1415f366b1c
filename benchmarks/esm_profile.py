"""Where a GPU's time goes in a forward pass of ESM-2 3B, in BF16 and FP8; random weights, proteins of 20 to 166.

    python -m benchmarks.esm_profile --json profile.json

`passes`: tokens a second of the pass as a run makes it (recorded, with pooling), the milliseconds of its kernels by the
profiler, and what is left of the time on the clock, when no kernel ran. `products`: the matrix products of all layers
alone, on the same card: the rate that they allow. `kernels`: every kind of kernel, its share of the time on the clock,
and GB/s: the bytes that it has to read and write, were each read and written once, by its time. `names`: of products.
"""

from __future__ import annotations

import argparse
import re
import tempfile
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch

from benchmarks.bench import QUICK, WHOLE, Bench
from benchmarks.common import Report, Row, parser, run_main
from benchmarks.esm import RandomESMWorker
from benchmarks.esm_ways import proteins_of
from virnucpro.core.device import describe
from virnucpro.models.attention import PackedLayout
from virnucpro.models.backend import kernels_for
from virnucpro.models.esm2 import ESM2
from virnucpro.models.fp8 import quantized
from virnucpro.models.graph import Recorded
from virnucpro.models.protein_tokenizer import PAD, ProteinTokenizer
from virnucpro.pipeline.base_worker import TORCH_DTYPES
from virnucpro.pipeline.packing import PackedBatch, Packer
from virnucpro.pipeline.parallel_esm import pool_proteins

#: Enough that the card is as warm as in a run: a warm one multiplies more slowly.
PASSES = 20

PRODUCTS = ("qkv", "out_proj", "fc1", "fc2")

#: What a kernel is called → its kinds, in the order in which a layer has them.
KINDS: Mapping[str, tuple[str, ...]] = {
    r"gemm|cutlass|nvjet": PRODUCTS,
    "^_attention": ("attention",),
    "^_rotate": ("rotate",),
    "^_norm": ("norm",),
    "^_gelu": ("gelu",),
    "^_quantize": ("quantize", "gelu"),
    "segment": ("pool",),
}

#: Kind → what it reads and writes in a layer, in BF16 activations of (tokens, dim); `gelu` of (tokens, intermediate).
MOVED: Mapping[str, Mapping[str, float]] = {
    "bf16": {"attention": 4, "rotate": 4, "norm": 8, "gelu": 2},
    "fp8": {"attention": 4, "rotate": 4, "norm": 7, "gelu": 1.5, "quantize": 1.5},
}


def full_batch(proteins: Sequence[str], budget: int) -> PackedBatch[int]:
    """The fullest of the buffers that hold them."""
    packer: Packer[int] = Packer(budget)
    ids = ProteinTokenizer().encode(list(proteins))
    batches = [batch for key, item in enumerate(ids) for batch in packer.add(key, item)]
    return max([*batches, *packer.flush()], key=lambda batch: batch.used)


def network_of(bench: Bench, dtype: str) -> ESM2:
    """On the device."""
    model = RandomESMWorker(bench.scale.esm_config, dtype, bench.device, bench.seed).read_model(TORCH_DTYPES[dtype])
    module: ESM2 = model.module.to(bench.device)  # type: ignore[assignment]
    if dtype == "fp8":
        model.quantize()
    return module


def forward_pass(bench: Bench, network: ESM2, batch: PackedBatch[int]) -> Callable[[], torch.Tensor]:
    """As a run makes it."""
    layout = PackedLayout.build(batch.lengths, batch.size, bench.device.type).to(bench.device)
    tokens = torch.from_numpy(batch.tokens(PAD)).to(bench.device)
    encode = Recorded(network, tokens, layout) if kernels_for(bench.device.type) else network
    return lambda: pool_proteins(encode(tokens, layout), tokens, layout.lengths, batch.used)


def kernels_of(work: Callable[[], object]) -> list[tuple[str, float]]:
    """Name and milliseconds of every kernel of some passes, in their order; none on a CPU."""
    if not torch.cuda.is_available():
        return []
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        for _ in range(PASSES):
            work()
        torch.cuda.synchronize()
    events = sorted(profile.events() or (), key=lambda event: event.time_range.start)
    return [(event.name, event.time_range.elapsed_us() / 1000) for event in events if "CUDA" in str(event.device_type)]


def kinds_of(names: Sequence[str]) -> list[str]:
    """The kind of each kernel of a pass."""
    met: Counter[str] = Counter()
    found = []
    for name in names:
        pattern = next((each for each in KINDS if re.search(each, name)), None)
        kinds = KINDS[pattern] if pattern else ("the rest",)
        found.append(kinds[met[str(pattern)] % len(kinds)])
        met[str(pattern)] += 1
    return found


def product_rows(bench: Bench, network: ESM2, dtype: str, size: int) -> list[Row]:
    """Each product of all layers, one behind the other."""
    rows: list[Row] = []
    for name in PRODUCTS:
        layers = [layer.get_submodule(name) for layer in network.layers]
        width, out = layers[0].get_parameter("weight").shape[::-1]
        x = torch.randn(size, width, device=bench.device, dtype=torch.bfloat16)
        given = quantized(x) if dtype == "fp8" else x
        seconds = bench.seconds(lambda layers=layers, given=given: [layer(given) for layer in layers])  # type: ignore[misc]
        flops = 2 * size * width * out * len(layers)
        rows.append({"dtype": dtype, "product": name, "ms": 1000 * seconds, "TFLOP/s": flops / seconds / 1e12})
    total = sum(float(str(row["ms"])) for row in rows)
    return [*rows, {"dtype": dtype, "product": "all", "ms": total, "tokens/s": 1000 * size / total}]


def measure(args: argparse.Namespace, report: Report) -> None:
    """Each dtype."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    tables: dict[str, list[Row]] = {"passes": [], "products": [], "kernels": [], "names": []}
    with tempfile.TemporaryDirectory(prefix="virnucpro-") as folder, torch.no_grad():
        bench = Bench(Path(folder), device, QUICK if args.quick else WHOLE, args.seed, report)
        batch = full_batch(proteins_of("20 to 166", args.budget // 50, args.seed), args.budget)
        for dtype in ("bf16", "fp8") if describe(device).fp8 else ("bf16",):
            network = network_of(bench, dtype)
            measure_dtype(bench, network, dtype, batch, tables)
            del network
    for name, rows in tables.items():
        report.table(name, f"{name}, {batch.size} tokens, {batch.used} of them of {len(batch.keys)} proteins", rows)


def measure_dtype(
    bench: Bench, network: ESM2, dtype: str, batch: PackedBatch[int], tables: Mapping[str, list[Row]]
) -> None:
    """One dtype's rows of every table."""
    work = forward_pass(bench, network, batch)
    clock = 1000 * bench.seconds(work)
    kernels = kernels_of(work)
    kinds, times = kinds_of([name for name, _ in kernels]), Counter[str]()
    for kind, (_, time) in zip(kinds, kernels, strict=True):
        times[kind] += time / PASSES  # type: ignore[assignment]
    total = sum(times.values())
    rate = 1000 * batch.used / clock
    tables["passes"].append({"dtype": dtype, "tokens/s": rate, "ms": clock, "kernels": total, "idle": clock - total})
    tables["products"].extend(product_rows(bench, network, dtype, batch.size))
    config = bench.scale.esm_config
    for kind, time in times.most_common():
        width = config.intermediate if kind == "gelu" else config.dim
        moved = MOVED[dtype].get(kind, 0) * 2 * batch.size * width * config.layers
        row: dict[str, object] = {"dtype": dtype, "kind": kind, "ms": time, "share": time / clock}
        tables["kernels"].append(row | ({"GB/s": moved / time / 1e6} if moved else {}))
    named = {(kind, name) for kind, (name, _) in zip(kinds, kernels, strict=True) if kind in PRODUCTS}
    tables["names"].extend({"dtype": dtype, "kind": kind, "name": name[:100]} for kind, name in sorted(named))


def main() -> None:
    """Read the options, measure, report."""
    command = parser(__doc__)
    command.add_argument("--budget", type=int, default=8192, help="tokens of a batch")
    args = command.parse_args()
    if args.quick:
        args.budget = 1024
    measure(args, Report("esm_profile", args, torch.device("cuda") if torch.cuda.is_available() else None))


if __name__ == "__main__":
    run_main(main)
