"""DNABERT-S on one device of many: the worker that a run starts once a device.

Files reach workers by greedy bin-packing on their numbers of sequences (`assign_files_by_sequences`) and then one by
one from the work queue. A worker loads the model once, computes in BF16 where the device has it, and packs tokens into
batches sized to the device. Under the spawn context everything here is importable by name and nothing unpicklable
crosses; CUDA is first touched in the worker.

`virnucpro embed` does all this. To place workers by hand:

    if __name__ == "__main__":
        context = multiprocessing.get_context("spawn")
        plan = assign_files_by_sequences(files, num_workers=2)
        with context.Pool(2) as pool:
            jobs = [(plan[i], i, 0, Path("out")) for i in range(2)]  # 0 tokens: as suits the device
            for processed, failed in pool.starmap(process_dnabert_files_worker, jobs):
                ...
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from virnucpro.core.config import DEFAULT_MAX_TOKENS
from virnucpro.core.device import memory_gib, optimal_tokens
from virnucpro.errors import DeviceError, UsageError
from virnucpro.models.attention import PackedLayout, segment_mean
from virnucpro.models.dnabert_s import load_dnabert
from virnucpro.models.linear import prepack
from virnucpro.models.registry import LocalModel, resolve
from virnucpro.models.tokenizer import DNATokenizer
from virnucpro.pipeline.base_worker import (
    BaseEmbeddingWorker,
    assign_files_by_sequences,
    count_sequences,
    set_up_worker_logging,
    torch_device,
)
from virnucpro.pipeline.events import EventSink

__all__ = [
    "DNABERTWorker",
    "WorkerOptions",
    "assign_files_by_sequences",
    "count_sequences",
    "process_dnabert_files_worker",
]

logger = logging.getLogger("virnucpro.worker.dnabert")

TORCH_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class WorkerOptions:
    """The keyword arguments of `process_dnabert_files_worker`.

    model: a registered name, a folder or weights file, or what `resolve` returned.
    models_dir: where named models are sought first.
    dtype: auto, fp32, bf16 or fp16; auto is BF16 where the device multiplies it natively, else fp32.
    max_tokens: longer sequences fail with a message.
    threads: CPU threads of this worker; None takes all there are.
    attributes: written into each result, so that it can be told what made it.
    progress_queue: takes events of `pipeline.events` and log records; a `multiprocessing` queue does.
    forward_logs: in a process of its own, send log records to `progress_queue` rather than to this process's handlers.
    """

    model: str | LocalModel = "dnabert-mini"
    models_dir: Path | None = None
    dtype: str = "auto"
    max_tokens: int = DEFAULT_MAX_TOKENS
    threads: int | None = None
    attributes: Mapping[str, object] | None = None
    progress_queue: EventSink | None = None
    forward_logs: bool = False

    @classmethod
    def from_kwargs(cls, kwargs: Mapping[str, Any]) -> WorkerOptions:
        """Take keyword arguments; UsageError names one that is not known."""
        unknown = set(kwargs) - {field.name for field in fields(cls)}
        if unknown:
            raise UsageError(f"unknown worker options: {', '.join(sorted(unknown))}")
        return cls(**kwargs)

    @property
    def local_model(self) -> LocalModel:
        """The model's files. Raises ModelError."""
        return resolve(self.model, self.models_dir) if isinstance(self.model, str) else self.model


