"""A convolutional network over the codons of all six frames of a window: every window has a vector, open frame or not.

Each frame is read by itself: a stem that looks up codons, blocks of a convolution over neighbouring positions, mean and
maximum over the frame. The vector of a window is the mean and the maximum over its frames, so both strands of a window
have the same one. Codons beyond the ends of a frame count as nothing. A network may have several members that were
trained separately and read the same codons; a window's vector then consists of theirs, end to end.

In a buffer, a window is six slots of one size, which depends on its length alone: the codons of a frame, rounded up to
whole positions, and a gap of `GAP` positions. The gap is as wide as the reach of stem and convolutions, so that windows
are back to back and no frame influences another one.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Literal, cast

import numpy as np
import torch
from msgspec import Meta
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from virnucpro.errors import ModelError
from virnucpro.models.attention import PackedLayout
from virnucpro.models.layers import Norm
from virnucpro.models.linear import REACH, Convolution, Linear
from virnucpro.models.weights import CPU, check_keys, filled, read_config, read_weights

#: Offsets 0, 1 and 2 of the forward strand, then of the reverse complement.
FRAMES = 6
#: Token of a codon with a letter other than A, C, G and T; other codons have 16 a + 4 b + c with A, C, G, T = 0 to 3.
UNKNOWN = 64
#: The inert token: no codon, outside of a frame.
OUTSIDE = 65
#: Positions between two frames.
GAP = REACH
EPS = 1e-5
Count = Annotated[int, Meta(gt=0)]
#: Frames in a product, by device type; its shape is fixed, so that a frame's row does not depend on their number.
FRAMES_AT_ONCE = {"cpu": 24, "cuda": 8192}


@dataclass(frozen=True)
class CodonConfig:
    """The numbers of a network: channels of a position, blocks, codons that a position stands for, and members."""

    channels: Count
    blocks: Count
    stride: Count
    members: Count = 1

    @property
    def stem(self) -> int:
        """Codons that a position of the stem reads."""
        return 4 * self.stride

    @property
    def before(self) -> int:
        """How many of them come before those of the position itself."""
        return (self.stem - self.stride) // 2


class CodonTokenizer:
    """DNA → the codons of its six frames, in the order of a buffer."""

    pad_id = OUTSIDE

    def __init__(self, stride: int) -> None:
        self.stride = stride

    def encode(self, sequences: Sequence[str]) -> list[NDArray[np.int64]]:
        """(tokens,) ids of each sequence: six slots, in the order of the frames; case is ignored, U is read as T."""
        text = "".join(sequences).encode("ascii", "replace").translate(_LETTERS)
        forward, reverse = _codons(np.frombuffer(text + b"\4\4", np.uint8))
        ids, start = [], 0
        for sequence in sequences:
            end = start + len(sequence)
            # Codons that extend beyond the sequence are not in any frame.
            both = np.concatenate((forward[start:end], reverse[start:end], _OUTSIDE))
            ids.append(both[_places(len(sequence), self.stride)])
            start = end
        return ids


_LETTERS = bytes(
    "ACGT".find("T" if letter == "U" else letter) % 5 for letter in (chr(byte).upper() for byte in range(256))
)
_OUTSIDE = np.array([OUTSIDE])


def _codons(letters: NDArray[np.uint8]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """(n,) codes, 4 for any letter but A C G T → (n - 2,) the codons that begin there, and on the other strand."""
    first, second, third = letters[:-2].astype(np.int64), letters[1:-1], letters[2:]
    unknown = (first == 4) | (second == 4) | (third == 4)
    forward = np.where(unknown, UNKNOWN, 16 * first + 4 * second + third)
    reverse = np.where(unknown, UNKNOWN, 63 - 16 * third.astype(np.int64) - 4 * second - first)
    return forward, reverse


@lru_cache(maxsize=1024)
def _places(length: int, stride: int) -> NDArray[np.int64]:
    """Of a sequence of `length` bases, the places of its tokens: `n` and `length + n` the codon at base n, forward and
    reverse; 2 * length what lies outside."""
    size = slot_positions(length, stride) * stride
    places = np.full((FRAMES, size), 2 * length)
    for offset in range(3):
        starts = np.arange(offset, length - 2, 3)
        places[offset, : len(starts)] = starts
        places[3 + offset, : len(starts)] = 2 * length - 3 - starts
    return places.ravel()


def slot_positions(length: int, stride: int) -> int:
    """Positions of each of the six slots of a sequence of `length` bases."""
    return -(-(length // 3) // stride) + GAP


class Block(nn.Module):
    """Norm, convolution, GELU, product; added to the input."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = Norm(channels, EPS)
        self.conv = Convolution(channels, channels)
        self.out = Linear(channels, channels)

    def forward(self, x: Tensor, inside: Tensor) -> Tensor:
        """(positions, channels); inside: (positions, 1), 1 where a position belongs to a frame, else 0."""
        return self.out.added_to(x, self.conv(self.norm(x).mul_(inside)))


