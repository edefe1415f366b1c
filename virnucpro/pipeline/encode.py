"""One encoder over work files, on all devices of a run: where it runs, what is already done, and the queue.

`virnucpro embed` goes through this once, `virnucpro predict` once for each encoder of its set.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from virnucpro.core.device import Device, available_threads, select_devices, select_dtype, triton_version
from virnucpro.errors import InputError
from virnucpro.input.fasta import DNA, PROTEIN, Alphabet
from virnucpro.io.store import read_shard
from virnucpro.models.local import LocalModel
from virnucpro.pipeline.events import Listener, Phase
from virnucpro.pipeline.launch_local import check_can_spawn
from virnucpro.pipeline.packing import round_budget
from virnucpro.runs.config import DEFAULT_MAX_TOKENS, RunConfig

if TYPE_CHECKING:
    from virnucpro.pipeline.work_queue import QueueResult, Worker

logger = logging.getLogger("virnucpro.encode")

#: What a network of each family embeds.
ALPHABETS: Mapping[str, Alphabet] = {"dnabert": DNA, "esm2": PROTEIN, "codon": DNA}


@dataclass(frozen=True)
class Placement:
    """Where a run computes: its devices, one entry a worker, and the one dtype and token budget of them all."""

    devices: tuple[Device, ...]
    dtype: str
    budget: int
    threads_a_worker: int
    #: The least silence of a worker that means that it hangs.
    stall_seconds: float

    @classmethod
    def choose(cls, config: RunConfig, kind: str) -> Placement:
        """By the settings, the family of the networks, and what the devices can do. Raises DeviceError, UsageError."""
        devices = tuple(select_devices(config.device))
        check_can_spawn([device.name for device in devices])
        dtype = select_dtype(config.dtype, devices)
        best = min(device.optimal_tokens(dtype, kind) for device in devices)
        threads = config.threads or available_threads()
        budget = round_budget(config.batch_size or best)
        return cls(devices, dtype, budget, max(1, threads // len(devices)), 60 * config.stall_minutes)

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


@dataclass(frozen=True)
class WorkFile:
    """A FASTA file, and how many sequences it holds."""

    path: Path
    sequences: int


@dataclass(frozen=True)
class Encoding:
    """One encoder and where its results go.

    attributes: written into each result; `fingerprint` among them tells which run it belongs to.
    """

    model: LocalModel
    placement: Placement
    shards: Path
    attributes: Mapping[str, object]
    max_tokens: int = DEFAULT_MAX_TOKENS

    def run(self, files: Sequence[WorkFile], listen: Listener) -> QueueResult:
        """Embed every work file that is not done yet; each comes to an end, done or failed. Raises ModelError, …"""
        from virnucpro.pipeline.work_queue import WorkQueue

        done = {file.path for file in files if self.is_done(file)}
        counts = {file.path: file.sequences for file in files if file.path not in done}
        self._announce(files, len(done))
        total = sum(file.sequences for file in files)
        listen(
            -1, Phase(f"embedding with {self.model.name}", total, total - sum(counts.values()), self.placement.names)
        )
        self.shards.mkdir(parents=True, exist_ok=True)
        place = self.placement
        return WorkQueue(
            _worker(self.model),
            place.names,
            place.budget,
            self.shards,
            counts,
            self._options(),
            listen,
            place.stall_seconds,
        ).run()

    def shard(self, path: Path) -> Path:
        """The result of a work file, as workers name it."""
        return self.shards / f"{path.name}.h5"

    def is_done(self, file: WorkFile) -> bool:
        """Whether the shard of a work file is there and is provably what this run would write."""
        path = self.shard(file.path)
        if not path.exists():
            return False
        try:
            shard = read_shard(path)
        except InputError as error:
            logger.warning("%s", error)
            return False
        if shard.attributes.get("fingerprint") != self.attributes["fingerprint"]:
            logger.warning("%s is of another run; it is made again", path)
            return False
        return len(shard.headers) + len(shard.failed) == file.sequences

    def _announce(self, files: Sequence[WorkFile], done: int) -> None:
        if done:
            logger.info("resuming: %d of %d work files are done", done, len(files))
        if not self.model.trained:
            logger.warning(
                "%s is UNTRAINED: its embeddings show that the tool works, and mean nothing", self.model.name
            )
        logger.info(
            "%d sequences in %d work files; %s in %s, %d tokens a batch, on %s",
            sum(file.sequences for file in files),
            len(files),
            self.model.name,
            self.placement.dtype,
            self.placement.budget,
            ", ".join(self.placement.names),
        )

    def _options(self) -> dict[str, Any]:
        return {
            "model": self.model,
            "dtype": self.placement.dtype,
            "max_tokens": self.max_tokens,
            "threads": self.placement.threads_a_worker,
            "attributes": self.attributes,
        }


def _worker(model: LocalModel) -> Worker:
    """The function that a worker of the model's family runs."""
    if model.kind == "esm2":
        from virnucpro.pipeline.parallel_esm import process_esm_files_worker

        return process_esm_files_worker
    if model.kind == "codon":
        from virnucpro.pipeline.parallel_codon import process_codon_files_worker

        return process_codon_files_worker
    from virnucpro.pipeline.parallel_dnabert import process_dnabert_files_worker

    return process_dnabert_files_worker
