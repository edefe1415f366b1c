"""What every run that embeds is made of: checks, what it is identical to, splitting or resuming.

A command adds its own steps: see `runs/embed.py` and `runs/predict.py`. What it holds meanwhile, and how it
ends, is `runs/session.py`.
"""

from __future__ import annotations

import logging
import platform
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar

from virnucpro._version import __version__
from virnucpro.core.threads import in_order
from virnucpro.errors import OutputError
from virnucpro.input.cut import Cutter, Rules
from virnucpro.input.index import Plan
from virnucpro.io.files import sha256_of, sync
from virnucpro.io.store import FORMAT_VERSION, READ_AHEAD
from virnucpro.io.tables import FAILED, Table, text_file
from virnucpro.models.local import LocalModel
from virnucpro.models.local import sha256_of as model_sha256
from virnucpro.pipeline.events import Listener, unheard
from virnucpro.pipeline.placement import Placement
from virnucpro.pipeline.work_queue import DeviceStats
from virnucpro.runs.config import RunConfig
from virnucpro.runs.inputs import Inputs
from virnucpro.runs.names import check_names, refuse_existing
from virnucpro.runs.paths import RunPaths, check_input
from virnucpro.runs.record import differences, fingerprint
from virnucpro.runs.session import Session, session

logger = logging.getLogger("virnucpro.run")

Result = TypeVar("Result")

#: Something without a result: (input, record number from 1, or 0 for the rest of the file, id, reason).
Failure = tuple[str, int, str, str]


