"""`virnucpro predict` over a set of the published shapes with random weights: one GPU, then two, the same bytes.

    python -m benchmarks.predict_gpu --mbp 60 --devices 0 0,1 --dtypes bf16 fp8 --json predict_gpu.json

Builds DNABERT-S, ESM-2 3B and a classifier with random weights and contigs of random genes, runs the whole command on
each list of devices, and tells its wall time from start to end, for how much of it each GPU was busy, the bytes of
results a frame that were written to the work folder, and whether all tables have the same sha256; of each run also its
log, by the seconds since its command began: when each stage began and ended, when each worker had come up, had weights
and passes ready, was done with its first batch and its last.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from datetime import datetime
from itertools import product
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from benchmarks.common import Report, Row, parser, run_main, write_model
from benchmarks.esm import ESM2_3B, ESM2_SMALL
from benchmarks.predict import write_contigs
from virnucpro.models.card import ClassifierCard, EncoderPin
from virnucpro.models.classifier import save
from virnucpro.models.dnabert_s import DNABERTConfig
from virnucpro.models.esm2 import ESM2Config
from virnucpro.models.registry import resolve

#: Width of the classifier's hidden layer, as published.
HIDDEN = 512
#: Seconds between two looks at the work folder.
LOOK_SECONDS = 0.2


def write_esm(folder: Path, config: ESM2Config, device: str, seed: int) -> Path:
    """ESM-2 as it is published, with random weights in BF16."""
    folder.mkdir(parents=True)
    generator = torch.Generator(device).manual_seed(seed)

    def numbers(*shape: int, around: float = 0.0) -> torch.Tensor:
        return (around + 0.03 * torch.randn(*shape, generator=generator, device=device)).to(torch.bfloat16).cpu()

    dim, wide = config.dim, config.intermediate
    shapes = {f"attention.self.{name}": (dim, dim) for name in ("query", "key", "value")}
    shapes |= {"attention.output.dense": (dim, dim), "intermediate.dense": (wide, dim), "output.dense": (dim, wide)}
    weights = {"esm.embeddings.word_embeddings.weight": numbers(config.vocab_size, dim)}
    for layer in range(config.layers):
        prefix = f"esm.encoder.layer.{layer}."
        for name, (rows, columns) in shapes.items():
            weights |= {f"{prefix}{name}.weight": numbers(rows, columns), f"{prefix}{name}.bias": numbers(rows)}
        for name in ("attention.LayerNorm", "LayerNorm"):
            weights |= {f"{prefix}{name}.weight": numbers(dim, around=1), f"{prefix}{name}.bias": numbers(dim)}
    weights |= {"esm.encoder.emb_layer_norm_after.weight": numbers(dim, around=1)}
    weights |= {"esm.encoder.emb_layer_norm_after.bias": numbers(dim)}
    half = config.head_dim // 2
    frequencies = (10000.0 ** -(torch.arange(half) / half)).half().float()
    weights["esm.encoder.layer.0.attention.self.rotary_embeddings.inv_freq"] = frequencies
    save_file(weights, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps({"model_type": "esm", "num_attention_heads": config.heads}))
    return folder


def write_set(folder: Path, dna: DNABERTConfig, esm: ESM2Config, device: str, seed: int) -> None:
    """A model set, encoders and all, in `folder`, `set` and beside it."""
    folders = write_model(folder / "dna", dna, seed), write_esm(folder / "esm", esm, device, seed)
    dims = dna.hidden_size, esm.dim
    pins = [EncoderPin(str(path), dim, (resolve(str(path)).sha256,)) for path, dim in zip(folders, dims, strict=True)]
    card = ClassifierCard(
        "random", False, window=(500,), dna=pins[0], protein=pins[1], citation="none", licence="MIT", source="random"
    )
    features, generator = sum(dims), torch.Generator().manual_seed(seed)
    state = {
        "hidden.weight": 0.02 * torch.randn(HIDDEN, features, generator=generator),
        "hidden.bias": torch.zeros(HIDDEN),
        "norm.weight": torch.ones(HIDDEN),
        "norm.bias": torch.zeros(HIDDEN),
        "norm.running_mean": torch.zeros(HIDDEN),
        "norm.running_var": torch.ones(HIDDEN),
        "output.weight": 0.05 * torch.randn(2, HIDDEN, generator=generator),
        "output.bias": torch.zeros(2),
    }
    save(folder / "set", state, card)


class Watched(threading.Thread):
    """Looks at a folder until it is stopped; `most`: the most bytes of results that were in it."""

    def __init__(self, folder: Path) -> None:
        super().__init__(daemon=True)
        self.folder, self.most, self.ended = folder, 0, threading.Event()

    def run(self) -> None:
        """Look again and again: the run removes the folder at its end."""
        while not self.ended.wait(LOOK_SECONDS):
            sizes = []
            for path in self.folder.glob("*/shards/*.h5"):
                try:
                    sizes.append(path.stat().st_size)
                except OSError:
                    continue
            self.most = max(self.most, sum(sizes))


def timeline(log: Path, began: float, ended: float) -> list[Row]:
    """The lines of a log, by seconds since its command began; work files that are done are too many to be told."""
    events = [(0.0, "the command begins"), (ended - began, "the command has ended")]
    for line in log.read_text(encoding="utf-8").splitlines():
        time_and_date, _, message = line.partition(" virnucpro.")
        if message:
            at = datetime.strptime(" ".join(time_and_date.split()[:2]), "%Y-%m-%d %H:%M:%S,%f").timestamp()
            events.append((at - began, message.partition(": ")[2]))
    return [{"seconds": seconds, "what": what} for seconds, what in sorted(events)]


def predict_row(
    path: Path, folder: Path, model: Path, devices: str, dtype: str, options: Sequence[str]
) -> tuple[Row, list[Row]]:
    """One run of the command, with the sha256 of all its tables, and its timeline."""
    command = [sys.executable, "-m", "virnucpro", "predict", str(path), "-o", str(folder), "--model", str(model)]
    watched = Watched(folder)
    watched.start()
    began = time.time()
    subprocess.run([*command, "-d", devices, "--dtype", dtype, "-q", *options], check=True)
    wall = time.time() - began
    watched.ended.set()
    watched.join()
    record = json.loads(next(folder.glob("*.run.json")).read_text(encoding="utf-8"))
    busy = [each["busy_seconds"] for each in record["devices"]]
    row: dict[str, Any] = {
        "dtype": dtype,
        "devices": devices,
        "seconds": wall,
        "busy share": min(busy) / wall,
        **record["stages"],
    }
    row["frames"] = record["result"]["frames"]
    row["bytes a frame"] = watched.most / max(1, row["frames"])
    row["sha256"] = digest(folder)
    return row, timeline(next(folder.glob("*.log")), began, began + wall)


def digest(folder: Path) -> str:
    """Of all files that do not hold times."""
    found = hashlib.sha256()
    for path in sorted(folder.iterdir()):
        if path.is_file() and path.suffix not in (".json", ".log"):
            found.update(path.name.encode() + hashlib.sha256(path.read_bytes()).digest())
    return found.hexdigest()


def measure(args: argparse.Namespace, folder: Path, report: Report) -> None:
    """One run for each list of devices."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    small = DNABERTConfig(num_hidden_layers=1, hidden_size=64, intermediate_size=128, num_attention_heads=4)
    shapes = (small, ESM2_SMALL) if args.quick else (DNABERTConfig(), ESM2_3B)
    path = folder / "in.fa"
    if not path.exists():
        write_set(folder, *shapes, device, args.seed)
        write_contigs(path, args.mbp, args.seed)
    rows: list[Row] = []
    digests: dict[str, set[object]] = {dtype: set() for dtype in args.dtypes}
    for dtype, devices in product(args.dtypes, args.devices):
        results = Path(tempfile.mkdtemp(prefix=f"{dtype}-", dir=folder))
        row, events = predict_row(path, results, folder / "set", devices, dtype, args.options.split())
        rows.append(row)
        digests[dtype].add(row["sha256"])
        report.table(f"timeline {dtype} {devices}", f"{dtype}, {devices}: the log by seconds", events)
        report.table("runs", f"predict, {args.mbp:g} Mbp", rows)
    each = [{"dtype": dtype, "different results": len(found)} for dtype, found in digests.items()]
    report.table("identity", "sha256 of all tables", each)


def main() -> None:
    """Read the options, measure, report."""
    command = parser(__doc__)
    command.add_argument("--mbp", type=float, default=60, help="size of the input, in millions of bases")
    command.add_argument("--devices", nargs="+", default=["0", "0,1"], help="a list of devices for each run")
    command.add_argument("--dtypes", nargs="+", default=["auto"], help="of each list of devices a run in each")
    command.add_argument("--options", default="", help="further options of `virnucpro predict`, in one word")
    command.add_argument("--folder", type=Path, help="where the set and its input are kept, or are found")
    args = command.parse_args()
    if args.quick:
        args.mbp, args.devices = 0.05, ["cpu", "cpu,cpu"]
    report = Report("predict_gpu", args)
    if args.folder:
        args.folder.mkdir(exist_ok=True)
        measure(args, args.folder, report)
        return
    with tempfile.TemporaryDirectory(prefix="virnucpro-") as folder:
        measure(args, Path(folder), report)


if __name__ == "__main__":
    run_main(main)
