"""Read the tensors of published checkpoints without executing anything."""

from __future__ import annotations

import argparse
import math
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TypeVar
from zipfile import is_zipfile

import torch
from msgspec import convert
from torch import Tensor, nn

from virnucpro.core.threads import unbroken
from virnucpro.core.words import counted
from virnucpro.errors import ModelError, lack_of_memory
from virnucpro.models.local import cure, read_json, weight_files

Config = TypeVar("Config")
Network = TypeVar("Network", bound=nn.Module)

CPU = torch.device("cpu")


def read_config(kind: type[Config], path: Path | None, weights: Path, family: str) -> Config:
    """The numbers of a network: the fields of a dataclass, in its `config.json`, which must have all of them.

    A ModelError names the file, or the `weights` that lack one, and what is wrong.
    """
    hint = f"if it is {family}, download or train it again"
    if path is None:
        raise ModelError(f"{weights} has no config.json", hint=hint)
    values = read_json(path)
    try:
        return convert({name: values.get(name) for name in kind.__annotations__}, kind)
    except ValueError as error:
        raise ModelError(f"cannot read {path}: {error}", hint=hint) from error


def read_weights(path: Path) -> dict[str, Tensor]:
    """Tensors of a `.safetensors` or PyTorch file, and of the other files if it is the first of several.

    From fair-esm's `{"cfg", "model"}` it takes the model. Raises ModelError for a file that cannot be read, that holds
    anything but tensors, or that would execute code; DeviceError for one that does not fit in memory. What is kept of
    the tensors must be copied: they are those of the file, and change with it.
    """
    found: dict[str, Tensor] = {}
    for part in weight_files(path):
        try:
            found |= unbroken(partial(_read_file, part))
        except Exception as error:
            # The readers raise a dozen kinds of error for a damaged file; all mean the same to the user.
            reason = getattr(error, "strerror", None) or error
            hint = cure(part, "download them again")
            unread = ModelError(f"cannot read the weights in {part}: {reason}", hint=hint)
            raise lack_of_memory(error) or unread from error
    return found


def _read_file(path: Path) -> dict[str, Tensor]:
    if path.exists() and not path.is_file():  # a pipe may never answer
        raise ValueError("it is not a regular file")
    if path.suffix == ".safetensors":
        from safetensors.torch import load_file

        return load_file(path)
    # fair-esm stores its settings with the weights as a Namespace: plain data, which torch must be told to accept.
    with torch.serialization.safe_globals([argparse.Namespace]):
        loaded = torch.load(path, map_location="cpu", weights_only=True, mmap=is_zipfile(path))
    if isinstance(loaded, Mapping) and isinstance(loaded.get("model"), Mapping):
        loaded = loaded["model"]
    if not isinstance(loaded, Mapping) or not all(isinstance(value, Tensor) for value in loaded.values()):
        raise ValueError("it is not a dictionary of tensors")
    return dict(loaded)


def check_finite(path: Path, state: Mapping[str, Tensor]) -> None:
    """Raise ModelError naming `path` and the first tensor that holds NaN or infinity."""
    for name, tensor in state.items():
        low, high = tensor.aminmax() if tensor.numel() else (0.0, 0.0)
        if not (math.isfinite(low) and math.isfinite(high)):  # a NaN anywhere is both the least and the greatest
            raise ModelError(f"{path}: {name} holds NaN or infinity", hint="the file is damaged: download it again")


def filled(model: Network, state: Mapping[str, Tensor], weights: Path) -> Network:
    """A network that was made on the device `meta`, with its parameters, for inference.

    Raises ModelError naming `weights` for a parameter of another shape, or with NaN or infinity.
    """
    check_finite(weights, state)
    try:
        model.load_state_dict(state, assign=True)
    except RuntimeError as error:
        raise ModelError(f"{weights} does not fit the config.json beside it: {error}") from error
    return model.requires_grad_(False).eval()


def check_keys(path: Path, wanted: set[str], found: set[str], family: str) -> None:
    """Raise ModelError naming tensors that are missing or unknown in a network of `family`."""
    for what, keys in (("misses", wanted - found), ("has unknown", found - wanted)):
        if keys:
            some = ", ".join(sorted(keys)[:3])
            raise ModelError(
                f"{path} {what} {counted(len(keys), 'tensors')} of {family}, for example {some}",
                hint="give the weights and the config.json of one and the same model",
            )
