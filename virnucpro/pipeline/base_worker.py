"""What every embedding worker shares: counting and assigning files, options, logging, and the run on one device.

A worker loads its model once, computes in BF16 where the device has it, packs tokens into batches sized to the device,
and streams files through. What it embeds, and how, its subclass says.
"""

from __future__ import annotations

import logging
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, ClassVar, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from virnucpro.core.device import available_threads, memory_gib, optimal_tokens, supports_bf16
from virnucpro.errors import DeviceError, InputError, UsageError
from virnucpro.input.fasta import DNA, Alphabet, count_records
from virnucpro.models.attention import PackedLayout
from virnucpro.models.backend import kernels_for, why_no_kernels
from virnucpro.models.graph import Recorded
from virnucpro.models.linear import prepack
from virnucpro.models.local import LocalModel
from virnucpro.models.registry import resolve
from virnucpro.pipeline.events import EventSink
from virnucpro.pipeline.packing import BUDGET_STEP, round_budget
from virnucpro.pipeline.stream import Stream
from virnucpro.runs.config import DEFAULT_MAX_TOKENS, DEFAULT_MODEL

logger = logging.getLogger("virnucpro.worker")

TORCH_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}

#: Tokens of each sequence in the batch that is tried out before a run: an ordinary length, since a single long
#: sequence takes another path.
TRIAL_LENGTH = 128


def count_sequences(file_path: Path) -> int:
    """Number of sequences in a FASTA, FASTQ or uBAM file, compressed or not. Raises InputError."""
    return count_records(Path(file_path))


def refuse_equal_names(files: Iterable[Path]) -> None:
    """Raise InputError for two files of one name: results are named after them, so one would overwrite the other."""
    seen: dict[str, Path] = {}
    for path in map(Path, files):
        if path.name in seen:
            raise InputError(f"{seen[path.name]} and {path} would have one result", hint="rename one of them")
        seen[path.name] = path


def assign_files_by_sequences(
    files: Iterable[Path], num_workers: int, counts: Mapping[Path, int] | None = None
) -> list[list[Path]]:
    """Spread files over workers by greedy bin-packing on their numbers of sequences.

    Largest file first (files of one size keep their order), each to the worker with the fewest sequences so far,
    of equals the first. `counts` saves counting where the numbers are known. Raises ValueError for
    `num_workers` below 1, InputError for two files of one name and for a file that cannot be counted.
    """
    if num_workers <= 0:
        raise ValueError(f"num_workers must be at least 1, not {num_workers}")
    files = list(files)
    refuse_equal_names(files)
    sizes = [(path, counts[path] if counts else count_sequences(path)) for path in files]
    lists: list[list[Path]] = [[] for _ in range(num_workers)]
    loads = [0] * num_workers
    for path, size in sorted(sizes, key=lambda item: -item[1]):
        worker = loads.index(min(loads))
        lists[worker].append(path)
        loads[worker] += size
    for worker, (paths, load) in enumerate(zip(lists, loads, strict=True)):
        logger.info("worker %d: %d files, %d sequences", worker, len(paths), load)
    return lists


def set_up_worker_logging(sink: EventSink, device: torch.device) -> None:
    """In a spawned worker: send log records, marked with the device, to the parent through `sink`."""
    handler = _EventHandler(sink)
    handler.setFormatter(logging.Formatter(f"[{device}] %(message)s"))
    root = logging.getLogger("virnucpro")
    root.handlers[:] = [handler]
    root.setLevel(root.level or logging.INFO)


class _EventHandler(logging.Handler):
    def __init__(self, sink: EventSink) -> None:
        super().__init__()
        self.sink = sink

    def emit(self, record: logging.LogRecord) -> None:
        """Send the record with its message made, since its arguments need not be picklable."""
        record.msg, record.args, record.exc_info = self.format(record), None, None
        self.sink.put(record)


@dataclass(frozen=True)
class WorkerOptions:
    """The keyword arguments of `process_dnabert_files_worker` and `process_esm_files_worker`.

    model: a registered name, a folder or weights file, or what `resolve` returned.
    models_dir: where named models are sought first.
    dtype: auto, fp32, bf16 or fp16; auto is BF16 where the device multiplies it natively, else fp32.
    max_tokens: longer sequences fail with a message.
    threads: CPU threads of this worker; None takes all there are.
    attributes: written into each result, besides the model, dtype and versions that made it.
    progress_queue: takes events of `pipeline.events` and log records; a `multiprocessing` queue does.
    forward_logs: in a process of its own, send log records to `progress_queue`, which it needs, rather than to this
        process's handlers.
    """

    model: str | LocalModel = DEFAULT_MODEL
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
        if kwargs.get("forward_logs") and kwargs.get("progress_queue") is None:
            raise UsageError("forward_logs needs a progress_queue that takes them")
        return cls(**kwargs)

    @property
    def local_model(self) -> LocalModel:
        """The model's files. Raises ModelError."""
        return resolve(self.model, self.models_dir) if isinstance(self.model, str) else self.model


