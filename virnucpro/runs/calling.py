"""Scores → the results of `predict`: tables under temporary names, then all under their final names; the record.

The scores are those of one run, those that an earlier run kept, or those of the pieces that `merge` joins.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TextIO

from virnucpro.calls.discovery import FalseDiscovery
from virnucpro.calls.kept_scores import keep_scores
from virnucpro.calls.scoring import Row
from virnucpro.calls.tables import VIRUSES
from virnucpro.calls.verdicts import Verdict
from virnucpro.calls.write import ResultWriter, Summary, VanillaTables, virus_rows, write_viruses
from virnucpro.errors import InputError
from virnucpro.input.fasta import Record
from virnucpro.io.files import temporary_name, writing
from virnucpro.io.tables import gzip_text, text_file, write_table
from virnucpro.models.sets import reads_of
from virnucpro.pipeline.kept import kept_paths
from virnucpro.runs.choice import Choice
from virnucpro.runs.config import PredictConfig
from virnucpro.runs.inputs import Failure
from virnucpro.runs.paths import PredictPaths
from virnucpro.runs.run import Run

PredictRun = Run[PredictConfig, PredictPaths]


@dataclass
class PredictResult:
    """How a run ended: the paths of the results, how many sequences got which verdict, and what failed.

    discovery: how many of the calls are expected to be false; None for a set whose sequences were not measured.
    """

    paths: PredictPaths
    model: str
    trained: bool
    verdicts: dict[str, int]
    windows: int
    windows_scored: int
    discovery: FalseDiscovery | None
    failures: list[Failure] = field(default_factory=list)
    already_done: bool = False


def results_of(config: PredictConfig, paths: PredictPaths) -> tuple[Path, ...]:
    """The tables and the viral sequences, and what was requested in addition."""
    vanilla = (paths.vanilla_scores, paths.vanilla_calls) if config.vanilla_output else ()
    tables = paths.sequences, paths.windows, paths.regions, paths.annotation, paths.viruses, paths.virus_summary
    return (*tables, *vanilla, paths.scores, *kept(config, paths), paths.failed)


def kept(config: PredictConfig, paths: PredictPaths) -> tuple[Path, ...]:
    """Files of embeddings that are kept; what the set reads is known before its weights are found."""
    return kept_paths(paths, reads_of(config.model), config.vanilla_output) if config.keep_embeddings else ()


def keep_nothing(_names: Mapping[Path, Path]) -> None:
    """There are no embeddings to keep."""


class Scores(NamedTuple):
    """The input of calls: rows with the scores of all sequences, in input order.

    records: usable records, as they are written in the input, with their place in it; failed: work files that failed,
    and why; keep: writes the embeddings that are kept under temporary names, None if scores and embeddings are already
    there.
    """

    rows: Iterable[Row]
    records: Iterator[tuple[int, Record]]
    failed: Mapping[str, str] = {}
    keep: Callable[[Mapping[Path, Path]], None] | None = None


def call(run: PredictRun, choice: Choice, scores: Scores) -> PredictResult:
    """Make calls, write the results, and record them."""
    return complete(run, choice, scores, partial(write_tables, run, choice, scores))


def complete(run: PredictRun, choice: Choice, scores: Scores, tables: Callable[[], Summary]) -> PredictResult:
    """Publish all results, and record them. tables: writes the tables of calls, or waits for the thread that does."""
    with run.session.stage("calling"):
        summary = tables()
        failures = _publish(run, scores, summary)
    model_set = choice.model_set
    described = {"name": model_set.name, "trained": model_set.trained, "classifier": model_set.card.name}
    found = _found(run, choice, summary) | {"failures": failures}
    run.session.complete({"model set": described, "result": found}, dict(scores.failed))
    return result_of(run, choice, found)


def _found(run: PredictRun, choice: Choice, summary: Summary) -> dict[str, Any]:
    """What the record says about the results."""
    discovery = None
    if choice.calls:
        false_regions = choice.calls.regions.false_per_mbp * summary.host / 1e6
        discovery = asdict(summary.discovery.expected(summary.regions, false_regions, run.config.viral_share))
    return {
        "verdicts": {verdict.value: summary.verdicts[verdict] for verdict in Verdict},
        "windows": summary.windows,
        "windows_scored": summary.windows_scored,
        "frames": summary.frames,
        "bases": summary.bases,
        "min_score": choice.thresholds.window,
        "thresholds": asdict(choice.thresholds),
        "false_discovery": discovery,
        "window": choice.rules.window,
    }


def result_of(run: PredictRun, choice: Choice, found: Mapping[str, Any], already_done: bool = False) -> PredictResult:
    """The result, from the record. Raises InputError if nothing in the input could be used; tables say so, too."""
    failures = [tuple(row) for row in found["failures"]]
    # Sequences that are too short are usable, though not scored.
    unusable = sum(found["verdicts"].values()) <= sum(1 for _, record, _, _ in failures if record)
    if failures and not found["windows"] and unusable:
        raise InputError(f"no usable sequence in the input: {failures[0][3]}", hint=f"see {run.paths.failed}")
    discovery = found["false_discovery"] and FalseDiscovery(**found["false_discovery"])
    counts = found["verdicts"], found["windows"], found["windows_scored"]
    name, trained = choice.model_set.name, choice.model_set.trained
    return PredictResult(run.paths, name, trained, *counts, discovery, failures, already_done)


def write_tables(run: PredictRun, choice: Choice, scores: Scores) -> Summary:
    """Call all sequences; write the tables, and the scores unless they are there, under their temporary names."""
    paths, rows = run.paths, scores.rows
    with writing(paths.sequences), contextlib.ExitStack() as stack:

        def text(path: Path) -> TextIO:
            return stack.enter_context(text_file(temporary_name(path)))

        def packed(path: Path) -> TextIO:
            return stack.enter_context(gzip_text(temporary_name(path)))

        vanilla = None
        if run.config.vanilla_output:
            vanilla = VanillaTables(text(paths.vanilla_scores), text(paths.vanilla_calls))
        if scores.keep:
            rows = keep_scores(packed(paths.scores), run.fingerprint, scores.failed, rows)
        files = text(paths.sequences), packed(paths.windows), text(paths.regions), text(paths.annotation)
        writer = ResultWriter(*files, run.config.inputs, choice.callers, vanilla)
        for row in rows:
            writer.take(row)
        writer.finish()
        if vanilla:
            vanilla.finish()
    return writer.summary


def _publish(run: PredictRun, scores: Scores, summary: Summary) -> list[Failure]:
    """Write the other results, and give all their final names together; the report of older results is removed."""
    paths = run.paths
    there = () if scores.keep else (paths.scores, *kept(run.config, paths))
    results = [path for path in run.job.results if path not in there]
    failures = run.inputs.failures(summary.failures)
    with run.session.publishing(results, failures, (paths.report,)) as temporary:
        with open(temporary[paths.viruses], "wb", buffering=1 << 20) as fasta:
            write_viruses(fasta, scores.records, summary.viral)
        write_table(temporary[paths.virus_summary], VIRUSES, virus_rows(summary.viral))
        run.inputs.refuse_changed()
        if scores.keep:
            scores.keep(temporary)
    return failures
