"""What every embedding worker shares: counting and assigning files, options, logging, and the run on one device.

A worker loads its model once, computes in BF16 where the device has it, packs tokens into batches sized to the device,
and streams files through. A subclass says what it embeds, and how.
"""

from __future__ import annotations

import contextlib
import logging
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, Protocol, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from virnucpro.core import log
from virnucpro.core.device import Device, available_threads, describe, select_dtype, supports_bf16
from virnucpro.core.words import counted
from virnucpro.errors import DeviceError, InputError, UsageError
from virnucpro.input.fasta import DNA, Alphabet, count_records
from virnucpro.models.attention import PackedLayout
from virnucpro.models.backend import kernels_for, why_no_kernels
from virnucpro.models.graph import Recorded
from virnucpro.models.linear import prepack
from virnucpro.models.local import LocalModel
from virnucpro.models.registry import resolve
from virnucpro.models.weights import CPU
from virnucpro.pipeline.events import EventSink
from virnucpro.pipeline.packing import BUDGET_STEP, round_budget
from virnucpro.pipeline.stream import Encoder, Output, Stream
from virnucpro.runs.config import DEFAULT_MAX_TOKENS, DEFAULT_MODEL

Loaded = TypeVar("Loaded")

logger = logging.getLogger("virnucpro.worker")

#: The dtype of a network's weights; with fp8 everything except for the products stays in BF16.
TORCH_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16, "fp8": torch.bfloat16}

#: (tokens, layout) → hidden states: a network, or on a GPU its recorded pass.
Pass = Callable[[torch.Tensor, PackedLayout], torch.Tensor]

#: Tokens of a batch on a CPU, and on a small GPU; in 16 bits activations are half as large. On a CPU one core computes
#: a batch: more tokens are no faster there, and delay results.
BASE_TOKENS, BASE_TOKENS_16_BITS = 2048, 3072

#: Tokens of a batch that a GPU has room for, for each GiB of its memory.
TOKENS_PER_GIB = 512

#: Tokens of each sequence in the batch that is tried before a run: an ordinary length, since a single long sequence is
#: computed in another way.
TRIAL_LENGTH = 128


def count_sequences(file_path: Path) -> int:
    """Number of sequences in a FASTA, FASTQ or uBAM file, compressed or not. Raises InputError."""
    return count_records(Path(file_path))


def refuse_equal_names(files: Iterable[Path]) -> None:
    """Raise InputError for two files of one name: results are named after them, so one would overwrite the other."""
    seen: dict[str, Path] = {}
    for path in map(Path, files):
        if path.name in seen:
            raise InputError(f"{seen[path.name]} and {path} would have the same result file", hint="rename one of them")
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
        share = load / max(1, sum(loads))
        assigned, sequences = counted(len(paths), "files"), counted(load, "sequences")
        logger.info("worker %d is assigned %s: %s to embed (%.0f%%)", worker, assigned, sequences, 100 * share)
    return lists


def set_up_worker_logging(sink: EventSink, device: torch.device) -> None:
    """In a spawned worker: send log records, marked with the device, to the parent through `sink`."""
    log.send_to(sink.put, logging.getLogger("virnucpro").level or logging.INFO, f"[{device}] %(message)s")


