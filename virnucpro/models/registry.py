"""Find models by name, download them and verify their files.

A registered model is looked for in `--models-dir`, then `$VIRNUCPRO_MODELS`, then the Hub cache at its pinned
revision; an embedded one is in the package. A folder or a weights file is also a model name. Only `download` uses the
network, and no code of a repository is ever fetched. Nothing heavy is imported until it is needed.
"""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

from msgspec import convert

from virnucpro.errors import ModelError
from virnucpro.models.local import (
    CONFIG,
    NEEDED,
    TOKENIZER,
    WEIGHTS,
    WEIGHTS_SUFFIXES,
    LocalModel,
    combined,
    find_local,
    model_sha256,
    pick_weights,
    weight_files,
)

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

#: Environment variable that names a folder of models.
VARIABLE = "VIRNUCPRO_MODELS"
#: Folder of the models shipped in the wheel.
EMBEDDED = Path(__file__).parent / "embedded"
#: What to do if an embedded model is incomplete.
REINSTALL = "install virnucpro again"
#: The registered models and sets, from models.toml.
DATA: Mapping[str, Mapping[str, Any]] = tomllib.loads(
    Path(__file__).with_name("models.toml").read_text(encoding="utf-8")
)


@dataclass(frozen=True)
class FilePin:
    """Expected size in bytes and SHA-256 in hexadecimal of a published file."""

    size: int
    sha256: str


@dataclass(frozen=True)
class ModelSpec:
    """A registered model.

    `pins` names the files that its source publishes at `revision`, and what they must be; `other_pins` the same
    weights as published elsewhere, for whoever has them. An embedded model has no `hub_id`. `kind` is the family of
    the network, a key of NEEDED; `dim` is the width of an embedding.
    """

    name: str
    kind: str
    dim: int
    licence: str
    citation: str
    hub_id: str | None = None
    revision: str | None = None
    pins: Mapping[str, FilePin] = field(default_factory=dict)
    other_pins: Mapping[str, FilePin] = field(default_factory=dict)

    @classmethod
    def read(cls, name: str, values: Mapping[str, Any]) -> ModelSpec:
        """Build the model `name` from its table in models.toml."""
        return convert({**values, "name": name, "citation": values["citation"].format_map(DATA["papers"])}, cls)

    @property
    def files(self) -> tuple[str, ...]:
        """Names of the files that must lie beside the weights."""
        return NEEDED[self.kind]

    @property
    def weights(self) -> tuple[str, ...]:
        """Possible file names of its weights, the preferred one first."""
        return (*WEIGHTS, *self.other_pins)

    def pin(self, file: str) -> FilePin | None:
        """The pin of a file; None if there is none."""
        return self.pins.get(file) or self.other_pins.get(file)

    @property
    def weights_sha256(self) -> tuple[str, ...]:
        """Every value that `LocalModel.sha256` has for published weights of this model."""
        pins = {**self.pins, **self.other_pins}
        sums = {name: pin.sha256 for name, pin in pins.items() if name not in (CONFIG, TOKENIZER)}
        wholes = [[part.name for part in weight_files(Path(name))] for name in sums]
        later_parts = {name for whole in wholes for name in whole[1:]}
        return tuple(combined(sums[name] for name in whole) for whole in wholes if whole[0] not in later_parts)

    @property
    def url(self) -> str:
        """The page of the pinned revision."""
        return f"https://huggingface.co/{self.hub_id}/tree/{self.revision}"


@dataclass(frozen=True)
class FileCheck:
    """Result of comparing a file with its pin; `expected` and `found` are both checksums or both sizes in bytes."""

    file: str
    path: Path
    status: Literal["ok", "mismatch", "unpinned"]
    expected: str | None
    found: str


class Absent(ModelError):
    """A registered model that is not on this machine."""


class Listed(NamedTuple):
    """A model or a set as a list shows it; problem: what is wrong with it, empty if nothing is."""

    name: str
    status: str
    trained: str
    dim: str
    licence: str
    location: str
    kind: str
    problem: str = ""


MODELS = {name: ModelSpec.read(name, values) for name, values in DATA["models"].items()}


