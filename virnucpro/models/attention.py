"""Attention over packed sequences: no sequence sees another one, and none depends on its neighbours.

A packed buffer holds the tokens of many sequences back to back. `PackedLayout` says which rows belong to which
sequence and sorts the sequences into groups of one padded width. The width is a function of a sequence's own length,
and every group is computed as blocks of one fixed shape (`slots` x `width`), so a sequence is computed by the same
kernels with the same shapes whatever its neighbours are: its result has the same bits in any batch (DESIGN rule 1).

That is plain PyTorch, for a CPU and for a GPU without Triton. They differ only in the size of a block: it fits the
cache of a CPU, and fills the multiprocessors of a GPU. With Triton a GPU instead runs one kernel of our own over a list
of tiles (`models/kernels.py`), without padding.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from virnucpro.models.backend import kernels_for

#: Tokens in one attention block, by device type.
BLOCK_TOKENS = {"cpu": 1024, "cuda": 8192}

#: Rows of the score matrix computed at a time: bounds memory for long sequences.
QUERY_ROWS = 512


def padded_width(length: int) -> int:
    """The width at which a sequence of `length` tokens is computed; it depends on nothing else."""
    step = 32 if length <= 256 else 128 if length <= 1024 else 512
    return math.ceil(length / step) * step


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """Copy a CPU tensor to `device`: for a GPU by pinned memory, which PyTorch keeps and reuses."""
    if device.type == "cpu":
        return tensor
    return tensor.pin_memory().to(device, non_blocking=True)


@dataclass(frozen=True)
class AttentionBlock:
    """Some sequences of one padded width, in a block of a fixed number of slots.

    gather:  (slots, width) rows of the packed buffer; padding reads row 0.
    scatter: (slots * width,) rows to write; padding writes the spare row behind the buffer.
    padding: (slots, 1, 1, width) True where a key is padding.
    """

    gather: Tensor
    scatter: Tensor
    padding: Tensor

    def to(self, device: torch.device) -> AttentionBlock:
        """The same block on `device`."""
        return AttentionBlock(*(to_device(t, device) for t in (self.gather, self.scatter, self.padding)))


@dataclass(frozen=True)
class PackedLayout:
    """Where each sequence lies in a packed buffer of `size` tokens.

    lengths: (n,) tokens of each sequence; they lie back to back from row 0, inert tokens fill the tail.
    positions: (size,) place of each token in its sequence, from 0; 0 for inert tokens.
    blocks: attention's work for plain PyTorch.
    tiles: attention's work for the kernel, see `attention_tiles`; None if plain PyTorch computes it.
    """

    size: int
    lengths: Tensor
    positions: Tensor
    blocks: tuple[AttentionBlock, ...]
    tiles: Tensor | None = None

    @classmethod
    def build(cls, lengths: Sequence[int], size: int, device_type: str) -> PackedLayout:
        """Lay out sequences of `lengths` tokens in a buffer of `size`, for attention as `device_type` computes it."""
        counts = np.array(lengths, dtype=np.int64)
        starts = np.cumsum(counts) - counts
        positions = np.zeros(size, dtype=np.int64)
        used = int(counts.sum())
        positions[:used] = np.arange(used) - np.repeat(starts, counts)
        blocks: tuple[AttentionBlock, ...] = ()
        tiles = None
        if kernels := kernels_for(device_type):
            tiles = torch.from_numpy(attention_tiles(starts, counts, size, kernels.QUERIES))
        else:
            blocks = _blocks(starts, counts, size, BLOCK_TOKENS[device_type])
        return cls(size, torch.from_numpy(counts), torch.from_numpy(positions), blocks, tiles)

    def to(self, device: torch.device) -> PackedLayout:
        """The same layout on `device`; copies to a GPU are queued there without waiting for them."""
        if device.type == "cpu":
            return self
        return PackedLayout(
            self.size,
            to_device(self.lengths, device),
            to_device(self.positions, device),
            tuple(block.to(device) for block in self.blocks),
            None if self.tiles is None else to_device(self.tiles, device),
        )

    @property
    def used(self) -> int:
        """Tokens that belong to sequences (reads the lengths: call it on the CPU copy)."""
        return int(self.lengths.sum())


def attention_tiles(
    starts: NDArray[np.int64], lengths: NDArray[np.int64], size: int, queries: int
) -> NDArray[np.int32]:
    """(1 + tiles, 4) the kernel's work: the number of tiles, then one tile per row; at most `size` of them.

    A tile is `queries` rows of one sequence: the sequence's first row in the buffer, its length, and where in it the
    tile begins and ends. Tiles of long sequences, which take longest, come first. Inert rows are tiles of a sequence
    of no tokens.
    """
    used = int(lengths.sum())
    starts, keys, rows = np.append(starts, used), np.append(lengths, 0), np.append(lengths, size - used)
    longest_first = np.argsort(-keys, kind="stable")
    tiles = -(-rows[longest_first] // queries)
    owner = np.repeat(longest_first, tiles)
    begins = (np.arange(len(owner)) - np.repeat(np.cumsum(tiles) - tiles, tiles)) * queries
    ends = np.minimum(begins + queries, rows[owner])
    found = np.zeros((1 + len(owner), 4), dtype=np.int32)
    found[0, 0] = len(owner)
    found[1:] = np.stack((starts[owner], keys[owner], begins, ends), axis=1)
    return found


def _blocks(
    starts: NDArray[np.int64], lengths: NDArray[np.int64], size: int, block_tokens: int
) -> tuple[AttentionBlock, ...]:
    groups: dict[int, list[tuple[int, int]]] = {}
    for start, length in zip(starts.tolist(), lengths.tolist(), strict=True):
        groups.setdefault(padded_width(length), []).append((start, length))
    blocks = []
    for width, members in sorted(groups.items()):
        slots = max(1, block_tokens // width)
        for first in range(0, len(members), slots):
            blocks.append(_block(members[first : first + slots], width, slots, size))
    return tuple(blocks)


def _block(members: list[tuple[int, int]], width: int, slots: int, size: int) -> AttentionBlock:
    starts, lengths = np.zeros(slots, dtype=np.int64), np.zeros(slots, dtype=np.int64)
    starts[: len(members)], lengths[: len(members)] = zip(*members, strict=True)
    column = np.arange(width)
    real = column < lengths[:, None]
    rows = starts[:, None] + column
    # An empty slot keeps one key, so that its softmax is not 0/0.
    padding = ~(column < np.maximum(lengths, 1)[:, None])
    return AttentionBlock(
        torch.from_numpy(np.where(real, rows, 0)),
        torch.from_numpy(np.where(real, rows, size).ravel()),
        torch.from_numpy(padding[:, None, None, :]),
    )


def alibi_slopes(heads: int) -> Tensor:
    """(heads,) slopes of ALiBi (Press et al. 2022): powers of two; extra heads take every other one in between."""
    power = 2 ** math.floor(math.log2(heads))
    slopes = [2.0 ** (-8 * (i + 1) / power) for i in range(power)]
    between = [2.0 ** (-8 * (i + 1) / (2 * power)) for i in range(0, 2 * power, 2)]
    return torch.tensor(slopes + between[: heads - power], dtype=torch.float32, device="cpu")  # never "meta"


@lru_cache(maxsize=64)
def _distances(first: int, rows: int, width: int, device: torch.device) -> Tensor:
    """(rows, width) fp32 -|i - j| for query i and key j; kept, since every layer and batch uses the same."""
    i = torch.arange(first, first + rows, device=device, dtype=torch.float32)
    j = torch.arange(width, device=device, dtype=torch.float32)
    return -(i[:, None] - j[None, :]).abs()


def packed_attention(
    q: Tensor, k: Tensor, v: Tensor, layout: PackedLayout, scale: float, slopes: Tensor | None = None
) -> Tensor:
    """softmax(q kᵀ · scale + ALiBi) v, each sequence by itself.

    q, k, v: (tokens, heads, head_dim); slopes: (heads,) for ALiBi or None. Scores and softmax are fp32.
    Returns (tokens, heads * head_dim); rows of inert tokens are zero.
    """
    if layout.tiles is not None:
        kernels = kernels_for(q.device.type)
        assert kernels is not None, "the layout was built for another device"
        return kernels.tiled_attention(q, k, v, layout.tiles, scale, slopes)  # type: ignore[no-any-return]
    tokens, heads, head_dim = q.shape
    # Padding writes to one spare row, so that no shape depends on how full a block is.
    out = q.new_zeros(tokens + 1, heads * head_dim)
    for block in layout.blocks:
        slots, width = block.gather.shape
        qb, kb, vb = (x[block.gather].transpose(1, 2) for x in (q, k, v))  # (slots, heads, width, head_dim)
        result = torch.cat(
            [
                _attend(qb[:, :, row : row + QUERY_ROWS], kb, vb, block.padding, scale, slopes, row)
                for row in range(0, width, QUERY_ROWS)
            ],
            dim=2,
        )
        out.index_copy_(0, block.scatter, result.transpose(1, 2).reshape(slots * width, heads * head_dim))
    return out[:tokens]


def _attend(
    q: Tensor, k: Tensor, v: Tensor, padding: Tensor, scale: float, slopes: Tensor | None, first_row: int
) -> Tensor:
    # PyTorch's fused attention is about twice as fast on a CPU. It takes a bias in the dtype of q, and ALiBi's would
    # be rounded in BF16.
    if q.device.type == "cpu" and (slopes is None or q.dtype == torch.float32):
        bias = torch.zeros(padding.shape, dtype=q.dtype).masked_fill_(padding, float("-inf"))
        if slopes is not None:
            bias = bias + slopes.view(-1, 1, 1) * _distances(first_row, q.shape[2], k.shape[2], q.device)
        return scaled_dot_product_attention(q, k, v, attn_mask=bias.expand(*q.shape[:3], k.shape[2]), scale=scale)
    scores = torch.matmul(q, k.transpose(-1, -2)).float()
    if scale != 1:
        scores.mul_(scale)
    if slopes is not None:
        distance = _distances(first_row, q.shape[2], k.shape[2], q.device)
        scores.add_(slopes.view(-1, 1, 1) * distance)
    scores.masked_fill_(padding, float("-inf"))
    return torch.matmul(scores.softmax(dim=-1).to(v.dtype), v)


def segment_mean(hidden: Tensor, lengths: Tensor, used: int) -> Tensor:
    """(n, dim) fp32 mean over each sequence's rows of `hidden` (tokens, dim), summed in row order.

    `used` is the sum of `lengths`, given as a number to avoid waiting for a GPU.
    """
    return torch.segment_reduce(hidden[:used].float(), "mean", lengths=lengths, axis=0, unsafe=True)
