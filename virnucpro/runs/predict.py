"""One run of `virnucpro predict`: windows and frames, their scores, calls, tables."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from functools import partial
from pathlib import Path

from virnucpro.calls.kept_scores import holds_scores, read_scores
from virnucpro.calls.scoring import scored_rows
from virnucpro.calls.write import numbered_records
from virnucpro.core.threads import Channel
from virnucpro.input.index import Plan, WorkFile
from virnucpro.io.files import remove_unfinished
from virnucpro.models.card import CARD
from virnucpro.models.local import model_sha256
from virnucpro.models.sets import ModelSet
from virnucpro.pipeline.caller import Processed
from virnucpro.pipeline.events import Heard, Listener, unheard
from virnucpro.pipeline.kept import keep_embeddings
from virnucpro.pipeline.launch_local import Launch, Launcher, launcher_for
from virnucpro.pipeline.merge import InTurn
from virnucpro.runs.calling import (
    PredictResult,
    PredictRun,
    Scores,
    call,
    complete,
    keep_nothing,
    kept,
    result_of,
    results_of,
    write_tables,
)
from virnucpro.runs.choice import Choice, choose
from virnucpro.runs.config import PredictConfig
from virnucpro.runs.names import check, check_names, default_prefix
from virnucpro.runs.paths import PredictPaths
from virnucpro.runs.run import Job, by_role, placed, started, work_folder

logger = logging.getLogger("virnucpro.run")

#: How to choose other names for the results.
HINT = "choose another name with --prefix"


def run_predict(config: PredictConfig, listener: Listener = unheard, launch: Launch = launcher_for) -> PredictResult:
    """Call the sequences of `config.inputs` and write the results into `config.output`; raises VirnucproError.

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
            result = result_of(run, choice, done.details["result"], already_done=True)
        elif _has_scores(run):
            run.begin()
            logger.info("calling again with the scores in %s", paths.scores)
            result = call(run, choice, Scores(read_scores(paths.scores), numbered_records(run.inputs.paths)))
        else:
            result = _score_and_call(run, choice)
        _report(run)
    return result


def _score_and_call(run: PredictRun, choice: Choice) -> PredictResult:
    """Score all windows; meanwhile a thread calls the sequences whose work files are done."""
    files = run.scored_files(choice.model_set.classifier_folder, run.config.keep_embeddings)
    with run.launcher(files) as launcher:
        plan = run.work_files(launcher)
        warn_of_dtype(choice.model_set, run.job.placement.dtype)
        processed, ended = Processed(run.paths, files, {}), Channel[WorkFile](len(plan.parts) + 1)
        scores = _scores(run, choice, processed, plan, ended)
        with ThreadPoolExecutor(1, "calling") as thread:
            tables = thread.submit(write_tables, run, choice, scores)
            try:
                _score(run, processed, plan, ended, launcher)
                return complete(run, choice, scores, tables.result)
            finally:
                ended.abort()  # if scoring failed, the thread would wait forever


def _scores(run: PredictRun, choice: Choice, processed: Processed, plan: Plan, ended: Iterable[WorkFile]) -> Scores:
    """The scores of work files that have ended; failed ones are in `processed` once all have ended."""
    rows = scored_rows(processed, ended, choice.model_set.scores_by_dna_alone)
    keep = partial(keep_embeddings, processed, plan.parts, run.paths, run.config.vanilla_output)
    records = numbered_records(run.inputs.paths)
    return Scores(rows, records, processed.failed, keep if run.config.keep_embeddings else keep_nothing)


def _score(
    run: PredictRun, processed: Processed, plan: Plan, ended: Channel[WorkFile], launcher: Launcher | None
) -> None:
    """Score the work files, and pass each on as soon as it and all before it are done."""
    turn = InTurn((processed.source(part), part) for part in plan.parts)

    def hear(worker: int | None, event: Heard) -> None:
        run.session.listen(worker, event)
        for part in turn.hear(event):
            ended.put(part)

    processed.failed.update(run.compute(plan, processed.files, launcher, hear))
    for part in turn.left:
        ended.put(part)
    ended.close()


def warn_of_dtype(model_set: ModelSet, dtype: str) -> None:
    """Warn if a set was measured in other dtypes than that of this run, as far as that is known."""
    measured = model_set.card.dtypes
    if measured and dtype not in measured:
        logger.warning(
            "%s was measured in %s, and this run computes in %s: scores differ, and so may calls near a threshold",
            model_set.name,
            " and ".join(measured),
            dtype,
        )


def _job(
    config: PredictConfig, paths: PredictPaths, results: tuple[Path, ...], choice: Choice, launch: Launch
) -> Job[PredictConfig, PredictPaths]:
    encoders = choice.model_set.encoders
    placement = placed(config, encoders)
    choices = {
        "card": model_sha256(choice.model_set.classifier_folder / CARD),
        "min score": asdict(choice.thresholds),
        "viral share": config.viral_share,
    }
    models = by_role(encoders)
    decisive = choice.rules, placement, choice.identity, choices
    return Job("predict", config, paths, results, models, *decisive, HINT, launch)


def _has_scores(run: PredictRun) -> bool:
    """Whether an earlier run has left all scores, and the embeddings if they are to be kept."""
    record, config = run.session.record, run.config
    if record is None or config.force or not config.resume or record.identity != run.identity:
        return False
    there = all(path.exists() and path.name in record.results for path in kept(config, run.paths))
    return there and holds_scores(run.paths.scores, run.fingerprint)


def _report(run: PredictRun) -> None:
    """Write the page, also if a complete run was stopped while it wrote the page, or had no page."""
    remove_unfinished((run.paths.report,))
    if run.config.report:
        from virnucpro.report import write_report

        with run.session.stage("writing the report"):
            write_report(run.paths.folder, run.paths.output.name)
