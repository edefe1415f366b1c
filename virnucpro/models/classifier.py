"""The classifier over the vectors of the encoders, and its folder: `model.safetensors` and `model.json`.

Source: Li et al. 2025, "VirNucPro" (doi:10.1093/bib/bbaf224). Written from the published numbers: a hidden layer,
batch norm, ReLU, an output layer of two, softmax.

A row's scores have the same bits whatever its neighbours are: every product has the same shape, since rows are computed
in blocks of BLOCK, in one buffer, by one thread (the number of threads decides how a sum is split).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save as to_safetensors
from torch import Tensor, nn

from virnucpro.errors import ModelError
from virnucpro.io.files import atomic_paths
from virnucpro.models.card import CARD, DNA_ONLY, LABELS, ClassifierCard
from virnucpro.models.linear import Linear, prepack
from virnucpro.models.local import model_sha256
from virnucpro.models.weights import check_keys, read_weights

WEIGHTS = "model.safetensors"
EPS = 1e-5
#: Rows of every product.
BLOCK = 1024

NORM = ("weight", "bias", "running_mean", "running_var")
KEYS = ("hidden.weight", "hidden.bias", *(f"norm.{name}" for name in NORM), "output.weight", "output.bias")


class Classifier:
    """Features → scores of `LABELS`, on the CPU in fp32; its tensors have passed `check_state`."""

    def __init__(self, card: ClassifierCard, state: Mapping[str, Tensor]) -> None:
        self.card = card
        self.dim = state["hidden.weight"].shape[1]
        with one_thread():
            self._network = nn.Sequential(
                _hidden(state), nn.ReLU(), _linear(state["output.weight"], state["output.bias"])
            )
            prepack(self._network, BLOCK)

    @classmethod
    def load(cls, folder: Path) -> Classifier:
        """The classifier in `folder`. A ModelError names a file that is missing, damaged, or unfit for the other."""
        card = ClassifierCard.read(folder)
        return cls._read(card, folder / WEIGHTS, card.dim)

    @classmethod
    def load_dna_only(cls, folder: Path) -> Classifier | None:
        """The network for whole windows, by their DNA: for all, or for those without an open frame, or None.

        Errors as for `load`.
        """
        card, path = ClassifierCard.read(folder), folder / DNA_ONLY
        if card.reads == "windows":
            return cls.load(folder)
        # If the card names it, it is required, and a lost file is an error.
        return cls._read(card, path, card.dna.dim) if DNA_ONLY in card.files or path.exists() else None

    @classmethod
    def _read(cls, card: ClassifierCard, path: Path, dim: int) -> Classifier:
        state = {key: value.clone() for key, value in read_weights(path).items()}
        check_state(path, state)
        found = state["hidden.weight"].shape[1]
        if found != dim:
            raise ModelError(f"{path} takes {found} features, but by {path.with_name(CARD)} the encoders give {dim}")
        if card.files.get(path.name, checksum := model_sha256(path)) != checksum:
            raise ModelError(
                f"{path} is not the file that {CARD} next to it names", hint="import or train the classifier again"
            )
        return cls(card, state)

    @torch.inference_mode()
    def score(self, features: NDArray[np.float32]) -> NDArray[np.float32]:
        """Softmax scores (n, 2), others and virus, of features (n, in) float32: DNA vector, then protein vector if any.

        Raises a ModelError if the features have another width.
        """
        if features.ndim != 2 or features.shape[1] != self.dim:
            raise ModelError(f"classifier {self.card.name} takes (n, {self.dim}) features, not {features.shape}")
        scores = np.empty((len(features), len(LABELS)), np.float32)
        # Always through one buffer: a product may depend on how its input is aligned in memory.
        buffer = torch.empty(BLOCK, self.dim)
        with one_thread():
            for start in range(0, len(features), BLOCK):
                rows = features[start : start + BLOCK]
                buffer.numpy()[: len(rows)] = rows
                buffer[len(rows) :] = 0
                scores[start : start + BLOCK] = self._network(buffer).softmax(1).numpy()[: len(rows)]
        return scores


def save(
    folder: Path, state: Mapping[str, Tensor], card: ClassifierCard, dna_only: Mapping[str, Tensor] | None = None
) -> None:
    """Write a classifier; a folder with a card is complete. Raises ModelError for an unfit `state`, OutputError."""
    with atomic_paths([folder / name for name in classifier_files(dna_only is not None)]) as names:
        folder.mkdir(parents=True, exist_ok=True)
        write(names, folder, state, card, dna_only)
        for name in (CARD, DNA_ONLY):
            (folder / name).unlink(missing_ok=True)


def classifier_files(dna_only: bool) -> tuple[str, ...]:
    """Names of the files of a classifier; the card is last, since it shows that the others are there."""
    return (WEIGHTS, DNA_ONLY, CARD) if dna_only else (WEIGHTS, CARD)


def write(
    names: Mapping[Path, Path],
    folder: Path,
    state: Mapping[str, Tensor],
    card: ClassifierCard,
    dna_only: Mapping[str, Tensor] | None,
) -> None:
    """Write the files of a classifier of `folder` under temporary `names`. Raises ModelError, OSError."""
    states = {WEIGHTS: state} if dna_only is None else {WEIGHTS: state, DNA_ONLY: dna_only}
    for name, each in states.items():
        check_state(folder / name, each)
        names[folder / name].write_bytes(to_safetensors({key: each[key].contiguous() for key in KEYS}))
    card = replace(card, files={name: model_sha256(names[folder / name]) for name in states})
    names[folder / CARD].write_text(card.to_json(), encoding="utf-8")


def check_state(path: Path, state: Mapping[str, Tensor]) -> None:
    """Raise a ModelError that names `path` unless `state` holds the tensors of a classifier: finite, fp32, KEYS."""
    check_keys(path, set(KEYS), set(state), "a classifier")
    weight = state["hidden.weight"]
    if weight.ndim != 2:
        raise ModelError(f"{path}: hidden.weight is not a matrix")
    for key, shape in _shapes(*weight.shape).items():
        tensor = state[key]
        if tensor.shape != shape or tensor.dtype != torch.float32:
            found = f"{tuple(tensor.shape)} {tensor.dtype}"
            raise ModelError(f"{path}: {key} is {found}, expected {shape} torch.float32")
        if not tensor.isfinite().all() or (key == "norm.running_var" and (tensor < 0).any()):
            raise ModelError(f"{path}: {key} holds NaN, infinity or a negative variance", hint="the file is damaged")


def _shapes(hidden: int, features: int) -> dict[str, tuple[int, ...]]:
    """The shape of every tensor."""
    shapes: dict[str, tuple[int, ...]] = dict.fromkeys(KEYS, (hidden,))
    outputs = len(LABELS)
    return shapes | {"hidden.weight": (hidden, features), "output.weight": (outputs, hidden), "output.bias": (outputs,)}


def _hidden(state: Mapping[str, Tensor]) -> Linear:
    """The hidden layer and the norm after it as one layer: a norm with fixed numbers scales and shifts columns."""
    weight, bias, mean, variance = (state[f"norm.{name}"].double() for name in NORM)
    scale = weight / (variance + EPS).sqrt()
    hidden, shift = state["hidden.weight"].double(), state["hidden.bias"].double()
    return _linear(hidden * scale[:, None], (shift - mean) * scale + bias)


def _linear(weight: Tensor, bias: Tensor) -> Linear:
    layer = Linear(weight.shape[1], weight.shape[0])
    layer.load_state_dict({"weight": weight, "bias": bias})
    return layer


@contextmanager
def one_thread() -> Iterator[None]:
    """Use one thread for the products of this thread, and restore the number afterwards."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
