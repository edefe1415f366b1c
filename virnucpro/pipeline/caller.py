"""The worker of `predict` and `train`: the encoders of a set and its classifier on one device, started once.

The weights of both encoders are read side by side. A work file is processed in one pass: its DNA and its proteins are
packed into buffers, each for its own encoder; the vectors are joined by id and classified on the CPU, in blocks of one
size, and the scores are written: eight bytes and an id per frame. Vectors are written only if requested.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from virnucpro.core.threads import in_order
from virnucpro.input.index import WorkFile
from virnucpro.io.store import Shard, read_shard
from virnucpro.models.backend import kernels_for
from virnucpro.models.classifier import Classifier
from virnucpro.models.local import LocalModel
from virnucpro.pipeline.base_worker import Network, StreamingWorker, WorkerOptions, torch_device
from virnucpro.pipeline.events import Listener, Phase
from virnucpro.pipeline.families import FAMILIES
from virnucpro.pipeline.features import join
from virnucpro.pipeline.launch_local import Launch, Work
from virnucpro.pipeline.placement import announce
from virnucpro.pipeline.stream import Encoder, Output, Stream
from virnucpro.pipeline.work_queue import QueueResult, WorkQueue
from virnucpro.runs.paths import RunPaths

__all__ = ["Processed", "ScoredFiles", "score_files", "score_files_worker", "warm_up", "work_of"]

#: Suffixes of the vectors of a work file, for each encoder, and of its scores.
VECTORS, SCORES = (".dna.h5", ".protein.h5"), ".scores.h5"


@dataclass(frozen=True)
class ScoredFiles(Output):
    """What is computed from work files, in `folder`: for each an HDF5 file of scores, and of vectors if requested.

    models: encoders, that of DNA first; budgets: tokens of a batch of each; dtype: of all; classifier: its folder, None
    for vectors only; vectors: whether they are kept; run: attributes that identify the run.
    """

    folder: Path
    models: tuple[LocalModel, ...]
    budgets: tuple[int, ...]
    dtype: str
    classifier: Path | None
    vectors: bool
    run: Mapping[str, object]

    @property
    def stage(self) -> str:
        """What a run does to the work files."""
        return "scoring" if self.classifier else "embedding"

    def sources(self, path: Path) -> list[Path | None]:
        """The work file, which holds DNA, and the file of its proteins; None for an empty one. Raises OSError."""
        files = [path, *map(path.with_suffix, self.beside)]
        return [file if file.stat().st_size else None for file in files]

    @property
    def beside(self) -> tuple[str, ...]:
        """The suffix of the other file of a work file: that of its proteins, if they are read."""
        return (".faa",) if len(self.models) > 1 else ()

    def results(self, path: Path) -> Mapping[Path, Mapping[str, object]]:
        """All results of a work file: vectors, then scores."""
        encoders = range(len(self.models)) if self.vectors else ()
        vectors = {self.vectors_path(path, encoder): self.attributes(encoder) for encoder in encoders}
        return {**vectors, self.scores_path(path): self.run} if self.classifier else vectors

    def scores_path(self, path: Path) -> Path:
        """The scores of a work file."""
        return self.folder / f"{path.stem}{SCORES}"

    def vectors_path(self, path: Path, encoder: int) -> Path:
        """The file with the vectors of an encoder for a work file."""
        return self.folder / f"{path.stem}{VECTORS[encoder]}"

    def attributes(self, encoder: int) -> dict[str, object]:
        """The attributes of the vectors of an encoder."""
        model = self.models[encoder]
        dtype = FAMILIES[model.kind](model, self.dtype).dtype
        return {**model.attributes(dtype, self.budgets[encoder]), **self.run}

    def scores(self, path: Path) -> Shard:
        """(n, 2) scores, others and virus, of frames and whole windows. Raises InputError."""
        return read_shard(self.scores_path(path))

    def read_vectors(self, path: Path) -> list[Shard]:
        """The vectors of each encoder for a work file. Raises InputError."""
        return [self.read_vectors_of(path, encoder) for encoder in range(len(self.models))]

    def read_vectors_of(self, path: Path, encoder: int) -> Shard:
        """The vectors of one encoder for a work file. Raises InputError."""
        return read_shard(self.vectors_path(path, encoder))


def _scored(frames: Classifier, whole: Classifier | None, shards: Sequence[Shard]) -> Shard:
    """(n, 2) scores of the vectors of a work file; sequences without one are among the failed.

    frames, whole: the classifiers of open frames, and of whole windows if these are scored.
    """
    joined = join(shards)
    names, scores = list[str](), [np.empty((0, 2), np.float32)]
    for classifier, (keys, vectors) in ((frames, joined.frames), (whole, joined.whole)):
        if classifier and keys:
            names += keys
            scores.append(classifier.score(vectors))
    return Shard(names, np.concatenate(scores), joined.failed)


def warm_up(device_id: int | str) -> None:
    """Begin to use a device before there is work for it. Raises DeviceError."""
    device = torch_device(device_id)
    if device.type == "cuda":
        torch.zeros(1, device=device)
        kernels_for("cuda")


def score_files_worker(
    file_subset: Iterable[Path | None],
    device_id: int | str,
    batch_size: int,
    output_dir: Path,
    *,
    models: tuple[LocalModel, ...],
    dtype: str,
    protein_batch_size: int | None = None,
    classifier: Path | None = None,
    vectors: bool = False,
    run: Mapping[str, object],
    **kwargs: Any,
) -> tuple[list[Path], list[tuple[Path, str]]]:
    """Score work files of windows or frames on one device; run in a spawned process or called directly.

    file_subset, device_id, output_dir: as for `process_dnabert_files_worker`; batch_size, protein_batch_size: tokens
    per batch of each encoder; models, dtype, classifier, vectors, run: as in `ScoredFiles`; kwargs: threads,
    progress_queue, forward_logs, kept, as in `WorkerOptions`.

    Returns the results, and (path, message) for each work file that failed.
    """
    options = WorkerOptions.from_kwargs(kwargs)
    options.begin_logging(device_id)
    device = torch_device(device_id)
    budgets = (batch_size,) if protein_batch_size is None else (batch_size, protein_batch_size)
    files = ScoredFiles(Path(output_dir), models, budgets, dtype, classifier, vectors, run)

    def read(worker: StreamingWorker) -> Network:
        torch_device(device_id)  # each thread has its own current GPU
        return worker.read(device, worker.dtype)

    def load() -> list[Encoder]:
        workers = [FAMILIES[model.kind](model, dtype) for model in models]
        networks = list(in_order(read, workers, len(workers)))
        each = zip(workers, networks, budgets, strict=True)
        return [worker.encoder(network, device, worker.dtype, budget) for worker, network, budget in each]

    encoders = options.kept_or((device, dtype, budgets, [(model, model.sums) for model in models]), load)
    classifiers = (Classifier.load(classifier), Classifier.load_dna_only(classifier)) if classifier else None
    files.folder.mkdir(parents=True, exist_ok=True)

    def finish(shards: Sequence[Shard]) -> list[Shard]:
        return [*(shards if vectors else ()), *([_scored(*classifiers, shards)] if classifiers else ())]

    given = encoders, files, device, options.lanes, options.max_tokens, options.progress_queue
    return Stream(*given, finish).go(file_subset)


def work_of(files: ScoredFiles, devices: Sequence[str], threads: int) -> Work:
    """The work of a run's workers. devices: an entry per worker; threads: of each worker."""
    options = {
        "models": files.models,
        "dtype": files.dtype,
        "protein_batch_size": files.budgets[1] if len(files.budgets) > 1 else None,
        "classifier": files.classifier,
        "vectors": files.vectors,
        "run": files.run,
        "threads": threads,
    }
    return Work(score_files_worker, devices, files.budgets[0], files.folder, options, files.beside)