@dataclass(frozen=True)
class WorkerOptions:
    """The keyword arguments of a worker, as `process_dnabert_files_worker` explains them.

    kept: what an earlier call in this process has loaded, for a worker that stays; None if nothing is to be kept.
    """

    model: str | LocalModel = DEFAULT_MODEL
    models_dir: Path | None = None
    dtype: str = "auto"
    max_tokens: int = DEFAULT_MAX_TOKENS
    threads: int | None = None
    attributes: Mapping[str, object] | None = None
    progress_queue: EventSink | None = None
    forward_logs: bool = False
    kept: dict[str, Any] | None = None

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
    def lanes(self) -> int:
        """Batches that a CPU computes at a time, one per thread."""
        return self.threads or available_threads()

    def begin_logging(self, device_id: int | str) -> None:
        """In a process of its own, send log records to the parent if requested. Raises DeviceError."""
        if self.forward_logs and self.progress_queue is not None:
            set_up_worker_logging(self.progress_queue, torch_device(device_id))
            logger.debug("the worker has started")

    def kept_or(self, key: object, load: Callable[[], Loaded]) -> Loaded:
        """The result of `load`, now or in an earlier call with this key; only the last result is kept."""
        if self.kept is None:
            return load()
        if self.kept.get("key") != key:
            self.kept.clear()  # first, so that the memory need not hold both
            self.kept["loaded"] = load()
            self.kept["key"] = key
        loaded: Loaded = self.kept["loaded"]
        return loaded

    @property
    def local_model(self) -> LocalModel:
        """The model's files. Raises ModelError."""
        return resolve(self.model, self.models_dir) if isinstance(self.model, str) else self.model


class Tokenizer(Protocol):
    """Sequences → token ids; `pad_id` is the inert token that fills a buffer."""

    pad_id: int

    def encode(self, sequences: Sequence[str]) -> list[NDArray[np.int64]]:
        """Ids of each sequence, special tokens included."""


class Network(NamedTuple):
    """A model that was read, and what belongs to it.

    pool: (tokens, width) hidden states, the (tokens,) ids they are of, (n,) lengths, `used` their sum → (n, dim) fp32
    embeddings. quantize: turns the products of `module` into FP8 ones.
    """

    tokenizer: Tokenizer
    module: torch.nn.Module
    dim: int
    pool: Callable[[torch.Tensor, torch.Tensor, torch.Tensor, int], torch.Tensor]
    quantize: Callable[[], None] = lambda: None


class BaseEmbeddingWorker(ABC):
    """A worker that embeds the sequences of files on one device."""

    #: Its default model.
    default_model: ClassVar[str] = DEFAULT_MODEL

    #: The alphabet of the sequences.
    alphabet: ClassVar[Alphabet] = DNA

    #: Letters of the shortest sequence that can be embedded.
    shortest: ClassVar[int] = 1

    #: Whether its products can be in FP8; if not, it computes in BF16 in a run with fp8.
    fp8: ClassVar[bool] = False

    def __init__(self, model: LocalModel, dtype: str = "auto") -> None:
        self.model = model
        self.dtype = "bf16" if dtype == "fp8" and not self.fp8 else dtype

    @abstractmethod
    def process_files_worker(
        self,
        file_subset: Iterable[Path | None],
        device_id: int | str,
        batch_size: int,
        output_dir: Path,
        **kwargs: Any,
    ) -> tuple[list[Path], list[tuple[Path, str]]]:
        """Embed `file_subset` on one device; returns output paths, and failed inputs with their message."""

    @abstractmethod
    def get_optimal_batch_size(self, device: Device) -> int:
        """Tokens of a batch that suit `device`."""

    @staticmethod
    def supports_bf16(device: torch.device) -> bool:
        """Whether `device` multiplies BF16 natively: GPUs by `torch.cuda.get_device_capability` (8 or more)."""
        return supports_bf16(device)

    def resolve_dtype(self, device: Device) -> str:
        """The dtype of the run on `device`: the requested one, or what `auto` chooses. Raises DeviceError."""
        return select_dtype(self.dtype, [device])


