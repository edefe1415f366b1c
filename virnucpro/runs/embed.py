"""One run of `virnucpro embed`: check, split or resume, embed, merge, record."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, ClassVar

from virnucpro.core.device import select_devices
from virnucpro.errors import InputError, OutputError, UsageError
from virnucpro.input.cut import Rules
from virnucpro.input.fasta import PROTEIN, read_records
from virnucpro.input.index import IndexedSequence, WorkFile, origins, read_index
from virnucpro.io.store import OUTPUT_SUFFIXES, Shard, ids_path, layout_of, read_shards, write_merged
from virnucpro.models.local import LocalModel
from virnucpro.models.registry import resolve
from virnucpro.pipeline.events import Listener
from virnucpro.pipeline.families import FAMILIES, place
from virnucpro.pipeline.parallel_dnabert import Embedded
from virnucpro.pipeline.placement import threads_a_worker
from virnucpro.pipeline.run import Failure, Run, balance, work_folder, write_failed
from virnucpro.pipeline.schedule import DeviceStats
from virnucpro.runs.config import EmbedConfig
from virnucpro.runs.paths import RunPaths

#: Of one work file: (record number in it, id, reason) of what has no embedding.
_LeftOut = list[tuple[int, str, str]]


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
            self._publish([], failures, 0, 0)
            raise InputError(f"no usable sequence in the input: {failures[0][3]}", hint=f"see {self.paths.failed}")
        with self.session.stage("embedding"):
            embedded = self._embed()
        return self._complete(embedded)

    def _embed(self) -> Embedded:
        counts = {self._path(part): part.whole for part in self.plan.parts if part.whole}
        placement = self.placement
        return FAMILIES[self.model.kind].drive(
            counts,
            placement.names,
            self.paths.shards,
            placement.budgets[0],
            counts=counts,
            listen=self.listen,
            stall_seconds=60 * self.config.stall_minutes,
            model=self.model,
            dtype=placement.dtype,
            max_tokens=self.config.max_tokens,
            threads=threads_a_worker(len(placement.devices), self.config.threads),
            attributes={"fingerprint": self.fingerprint},
        )

    def _complete(self, embedded: Embedded) -> EmbedResult:
        failed_files = {path.name: reason for path, reason in embedded.failed}
        good = [part for part in self.plan.parts if part.whole and self._path(part).name not in failed_files]
        with self.session.stage("writing the result"):
            rows, dim, left_out = self._outline(good)
            failures = self._failures(failed_files, left_out)
            self._publish(good, failures, rows, dim)
        result = EmbedResult(self.config.output, rows, dim, failures, embedded.devices)
        summary = {"sequences": rows, "dim": dim, "failures": failures}
        self.session.complete(balance(embedded.devices) | {"result": summary}, failed_files)
        if not good:
            raise InputError("no work file could be embedded", hint=f"see {self.paths.failed}")
        return result

    def _publish(self, good: list[WorkFile], failures: list[Failure], rows: int, dim: int) -> None:
        """The result, if anything is in it, and the list of failures, if there are any; older ones go."""
        results = (*(self.results if good else ()), *([self.paths.failed] if failures else []))
        with self.session.publishing(results, replaced=[self.paths.failed]) as names:
            if failures:
                write_failed(names[self.paths.failed], failures)
            if good:
                output = self.config.output
                layout = layout_of(output, proteins=self.rules.alphabet is PROTEIN)
                ids = names.get(ids_path(output))
                made_by = self.model.attributes(self.placement.dtype, self.placement.budgets[0])
                attributes = made_by | {"fingerprint": self.fingerprint}
                write_merged(names[output], self._shards(good), rows, dim, attributes, layout, ids)

    def _shards(self, parts: list[WorkFile]) -> Iterator[Shard]:
        return read_shards(self.paths.shard(self._path(part)) for part in parts)

    def _outline(self, parts: list[WorkFile]) -> tuple[int, int, dict[str, _LeftOut]]:
        """Rows and width of the result, and by work file what has no embedding."""
        rows = dim = 0
        left_out: dict[str, _LeftOut] = {}
        for part, shard in zip(parts, self._shards(parts), strict=True):
            rows, dim = rows + len(shard.headers), shard.embeddings.shape[1]
            left_out[part.name] = shard.failed
        return rows, dim, left_out

    def _failures(self, failed_files: dict[str, str], left_out: dict[str, _LeftOut]) -> list[Failure]:
        """Everything without an embedding, in input order."""
        found = []
        for part in self.plan.parts:
            rows = read_index(self.paths.part_file(part.name, ".index"))
            sequences = [row for row in rows if isinstance(row, IndexedSequence)]
            found += [(row.input_index, row.record, row.id, row.reason) for row in sequences if row.failed]
            reason = failed_files.get(self._path(part).name)
            of_part = left_out.get(part.name, []) if reason is None else self._whole(part, reason)
            places = list(islice(origins(sequences), part.whole)) if of_part else []
            found += [(*places[number - 1], name, why) for number, name, why in of_part]
        return self.in_input_order(found)

    def _whole(self, part: WorkFile, reason: str) -> _LeftOut:
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