def score_files(
    files: ScoredFiles,
    counts: Mapping[Path, int],
    devices: Sequence[str],
    *,
    threads: int,
    listen: Listener,
    stall_seconds: float,
    launch: Launch,
) -> QueueResult:
    """Score all work files that are not done yet, on all devices, or only embed them. Raises ModelError, DeviceError.

    counts: windows and proteins of each; devices: an entry per worker; threads: of each worker; launch: makes the
    launcher of the workers.
    """
    done = {path for path in counts if files.is_done(path)}
    left = {path: count for path, count in counts.items() if path not in done}
    unit = "windows" if len(files.models) == 1 else "windows and proteins"
    announce(files.models, files.dtype, files.budgets, devices, counts, done, unit)
    total = sum(counts.values())
    listen(None, Phase(files.stage, total, total - sum(left.values()), tuple(devices), unit))
    given = work_of(files, devices, threads)
    work = given.worker, given.devices, given.batch_size, given.output_dir, left, given.kwargs
    return WorkQueue(*work, listen, stall_seconds, launch, given.beside).run()


@dataclass(frozen=True)
class Processed:
    """The work files of a run and their results; failed: which failed, and why, complete once all are processed."""

    paths: RunPaths
    files: ScoredFiles
    failed: dict[str, str]

    def failure(self, part: WorkFile) -> str:
        """Why a work file has no results; empty if it has."""
        reason = self.failed.get(f"{part.name}.fna")
        return f"its work file failed: {reason}" if reason else ""

    def source(self, part: WorkFile) -> Path | None:
        """The work file, if it has results; None if it has nothing to embed, or if it failed."""
        there = part.frames + part.whole and not self.failure(part)
        return self.paths.part_file(part.name, ".fna") if there else None