class Member(nn.Module):
    """Tokens of a buffer → hidden states of its positions → vectors of its windows."""

    def __init__(self, config: CodonConfig) -> None:
        super().__init__()
        self.config = config
        #: (stem * (OUTSIDE + 1), channels): what each codon adds at each place of the stem, nothing if it is outside.
        self.table = nn.Parameter(torch.empty(config.stem * (OUTSIDE + 1), config.channels), requires_grad=False)
        self.bias = nn.Parameter(torch.empty(config.channels), requires_grad=False)
        self.blocks = nn.ModuleList(Block(config.channels) for _ in range(config.blocks))
        self.norm = Norm(config.channels, EPS)
        self.frame = Linear(2 * config.channels, config.channels)

    def forward(self, tokens: Tensor) -> Tensor:
        """(tokens,) int64 → (tokens // stride, channels) hidden states; those of gaps have no meaning."""
        x = self._stem(tokens)
        inside = self._inside(tokens)[:, None].to(x.dtype)
        for block in self.blocks:
            x = block(x, inside)
        return self.norm(x)  # type: ignore[no-any-return]

    def _stem(self, tokens: Tensor) -> Tensor:
        config = self.config
        padded = functional.pad(tokens, (config.before, config.stem), value=OUTSIDE)
        read = padded.unfold(0, config.stem, config.stride)[: len(tokens) // config.stride]
        rows = torch.arange(config.stem, device=tokens.device) * (OUTSIDE + 1)
        return functional.embedding_bag(read + rows, self.table, mode="sum") + self.bias

    def _inside(self, tokens: Tensor) -> Tensor:
        """(tokens,) → (positions,) whether a position belongs to a frame, which is so if its first codon does."""
        stride = self.config.stride
        return tokens[: len(tokens) // stride * stride : stride] != OUTSIDE

    def pool(self, hidden: Tensor, tokens: Tensor, lengths: Tensor, used: int) -> Tensor:
        """(positions, channels), (tokens,), (n,) tokens of each window → (n, dim) fp32 vectors; `used`: their sum."""
        positions = used // self.config.stride
        slots = lengths // (FRAMES * self.config.stride)
        hidden, inside = hidden[:positions].float(), self._inside(tokens)[:positions, None].float()
        means = _over_slots(hidden * inside, slots, "sum") / _over_slots(inside, slots, "sum")
        highest = _over_slots(hidden + inside.log(), slots, "max")  # 0 within a frame, minus infinity outside
        frames = self._framed(torch.cat((means, highest), dim=1))
        return _over_frames(frames.view(-1, FRAMES, self.config.channels))

    def _framed(self, pooled: Tensor) -> Tensor:
        """(frames, 2 * channels) → (frames, channels), in products of one shape."""
        rows = FRAMES_AT_ONCE[pooled.device.type]
        found = pooled.new_empty(len(pooled), self.config.channels)
        for start in range(0, len(pooled), rows):
            block = pooled[start : start + rows]
            padded = functional.pad(block, (0, 0, 0, rows - len(block))).to(self.bias.dtype)
            found[start : start + rows] = self.frame.activated(padded)[: len(block)]
        return found


def _over_slots(rows: Tensor, slots: Tensor, how: Literal["sum", "max"]) -> Tensor:
    """(positions, channels), (n,) positions of a slot of each window → (n * FRAMES, channels) sums, maxima of slots."""
    return _window_by_window(rows, slots, how) if rows.device.type == "cpu" else _at_once(rows, slots, how)


def _window_by_window(rows: Tensor, slots: Tensor, how: Literal["sum", "max"]) -> Tensor:
    """`_over_slots` on a CPU, several times faster than `_at_once`; waits for `slots`."""
    reduce = torch.sum if how == "sum" else torch.amax
    windows = torch.split(rows, (FRAMES * slots).tolist())
    return torch.cat([reduce(window.view(FRAMES, -1, rows.shape[1]), 1) for window in windows])


def _at_once(rows: Tensor, slots: Tensor, how: Literal["sum", "max"]) -> Tensor:
    """`_over_slots` on a GPU: the rows of each slot in order."""
    return torch.segment_reduce(rows, how, lengths=slots.repeat_interleave(FRAMES), axis=0, unsafe=True)


def _over_frames(frames: Tensor) -> Tensor:
    """(n, FRAMES, channels) → (n, 2 * channels): mean and maximum, the same to the bit if the strands change places."""
    forward, reverse = frames.chunk(2, dim=1)
    first, second, third = (forward + reverse).unbind(1)
    return torch.cat(((first + second + third) / FRAMES, frames.amax(1)), dim=1)


class CodonNetwork(nn.Module):
    """Members side by side: hidden states and vectors of each, end to end."""

    def __init__(self, config: CodonConfig) -> None:
        super().__init__()
        self.config = config
        self.members = nn.ModuleList(Member(config) for _ in range(config.members))

    @property
    def dim(self) -> int:
        """Width of an embedding."""
        return 2 * self.config.channels * self.config.members

    @torch.no_grad()
    def forward(self, tokens: Tensor, layout: PackedLayout) -> Tensor:
        """tokens (layout.size,) int64 → (layout.size // stride, members * channels); those of gaps have no meaning."""
        return torch.cat([member(tokens) for member in self.members], dim=1)

    def pool(self, hidden: Tensor, tokens: Tensor, lengths: Tensor, used: int) -> Tensor:
        """(positions, members * channels), (tokens,), (n,) tokens of each window → (n, dim) fp32; `used`: their sum."""
        members = cast("Iterable[Member]", self.members)
        each = zip(members, hidden.chunk(self.config.members, dim=1), strict=True)
        return torch.cat([member.pool(states, tokens, lengths, used) for member, states in each], dim=1)


def load_codon(weights: Path, config: Path | None, device: torch.device = CPU) -> CodonNetwork:
    """Build the network of `config` (a config.json) with `weights`, fp32, on `device`.

    Raises ModelError for tensors that are missing, unknown, or of another shape, and without a config.
    """
    numbers = read_config(CodonConfig, config, weights, "a codon network")
    with torch.device("meta"):
        model = CodonNetwork(numbers)
    found = {key: value.to(device, copy=True).float() for key, value in read_weights(weights).items()}
    wanted = {name: _stored_key(name) for name, _ in model.named_parameters()}
    check_keys(weights, set(wanted.values()), set(found), "the codon network")
    for key in (key for key in found if key.endswith("stem.table")):
        _check_table(weights, found[key], numbers)
        # Codons outside add nothing: a row of zeros after the codons of each place.
        found[key] = functional.pad(found[key], (0, 0, 0, 1)).flatten(0, 1)
    return filled(model, {name: found[key] for name, key in wanted.items()}, weights)


def _stored_key(name: str) -> str:
    """The key of a parameter in a file: `members.0.table` is `members.0.stem.table` there."""
    return re.sub(r"(members\.\d+\.)(table|bias)$", r"\1stem.\2", name)


def _check_table(weights: Path, table: Tensor, values: CodonConfig) -> None:
    expected = (values.stem, OUTSIDE, values.channels)
    if tuple(table.shape) != expected:
        raise ModelError(f"{weights}: stem.table is {tuple(table.shape)}, but its config.json says {expected}")
