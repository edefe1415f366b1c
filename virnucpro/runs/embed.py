"""One run of `virnucpro embed`: check, split or resume, embed, merge, record."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, ClassVar

from virnucpro.core.device import select_devices
from virnucpro.errors import InputError, OutputError, UsageError
from virnucpro.input.cut import Rules
from virnucpro.input.fasta import PROTEIN, read_records
from virnucpro.input.index import IndexedSequence, WorkFile, origins, read_index
from virnucpro.io.files import remove_unfinished, temporary_name, unwritable
from virnucpro.io.results import OUTPUT_SUFFIXES, Result, ids_path, layout_of, open_result
from virnucpro.models.local import LocalModel
from virnucpro.models.registry import resolve
from virnucpro.pipeline.events import Event, Listener, Phase
from virnucpro.pipeline.families import FAMILIES, place
from virnucpro.pipeline.merge import LeftOut, Merge
from virnucpro.pipeline.parallel_dnabert import Embedded
from virnucpro.pipeline.placement import threads_a_worker
from virnucpro.pipeline.run import Failure, Run, balance, work_folder, write_failed
from virnucpro.pipeline.schedule import DeviceStats
from virnucpro.runs.config import EmbedConfig
from virnucpro.runs.paths import RunPaths


@dataclass
class EmbedResult:
    """How a run ended."""

    output: Path
    sequences: int
    dim: int
    failures: list[Failure] = field(default_factory=list)
    devices: list[DeviceStats] = field(default_factory=list)
    already_done: bool = False


class EmbedRun(Run[EmbedResult]):
    """The steps of `virnucpro embed`."""

    command: ClassVar[str] = "embed"

    def __init__(self, config: EmbedConfig, listener: Listener | None = None) -> None:
        super().__init__(config, RunPaths(config.output, work_folder(config.output, config.work_dir)), listener)
        self.config = config

    @property
    def results(self) -> tuple[Path, ...]:
        """The output, and its ids where they stand beside it."""
        output = self.config.output
        return (output, ids_path(output)) if output.suffix == ".npy" else (output,)

    def check(self) -> None:
        """Raise what can be known before anything is read."""
        output = self.config.output
        if output.suffix not in OUTPUT_SUFFIXES:
            raise UsageError(f"-o {output}: the suffix decides the format", hint="use .h5, .npy or .pt")
        if not output.parent.is_dir():
            raise OutputError(f"the folder {output.parent} does not exist", hint=f"mkdir -p {output.parent}")
        super().check()

    def choose(self) -> None:
        """Model, devices, and the one dtype and token budget of the run."""
        self.model = resolve(self.config.model, self.config.models_dir)
        self.rules = Rules(reads="records", alphabet=FAMILIES[self.model.kind].worker.alphabet)
        config = self.config
        if config.dtype == "fp8" and not FAMILIES[self.model.kind].worker.fp8:
            raise UsageError(
                f"--dtype fp8: {self.model.name} has no products in FP8, ESM-2 alone has", hint="use --dtype bf16"
            )
        self.placement = place(select_devices(config.device), [self.model], config.dtype, config.batch_size)

    @property
    def models(self) -> dict[str, LocalModel]:
        """The one encoder."""
        return {"model": self.model}

    def own_identity(self) -> dict[str, Any]:
        """The longest sequence that is embedded."""
        return {"max_tokens": self.config.max_tokens}

    def _path(self, part: WorkFile) -> Path:
        return self.paths.part_file(part.name, ".fa")

    def work(self) -> EmbedResult:
        """Embed, merge, record."""
        if not self.plan.whole:
            failures = self._failures({}, {})
            self._publish(failures)
            raise InputError(f"no usable sequence in the input: {failures[0][3]}", hint=f"see {self.paths.failed}")
        with self._merge() as merge:
            with self.session.stage("embedding"):
                embedded = self._embed(merge)
            return self._complete(embedded, merge)

    def _merge(self) -> Merge:
        """The result, which grows under its temporary name until it is published."""
        remove_unfinished(self.results)
        layout = layout_of(self.config.output, proteins=self.rules.alphabet is PROTEIN)
        made_by = self.model.attributes(self.placement.dtype, self.placement.budgets[0])
        names = map(temporary_name, self.results)
        result = open_result(next(names), made_by | {"fingerprint": self.fingerprint}, layout, next(names, None))
        return Merge(result, [self._shard(part) for part in self.plan.parts if part.whole])

    def _embed(self, merge: Merge) -> Embedded:
        counts = {self._path(part): part.whole for part in self.plan.parts if part.whole}
        placement = self.placement
        return FAMILIES[self.model.kind].drive(
            counts,
            placement.names,
            self.paths.shards,
            placement.budgets[0],
            counts=counts,
            listen=partial(self._hear, merge),
            stall_seconds=60 * self.config.stall_minutes,
            model=self.model,
            dtype=placement.dtype,
            max_tokens=self.config.max_tokens,
            threads=threads_a_worker(len(placement.devices), self.config.threads),
            attributes={"fingerprint": self.fingerprint},
        )

    def _hear(self, merge: Merge, worker: int | None, event: Event | Phase) -> None:
        self.listen(worker, event)
        merge.hear(event)

    def _complete(self, embedded: Embedded, merge: Merge) -> EmbedResult:
        failed_files = {path.name: reason for path, reason in embedded.failed}
        good = [part for part in self.plan.parts if part.whole and self._path(part).name not in failed_files]
        with self.session.stage("writing the result"):
            try:
                merge.finish([self._shard(part) for part in good])
            except OSError as error:
                raise unwritable(self.config.output, error) from error
            failures = self._failures(failed_files, merge.left_out)
            self._publish(failures, merge.result if good else None)
        rows, dim = merge.result.rows, merge.result.dim
        result = EmbedResult(self.config.output, rows, dim, failures, embedded.devices)
        summary = {"sequences": rows, "dim": dim, "failures": failures}
        self.session.complete(balance(embedded.devices) | {"result": summary}, failed_files)
        if not good:
            raise InputError("no work file could be embedded", hint=f"see {self.paths.failed}")
        return result

    def _publish(self, failures: list[Failure], result: Result | None = None) -> None:
        """Finish the result, if there is one, and list the failures, if there are any; older ones go."""
        results = (*(self.results if result else ()), *([self.paths.failed] if failures else []))
        with self.session.publishing(results, replaced=[self.paths.failed]) as names:
            if failures:
                write_failed(names[self.paths.failed], failures)
            if result:
                result.finish()

    def _shard(self, part: WorkFile) -> Path:
        return self.paths.shard(self._path(part))

    def _failures(self, failed_files: dict[str, str], left_out: dict[str, LeftOut]) -> list[Failure]:
        """Everything without an embedding, in input order."""
        found = []
        for part in self.plan.parts:
            rows = read_index(self.paths.part_file(part.name, ".index"))
            sequences = [row for row in rows if isinstance(row, IndexedSequence)]
            found += [(row.input_index, row.record, row.id, row.reason) for row in sequences if row.failed]
            reason = failed_files.get(self._path(part).name)
            of_part = left_out.get(self._shard(part).name, []) if reason is None else self._whole(part, reason)
            places = list(islice(origins(sequences), part.whole)) if of_part else []
            found += [(*places[number - 1], name, why) for number, name, why in of_part]
        return self.in_input_order(found)

    def _whole(self, part: WorkFile, reason: str) -> LeftOut:
        """All sequences of a work file that failed."""
        names = self._names(part)
        numbers = range(1, part.whole + 1)
        return [(number, names.get(number, ""), f"its work file failed: {reason}") for number in numbers]

    def _names(self, part: WorkFile) -> dict[int, str]:
        """The ids in a work file by record number; none if that is what it failed of."""
        try:
            return {record.number: record.id for record in read_records(self._path(part), self.rules.alphabet)}
        except InputError:
            return {}

    def earlier_result(self, record: dict[str, Any]) -> EmbedResult:
        """What a complete run said of its result."""
        summary = record["result"]
        failures = [tuple(row) for row in summary["failures"]]
        return EmbedResult(self.config.output, summary["sequences"], summary["dim"], failures, already_done=True)


def run_embed(config: EmbedConfig, listener: Listener | None = None) -> EmbedResult:
    """Embed the sequences of `config.inputs` into `config.output`; raises VirnucproError."""
    return EmbedRun(config, listener).run()
