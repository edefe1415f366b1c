"""How speed grows with the number of workers: `python -m benchmarks.scaling --json scaling.json`.

Part 1: two CPU workers of one thread each beside one worker of one thread, with a real network of middling size. One
worker runs in this process and reads and writes in threads beside its computing one, so it uses some of a second core
already. A third line, two bare products of matrices in two processes beside one, says what the machine itself allows.

Part 2: 1, 2, 4 and 8 simulated devices. A simulated device computes by sleeping for as long as its speed says, and
returns zeros; reading, tokenizing, packing, handing out files, and writing are real. So the machine must feed 8 devices
with the cores it has; the speed of a device is chosen so that two cores can. Work files of equal size, of very unequal
sizes, and as `virnucpro embed` cuts them; all devices alike, and one three times slower than the rest.

A barrier holds the workers until the last of them is ready. Time runs from then to the end of the last file; starting
processes and importing torch is printed beside. "over ideal" compares with one device's time divided by the devices'
added speeds.
"""

from __future__ import annotations

import argparse
import multiprocessing
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from multiprocessing.queues import SimpleQueue
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.common import (
    SMALL,
    TOKENIZER_FILE,
    EngineRun,
    Report,
    Row,
    even_sizes,
    median,
    parser,
    random_sequences,
    run_engine,
    run_main,
    write_files,
    write_model,
)
from virnucpro.input.cut import Cutter, Rules
from virnucpro.models.attention import PackedLayout
from virnucpro.models.dnabert_s import DNABERTConfig
from virnucpro.models.local import LocalModel
from virnucpro.models.registry import resolve
from virnucpro.models.tokenizer import DNATokenizer
from virnucpro.pipeline.base_worker import set_up_worker_logging
from virnucpro.pipeline.parallel_dnabert import DNABERTWorker, process_dnabert_files_worker
from virnucpro.pipeline.stream import Encoder
from virnucpro.runs.config import DEFAULT_SEQUENCES_PER_FILE
from virnucpro.runs.paths import RunPaths

SPAWN = multiprocessing.get_context("spawn")

#: Seconds that a worker waits for the others to become ready.
PATIENCE = 300.0

MIDDLING = DNABERTConfig(hidden_size=512, num_hidden_layers=6, num_attention_heads=8, intermediate_size=2048)

#: How much slower the slow device is.
SLOWER = 3


@dataclass(frozen=True)
class Scale:
    """How much is measured. Simulated devices: tokens a second, tokens a batch."""

    config: DNABERTConfig
    cpu_sequences: int
    repeats: int
    products: int
    devices: tuple[int, ...]
    sequences: int
    equal_files: int
    smallest: int
    largest: int
    kinds: tuple[str, ...] = ("equal", "unequal", "as cut")
    speed: int = 44_000
    budget: int = 1024


WHOLE = Scale(MIDDLING, 800, 3, 60, (1, 2, 4, 8), 24_000, 240, 20, 2500)
QUICK = Scale(SMALL, 60, 1, 3, (1, 2), 300, 12, 5, 60, ("as cut",))


# Workers that start together.


def together(files: Iterable[Path], barrier: Barrier) -> Iterator[Path]:
    """The same files, once every worker is ready for its first."""
    barrier.wait(PATIENCE)
    yield from files


def cpu_worker(file_subset: Iterable[Path], device_id: str, batch_size: int, output_dir: Path, **kwargs: Any) -> None:
    """The engine's worker, started together with the others."""
    files = together(file_subset, kwargs.pop("barrier"))
    process_dnabert_files_worker(files, device_id, batch_size, output_dir, **kwargs)


#: Numbers of an embedding of DNABERT-S.
DIM = 768


class SimulatedWorker(DNABERTWorker):
    """A device that computes by sleeping; all else is the engine's."""

    def __init__(self, model: LocalModel, tokens_a_second: float) -> None:
        super().__init__(model, "fp32")
        self.tokens_a_second = tokens_a_second

    def load(self, device: torch.device, dtype: str, budget: int) -> Encoder:
        """Only the tokenizer is loaded; embeddings are as wide as DNABERT-S's."""
        tokenizer = DNATokenizer(TOKENIZER_FILE)
        return Encoder(self.alphabet, self.shortest, DIM, budget, tokenizer.pad_id, tokenizer.encode, self.embed)

    def embed(self, tokens: torch.Tensor, layout: PackedLayout, used: int) -> torch.Tensor:
        """Zeros, after the time that a device needs for the whole buffer."""
        time.sleep(len(tokens) / self.tokens_a_second)
        return torch.zeros(len(layout.lengths), DIM)


