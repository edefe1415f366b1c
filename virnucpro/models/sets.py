"""Model sets by name: an encoder of DNA, for most sets one of proteins, and a classifier trained on their vectors.

The classifier of a published set is looked for with its encoders (`--models-dir`, then `$VIRNUCPRO_MODELS`), that of an
embedded set is in the package. A folder with a classifier is also a name; its card names the encoders.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

from msgspec import convert

from virnucpro.core.words import counted
from virnucpro.errors import ModelError
from virnucpro.models.card import CARD, DNA_ONLY, ClassifierCard, Reads, check_encoders
from virnucpro.models.local import LocalModel
from virnucpro.models.registry import (
    DATA,
    EMBEDDED,
    MODELS,
    REINSTALL,
    VARIABLE,
    Listed,
    folders,
    listed,
    models_dir_option,
    nearest,
    resolve,
)

_T = TypeVar("_T")

#: Where the published classifiers are.
SOURCE = "https://github.com/Li-Jing-1997/VirNucPro"

#: The warning about an untrained set, with its name.
UNTRAINED = "model set %s is UNTRAINED: its calls show only that the tool works, and mean nothing"

#: Families of the encoders, in order, by what a set reads.
_KINDS: Mapping[Reads, tuple[tuple[str, ...], ...]] = {
    "frames": (("dnabert",), ("esm2",)),
    "windows": (("codon", "dnabert"),),
}


@dataclass(frozen=True)
class SetSpec:
    """A set: its encoders, by the names that `resolve` takes, and its classifier, by the name or path of its folder.

    `encoders` has that of DNA first, then that of proteins if there is one; `published` is the file from which the
    classifier is imported, None if it is there.
    """

    name: str
    encoders: tuple[str, ...]
    classifier: str
    published: str | None = None

    @property
    def reads(self) -> Reads:
        """Open frames, or, without an encoder of proteins, whole windows."""
        return "windows" if len(self.encoders) == 1 else "frames"

    @property
    def dim(self) -> int:
        """Width of the features."""
        return sum(MODELS[name].dim for name in self.encoders)

    def folders(self, models_dir: Path | None) -> Iterator[Path]:
        """Where the classifier may be, the preferred place first."""
        return folders(self.classifier, models_dir) if self.published else iter((EMBEDDED / self.classifier,))

    def find(self, models_dir: Path | None) -> Path | None:
        """The folder of the classifier. A folder without a card is an interrupted import and is ignored."""
        return next((folder for folder in self.folders(models_dir) if os.path.isfile(folder / CARD)), None)


SETS = {name: convert({**values, "name": name}, SetSpec) for name, values in DATA["sets"].items()}


@dataclass(frozen=True)
class ModelSet:
    """A set whose parts are on this machine and belong together."""

    name: str
    classifier_folder: Path
    card: ClassifierCard
    encoders: tuple[LocalModel, ...]

    @property
    def scores_by_dna_alone(self) -> bool:
        """Whether windows without an open frame are also scored; published sets give them no score."""
        return os.path.isfile(self.classifier_folder / DNA_ONLY)

    @property
    def trained(self) -> bool:
        """Whether all parts are trained."""
        return self.card.trained and all(model.trained for model in self.encoders)


def resolve_set(name: str, models_dir: Path | None = None) -> ModelSet:
    """Find the parts of the set `name` on this machine and check that they fit together.

    `name` is a named set or the folder of a classifier; a named set wins over a folder called the same (write
    `./name` for the folder). The checksums of the encoders are computed, which reads their weights once.

    A ModelError says what is wrong and how to fix it: missing parts and where they were looked for, damaged files, or
    encoders that the classifier was not trained on.
    """
    found = _found(_spec(name), models_dir)
    _check(found)
    return found


def reads_of(name: str) -> Reads:
    """What a set reads, by its name or its card alone. Raises ModelError."""
    return _spec(name).reads


def resolve_encoders(name: str, models_dir: Path | None = None) -> tuple[Reads, dict[str, LocalModel]]:
    """What a set reads, and its encoders, of DNA and then of proteins; its classifier need not be there.

    By the names by which a card refers to them: registered ones, or the absolute paths of their folders. Raises
    ModelError.
    """
    spec = _spec(name)
    found = [(encoder, resolve(encoder, models_dir)) for encoder in spec.encoders]
    return spec.reads, {name if name in MODELS else str(each.weights.parent.absolute()): each for name, each in found}


def _spec(name: str) -> SetSpec:
    """A named set, or what the card in a folder says. Raises ModelError."""
    if name in SETS:
        return SETS[name]
    folder = Path(os.path.expanduser(name)).absolute()
    if not os.path.isfile(folder / CARD):
        hint = (
            f"{name} is only an encoder; a model set also has a classifier" if name in MODELS else nearest(name, SETS)
        )
        raise ModelError(f"no model set {name!r}: neither {', '.join(SETS)}, nor a folder with {CARD}", hint=hint)
    card = ClassifierCard.read(folder)
    encoders = tuple(pin.name if pin.name in MODELS else str(folder / pin.name) for pin in card.encoders)
    return SetSpec(card.name, encoders, str(folder))


def listed_set(name: str, models_dir: Path | None = None) -> Listed:
    """A named set in a list: `ready`, or `needs` and the parts that are missing; no checksums are computed."""
    spec, errors = SETS[name], list[ModelError]()
    folder = spec.find(models_dir)
    card = _attempt(partial(ClassifierCard.read, folder), errors) if folder else None
    needs = [encoder for encoder in spec.encoders if listed(encoder, models_dir).location == "-"]
    needs += [] if card else [spec.classifier]
    status = f"needs {', '.join(needs)}" if needs else "ready"
    trained = "UNTRAINED" if card and not card.trained else "trained"
    licence, problem = card.licence if card else "-", errors[0].message if errors else ""
    return Listed(name, status, trained, str(spec.dim), licence, str(folder or "-"), "set", problem)


def _found(spec: SetSpec, models_dir: Path | None) -> ModelSet:
    errors: list[ModelError] = []
    folder = _attempt(lambda: _classifier(spec, models_dir), errors)
    encoders = [_attempt(partial(resolve, encoder, models_dir), errors) for encoder in spec.encoders]
    found = tuple(encoder for encoder in encoders if encoder is not None)
    if folder is None or len(found) < len(encoders):
        raise ModelError(
            f"model set {spec.name} is not complete: {'; '.join(error.message for error in errors)}",
            hint="\n".join(error.hint for error in errors if error.hint),
        )
    return ModelSet(spec.name, folder, ClassifierCard.read(folder), found)


def _attempt(find: Callable[[], _T], errors: list[ModelError]) -> _T | None:
    """What `find` finds, or None and its error in `errors`: the user is told of all missing parts at once."""
    try:
        return find()
    except ModelError as error:
        errors.append(error)
        return None


def _classifier(spec: SetSpec, models_dir: Path | None) -> Path:
    folder = spec.find(models_dir)
    if folder is not None:
        return folder
    places = "; ".join(map(str, spec.folders(models_dir)))
    places = places or f"no folder, as neither --models-dir nor ${VARIABLE} is given"
    raise ModelError(
        f"classifier {spec.classifier} is not on this machine; looked for {CARD} in: {places}",
        hint=_how_to_get(spec, models_dir),
    )


def _how_to_get(spec: SetSpec, models_dir: Path | None) -> str:
    """How to get the classifier of a set."""
    if spec.published is None:
        return REINSTALL
    place = models_dir or (None if any(spec.folders(None)) else Path("DIR"))
    return f"run `virnucpro models import {spec.published}{models_dir_option(place)}` with the file from {SOURCE}"


def no_download(name: str, models_dir: Path | None) -> ModelError:
    """The error for a download of the set `name` as if it were one model: it says how to get each of its parts."""
    spec = SETS[name]
    encoders = [encoder for encoder in spec.encoders if MODELS[encoder].hub_id]
    cures = [f"run `virnucpro models download {encoder}{models_dir_option(models_dir)}`" for encoder in encoders]
    cures.append(_how_to_get(spec, models_dir) if spec.published else "nothing to download: it is in the package")
    what = f"{name} is a model set, of {' and '.join(spec.encoders)} and a classifier, not a model"
    return ModelError(what, hint="\n".join(cures))


def _check(found: ModelSet) -> None:
    """Raise a ModelError unless classifier and encoders fit together."""
    # Here, because it needs torch, which a list of sets does not.
    from virnucpro.models.classifier import Classifier

    card = found.card
    if len(found.encoders) != len(card.encoders):
        raise _misfit(found, f"it has {counted(len(card.encoders), 'encoders')}, expected {len(found.encoders)}")
    for pin, model, kinds in zip(card.encoders, found.encoders, _KINDS[card.reads], strict=True):
        if model.kind not in kinds:
            raise _misfit(found, f"{pin.name} is of the family {model.kind}, expected {' or '.join(kinds)}")
        if pin.name in MODELS and pin.dim != MODELS[pin.name].dim:
            raise _misfit(found, f"{pin.name} is {MODELS[pin.name].dim} wide, not {pin.dim}")
    Classifier.load(found.classifier_folder)
    Classifier.load_dna_only(found.classifier_folder)
    check_encoders(card, found.encoders)


def _misfit(found: ModelSet, why: str) -> ModelError:
    return ModelError(f"{found.classifier_folder / CARD}: {why}", hint="import or train the classifier again")
