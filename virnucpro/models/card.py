"""The card of a classifier: `model.json`, next to its weights. Nothing heavy is imported."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Literal

from msgspec import Meta, convert

from virnucpro.calls.model import Bases, CallModel, Share
from virnucpro.errors import ModelError
from virnucpro.models.local import LocalModel, read_json
from virnucpro.models.registry import MODELS

CARD = "model.json"
#: Next to it, if present: a network that reads the DNA vector of a whole window, for windows without an open frame.
DNA_ONLY = "dna_only.safetensors"
#: The longest window.
MOST_BASES = 1 << 30
#: The meaning of the two scores of a row, in order.
Labels = tuple[Literal["others"], Literal["virus"]]
LABELS: Labels = ("others", "virus")
#: The preset that is used by default.
DEFAULT_PRESET = "default"

#: What a set reads: open frames, by their DNA and their proteins, or whole windows, by their DNA alone.
Reads = Literal["frames", "windows"]

#: Half of a surrogate pair cannot be printed.
Text = Annotated[str, Meta(pattern="^[^\0\ud800-\udfff]*$")]
Sum = Annotated[str, Meta(pattern=r"^[0-9a-f]{64}\Z")]
Scores = Mapping[str, Share]


@dataclass(frozen=True)
class EncoderPin:
    """An encoder that a classifier was trained on.

    `name` is a registered model, or a path relative to the classifier's folder; `dim` the width of its vectors;
    `sha256` every accepted value of `LocalModel.sha256`.
    """

    name: Text
    dim: Annotated[int, Meta(gt=0)]
    sha256: Annotated[tuple[Sum, ...], Meta(min_length=1)]


@dataclass(frozen=True)
class ClassifierCard:
    """A classifier: which encoders it needs, which windows it serves, where it comes from.

    `window` lists lengths of windows, the default first. Without an encoder of proteins it `reads` whole windows. A
    sequence is called viral from `min_score` on; `presets` are other such scores, by name, if they were measured, and
    `long_presets` those of long sequences. All of these hold for windows of the first length; `size_presets` are the
    presets of other lengths. `calls` says, by length of windows, how sequences are called if that was measured: then
    nothing else decides. `dtypes` are those in which it was measured, or empty if unknown. `files` holds the sha256 of
    each file of weights, or is empty in older cards.
    """

    name: Text
    trained: bool
    window: Annotated[tuple[Annotated[Bases, Meta(le=MOST_BASES)], ...], Meta(min_length=1)]
    dna: EncoderPin
    protein: EncoderPin | None
    citation: Text
    licence: Text
    source: Text
    reads: Reads = "frames"
    min_score: Share = 0.5
    dtypes: tuple[Text, ...] = ()
    metrics: Mapping[str, object] = field(default_factory=dict)
    presets: Scores = field(default_factory=dict)
    long_presets: Scores = field(default_factory=dict)
    size_presets: Mapping[int, Scores] = field(default_factory=dict)
    calls: Mapping[int, CallModel] = field(default_factory=dict)
    files: Mapping[str, Sum] = field(default_factory=dict)
    format: Literal[1] = 1
    labels: Labels = LABELS

    def __post_init__(self) -> None:
        if (self.protein is None) != (self.reads == "windows"):
            raise ValueError("encoders.protein must be there for open frames, and absent for whole windows")
        for size in {*self.size_presets, *self.calls} - {*self.window}:
            raise ValueError(f"window must be a list with {size}, of which it has measured scores")

    @property
    def encoders(self) -> tuple[EncoderPin, ...]:
        """The DNA encoder, and the protein encoder if there is one."""
        return (self.dna,) if self.protein is None else (self.dna, self.protein)

    @property
    def dim(self) -> int:
        """Width of the features: the DNA vector, then the protein vector if there is one."""
        return sum(pin.dim for pin in self.encoders)

    @classmethod
    def read(cls, folder: Path) -> ClassifierCard:
        """The card of the classifier in `folder`; a ModelError names the file and what is wrong with it."""
        path = folder / CARD
        values = read_json(path)
        pins = values.get("encoders")
        try:
            encoders = {key: pins.get(key) for key in ("dna", "protein")} if isinstance(pins, dict) else {}
            return convert({**values, **encoders}, cls, str_keys=True)
        except ValueError as error:  # also for text that is none
            hint = "the classifier is damaged, or made by another version: import or train it again"
            raise ModelError(f"{path}: {error}", hint=hint) from error

    def to_json(self) -> str:
        """The content of `model.json`."""
        values = asdict(self)
        values["encoders"] = {key: pin for key in ("dna", "protein") if (pin := values.pop(key)) is not None}
        return json.dumps(values, indent=2) + "\n"


def check_encoders(card: ClassifierCard, models: Sequence[LocalModel]) -> None:
    """Raise a ModelError if one of the `models`, in the order of the card's encoders, is not one it was trained on.

    The checksums decide, not the names. Computing them reads the weights, once for each LocalModel.
    """
    for pin, model in zip(card.encoders, models, strict=True):
        if model.sha256 not in pin.sha256:
            raise ModelError(
                f"classifier {card.name} was not trained on {model.weights}: it needs {pin.name} with sha256 "
                f"{' or '.join(pin.sha256)}, found {model.sha256}",
                hint=_cure(pin),
            )


def _cure(pin: EncoderPin) -> str:
    """Hint for weights that the classifier was not trained on."""
    hint = "take a classifier that was trained on these weights"
    if pin.name in MODELS and MODELS[pin.name].hub_id:
        return (
            f"run `virnucpro models download {pin.name}` with the same --models-dir for the published file, or {hint}"
        )
    return hint