def resolve(name: str, models_dir: Path | None = None) -> LocalModel:
    """Find the files of the model `name` on this machine.

    `name` is a registered name, a folder, or a weights file with its `config.json` and `tokenizer.json`
    beside it, which ESM-2 needs not; a registered name wins over a folder called the same (write `./name`
    for the folder).

    A ModelError says what is wrong and how to mend it: the name is unknown, the model is not on this machine, a
    file is missing, or the weights have another size than the published ones.
    """
    model = _locate(name, models_dir)
    if name in MODELS:
        _refuse_truncated(MODELS[name], model, models_dir)
    return model


def download(name: str, models_dir: Path | None = None) -> LocalModel:
    """Download the files of a registered model at its pinned revision, verify them, and return them.

    They go to `<models_dir>/<name>/`, else `$VIRNUCPRO_MODELS/<name>/`, else the Hub cache. A damaged copy
    that is there already is replaced; an embedded model needs no download. A ModelError says why a file
    could not be had, or that it is not the pinned one.
    """
    spec = MODELS.get(name)
    if spec is None:
        raise _unknown(name)
    if spec.hub_id is not None:
        from huggingface_hub import hf_hub_download

        folder = next(folders(name, models_dir), None)
        fetch = partial(hf_hub_download, spec.hub_id, revision=spec.revision, local_dir=folder)
        for file, pin in spec.pins.items():
            _fetch(fetch, file, pin, spec, models_dir)
    return resolve(name, models_dir)


def verify(name: str, models_dir: Path | None = None) -> list[FileCheck]:
    """Compare each file of a model with its pin; a ModelError if a file is absent or cannot be read."""
    model = _locate(name, models_dir)
    spec = MODELS.get(name)
    return [_check(path, spec.pin(path.name) if spec else None) for path in model.files]


def listed(name: str, models_dir: Path | None = None) -> Listed:
    """A registered model in a list: embedded, downloaded, not downloaded or damaged; no checksums are computed."""
    spec, place, problem = MODELS[name], "-", ""
    try:
        place = str(resolve(name, models_dir).weights.parent)
        status = "embedded" if spec.hub_id is None else "downloaded"
    except Absent:
        status = "not downloaded"
    except ModelError as error:
        status, problem = "damaged", error.message
    return Listed(name, status, "trained", str(spec.dim), spec.licence, place, spec.kind, problem)


def _locate(name: str, models_dir: Path | None) -> LocalModel:
    """Find the files of a model, complete but not verified."""
    spec = MODELS.get(name)
    model = _find(spec, models_dir) if spec else find_local(name)
    if model is None:
        raise _absent(spec, models_dir) if spec else _unknown(name)
    return model


def _find(spec: ModelSpec, models_dir: Path | None) -> LocalModel | None:
    """The first copy of a registered model; None if there is none, a ModelError if it lacks a file."""
    weights: Path | None
    if spec.hub_id is None:
        weights = pick_weights(EMBEDDED / spec.name, spec.weights, spec.kind, REINSTALL)
    elif folder := next(filter(os.path.isdir, folders(spec.name, models_dir)), None):
        weights = pick_weights(folder, spec.weights, spec.kind, _how_to_get(spec, models_dir))
    else:
        weights = _in_hub_cache(spec, spec.hub_id)
    if weights is None:
        return None
    # It is not known from which revision a user's converted weights come.
    revision = spec.revision if weights.name in spec.pins else None
    return LocalModel.of(weights, spec.name, spec.kind, revision=revision)


def folders(name: str, models_dir: Path | None) -> Iterator[Path]:
    """Folders in which the model or classifier of that name may be, besides the Hub cache for a model."""
    for parent in (models_dir, os.environ.get(VARIABLE)):
        if parent:
            yield Path(os.path.expanduser(parent)) / name


def _in_hub_cache(spec: ModelSpec, hub_id: str) -> Path | None:
    """The weights there; None unless all files are."""
    from huggingface_hub import try_to_load_from_cache

    found = [try_to_load_from_cache(hub_id, file, revision=spec.revision) for file in spec.pins]
    paths = [Path(path) for path in found if isinstance(path, str)]
    return next(path for path in paths if path.name not in spec.files) if len(paths) == len(spec.pins) else None


