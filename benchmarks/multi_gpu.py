"""What more GPUs of one host bring: `python -m benchmarks.multi_gpu --gpus 1 2 4 --json multi_gpu.json`.

DNABERT-S and ESM-2 3B, random weights, BF16, over the same input on each number of GPUs: work files of very unequal
sizes, handed out by the work queue, from FASTA to one HDF5 into which results are merged meanwhile, as `embed` does.
Time runs from the moment that all workers are ready to the end of the last work file, and on to the end of the merged
file; starting processes and loading weights is shown beside. At the end a worker is killed in the middle of a run on
all GPUs. The sha256 of the merged file is the same each time, or the command ends with exit code 1.

`--device cpu --quick` tries the script without a GPU.
"""

from __future__ import annotations

import argparse
import multiprocessing
import shutil
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

import torch

from benchmarks.bench import QUICK, WHOLE, Scale
from benchmarks.common import EngineRun, Report, Row, parser, random_sequences, run_main, write_files, write_model
from benchmarks.esm import random_esm_worker, random_proteins
from benchmarks.scaling import together, unequal_sizes
from virnucpro.errors import DeviceError
from virnucpro.io.files import sha256_of
from virnucpro.io.results import open_result
from virnucpro.io.store import read_result
from virnucpro.models.registry import resolve
from virnucpro.pipeline.events import FileDone, Heard, Progress, Ready
from virnucpro.pipeline.launch_local import Workers
from virnucpro.pipeline.merge import Merge
from virnucpro.pipeline.parallel_dnabert import process_dnabert_files_worker
from virnucpro.pipeline.work_queue import Worker, WorkQueue

SPAWN = multiprocessing.get_context("spawn")


def dnabert_worker(
    file_subset: Iterable[Path], device_id: str, batch_size: int, output_dir: Path, **kwargs: Any
) -> None:
    """The engine's worker, started together with the others."""
    files = _when_all_are_ready(file_subset, kwargs.pop("barrier"))
    process_dnabert_files_worker(files, device_id, batch_size, output_dir, **kwargs)


def esm_worker(file_subset: Iterable[Path], device_id: str, batch_size: int, output_dir: Path, **kwargs: Any) -> None:
    """The same for ESM-2."""
    files = _when_all_are_ready(file_subset, kwargs.pop("barrier"))
    random_esm_worker(files, device_id, batch_size, output_dir, **kwargs)


def _when_all_are_ready(files: Iterable[Path], barrier: Barrier | None) -> Iterable[Path]:
    """A worker that takes a killed one's place has nobody to wait for: no barrier there."""
    return files if barrier is None else together(files, barrier)


@dataclass(frozen=True)
class Task:
    """An encoder, its work files, and how its workers are called."""

    name: str
    worker: Worker
    counts: Mapping[Path, int]
    options: Mapping[str, object]
    budget: int


@dataclass(frozen=True)
class Outcome:
    """A run with its merged file. `merge_seconds` come behind those of the run; `killed` is a worker's number."""

    run: EngineRun
    merge_seconds: float
    sha256: str
    rows: int
    killed: int | None = None


class Watch:
    """Notes when the workers are ready and when files end; with `kill`, one worker is killed when half of them have."""

    def __init__(self, files: int, kill: bool) -> None:
        self.began = self.ready = self.end = time.perf_counter()
        self.left, self.kill = files // 2, kill
        self.killed: int | None = None

    def follow(self, queue: WorkQueue, merge: Merge) -> None:
        """Set before the queue runs: whose events these are, and what else hears them."""
        self.queue, self.merge = queue, merge
        queue.on_event = self.take

    def take(self, index: int | None, event: Heard) -> None:
        """One event of worker `index`."""
        self.merge.hear(event)
        if isinstance(event, Ready) and self.killed is None:
            self.ready = time.perf_counter()
        if isinstance(event, (FileDone, Progress)):
            self.end = time.perf_counter()
        self.left -= isinstance(event, FileDone)
        if self.kill and self.left == 0 and self.killed is None and index is not None:
            self.queue.launcher.kill(index)
            self.killed = index


def run(task: Task, devices: Sequence[str], folder: Path, kill: bool = False) -> Outcome:
    """Embed and merge."""
    (folder / "shards").mkdir(parents=True)
    watch = Watch(len(task.counts), kill)
    options = dict(task.options) | {"barrier": None if kill else SPAWN.Barrier(len(devices))}
    shards = {path: folder / "shards" / f"{path.name}.h5" for path in task.counts}
    with Workers() as workers, Merge(open_result([folder / "merged.h5"], {}, "hdf5"), shards) as merge:
        given = task.worker, devices, task.budget, folder / "shards", task.counts, options
        queue = WorkQueue(*given, launch=workers.launch)  # as for the command: nobody waits for processes to end
        watch.follow(queue, merge)
        result = queue.run()
        if result.failed:
            raise RuntimeError(f"{len(result.failed)} files failed: {next(iter(result.failed.values()))}")
        merge.finish([*shards.values()])
        merge.result.finish()
        merge_seconds = time.perf_counter() - watch.end
        rows, sha256 = len(read_result(folder / "merged.h5")[0]), sha256_of(folder / "merged.h5")
    run = EngineRun(watch.end - watch.ready, watch.ready - watch.began, result.stats, result.done)
    shutil.rmtree(folder)
    return Outcome(run, merge_seconds, sha256, rows, watch.killed)


