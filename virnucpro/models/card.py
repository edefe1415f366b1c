"""The card of a classifier: `model.json`, beside its weights. Nothing heavy is imported."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from virnucpro.calls.model import CallModel
from virnucpro.errors import ModelError
from virnucpro.io.files import read_json
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
        path = folder / CARD
        fields = _Fields(path, _read_object(path))
        fields.want(fields.get("format", int) == FORMAT, "format", str(FORMAT))
        fields.want(fields.get("labels", list) == list(LABELS), "labels", json.dumps(LABELS))
        reads, encoders = fields.reads(), fields.inside("encoders")
        alone = "absent, for the set reads whole windows"
        encoders.want(reads == "frames" or "protein" not in encoders.values, "protein", alone)
        return cls(
            name=fields.get("name", str),
            trained=fields.get("trained", bool),
            window=fields.windows(),
            dna=encoders.inside("dna").encoder(),
            protein=encoders.inside("protein").encoder() if reads == "frames" else None,
            citation=fields.get("citation", str),
            licence=fields.get("licence", str),
            source=fields.get("source", str),
            reads=reads,
            min_score=fields.score(),
            metrics=fields.get("metrics", dict),
            presets=fields.presets("presets"),
            long_presets=fields.presets("long_presets"),
            size_presets=fields.size_presets(),
            calls=fields.calls(),
            dtypes=fields.dtypes(),
            files=fields.files(),
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


def _read_object(path: Path) -> Mapping[str, Any]:
    try:
        values = read_json(path)
    except OSError as error:
        raise ModelError(f"cannot read {path}: {error.strerror}", hint="it describes the classifier") from error
    except ValueError as error:
        raise ModelError(f"cannot read {path}: {error}", hint="it must be a JSON object") from error
    if not isinstance(values, dict):
        raise ModelError(f"cannot read {path}: it is no JSON object")
    return values


@dataclass(frozen=True)
class _Fields:
    """The fields of a JSON object in `path`; `at` is where in it the object stands."""

    path: Path
    values: Mapping[str, Any]
    at: str = ""

    def want(self, good: bool, key: str, what: str) -> None:
        """Raise a ModelError unless `good`: the field `key` must be `what`."""
        if not good:
            raise ModelError(
                f"{self.path}: {self.at}{key} must be {what}, found {json.dumps(self.values.get(key))}",
                hint=_DAMAGED,
            )

    def get(self, key: str, kind: type[Any]) -> Any:
        """The field `key`, which must be there and of the type `kind`."""
        value = self.values.get(key)
        # A bool is an int to Python, but not to a reader of the file.
        self.want(isinstance(value, kind) and isinstance(value, bool) is (kind is bool), key, _WORDS[kind])
        self.want(not isinstance(value, str) or _is_text(value), key, _WORDS[kind])
        return value

    def inside(self, key: str) -> _Fields:
        """The object that the field `key` holds."""
        return _Fields(self.path, self.get(key, dict), f"{self.at}{key}.")

    def reads(self) -> Reads:
        """Frames, unless the card says otherwise."""
        found: Any = self.values.get("reads", "frames")
        self.want(found in get_args(Reads), "reads", " or ".join(get_args(Reads)))
        return found  # type: ignore[no-any-return]

    def windows(self) -> tuple[int, ...]:
        found = self.get("window", list)
        good = bool(found) and all(type(length) is int and 0 < length <= MOST_BASES for length in found)
        self.want(good, "window", "a list of window lengths")
        return tuple(found)

    def score(self) -> float:
        found: Any = self.values.get("min_score")
        self.want(type(found) in (int, float) and 0 <= found <= 1, "min_score", "a number from 0 to 1")
        return float(found)

    def presets(self, key: str) -> dict[str, float]:
        """Scores by name; a card need not have any."""
        found = self.values.get(key, {})
        good = isinstance(found, dict) and all(type(value) is float and 0 <= value <= 1 for value in found.values())
        self.want(good, key, "scores from 0 to 1 by name")
        return dict(found)

    def size_presets(self) -> dict[int, dict[str, float]]:
        """Scores by name, by length of window."""
        inside = _Fields(self.path, self.values.get("size_presets", {}), "size_presets.")
        return {self._size(key): inside.presets(key) for key in inside.values}

    def calls(self) -> dict[int, CallModel]:
        """How sequences are called, by length of window."""
        found = {}
        for key, values in dict(self.values.get("calls", {})).items():
            size = self._size(key)
            try:
                found[size] = CallModel.from_json(values)
            except (ValueError, TypeError, AttributeError) as error:
                raise ModelError(f"{self.path}: calls.{key}: {error}", hint=_DAMAGED) from error
        return found

    def _size(self, key: str) -> int:
        self.want(key in map(str, self.windows()), "window", f"a list with {key}, of which it has measured scores")
        return int(key)

    def dtypes(self) -> tuple[str, ...]:
        """Names of number formats; older cards have none."""
        found = self.values.get("dtypes", [])
        self.want(isinstance(found, list) and all(type(each) is str for each in found), "dtypes", "a list of texts")
        return tuple(found)

    def files(self) -> dict[str, str]:
        """Checksums by the names of files; older cards have none."""
        found = self.values.get("files", {})
        good = isinstance(found, dict) and all(_is_sum(value) for value in found.values())
        self.want(good, "files", "SHA-256 checksums by name")
        return dict(found)

    def encoder(self) -> EncoderPin:
        sums = self.get("sha256", list)
        self.want(bool(sums) and all(map(_is_sum, sums)), "sha256", "a list of SHA-256 checksums in hexadecimal")
        dim = self.get("dim", int)
        self.want(dim > 0, "dim", "positive")
        return EncoderPin(self.get("name", str), dim, tuple(sums))


def _is_sum(value: object) -> bool:
    return isinstance(value, str) and re.fullmatch("[0-9a-f]{64}", value) is not None


def _is_text(value: str) -> bool:
    """Whether it can be shown: half of a pair of surrogates cannot."""
    return not re.search("[\0\ud800-\udfff]", value)


_DAMAGED = "the classifier is damaged, or made by another version: import or train it again"
_WORDS = {str: "a text", int: "a whole number", bool: "true or false", list: "a list", dict: "an object"}
