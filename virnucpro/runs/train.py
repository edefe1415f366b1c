"""One run of `virnucpro train`: windows and frames, the encoders, division by group, fit, test, card."""

from __future__ import annotations

import os
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from virnucpro.core.device import select_devices
from virnucpro.errors import InputError, UsageError
from virnucpro.input.cut import Rules
from virnucpro.models.card import CARD, DNA_ONLY, ClassifierCard, EncoderPin
from virnucpro.models.classifier import Classifier, classifier_files, write
from virnucpro.models.local import LocalModel
from virnucpro.models.registry import MODELS
from virnucpro.models.sets import resolve_encoders
from virnucpro.pipeline.events import Listener
from virnucpro.pipeline.families import place
from virnucpro.pipeline.frame_run import Called, FrameRun
from virnucpro.pipeline.run import Failure, work_folder, write_failed
from virnucpro.runs.config import TrainConfig
from virnucpro.runs.paths import TrainPaths
from virnucpro.runs.record import fingerprint
from virnucpro.train.dataset import Dataset, Ints, Part, Table, divide, gather, read_groups, read_windows
from virnucpro.train.evaluation import Trial, draw_curves, write_text
from virnucpro.train.fit import FitSettings, Fitted, fit
from virnucpro.train.metrics import check_sklearn


@dataclass
class TrainResult:
    """How a run ended; metrics: as in the card."""

    folder: Path
    metrics: dict[str, Any]
    failures: list[Failure] = field(default_factory=list)
    already_done: bool = False


