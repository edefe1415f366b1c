"""One run of `virnucpro predict`: windows and frames, their scores, calls, tables."""

from __future__ import annotations

import contextlib
import logging
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TextIO

from virnucpro.calls.consensus import ConsensusCaller
from virnucpro.calls.discovery import FalseDiscovery
from virnucpro.calls.kept_scores import holds_scores, keep_scores, read_scores
from virnucpro.calls.model import CallModel, ThresholdsByLength
from virnucpro.calls.scoring import Row, scored_rows
from virnucpro.calls.segment import ModelCaller
from virnucpro.calls.tables import VIRUSES
from virnucpro.calls.verdicts import Callers, Thresholds, Verdict
from virnucpro.calls.write import (
    ResultWriter,
    Summary,
    VanillaTables,
    numbered_records,
    virus_rows,
    write_viruses,
)
from virnucpro.core.threads import Channel, aborting
from virnucpro.errors import InputError, UsageError
from virnucpro.input.cut import Rules
from virnucpro.input.fasta import Record
from virnucpro.input.index import Plan, WorkFile
from virnucpro.io.files import remove_unfinished, temporary_name, writing
from virnucpro.io.tables import FAILED, gzip_text, text_file, write_table
from virnucpro.models.card import CARD, DEFAULT_PRESET, DNA_ONLY
from virnucpro.models.classifier import WEIGHTS
from virnucpro.models.local import sha256_of
from virnucpro.models.sets import ModelSet, reads_of, resolve_set
from virnucpro.pipeline.caller import Called
from virnucpro.pipeline.events import Heard, Listener
from virnucpro.pipeline.kept import keep_embeddings, kept_paths
from virnucpro.pipeline.launch_local import Launch, Launcher, launcher_for
from virnucpro.pipeline.merge import InTurn
from virnucpro.runs.config import STDIN, PredictConfig
from virnucpro.runs.inputs import Failure
from virnucpro.runs.names import check, check_names
from virnucpro.runs.paths import PredictPaths
from virnucpro.runs.record import differences
from virnucpro.runs.run import Job, Run, by_part, placed, rules_identity, started, work_folder

logger = logging.getLogger("virnucpro.run")

#: The published rule calls a window viral from this score on.
PUBLISHED = 0.5
#: How to choose other names for the results.
HINT = "choose another name with --prefix"
#: What is taken off an input's name to name the results.
_COMPRESSED = {".gz", ".bz2", ".xz", ".zst"}
_FORMATS = {".fa", ".fasta", ".fna", ".ffn", ".fas", ".fq", ".fastq", ".bam", ".ubam"}

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


@dataclass(frozen=True)
class Choice:
    """The model set, and how its scores are called; calls: what was measured of them, None if nothing was."""

    model_set: ModelSet
    rules: Rules
    calls: CallModel | None
    thresholds: Thresholds | ThresholdsByLength

    @property
    def callers(self) -> Callers:
        """How sequences are called: as measured for the set, or by the rule for sets that were not."""
        if self.calls:
            return partial(ModelCaller, self.calls, self.thresholds)
        return partial(ConsensusCaller, self.thresholds)

    @property
    def identity(self) -> dict[str, Any]:
        """The rules of cutting, and the classifier."""
        files = (WEIGHTS, *([DNA_ONLY] if self.rules.dna_only else []))
        folder = self.model_set.classifier_folder
        return rules_identity(self.rules) | {"classifier": [sha256_of(folder / name) for name in files]}


