"""The card of a classifier: `model.json`, beside its weights. Nothing heavy is imported."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args

from virnucpro.calls.model import CallModel
from virnucpro.errors import ModelError
from virnucpro.io.files import read_object
from virnucpro.models.local import LocalModel
from virnucpro.models.registry import MODELS

CARD = "model.json"
#: Beside it, if there: a network that reads the DNA vector of a whole window, for windows without an open frame.
DNA_ONLY = "dna_only.safetensors"
FORMAT = 1
#: No window is longer.
MOST_BASES = 1 << 30
#: What the two scores of a row mean, in their order.
LABELS = ("others", "virus")
#: The preset that holds where none is asked for.
DEFAULT_PRESET = "default"
#: The fields of a card, in their order on disk.
KEYS = (
    *("format", "name", "trained", "window", "reads", "encoders", "labels"),
    *("min_score", "presets", "long_presets", "size_presets", "calls"),
    *("dtypes", "metrics", "citation", "licence", "source", "files"),
)

#: What a set reads: the published open frames, by their DNA and their proteins, or whole windows, by their DNA alone.
Reads = Literal["frames", "windows"]

T = TypeVar("T")


@dataclass(frozen=True)
class EncoderPin:
    """An encoder that a classifier was trained on.

    `name` is a registered model, or a path relative to the classifier's folder; `dim` the width of its vectors;
    `sha256` every accepted value of `LocalModel.sha256`.
    """

    name: str
    dim: int
    sha256: tuple[str, ...]


@dataclass(frozen=True)
class ClassifierCard:
    """A classifier: which encoders it needs, which windows it serves, where it comes from.

    `window` lists lengths of windows, the default first. Without an encoder of proteins it `reads` whole windows. A
    sequence is called viral from `min_score` on; `presets` are other such scores, by name, where they were measured;
    `long_presets` those of long sequences. All are of windows of the first length; `size_presets` are presets of other
    lengths. `calls` tells for lengths of windows how sequences are called where that was measured: then nothing else
    decides. `dtypes`: in which it was measured; empty where nobody knows. `files` holds the sha256 of each file of
    weights; empty in a card that was written before cards said so.
    """

    name: str
    trained: bool
    window: tuple[int, ...]
    dna: EncoderPin
    protein: EncoderPin | None
    citation: str
    licence: str
    source: str
    reads: Reads = "frames"
    min_score: float = 0.5
    dtypes: tuple[str, ...] = ()
    metrics: Mapping[str, object] = field(default_factory=dict)
    presets: Mapping[str, float] = field(default_factory=dict)
    long_presets: Mapping[str, float] = field(default_factory=dict)
    size_presets: Mapping[int, Mapping[str, float]] = field(default_factory=dict)
    calls: Mapping[int, CallModel] = field(default_factory=dict)
    files: Mapping[str, str] = field(default_factory=dict)

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
        fields = _Fields(folder / CARD, _read_card(folder / CARD))
        fields.get("format", _FORMAT)
        fields.get("labels", _LABELS)
        reads, encoders = fields.get("reads", _READS, "frames"), fields.inside("encoders")
        if reads == "windows":
            encoders.get("protein", _NOTHING)
        window = fields.get("window", _LENGTHS)
        return cls(
            name=fields.get("name", _TEXT),
            trained=fields.get("trained", _FLAG),
            window=tuple(window),
            dna=encoders.inside("dna").encoder(),
            protein=encoders.inside("protein").encoder() if reads == "frames" else None,
            citation=fields.get("citation", _TEXT),
            licence=fields.get("licence", _TEXT),
            source=fields.get("source", _TEXT),
            reads=reads,
            min_score=float(fields.get("min_score", _SCORE)),
            metrics=fields.get("metrics", _OBJECT),
            presets=fields.get("presets", _SCORES, {}),
            long_presets=fields.get("long_presets", _SCORES, {}),
            size_presets=fields.by_size("size_presets", window, lambda inside, key: inside.get(key, _SCORES)),
            calls=fields.by_size("calls", window, _Fields.call_model),
            dtypes=tuple(fields.get("dtypes", _TEXTS, [])),
            files=fields.get("files", _SUMS_BY_NAME, {}),
        )

    def to_json(self) -> str:
        """The content of `model.json`."""
        values = {"format": FORMAT, "labels": LABELS, **asdict(self)}
        values["encoders"] = {key: pin for key in ("dna", "protein") if (pin := values.pop(key)) is not None}
        return json.dumps({key: values[key] for key in KEYS}, indent=2) + "\n"


def check_encoders(card: ClassifierCard, models: Sequence[LocalModel]) -> None:
    """Raise a ModelError if one of the `models`, in the order of the card's encoders, is not what it was trained on.

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


