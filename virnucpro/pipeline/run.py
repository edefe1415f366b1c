"""What every run is made of: checks, the lock, the log, what it is identical to, resuming, the record, tidying up.

A command adds its own steps: see `pipeline/embed.py` and `pipeline/predict.py`.
"""

from __future__ import annotations

import contextlib
import fcntl
import glob
import logging
import os
import platform
import shutil
import time
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar

from virnucpro._version import __version__
from virnucpro.core import log
from virnucpro.core.config import RunConfig
from virnucpro.core.manifest import Manifest, differences, fingerprint
from virnucpro.core.paths import RunPaths, check_input
from virnucpro.errors import InputError, OutputError
from virnucpro.io.store import FORMAT_VERSION, atomic_path
from virnucpro.io.tables import FAILED, Table, text_file
from virnucpro.models.registry import LocalModel, sha256_of
from virnucpro.pipeline.encode import Placement
from virnucpro.pipeline.events import Listener, Phase
from virnucpro.pipeline.split import describe_input, spool_streams
from virnucpro.pipeline.work_queue import DeviceStats

logger = logging.getLogger("virnucpro.run")

Result = TypeVar("Result")

#: Something without a result: (input, record number from 1, or 0 for the rest of the file, id, reason).
Failure = tuple[str, int, str, str]