class Run(ABC, Generic[Result]):
    """The steps of one run, and what they share."""

    command: ClassVar[str]
    #: Whether other choices may overwrite the results: the same command makes them again, and computes nothing for it.
    recalls: ClassVar[bool] = False
    #: How to choose other names for the results.
    cure: ClassVar[str] = "choose another output"

    def __init__(self, config: RunConfig, paths: RunPaths, listener: Listener | None) -> None:
        self._config = config
        self.paths = paths
        self.listen = listener or unheard

    def run(self) -> Result:
        """Do the work, or continue, or find it done. Raises VirnucproError; what was finished by then is kept."""
        self.check()
        self.choose()
        # Trained into the folder of an encoder, a classifier would overwrite what it was made over.
        files = [path for model in self.models.values() for path in model.files]
        check_names(self.paths, self.results, files, self.cure)
        with session(self.command, self.paths, force=self._config.force, listen=self.listen) as self.session:
            with self.session.stage("reading input"):
                self._identify()
            if done := self.session.already_done(self.results, self.identity, self.choices, self.recalls):
                result = self.earlier_result(done.details)
            elif self.is_computed():
                self.session.begin(self.results, self.identity, self.choices, {}, self._details())
                result = self.conclude()
            else:
                self._plan()
                result = self.work()
            self.finish(result)
            return result

    # What a command says.

    @property
    @abstractmethod
    def results(self) -> tuple[Path, ...]:
        """The files that a complete run leaves for the user, whatever came out."""

    @property
    def reads(self) -> tuple[Path, ...]:
        """Every file that the user named to be read."""
        return self._config.inputs

    @abstractmethod
    def choose(self) -> None:
        """Find the models, and set `rules` and `placement`."""

    @property
    @abstractmethod
    def models(self) -> dict[str, LocalModel]:
        """The encoders of the run by their parts in it."""

    @abstractmethod
    def own_identity(self) -> dict[str, Any]:
        """What besides input, models, placement and versions decides the vectors."""

    def own_choices(self) -> dict[str, Any]:
        """What besides the vectors decides the results."""
        return {}

    @abstractmethod
    def work(self) -> Result:
        """All that comes after the split."""

    def is_computed(self) -> bool:
        """Whether an earlier run has left all that devices are needed for: then `conclude` does the rest."""
        return False

    def conclude(self) -> Result:
        """What is left to do where `is_computed`."""
        raise NotImplementedError

    @abstractmethod
    def earlier_result(self, record: dict[str, Any]) -> Result:
        """What the record of a complete run says of its result."""

    def finish(self, result: Result) -> None:
        """What follows even where an earlier run was complete."""

    rules: Rules
    placement: Placement
    session: Session
    plan: Plan

    # Before anything is computed.

    def check(self) -> None:
        """Raise what can be known before anything is read."""
        check_names(self.paths, self.results, self.reads, self.cure)
        refuse_existing(self.paths, self.results, force=self._config.force, resume=self._config.resume)
        for path in self._config.inputs:
            check_input(path)

    def _identify(self) -> None:
        """Everything that decides the bytes of the result; equal identities mean equal results."""
        self.inputs = Inputs(self._config.inputs, self.paths)
        import torch

        self.identity: dict[str, Any] = {
            "inputs": self.inputs.sums,
            **{name: digest for part, model in self.models.items() for name, digest in _checksums(part, model)},
            "dtype": self.placement.dtype,
            "token_budget": list(self.placement.budgets),
            "device_kinds": self.placement.kinds,
            "virnucpro_version": __version__,
            "format_version": FORMAT_VERSION,
            "torch_version": torch.__version__,
            "triton_version": self.placement.triton_version,
            **self.own_identity(),
        }
        self.choices = self.own_choices()
        self.fingerprint = fingerprint(self.identity)

    # Splitting, or taking up an earlier split.

    def _plan(self) -> None:
        self.plan = self._earlier_plan() or self._cut()
        self.session.begin(self.results, self.identity, self.choices, self.plan.to_json(), self._details())

    def _earlier_plan(self) -> Plan | None:
        """That of an earlier run that has left the work files of this one."""
        record = self.session.record
        if record is None or not record.plan or not self._config.resume:
            return None
        if changed := differences(record.identity, self.identity):
            logger.warning("not resuming the earlier run: %s changed; starting anew", ", ".join(changed))
            return None
        self.session.take_over()
        if not self.paths.parts.is_dir():
            return None
        plan = Plan.from_json(record.plan)
        if lost := self._lost(plan):
            logger.warning("not resuming the earlier run: work file %s is gone or damaged; starting anew", lost)
            return None
        return plan

    def _lost(self, plan: Plan) -> str | None:
        """The first file of a work file that is not what was written."""
        files = [
            (self.paths.part_file(part.name, suffix), checksum)
            for part in plan.parts
            for suffix, checksum in zip(self.rules.suffixes, part.sums, strict=True)
        ]
        sums = in_order(_sum_if_there, (path for path, _ in files), READ_AHEAD)
        return next((path.name for (path, wanted), found in zip(files, sums, strict=True) if found != wanted), None)

    def _cut(self) -> Plan:
        self.session.start_anew()
        cutter = Cutter(self.rules, self.paths.part_file, self._config.sequences_per_file, len(self.placement.devices))
        with self.session.stage("splitting"):
            try:
                self.paths.parts.mkdir(parents=True)
                plan = cutter.cut(self.inputs.paths, self.inputs.shown)
                sync(self.paths.parts)
            except OSError as error:
                raise OutputError(
                    f"cannot write work files in {self.paths.parts}: {error.strerror}",
                    hint="free space, or choose a roomier place with --work-dir",
                ) from error
            self.inputs.refuse_changed()
        return plan

    def _details(self) -> dict[str, Any]:
        settings = {name: str(value) for name, value in asdict(self._config).items() if name != "inputs"}
        return {
            "host": {"python": platform.python_version(), "platform": platform.platform()},
            "settings": settings,
            "inputs": self.inputs.described,
            "models": {part: _described(model) for part, model in self.models.items()},
        }

    def in_input_order(self, failures: Iterable[tuple[int, int, str, str]]) -> list[Failure]:
        """Failures by (index of the input, record, id, reason), with the input's name, in input order."""
        # Record 0 stands for the rest of a file and comes behind its records.
        found = sorted(failures, key=lambda row: (row[0], row[1] == 0, row[1]))
        return [(str(self._config.inputs[index]), number, name, reason) for index, number, name, reason in found]


def _sum_if_there(path: Path) -> str | None:
    try:
        return sha256_of(path)
    except OSError:
        return None


def write_failed(path: Path, failures: Sequence[Failure]) -> None:
    """`failed.tsv`: input, record (from 1; 0 is the rest of the file), id, reason. Raises OSError."""
    with text_file(path) as file:
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
        yield f"{part} {what}", None if path is None else model_sha256(path)


def _described(model: LocalModel) -> dict[str, Any]:
    return {"name": model.name, "revision": model.revision, "sha256": model.sha256, "trained": model.trained}


def work_folder(output: Path, work_dir: Path | None) -> Path | None:
    """A folder of its own for each output in a shared `--work-dir`; None where none is asked for."""
    if work_dir is None:
        return None
    import hashlib

    key = hashlib.sha256(str(output.resolve()).encode()).hexdigest()[:8]
    return work_dir / f"{output.name}.{key}.work"
