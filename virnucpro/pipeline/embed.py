"""One run of `virnucpro embed`: check, split or resume, embed, merge, record."""

from __future__ import annotations

import contextlib
import csv
import fcntl
import glob
import logging
import os
import platform
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from virnucpro._version import __version__
from virnucpro.core import log
from virnucpro.core.config import STDIN, EmbedConfig
from virnucpro.core.device import Device, available_threads, select_devices, select_dtype
from virnucpro.core.manifest import Manifest, differences, fingerprint
from virnucpro.core.paths import RunPaths
from virnucpro.errors import InputError, ModelError, OutputError, UsageError
from virnucpro.io.fasta import read_records
from virnucpro.io.store import (
    FORMAT_VERSION,
    OUTPUT_SUFFIXES,
    Shard,
    atomic_path,
    ids_path,
    read_shard,
    write_merged,
)
from virnucpro.models.registry import LocalModel, resolve, sha256_of
from virnucpro.pipeline.packing import round_budget
from virnucpro.pipeline.split import Part, Plan, Splitter, describe_input, spool_streams
from virnucpro.pipeline.work_queue import DeviceStats, QueueResult, WorkQueue

logger = logging.getLogger("virnucpro.embed")

#: A listener for progress: the index of a worker and one of `pipeline.events`; or -1 and a `Phase`.
Listener = Callable[[int, object], None]


@dataclass(frozen=True)
class Phase:
    """A stage of the run begins; `total` sequences are ahead of it, `done` of them from an earlier run."""

    name: str
    total: int = 0
    done: int = 0
    workers: tuple[str, ...] = ()


@dataclass
class EmbedResult:
    """How a run ended. failures: (input, record number or 0, id, reason)."""

    output: Path
    sequences: int
    dim: int
    failures: list[tuple[str, int, str, str]] = field(default_factory=list)
    devices: list[DeviceStats] = field(default_factory=list)
    already_done: bool = False


