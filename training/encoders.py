"""The encoders between training and files: seeded weights to start from, trained ones in the published layout."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from training import init_mini
from training.init_mini import DNA, PROTEIN, SIZES, Size
from training.networks import (
    TrainedDNABERT,
    TrainedEncoder,
    TrainedESM2,
    residue_substitutes,
    word_substitutes,
)
from virnucpro.models.dnabert_s import DNABERT, load_dnabert
from virnucpro.models.dnabert_s import _published_key as dnabert_key
from virnucpro.models.esm2 import ESM2, load_esm2
from virnucpro.models.esm2 import _fair_key as fair_key
from virnucpro.models.esm2 import _published_keys as fair_keys

TOKENIZER = Path(__file__).parents[1] / "virnucpro/models/embedded/dnabert-mini/tokenizer.json"


def start(folder: Path, seed: int, sizes: Mapping[str, Size] = SIZES) -> None:
    """Write both networks with weights from `seed`."""
    for name, size in sizes.items():
        init_mini.write(folder / name, name, seed, size)


def trained(folder: Path, groups: int, dropout: float) -> dict[str, TrainedEncoder]:
    """Both encoders in `folder`, with new heads, to be trained on."""
    return {
        "dna": TrainedDNABERT(load_dna(folder), groups, dropout, _near_words()),
        "protein": TrainedESM2(load_protein(folder), groups, dropout, residue_substitutes()),
    }


@cache
def _near_words() -> Tensor:
    return word_substitutes(json.loads(TOKENIZER.read_text(encoding="utf-8"))["model"]["vocab"])


def load_dna(folder: Path) -> DNABERT:
    """The DNA encoder in `folder/dnabert-mini`."""
    return load_dnabert(folder / DNA / "model.safetensors", folder / DNA / "config.json")


def load_protein(folder: Path) -> ESM2:
    """The protein encoder in `folder/esm2-mini`."""
    return load_esm2(folder / PROTEIN / "model.safetensors")


def write(folder: Path, encoder: DNABERT | ESM2, note: str) -> None:
    """Write a trained encoder, float16; `note` says how it was trained."""
    name = DNA if isinstance(encoder, DNABERT) else PROTEIN
    config, shapes = init_mini.layout(name)
    found = _dnabert_tensors(encoder) if isinstance(encoder, DNABERT) else _esm2_tensors(encoder)
    tensors = {key: found[_key(key)].to("cpu", torch.float16).contiguous() for key in shapes}
    (folder / name).mkdir(parents=True, exist_ok=True)
    text = json.dumps({**config, "trained": True}, indent=2) + "\n"
    (folder / name / "config.json").write_text(text, encoding="utf-8")
    content = init_mini.to_bytes(tensors, {"format": "pt", "trained": "true", "note": note})
    (folder / name / "model.safetensors").write_bytes(content)


def _key(key: str) -> str:
    """What `_dnabert_tensors` or `_esm2_tensors` call the tensor `key` of a file."""
    if key.endswith("inv_freq"):
        return "inv_freq"
    return fair_key(key) if key.startswith("esm.") else key


def _dnabert_tensors(encoder: DNABERT) -> dict[str, Tensor]:
    return {dnabert_key(name): value.detach() for name, value in encoder.named_parameters()}


def _esm2_tensors(encoder: ESM2) -> dict[str, Tensor]:
    found = {"inv_freq": encoder.inv_freq}
    for name, value in encoder.named_parameters():
        keys = fair_keys(name)
        found |= dict(zip(keys, value.detach().chunk(len(keys)), strict=True))
    return found
