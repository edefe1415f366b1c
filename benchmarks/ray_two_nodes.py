"""A Ray cluster of two nodes on one host beside its two GPUs: `python -m benchmarks.ray_two_nodes --json nodes.json`.

Each node has one of the GPUs. The same input is embedded by a network of the shape of DNABERT-S, or of ESM-2 3B
(`--network esm2 --sequences 25000`), with `-d 0,1` and with `--ray`, in turns. The results have the same sha256, or the
command ends with exit code 1. Speed runs from the first worker ready to the last work file done; `seconds, each` from
a device's own worker ready on, so that one that came late shows; `whole s` is all of the run, with joining the cluster,
starting workers, splitting and merging. The nodes are there before the first run.
`--device cpu --quick` tries the script without a GPU, on two nodes of one core.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.common import (
    FULL,
    SMALL,
    Report,
    Row,
    even_sizes,
    parser,
    random_sequences,
    run_main,
    write_files,
    write_model,
)
from benchmarks.esm import ESM2_3B, ESM2_SMALL, random_proteins
from benchmarks.predict_gpu import write_esm
from virnucpro.core.device import available_threads
from virnucpro.io.files import sha256_of
from virnucpro.runs.config import EmbedConfig
from virnucpro.runs.embed import run_embed

#: Bytes of the object stores of the nodes: a result of 10,000 sequences has 31 million.
STORE = 2 << 30

#: What the nodes start with: this repository, and no eye on the memory of the host, which may grow as it is used.
SETTINGS = {"PYTHONPATH": str(Path(__file__).parent.parent), "RAY_memory_monitor_refresh_ms": "0"}


def start_nodes(gpus: bool) -> Any:
    """A head that computes nothing, and two nodes with a device each."""
    os.environ.update(SETTINGS)
    from ray.cluster_utils import Cluster as Nodes

    settings = {"node_ip_address": "127.0.0.1", "object_store_memory": STORE, "include_dashboard": False}
    nodes = Nodes(initialize_head=True, head_node_args={"num_cpus": 0, "num_gpus": 0, **settings})
    seen = os.environ.get("CUDA_VISIBLE_DEVICES", "0,1").split(",")
    for number in seen[:2]:
        device = {"num_gpus": 1, "env_vars": {"CUDA_VISIBLE_DEVICES": number}} if gpus else {}
        nodes.add_node(num_cpus=max(1, available_threads() // 2), **device, **settings)
    return nodes


def local_run(args: argparse.Namespace, folder: Path) -> EmbedConfig:
    """A model and its input, on both devices of this host."""
    esm, device = args.network == "esm2", args.device
    if esm:
        model = write_esm(folder / "model", ESM2_SMALL if args.quick else ESM2_3B, device, args.seed)
    else:
        model = write_model(folder / "model", SMALL if args.quick else FULL, args.seed)
    sequences = (random_proteins if esm else random_sequences)(args.sequences, args.seed)
    (path,) = write_files(folder / "in", sequences, even_sizes(args.sequences, 1))
    a_file = 500 if esm else 10_000
    devices = "0,1" if device == "cuda" else "cpu,cpu"
    return EmbedConfig((path,), folder / "o.h5", model=str(model), device=devices, sequences_per_file=a_file)


def measure(config: EmbedConfig, turn: int) -> Row:
    """One run."""
    way = "--ray" if config.ray else f"-d {config.device}"
    began = time.perf_counter()
    result = run_embed(replace(config, output=config.output.with_name(f"{way}{turn}.h5")))
    whole, seconds = time.perf_counter() - began, max(stats.seconds for stats in result.devices)
    row: Row = {
        "way": way,
        "turn": turn,
        "workers": len(result.devices),
        "sequences/s": result.sequences / seconds,
        "seconds": seconds,
        "whole s": whole,
        "sequences, each": ", ".join(str(stats.sequences) for stats in result.devices),
        "seconds, each": ", ".join(f"{stats.seconds:.1f}" for stats in result.devices),
        "busy, each": ", ".join(f"{stats.busy_share:.1%}" for stats in result.devices),
        "sha256": sha256_of(result.output),
    }
    result.output.unlink()
    return row


def turns(args: argparse.Namespace, ways: tuple[EmbedConfig, ...]) -> Iterator[list[Row]]:
    """Each way once a turn; a turn is left out that would not end in time."""
    began = time.perf_counter()
    for turn in range(args.turns):
        if (time.perf_counter() - began) * (turn + 1) > args.seconds * turn > 0:
            return
        yield [measure(config, turn) for config in ways]


def main() -> None:
    """Both ways in turns."""
    command = parser(__doc__)
    command.add_argument("--device", choices=("cuda", "cpu"), default="cuda", help="what the nodes have")
    command.add_argument("--network", choices=("dnabert", "esm2"), default="dnabert", help="whose shape it has")
    command.add_argument("--sequences", type=int, default=800_000, help="of 500 bases, or of 166 residues")
    command.add_argument("--turns", type=int, default=2, help="how often each way is taken")
    command.add_argument("--seconds", type=float, default=210, help="for all turns, as far as can be foreseen")
    args = command.parse_args()
    if args.quick:
        args.sequences, args.turns = 400, 1
    report = Report("ray_two_nodes", args)
    nodes = start_nodes(args.device == "cuda")
    rows: list[Row] = []
    try:
        with tempfile.TemporaryDirectory(prefix="virnucpro-") as name:
            local = local_run(args, Path(name))
            there = replace(local, device=args.device, ray=str(nodes.address))
            for both in turns(args, (local, there)):
                rows += both
                report.table("ways", "two GPUs of one host, and two nodes with one each", rows)
    finally:
        nodes.shutdown()
    if len({row["sha256"] for row in rows}) > 1:
        sys.exit("the results differ")


if __name__ == "__main__":
    run_main(main)
