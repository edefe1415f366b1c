"""The codon network as it is trained: padded batches of windows, with heads that the encoder itself has not.

`export` writes what `virnucpro/models/codon.py` reads; tests/test_training.py holds that both give the same vectors.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional

from training.genomes import OTHER

#: A codon with a letter other than A C G T, and what lies outside of a frame.
UNKNOWN, OUTSIDE = 64, 65
KERNEL = 5
#: Numbers of a codon before the stem, which is stored as the product of both.
EMBEDDING = 48


@dataclass(frozen=True)
class Size:
    """channels: numbers a position; blocks: how many; stride: codons a position; hidden: of the classifier."""

    channels: int
    blocks: int
    stride: int = 2
    hidden: int = 256

    @property
    def stem(self) -> int:
        """Codons that a position of the stem sees."""
        return 4 * self.stride

    def products(self, bases: int = 500) -> int:
        """Multiplications of a window."""
        positions = 6 * -(-bases // 3 // self.stride)
        return positions * self.blocks * (KERNEL + 1) * self.channels**2


def frames(codes: Tensor, lengths: Tensor, stride: int) -> tuple[Tensor, Tensor]:
    """Windows (n, size) of codes, 4 behind their ends, and lengths (n,) → codons (n, 6, width), and positions (n, 6).

    Offsets 0, 1, 2 of the strand, then of the other one. The width is a multiple of the stride; `OUTSIDE` fills it.
    """
    size = codes.shape[1]
    column = torch.arange(size, device=codes.device)
    back = (lengths[:, None] - 1 - column).clamp(min=0)
    codes = codes.long().masked_fill(column >= lengths[:, None], OTHER)
    other = codes.gather(1, back)
    strands = torch.stack((codes, torch.where(other == OTHER, OTHER, 3 - other)), 1)
    strands = functional.pad(strands, (0, 2), value=OTHER)
    first, second, third = (strands[..., place : place + size] for place in range(3))
    known = (first != OTHER) & (second != OTHER) & (third != OTHER)
    codons = torch.where(known, first * 16 + second * 4 + third, UNKNOWN)
    width = -(-size // 3 // stride) * stride
    codons = functional.pad(codons, (0, 3 * width + 3 - size), value=UNKNOWN)
    codons = torch.stack([codons[..., offset : offset + 3 * width : 3] for offset in range(3)], 2).flatten(1, 2)
    counts = ((lengths[:, None] - torch.arange(3, device=codes.device)) // 3).clamp(min=0).repeat(1, 2)
    inside = torch.arange(width, device=codes.device) < counts[..., None]
    return codons.masked_fill(~inside, OUTSIDE), (counts + stride - 1) // stride


class Block(nn.Module):
    """Norm, a convolution over neighbouring positions, GELU, a product; added to what came in."""

    def __init__(self, channels: int, dropout: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels)
        self.conv = nn.Linear(KERNEL * channels, channels)
        self.out = nn.Linear(channels, channels)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, inside: Tensor) -> Tensor:
        """(n, positions, channels), (n, positions, 1) → (n, positions, channels)."""
        y = self.norm(x).to(self.dtype_of(x)) * inside
        added: Tensor = self.dropout(self.out(functional.gelu(self.conv(taps(y, KERNEL, 1, KERNEL // 2)))))
        return x + added

    @staticmethod
    def dtype_of(x: Tensor) -> torch.dtype:
        """What products compute in."""
        return torch.get_autocast_dtype(x.device.type) if torch.is_autocast_enabled(x.device.type) else x.dtype


def taps(x: Tensor, kernel: int, stride: int, before: int) -> Tensor:
    """(n, length, c) → (n, length / stride, kernel * c): what a convolution sees at each place, tap by tap."""
    places = x.shape[1] // stride
    x = functional.pad(x, (0, 0, before, kernel))
    return torch.cat([x[:, tap : tap + stride * places : stride] for tap in range(kernel)], 2)


class CodonNetwork(nn.Module):
    """Windows → a vector each, and from it the class and the group."""

    def __init__(self, size: Size, groups: int, dropout: float = 0.1, head_dropout: float = 0.3) -> None:
        super().__init__()
        self.size = size
        self.embed = nn.Embedding(OUTSIDE + 1, EMBEDDING, padding_idx=OUTSIDE)
        self.stem = nn.Linear(size.stem * EMBEDDING, size.channels)
        self.blocks = nn.ModuleList(Block(size.channels, dropout) for _ in range(size.blocks))
        self.norm = nn.LayerNorm(size.channels)
        self.frame = nn.Linear(2 * size.channels, size.channels)
        self.drop = nn.Dropout(head_dropout)
        self.hidden = nn.Linear(2 * size.channels, size.hidden)
        self.hidden_norm = nn.BatchNorm1d(size.hidden, momentum=0.01)
        self.classes = nn.Linear(size.hidden, 2)
        self.groups = nn.Linear(size.hidden, groups)

    def vectors(self, codons: Tensor, positions: Tensor) -> Tensor:
        """Codons (n, 6, width), positions (n, 6) → (n, 2 * channels)."""
        windows, codons, positions = len(codons), codons.flatten(0, 1), positions.flatten()[:, None, None]
        stride = self.size.stride
        x = self.stem(taps(self.embed(codons), self.size.stem, stride, (self.size.stem - stride) // 2))
        inside = torch.arange(x.shape[1], device=x.device)[:, None] < positions
        for block in self.blocks:
            x = block(x, inside)
        x = self.norm(x)
        mean = (x * inside).sum(1) / positions[:, 0]
        # Not amax: compiled, its gradient compares values that were rounded with ones that were not, and divides by 0.
        highest = x.masked_fill(~inside, float("-inf")).max(1).values
        each = functional.gelu(self.frame(torch.cat((mean, highest), 1))).view(windows, 6, -1)
        return torch.cat((each.mean(1), each.max(1).values), 1)

    def forward(self, codons: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Logits of the class (n, 2) and of the group (n, groups)."""
        vectors = self.drop(self.vectors(codons, positions))
        hidden = self.drop(functional.relu(self.hidden_norm(self.hidden(vectors).float())))
        return self.classes(hidden), self.groups(hidden)