def simulated_worker(
    file_subset: Iterable[Path], device_id: str, batch_size: int, output_dir: Path, **kwargs: Any
) -> None:
    """A worker on a simulated device; `speeds` has the tokens a second of each."""
    if kwargs.get("forward_logs"):
        set_up_worker_logging(kwargs["progress_queue"], torch.device(device_id))
    worker = SimulatedWorker(kwargs["model"], kwargs.pop("speeds")[device_id])
    files = together(file_subset, kwargs.pop("barrier"))
    worker.process_files_worker(files, device_id, batch_size, output_dir, **kwargs)


# Part 1: processes that compute.


def cpu_table(folder: Path, scale: Scale, seed: int, report: Report) -> None:
    """One worker and two in turns; medians."""
    model = resolve(str(write_model(folder / "middling", scale.config, seed)))
    sequences = random_sequences(scale.cpu_sequences, seed)
    counts = write_files(folder / "cpu", sequences, even_sizes(len(sequences), 20))

    def run(workers: int, repeat: int) -> EngineRun:
        return run_engine(
            cpu_worker, ["cpu"] * workers, 0, folder / f"cpu-{workers}-{repeat}", counts,
            model=model, threads=1, barrier=SPAWN.Barrier(workers),
        )  # fmt: skip

    run(1, -1)  # warm-up
    runs = [(run(1, repeat), run(2, repeat), *bare_seconds(scale.products)) for repeat in range(scale.repeats)]
    ones, twos, bare_ones, bare_twos = zip(*runs, strict=True)
    one, two = (median(run.seconds for run in runs) for runs in (ones, twos))
    rows = [
        _cpu_row("1 worker", 1, len(sequences), one, 1.0),
        _cpu_row("2 workers", 2, len(sequences), two, one / two),
        {"what": "bare products, 2 processes", "workers": 2, "speed-up": 2 * median(bare_ones) / median(bare_twos)},
    ]
    report.table("cpu_workers", "CPU workers of one thread each", rows)


def _cpu_row(what: str, workers: int, sequences: int, seconds: float, speedup: float) -> Row:
    row = {"what": what, "workers": workers, "speed-up": speedup}
    return row | {"seconds": seconds, "sequences/s": sequences / seconds}


def bare_seconds(products: int) -> tuple[float, float]:
    """Seconds of some products of matrices: in one process alone, and in the slower of two at once."""
    barrier, results = SPAWN.Barrier(2), SPAWN.SimpleQueue()
    running = [SPAWN.Process(target=_products, args=(first, products, barrier, results)) for first in (True, False)]
    for process in running:
        process.start()
    found = [results.get() for _ in range(3)]
    for process in running:
        process.join()
    together = [seconds for alone, seconds in found if not alone]
    return next(seconds for alone, seconds in found if alone), max(together)


def _products(first: bool, products: int, barrier: Barrier, results: SimpleQueue[tuple[bool, float]]) -> None:
    torch.set_num_threads(1)
    _multiply(products)
    barrier.wait(PATIENCE)
    if first:
        results.put((True, _multiply(products)))
    barrier.wait(PATIENCE)
    results.put((False, _multiply(products)))


def _multiply(products: int) -> float:
    a, b = torch.randn(1024, 512), torch.randn(512, 2048)
    began = time.perf_counter()
    for _ in range(products):
        a @ b
    return time.perf_counter() - began


# Part 2: simulated devices.


@dataclass(frozen=True)
class Case:
    """Work files on some devices, the last of them slower if `slow`."""

    files: str
    counts: Mapping[Path, int]
    devices: int
    slow: bool = False

    @property
    def speeds(self) -> dict[str, float]:
        """Speed of each device, 1 being a whole one's."""
        names = [f"cpu:{i}" for i in range(self.devices)]
        return {name: 1 / SLOWER if self.slow and name == names[-1] else 1.0 for name in names}


