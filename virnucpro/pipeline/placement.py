"""Where a run computes: its devices, of this host or of a cluster, and the one dtype and token budgets of them all."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from virnucpro.core.device import Device, available_threads, select_dtype, version_of
from virnucpro.core.words import counted
from virnucpro.pipeline.launch_local import Launch, check_can_spawn
from virnucpro.pipeline.packing import round_budget

if TYPE_CHECKING:
    from virnucpro.models.local import LocalModel
    from virnucpro.pipeline.base_worker import BaseEmbeddingWorker
    from virnucpro.pipeline.cluster import Cluster

logger = logging.getLogger("virnucpro.embed")

#: The worker of an encoder, by dtype.
OfDtype = Callable[[str], "BaseEmbeddingWorker"]


@dataclass(frozen=True)
class Placement:
    """devices: one per worker; budgets: tokens per batch of each encoder; cluster: that of the devices, or None."""

    devices: tuple[Device, ...]
    dtype: str
    budgets: tuple[int, ...]
    cluster: Cluster | None = None

    @classmethod
    def choose(
        cls, devices: Sequence[Device], workers: Sequence[OfDtype], dtype: str = "auto", batch_size: int | None = None
    ) -> Placement:
        """Choose by what was requested and by what all devices can do: the smallest decides.

        workers: of each encoder, by dtype. batch_size: tokens; None or 0 takes what suits each encoder. Raises
        DeviceError, and UsageError if workers cannot be started.
        """
        check_can_spawn([device.name for device in devices])
        dtype = select_dtype(dtype, devices)
        suit = (min(worker(dtype).get_optimal_batch_size(device) for device in devices) for worker in workers)
        return cls(tuple(devices), dtype, tuple(map(round_budget, [batch_size] * len(workers) if batch_size else suit)))

    @property
    def names(self) -> tuple[str, ...]:
        """Each worker's device."""
        return tuple(device.label for device in self.devices)

    def launch(self, local: Launch) -> Launch:
        """What makes the launcher of a run; local: for devices of this host."""
        return self.cluster.launch if self.cluster else local

    def close(self) -> None:
        """Leave the cluster, if there is one."""
        if self.cluster:
            self.cluster.close()

    @property
    def kinds(self) -> list[str]:
        """The kinds of devices: results of different kinds may differ in the last bits."""
        return sorted({device.model for device in self.devices})

    @property
    def triton_version(self) -> str | None:
        """The version of Triton, which compiles the kernels of GPUs; None on CPUs, and for GPUs without it."""
        return version_of("triton") if any(device.type == "cuda" for device in self.devices) else None


def threads_a_worker(workers: int, threads: int | None = None) -> int:
    """CPU threads of each worker, if there are `threads` for all; None: as many as this process may use."""
    return max(1, (threads or available_threads()) // workers)


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
        logger.info("resuming: %d of %s done", len(done), counted(len(counts), "work files"))
    for model in models:
        if not model.trained:
            logger.warning(
                "%s is UNTRAINED: its embeddings show only that the tool works, and mean nothing", model.name
            )
    each = zip(models, budgets, strict=True)
    how = " and ".join(f"{model.name} ({budget} tokens a batch)" for model, budget in each)
    units, files = counted(sum(counts.values()), unit), counted(len(counts), "work files")
    logger.info("%s in %s; %s in %s, on %s", units, files, how, dtype, ", ".join(devices))
