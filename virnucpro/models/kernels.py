"""Our own kernels for GPUs, in Triton; each has a twin in plain PyTorch, which runs on the CPU.

| here                | twin                        |
|---------------------|-----------------------------|
| `tiled_attention`   | `attention.packed_attention` |
| `normed`, `normed_sum` | `layers.Norm`            |
| `activated`         | `layers.gelu`, `layers.gated_gelu`; the error function to 6e-6 |
| `rotate_in_place`   | `esm2.rotate`               |
| `quantized`, `quantized_gelu`, `quantized_norm_of_sum` | those of `models/fp8.py` |

All arithmetic between a load and a store is fp32. A row or a sequence is computed by the same instructions whatever its
position and its neighbours (DESIGN rule 1): each row is its own program, tiles of attention are counted from the start
of their sequence, and the sizes below are fixed. Nothing is tuned at run time, since the choice could differ in another
process. Attention in one pass over the keys follows Dao et al. 2022 (FlashAttention) and Milakov and Gimelshein 2018.

With TRITON_INTERPRET=1 in the environment the same code runs slowly on a CPU, for tests.
"""

from __future__ import annotations

import math
from functools import lru_cache

import torch
import triton
import triton.language as tl
from torch import Tensor

#: Queries and keys of one tile of attention.
QUERIES, KEYS = 64, 64

#: Programs of attention on each multiprocessor; they share the tiles.
PROGRAMS_A_MULTIPROCESSOR = 4

#: Elements that one program of an elementwise kernel processes.
BLOCK = 1024

LOG2_E = math.log2(math.e)


