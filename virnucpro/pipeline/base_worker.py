"""What every embedding worker shares: counting and assigning files, logging, and the run of files on one device."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from virnucpro.core.config import DEFAULT_MAX_TOKENS
from virnucpro.core.device import available_threads, supports_bf16
from virnucpro.errors import DeviceError
from virnucpro.io.fasta import count_records
from virnucpro.models.attention import PackedLayout
from virnucpro.pipeline.events import EventSink
from virnucpro.pipeline.packing import round_budget
from virnucpro.pipeline.stream import Stream

logger = logging.getLogger("virnucpro.worker")


def count_sequences(file_path: Path) -> int:
    """Number of sequences in a FASTA, FASTQ or uBAM file, compressed or not. Raises InputError."""
    return count_records(Path(file_path))


def assign_files_by_sequences(
    files: Iterable[Path], num_workers: int, counts: Mapping[Path, int] | None = None
) -> list[list[Path]]:
    """Spread files over workers by greedy bin-packing on their numbers of sequences.

    Largest file first (files of one size keep their order), each to the worker with the fewest sequences so far,
    of equals the first. `counts` saves counting where the numbers are known. Raises ValueError for
    `num_workers` below 1, InputError for a file that cannot be counted.
    """
    if num_workers <= 0:
        raise ValueError(f"num_workers must be at least 1, not {num_workers}")
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


def set_up_worker_logging(sink: EventSink | None, device: torch.device, level: int = logging.INFO) -> None:
    """In a spawned worker: send every log record, marked with the device, to the parent through `sink`."""
    if sink is None:
        return
    handler = _EventHandler(sink)
    handler.setFormatter(logging.Formatter(f"[{device}] %(message)s"))
    root = logging.getLogger("virnucpro")
    root.handlers[:] = [handler]
    root.setLevel(level)


class _EventHandler(logging.Handler):
    def __init__(self, sink: EventSink) -> None:
        super().__init__()
        self.sink = sink

    def emit(self, record: logging.LogRecord) -> None:
        """Send the record with its message made, since its arguments need not be picklable."""
        record.msg, record.args, record.exc_info = self.format(record), None, None
        self.sink.put(record)


class BaseEmbeddingWorker(ABC):
    """A worker that embeds the sequences of files on one device.

    A subclass says how to load its model, to tokenize, and to embed a packed buffer; this class streams files
    through it. `process_files_worker` is the entry point that a process calls.
    """

    #: Set by `load`.
    dim: int
    pad_id: int

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
    def load(self, device: torch.device, dtype: torch.dtype, budget: int) -> None:
        """Put the model on `device`; sets `dim` and `pad_id`. Raises ModelError."""

    @abstractmethod
    def tokenize(self, sequences: Sequence[str]) -> list[NDArray[np.int64]]:
        """Token ids of each sequence, special tokens included."""

    @abstractmethod
    def embed(self, tokens: torch.Tensor, layout: PackedLayout, used: int) -> torch.Tensor:
        """(size,) ids and their layout, both on the device → (n, dim) fp32 embeddings there."""

    @staticmethod
    def supports_bf16(device: torch.device) -> bool:
        """Whether `device` multiplies BF16 natively: GPUs by `torch.cuda.get_device_capability` (8 or more)."""
        return supports_bf16(device)

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
