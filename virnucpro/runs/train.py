"""One run of `virnucpro train`: windows and frames, the encoders, division by group, fit, test, card."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from virnucpro.errors import InputError, UsageError
from virnucpro.input.cut import Rules
from virnucpro.input.index import Plan
from virnucpro.models.card import CARD, DNA_ONLY, ClassifierCard, EncoderPin, Reads
from virnucpro.models.classifier import Classifier, classifier_files, write
from virnucpro.models.local import LocalModel
from virnucpro.models.registry import MODELS
from virnucpro.models.sets import resolve_encoders
from virnucpro.pipeline.caller import Processed
from virnucpro.pipeline.events import Listener, unheard
from virnucpro.runs.config import TrainConfig
from virnucpro.runs.inputs import Failure
from virnucpro.runs.names import check
from virnucpro.runs.paths import TrainPaths
from virnucpro.runs.record import fingerprint
from virnucpro.runs.run import Job, Run, by_role, placed, rules_identity, started, work_folder
from virnucpro.train.dataset import Dataset, FeatureRows, Subset, assign_subsets, gather, read_groups, read_windows
from virnucpro.train.evaluation import FIGURES, Trial, draw_curves, write_text
from virnucpro.train.fit import FitSettings, Fitted, fit
from virnucpro.train.metrics import Ints, check_sklearn

logger = logging.getLogger("virnucpro.run")


@dataclass
class TrainResult:
    """How a run ended; metrics: as in the card."""

    folder: Path
    metrics: dict[str, Any]
    failures: list[Failure] = field(default_factory=list)
    already_done: bool = False


def run_train(config: TrainConfig, listener: Listener = unheard) -> TrainResult:
    """Train a classifier in `config.output`; raises VirnucproError."""
    check_sklearn()
    groups = read_groups(config.group_by) if config.group_by else None
    paths = TrainPaths(config.output / "train", work_folder(config.output / "train", config.work_dir))
    # Files about the classifier, then its own, the card last.
    results = (paths.text, paths.curves, *(paths.folder / name for name in classifier_files(config.dna_only_head)))
    others = (config.group_by,) if config.group_by else ()
    check(paths, results, config.inputs, force=config.force, resume=config.resume, others=others)
    reads, encoders = resolve_encoders(config.model_set, config.models_dir)
    with started(_job(config, paths, results, reads, tuple(encoders.values()), groups), listener) as run:
        if done := run.already_done():
            found = done.details["result"]
            earlier = [tuple(row) for row in found["failures"]]
            return TrainResult(paths.folder, found["metrics"], earlier, already_done=True)
        plan = run.work_files()
        with run.session.stage("dividing"):
            windows = read_windows(paths, plan.parts, config.virus, groups)
            subsets = assign_subsets(windows, config.validation_fraction, config.test_fraction, config.seed)
        files = run.scored_files(classifier=None, vectors=True)
        processed = Processed(paths, files, run.compute(plan, files))
        with run.session.stage("gathering features"):
            data, failed = gather(windows, processed, paths, plan.parts)
        whole = reads == "windows"
        fitted = _fit(run, data, subsets, *((data.whole, "windows") if whole else (data.frames, "open frames")))
        dna_only = None
        if config.dna_only_head:
            dna_only = _fit(
                run, data, subsets, data.whole, "windows without an open frame", "fitting the DNA-only head"
            )
        with run.session.stage("testing", FIGURES, "figures"):
            card = _card(run, reads, encoders, _dims(data, processed, plan))
            of_whole = fitted if whole else dna_only
            scores = data.scores(Classifier(card, fitted.state), Classifier(card, of_whole.state) if of_whole else None)
            trial = Trial(data, subsets, scores, config.seed, run.session.listen)
            card = replace(card, **trial.findings())
        for surprise in trial.surprises:
            logger.warning("%s", surprise)
        failures = run.inputs.failures(failed)
        with run.session.stage("writing the classifier"):
            _write(run, card, fitted, dna_only, trial, failures)
        summary = {"metrics": card.metrics, "presets": card.presets, "failures": failures}
        run.session.complete({"result": summary}, processed.failed)
        return TrainResult(paths.folder, dict(card.metrics), failures)


def _job(
    config: TrainConfig,
    paths: TrainPaths,
    results: tuple[Path, ...],
    reads: Reads,
    encoders: tuple[LocalModel, ...],
    groups: Mapping[str, str] | None,
) -> Job[TrainConfig, TrainPaths]:
    """Choose rules of cutting, devices, and the one dtype and token budgets of the run."""
    if config.dna_only_head and reads == "windows":
        raise UsageError(
            f"--dna-only-head: {config.model_set} reads the DNA of every window anyway", hint="leave it out"
        )
    rules = Rules(config.window, dna_only=config.dna_only_head, reads=reads)
    placement = placed(config, encoders)
    choices = {
        "viral inputs": config.virus,
        "fractions": [config.validation_fraction, config.test_fraction],
        "groups": None if groups is None else fingerprint(groups),
        "fit": [config.epochs, config.patience, config.learning_rate, config.seed],
    }
    models = by_role(encoders)
    return Job("train", config, paths, results, models, rules, placement, rules_identity(rules), choices)


def _fit(
    run: Run[TrainConfig, TrainPaths],
    data: Dataset,
    subsets: Ints,
    rows: FeatureRows,
    unit: str,
    stage: str = "fitting",
) -> Fitted:
    config = run.config
    settings = FitSettings(config.epochs, config.patience, learning_rate=config.learning_rate, seed=config.seed)
    training, validation = (
        rows.examples(data.label, subsets == subset) for subset in (Subset.TRAINING, Subset.VALIDATION)
    )
    for what, examples in (("training", training), ("validation", validation)):
        other, viral = np.bincount(examples.labels, minlength=2)
        if not other or not viral:
            raise InputError(
                f"the {what} part holds {viral} viral and {other} other {unit}",
                hint="give more records, or more groups",
            )
    with run.session.stage(stage, config.epochs, "epochs at most"):
        fitted = fit(training, validation, settings, run.session.listen)
    losses, best = fitted.validation_loss, fitted.best
    logger.info("%s: epoch %d of %d is the best, validation loss %.4f", stage, best + 1, len(losses), losses[best])
    return fitted


def _dims(data: Dataset, processed: Processed, plan: Plan) -> tuple[int, int]:
    """Numbers in a vector of DNA, and of protein."""
    if data.whole.features.size:
        dna = data.whole.features.shape[1]
    else:
        source = next(source for part in plan.parts if part.frames and (source := processed.source(part)))
        dna = processed.files.read_vectors_of(source, 0).embeddings.shape[1]
    return dna, data.frames.features.shape[1] - dna


def _card(
    run: Run[TrainConfig, TrainPaths], reads: Reads, encoders: Mapping[str, LocalModel], dims: tuple[int, int]
) -> ClassifierCard:
    """The card of the classifier, without the results of the test."""
    folder = run.paths.folder.resolve()
    pins = (_pin(folder, name, model, dim) for (name, model), dim in zip(encoders.items(), dims, strict=False))
    return ClassifierCard(
        name=folder.name,
        trained=all(model.trained for model in encoders.values()),
        window=(run.config.window,),
        dna=next(pins),
        protein=next(pins, None),
        reads=reads,
        citation="the authors of the training data; virnucpro",
        licence="as its author says",
        source=f"virnucpro train, seed {run.config.seed}",
        dtypes=(run.job.placement.dtype,),
    )


def _pin(folder: Path, name: str, model: LocalModel, dim: int) -> EncoderPin:
    """How the card names an encoder: as registered, or by its path from the classifier's folder."""
    if name not in MODELS:
        return EncoderPin(os.path.relpath(name, folder), dim, (model.sha256,))
    accepted = MODELS[name].weights_sha256
    return EncoderPin(name, dim, accepted if model.sha256 in accepted else (model.sha256,))


def _write(
    run: Run[TrainConfig, TrainPaths],
    card: ClassifierCard,
    fitted: Fitted,
    dna_only: Fitted | None,
    trial: Trial,
    failures: list[Failure],
) -> None:
    paths = run.paths
    # Until all files are there again, the folder of an older classifier is not one.
    older = paths.folder / CARD, paths.folder / DNA_ONLY
    with run.session.publishing((paths.failed, *run.job.results), failures, older) as names:
        draw_curves(names[paths.curves], trial, fitted)
        files = {"viral": run.config.inputs[: run.config.virus], "other": run.config.inputs[run.config.virus :]}
        write_text(names[paths.text], card, trial, fitted, files)
        write(names, paths.folder, fitted.state, card, dna_only.state if dna_only else None)