class Run(ABC, Generic[Result]):
    """The steps of one run, and what they share."""

    command: ClassVar[str]

    def __init__(self, config: RunConfig, paths: RunPaths, listener: Listener | None) -> None:
        self._config = config
        self.paths = paths
        self.listen = listener or (lambda _index, _event: None)
        self.began = time.time()
        #: Seconds that each stage took, in their order.
        self.seconds: dict[str, float] = {}

    def run(self) -> Result:
        """Do the work, or continue, or find it done. Raises VirnucproError; what was finished by then is kept."""
        self.check()
        self.choose()
        self._make_folder()
        with self._locked(), self._logging():
            with self.stage("reading input"):
                self._identify()
            if (done := self._already_done()) is not None:
                return done
            self._plan()
            return self.work()

    # What a command says.

    @property
    @abstractmethod
    def results(self) -> tuple[Path, ...]:
        """The files that a complete run leaves for the user, whatever came out."""

    @abstractmethod
    def choose(self) -> None:
        """Find the models, and set `placement`."""

    @property
    @abstractmethod
    def models(self) -> dict[str, LocalModel]:
        """The encoders of the run by their parts in it."""

    @abstractmethod
    def own_identity(self) -> dict[str, Any]:
        """What besides input, models, placement and versions decides the bytes of the results."""

    @abstractmethod
    def split(self) -> dict[str, Any]:
        """Cut the input into work files; returns the plan for the run record."""

    @abstractmethod
    def take_plan(self, plan: dict[str, Any]) -> None:
        """Take up the plan of this run or an earlier one."""

    @abstractmethod
    def lost_part(self) -> str | None:
        """The first work file of the plan that is gone or cut, if any is."""

    @abstractmethod
    def work(self) -> Result:
        """All that comes after the split."""

    @abstractmethod
    def earlier_result(self, record: dict[str, Any]) -> Result:
        """What the record of a complete run says of its result."""

    placement: Placement

    # Before anything is computed.

    def check(self) -> None:
        """Raise what can be known before anything is read."""
        parent = self.paths.output.parent
        folder = next((folder for folder in (parent, *parent.parents) if folder.exists()), parent)
        if not os.access(folder, os.W_OK):
            raise OutputError(f"the folder {folder} cannot be written", hint="choose another place with -o")
        if self._existing() and not self._config.force and not (self._config.resume and self.paths.manifest.exists()):
            raise self._exists()
        for path in self._config.inputs:
            check_input(path)

    def _make_folder(self) -> None:
        """Only now, so that a run which is refused leaves nothing behind."""
        folder = self.paths.output.parent
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OutputError(
                f"the folder {folder} cannot be made: {error.strerror}", hint="choose another place with -o"
            ) from error

    def _existing(self) -> Path | None:
        return next((path for path in self.results if path.exists()), None)

    def _exists(self) -> OutputError:
        return OutputError(f"{self._existing()} exists", hint="choose another output, or overwrite with --force")

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
                    f"another run is writing {self.paths.output}", hint="wait for it, or choose another output"
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

    @contextlib.contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """A part of the run whose time is told apart."""
        self.listen(-1, Phase(name))
        began = time.perf_counter()
        yield
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - began

    def _identify(self) -> None:
        """Everything that decides the bytes of the result; equal identities mean equal results."""
        self.inputs = self._spool()
        pairs = zip(self.inputs, self._config.inputs, strict=True)
        self.described = [describe_input(path, name) for path, name in pairs]
        import torch

        self.identity: dict[str, Any] = {
            "inputs": [entry["sha256"] for entry in self.described],
            **{name: digest for part, model in self.models.items() for name, digest in _checksums(part, model)},
            "dtype": self.placement.dtype,
            "token_budget": self.placement.budget,
            "device_kinds": self.placement.kinds,
            "virnucpro_version": __version__,
            "format_version": FORMAT_VERSION,
            "torch_version": torch.__version__,
            "triton_version": self.placement.triton_version,
            **self.own_identity(),
        }
        self.fingerprint = fingerprint(self.identity)

    def refuse_changed_inputs(self) -> None:
        """Raise InputError unless the inputs are still what the run began with: for a run that reads them again."""
        for path, name, before in zip(self.inputs, self._config.inputs, self.described, strict=True):
            if describe_input(path, name)["sha256"] != before["sha256"]:
                raise InputError(f"{name} was changed while the run was on", hint="leave it alone, and run again")

    def _spool(self) -> list[Path]:
        self.paths.streams.mkdir(exist_ok=True)
        try:
            return spool_streams(self._config.inputs, self.paths)
        except OSError as error:
            raise OutputError(
                f"cannot copy the input to {self.paths.streams}: {error.strerror}",
                hint="free space, or choose a roomier place with --work-dir",
            ) from error

    def _already_done(self) -> Result | None:
        """The result of the same run, finished before; an error when the output is something else's."""
        if not self._existing() or self._config.force:
            return None
        manifest = Manifest.load(self.paths.manifest)
        if manifest is None or manifest.state == "embedding":
            raise self._exists()
        if changed := differences(manifest.identity, self.identity):
            raise OutputError(
                f"{self._existing()} exists and was made from other settings ({', '.join(changed)})",
                hint="choose another output, or overwrite with --force",
            )
        if manifest.state != "complete":
            return None  # killed while the results got their names: they are written again
        if manifest.record["failed_work_files"]:
            logger.info("some work files failed last time and are tried again")
            return None
        if lost := [path for path in self.results if not path.exists()]:
            logger.info("%s is gone; the run is made again", lost[0])
            return None
        logger.info("%s is complete; nothing to do", self.paths.output)
        return self.earlier_result(manifest.record)

    @property
    def input_names(self) -> tuple[Path, ...]:
        """The inputs as the user named them; `inputs` may be copies."""
        return self._config.inputs

    # Splitting, or taking up an earlier split.

    def _plan(self) -> None:
        manifest = self._resumable()
        if manifest is None:
            manifest = self._split()
        self.manifest = manifest

    def _resumable(self) -> Manifest | None:
        manifest = Manifest.load(self.paths.manifest) if self._config.resume else None
        if manifest is None or not self.paths.parts.is_dir():
            return None
        if changed := differences(manifest.identity, self.identity):
            logger.warning("not resuming the earlier run: %s changed; starting anew", ", ".join(changed))
            return None
        self.take_plan(manifest.plan)
        if lost := self.lost_part():
            logger.warning("not resuming the earlier run: work file %s is gone or cut; starting anew", lost)
            return None
        return manifest

    def _split(self) -> Manifest:
        for folder in (self.paths.parts, self.paths.shards):
            shutil.rmtree(folder, ignore_errors=True)
        self.paths.manifest.unlink(missing_ok=True)
        with self.stage("splitting"):
            try:
                self.paths.parts.mkdir(parents=True, exist_ok=True)
                plan = self.split()
            except OSError as error:
                raise OutputError(
                    f"cannot write work files in {self.paths.parts}: {error.strerror}",
                    hint="free space, or choose a roomier place with --work-dir",
                ) from error
        self.take_plan(plan)
        manifest = Manifest(self.paths.manifest, "embedding", self.identity, plan, self._record())
        manifest.save()
        return manifest

    def _record(self) -> dict[str, Any]:
        settings = {name: str(value) for name, value in asdict(self._config).items() if name != "inputs"}
        return {
            "command": self.command,
            "started": datetime.fromtimestamp(self.began, timezone.utc).isoformat(timespec="seconds"),
            "host": {"python": platform.python_version(), "platform": platform.platform()},
            "settings": settings,
            "inputs": self.described,
            "models": {part: _described(model) for part, model in self.models.items()},
        }

    def attributes(self, model: LocalModel) -> dict[str, object]:
        """What an HDF5 result of one of the encoders says of itself."""
        made_by = model.attributes(self.placement.dtype, self.placement.budget)
        return made_by | {"fingerprint": self.fingerprint}

    # The end.

    def in_input_order(self, failures: Iterable[tuple[int, int, str, str]]) -> list[Failure]:
        """Failures by (index of the input, record, id, reason), with the input's name, in input order."""
        # Record 0 stands for the rest of a file and comes behind its records.
        found = sorted(failures, key=lambda row: (row[0], row[1] == 0, row[1]))
        return [(str(self._config.inputs[index]), number, name, reason) for index, number, name, reason in found]

    def save_record(self, failed_parts: dict[str, str], result: dict[str, Any]) -> None:
        """Complete `run.json`."""
        self.manifest.state = "complete"
        self.manifest.record |= {
            "seconds": round(time.time() - self.began, 1),
            "stages": {name: round(seconds, 2) for name, seconds in self.seconds.items()},
            "result": result,
            "failed_work_files": failed_parts,
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
        for path in (*self.results, self.paths.manifest, self.paths.failed):
            for dots in (".", ".."):  # a file that is put together under its temporary name has one more while it is
                for unfinished in path.parent.glob(f"{dots}{glob.escape(path.name)}.[0-9]*.tmp"):  # of a killed run
                    unfinished.unlink(missing_ok=True)
        for folder in (self.paths.parts, self.paths.shards, self.paths.streams):
            shutil.rmtree(folder, ignore_errors=True)
        self.paths.lock.unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            self.paths.work.rmdir()


def write_failed(path: Path, failures: Sequence[Failure]) -> None:
    """`failed.tsv`: input, record (from 1; 0 is the rest of the file), id, reason."""
    with atomic_path(path) as temporary, text_file(temporary) as file:
        table = Table(file, FAILED)
        for failure in failures:
            table.row(*failure)


def balance(stats: Sequence[DeviceStats]) -> dict[str, Any]:
    """How the devices shared the work, for the run record."""
    busy = [each.busy_seconds for each in stats]
    return {
        "devices": [asdict(each) | {"busy_share": round(each.busy_share, 4)} for each in stats],
        "busy_spread": round(max(busy) * len(busy) / sum(busy), 4) if sum(busy) else None,
    }


def _checksums(part: str, model: LocalModel) -> Iterator[tuple[str, str | None]]:
    yield f"{part} weights", model.sha256
    for path, what in ((model.config, "config"), (model.tokenizer, "tokenizer")):
        yield f"{part} {what}", None if path is None else sha256_of(path)


def _described(model: LocalModel) -> dict[str, Any]:
    return {"name": model.name, "revision": model.revision, "sha256": model.sha256, "trained": model.trained}


def work_folder(output: Path, work_dir: Path | None) -> Path | None:
    """A folder of its own for each output in a shared `--work-dir`; None where none is asked for."""
    if work_dir is None:
        return None
    import hashlib

    key = hashlib.sha256(str(output.resolve()).encode()).hexdigest()[:8]
    return work_dir / f"{output.name}.{key}.work"
