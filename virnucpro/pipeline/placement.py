"""Where a run computes: its devices, and the one dtype and the token budgets of them all."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from virnucpro.core.device import Device, available_threads, select_dtype, triton_version
from virnucpro.pipeline.launch_local import check_can_spawn
from virnucpro.pipeline.packing import round_budget

if TYPE_CHECKING:
    from virnucpro.models.local import LocalModel
    from virnucpro.pipeline.base_worker import BaseEmbeddingWorker
    from virnucpro.pipeline.parallel_dnabert import Embedded

logger = logging.getLogger("virnucpro.embed")


@dataclass(frozen=True)
class Placement:
    """devices: one entry a worker; budgets: tokens a batch of each encoder."""

    devices: tuple[Device, ...]
    dtype: str
    budgets: tuple[int, ...]

    @classmethod
    def choose(
        cls, devices: Sequence[Device], models: Sequence[LocalModel], dtype: str = "auto", batch_size: int | None = None
    ) -> Placement:
        """By what was asked for, and by what all of the devices can do: the smallest decides.

        batch_size: tokens; None or 0 takes what suits each encoder. Raises DeviceError, and UsageError where workers
        cannot be started.
        """
        check_can_spawn([device.name for device in devices])
        dtype = select_dtype(dtype, devices)
        return cls(tuple(devices), dtype, tuple(batch_size or _budget(model, dtype, devices) for model in models))

    def __post_init__(self) -> None:
        object.__setattr__(self, "budgets", tuple(map(round_budget, self.budgets)))

    @property
    def names(self) -> tuple[str, ...]:
        """Each worker's device."""
        return tuple(device.name for device in self.devices)

    @property
    def kinds(self) -> list[str]:
        """The kinds of devices: results of different kinds may differ in the last bits."""
        return sorted({device.model for device in self.devices})

    @property
    def triton_version(self) -> str | None:
        """What compiles the kernels that a GPU runs; None on CPUs, and where GPUs do without."""
        return triton_version() if any(device.type == "cuda" for device in self.devices) else None


def _budget(model: LocalModel, dtype: str, devices: Sequence[Device]) -> int:
    worker = worker_class(model.kind)(model, dtype)
    return min(worker.get_optimal_batch_size(device) for device in devices)


def threads_a_worker(workers: int, threads: int | None = None) -> int:
    """CPU threads of each worker, where there are `threads` for all; None: as many as this process may use."""
    return max(1, (threads or available_threads()) // workers)


def worker_class(kind: str) -> type[BaseEmbeddingWorker]:
    """What embeds with a network of a family."""
    if kind == "esm2":
        from virnucpro.pipeline.parallel_esm import ESMWorker

        return ESMWorker
    if kind == "codon":
        from virnucpro.pipeline.parallel_codon import CodonWorker

        return CodonWorker
    from virnucpro.pipeline.parallel_dnabert import DNABERTWorker

    return DNABERTWorker


def driver(kind: str) -> Callable[..., Embedded]:
    """What embeds files with a network of a family, on several devices: `embed_dnabert_files` and its like."""
    if kind == "esm2":
        from virnucpro.pipeline.parallel_esm import embed_esm_files

        return embed_esm_files
    if kind == "codon":
        from virnucpro.pipeline.parallel_codon import embed_codon_files

        return embed_codon_files
    from virnucpro.pipeline.parallel_dnabert import embed_dnabert_files

    return embed_dnabert_files


def announce(
    models: Sequence[LocalModel],
    dtype: str,
    budgets: Sequence[int],
    devices: Sequence[str],
    counts: Mapping[Path, int],
    done: Collection[Path],
    unit: str = "sequences",
) -> None:
    """Log what is about to be computed, with what and where; counts: units of each work file."""
    if done:
        logger.info("resuming: %d of %d work files are done", len(done), len(counts))
    for model in models:
        if not model.trained:
            logger.warning("%s is UNTRAINED: its embeddings show that the tool works, and mean nothing", model.name)
    each = zip(models, budgets, strict=True)
    how = " and ".join(f"{model.name} ({budget} tokens a batch)" for model, budget in each)
    total, where = sum(counts.values()), ", ".join(devices)
    logger.info("%d %s in %d work files; %s in %s, on %s", total, unit, len(counts), how, dtype, where)