def simulated_table(folder: Path, scale: Scale, seed: int, report: Report) -> None:
    """Each case once: a sleeping device is hardly disturbed by what else a machine does."""
    model = resolve(str(write_model(folder / "unused", SMALL, seed)))
    files = work_files(folder / "simulated", scale, seed)
    cases = [Case(kind, files[kind], devices) for kind in scale.kinds for devices in scale.devices]
    cases += [Case(kind, files[kind], scale.devices[-1], slow=True) for kind in scale.kinds]
    rows: list[Row] = []
    alone: dict[str, float] = {}
    for number, case in enumerate(cases):
        run = simulate(case, model, scale, folder / f"case{number}")
        alone.setdefault(case.files, run.seconds)
        rows.append(_simulated_row(case, run, alone[case.files]))
        print(".", end="", flush=True)
    title = f"simulated devices of {scale.speed} tokens/s, batches of {scale.budget}"
    report.table("simulated_devices", title, rows)


def work_files(folder: Path, scale: Scale, seed: int) -> dict[str, dict[Path, int]]:
    """The same sequences in files of three kinds."""
    sequences = random_sequences(scale.sequences, seed)
    sizes = unequal_sizes(scale.sequences, scale.smallest, scale.largest)
    whole = next(iter(write_files(folder / "whole", sequences, [scale.sequences])))
    paths = RunPaths(folder / "cut.h5")
    paths.parts.mkdir(parents=True)
    cutter = Cutter(Rules(reads="records"), paths.part_file, DEFAULT_SEQUENCES_PER_FILE, scale.devices[-1])
    plan = cutter.cut([whole], [whole])
    return {
        "equal": write_files(folder / "equal", sequences, even_sizes(scale.sequences, scale.equal_files)),
        "unequal": write_files(folder / "unequal", sequences, sizes),
        "as cut": {paths.part_file(part.name, ".fa"): part.whole for part in plan.parts},
    }


def unequal_sizes(total: int, smallest: int, largest: int) -> list[int]:
    """Sizes from `smallest` to about `largest` in equal ratios that add up to `total`."""
    sizes: list[int] = []
    for files in range(2, total):
        sizes = np.geomspace(smallest, largest, files).astype(int).tolist()
        if sum(sizes) >= total:
            break
    sizes[-1] -= sum(sizes) - total
    return sizes


def simulate(case: Case, model: LocalModel, scale: Scale, output: Path) -> EngineRun:
    """Run one case."""
    speeds = {name: speed * scale.speed for name, speed in case.speeds.items()}
    return run_engine(
        simulated_worker, list(speeds), scale.budget, output, case.counts,
        model=model, threads=1, barrier=SPAWN.Barrier(case.devices), speeds=speeds,
    )  # fmt: skip


def _simulated_row(case: Case, run: EngineRun, alone: float) -> Row:
    busy = run.busy_seconds
    return {
        "files": case.files,
        "number": len(case.counts),
        "devices": f"{case.devices}, one slow" if case.slow else str(case.devices),
        "seconds": run.seconds,
        "speed-up": alone / run.seconds,
        "over ideal": f"{run.seconds * sum(case.speeds.values()) / alone - 1:.1%}",
        "busy max/mean": max(busy) / (sum(busy) / len(busy)),
        "sequences/s": run.sequences / run.seconds,
        "startup s": run.startup_seconds,
    }


def parse_args(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    made = parser(__doc__.splitlines()[0] if __doc__ else None)
    made.add_argument("--part", choices=("both", "cpu", "simulated"), default="both", help="what to measure")
    made.add_argument("--devices", type=int, nargs="+", metavar="N", help="numbers of simulated devices, from 1 up")
    return made.parse_args(arguments)


def main() -> None:
    """Measure and report."""
    args = parse_args()
    scale = QUICK if args.quick else WHOLE
    if args.devices:
        scale = replace(scale, devices=tuple(args.devices))
    report = Report("scaling", args)
    with tempfile.TemporaryDirectory(prefix="virnucpro-") as folder:
        if args.part != "simulated":
            cpu_table(Path(folder), scale, args.seed, report)
        if args.part != "cpu":
            simulated_table(Path(folder), scale, args.seed, report)


if __name__ == "__main__":
    run_main(main)