def encoder_tensors(network: CodonNetwork) -> dict[str, Tensor]:
    """The tensors of the encoder under the names of `virnucpro/models/codon.py`, fp32 on the CPU."""
    state = {key: value.detach().float().cpu() for key, value in network.state_dict().items()}
    stem = state["stem.weight"].view(network.size.channels, network.size.stem, EMBEDDING)
    found = {"stem.table": torch.einsum("cke,ve->kvc", stem, state["embed.weight"][:OUTSIDE])}
    found["stem.bias"] = state["stem.bias"]
    kept = ("blocks.", "norm.", "frame.")
    return found | {key: value for key, value in state.items() if key.startswith(kept)}


def classifier_tensors(network: CodonNetwork) -> dict[str, Tensor]:
    """The tensors of the classifier under the names of `virnucpro/models/classifier.py`, fp32 on the CPU."""
    state = {key: value.detach().float().cpu() for key, value in network.state_dict().items()}
    names = {"hidden.": "hidden.", "hidden_norm.": "norm.", "classes.": "output."}
    return {
        new + key.removeprefix(old): value
        for old, new in names.items()
        for key, value in state.items()
        if key.startswith(old) and not key.endswith("num_batches_tracked")
    }


def export(network: CodonNetwork, folder: Path, note: str) -> None:
    """Write encoder (float16) and classifier to `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    config = {"kind": "codon", **{key: value for key, value in asdict(network.size).items() if key != "hidden"}}
    (folder / "config.json").write_text(json.dumps({**config, "trained": True}, indent=2) + "\n", encoding="utf-8")
    tensors = {key: value.half().contiguous() for key, value in encoder_tensors(network).items()}
    save_file(tensors, folder / "model.safetensors", {"format": "pt", "trained": "true", "note": note})
    head = {key: value.contiguous() for key, value in classifier_tensors(network).items()}
    save_file(head, folder / "classifier.safetensors", {"format": "pt", "note": note})