class TrainRun(FrameRun[TrainResult]):
    """The steps of `virnucpro train`."""

    command: ClassVar[str] = "train"

    def __init__(self, config: TrainConfig, listener: Listener | None = None) -> None:
        output = config.output / "train"
        self.paths: TrainPaths = TrainPaths(output, work_folder(output, config.work_dir))
        super().__init__(config, self.paths, listener)
        self.config = config

    @property
    def results(self) -> tuple[Path, ...]:
        """What tells about the classifier, and its files, the card last."""
        files = (self.paths.folder / name for name in classifier_files(self.config.dna_only))
        return (self.paths.text, self.paths.curves, *files)

    @property
    def reads(self) -> tuple[Path, ...]:
        """The inputs, and the table of groups."""
        return super().reads + ((self.config.group_by,) if self.config.group_by else ())

    def check(self) -> None:
        """Raise what can be known before anything is read."""
        check_sklearn()
        self.groups = read_groups(self.config.group_by) if self.config.group_by else None
        super().check()

    def choose(self) -> None:
        """Encoders, rules, devices, and the one dtype and token budget of the run."""
        self.set_reads, named = resolve_encoders(self.config.model, self.config.models_dir)
        self.names, self.encoders = tuple(named), tuple(named.values())
        if self.config.dna_only and self.set_reads == "windows":
            raise UsageError(
                f"--dna-only-head: {self.config.model} reads the DNA of every window anyway", hint="leave it out"
            )
        self.rules = Rules(self.config.window, False, 0, self.config.dna_only, self.set_reads)
        devices = select_devices(self.config.device)
        self.placement = place(devices, self.encoders, self.config.dtype, self.config.batch_size)

    def own_identity(self) -> dict[str, Any]:
        """The rules of cutting."""
        return self.rules_identity()

    def own_choices(self) -> dict[str, Any]:
        """How the classifier is fitted."""
        config = self.config
        return {
            "viral inputs": config.virus,
            "fractions": [config.validation_fraction, config.test_fraction],
            "groups": None if self.groups is None else fingerprint(self.groups),
            "fit": [config.epochs, config.patience, config.learning_rate, config.seed],
        }

    def work(self) -> TrainResult:
        """Divide, embed, fit, test, write."""
        with self.session.stage("dividing"):
            windows = read_windows(self.paths, self.plan.parts, self.config.virus, self.groups)
            parts = divide(windows, self.config.validation_fraction, self.config.test_fraction, self.config.seed)
        called = self.call("embedding", None, vectors=True)
        with self.session.stage("gathering features"):
            data, failed = gather(windows, called, self.paths, self.plan.parts)
        with self.session.stage("fitting"):
            whole = self.rules.reads == "windows"
            fitted = self._fit(data, parts, *((data.whole, "windows") if whole else (data.frames, "open frames")))
            dna_only = None
            if self.config.dna_only:
                dna_only = self._fit(data, parts, data.whole, "windows without an open frame")
        with self.session.stage("testing"):
            card = self._card(data, called)
            of_whole = fitted if whole else dna_only
            scores = data.scores(Classifier(card, fitted.state), Classifier(card, of_whole.state) if of_whole else None)
            trial = Trial(data, parts, scores, self.config.seed)
            card = replace(card, **trial.findings())
        failures = self.in_input_order(failed)
        with self.session.stage("writing the classifier"):
            self._write(card, fitted, dna_only, trial, failures)
        summary = {"metrics": card.metrics, "presets": card.presets, "failures": failures}
        self.session.complete({"result": summary}, called.failed)
        return TrainResult(self.paths.folder, dict(card.metrics), failures)

    def _fit(self, data: Dataset, parts: Ints, table: Table, unit: str) -> Fitted:
        settings = FitSettings(
            epochs=self.config.epochs,
            patience=self.config.patience,
            learning_rate=self.config.learning_rate,
            seed=self.config.seed,
        )
        training, validation = (table.examples(data.label, parts == part) for part in (Part.TRAINING, Part.VALIDATION))
        for what, examples in (("training", training), ("validation", validation)):
            other, viral = np.bincount(examples.labels, minlength=2)
            if not other or not viral:
                raise InputError(
                    f"the {what} part holds {viral} viral and {other} other {unit}",
                    hint="give more records, or more groups",
                )
        return fit(training, validation, settings)

    def _card(self, data: Dataset, called: Called) -> ClassifierCard:
        """The card without what the test will show."""
        dna_dim = self._width(data, called)
        dims = (dna_dim, data.frames.features.shape[1] - dna_dim)[: len(self.encoders)]
        dna, *others = map(self._pin, self.names, self.encoders, dims)
        return ClassifierCard(
            name=self.paths.folder.resolve().name,
            trained=all(model.trained for model in self.encoders),
            window=(self.config.window,),
            dna=dna,
            protein=others[0] if others else None,
            reads=self.set_reads,
            citation="the authors of the training data; virnucpro",
            licence="as its author says",
            source=f"virnucpro train, seed {self.config.seed}",
        )

    def _width(self, data: Dataset, called: Called) -> int:
        """Numbers in a DNA vector."""
        if data.whole.features.size:
            return int(data.whole.features.shape[1])
        part = next(part for part in self.plan.parts if part.frames)
        shard = called.files.read_vectors(self.paths.part_file(part.name, ".fna"))[0]
        return int(shard.embeddings.shape[1])

    def _pin(self, name: str, model: LocalModel, dim: int) -> EncoderPin:
        """How the card names an encoder: as registered, or by its path from the classifier's folder."""
        if name not in MODELS:
            return EncoderPin(os.path.relpath(name, self.paths.folder.resolve()), dim, (model.sha256,))
        accepted = MODELS[name].weights_sha256
        return EncoderPin(name, dim, accepted if model.sha256 in accepted else (model.sha256,))

    def _write(
        self, card: ClassifierCard, fitted: Fitted, dna_only: Fitted | None, trial: Trial, failures: list[Failure]
    ) -> None:
        folder = self.paths.folder
        # Until all is there again, the folder of an older classifier is none.
        older = folder / CARD, folder / DNA_ONLY
        with self.session.publishing((self.paths.failed, *self.results), older) as names:
            draw_curves(names[self.paths.curves], trial, fitted)
            write_text(names[self.paths.text], card, trial, fitted)
            write_failed(names[self.paths.failed], failures)
            write(names, folder, fitted.state, card, dna_only.state if dna_only else None)

    def earlier_result(self, record: dict[str, Any]) -> TrainResult:
        """What a complete run said of its result."""
        summary = record["result"]
        failures = [tuple(row) for row in summary["failures"]]
        return TrainResult(self.paths.folder, summary["metrics"], failures, already_done=True)


def run_train(config: TrainConfig, listener: Listener | None = None) -> TrainResult:
    """Train a classifier in `config.output`; raises VirnucproError."""
    return TrainRun(config, listener).run()
