"""The real worker of DNA on devices that misbehave; importable by a spawned process."""

from __future__ import annotations

import itertools
import os
import signal
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from light_workers import wait_for

from virnucpro.models.attention import PackedLayout
from virnucpro.pipeline.base_worker import WorkerOptions
from virnucpro.pipeline.events import FLUSH
from virnucpro.pipeline.parallel_dnabert import DNABERTWorker
from virnucpro.pipeline.stream import Encoder


def once_the_other_failed(files: Iterable[Path | None], output_dir: Path) -> Iterator[Path | None]:
    """The files of the device "good", once a worker on "bad" has failed: so "bad" gets some, however slow it is."""
    for path in files:
        wait_for((output_dir / ".failed").exists)
        yield path


class Sticky(DNABERTWorker):
    """Every batch but the first fails, as on a GPU whose context is lost."""

    def load(self, device: torch.device, dtype: str, budget: int) -> Encoder:
        encoder, batches = super().load(device, dtype, budget), itertools.count()

        def embed(tokens: torch.Tensor, layout: PackedLayout, used: int) -> torch.Tensor:
            if next(batches):
                raise RuntimeError("CUDA error: an illegal memory access was encountered")
            return encoder.embed(tokens, layout, used)

        return encoder._replace(embed=embed)


def run_worker(kind: type[DNABERTWorker], files: Any, batch_size: int, output_dir: Path, kwargs: Any) -> object:
    """Like `process_dnabert_files_worker` on the CPU, with a given class of workers."""
    options = WorkerOptions.from_kwargs(kwargs)
    options.begin_logging("cpu")
    return kind(options.local_model, options.dtype).process_files_worker(files, "cpu", batch_size, output_dir, **kwargs)


def sticky_on_bad(
    files: Iterable[Path | None], device: str, batch_size: int, output_dir: Path, **options: Any
) -> object:
    """The devices "good" and "bad" are both this CPU."""
    if device == "good":
        return run_worker(DNABERTWorker, once_the_other_failed(files, output_dir), batch_size, output_dir, options)
    try:
        return run_worker(Sticky, files, batch_size, output_dir, options)
    finally:
        (output_dir / ".failed").touch()


def killed_on_bad(
    files: Iterable[Path | None], device: str, batch_size: int, output_dir: Path, **options: Any
) -> object:
    """On "bad", killed a while after it got a file."""

    def met() -> Iterator[Path | None]:
        for path in files:
            yield path
            if path is not FLUSH:
                time.sleep(0.2)
                (output_dir / ".failed").touch()
                os.kill(os.getpid(), signal.SIGKILL)

    taken = met() if device == "bad" else once_the_other_failed(files, output_dir)
    return run_worker(DNABERTWorker, taken, batch_size, output_dir, options)
