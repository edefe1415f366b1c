"""A model set that separates two kinds of random DNA, and input with both, so that every verdict occurs."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from conftest import Records, to_fasta
from numpy.typing import NDArray
from torch import Tensor
from toy_codon import save_toy_codon

import virnucpro
from virnucpro.calls.model import CallModel, FalsePositives, RegionModel, SequenceModel
from virnucpro.input.frames import open_frames
from virnucpro.input.windows import iter_windows
from virnucpro.models.card import ClassifierCard, EncoderPin
from virnucpro.models.classifier import save
from virnucpro.models.registry import MODELS, resolve
from virnucpro.pipeline.features import extract_dnabert_features, extract_esm_features, merge_features

WINDOWS = (150, 300)
#: Hidden units: two that separate the kinds, and others that scatter the scores.
HIDDEN = 24


def viral(length: int, seed: int) -> str:
    """DNA that the classifier mostly takes for viral."""
    return _random_dna((1, 4, 4, 1), length, f"viral {seed}")


def other(length: int, seed: int) -> str:
    """DNA that it mostly does not take for viral."""
    return _random_dna((5, 4, 1, 0.4), length, f"other {seed}")


def _random_dna(weights: tuple[float, ...], length: int, seed: str) -> str:
    return "".join(random.Random(seed).choices("ACGT", weights, k=length))


def toy_records() -> Records:
    """Sequences with every verdict, shuffled, of one window or many; some without a frame, some without DNA."""
    records: Records = [(f"m{i} in between", other(300, i) + viral(450, i) + other(450, i)) for i in range(2)]
    for i, length in enumerate((120, 150, 151, 310, 620)):
        records += [(f"v{i} first kind", viral(length, i)), (f"o{i} second kind", other(length, 10 + i))]
    records += [("stops", "TAATTAGATGA" * 9), ("n", "N" * 200), ("two", "AC"), ("v6", viral(149, 6) + "n")]
    records += [("nothing", ""), ("protein x", "MKVLE")]
    random.Random(1).shuffle(records)
    return records


def save_toy_set(folder: Path) -> Path:
    """A classifier over the embedded encoders, also for windows without a frame; returns its folder, the set's name."""
    pins = [EncoderPin(name, MODELS[name].dim, (resolve(name).sha256,)) for name in ("dnabert-mini", "esm2-mini")]
    card = ClassifierCard(
        name="toy", trained=False, window=WINDOWS, dna=pins[0], protein=pins[1],
        citation="nobody", licence="MIT", source="a test", size_presets={300: {"default": 0.5}},
    )  # fmt: skip
    of_viral, of_other = _vectors(folder, viral), _vectors(folder, other)
    save(
        folder,
        _state(of_viral, of_other),
        card,
        dna_only=_state(of_viral[:, : pins[0].dim], of_other[:, : pins[0].dim]),
    )
    return folder


def save_toy_codon_set(folder: Path) -> Path:
    """A classifier over a codon network in a folder next to its own; returns its folder, the set's name."""
    encoder = save_toy_codon(folder.with_name("codon"))
    of_viral, of_other = (_window_vectors(encoder, kind) for kind in (viral, other))
    pin = EncoderPin("../codon", of_viral.shape[1], (resolve(str(encoder)).sha256,))
    card = ClassifierCard(
        name="toy codon", trained=False, window=WINDOWS, dna=pin, protein=None, reads="windows",
        citation="nobody", licence="MIT", source="a test", size_presets={300: {"default": 0.5}},
    )  # fmt: skip
    save(folder, _state(of_viral, of_other), card)
    return folder


def _window_vectors(encoder: Path, kind: Callable[[int, int], str]) -> NDArray[np.float32]:
    """Vectors of windows of one kind."""
    path = to_fasta(encoder.with_name("kind.fa"), [(str(i), kind(150, 100 + i)) for i in range(60)])
    return virnucpro.embed(path, model=str(encoder), device="cpu", dtype="fp32")[1]


def toy_calls(size: int) -> CallModel:
    """How sequences are called by windows of a size, as if this had been measured."""
    return CallModel(
        min_length=100,
        window_presets={"conservative": 0.9, "default": 0.6, "relaxed": 0.5},
        sequence_presets={"conservative": (0.95, 0.9), "default": (0.7, 0.6), "relaxed": (0.5, 0.5)},
        sequences=SequenceModel((100, 50_000), level=(0.0, -0.125), slope=(1.0, 0.25)),
        false_positives=FalsePositives((100, 50_000), (0.5, 0.9), ((0.2, 0.1), (0.05, 0.01))),
        regions=RegionModel(bias=0.5, clip=4.0, cost=12.0, min_bases=4 * size, host=1.0, false_per_mbp=0.5),
    )


def _vectors(folder: Path, kind: Callable[[int, int], str]) -> NDArray[np.float32]:
    """Features of frames of one kind."""
    windows = (window for i in range(12) for window in iter_windows(str(i), kind(150, 100 + i), 150))
    frames = [(f"{window.id}{frame.name}", frame) for window in windows for frame in open_frames(window)]
    folder.parent.mkdir(parents=True, exist_ok=True)
    fna, faa = folder.with_name("kind.fna"), folder.with_name("kind.faa")
    to_fasta(fna, [(name, frame.nucleotide) for name, frame in frames])
    to_fasta(faa, [(name, frame.protein) for name, frame in frames])
    _, vectors = merge_features(extract_dnabert_features(fna, dtype="fp32"), extract_esm_features(faa, dtype="fp32"))
    return vectors


def _state(of_viral: NDArray[np.float32], of_other: NDArray[np.float32]) -> dict[str, Tensor]:
    """The middle between the means of both kinds scores 0.5; random units scatter the scores."""
    torch.manual_seed(0)
    one, two = torch.from_numpy(of_viral.mean(0)), torch.from_numpy(of_other.mean(0))
    line = (one - two) / (one - two).dot(one - two)
    hidden = torch.cat([line[None], -line[None], torch.randn(HIDDEN - 2, len(line)) * 0.1])
    output = torch.randn(2, HIDDEN) * 0.3
    output[:, :2] = torch.tensor([[-3.0, 3.0], [3.0, -3.0]])
    return {
        "hidden.weight": hidden,
        "hidden.bias": -hidden @ ((one + two) / 2),
        "norm.weight": torch.ones(HIDDEN),
        "norm.bias": torch.zeros(HIDDEN),
        "norm.running_mean": torch.zeros(HIDDEN),
        "norm.running_var": torch.ones(HIDDEN),
        "output.weight": output,
        "output.bias": torch.zeros(2),
    }