def run_predict(
    config: PredictConfig, listener: Listener | None = None, launch: Launch = launcher_for
) -> PredictResult:
    """Call the sequences of `config.inputs`, results in `config.output`; raises VirnucproError.

    launch: makes the launcher of the workers, such as one of workers that stay.
    """
    output = config.output / (config.prefix or default_prefix(config.inputs[0]))
    paths = PredictPaths(output, work_folder(output, config.work_dir))
    results = results_of(config, paths)
    check(paths, results, config.inputs, force=config.force, resume=config.resume, hint=HINT)
    if config.report:
        check_names(paths, (paths.report,), config.inputs, HINT)
    choice = choose(config)
    with started(_job(config, paths, results, choice, launch), listener) as run:
        if done := run.already_done(recall=True):
            result = _result(run, choice, done.details["result"], already_done=True)
        elif _has_scores(run):
            run.begin()
            logger.info("calling by the scores in %s", paths.scores)
            result = call(run, choice, Scores(read_scores(paths.scores), numbered_records(run.inputs.paths)))
        else:
            result = _score_and_call(run, choice)
        _report(run)
    return result


def _score_and_call(run: PredictRun, choice: Choice) -> PredictResult:
    """Score all windows; meanwhile a thread calls the sequences whose work files are done."""
    files = run.called_files(choice.model_set.classifier_folder, run.config.keep_embeddings)
    with run.launcher(files) as launcher:
        plan = run.work_files(launcher)
        warn_of_dtype(choice.model_set, run.job.placement.dtype)
        called, ended = Called(run.paths, files, {}), Channel[WorkFile](len(plan.parts) + 1)
        scores = _scores(run, choice, called, plan, ended)
        with ThreadPoolExecutor(1, "calling") as thread, aborting(ended):
            tables = thread.submit(_write_tables, run, choice, scores)
            _score(run, called, plan, ended, launcher)
            return _complete(run, choice, scores, tables.result)


def _scores(run: PredictRun, choice: Choice, called: Called, plan: Plan, ended: Iterable[WorkFile]) -> Scores:
    """What is called of work files that have ended; what failed of them is in `called` when all have."""
    rows = scored_rows(called, ended, choice.model_set.scores_by_dna_alone)
    keep = partial(keep_embeddings, called, plan.parts, run.paths, run.config.vanilla_output)
    records = numbered_records(run.inputs.paths)
    return Scores(rows, records, called.failed, keep if run.config.keep_embeddings else keep_nothing)


def _score(run: PredictRun, called: Called, plan: Plan, ended: Channel[WorkFile], launcher: Launcher | None) -> None:
    """Bring work files to their end, and hand each on as soon as it and all before it are done."""
    turn = InTurn((called.source(part), part) for part in plan.parts)

    def hear(worker: int | None, event: Heard) -> None:
        run.session.listen(worker, event)
        for part in turn.hear(event):
            ended.put(part)

    called.failed.update(run.call(plan, "scoring", called.files, launcher, hear))
    for part in turn.left:
        ended.put(part)
    ended.close()


def warn_of_dtype(model_set: ModelSet, dtype: str) -> None:
    """Say that a set was measured in other dtypes than that of this run; nothing where that is not known."""
    measured = model_set.card.dtypes
    if measured and dtype not in measured:
        logger.warning(
            "%s was measured in %s, and this run computes in %s: scores differ, and so may calls near a threshold",
            model_set.name,
            " and ".join(measured),
            dtype,
        )


def results_of(config: PredictConfig, paths: PredictPaths) -> tuple[Path, ...]:
    """The tables and the viral sequences; what was asked for besides."""
    vanilla = (paths.vanilla_scores, paths.vanilla_calls) if config.vanilla_output else ()
    tables = paths.sequences, paths.windows, paths.regions, paths.features, paths.viruses, paths.virus_summary
    return (*tables, *vanilla, paths.scores, *kept(config, paths), paths.failed)


def kept(config: PredictConfig, paths: PredictPaths) -> tuple[Path, ...]:
    """Embeddings that are to be kept; what the set reads is known before its weights are."""
    return kept_paths(paths, reads_of(config.model), config.vanilla_output) if config.keep_embeddings else ()


