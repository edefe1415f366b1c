"""What a run on a Ray cluster costs the host that drives it: `python -m benchmarks.ray_driver --json driver.json`.

Two simulated devices on nodes of this host answer at once, with as many bytes as real ones would, whatever is in the
file. Nothing is computed: what is measured is handing out, sending, receiving, and writing. `CPU ms` is what the two
processes of the driver used for a work file (the run, and its client, which talks to Ray); it counts where the devices
are other machines. `files/s` here is of all processes together on this host, nodes and workers included.

    predict     a work file of 2,000 windows of 500 bases with as many proteins in, scores out
    embed       10,000 sequences of 500 bases in, embeddings of 768 numbers out
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import psutil

from benchmarks.common import Report, Row, parser, run_main
from virnucpro.pipeline.cluster import Cluster
from virnucpro.pipeline.events import FLUSH, FileDone, Progress, Ready
from virnucpro.pipeline.work_queue import WorkQueue

#: Bytes of the object stores of the nodes.
STORE = 512 << 20


class Load(NamedTuple):
    """Bytes of a work file's DNA, of its proteins, and of its results; how many files."""

    dna: int
    proteins: int
    answer: int
    files: int


LOADS = {"predict": Load(1_060_000, 370_000, 218_000, 300), "embed": Load(5_300_000, 0, 31_000_000, 30)}


def answer_at_once(
    file_subset: Iterable[Path | None], device_id: str, batch_size: int, output_dir: Path, **kwargs: Any
) -> None:
    """A worker whose results have the right size and say nothing."""
    sink = kwargs["progress_queue"]
    content = os.urandom(kwargs["answer"])
    sink.put(Ready())
    for path in file_subset:
        if path is not FLUSH:
            path.read_bytes()
            output = output_dir / f"{path.name}.h5"
            output.write_bytes(content)
            sink.put(Progress(1, 1, 0.0))
            sink.put(FileDone(path, output))


def measure(name: str, load: Load, address: str, folder: Path) -> Row:
    """One load over two devices."""
    from benchmarks.ray_driver import answer_at_once as worker  # by the name that nodes know it by

    counts = dict.fromkeys(written(folder, load), 1)
    cluster = Cluster(address, "cpu", [], None, 600)
    client = psutil.Process(cluster.process.pid)
    before, began = seconds(psutil.Process()), time.perf_counter()
    beside = (".faa",) if load.proteins else ()
    options = {"answer": load.answer}
    spent: list[float] = []
    queue = WorkQueue(
        worker,
        [device.label for device in cluster.devices],
        0,
        folder,
        counts,
        options,
        lambda _slot, _event: spent.__setitem__(slice(None), [seconds(client)]),
        launch=cluster.launch,
        beside=beside,
    )
    start = seconds(client)
    assert len(queue.run().done) == load.files
    wall, mine = time.perf_counter() - began, seconds(psutil.Process()) - before
    return {
        "load": name,
        "files": load.files,
        "kB in": (load.dna + load.proteins) / 1000,
        "kB out": load.answer / 1000,
        "files/s": load.files / wall,
        "CPU ms a file, run": 1000 * mine / load.files,
        "CPU ms a file, client": 1000 * (spent[0] - start) / load.files,
    }


def written(folder: Path, load: Load) -> list[Path]:
    """Work files."""
    folder.mkdir()
    paths = [folder / f"{number:05}.fna" for number in range(load.files)]
    for path in paths:
        path.write_bytes(b"A" * load.dna)
        if load.proteins:
            path.with_suffix(".faa").write_bytes(b"M" * load.proteins)
    return paths


def seconds(process: psutil.Process) -> float:
    """CPU time that a process has used."""
    times = process.cpu_times()
    return float(times.user + times.system)


def main() -> None:
    """Start two nodes, measure, stop them."""
    args = parser(__doc__).parse_args()
    os.environ["PYTHONPATH"] = str(Path(__file__).parent.parent)  # of the nodes
    from ray.cluster_utils import Cluster as Nodes

    settings = {"node_ip_address": "127.0.0.1", "object_store_memory": STORE, "include_dashboard": False}
    nodes = Nodes(initialize_head=True, head_node_args={"num_cpus": 1, **settings})
    nodes.add_node(num_cpus=1, **settings)
    report = Report("ray_driver", args)
    try:
        rows = []
        for name, load in LOADS.items():
            if args.quick:
                load = Load(load.dna // 1000, load.proteins // 1000, load.answer // 1000, 4)
            with tempfile.TemporaryDirectory() as folder:
                rows.append(measure(name, load, str(nodes.address), Path(folder) / "run"))
            report.table("driver", "what a work file costs the driver", rows)
    finally:
        nodes.shutdown()


if __name__ == "__main__":
    run_main(main)