class Tokenizer(Protocol):
    """Sequences → token ids; `pad_id` is the inert token that fills a buffer."""

    pad_id: int

    def encode(self, sequences: Sequence[str]) -> list[NDArray[np.int64]]:
        """Ids of each sequence, special tokens included."""


class BaseEmbeddingWorker(ABC):
    """A worker that embeds the sequences of files on one device.

    A subclass says how to read its model and how to pool what the network makes of a packed buffer; this class
    chooses the dtype, puts the network on the device, and streams files through it.
    """

    #: What the sequences are written in.
    alphabet: ClassVar[Alphabet] = DNA

    #: Letters of the shortest sequence that can be embedded.
    shortest: ClassVar[int] = 1

    #: Set by `load`: width of an embedding, id of the inert token, and the two that make embeddings.
    dim: int
    pad_id: int
    tokenizer: Tokenizer
    network: torch.nn.Module
    #: (tokens, layout) → hidden states: the network, on a GPU by way of its recorded pass.
    encode: Callable[[torch.Tensor, PackedLayout], torch.Tensor]

    def __init__(self, model: LocalModel, dtype: str = "auto") -> None:
        self.model = model
        self.dtype = dtype

    @abstractmethod
    def process_files_worker(
        self,
        file_subset: Iterable[Path],
        device_id: int | str,
        batch_size: int,
        output_dir: Path,
        **kwargs: Any,
    ) -> tuple[list[Path], list[tuple[Path, str]]]:
        """Embed `file_subset` on one device; returns output paths, and failed inputs with their message."""

    @abstractmethod
    def get_optimal_batch_size(self, device: torch.device) -> int:
        """Tokens of a batch that suit `device`."""

    @abstractmethod
    def read_model(self, dtype: torch.dtype) -> tuple[Tokenizer, torch.nn.Module, int]:
        """Tokenizer, network on the CPU, and the width of its embeddings. Raises ModelError."""

    @abstractmethod
    def pool(self, hidden: torch.Tensor, tokens: torch.Tensor, lengths: torch.Tensor, used: int) -> torch.Tensor:
        """Hidden states, the tokens they are of, and (n,) lengths, `used` their sum → (n, dim) fp32 embeddings."""

    @property
    def trial_length(self) -> int:
        """Tokens of each sequence in the batch that is tried out before a run."""
        return TRIAL_LENGTH

    @staticmethod
    def supports_bf16(device: torch.device) -> bool:
        """Whether `device` multiplies BF16 natively: GPUs by `torch.cuda.get_device_capability` (8 or more)."""
        return supports_bf16(device)

    def resolve_dtype(self, device: torch.device) -> str:
        """The dtype of the run on `device`: what was asked for, or by `auto` BF16 where it is native."""
        if self.dtype != "auto":
            return self.dtype
        return "bf16" if self.supports_bf16(device) else "fp32"

    def tokens_for(self, device: torch.device) -> int:
        """2048 tokens a batch, 3072 in BF16, and more on a GPU with the memory for it; see `optimal_tokens`."""
        return optimal_tokens(device.type, self.resolve_dtype(device), memory_gib(device), self.model.kind)

    def tokenize(self, sequences: Sequence[str]) -> list[NDArray[np.int64]]:
        """Token ids of each sequence, special tokens included."""
        return self.tokenizer.encode(sequences)

    @torch.no_grad()
    def embed(self, tokens: torch.Tensor, layout: PackedLayout, used: int) -> torch.Tensor:
        """(size,) ids and their layout, both on the device → (n, dim) fp32 embeddings there."""
        return self.pool(self.encode(tokens, layout), tokens, layout.lengths, used)

    def load(self, device: torch.device, dtype: torch.dtype, budget: int) -> None:
        """Read tokenizer and weights and put the network on `device` in `dtype`. Raises ModelError, DeviceError."""
        began = time.perf_counter()
        with self.model.unchanged():
            self.tokenizer, network, self.dim = self.read_model(dtype)
        self.pad_id = self.tokenizer.pad_id
        try:
            self.network = self.encode = network.to(device=device, dtype=dtype)
        except torch.OutOfMemoryError as error:
            raise _too_small(self.model.name, device) from error
        self._describe(device, dtype, budget)
        if device.type == "cpu" and not prepack(self.network, budget):
            logger.warning(
                "no prepacked oneDNN products in this dtype here; using PyTorch's plain ones, which are slower"
            )
        if device.type == "cuda":
            self._try_out(device, round_budget(budget))
        logger.info("%s ready in %.1f s", self.model.name, time.perf_counter() - began)

    def _describe(self, device: torch.device, dtype: torch.dtype, budget: int) -> None:
        what = "CPU"
        if device.type == "cuda":
            major, minor = torch.cuda.get_device_capability(device)
            what = f"{torch.cuda.get_device_name(device)}, compute capability {major}.{minor}"
        native = "native" if self.supports_bf16(device) else "not native"
        name = next(name for name, value in TORCH_DTYPES.items() if value is dtype)
        logger.info("%s (%s), BF16 %s; computing in %s, %d tokens a batch", device, what, native, name, budget)
        if device.type == "cuda" and kernels_for("cuda") is None:
            logger.warning("%s: computing in plain PyTorch, which is several times slower", why_no_kernels("cuda"))

    def _try_out(self, device: torch.device, size: int) -> None:
        """Find out before the run whether a batch fits. A smaller one would change results, so it is only proposed."""
        if self._fits(device, size):
            return
        smaller = size // 2
        while smaller >= BUDGET_STEP and not self._fits(device, round_budget(smaller)):
            smaller //= 2
        what = f"a batch of {size} tokens"
        if smaller < BUDGET_STEP:
            raise _too_small(what, device)
        hint = f"--batch-size {round_budget(smaller)} does; results then differ in their last bits"
        raise _too_small(what, device, hint)

    def _fits(self, device: torch.device, size: int) -> bool:
        """One pass over inert tokens, which also warms the GPU up; with kernels of our own the pass is recorded."""
        tokens = torch.full((size,), self.pad_id, device=device)
        length = self.trial_length
        lengths = [length] * (size // length)
        layout = PackedLayout.build(lengths, size, "cuda").to(device)
        try:
            if layout.tiles is not None:
                self.encode = Recorded(self.network, tokens, layout)
            self.embed(tokens, layout, sum(lengths))
            torch.cuda.synchronize(device)
        except torch.OutOfMemoryError:
            return False
        return True

    def run_subset(
        self, files: Iterable[Path], device_id: int | str, batch_size: int, output_dir: Path, options: WorkerOptions
    ) -> tuple[list[Path], list[tuple[Path, str]]]:
        """What `process_files_worker` does in every subclass: load the model, then stream the files through it."""
        device = torch_device(device_id)
        budget = batch_size or self.get_optimal_batch_size(device)
        self.load(device, TORCH_DTYPES[self.resolve_dtype(device)], budget)
        Path(output_dir).mkdir(parents=True, exist_ok=True)
        made_by = self.model.attributes(self.resolve_dtype(device), round_budget(budget))
        return self.run_files(
            files,
            device,
            budget,
            Path(output_dir),
            max_tokens=options.max_tokens,
            threads=options.threads,
            attributes=made_by | dict(options.attributes or {}),
            events=options.progress_queue,
        )

    def run_files(
        self,
        files: Iterable[Path | None],
        device: torch.device,
        budget: int,
        output_dir: Path,
        *,
        max_tokens: int = DEFAULT_MAX_TOKENS,
        threads: int | None = None,
        attributes: Mapping[str, object] | None = None,
        events: EventSink | None = None,
    ) -> tuple[list[Path], list[tuple[Path, str]]]:
        """Stream `files` through the loaded model; one HDF5 a file in `output_dir`.

        `files` may hold FLUSH where no file follows for a while. A file that cannot be read or embedded is
        reported and the rest goes on. Raises OutputError when a result cannot be written, and what the iterable
        of files raises.
        """
        run = Stream(self, device, round_budget(budget), output_dir, max_tokens, attributes or {}, events)
        lanes = (threads or available_threads()) if device.type == "cpu" else 1
        return run.go(files, lanes)


def _too_small(
    what: str, device: torch.device, hint: str = "choose a smaller model, or a GPU with more memory"
) -> DeviceError:
    return DeviceError(f"{what} does not fit the memory of {device}", hint=hint)


def run_worker(
    worker: type[BaseEmbeddingWorker],
    file_subset: Iterable[Path],
    device_id: int | str,
    batch_size: int,
    output_dir: Path,
    kwargs: Mapping[str, Any],
) -> tuple[list[Path], list[tuple[Path, str]]]:
    """The body of every `process_*_files_worker`: logging as the process asks for it, then one `worker`."""
    options = WorkerOptions.from_kwargs(kwargs)
    if options.forward_logs and options.progress_queue is not None:
        set_up_worker_logging(options.progress_queue, torch_device(device_id))
    embedder = worker(options.local_model, options.dtype)
    return embedder.process_files_worker(file_subset, device_id, batch_size, output_dir, **kwargs)


def torch_device(device_id: int | str) -> torch.device:
    """0 → cuda:0, "cpu" → the CPU. Raises DeviceError when CUDA cannot be used."""
    if isinstance(device_id, int) or device_id.isdigit():
        device_id = f"cuda:{device_id}"
    device = torch.device(device_id)
    if device.type == "cuda":
        try:
            torch.cuda.set_device(device)
        except (RuntimeError, AssertionError, AttributeError) as error:  # the last from a build without CUDA
            raise DeviceError(f"cannot use {device}: {error}", hint="see `virnucpro devices`") from error
    return device
