"""The Triton kernels against float64 and against their twins; `test_kernels.py` runs this file in a process of its own.

They run on a GPU if there is one, else under Triton's interpreter, which must be enabled before Triton is imported.
"""

from __future__ import annotations

import itertools
import random

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from virnucpro.models import kernels
from virnucpro.models.attention import PackedLayout, alibi_slopes, packed_attention, segment_mean
from virnucpro.models.backend import kernels_for
from virnucpro.models.codon import CodonConfig, CodonNetwork, CodonTokenizer
from virnucpro.models.dnabert_s import DNABERT, DNABERTConfig
from virnucpro.models.esm2 import ESM2, ESM2Config, rotate

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")

#: The largest allowed relative error of a result in each dtype: one or two roundings.
TOLERANCE = {torch.float32: 2e-6, torch.bfloat16: 6e-3, torch.float16: 8e-4}

# The interpreter multiplies the bits of BF16 as if they were integers.
DTYPES = [dtype for dtype in TOLERANCE if DEVICE.type == "cuda" or dtype != torch.bfloat16]

dtypes = pytest.mark.parametrize("dtype", DTYPES, ids=str)


def rand(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(DEVICE, dtype)


def error(found: Tensor, wanted: Tensor) -> float:
    """‖found - wanted‖ / ‖wanted‖ in float64; NaN is below no bound."""
    difference = found.double() - wanted.double()
    return float(difference.norm() / wanted.double().norm())


def lay_out(lengths: list[int], size: int) -> PackedLayout:
    return PackedLayout.build(lengths, size, DEVICE.type).to(DEVICE)


def slow_attention(q: Tensor, k: Tensor, v: Tensor, lengths: list[int], scale: float, slopes: Tensor | None) -> Tensor:
    """(used, heads * head_dim) in float64, one sequence and head at a time."""
    rows = []
    for first, length in zip(itertools.accumulate([0, *lengths[:-1]]), lengths, strict=True):
        part = slice(first, first + length)
        scores = torch.einsum("ihd,jhd->hij", q[part].double(), k[part].double()) * scale
        if slopes is not None:
            place = torch.arange(length, device=DEVICE)
            scores -= slopes.double()[:, None, None] * (place[:, None] - place[None, :]).abs()
        rows.append(torch.einsum("hij,jhd->ihd", scores.softmax(-1), v[part].double()).flatten(1))
    return torch.cat(rows)


def test_the_kernels_are_what_runs_here() -> None:
    assert kernels_for(DEVICE.type) is kernels


@dtypes
@pytest.mark.parametrize("alibi", [True, False])
@pytest.mark.parametrize("head_dim", [16, 24, 64])
def test_attention_is_right(dtype: torch.dtype, alibi: bool, head_dim: int) -> None:
    lengths, size, heads = [1, 5, 64, 65, 130], 320, 3
    # The halves of one product, as in the networks, so that rows are not contiguous.
    q, k, v = rand(size, 3, heads, head_dim, dtype=dtype).unbind(1)
    slopes = alibi_slopes(heads).to(DEVICE) if alibi else None
    found = packed_attention(q, k, v, lay_out(lengths, size), head_dim**-0.5, slopes)
    used = sum(lengths)
    assert error(found[:used], slow_attention(q, k, v, lengths, head_dim**-0.5, slopes)) < TOLERANCE[dtype]
    assert not found[used:].any()


@dtypes
def test_attention_of_a_sequence_knows_no_others(dtype: torch.dtype) -> None:
    """Equal bits behind other sequences, at the end of a full buffer, among NaNs, and in a larger buffer."""
    heads, head_dim, length = 2, 16, 100
    own = rand(length, 3, heads, head_dim, dtype=dtype)
    slopes = alibi_slopes(heads).to(DEVICE)

    def attend(lengths: list[int], size: int, before: int) -> Tensor:
        buffer = torch.full((size, 3, heads, head_dim), torch.nan, device=DEVICE, dtype=dtype)
        buffer[before : before + length] = own
        out = packed_attention(*buffer.unbind(1), lay_out(lengths, size), head_dim**-0.5, slopes)
        return out[before : before + length]

    alone = attend([length], 128, 0)
    assert alone.isfinite().all()
    assert torch.equal(attend([28, length], 128, 28), alone)
    assert torch.equal(attend([1, 70, length, 3], 256, 71), alone)


def test_an_empty_buffer_comes_out_as_zeros() -> None:
    q, k, v = rand(64, 3, 2, 16).unbind(1)
    assert not packed_attention(q, k, v, lay_out([], 64), 1.0).any()


@pytest.mark.skipif(DEVICE.type == "cpu", reason="Triton's interpreter loses a carry as it rounds to FP8")
@pytest.mark.parametrize("dim", [64, 320, 2560, 10240])
def test_rows_in_fp8_are_those_of_plain_pytorch(dim: int) -> None:
    x, added = rand(5, dim, dtype=torch.bfloat16) * 3 + 1, rand(5, dim, dtype=torch.bfloat16, seed=1)
    weight, bias = rand(dim, dtype=torch.bfloat16, seed=2), rand(dim, dtype=torch.bfloat16, seed=3)
    total, *normed = kernels.quantized_norm_of_sum(x, added, weight, bias, 1e-5)
    assert torch.equal(total, x + added)
    sums = x.float() + added.float()
    for found, exact in (
        (kernels.quantized(x), x.float()),
        (kernels.quantized_gelu(x), functional.gelu(x.float())),
        (normed, functional.layer_norm(sums, (dim,), weight.float(), bias.float(), 1e-5)),
    ):
        values, scales = found
        assert torch.allclose(scales[:, 0], exact.abs().amax(1) / 448, rtol=1e-5)
        assert ((values.float() * scales - exact).abs() <= exact.abs() * 2**-4 + scales * 2**-9).all()


@dtypes
@pytest.mark.parametrize("dim", [64, 320, 768])
def test_norms_are_right(dtype: torch.dtype, dim: int) -> None:
    x, added = rand(5, dim, dtype=dtype) * 3 + 1, rand(5, dim, dtype=dtype, seed=1)
    weight, bias = rand(dim, dtype=dtype, seed=2), rand(dim, dtype=dtype, seed=3)

    def exact(value: Tensor) -> Tensor:
        return functional.layer_norm(value.double(), (dim,), weight.double(), bias.double(), 1e-5)

    total, normed = kernels.normed_sum(x, added, weight, bias, 1e-5, keep=True)
    assert error(kernels.normed(x, weight, bias, 1e-5), exact(x)) < TOLERANCE[dtype]
    assert error(normed, exact(x.double() + added.double())) < TOLERANCE[dtype]
    assert torch.equal(total, x + added)
    assert torch.equal(kernels.normed_sum(x, added, weight, bias, 1e-5, keep=False)[1], normed)


@dtypes
@pytest.mark.parametrize("width", [128, 1100])
def test_activations_are_right(dtype: torch.dtype, width: int) -> None:
    x = rand(3, 2 * width, dtype=dtype) * 2
    gate, value = x.double().chunk(2, dim=1)
    assert error(kernels.activated(x, gated=False), functional.gelu(x.double())) < TOLERANCE[dtype]
    assert error(kernels.activated(x, gated=True), functional.gelu(gate) * value) < TOLERANCE[dtype]


@dtypes
@pytest.mark.parametrize("head_dim", [16, 24, 64])
def test_rotation_is_right(dtype: torch.dtype, head_dim: int) -> None:
    tokens, heads = 4, 5
    qkv = rand(tokens, 3 * heads * head_dim, dtype=dtype)
    angles = rand(tokens, 1, head_dim // 2)
    q, k, v = (part.reshape(tokens, heads, head_dim) for part in qkv.clone().chunk(3, dim=1))
    kernels.rotate_in_place(qkv, angles.cos(), angles.sin(), 0.25)
    cos, sin = angles.double().cos(), angles.double().sin()
    for found, wanted in zip(
        qkv.chunk(3, dim=1), (rotate(q.double() / 4, cos, sin), rotate(k, cos, sin), v), strict=True
    ):
        assert error(found, wanted.flatten(1)) < TOLERANCE[dtype]
    assert torch.equal(qkv.chunk(3, dim=1)[2], v.flatten(1))


def random_network(network: torch.nn.Module) -> torch.nn.Module:
    for number, parameter in enumerate(network.parameters()):
        values = 0.2 * rand(*parameter.shape, seed=number)
        parameter.data = values + 1 if values.dim() == 1 else values
    return network.to(DEVICE).eval()


NETWORKS = {
    "dnabert": lambda: DNABERT(DNABERTConfig(64, 2, 48, 2, 3, 96)),
    "esm2": lambda: ESM2(ESM2Config(33, 48, 2, 2, 96), 10000.0 ** -(torch.arange(12) / 12)),
}


@pytest.mark.parametrize("kind", NETWORKS)
def test_networks_agree_with_plain_pytorch(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    network = random_network(NETWORKS[kind]())
    lengths, size = [3, 17, 70], 128
    tokens = torch.randint(4, 33, (size,), generator=torch.Generator().manual_seed(0)).to(DEVICE)
    found = network(tokens, lay_out(lengths, size))
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    plain = network.cpu()(tokens.cpu(), PackedLayout.build(lengths, size, "cpu"))
    means = [segment_mean(hidden.cpu(), torch.tensor(lengths), sum(lengths)) for hidden in (found, plain)]
    assert error(means[0], means[1]) < 1e-5


@pytest.mark.skipif(DEVICE.type == "cpu", reason="products in FP8 and the GELU in a product are a GPU's")
@pytest.mark.parametrize("quantize", [False, True])
def test_esm2_in_16_bits_keeps_its_bits_in_other_company(quantize: bool) -> None:
    """And is near the plain network in fp32."""
    network = random_network(ESM2(ESM2Config(33, 128, 2, 2, 256), 10000.0 ** -(torch.arange(32) / 32)))
    rows = [torch.randint(4, 24, (length,), device=DEVICE) for length in (70, 3, 128, 22)]

    def means(order: list[int], size: int) -> list[Tensor]:
        lengths = [len(rows[i]) for i in order]
        tokens = torch.ones(size, dtype=torch.int64, device=DEVICE)
        tokens[: sum(lengths)] = torch.cat([rows[i] for i in order])
        hidden = network(tokens, lay_out(lengths, size))
        return list(segment_mean(hidden, torch.tensor(lengths, device=DEVICE), sum(lengths)))

    exact = means([0, 1, 2, 3], 256)
    network.to(torch.bfloat16)
    if quantize:
        network.quantize()
    found = means([0, 1, 2, 3], 256)
    for order in ([3, 2, 1, 0], [2], [1, 0]):
        assert all(torch.equal(mean, found[i]) for i, mean in zip(order, means(order, 256), strict=True))
    assert all(torch.cosine_similarity(a, b, 0) > 0.9 for a, b in zip(found, exact, strict=True))


def vectors(network: CodonNetwork, sequences: list[str], size: int) -> Tensor:
    """Of windows that share a buffer, on the network's device."""
    device = network.members[0].bias.device
    ids = CodonTokenizer(network.config.stride).encode(sequences)
    lengths = [len(each) for each in ids]
    tokens = torch.full((size,), CodonTokenizer.pad_id)
    tokens[: sum(lengths)] = torch.cat([torch.from_numpy(each) for each in ids])
    tokens, layout = tokens.to(device), PackedLayout.build(lengths, size, device.type).to(device)
    return network.pool(network(tokens, layout), tokens, layout.lengths, sum(lengths))


@pytest.mark.parametrize("stride", [2, 3])
def test_the_codon_network_agrees_with_plain_pytorch_in_any_company(
    stride: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = random_network(CodonNetwork(CodonConfig(48, 1, stride, members=2)))
    for member in network.members:
        member.table.data.view(network.config.stem, -1, 48)[:, -1] = 0  # positions outside of the frame add nothing
    rng = random.Random(0)
    sequences = ["".join(rng.choices("ACGTN", (9, 9, 9, 9, 1), k=length)) for length in (8, 40, 77, 9)]
    found = vectors(network, sequences, 512)
    assert torch.equal(vectors(network, [*sequences[2:], "ACGTACGT", *sequences[:2]], 512)[[3, 4, 0, 1]], found)
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    assert error(found.cpu(), vectors(network.cpu(), sequences, 512)) < 1e-5