@triton.jit
def _attention(
    q: tl.tensor,
    k: tl.tensor,
    v: tl.tensor,
    out: tl.tensor,
    tiles: tl.tensor,
    slopes: tl.tensor,
    stride: int,
    scale: float,
    HEADS: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    WIDTH: tl.constexpr,
    QUERIES: tl.constexpr,
    KEYS: tl.constexpr,
    ALIBI: tl.constexpr,
) -> None:
    """Tasks are (tile, head); scores are held as powers of two. See `attention.attention_tiles` for the list."""
    tasks = tl.load(tiles) * HEADS
    for task in range(tl.program_id(0), tasks, tl.num_programs(0)):
        tile = tiles + 4 * (task // HEADS + 1)
        head = task % HEADS
        start = tl.load(tile).to(tl.int64)
        length = tl.load(tile + 1)
        offset = tl.load(tile + 2)
        last = tl.load(tile + 3)

        row = offset + tl.arange(0, QUERIES)
        dim = tl.arange(0, WIDTH)
        column = head * HEAD_DIM + dim
        rows = (start + row)[:, None]
        inside = (row < last)[:, None] & (dim < HEAD_DIM)[None, :]
        queries = tl.load(q + rows * stride + column[None, :], mask=inside, other=0.0)
        slope = tl.load(slopes + head) if ALIBI else 0.0

        top = tl.full((QUERIES,), float("-inf"), tl.float32)
        total = tl.zeros((QUERIES,), tl.float32)
        mixed = tl.zeros((QUERIES, WIDTH), tl.float32)
        for first in range(0, length, KEYS):
            key = first + tl.arange(0, KEYS)
            there = (key < length)[:, None] & (dim < HEAD_DIM)[None, :]
            places = (start + key)[:, None] * stride + column[None, :]
            keys = tl.load(k + places, mask=there, other=0.0)
            scores = tl.dot(queries, tl.trans(keys), input_precision="ieee") * scale
            if ALIBI:
                scores -= slope * tl.abs(row[:, None] - key[None, :]).to(tl.float32)
            scores = tl.where((key < length)[None, :], scores, float("-inf"))
            higher = tl.maximum(top, tl.max(scores, 1))
            shares = tl.exp2(scores - higher[:, None])
            shrink = tl.exp2(top - higher)
            values = tl.load(v + places, mask=there, other=0.0)
            total = total * shrink + tl.sum(shares, 1)
            mixed = mixed * shrink[:, None] + tl.dot(shares.to(values.dtype), values, input_precision="ieee")
            top = higher

        # Inert rows have no keys: their total is zero, and so is the result.
        mixed = mixed / tl.where(total > 0, total, 1.0)[:, None]
        tl.store(out + rows * (HEADS * HEAD_DIM) + column[None, :], mixed.to(out.dtype.element_ty), mask=inside)


def tiled_attention(q: Tensor, k: Tensor, v: Tensor, tiles: Tensor, scale: float, slopes: Tensor | None) -> Tensor:
    """softmax(q kᵀ · scale + ALiBi) v over the tiles that `attention.attention_tiles` lists.

    q, k, v: (tokens, heads, head_dim), of one stride between tokens and dense within one; tiles: (any, 4) int32;
    slopes: (heads,) fp32 or None. Returns (tokens, heads * head_dim), rows of inert tokens zero.
    """
    tokens, heads, head_dim = q.shape
    out = torch.empty(tokens, heads * head_dim, dtype=q.dtype, device=q.device)
    _attention[(_programs(q.device),)](
        q, k, v, out, tiles,
        q if slopes is None else slopes * LOG2_E,
        q.stride(0), scale * LOG2_E, heads, head_dim, _power_of_two(head_dim), QUERIES, KEYS, slopes is not None,
        num_warps=4, num_stages=2,
    )  # fmt: skip
    return out


@lru_cache
def _programs(device: torch.device) -> int:
    if device.type != "cuda":
        return 2
    return torch.cuda.get_device_properties(device).multi_processor_count * PROGRAMS_A_MULTIPROCESSOR


def _power_of_two(size: int) -> int:
    """The width of a tile that holds `size`; matrix units want at least 16."""
    return max(16, int(triton.next_power_of_2(size)))


@triton.jit
def _norm(
    x: tl.tensor,
    added: tl.tensor,
    weight: tl.tensor,
    bias: tl.tensor,
    total: tl.tensor,
    out: tl.tensor,
    eps: float,
    DIM: tl.constexpr,
    WIDTH: tl.constexpr,
    ADD: tl.constexpr,
    KEEP: tl.constexpr,
    QUANTIZE: tl.constexpr,
    scales: tl.tensor,
) -> None:
    """One row a program; with QUANTIZE, `out` is in FP8 and gets a scale a row."""
    column = tl.arange(0, WIDTH)
    inside = column < DIM
    place = tl.program_id(0).to(tl.int64) * DIM + column
    value = tl.load(x + place, mask=inside, other=0.0).to(tl.float32)
    if ADD:
        value += tl.load(added + place, mask=inside, other=0.0).to(tl.float32)
    if KEEP:
        tl.store(total + place, value.to(total.dtype.element_ty), mask=inside)
    centred = tl.where(inside, value - tl.sum(value, 0) / DIM, 0.0)
    inverse = tl.rsqrt(tl.sum(centred * centred, 0) / DIM + eps)
    scaled = centred * inverse * tl.load(weight + column, mask=inside, other=0.0).to(tl.float32)
    shifted = scaled + tl.load(bias + column, mask=inside, other=0.0).to(tl.float32)
    if QUANTIZE:
        _store_quantized(tl.where(inside, shifted, 0.0), out + place, scales + tl.program_id(0), inside)
    else:
        tl.store(out + place, shifted.to(out.dtype.element_ty), mask=inside)


@triton.jit
def _store_quantized(value: tl.tensor, place: tl.tensor, scale_place: tl.tensor, inside: tl.tensor) -> None:
    """A row in FP8, and its scale; `value` is 0 outside."""
    scale = tl.maximum(tl.max(tl.abs(value), 0) / 448.0, 1e-12)
    tl.store(place, (value * (1.0 / scale)).to(tl.float8e4nv), mask=inside)
    tl.store(scale_place, scale)


def normed(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """LayerNorm of (tokens, dim)."""
    return _launch_norm(x, None, None, weight, bias, eps)


def normed_sum(x: Tensor, added: Tensor, weight: Tensor, bias: Tensor, eps: float, keep: bool) -> tuple[Tensor, Tensor]:
    """x + added, and its LayerNorm, both (tokens, dim). The sum is only written if `keep`: else x stands for it."""
    total = torch.empty_like(x) if keep else None
    out = _launch_norm(x, added, total, weight, bias, eps)
    return (x if total is None else total), out


def _launch_norm(
    x: Tensor, added: Tensor | None, total: Tensor | None, weight: Tensor, bias: Tensor, eps: float
) -> Tensor:
    tokens, dim = x.shape
    out = torch.empty_like(x)
    _norm[(tokens,)](
        x,
        x if added is None else added,
        weight,
        bias,
        out if total is None else total,
        out,
        eps,
        dim,
        _power_of_two(dim),
        added is not None,
        total is not None,
        False,
        out,
        num_warps=2,
    )
    return out


def quantized_norm_of_sum(
    x: Tensor, added: Tensor, weight: Tensor, bias: Tensor, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    """x + added (tokens, dim), and its LayerNorm in FP8 with (tokens, 1) fp32 scales."""
    total, (out, scales) = torch.empty_like(x), _empty_quantized(x, x.shape[1])
    tokens, dim = x.shape
    _norm[(tokens,)](
        x, added, weight, bias, total, out, eps, dim, _power_of_two(dim), True, True, True, scales, num_warps=2
    )
    return total, out, scales


def _empty_quantized(x: Tensor, width: int) -> tuple[Tensor, Tensor]:
    rows = len(x)
    return (
        torch.empty(rows, width, dtype=torch.float8_e4m3fn, device=x.device),
        torch.empty(rows, 1, dtype=torch.float32, device=x.device),
    )


@triton.jit
def _gelu_of(x: tl.tensor) -> tl.tensor:
    """x Φ(x), to 6e-6 of it down to -5.5: Φ(-|x|) is two to a polynomial. `tl.erf` takes longer than the memory."""
    size = tl.minimum(tl.abs(x), 5.6)
    power = -1.8098187410942046e-06 * size + 6.11762807238847e-05
    power = power * size - 0.0009277756907977164
    power = power * size + 0.008499199524521828
    power = power * size - 0.053946323692798615
    power = power * size - 0.45847442746162415
    power = power * size - 1.1512483358383179
    power = power * size - 0.9999954104423523
    return tl.maximum(x, 0.0) - tl.abs(x) * tl.exp2(power)


@triton.jit
def _quantize(
    x: tl.tensor, out: tl.tensor, scales: tl.tensor, WIDTH: tl.constexpr, BLOCK: tl.constexpr, GELU: tl.constexpr
) -> None:
    """One row a program, by way of GELU if so asked."""
    column = tl.arange(0, BLOCK)
    inside = column < WIDTH
    place = tl.program_id(0).to(tl.int64) * WIDTH + column
    value = tl.load(x + place, mask=inside, other=0.0).to(tl.float32)
    if GELU:
        value = _gelu_of(value)
    _store_quantized(value, out + place, scales + tl.program_id(0), inside)


def quantized(x: Tensor) -> tuple[Tensor, Tensor]:
    """(rows, width) → the same in FP8, and (rows, 1) fp32 scales."""
    return _launch_quantize(x, gelu=False)


def quantized_gelu(x: Tensor) -> tuple[Tensor, Tensor]:
    """(rows, width) → GELU (by erf) in FP8, and (rows, 1) fp32 scales."""
    return _launch_quantize(x, gelu=True)


def _launch_quantize(x: Tensor, gelu: bool) -> tuple[Tensor, Tensor]:
    rows, width = x.shape
    out, scales = _empty_quantized(x, width)
    block = _power_of_two(width)
    _quantize[(rows,)](x, out, scales, width, block, gelu, num_warps=8 if block > 2048 else 4)
    return out, scales


@triton.jit
def _gelu(x: tl.tensor, out: tl.tensor, WIDTH: tl.constexpr, GATED: tl.constexpr, BLOCK: tl.constexpr) -> None:
    """A block of a row a program."""
    row = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = column < WIDTH
    place = x + row * (2 * WIDTH if GATED else WIDTH) + column
    gate = tl.load(place, mask=inside, other=0.0).to(tl.float32)
    value = _gelu_of(gate)
    if GATED:
        value *= tl.load(place + WIDTH, mask=inside, other=0.0).to(tl.float32)
    tl.store(out + row * WIDTH + column, value.to(out.dtype.element_ty), mask=inside)


def activated(x: Tensor, gated: bool) -> Tensor:
    """GELU (by erf) of (tokens, width); if `gated`, GELU of the left half times the right half."""
    tokens, width = x.shape
    width = width // 2 if gated else width
    out = torch.empty(tokens, width, dtype=x.dtype, device=x.device)
    _gelu[(tokens, triton.cdiv(width, BLOCK))](x, out, width, gated, BLOCK, num_warps=4)
    return out


@triton.jit
def _rotate(
    qkv: tl.tensor,
    cos: tl.tensor,
    sin: tl.tensor,
    scale: float,
    DIM: tl.constexpr,
    HALF: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:
    """Programs are (token, queries or keys, block of its pairs)."""
    token = tl.program_id(0).to(tl.int64)
    part = tl.program_id(1)
    pair = tl.program_id(2) * BLOCK + tl.arange(0, BLOCK)
    inside = pair < DIM // 2
    angle = pair % HALF
    place = qkv + token * (3 * DIM) + part * DIM + pair // HALF * (2 * HALF) + angle
    factor = tl.where(part == 0, scale, 1.0)
    first = tl.load(place, mask=inside, other=0.0).to(tl.float32) * factor
    second = tl.load(place + HALF, mask=inside, other=0.0).to(tl.float32) * factor
    c = tl.load(cos + token * HALF + angle, mask=inside, other=0.0)
    s = tl.load(sin + token * HALF + angle, mask=inside, other=0.0)
    tl.store(place, (first * c - second * s).to(qkv.dtype.element_ty), mask=inside)
    tl.store(place + HALF, (second * c + first * s).to(qkv.dtype.element_ty), mask=inside)


def rotate_in_place(qkv: Tensor, cos: Tensor, sin: Tensor, scale: float) -> None:
    """Scale the queries and turn queries and keys, half-split, where they lie.

    qkv: (tokens, 3 * dim), dense; cos, sin: (tokens, 1, head_dim / 2) fp32.
    """
    tokens, half = len(qkv), cos.shape[-1]
    dim = qkv.shape[1] // 3
    grid = (tokens, 2, triton.cdiv(dim // 2, BLOCK))
    _rotate[grid](qkv, cos, sin, scale, dim, half, BLOCK, num_warps=4)
