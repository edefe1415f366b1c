"""A Ray cluster of two nodes on one host beside its two GPUs: `python -m benchmarks.ray_two_nodes --json nodes.json`.

Each node has one of the GPUs. The same sequences are embedded by a network of the shape of DNABERT-S, with `-d 0,1` and
with `--ray`, in turns; the sha256 of the results is the same, or the command ends with exit code 1. Speed runs from the
first worker ready to the last work file done, so that starting processes does not count. `--device cpu --quick` tries
the script without a GPU, on two nodes of one core.
"""

from __future__ import annotations

import sys
import tempfile
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
from virnucpro.io.files import sha256_of
from virnucpro.runs.config import EmbedConfig
from virnucpro.runs.embed import run_embed

#: Bytes of the object stores of the nodes: a result of 10,000 sequences has 31 million.
STORE = 2 << 30


def start_nodes(gpus: bool) -> Any:
    """A head that computes nothing, and two nodes with a device each."""
    from ray.cluster_utils import Cluster as Nodes

    settings = {"node_ip_address": "127.0.0.1", "object_store_memory": STORE, "include_dashboard": False}
    nodes = Nodes(initialize_head=True, head_node_args={"num_cpus": 0, **settings})
    for number in range(2):
        device = {"num_gpus": 1, "env_vars": {"CUDA_VISIBLE_DEVICES": str(number)}} if gpus else {}
        nodes.add_node(num_cpus=4 if gpus else 1, **device, **settings)
    return nodes


def measure(config: EmbedConfig, way: str, turn: int) -> Row:
    """One run."""
    result = run_embed(replace(config, output=config.output.with_name(f"{way}{turn}.h5")))
    seconds = max(stats.seconds for stats in result.devices)
    return {
        "way": way,
        "turn": turn,
        "workers": len(result.devices),
        "sequences/s": result.sequences / seconds,
        "files, each": ", ".join(str(stats.files) for stats in result.devices),
        "busy, each": ", ".join(f"{stats.busy_share:.0%}" for stats in result.devices),
        "sha256": sha256_of(result.output),
    }


def main() -> None:
    """Both ways in turns."""
    command = parser(__doc__)
    command.add_argument("--device", choices=("cuda", "cpu"), default="cuda", help="what the nodes have")
    command.add_argument("--sequences", type=int, default=400_000, help="of 500 bases")
    command.add_argument("--turns", type=int, default=2, help="the first one warms the machine up")
    args = command.parse_args()
    gpus, number = args.device == "cuda", 400 if args.quick else args.sequences
    report = Report("ray_two_nodes", args)
    nodes = start_nodes(gpus)
    try:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            model = write_model(folder / "model", SMALL if args.quick else FULL, args.seed)
            (path,) = write_files(folder / "in", random_sequences(number, args.seed), even_sizes(number, 1))
            local = EmbedConfig((path,), folder / "o.h5", model=str(model), device="0,1" if gpus else "cpu,cpu")
            there = replace(local, device=args.device, ray=str(nodes.address))
            ways = {"-d 0,1" if gpus else "-d cpu,cpu": local, "--ray": there}
            rows: list[Row] = []
            for turn in range(1 if args.quick else args.turns):
                rows += [measure(config, way, turn) for way, config in ways.items()]
                report.table("ways", "two GPUs of one host, and two nodes with one each", rows)
    finally:
        nodes.shutdown()
    if len({row["sha256"] for row in rows}) > 1:
        sys.exit("the results differ")


if __name__ == "__main__":
    run_main(main)
