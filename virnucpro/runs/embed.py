"""One run of `virnucpro embed`: check, split or resume, embed, merge, record."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from virnucpro.errors import InputError, OutputError, UsageError
from virnucpro.input.fasta import PROTEIN, read_records
from virnucpro.io.store import OUTPUT_SUFFIXES, Shard, ids_path, layout_of, read_shards, write_merged
from virnucpro.models.local import LocalModel
from virnucpro.models.registry import resolve
from virnucpro.pipeline.encode import ALPHABETS, Encoding, Placement, WorkFile
from virnucpro.pipeline.events import Listener
from virnucpro.pipeline.run import Failure, Run, balance, work_folder, write_failed
from virnucpro.pipeline.split import Part, Plan, Splitter
from virnucpro.pipeline.work_queue import DeviceStats, QueueResult
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
        self.alphabet = ALPHABETS[self.model.kind]
        self.placement = Placement.choose(self.config, self.model.kind)

    @property
    def models(self) -> dict[str, LocalModel]:
        """The one encoder."""
        return {"model": self.model}

    def own_identity(self) -> dict[str, Any]:
        """The longest sequence that is embedded."""
        return {"max_tokens": self.config.max_tokens}

    def split(self) -> dict[str, Any]:
        """Cut the input into work files."""
        splitter = Splitter(self.paths, self.config.sequences_per_file, len(self.placement.devices), self.alphabet)
        return splitter.split(self.inputs.paths, self.inputs.shown).to_json()

    def take_plan(self, plan: dict[str, Any]) -> None:
        """The work files, and what of the input could not be used."""
        self.plan = Plan.from_json(plan)

    def work_files(self) -> Iterator[tuple[Path, str]]:
        """The work files, with their sha256."""
        return ((self._path(part), part.sha256) for part in self.plan.parts)

    def _path(self, part: Part) -> Path:
        return self.paths.parts / part.name

    def work(self) -> EmbedResult:
        """Embed, merge, record."""
        if not self.plan.parts:
            self._publish([], self._failures({}, {}), 0, 0)
            reasons = {item.reason for item in self.plan.rejected[:1]}
            raise InputError(f"no usable sequence in the input: {'; '.join(reasons)}", hint=f"see {self.paths.failed}")
        self.encoding = Encoding(
            self.model, self.placement, self.paths.shards, self.attributes(self.model), self.config.max_tokens
        )
        with self.session.stage("embedding"):
            queue = self.encoding.run(
                [WorkFile(self._path(part), part.sequences) for part in self.plan.parts], self.listen
            )
        return self._complete(queue)

    def _complete(self, queue: QueueResult) -> EmbedResult:
        failed_parts = {path.name: reason for path, reason in queue.failed.items()}
        good = [part for part in self.plan.parts if part.name not in failed_parts]
        with self.session.stage("writing the result"):
            rows, dim, left_out = self._outline(good)
            failures = self._failures(failed_parts, left_out)
            self._publish(good, failures, rows, dim)
        result = EmbedResult(self.config.output, rows, dim, failures, queue.stats)
        summary = {"sequences": rows, "dim": dim, "failures": failures}
        self.session.complete(balance(queue.stats) | {"result": summary}, failed_parts)
        if not good:
            raise InputError("no work file could be embedded", hint=f"see {self.paths.failed}")
        return result

    def _publish(self, good: list[Part], failures: list[Failure], rows: int, dim: int) -> None:
        """The result, if anything is in it, and the list of failures, if there are any; older ones go."""
        results = (*(self.results if good else ()), *([self.paths.failed] if failures else []))
        with self.session.publishing(results, replaced=[self.paths.failed]) as names:
            if failures:
                write_failed(names[self.paths.failed], failures)
            if good:
                output = self.config.output
                layout = layout_of(output, proteins=self.alphabet is PROTEIN)
                ids = names.get(ids_path(output))
                attributes = self.attributes(self.model)
                write_merged(names[output], self._shards(good), rows, dim, attributes, layout, ids)

    def _shards(self, parts: list[Part]) -> Iterator[Shard]:
        return read_shards(self.encoding.shard(self._path(part)) for part in parts)

    def _outline(self, parts: list[Part]) -> tuple[int, int, dict[str, _LeftOut]]:
        """Rows and width of the result, and by work file what has no embedding."""
        rows = dim = 0
        left_out: dict[str, _LeftOut] = {}
        for part, shard in zip(parts, self._shards(parts), strict=True):
            rows, dim = rows + len(shard.headers), shard.embeddings.shape[1]
            left_out[part.name] = shard.failed
        return rows, dim, left_out

    def _failures(self, failed_parts: dict[str, str], left_out: dict[str, _LeftOut]) -> list[Failure]:
        """Everything without an embedding, in input order."""
        found = [(item.input_index, item.record, item.id, item.reason) for item in self.plan.rejected]
        for part in self.plan.parts:
            reason = failed_parts.get(part.name)
            of_part = left_out.get(part.name, []) if reason is None else self._whole(part, reason)
            found += [(*part.origin(number), name, why) for number, name, why in of_part]
        return self.in_input_order(found)

    def _whole(self, part: Part, reason: str) -> _LeftOut:
        """All sequences of a work file that failed."""
        names = self._names(part)
        numbers = range(1, part.sequences + 1)
        return [(number, names.get(number, ""), f"its work file failed: {reason}") for number in numbers]

    def _names(self, part: Part) -> dict[int, str]:
        """The ids in a work file by record number; none if that is what it failed of."""
        try:
            return {record.number: record.id for record in read_records(self._path(part), self.alphabet)}
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
