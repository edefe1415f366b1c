"""Which model set a run of `predict` uses, how it cuts, and the score from which it calls a sequence viral."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

from virnucpro.calls.consensus import ConsensusCaller
from virnucpro.calls.model import CallModel, ThresholdsByLength
from virnucpro.calls.segment import ModelCaller
from virnucpro.calls.verdicts import Callers, Thresholds
from virnucpro.errors import UsageError
from virnucpro.input.cut import Rules
from virnucpro.models.card import DEFAULT_PRESET, DNA_ONLY
from virnucpro.models.classifier import WEIGHTS
from virnucpro.models.local import model_sha256
from virnucpro.models.sets import ModelSet, resolve_set
from virnucpro.runs.config import PredictConfig
from virnucpro.runs.run import rules_identity

#: The published rule calls a window viral from this score on.
PUBLISHED = 0.5


@dataclass(frozen=True)
class Choice:
    """The model set, and how calls are made from its scores; calls: what was measured for it, None if nothing was."""

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
        return rules_identity(self.rules) | {"classifier": [model_sha256(folder / name) for name in files]}


def choose(config: PredictConfig) -> Choice:
    """Choose the set, rules of cutting and thresholds. Raises UsageError if settings do not fit the set, ModelError."""
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
    """The requested thresholds; without a request, the default ones of the card."""
    card, asked, preset = model_set.card, config.min_score, config.preset or DEFAULT_PRESET
    if asked is not None:
        if config.preset is not None:
            raise UsageError("--preset and --min-score cannot be combined", hint="give one of them")
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