def task_rows(task: Task, device: str, numbers: Sequence[int], folder: Path) -> Iterator[Row]:
    """One row a number of devices, and one with a worker killed on the most of them, if that is more than one."""
    alone: Outcome | None = None
    for number in numbers:
        outcome = run(task, _devices(device, number), folder / f"{task.name}-{number}")
        alone = alone or outcome
        yield _row(task, str(number), outcome) | _scaling(outcome, alone, number / numbers[0])
    if numbers[-1] > 1:
        outcome = run(task, _devices(device, numbers[-1]), folder / f"{task.name}-killed", kill=True)
        yield _row(task, f"{numbers[-1]}, worker {outcome.killed} killed", outcome)


def _devices(device: str, number: int) -> list[str]:
    return [f"cuda:{i}" if device == "cuda" else device for i in range(number)]


def _row(task: Task, gpus: str, outcome: Outcome) -> dict[str, object]:
    engine = outcome.run
    busy = engine.busy_seconds
    return {
        "network": task.name,
        "GPUs": gpus,
        "sequences": outcome.rows,
        "seconds": engine.seconds,
        "merge s": outcome.merge_seconds,
        "sequences/s": engine.sequences / engine.seconds,
        "busy share": "  ".join(f"{seconds / engine.seconds:.3f}" for seconds in busy),
        "busy max/mean": max(busy) / (sum(busy) / len(busy)),
        "startup s": engine.startup_seconds,
        "sha256": outcome.sha256,
    }


def _scaling(outcome: Outcome, alone: Outcome, times: float) -> dict[str, object]:
    """How many times as fast as on the fewest devices: without the merging, and with it."""
    with_merge = [each.run.seconds + each.merge_seconds for each in (alone, outcome)]
    return {
        "speed-up": alone.run.seconds / outcome.run.seconds,
        "with merge": with_merge[0] / with_merge[1],
        "of ideal": alone.run.seconds / outcome.run.seconds / times,
    }


def tasks(folder: Path, args: argparse.Namespace, scale: Scale) -> Iterator[Task]:
    """Inputs are made here; a task's files are deleted with the folder."""
    if args.sequences:
        model = resolve(str(write_model(folder / "random", scale.config, args.seed)))
        sequences = random_sequences(args.sequences, args.seed)
        sizes = unequal_sizes(args.sequences, max(1, args.sequences // 2000), max(2, args.sequences // 80))
        counts = write_files(folder / "dna", sequences, sizes)
        yield Task("DNABERT-S", dnabert_worker, counts, {"model": model, "dtype": "bf16"}, args.dna_tokens)
    if args.proteins:
        proteins = random_proteins(args.proteins, args.seed)
        sizes = unequal_sizes(args.proteins, max(1, args.proteins // 1000), max(2, args.proteins // 80))
        options = {"config": scale.esm_config, "seed": args.seed, "dtype": "bf16"}
        counts = write_files(folder / "proteins", proteins, sizes)
        yield Task("ESM-2", esm_worker, counts, options, args.protein_tokens)


def parse_args(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    made = parser(__doc__.splitlines()[0] if __doc__ else None)
    made.add_argument(
        "--gpus", type=int, nargs="+", default=[1, 2, 4], metavar="N", help="numbers of GPUs, from few up"
    )
    made.add_argument("--device", choices=("cuda", "cpu"), default="cuda", help="cpu with --quick tries the script")
    made.add_argument("--sequences", type=int, default=400_000, help="of DNA, 500 bases each; 0 leaves DNABERT-S out")
    made.add_argument("--proteins", type=int, default=20_000, help="of 166 residues; 0 leaves ESM-2 out")
    made.add_argument("--dna-tokens", type=int, default=32768, help="tokens a batch of DNA")
    made.add_argument("--protein-tokens", type=int, default=8192, help="tokens a batch of proteins")
    return made.parse_args(arguments)


def main() -> None:
    """Measure and report."""
    args = parse_args()
    if args.device == "cuda" and torch.cuda.device_count() < max(args.gpus):
        raise DeviceError(
            f"this machine has {torch.cuda.device_count()} GPUs, not {max(args.gpus)}",
            hint="say how many with --gpus; --device cpu --quick tries the script on a CPU",
        )
    report = Report("multi_gpu", args, torch.device(args.device))
    began = time.perf_counter()
    rows: list[Row] = []
    with tempfile.TemporaryDirectory(prefix="virnucpro-") as folder:
        for task in tasks(Path(folder), args, QUICK if args.quick else WHOLE):
            rows += task_rows(task, args.device, args.gpus, Path(folder))
            report.table("multi_gpu", "FASTA → merged HDF5", rows)
    print(f"\n{time.perf_counter() - began:.0f} s in all")
    if len({(row["network"], row["sha256"]) for row in rows}) != len({row["network"] for row in rows}):
        sys.exit("error: the merged files differ")


if __name__ == "__main__":
    run_main(main)
