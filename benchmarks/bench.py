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
from benchmarks.esm import ESM2_3B, ESM2_SMALL, RandomESMWorker, random_esm_worker
from virnucpro.core.device import describe
from virnucpro.models.dnabert_s import DNABERT, DNABERTConfig, load_dnabert
from virnucpro.models.esm2 import ESM2Config
from virnucpro.models.linear import prepack
from virnucpro.models.registry import resolve
from virnucpro.models.tokenizer import DNATokenizer
from virnucpro.pipeline.base_worker import TORCH_DTYPES
from virnucpro.pipeline.parallel_dnabert import DNABERTWorker, process_dnabert_files_worker
from virnucpro.pipeline.stream import Encoder
from virnucpro.pipeline.work_queue import Worker

#: Forward passes between two looks at the clock, so that a GPU never runs dry in between.
PASSES = 4


@dataclass(frozen=True)
class Scale:
    """How much is measured.

    matrix: side of the large product; sizes: tokens a batch, by dtype; end_to_end: sequences, in so many files;
    padded, published: sequences by those ways; bits, mixed: sequences of one length and of many, up to longest_bases,
    by each of bit_budgets; esm_…: the same for ESM-2.
    """

    config: DNABERTConfig
    matrix: int
    sizes: dict[str, tuple[int, ...]]
    repeats: int
    end_to_end: int
    files: int
    padded: int
    published: int
    bits: int
    mixed: int
    longest_bases: int
    bit_budgets: tuple[int, ...]
    esm_config: ESM2Config
    esm_sizes: tuple[int, ...]
    esm_end_to_end: int
    esm_bits: int


WHOLE = Scale(
    config=FULL,
    matrix=8192,
    sizes={"bf16": (2048, 4096, 8192, 16384, 32768, 65536), "fp32": (2048, 8192, 32768)},
    repeats=7,
    end_to_end=200_000,
    files=40,
    padded=4000,
    published=400,
    bits=2000,
    mixed=300,
    longest_bases=14_200,
    bit_budgets=(2048, 0),
    esm_config=ESM2_3B,
    esm_sizes=(4096, 8192, 16384, 32768),
    esm_end_to_end=12_000,
    esm_bits=600,
)
QUICK = Scale(
    config=SMALL,
    matrix=256,
    sizes={"bf16": (256, 512), "fp32": (512,)},
    repeats=2,
    end_to_end=60,
    files=3,
    padded=40,
    published=4,
    bits=40,
    mixed=12,
    longest_bases=2400,
    bit_budgets=(256,),
    esm_config=ESM2_SMALL,
    esm_sizes=(512,),
    esm_end_to_end=30,
    esm_bits=20,
)


class Bench:
    """What all parts share: the model, the device, a folder for files, and the report."""

    def __init__(self, folder: Path, device: torch.device, scale: Scale, seed: int, report: Report) -> None:
        self.folder, self.device, self.scale, self.seed, self.report = folder, device, scale, seed, report
        self.model = resolve(str(write_model(folder / "random", scale.config, seed)))
        self.tokenizer = DNATokenizer(TOKENIZER_FILE)
        self.runs = 0
        #: Tokens a second of the forward pass: (network, dtype, tokens a batch) → rate.
        self.rates: dict[tuple[str, str, int], float] = {}

    def encoder(self, dtype: str, budget: int) -> Encoder:
        """DNABERT-S, loaded in this process."""
        return DNABERTWorker(self.model, dtype).load(self.device, dtype, budget)

    def esm_encoder(self, dtype: str, budget: int) -> Encoder:
        """The same for ESM-2."""
        worker = RandomESMWorker(self.scale.esm_config, dtype, self.device, self.seed)
        return worker.load(self.device, dtype, budget)

    def network(self, dtype: str, budget: int) -> DNABERT:
        """The network of `encoder` alone."""
        network = load_dnabert(self.model.weights, self.model.config).to(self.device, TORCH_DTYPES[dtype])
        if self.device.type == "cpu":
            prepack(network, budget)
        return network

    def default_budget(self, dtype: str) -> int:
        """The engine's own choice for this device."""
        return DNABERTWorker(self.model, dtype).get_optimal_batch_size(describe(self.device))

    def embed(self, sequences: dict[str, str], files: int, dtype: str, budget: int, workers: int = 1) -> EngineRun:
        """DNA in its order through the engine, in a folder of its own."""
        options = {"model": self.model, "dtype": dtype}
        return self._run(process_dnabert_files_worker, sequences, files, budget, workers, options)

    def embed_proteins(self, proteins: dict[str, str], files: int, dtype: str, budget: int) -> EngineRun:
        """The same for proteins."""
        options = {"config": self.scale.esm_config, "seed": self.seed, "dtype": dtype}
        return self._run(random_esm_worker, proteins, files, budget, 1, options)

    def _run(
        self,
        worker: Worker,
        sequences: dict[str, str],
        files: int,
        budget: int,
        workers: int,
        options: dict[str, object],
    ) -> EngineRun:
        self.runs += 1
        here = self.folder / f"run{self.runs}"
        counts = write_files(here / "in", sequences, even_sizes(len(sequences), files))
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        return run_engine(worker, [str(self.device)] * workers, budget, here / "out", counts, **options)

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