class DNABERTWorker(BaseEmbeddingWorker):
    """Embeds DNA with a network of the DNABERT-S family: mean over all tokens of the last layer, in fp32."""

    def __init__(self, model: LocalModel, dtype: str = "auto") -> None:
        self.model = model
        self.dtype = dtype

    def process_files_worker(
        self,
        file_subset: Iterable[Path],
        device_id: int | str,
        batch_size: int,
        output_dir: Path,
        **kwargs: Any,
    ) -> tuple[list[Path], list[tuple[Path, str]]]:
        """Embed the sequences of each file of `file_subset`; see `process_dnabert_files_worker`."""
        options = WorkerOptions.from_kwargs(kwargs)
        device = torch_device(device_id)
        budget = batch_size or self.get_optimal_batch_size(device)
        self.load(device, TORCH_DTYPES[self.resolve_dtype(device)], budget)
        Path(output_dir).mkdir(parents=True, exist_ok=True)
        return self.run_files(
            file_subset,
            device,
            budget,
            Path(output_dir),
            max_tokens=options.max_tokens,
            threads=options.threads,
            attributes=options.attributes,
            events=options.progress_queue,
        )

    def resolve_dtype(self, device: torch.device) -> str:
        """The dtype of the run on `device`: what was asked for, or by `auto` BF16 where it is native."""
        if self.dtype != "auto":
            return self.dtype
        return "bf16" if self.supports_bf16(device) else "fp32"

    def get_optimal_batch_size(self, device: torch.device) -> int:
        """2048 tokens, 3072 in BF16, and more on a GPU with the memory for it."""
        return optimal_tokens(device.type, self.resolve_dtype(device), memory_gib(device))

    def load(self, device: torch.device, dtype: torch.dtype, budget: int) -> None:
        """Read tokenizer and weights and put the network on `device` in `dtype`."""
        began = time.perf_counter()
        self.tokenizer = DNATokenizer(self.model.tokenizer)
        self.pad_id = self.tokenizer.pad_id
        network = load_dnabert(self.model.weights, self.model.config)
        self.dim = network.dim
        slopes = network.slopes
        self.network = network.to(device=device, dtype=dtype)
        self.network.slopes = slopes.to(device)  # fp32 as they were: half of them are no powers of two
        self._describe(device, dtype, budget)
        if device.type == "cpu" and not prepack(self.network, budget):
            logger.warning("this PyTorch has no prepacked oneDNN products; using its plain ones, which are slower")
        if device.type == "cuda":
            self._try_out(device, budget)
        logger.info("%s ready in %.1f s", self.model.name, time.perf_counter() - began)

    def _describe(self, device: torch.device, dtype: torch.dtype, budget: int) -> None:
        what = "CPU"
        if device.type == "cuda":
            major, minor = torch.cuda.get_device_capability(device)
            what = f"{torch.cuda.get_device_name(device)}, compute capability {major}.{minor}"
        native = "native" if self.supports_bf16(device) else "not native"
        name = next(name for name, value in TORCH_DTYPES.items() if value is dtype)
        logger.info("%s (%s), BF16 %s; computing in %s, %d tokens a batch", device, what, native, name, budget)

    def _try_out(self, device: torch.device, budget: int) -> None:
        """One pass over inert tokens: warms the GPU up, and finds out before the run whether a batch fits."""
        tokens = torch.full((budget,), self.pad_id, device=device)
        lengths = [128] * (budget // 128)  # ordinary ones: a single long sequence takes another path
        try:
            self.embed(tokens, PackedLayout.build(lengths, budget, "cuda").to(device), sum(lengths))
            torch.cuda.synchronize(device)
        except torch.OutOfMemoryError as error:
            raise DeviceError(
                f"a batch of {budget} tokens does not fit the memory of {device}", hint="lower --batch-size"
            ) from error

    def tokenize(self, sequences: Sequence[str]) -> list[NDArray[np.int64]]:
        """Ids of `[CLS] sequence [SEP]`, exact to the published tokenizer."""
        return self.tokenizer.encode(sequences)

    @torch.no_grad()
    def embed(self, tokens: torch.Tensor, layout: PackedLayout, used: int) -> torch.Tensor:
        """(size,) ids → (n, dim) fp32 means over all tokens of each sequence, [CLS] and [SEP] included."""
        return segment_mean(self.network(tokens, layout), layout.lengths, used)


def process_dnabert_files_worker(
    file_subset: Iterable[Path],
    device_id: int | str,
    batch_size: int,
    output_dir: Path,
    **kwargs: Any,
) -> tuple[list[Path], list[tuple[Path, str]]]:
    """Embed files of DNA sequences on one device; the target of a spawned process, or called as it is.

    file_subset: paths of FASTA, FASTQ or uBAM files; any iterable, so that a queue can feed it as it goes.
    device_id: a GPU's number as CUDA_VISIBLE_DEVICES counts, "cuda:N", or "cpu".
    batch_size: tokens a batch; 0 takes `get_optimal_batch_size`.
    output_dir: gets one `<input name>.h5` a file, written whole or not at all.
    kwargs: see `WorkerOptions`.

    Returns the paths written, and (input path, message) for each file that failed. A file's error is logged with
    the device and the rest goes on; ModelError and DeviceError end the call.
    """
    options = WorkerOptions.from_kwargs(kwargs)
    if options.forward_logs:
        set_up_worker_logging(options.progress_queue, torch.device(str(device_id)))
    worker = DNABERTWorker(options.local_model, options.dtype)
    return worker.process_files_worker(file_subset, device_id, batch_size, output_dir, **kwargs)