class StreamingWorker(BaseEmbeddingWorker):
    """Chooses the dtype, puts a network on the device, and streams files through it.

    A subclass says how its model is read, and how many tokens suit a device.
    """

    @abstractmethod
    def read_model(self, dtype: torch.dtype, device: torch.device = CPU) -> Network:
        """The model in `dtype` or in fp32, its weights on `device`. Raises ModelError, torch.OutOfMemoryError."""

    def trial_length(self, tokenizer: Tokenizer) -> int:
        """Tokens of each sequence in the batch that is tried before a run."""
        return TRIAL_LENGTH

    def load(self, device: torch.device, dtype: str, budget: int) -> Encoder:
        """The model on `device` in a dtype, for buffers of `budget` tokens. Raises ModelError, DeviceError."""
        return self.encoder(self.read(device, dtype), device, dtype, budget)

    def read(self, device: torch.device, dtype: str) -> Network:
        """Read the model; its weights are on `device`, in the dtype of the network. Raises ModelError, DeviceError."""
        began = time.perf_counter()
        with self._fitting(device), self.model.unchanged():
            model = self.read_model(TORCH_DTYPES[dtype], device)
            model.module.to(device=device, dtype=TORCH_DTYPES[dtype])
        logger.info("%s: weights read in %.1f s", self.model.name, time.perf_counter() - began)
        return model

    def encoder(self, model: Network, device: torch.device, dtype: str, budget: int) -> Encoder:
        """Make a model that was read ready for buffers of `budget` tokens. Raises DeviceError.

        One encoder at a time: while a GPU records a pass, no other thread may use it.
        """
        began, module = time.perf_counter(), model.module
        if dtype == "fp8":
            with self._fitting(device):
                model.quantize()
        _describe(device, dtype, budget)
        encode: Pass = module
        if device.type == "cpu" and not prepack(module, budget):
            logger.warning(
                "no prepacked oneDNN products in this dtype here; using PyTorch's plain ones, which are slower"
            )
        if device.type == "cuda":
            encode = _Trial(model, module, device, self.trial_length(model.tokenizer)).passed(budget)
        logger.info("%s ready after another %.1f s", self.model.name, time.perf_counter() - began)
        tokenizer = model.tokenizer
        embed = partial(_embed, encode, model.pool)
        return Encoder(self.alphabet, self.shortest, model.dim, budget, tokenizer.pad_id, tokenizer.encode, embed)

    @contextlib.contextmanager
    def _fitting(self, device: torch.device) -> Iterator[None]:
        try:
            yield
        except torch.OutOfMemoryError as error:
            raise _too_small(self.model.name, device) from error

    def process_files_worker(
        self,
        file_subset: Iterable[Path | None],
        device_id: int | str,
        batch_size: int,
        output_dir: Path,
        **kwargs: Any,
    ) -> tuple[list[Path], list[tuple[Path, str]]]:
        """Load the model, then stream the files through it; see `process_dnabert_files_worker`."""
        options, device = WorkerOptions.from_kwargs(kwargs), torch_device(device_id)
        found = describe(device)
        dtype, budget = self.resolve_dtype(found), round_budget(batch_size or self.get_optimal_batch_size(found))
        encoder = self.load(device, dtype, budget)
        attributes = self.model.attributes(dtype, budget) | dict(options.attributes or {})
        Path(output_dir).mkdir(parents=True, exist_ok=True)
        output = Embeddings(Path(output_dir), attributes)
        stream = Stream([encoder], output, device, options.lanes, options.max_tokens, options.progress_queue)
        return stream.go(file_subset)


def process_files(
    worker: type[StreamingWorker],
    file_subset: Iterable[Path | None],
    device_id: int | str,
    batch_size: int,
    output_dir: Path,
    **kwargs: Any,
) -> tuple[list[Path], list[tuple[Path, str]]]:
    """Embed files with a new worker of a class; all else as `process_dnabert_files_worker`."""
    kwargs = {"model": worker.default_model} | kwargs
    options = WorkerOptions.from_kwargs(kwargs)
    options.begin_logging(device_id)
    made = worker(options.local_model, options.dtype)
    return made.process_files_worker(file_subset, device_id, batch_size, output_dir, **kwargs)


