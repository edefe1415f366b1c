"""A codon network with random weights, and a second version of it: in float64, window by window, frame by frame."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file

from virnucpro.models.local import CONFIG, WEIGHTS

Weights = dict[str, NDArray[np.float64]]
COMPLEMENT = str.maketrans("ACGT", "TGCA")


def reverse_complement(sequence: str) -> str:
    return sequence.translate(COMPLEMENT)[::-1]


#: Members of the network.
MEMBERS = 2


def save_toy_codon(folder: Path, channels: int = 32, blocks: int = 2, stride: int = 2) -> Path:
    """A model folder, which is also the model's name."""
    folder.mkdir(parents=True, exist_ok=True)
    config = {"kind": "codon", "channels": channels, "blocks": blocks, "stride": stride, "members": MEMBERS}
    (folder / CONFIG).write_text(json.dumps(config | {"trained": False}))
    members = [_weights(channels, blocks, stride, seed) for seed in range(MEMBERS)]
    state = {f"members.{i}.{name}": value for i, member in enumerate(members) for name, value in member.items()}
    save_file(state, folder / WEIGHTS[0])
    return folder


def _weights(channels: int, blocks: int, stride: int, seed: int) -> dict[str, torch.Tensor]:
    """The weights of a member. None is left at 0 or 1, so that a mistake anywhere is noticed."""
    generator = torch.Generator().manual_seed(seed)

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator)

    def product(name: str, out: int, wide: int) -> dict[str, torch.Tensor]:
        return {f"{name}.weight": random(out, wide) / math.sqrt(wide), f"{name}.bias": 0.1 * random(out)}

    def norm(name: str) -> dict[str, torch.Tensor]:
        return {f"{name}.weight": 1 + 0.1 * random(channels), f"{name}.bias": 0.1 * random(channels)}

    state = {"stem.table": random(4 * stride, 65, channels) / 3, "stem.bias": 0.1 * random(channels)}
    for i in range(blocks):
        state |= norm(f"blocks.{i}.norm") | product(f"blocks.{i}.conv", channels, 5 * channels)
        state |= product(f"blocks.{i}.out", channels, channels)
    state |= norm("norm") | product("frame", channels, 2 * channels)
    return {name: value.half() for name, value in state.items()}


class Reference:
    """Vectors of windows by the definition of the network; shares only the names of the weights with the package."""

    def __init__(self, folder: Path) -> None:
        config = json.loads((folder / CONFIG).read_text())
        self.blocks, self.stride = config["blocks"], config["stride"]
        self.weights: Weights = {name: value.double().numpy() for name, value in load_file(folder / WEIGHTS[0]).items()}

    def vector(self, sequence: str) -> NDArray[np.float64]:
        """For each member, mean and maximum over the frames of both strands."""
        sequence = sequence.upper().replace("U", "T")
        frames = [strand[offset:] for strand in (sequence, reverse_complement(sequence)) for offset in range(3)]
        parts = []
        for member in range(MEMBERS):
            found = np.stack([_Member(self, f"members.{member}.").frame(frame) for frame in frames])
            parts += [found.mean(0), found.max(0)]
        return np.concatenate(parts)


class _Member:
    """One member of a network."""

    def __init__(self, whole: Reference, prefix: str) -> None:
        self.blocks, self.stride = whole.blocks, whole.stride
        self.weights = {
            name.removeprefix(prefix): value for name, value in whole.weights.items() if name.startswith(prefix)
        }

    def frame(self, frame: str) -> NDArray[np.float64]:
        codons = [_codon(frame[i : i + 3]) for i in range(0, len(frame) - 2, 3)]
        x = self._stem(codons)
        for i in range(self.blocks):
            x = x + self._block(f"blocks.{i}", x)
        x = self._norm("norm", x)
        return _gelu(self._product("frame", np.concatenate((x.mean(0), x.max(0)))))

    def _stem(self, codons: list[int]) -> NDArray[np.float64]:
        table, taps = self.weights["stem.table"], 4 * self.stride
        rows = []
        for i in range(math.ceil(len(codons) / self.stride)):
            places = [self.stride * i - (taps - self.stride) // 2 + tap for tap in range(taps)]
            seen = [table[tap, codons[place]] for tap, place in enumerate(places) if 0 <= place < len(codons)]
            rows.append(np.sum(seen, axis=0) + self.weights["stem.bias"])
        return np.array(rows)

    def _block(self, name: str, x: NDArray[np.float64]) -> NDArray[np.float64]:
        y = np.pad(self._norm(f"{name}.norm", x), ((2, 2), (0, 0)))
        seen = np.concatenate([y[tap : tap + len(x)] for tap in range(5)], axis=1)
        return self._product(f"{name}.out", _gelu(self._product(f"{name}.conv", seen)))

    def _norm(self, name: str, x: NDArray[np.float64]) -> NDArray[np.float64]:
        centred = x - x.mean(1, keepdims=True)
        scaled = centred / np.sqrt((centred**2).mean(1, keepdims=True) + 1e-5)
        return scaled * self.weights[f"{name}.weight"] + self.weights[f"{name}.bias"]

    def _product(self, name: str, x: NDArray[np.float64]) -> NDArray[np.float64]:
        return x @ self.weights[f"{name}.weight"].T + self.weights[f"{name}.bias"]


def _codon(letters: str) -> int:
    numbers = ["ACGT".find(letter) for letter in letters]
    return 64 if -1 in numbers else 16 * numbers[0] + 4 * numbers[1] + numbers[2]


def _gelu(x: NDArray[np.float64]) -> NDArray[np.float64]:
    return x * 0.5 * (1 + np.vectorize(math.erf)(x / math.sqrt(2)))
