"""The files of a model on this machine: weights, in one file or several, config and tokenizer.

A folder or a weights file is also a model; its family follows from its config or its tensors. Nothing heavy is
imported.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from virnucpro._version import __version__
from virnucpro.errors import ModelError
from virnucpro.io.files import failing_as, read_object, sha256_of
from virnucpro.models.checksums import PUT_BACK, Checksum

CONFIG = "config.json"
TOKENIZER = "tokenizer.json"
#: Files other than the weights that each kind of network needs. The weights of ESM-2 contain everything.
NEEDED: Mapping[str, tuple[str, ...]] = {"dnabert": (CONFIG, TOKENIZER), "esm2": (), "codon": (CONFIG,)}
#: Names of weights in a model folder, the preferred one first; each may be split, as in weight_files.
WEIGHTS = ("model.safetensors", "pytorch_model.bin")
#: Suffixes of a weights file that is given by its path.
WEIGHTS_SUFFIXES = (".safetensors", ".bin", ".pt")
#: The largest number of files into which weights may be split.
_MOST_FILES = 10_000
#: Names of tensors that only ESM networks have, and how much of a file is searched for them.
_ESM_KEYS, _HEAD_BYTES = (b"rot_emb.inv_freq", b"rotary_embeddings.inv_freq", b"esm.encoder.layer."), 1 << 20

#: Attributes of embeddings in a file that say how they were made, in the order in which they are written.
ATTRIBUTES = (
    *("model", "model_revision", "model_sha256", "model_trained"),
    *("dtype", "token_budget", "virnucpro_version", "torch_version"),
)


@dataclass(frozen=True)
class LocalModel:
    """The files of a model on this machine; `trained` is False where the weights are random.

    `kind` is the family of the network, a key of NEEDED; files that it does not need may be None. If there are several
    files of weights, `weights` is the first. `revision` is None unless the weights are those of a registered source.
    """

    name: str
    kind: str
    weights: Path
    config: Path | None
    tokenizer: Path | None
    revision: str | None
    trained: bool

    @classmethod
    def of(
        cls, weights: Path, name: str, kind: str, *, revision: str | None = None, trained: bool = True
    ) -> LocalModel:
        """Build the model from its weights and the files beside them that its family needs."""
        config, tokenizer = weights.with_name(CONFIG), weights.with_name(TOKENIZER)
        return cls(
            name,
            kind,
            weights,
            config if _readable(config) else None,
            tokenizer if TOKENIZER in NEEDED[kind] else None,
            revision,
            trained,
        )

    @property
    def files(self) -> tuple[Path, ...]:
        """Every file of the model, the weights first."""
        return (*weight_files(self.weights), *(path for path in (self.config, self.tokenizer) if path is not None))

    @cached_property
    def sha256(self) -> str:
        """Checksum of the weights; for several files, of their checksums. Raises ModelError if one cannot be read."""
        return combined(self._checksums[path].sha256 for path in weight_files(self.weights))

    @property
    def sums(self) -> tuple[str, ...]:
        """Checksum of each of `files`. Raises ModelError if one cannot be read."""
        return tuple(checksum.sha256 for checksum in self._checksums.values())

    @cached_property
    def _checksums(self) -> dict[Path, Checksum]:
        return {path: Checksum.of(path) for path in self.files}

    @contextlib.contextmanager
    def unchanged(self) -> Iterator[None]:
        """Guard a block that reads the files: raise ModelError if they changed after their checksums were computed."""
        checksums = self._checksums
        yield
        for path, checksum in checksums.items():
            checksum.refuse_changed(path)

    def attributes(self, dtype: str, token_budget: int) -> dict[str, object]:
        """Attributes written with embeddings: model, dtype, token budget and versions."""
        import torch

        made_by = self.name, self.revision or "", self.sha256, self.trained
        versions = __version__, str(torch.__version__)
        return dict(zip(ATTRIBUTES, (*made_by, dtype, token_budget, *versions), strict=True))


def weight_files(first: Path) -> tuple[Path, ...]:
    """Every file of weights whose `first` is given: itself, or all of NAME-00001-of-0000N.SUFFIX."""
    match = re.fullmatch(r"(.+)-0*1-of-(\d+)", first.stem)
    if match is None:
        return (first,)
    name, last = match.groups()
    if int(last) > _MOST_FILES:
        raise ModelError(f"{first} is the first of {last} files, by its name", hint="rename it if it is the only one")
    digits = len(last)
    return tuple(
        first.with_name(f"{name}-{number:0{digits}}-of-{last}{first.suffix}") for number in range(1, int(last) + 1)
    )


def model_sha256(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal; a ModelError if it cannot be read."""
    with failing_as(ModelError, f"cannot read {path}", PUT_BACK):
        return sha256_of(path)