def _read_card(path: Path) -> Mapping[str, Any]:
    try:
        return read_object(path)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ModelError(f"cannot read {path}: {reason}", hint="it must be a JSON object") from error


#: What a field must be, in words, and whether a value is that. A bool is an int to Python, but not to a reader of the
#: file; half of a pair of surrogates cannot be shown.
_Kind = tuple[str, Callable[[Any], bool]]
_TEXT: _Kind = "a text", lambda value: isinstance(value, str) and not re.search("[\0\ud800-\udfff]", value)
_FLAG: _Kind = "true or false", lambda value: type(value) is bool
_OBJECT: _Kind = "an object", lambda value: isinstance(value, dict)
_WIDTH: _Kind = "a whole number above 0", lambda value: type(value) is int and value > 0
_SCORE: _Kind = "a number from 0 to 1", lambda value: type(value) in (int, float) and 0 <= value <= 1
_SCORES: _Kind = "scores from 0 to 1 by name", lambda value: _each_is(_SCORE, value, dict)
_TEXTS: _Kind = "a list of texts", lambda value: _each_is(_TEXT, value, list)
_LENGTH: _Kind = "a length", lambda value: type(value) is int and 0 < value <= MOST_BASES
_LENGTHS: _Kind = "a list of window lengths", lambda value: _each_is(_LENGTH, value, list) and bool(value)
_SUM: _Kind = "a checksum", lambda value: isinstance(value, str) and bool(re.fullmatch("[0-9a-f]{64}", value))
_SUMS: _Kind = "a list of SHA-256 checksums in hexadecimal", lambda value: _each_is(_SUM, value, list) and bool(value)
_SUMS_BY_NAME: _Kind = "SHA-256 checksums by name", lambda value: _each_is(_SUM, value, dict)
_READS: _Kind = " or ".join(get_args(Reads)), lambda value: value in get_args(Reads)
_FORMAT: _Kind = str(FORMAT), lambda value: type(value) is int and value == FORMAT
_LABELS: _Kind = json.dumps(LABELS), lambda value: value == list(LABELS)
_NOTHING: _Kind = "absent, for the set reads whole windows", lambda value: value is None


def _each_is(kind: _Kind, values: Any, holder: type[Any]) -> bool:
    return isinstance(values, holder) and all(map(kind[1], values.values() if holder is dict else values))


@dataclass(frozen=True)
class _Fields:
    """The fields of a JSON object in `path`; `at` is where in it the object stands."""

    path: Path
    values: Mapping[str, Any]
    at: str = ""

    def get(self, key: str, kind: _Kind, default: Any = None) -> Any:
        """The field `key`, or the default where an older card has none; a ModelError unless it is of the kind."""
        value, (what, is_so) = self.values.get(key, default), kind
        if not is_so(value):
            raise self._wrong(key, f" must be {what}, found {json.dumps(value)}")
        return value

    def inside(self, key: str, default: Mapping[str, Any] | None = None) -> _Fields:
        """The object that the field `key` holds."""
        return _Fields(self.path, self.get(key, _OBJECT, default), f"{self.at}{key}.")

    def encoder(self) -> EncoderPin:
        """The fields of an encoder."""
        return EncoderPin(self.get("name", _TEXT), self.get("dim", _WIDTH), tuple(self.get("sha256", _SUMS)))

    def by_size(self, key: str, window: Sequence[int], read: Callable[[_Fields, str], T]) -> dict[int, T]:
        """What the field `key` holds for lengths of windows, each of which the card must serve."""
        inside = self.inside(key, {})
        for size in inside.values:
            if size not in map(str, window):
                raise self._wrong("window", f" must be a list with {size}, of which it has measured scores")
        return {int(size): read(inside, size) for size in inside.values}

    def call_model(self, key: str) -> CallModel:
        """How sequences are called, by the field `key`."""
        try:
            return CallModel.from_json(self.values[key])
        except (ValueError, TypeError, AttributeError) as error:
            raise self._wrong(key, f": {error}") from error

    def _wrong(self, key: str, why: str) -> ModelError:
        hint = "the classifier is damaged, or made by another version: import or train it again"
        return ModelError(f"{self.path}: {self.at}{key}{why}", hint=hint)
