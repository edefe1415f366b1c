"""Base of every run that embeds: checks, identity, work files of this run or an earlier one, failures.

`embed`, `predict` and `train` each have their own file next to this one, to be read from top to bottom. What a run
holds while it is active, and how it ends, is in `runs/session.py`.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import platform
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Generic, TypeVar

from msgspec import convert

from virnucpro._version import __version__
from virnucpro.core.device import select_devices
from virnucpro.core.threads import in_order
from virnucpro.errors import OutputError
from virnucpro.input.cut import Cutter, Rules
from virnucpro.input.index import Plan
from virnucpro.io.files import failing_as, sha256_of, sync
from virnucpro.io.store import FORMAT_VERSION, READ_AHEAD
from virnucpro.models.local import LocalModel, model_sha256
from virnucpro.pipeline.caller import ScoredFiles, score_files, work_of
from virnucpro.pipeline.cluster import Cluster
from virnucpro.pipeline.events import Listener
from virnucpro.pipeline.families import place
from virnucpro.pipeline.launch_local import Launch, Launcher, launcher_for
from virnucpro.pipeline.placement import Placement, threads_a_worker
from virnucpro.pipeline.schedule import DeviceStats
from virnucpro.runs.changes import changes
from virnucpro.runs.config import RunConfig
from virnucpro.runs.inputs import Inputs
from virnucpro.runs.names import HINT, check_names
from virnucpro.runs.paths import RunPaths
from virnucpro.runs.record import RunRecord, as_recorded, fingerprint
from virnucpro.runs.session import Session, session

logger = logging.getLogger("virnucpro.run")

Config = TypeVar("Config", bound=RunConfig)
Paths = TypeVar("Paths", bound=RunPaths)


@dataclass(frozen=True)
class Job(Generic[Config, Paths]):
    """What a run will do: everything that is known before its input is read.

    results: the files of every complete run; models: the encoders by their roles in the run; identity: what decides
    vectors and scores, in addition to input, models, placement and versions; choices: what else decides the results;
    hint: how to choose other names for them; launch: makes the launcher of workers.
    """

    command: str
    config: Config
    paths: Paths
    results: tuple[Path, ...]
    models: Mapping[str, LocalModel]
    rules: Rules
    placement: Placement
    identity: dict[str, Any]
    choices: dict[str, Any] = field(default_factory=dict)
    hint: str = HINT
    launch: Launch = launcher_for


def placed(config: RunConfig, models: Sequence[LocalModel]) -> Placement:
    """Where a run computes: on devices of this host, or of a Ray cluster, which it joins. Raises DeviceError."""
    if config.ray is None:
        return place(select_devices(config.device), models, config.dtype, config.batch_size)
    cluster = Cluster(config.ray, config.device, models, config.threads, 60 * config.ray_wait)
    try:
        return replace(place(cluster.devices, models, config.dtype, config.batch_size), cluster=cluster)
    except BaseException:
        cluster.close()
        raise


@contextlib.contextmanager
def started(job: Job[Config, Paths], listener: Listener) -> Iterator[Run[Config, Paths]]:
    """A run with its lock, log and record, and checksums of its input. Raises VirnucproError; finished work is kept."""
    # A classifier that is trained into the folder of an encoder would overwrite it.
    files = [path for model in job.models.values() for path in model.files]
    with contextlib.closing(job.placement):
        check_names(job.paths, job.results, files, job.hint)
        asked, force = job.config.described, job.config.force
        with session(job.command, job.paths, asked, force=force, listen=listener) as opened:
            with opened.stage("reading input"):
                inputs = Inputs(job.config.inputs, job.paths)
                identity = _identity(job, inputs)
            yield Run(job, opened, inputs, identity)


def _identity(job: Job[Config, Paths], inputs: Inputs) -> dict[str, Any]:
    """Everything that decides the bytes of the result; equal identities mean equal results."""
    import torch

    values = {
        "inputs": inputs.sums,
        **{name: digest for role, model in job.models.items() for name, digest in _checksums(role, model)},
        "dtype": job.placement.dtype,
        "token_budget": list(job.placement.budgets),
        "device_kinds": job.placement.kinds,
        "virnucpro_version": __version__,
        "format_version": FORMAT_VERSION,
        "torch_version": torch.__version__,
        "triton_version": job.placement.triton_version,
        **job.identity,
    }
    return as_recorded(values)


def _checksums(role: str, model: LocalModel) -> Iterator[tuple[str, str | None]]:
    yield f"{role} weights", model.sha256
    for path, what in ((model.config, "config"), (model.tokenizer, "tokenizer")):
        yield f"{role} {what}", None if path is None else model_sha256(path)


def by_role(encoders: Sequence[LocalModel]) -> dict[str, LocalModel]:
    """The encoders of a run over windows by their roles: of DNA and of proteins, or of DNA alone."""
    return dict(zip(("DNA model", "protein model"), encoders, strict=False))


def rules_identity(rules: Rules) -> dict[str, Any]:
    """The rules of cutting into windows that decide scores."""
    return {
        "window": rules.window,
        "frames": "exact" if rules.exact else "published",
        "min length": rules.min_length,
        "windows without a frame": rules.dna_only,
        "reads": rules.reads,
    }


@dataclass(frozen=True)
class Run(Generic[Config, Paths]):
    """A run with the checksums of its input and everything that decides its results."""

    job: Job[Config, Paths]
    session: Session
    inputs: Inputs
    identity: dict[str, Any]

    @property
    def config(self) -> Config:
        """The settings of the run."""
        return self.job.config

    @property
    def paths(self) -> Paths:
        """The names of its files."""
        return self.job.paths

    @property
    def fingerprint(self) -> str:
        """The fingerprint of its identity."""
        return fingerprint(self.identity)

    def already_done(self, recall: bool = False) -> RunRecord | None:
        """The record of an earlier run, if it was the same and is complete; all as for `Session.already_done`."""
        return self.session.already_done(self.job.results, self.identity, self.job.choices, recall)

    def begin(self, plan: Plan | None = None) -> None:
        """Write the record; plan: None if nothing is left to compute."""
        values = asdict(plan) if plan else {}
        self.session.begin(self.job.results, self.identity, self.job.choices, values, self._details())

    def _details(self) -> dict[str, Any]:
        return {
            "host": {"python": platform.python_version(), "platform": platform.platform()},
            "inputs": self.inputs.described,
            "models": {role: _described(model) for role, model in self.job.models.items()},
        }

    def work_files(self, launcher: Launcher | None = None) -> Plan:
        """Take the work files of an earlier run with the same identity, or cut the input; then the run has begun.

        launcher: starts workers meanwhile, no more than there are work files.
        """
        plan = self._earlier_plan() or self._cut(launcher)
        self.begin(plan)
        return plan

    def _earlier_plan(self) -> Plan | None:
        record = self.session.record
        if record is None or not record.plan or not self.config.resume:
            return None
        if changed := changes(record.identity, self.identity, record.settings, self.session.settings):
            logger.warning("not resuming the earlier run: %s changed; starting from the beginning", ", ".join(changed))
            return None
        self.session.take_over()
        if not self.paths.parts.is_dir():
            return None
        plan = convert(record.plan, Plan)
        if lost := self._lost(plan):
            logger.warning(
                "not resuming the earlier run: work file %s is missing or damaged; starting from the beginning", lost
            )
            return None
        return plan

    def _lost(self, plan: Plan) -> str | None:
        """The first file of a work file that is missing or has changed."""
        files = [
            (self.paths.part_file(part.name, suffix), checksum)
            for part in plan.parts
            for suffix, checksum in zip(self.job.rules.suffixes, part.sums, strict=True)
        ]
        sums = in_order(_sum_if_there, (path for path, _ in files), READ_AHEAD)
        return next((path.name for (path, wanted), found in zip(files, sums, strict=True) if found != wanted), None)

    def _cut(self, launcher: Launcher | None) -> Plan:
        self.session.start_anew()
        devices = len(self.job.placement.devices)
        slots = iter(range(devices if launcher else 0))

        def on_work() -> None:
            if launcher is not None and (slot := next(slots, None)) is not None:
                launcher.start(slot)

        cutter = Cutter(self.job.rules, self.paths.part_file, self.config.sequences_per_file, devices, on_work)
        with self.session.stage("splitting"):
            hint = "free space, or choose another place with --work-dir"
            with failing_as(OutputError, f"cannot write work files in {self.paths.parts}", hint):
                self.paths.parts.mkdir(parents=True)
                plan = cutter.cut(self.inputs.paths, self.inputs.shown)
                sync(self.paths.parts)
            self.inputs.refuse_changed()
        return plan

    def scored_files(self, classifier: Path | None, vectors: bool) -> ScoredFiles:
        """The results of work files of windows. vectors: whether they are kept."""
        placement, attributes = self.job.placement, {"fingerprint": self.fingerprint}
        decisive = tuple(self.job.models.values()), placement.budgets, placement.dtype
        return ScoredFiles(self.paths.shards, *decisive, classifier, vectors, attributes)

    @contextlib.contextmanager
    def launcher(self, files: ScoredFiles) -> Iterator[Launcher | None]:
        """Starts workers of this host before the work files are there; None if the nodes of a cluster compute."""
        placement = self.job.placement
        if placement.cluster:
            yield None
            return
        with contextlib.closing(self.job.launch(work_of(files, placement.names, self._threads))) as launcher:
            yield launcher

    @property
    def _threads(self) -> int:
        return threads_a_worker(len(self.job.placement.devices), self.config.threads)

    def compute(
        self,
        plan: Plan,
        files: ScoredFiles,
        launcher: Launcher | None = None,
        listen: Listener | None = None,
    ) -> dict[str, str]:
        """Embed work files of windows on all devices, and score them if `files` has a classifier.

        Returns the names of those that failed, and why; how the devices shared the work is written into the record.
        launcher: that of this run, if it was made before; listen: used instead of the listener of this run.
        """
        job, placement = self.job, self.job.placement
        counts = {self.paths.part_file(part.name, ".fna"): 2 * part.frames + part.whole for part in plan.parts}
        with self.session.stage(files.stage):
            end = score_files(
                files,
                {path: count for path, count in counts.items() if count},
                placement.names,
                threads=self._threads,
                listen=listen or self.session.listen,
                stall_seconds=60 * self.config.stall_minutes,
                launch=placement.launch(job.launch) if launcher is None else lambda _work: launcher,
            )
        self.session.own.details |= balance(end.stats)
        return {path.name: reason for path, reason in end.failed.items()}


def _described(model: LocalModel) -> dict[str, Any]:
    return {"name": model.name, "revision": model.revision, "sha256": model.sha256, "trained": model.trained}


def _sum_if_there(path: Path) -> str | None:
    try:
        return sha256_of(path)
    except OSError:
        return None


def balance(stats: Sequence[DeviceStats]) -> dict[str, Any]:
    """How the devices shared the work, for the run record."""
    busy = [each.busy_seconds for each in stats]
    return {
        "devices": [asdict(each) | {"busy_share": round(each.busy_share, 4)} for each in stats],
        "busy_spread": round(max(busy) * len(busy) / sum(busy), 4) if sum(busy) else None,
    }


def work_folder(output: Path, work_dir: Path | None) -> Path | None:
    """A separate folder for each output in a shared `--work-dir`; None without one."""
    if work_dir is None:
        return None
    key = hashlib.sha256(str(output.resolve()).encode()).hexdigest()[:8]
    return work_dir / f"{output.name}.{key}.work"
