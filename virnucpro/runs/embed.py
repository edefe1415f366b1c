"""One run of `virnucpro embed`: records into work files, vectors, one result."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from virnucpro.errors import InputError, OutputError, UsageError
from virnucpro.input.cut import Rules
from virnucpro.input.fasta import PROTEIN, read_records
from virnucpro.input.index import IndexedSequence, Plan, WorkFile, origins, read_index
from virnucpro.io.files import remove_unfinished, temporary_name, writing
from virnucpro.io.results import OUTPUT_SUFFIXES, Result, layout_of, open_result, result_paths
from virnucpro.models.local import LocalModel
from virnucpro.models.registry import resolve
from virnucpro.pipeline.events import Heard, Listener, unheard
from virnucpro.pipeline.families import FAMILIES
from virnucpro.pipeline.launch_local import launcher_for
from virnucpro.pipeline.merge import LeftOut, Merge
from virnucpro.pipeline.parallel_dnabert import Embedded, embed_files
from virnucpro.pipeline.placement import threads_a_worker
from virnucpro.pipeline.schedule import DeviceStats
from virnucpro.runs.config import EmbedConfig
from virnucpro.runs.inputs import Failure
from virnucpro.runs.names import check
from virnucpro.runs.paths import RunPaths
from virnucpro.runs.run import Job, Run, balance, placed, started, work_folder

#: The encoder's role in the run.
MODEL = "model"

EmbedRun = Run[EmbedConfig, RunPaths]


@dataclass
class EmbedResult:
    """How a run ended."""

    output: Path
    sequences: int
    dim: int
    failures: list[Failure] = field(default_factory=list)
    devices: list[DeviceStats] = field(default_factory=list)
    already_done: bool = False

    @classmethod
    def earlier(cls, output: Path, found: Mapping[str, Any]) -> EmbedResult:
        """The result of a run that is complete already, from its record."""
        failures = [tuple(row) for row in found["failures"]]
        return cls(output, found["sequences"], found["dim"], failures, already_done=True)


def run_embed(config: EmbedConfig, listener: Listener = unheard) -> EmbedResult:
    """Embed the sequences of `config.inputs` into `config.output`; raises VirnucproError."""
    with started(_job(config), listener) as run:
        if done := run.already_done():
            return EmbedResult.earlier(config.output, done.details["result"])
        plan = run.work_files()
        if not plan.whole:
            failures = _failures(run, plan, {}, {})
            _publish(run, failures)
            run.session.start_anew()  # there is nothing to continue from
            raise InputError(f"no usable sequence in the input: {failures[0][3]}", hint=f"see {run.paths.failed}")
        with _merge(run, plan) as merge:
            with run.session.stage("embedding"):
                embedded = _embed(run, plan, merge)
            return _complete(run, plan, embedded, merge)


def _job(config: EmbedConfig) -> Job[EmbedConfig, RunPaths]:
    """Check what can be checked before anything is read, and choose model, devices, dtype and token budget."""
    output = config.output
    if output.suffix not in OUTPUT_SUFFIXES:
        raise UsageError(f"-o {output}: the suffix decides the format", hint="use .h5, .npy or .pt")
    if not output.parent.is_dir():
        raise OutputError(f"the folder {output.parent} does not exist", hint=f"mkdir -p {output.parent}")
    paths = RunPaths(output, work_folder(output, config.work_dir))
    results = result_paths(output)
    check(paths, results, config.inputs, force=config.force, resume=config.resume)
    model = resolve(config.model, config.models_dir)
    worker = FAMILIES[model.kind]
    if config.dtype == "fp8" and not worker.fp8:
        raise UsageError(f"--dtype fp8: {model.name} cannot compute in FP8; only ESM-2 can", hint="use --dtype bf16")
    rules = Rules(reads="records", alphabet=worker.alphabet)
    placement = placed(config, [model])
    identity = {"max_tokens": config.max_tokens}
    return Job("embed", config, paths, results, {MODEL: model}, rules, placement, identity)


def _model(run: EmbedRun) -> LocalModel:
    return run.job.models[MODEL]


def _fasta(run: EmbedRun, part: WorkFile) -> Path:
    return run.paths.part_file(part.name, ".fa")


def _shard(run: EmbedRun, part: WorkFile) -> Path:
    return run.paths.shard(_fasta(run, part))


def _merge(run: EmbedRun, plan: Plan) -> Merge:
    """The result, which grows under its temporary name until it is published."""
    results, placement = run.job.results, run.job.placement
    remove_unfinished(results)
    layout = layout_of(run.config.output, run.job.rules.alphabet is PROTEIN)
    made_by = _model(run).attributes(placement.dtype, placement.budgets[0])
    result = open_result([*map(temporary_name, results)], made_by | {"fingerprint": run.fingerprint}, layout)
    return Merge(result, {_fasta(run, part): _shard(run, part) for part in plan.parts if part.whole})


def _embed(run: EmbedRun, plan: Plan, merge: Merge) -> Embedded:
    """Embed all work files; finished ones are merged meanwhile."""
    config, placement = run.config, run.job.placement
    counts = {_fasta(run, part): part.whole for part in plan.parts if part.whole}

    def hear(worker: int | None, event: Heard) -> None:
        run.session.listen(worker, event)
        merge.hear(event)

    return embed_files(
        FAMILIES[_model(run).kind],
        counts,
        placement.names,
        run.paths.shards,
        placement.budgets[0],
        counts=counts,
        listen=hear,
        stall_seconds=60 * config.stall_minutes,
        launch=placement.launch(launcher_for),
        model=_model(run),
        dtype=placement.dtype,
        max_tokens=config.max_tokens,
        threads=threads_a_worker(len(placement.devices), config.threads),
        attributes={"fingerprint": run.fingerprint},
    )


def _complete(run: EmbedRun, plan: Plan, embedded: Embedded, merge: Merge) -> EmbedResult:
    """Publish the result and the list of failures, and write the record."""
    output, failed_files = run.config.output, {path.name: reason for path, reason in embedded.failed}
    good = [part for part in plan.parts if part.whole and _fasta(run, part).name not in failed_files]
    with run.session.stage("writing the result"):
        with writing(output):
            merge.finish([_shard(run, part) for part in good])
        failures = _failures(run, plan, failed_files, merge.left_out)
        _publish(run, failures, merge.result if good else None)
    rows, dim = merge.result.rows, merge.result.dim
    summary = {"sequences": rows, "dim": dim, "failures": failures}
    run.session.complete(balance(embedded.devices) | {"result": summary}, failed_files)
    if not good:
        raise InputError("no work file could be embedded", hint=f"see {run.paths.failed}")
    return EmbedResult(output, rows, dim, failures, embedded.devices)


def _publish(run: EmbedRun, failures: list[Failure], result: Result | None = None) -> None:
    """Finish the result, if there is one, and list the failures, if there are any."""
    with run.session.publishing(run.job.results if result else (), failures):
        if result:
            result.finish()


def _failures(run: EmbedRun, plan: Plan, failed_files: dict[str, str], left_out: dict[str, LeftOut]) -> list[Failure]:
    """Everything without an embedding, in input order."""
    found = []
    for part in plan.parts:
        rows = read_index(run.paths.part_file(part.name, ".index"))
        sequences = [row for row in rows if isinstance(row, IndexedSequence)]
        found += [row.failure for row in sequences if row.failed]
        reason = failed_files.get(_fasta(run, part).name)
        of_part = left_out.get(_shard(run, part).name, []) if reason is None else _all_of(run, part, reason)
        places = list(islice(origins(sequences), part.whole)) if of_part else []
        found += [(*places[number - 1], name, why) for number, name, why in of_part]
    return run.inputs.failures(found)


def _all_of(run: EmbedRun, part: WorkFile, reason: str) -> LeftOut:
    """All sequences of a work file that failed; without their ids if it cannot be read."""
    names: dict[int, str] = {}
    with contextlib.suppress(InputError):
        names = {record.number: record.id for record in read_records(_fasta(run, part), run.job.rules.alphabet)}
    numbers = range(1, part.whole + 1)
    return [(number, names.get(number, ""), f"its work file failed: {reason}") for number in numbers]