def choose(config: PredictConfig) -> Choice:
    """Model set, rules of cutting, thresholds. Raises UsageError for what does not fit the set, ModelError."""
    model_set = resolve_set(config.model, config.models_dir)
    card = model_set.card
    window = card.window[0] if config.window is None else config.window
    if window not in card.window:
        raise UsageError(
            f"--window {window}: the classifier of {model_set.name} was trained on windows of "
            f"{' and '.join(map(str, card.window))} bases",
            hint="leave --window out, or choose another --model",
        )
    if card.reads == "windows" and (config.exact or config.vanilla_output):
        option = "--frames exact" if config.exact else "--vanilla-output"
        raise UsageError(
            f"{option}: {model_set.name} reads whole windows and has no frames",
            hint="leave it out, or choose another --model",
        )
    calls = card.calls.get(window)
    measured = calls.min_length if calls else 0
    min_length = measured if config.min_length is None else config.min_length
    rules = Rules(window, config.exact, min_length, model_set.scores_by_dna_alone, card.reads)
    return Choice(model_set, rules, calls, _thresholds(config, model_set, window))


def _thresholds(config: PredictConfig, model_set: ModelSet, window: int) -> Thresholds | ThresholdsByLength:
    """Those asked for; without a preset that was measured, the default ones of the card."""
    card, asked, preset = model_set.card, config.min_score, config.preset or DEFAULT_PRESET
    if asked is not None:
        if config.preset is not None:
            raise UsageError("--preset and --min-score contradict each other", hint="give one of them")
        return Thresholds(asked, asked, asked)
    calls, first = card.calls.get(window), window == card.window[0]
    presets = calls.window_presets if calls else card.presets if first else card.size_presets.get(window, {})
    if preset not in presets and (calls or config.preset is not None or not first):
        known = ", ".join(presets) or f"no presets for windows of {window} bases: its scores were not measured"
        raise UsageError(
            f"the classifier of {model_set.name} has {known}",
            hint=f"give --min-score; the published rule has {PUBLISHED}",
        )
    if calls:
        return calls.thresholds(preset)
    score = card.min_score if first and config.preset is None else presets[preset]
    return Thresholds(score, score, card.long_presets.get(preset, score))


def _job(
    config: PredictConfig, paths: PredictPaths, results: tuple[Path, ...], choice: Choice, launch: Launch
) -> Job[PredictConfig, PredictPaths]:
    encoders = choice.model_set.encoders
    placement = placed(config, encoders)
    choices = {
        "card": sha256_of(choice.model_set.classifier_folder / CARD),
        "min score": asdict(choice.thresholds),
        "viral share": config.viral_share,
    }
    models = by_part(encoders)
    decisive = choice.rules, placement, choice.identity, choices
    return Job("predict", config, paths, results, models, *decisive, HINT, launch)


def _has_scores(run: PredictRun) -> bool:
    """Whether an earlier run has left all scores, and the embeddings if they are to be kept."""
    record, config = run.session.record, run.config
    if record is None or config.force or not config.resume or differences(record.identity, run.identity):
        return False
    there = all(path.exists() and path.name in record.results for path in kept(config, run.paths))
    return there and holds_scores(run.paths.scores, run.fingerprint)


def keep_nothing(_names: Mapping[Path, Path]) -> None:
    """There are no embeddings to keep."""


class Scores(NamedTuple):
    """What is called: rows with the scores of all sequences, in input order.

    records: those that can be used, as they are written in the input, by their place in it; failed: work files that
    came to nothing, and why; keep: writes the embeddings that are to be kept under temporary names, None where scores
    and embeddings are there already.
    """

    rows: Iterable[Row]
    records: Iterator[tuple[int, Record]]
    failed: Mapping[str, str] = {}
    keep: Callable[[Mapping[Path, Path]], None] | None = None


def call(run: PredictRun, choice: Choice, scores: Scores) -> PredictResult:
    """Call, write, record."""
    return _complete(run, choice, scores, partial(_write_tables, run, choice, scores))