def _refuse_truncated(spec: ModelSpec, model: LocalModel, models_dir: Path | None) -> None:
    """Raise a ModelError if the weights have another size than the published file of that name."""
    for path in weight_files(model.weights):
        pin, found = spec.pin(path.name), path.stat().st_size
        if pin is not None and pin.size != found:
            raise ModelError(
                f"{path} has {found} bytes, expected {pin.size}: an incomplete download or another file",
                hint=_how_to_get(spec, models_dir),
            )


def _check(path: Path, pin: FilePin | None) -> FileCheck:
    if pin is None:
        return FileCheck(path.name, path, "unpinned", None, model_sha256(path))
    size = path.stat().st_size
    if pin.size != size:
        return FileCheck(path.name, path, "mismatch", f"{pin.size} bytes", f"{size} bytes")
    found = model_sha256(path)
    return FileCheck(path.name, path, "ok" if found == pin.sha256 else "mismatch", pin.sha256, found)


def _fetch(fetch: Callable[..., str], file: str, pin: FilePin, spec: ModelSpec, models_dir: Path | None) -> None:
    """Fetch one file and compare it with its pin."""
    try:
        check = _check(Path(fetch(file)), pin)
        if check.status == "mismatch":
            # The Hub client accepts a file that exists, damaged or not.
            check = _check(Path(fetch(file, force_download=True)), pin)
    except Exception as error:
        # Client, proxy, server and disk raise a dozen kinds of error; all mean that the file is not available.
        raise ModelError(
            f"cannot download {file} of {spec.hub_id}: {error}", hint=_by_hand(spec, models_dir)
        ) from error
    if check.status == "mismatch":
        raise ModelError(
            f"{check.path} is not the pinned file: expected {check.expected}, found {check.found}",
            hint="the server or a proxy sent a different file; do not use it",
        )


def _how_to_get(spec: ModelSpec, models_dir: Path | None) -> str:
    """How to get a registered model."""
    return f"run `virnucpro models download {spec.name}{models_dir_option(models_dir)}`\n{_by_hand(spec, models_dir)}"


def models_dir_option(models_dir: Path | None) -> str:
    """The --models-dir option for this folder, quoted for a shell; empty for None."""
    return f" --models-dir {shlex.quote(str(models_dir))}" if models_dir else ""


def _by_hand(spec: ModelSpec, models_dir: Path | None) -> str:
    """How to get a registered model if this machine has no network."""
    folder = next(folders(spec.name, models_dir), None)
    place = f"{folder}/" if folder else f"DIR/{spec.name}/ and pass --models-dir DIR or set {VARIABLE}=DIR"
    return f"without a network, copy {', '.join(spec.pins)} from {spec.url} to {place}"


def _absent(spec: ModelSpec, models_dir: Path | None) -> Absent:
    from huggingface_hub.constants import HF_HUB_CACHE

    files = ", ".join((*spec.files, " or ".join(spec.weights)))
    places = [*map(str, folders(spec.name, models_dir)), f"the Hub cache {HF_HUB_CACHE}"]
    return Absent(
        f"model {spec.name} is not on this machine; looked for {files} in: {'; '.join(places)}",
        hint=_how_to_get(spec, models_dir),
    )


def _unknown(name: str) -> ModelError:
    if name in DATA["sets"]:
        encoders = " or ".join(DATA["sets"][name]["encoders"])
        return ModelError(f"{name} is a model set, not a model", hint=f"name an encoder of it: {encoders}")
    return ModelError(
        f"no model {name!r}: neither a registered name ({', '.join(MODELS)}), nor a folder, "
        f"nor a weights file ({', '.join(WEIGHTS_SUFFIXES)})",
        hint=nearest(name, MODELS),
    )


def nearest(name: str, known: Iterable[str]) -> str:
    """Hint for an unknown name: the closest known one."""
    close = get_close_matches(name.lower(), known, n=1)
    return f"did you mean {close[0]}?" if close else "see `virnucpro models list`"