def combined(sums: Iterable[str]) -> str:
    """The checksum of weights in one file or several."""
    first, *others = sums
    return hashlib.sha256("\n".join((first, *others)).encode()).hexdigest() if others else first


def find_local(name: str) -> LocalModel | None:
    """The model in the folder or the weights file `name`; None if it is neither. Raises ModelError."""
    path = Path(os.path.expanduser(name))
    is_file = os.path.isfile(path) and path.suffix in WEIGHTS_SUFFIXES
    if not is_file and not os.path.isdir(path):
        return None
    folder, names = (path.parent, (path.name,)) if is_file else (path, WEIGHTS)
    config = read_json(folder / CONFIG) if _readable(folder / CONFIG) else {}
    kind = _kind(config, _candidates(folder, names))
    weights = pick_weights(folder, names, kind, "put it there, or name a registered model")
    # An untrained copy of an embedded model says so in its config.
    return LocalModel.of(weights, path.resolve().name, kind, trained=config.get("trained") is not False)


def pick_weights(folder: Path, names: tuple[str, ...], kind: str, hint: str) -> Path:
    """The first of these weights in a folder that has all that `kind` needs; a ModelError names what it lacks."""
    missing = [file for file in NEEDED[kind] if not _readable(folder / file)]
    readable = _candidates(folder, names)
    if not readable:
        missing.append(" or ".join(names))
    else:
        missing += [file.name for file in weight_files(readable[0]) if not _readable(file)]
    for path in (folder / name for name in (*missing, *names)):
        if missing and path.is_symlink() and not path.exists():
            message = f"{path} is a link to {os.readlink(path)}, which does not exist"
            raise ModelError(message, hint="mend the link, or put the file itself there")
    if missing:
        more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
        raise ModelError(f"{folder} holds no readable {', no '.join(missing[:3])}{more}", hint=hint)
    return readable[0]


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in a file of a model; a ModelError if it cannot be read."""
    try:
        return read_object(path)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ModelError(f"cannot read {path}: {reason}", hint=cure(path, "it must be a JSON object")) from error


def cure(path: Path, damaged: str) -> str:
    """What mends a file of a model that could not be read; damaged: what to do if it is there."""
    return damaged if _readable(path) else PUT_BACK


def _kind(config: Mapping[str, object], weights: list[Path]) -> str:
    """The family of a local model: by what its config says, or by the names of its tensors."""
    if config.get("kind") == "codon":
        return "codon"
    is_esm = config.get("model_type") == "esm" or (weights and _has_esm_keys(weights[0]))
    return "esm2" if is_esm else "dnabert"


def _has_esm_keys(weights: Path) -> bool:
    # Both formats have the names of the tensors as plain text near the beginning of the file: nothing need be loaded.
    with weights.open("rb") as file:
        head = file.read(_HEAD_BYTES)
    return any(key in head for key in _ESM_KEYS)


def _candidates(folder: Path, names: tuple[str, ...]) -> list[Path]:
    """Readable weights of these names in a folder, each in one file or the first of several."""
    paths: list[Path] = []
    for name in map(Path, names):
        paths += [folder / name, *sorted(folder.glob(f"{name.stem}-00001-of-*{name.suffix}"))]
    return [path for path in paths if _readable(path)]


def _readable(path: Path) -> bool:
    """Whether it is a readable regular file; a pipe might never answer."""
    return os.path.isfile(path) and os.access(path, os.R_OK)