def tokens_by_memory(device: Device, dtype: str, most: int) -> int:
    """Tokens of a batch for a transformer: 2048, 3072 in 16 bits, and on a GPU as its memory allows, up to `most`."""
    base = BASE_TOKENS if dtype == "fp32" else BASE_TOKENS_16_BITS
    if device.type == "cpu":
        return base
    return max(base, min(int(device.memory_gib * TOKENS_PER_GIB) // 4096 * 4096, most))


@torch.no_grad()
def _embed(
    encode: Pass,
    pool: Callable[[torch.Tensor, torch.Tensor, torch.Tensor, int], torch.Tensor],
    tokens: torch.Tensor,
    layout: PackedLayout,
    used: int,
) -> torch.Tensor:
    return pool(encode(tokens, layout), tokens, layout.lengths, used)


def _describe(device: torch.device, dtype: str, budget: int) -> None:
    what = "CPU"
    if device.type == "cuda":
        major, minor = torch.cuda.get_device_capability(device)
        what = f"{torch.cuda.get_device_name(device)}, compute capability {major}.{minor}"
    native = "native" if supports_bf16(device) else "not native"
    logger.info("%s (%s), BF16 %s; computing in %s, %d tokens a batch", device, what, native, dtype, budget)
    if device.type == "cuda" and kernels_for("cuda") is None:
        logger.warning("%s: computing in plain PyTorch, which is several times slower", why_no_kernels("cuda"))


@dataclass(frozen=True)
class _Trial:
    """Tries on a GPU, before the run, whether a batch fits. A smaller one changes results, so it is only proposed."""

    model: Network
    module: torch.nn.Module
    device: torch.device
    length: int

    def passed(self, size: int) -> Pass:
        """The pass over buffers of `size` tokens, recorded if our own kernels are used. Raises DeviceError."""
        if (found := self._pass(size)) is not None:
            return found
        smaller = size // 2
        while smaller >= BUDGET_STEP and self._pass(round_budget(smaller)) is None:
            smaller //= 2
        what = f"a batch of {size} tokens"
        if smaller < BUDGET_STEP:
            raise _too_small(what, self.device)
        hint = f"--batch-size {round_budget(smaller)} fits; results then differ in their last bits"
        raise _too_small(what, self.device, hint)

    def _pass(self, size: int) -> Pass | None:
        """Do one pass over inert tokens, which also warms up the GPU; None if its memory is too small."""
        tokens = torch.full((size,), self.model.tokenizer.pad_id, device=self.device)
        lengths = [self.length] * (size // self.length)
        layout = PackedLayout.build(lengths, size, "cuda").to(self.device)
        try:
            encode: Pass = self.module if layout.tiles is None else Recorded(self.module, tokens, layout)
            _embed(encode, self.model.pool, tokens, layout, sum(lengths))
            torch.cuda.synchronize(self.device)
        except torch.OutOfMemoryError:
            return None
        return encode


def _too_small(
    what: str, device: torch.device, hint: str = "choose a smaller model, or a GPU with more memory"
) -> DeviceError:
    return DeviceError(f"{what} does not fit the memory of {device}", hint=hint)


@dataclass(frozen=True)
class Embeddings(Output):
    """One HDF5 file of embeddings for each work file, in `folder`: its name, and `.h5`; attributes: what made them."""

    folder: Path
    attributes: Mapping[str, object]

    def sources(self, path: Path) -> Sequence[Path | None]:
        """The work file itself."""
        return (path,)

    def results(self, path: Path) -> Mapping[Path, Mapping[str, object]]:
        """The one file."""
        return {self.folder / f"{path.name}.h5": self.attributes}


def torch_device(device_id: int | str) -> torch.device:
    """0 → cuda:0, "cpu" → the CPU. Raises DeviceError when CUDA cannot be used."""
    if isinstance(device_id, int) or device_id.isdigit():
        device_id = f"cuda:{device_id}"
    device = torch.device(device_id)
    if device.type == "cuda":
        try:
            torch.cuda.set_device(device)
        except (RuntimeError, AssertionError, AttributeError) as error:  # the last from a build without CUDA
            # The driver lists GPUs without regard to the installed PyTorch.
            hint = "see `virnucpro devices`\nif it is listed, install a PyTorch build for its driver, or a newer driver"
            raise DeviceError(f"cannot use {device}: {error}", hint=hint) from error
    return device
