"""One device under measurement: its model, its clock, and runs of the engine on it."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from benchmarks.common import (
    FULL,
    SMALL,
    TOKENIZER_FILE,
    EngineRun,
    Report,
    even_sizes,
    median,
    run_engine,
    write_files,
    write_model,
)
from virnucpro.core.device import memory_gib, optimal_tokens
from virnucpro.models.dnabert_s import DNABERTConfig
from virnucpro.models.registry import resolve
from virnucpro.models.tokenizer import DNATokenizer
from virnucpro.pipeline.base_worker import TORCH_DTYPES
from virnucpro.pipeline.parallel_dnabert import DNABERTWorker, process_dnabert_files_worker

#: Forward passes between two looks at the clock, so that a GPU never runs dry in between.
PASSES = 4


@dataclass(frozen=True)
class Scale:
    """How much is measured."""

    config: DNABERTConfig
    matrix: int
    sizes: dict[str, tuple[int, ...]]
    repeats: int
    end_to_end: int
    files: int
    padded: int
    bits: int
    mixed: int
    longest_bases: int
    bit_budgets: tuple[int, ...]


ALL_SIZES = (2048, 4096, 8192, 16384, 32768, 65536)
WHOLE = Scale(
    FULL, 8192, {"bf16": ALL_SIZES, "fp32": ALL_SIZES[::2]}, 7, 40_000, 20, 4000, 2000, 300, 14_200, (2048, 0)
)
QUICK = Scale(SMALL, 256, {"bf16": (256, 512), "fp32": (512,)}, 2, 60, 3, 40, 40, 12, 2400, (256,))


class Bench:
    """What all parts share: the model, the device, a folder for files, and the report."""

    def __init__(self, folder: Path, device: torch.device, scale: Scale, seed: int, report: Report) -> None:
        self.folder, self.device, self.scale, self.seed, self.report = folder, device, scale, seed, report
        self.model = resolve(str(write_model(folder / "random", scale.config, seed)))
        self.tokenizer = DNATokenizer(TOKENIZER_FILE)
        self.runs = 0

    def worker(self, dtype: str, budget: int) -> DNABERTWorker:
        """A worker of this process with its model loaded."""
        worker = DNABERTWorker(self.model, dtype)
        worker.load(self.device, TORCH_DTYPES[dtype], budget)
        return worker

    def default_budget(self, dtype: str) -> int:
        """The engine's own choice for this device."""
        return optimal_tokens(self.device.type, dtype, memory_gib(self.device))

    def embed(self, sequences: dict[str, str], files: int, dtype: str, budget: int, workers: int = 1) -> EngineRun:
        """Sequences in their order through the engine, in a folder of its own."""
        self.runs += 1
        here = self.folder / f"run{self.runs}"
        counts = write_files(here / "in", sequences, even_sizes(len(sequences), files))
        devices = [str(self.device)] * workers
        return run_engine(
            process_dnabert_files_worker, devices, budget, here / "out", counts, model=self.model, dtype=dtype
        )

    def sync(self) -> None:
        """Wait for the device."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def seconds(self, work: Callable[[], object]) -> float:
        """Median time of one call of `work` after a warm-up, by the device's own clock."""
        for _ in range(PASSES):
            work()
        return median(self._seconds(work) for _ in range(self.scale.repeats)) / PASSES

    def _seconds(self, work: Callable[[], object]) -> float:
        if self.device.type != "cuda":
            began = time.perf_counter()
            for _ in range(PASSES):
                work()
            return time.perf_counter() - began
        first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
        first.record()
        for _ in range(PASSES):
            work()
        last.record()
        last.synchronize()
        return float(first.elapsed_time(last)) / 1000