class EmbedRun:
    """The steps of one run, and what they share."""

    def __init__(self, config: EmbedConfig, listener: Listener | None = None) -> None:
        self.config = config
        self.paths = _run_paths(config)
        self.listen = listener or (lambda _index, _event: None)
        self.began = time.time()

    def run(self) -> EmbedResult:
        """Embed, or continue, or find it done. Raises VirnucproError; what was finished by then is kept."""
        self._check_output()
        self._choose()
        with self._locked(), self._logging():
            self._identify()
            if (done := self._already_done()) is not None:
                return done
            self._plan()
            queue = self._embed()
            return self._complete(queue)

    # Before anything is computed.

    def _check_output(self) -> None:
        config, output = self.config, self.config.output
        if output.suffix not in OUTPUT_SUFFIXES:
            raise UsageError(f"-o {output}: the suffix decides the format", hint="use .h5, .npy or .pt")
        if output.resolve() in {path.resolve() for path in config.inputs}:
            raise UsageError(f"-o {output} is also an input", hint="choose another output")
        if output.is_dir():
            raise OutputError(f"-o {output} is a folder", hint="name a file in it")
        if not output.parent.is_dir():
            raise OutputError(f"the folder {output.parent} does not exist", hint=f"mkdir -p {output.parent}")
        if not os.access(output.parent, os.W_OK):
            raise OutputError(f"the folder {output.parent} cannot be written", hint="choose another place with -o")
        if output.exists() and not config.force and not (config.resume and self.paths.manifest.exists()):
            raise self._exists()
        for path in config.inputs:
            if path != STDIN and not path.exists():
                raise InputError(f"{path} does not exist", hint="check the path")
            if path.is_dir():
                raise InputError(f"{path} is a folder", hint="give its files, for example with a pattern")

    def _exists(self) -> OutputError:
        return OutputError(f"{self.config.output} exists", hint="choose another output, or overwrite with --force")

    def _choose(self) -> None:
        """Model, devices, and the one dtype and token budget of the run."""
        config = self.config
        self.model: LocalModel = resolve(config.model, config.models_dir)
        self.devices: list[Device] = select_devices(config.device)
        self.dtype = select_dtype(config.dtype, self.devices)
        best = min(device.optimal_tokens(self.dtype) for device in self.devices)
        self.budget = round_budget(config.batch_size or best)
        threads = config.threads or available_threads()
        self.threads_a_worker = max(1, threads // len(self.devices))

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        """Keep a second run away from the same output."""
        try:
            self.paths.work.mkdir(parents=True, exist_ok=True)
            file = open(self.paths.lock, "w")  # noqa: SIM115
        except OSError as error:
            raise OutputError(f"cannot write in {self.paths.work}: {error.strerror}", hint="try --work-dir") from error
        with file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                raise OutputError(
                    f"another run is writing {self.config.output}", hint="wait for it, or choose another output"
                ) from error
            try:
                yield
            finally:
                self._tidy()

    @contextlib.contextmanager
    def _logging(self) -> Iterator[None]:
        try:
            handler = log.add_file(self.paths.log)
        except OSError as error:
            raise OutputError(f"cannot write {self.paths.log}: {error.strerror}", hint="try another -o") from error
        try:
            yield
        except BaseException as error:
            logger.debug("ended by %s: %s", type(error).__name__, error)  # the caller says it to the user
            raise
        finally:
            log.remove(handler)

    def _identify(self) -> None:
        """Everything that decides the bytes of the result; equal identities mean equal results."""
        self.listen(-1, Phase("reading input"))
        self.inputs = self._spool()
        pairs = zip(self.inputs, self.config.inputs, strict=True)
        self.described = [describe_input(path, name) for path, name in pairs]
        import torch

        self.identity: dict[str, Any] = {
            "inputs": [entry["sha256"] for entry in self.described],
            "model_weights": self.model.sha256,
            "model_config": _sha256(self.model.config),
            "tokenizer": _sha256(self.model.tokenizer),
            "dtype": self.dtype,
            "token_budget": self.budget,
            "max_tokens": self.config.max_tokens,
            "device_kinds": sorted({device.model for device in self.devices}),
            "virnucpro_version": __version__,
            "format_version": FORMAT_VERSION,
            "torch_version": torch.__version__,
        }
        self.fingerprint = fingerprint(self.identity)

    def _spool(self) -> list[Path]:
        self.paths.streams.mkdir(exist_ok=True)
        try:
            return spool_streams(self.config.inputs, self.paths)
        except OSError as error:
            raise OutputError(
                f"cannot copy the input to {self.paths.streams}: {error.strerror}",
                hint="free space, or choose a roomier place with --work-dir",
            ) from error

    def _already_done(self) -> EmbedResult | None:
        """The result of the same run, finished before; an error when the output is something else's."""
        output = self.config.output
        if not output.exists() or self.config.force:
            return None
        manifest = Manifest.load(self.paths.manifest)
        if manifest is None or manifest.state != "complete":
            raise self._exists()
        if changed := differences(manifest.identity, self.identity):
            raise OutputError(
                f"{output} exists and was made from other settings ({', '.join(changed)})",
                hint="choose another output, or overwrite with --force",
            )
        if manifest.record["failed_work_files"]:
            logger.info("some work files failed last time and are tried again")
            return None
        logger.info("%s is complete; nothing to do", output)
        summary = manifest.record["result"]
        failures = [tuple(row) for row in summary["failures"]]
        return EmbedResult(output, summary["sequences"], summary["dim"], failures, already_done=True)

    # Splitting, or taking up an earlier split.

    def _plan(self) -> None:
        earlier = self._resumable()
        if earlier is not None:
            self.manifest, self.plan = earlier, Plan.from_json(earlier.plan)
        else:
            self._split()
        if not self.plan.parts:
            self._write_failed(self._failures({}))
            reasons = {item.reason for item in self.plan.rejected[:1]}
            raise InputError(f"no usable sequence in the input: {'; '.join(reasons)}", hint=f"see {self.paths.failed}")

    def _resumable(self) -> Manifest | None:
        manifest = Manifest.load(self.paths.manifest) if self.config.resume else None
        if manifest is None or not self.paths.parts.is_dir():
            return None
        if changed := differences(manifest.identity, self.identity):
            logger.warning("not resuming the earlier run: %s changed; starting anew", ", ".join(changed))
            return None
        lost = [part.name for part in Plan.from_json(manifest.plan).parts if not self._is_whole(part)]
        if lost:
            logger.warning("not resuming the earlier run: work file %s is gone or cut; starting anew", lost[0])
            return None
        return manifest

    def _is_whole(self, part: Part) -> bool:
        path = self._path(part)
        return path.exists() and path.stat().st_size == part.size

    def _split(self) -> None:
        for folder in (self.paths.parts, self.paths.shards):
            shutil.rmtree(folder, ignore_errors=True)
        self.paths.manifest.unlink(missing_ok=True)
        splitter = Splitter(self.paths, self.config.sequences_per_file, len(self.devices))
        try:
            self.plan = splitter.split(self.inputs, self.config.inputs)
        except OSError as error:
            raise OutputError(
                f"cannot write work files in {self.paths.parts}: {error.strerror}",
                hint="free space, or choose a roomier place with --work-dir",
            ) from error
        self.manifest = Manifest(self.paths.manifest, "embedding", self.identity, self.plan.to_json(), self._record())
        self.manifest.save()

    def _record(self) -> dict[str, Any]:
        settings = {name: str(value) for name, value in asdict(self.config).items() if name != "inputs"}
        model = {
            "name": self.model.name,
            "revision": self.model.revision,
            "sha256": self.model.sha256,
            "trained": self.model.trained,
        }
        return {
            "command": "embed",
            "started": datetime.fromtimestamp(self.began, timezone.utc).isoformat(timespec="seconds"),
            "host": {"python": platform.python_version(), "platform": platform.platform()},
            "settings": settings,
            "inputs": self.described,
            "model": model,
        }

    # Embedding.

    def _embed(self) -> QueueResult:
        done = [part for part in self.plan.parts if self._is_done(part)]
        names = {part.name for part in done}
        counts = {self._path(part): part.sequences for part in self.plan.parts if part.name not in names}
        sequences = sum(part.sequences for part in done)
        if done:
            logger.info("resuming: %d of %d work files are done", len(done), len(self.plan.parts))
        workers = tuple(device.name for device in self.devices)
        if self.model.kind != "dnabert":
            raise ModelError(
                f"{self.model.name} embeds proteins, which this version cannot do yet",
                hint="for DNA, take dnabert-mini, dnabert-s or dnabert-2",
            )
        if not self.model.trained:
            logger.warning(
                "%s is UNTRAINED: its embeddings show that the tool works, and mean nothing", self.model.name
            )
        logger.info(
            "%d sequences in %d work files; %s in %s, %d tokens a batch, on %s",
            self.plan.sequences,
            len(self.plan.parts),
            self.model.name,
            self.dtype,
            self.budget,
            ", ".join(workers),
        )
        self.listen(-1, Phase("embedding", self.plan.sequences, sequences, workers))
        self.paths.shards.mkdir(parents=True, exist_ok=True)
        from virnucpro.pipeline.parallel_dnabert import process_dnabert_files_worker

        queue = WorkQueue(
            process_dnabert_files_worker,
            workers,
            self.budget,
            self.paths.shards,
            counts,
            self._worker_options(),
            self.listen,
        )
        return queue.run()

    def _worker_options(self) -> dict[str, Any]:
        return {
            "model": self.model,
            "dtype": self.dtype,
            "max_tokens": self.config.max_tokens,
            "threads": self.threads_a_worker,
            "attributes": self._attributes(),
        }

    def _attributes(self) -> dict[str, object]:
        """What an HDF5 result says of itself."""
        return {
            "model": self.model.name,
            "model_revision": self.model.revision or "",
            "model_sha256": self.model.sha256,
            "model_trained": self.model.trained,
            "dtype": self.dtype,
            "token_budget": self.budget,
            "virnucpro_version": __version__,
            "torch_version": str(self.identity["torch_version"]),
            "fingerprint": self.fingerprint,
        }

    def _path(self, part: Part) -> Path:
        return self.paths.parts / part.name

    def _is_done(self, part: Part) -> bool:
        """Whether the shard of `part` is there and is provably what this run would write."""
        path = self.paths.shard(self._path(part))
        if not path.exists():
            return False
        try:
            shard = read_shard(path)
        except InputError as error:
            logger.warning("%s", error)
            return False
        if shard.attributes.get("fingerprint") != self.fingerprint:
            logger.warning("%s is of another run; it is made again", path)
            return False
        return len(shard.headers) + len(shard.failed) == part.sequences

    # The result.

    def _complete(self, queue: QueueResult) -> EmbedResult:
        self.listen(-1, Phase("writing the result"))
        failed_parts = {path.name: reason for path, reason in queue.failed.items()}
        good = [part for part in self.plan.parts if part.name not in failed_parts]
        failures = self._failures(failed_parts)
        rows, dim = self._shape(good)
        if good:
            write_merged(self.config.output, self._shards(good), rows, dim, self._attributes())
        self._write_failed(failures)
        result = EmbedResult(self.config.output, rows, dim, failures, queue.stats)
        self._save_record(result, failed_parts)
        if not good:
            raise InputError("no work file could be embedded", hint=f"see {self.paths.failed}")
        return result

    def _shards(self, parts: list[Part]) -> Iterator[Shard]:
        return (read_shard(self.paths.shard(self._path(part))) for part in parts)

    def _shape(self, parts: list[Part]) -> tuple[int, int]:
        rows = dim = 0
        for shard in self._shards(parts):
            rows, dim = rows + len(shard.headers), shard.embeddings.shape[1]
        return rows, dim

    def _failures(self, failed_parts: dict[str, str]) -> list[tuple[str, int, str, str]]:
        """Everything without an embedding, in input order."""
        found = [(item.input_index, item.record, item.id, item.reason) for item in self.plan.rejected]
        for part in self.plan.parts:
            for number, name, reason in self._failures_of(part, failed_parts.get(part.name)):
                found.append((*part.origin(number), name, reason))
        # Record 0 stands for the rest of a file and comes behind its records.
        found.sort(key=lambda row: (row[0], row[1] == 0, row[1]))
        return [(str(self.config.inputs[index]), number, name, reason) for index, number, name, reason in found]

    def _failures_of(self, part: Part, reason: str | None) -> list[tuple[int, str, str]]:
        if reason is None:
            return read_shard(self.paths.shard(self._path(part))).failed
        names = self._names(part)
        return [
            (number, names.get(number, ""), f"its work file failed: {reason}")
            for number in range(1, part.sequences + 1)
        ]

    def _names(self, part: Part) -> dict[int, str]:
        """The ids in a work file by record number; none if that is what it failed of."""
        try:
            return {record.number: record.id for record in read_records(self._path(part))}
        except InputError:
            return {}

    def _write_failed(self, failures: list[tuple[str, int, str, str]]) -> None:
        """`failed.tsv`: input, record (from 1; 0 is the rest of the file), id, reason. No failures, no file."""
        self.paths.failed.unlink(missing_ok=True)
        if not failures:
            return
        with atomic_path(self.paths.failed) as temporary, open(temporary, "w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file, delimiter="\t", lineterminator="\n")
            writer.writerow(("input", "record", "id", "reason"))
            writer.writerows(failures)

    def _save_record(self, result: EmbedResult, failed_parts: dict[str, str]) -> None:
        """Complete `run.json`."""
        busy = [stats.busy_seconds for stats in result.devices]
        self.manifest.state = "complete"
        self.manifest.record |= {
            "seconds": round(time.time() - self.began, 1),
            "result": {"sequences": result.sequences, "dim": result.dim, "failures": result.failures},
            "failed_work_files": failed_parts,
            "devices": [asdict(stats) | {"busy_share": round(stats.busy_share, 4)} for stats in result.devices],
            "busy_spread": round(max(busy) * len(busy) / sum(busy), 4) if sum(busy) else None,
        }
        self.manifest.save()

    def _tidy(self) -> None:
        """At a run's end, whatever it is: keep the work files only if the run can be continued."""
        manifest = Manifest.load(self.paths.manifest)
        open_end = manifest is not None and (manifest.state != "complete" or manifest.record.get("failed_work_files"))
        if not open_end or not any(self.paths.parts.glob("*")):
            self._clean()

    def _clean(self) -> None:
        """Remove what was needed only while the run was on; a folder that holds anything else stays."""
        for path in (self.config.output, ids_path(self.config.output), self.paths.manifest, self.paths.failed):
            for unfinished in path.parent.glob(f".{glob.escape(path.name)}.[0-9]*.tmp"):  # of a run that was killed
                unfinished.unlink(missing_ok=True)
        for folder in (self.paths.parts, self.paths.shards, self.paths.streams):
            shutil.rmtree(folder, ignore_errors=True)
        self.paths.lock.unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            self.paths.work.rmdir()


def _sha256(path: Path | None) -> str | None:
    return None if path is None else sha256_of(path)


def _run_paths(config: EmbedConfig) -> RunPaths:
    """File names of the run; in a shared `--work-dir` each output has a folder of its own."""
    if config.work_dir is None:
        return RunPaths(config.output)
    import hashlib

    key = hashlib.sha256(str(config.output.resolve()).encode()).hexdigest()[:8]
    return RunPaths(config.output, config.work_dir / f"{config.output.name}.{key}.work")


def run_embed(config: EmbedConfig, listener: Listener | None = None) -> EmbedResult:
    """Embed the sequences of `config.inputs` into `config.output`; raises VirnucproError."""
    return EmbedRun(config, listener).run()