def _complete(run: PredictRun, choice: Choice, scores: Scores, tables: Callable[[], Summary]) -> PredictResult:
    """Publish all results, and record them. tables: writes those of the calls, or waits for who does."""
    with run.session.stage("calling"):
        summary = tables()
        failures = _publish(run, scores, summary)
    model_set = choice.model_set
    described = {"name": model_set.name, "trained": model_set.trained, "classifier": model_set.card.name}
    found = _found(run, choice, summary) | {"failures": failures}
    run.session.complete({"model set": described, "result": found}, dict(scores.failed))
    return _result(run, choice, found)


def _found(run: PredictRun, choice: Choice, summary: Summary) -> dict[str, Any]:
    """What the record says of the results."""
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


def _result(run: PredictRun, choice: Choice, found: Mapping[str, Any], already_done: bool = False) -> PredictResult:
    """By what the record says. Raises InputError if nothing of the input could be used; tables say so nevertheless."""
    failures = [tuple(row) for row in found["failures"]]
    # Sequences that are too short are usable, though not scored.
    unusable = sum(found["verdicts"].values()) <= sum(1 for _, record, _, _ in failures if record)
    if failures and not found["windows"] and unusable:
        raise InputError(f"no usable sequence in the input: {failures[0][3]}", hint=f"see {run.paths.failed}")
    discovery = found["false_discovery"] and FalseDiscovery(**found["false_discovery"])
    counts = found["verdicts"], found["windows"], found["windows_scored"]
    name, trained = choice.model_set.name, choice.model_set.trained
    return PredictResult(run.paths, name, trained, *counts, discovery, failures, already_done)


def _write_tables(run: PredictRun, choice: Choice, scores: Scores) -> Summary:
    """Call all sequences, into tables under their temporary names; the scores, too, unless they are there."""
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
        files = text(paths.sequences), packed(paths.windows), text(paths.regions), text(paths.features)
        writer = ResultWriter(*files, run.config.inputs, choice.callers, vanilla)
        for row in rows:
            writer.take(row)
        writer.finish()
        if vanilla:
            vanilla.finish()
    return writer.summary


def _publish(run: PredictRun, scores: Scores, summary: Summary) -> list[Failure]:
    """The rest of the results, then all at once under their own names; the report of older ones goes."""
    paths = run.paths
    there = () if scores.keep else (paths.scores, *kept(run.config, paths))
    results = [path for path in run.job.results if path not in there]
    with run.session.publishing(results, (paths.report,)) as temporary:
        with open(temporary[paths.viruses], "wb", buffering=1 << 20) as fasta:
            write_viruses(fasta, scores.records, summary.viral)
        write_table(temporary[paths.virus_summary], VIRUSES, virus_rows(summary.viral))
        run.inputs.refuse_changed()
        failures = run.inputs.failures(summary.failures)
        write_table(temporary[paths.failed], FAILED, failures)
        if scores.keep:
            scores.keep(temporary)
    return failures


def _report(run: PredictRun) -> None:
    """Write the page, also where a run that was complete before was stopped while it did, or had none."""
    remove_unfinished((run.paths.report,))
    if run.config.report:
        from virnucpro.report import write_report

        with run.session.stage("writing the report"):
            write_report(run.paths.folder, run.paths.output.name)


def default_prefix(first: Path) -> str:
    """The name of the first input without the endings of its format; `stdin` for standard input.

    Raises UsageError for an open file without a name of its own, such as the shell makes of `<(command)`.
    """
    if first == STDIN:
        return "stdin"
    if re.fullmatch(r"/dev/fd|/proc/[^/]+/fd", str(first.parent)):
        raise UsageError(f"{first} says nothing that results could be named by", hint="name them with --prefix")
    name = Path(first.name)
    for endings in (_COMPRESSED, _FORMATS):
        if name.suffix.lower() in endings:
            name = name.with_suffix("")
    return name.name
