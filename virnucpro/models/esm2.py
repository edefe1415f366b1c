"""ESM-2 of every size over packed tokens.

Source: Lin et al. 2023, "Evolutionary-scale prediction of atomic-level protein structure with a language model"
(Science 379:1123). A pre-norm encoder with rotary positions (Su et al. 2021). Written from the published numbers.

The numbers of a network are read off its weights, in fair-esm's key layout or Hugging Face's; no config is needed.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn

from virnucpro.core.threads import in_order
from virnucpro.errors import ModelError
from virnucpro.models.attention import PackedLayout, packed_attention, segment_mean
from virnucpro.models.backend import kernels_for
from virnucpro.models.fp8 import QuantizedLinear, quantized, quantized_gelu, quantized_norm_of_sum
from virnucpro.models.layers import Norm, gelu
from virnucpro.models.linear import Linear
from virnucpro.models.protein_tokenizer import ALPHABET
from virnucpro.models.weights import CPU, check_finite, check_keys, filled, read_weights

EPS = 1e-5

#: Training masked 12 % of the tokens on average; without masked tokens, embeddings are scaled to be alike.
TOKEN_SCALE = 0.88

#: The largest number of residues that the published embedding averages.
POOLED_RESIDUES = 1024

#: Width of the published networks → their heads; used only if the weights have no `inv_freq`.
PUBLISHED_HEADS = {320: 20, 480: 20, 640: 20, 1280: 20, 2560: 40}

#: Tensors that are read at a time: mapping a file in memory page by page keeps one thread busy for seconds.
READING_THREADS = 4

#: Prefixes of the names in both layouts.
_PREFIX = re.compile(r"^(esm\.)?(encoder\.)?(sentence_encoder\.)?")

#: Hugging Face's names inside a layer → fair-esm's.
_FROM_HUGGING_FACE = {
    "attention.self.query": "self_attn.q_proj",
    "attention.self.key": "self_attn.k_proj",
    "attention.self.value": "self_attn.v_proj",
    "attention.output.dense": "self_attn.out_proj",
    "attention.LayerNorm": "self_attn_layer_norm",
    "intermediate.dense": "fc1",
    "output.dense": "fc2",
    "LayerNorm": "final_layer_norm",
}

#: Parts of published checkpoints that the embedding does not use.
_UNUSED = re.compile(r"^(lm_head|contact_head|pooler)\b|^embeddings\.position_(embeddings|ids)\b")

#: Rotation frequencies: one tensor per layer, or in newer Hugging Face files a single one.
_INV_FREQ = re.compile(r"\b(rot_emb|rotary_embeddings)\.inv_freq$")


@dataclass(frozen=True)
class ESM2Config:
    """The numbers of a network of this family."""

    vocab_size: int
    dim: int
    layers: int
    heads: int
    intermediate: int

    @property
    def head_dim(self) -> int:
        """Width of one attention head."""
        return self.dim // self.heads


#: Cosines and sines, each (tokens, 1, head_dim / 2) fp32.
Angles = tuple[Tensor, Tensor]


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary positions, half-split: x (tokens, heads, head_dim) turned by (tokens, 1, head_dim / 2) angles."""
    first, second = x.chunk(2, dim=-1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)


class Layer(nn.Module):
    """One encoder layer: self-attention, then the feed-forward part, each on a normed copy that is added back."""

    def __init__(self, config: ESM2Config) -> None:
        super().__init__()
        dim = config.dim
        self.heads, self.head_dim = config.heads, config.head_dim
        self.self_attn_layer_norm = Norm(dim, EPS)
        self.qkv = Linear(dim, 3 * dim)
        self.out_proj = Linear(dim, dim)
        self.final_layer_norm = Norm(dim, EPS)
        self.fc1 = Linear(dim, config.intermediate)
        self.fc2 = Linear(config.intermediate, dim)

    def forward(self, x: Tensor, due: Tensor, layout: PackedLayout, angles: Angles) -> tuple[Tensor, Tensor]:
        """The residual stream x (tokens, dim) and what is due to be added to it → the same, one layer on.

        The sum waits for the norm behind it, which reads it anyway.
        """
        x, normed = self.self_attn_layer_norm.with_sum(x, due)
        x, normed = self.final_layer_norm.with_sum(x, self.out_proj(self._attend(self.qkv(normed), layout, angles)))
        return x, self.fc2(gelu(self.fc1(normed)))

    def _attend(self, qkv: Tensor, layout: PackedLayout, angles: Angles) -> Tensor:
        # Scaled before the rotation, as published; rotated in fp32.
        scale = self.head_dim**-0.5
        q, k, v = qkv.view(len(qkv), 3, self.heads, self.head_dim).unbind(1)
        if kernels := kernels_for(qkv.device.type):
            kernels.rotate_in_place(qkv, *angles, scale)
        else:
            q = rotate(q.float() * scale, *angles).to(v.dtype)
            k = rotate(k.float(), *angles).to(v.dtype)
        return packed_attention(q, k, v, layout, scale=1.0)


class QuantizedLayer(Layer):
    """A layer whose products are in FP8; made of a `Layer`, whose weights it takes over."""

    def __init__(self, layer: Layer) -> None:
        nn.Module.__init__(self)
        self.heads, self.head_dim = layer.heads, layer.head_dim
        self.self_attn_layer_norm, self.final_layer_norm = layer.self_attn_layer_norm, layer.final_layer_norm
        for name in ("qkv", "out_proj", "fc1", "fc2"):
            self.add_module(name, QuantizedLinear(layer.get_submodule(name)))  # type: ignore[arg-type]

    def forward(self, x: Tensor, due: Tensor, layout: PackedLayout, angles: Angles) -> tuple[Tensor, Tensor]:
        """As `Layer`."""
        x, normed = quantized_norm_of_sum(self.self_attn_layer_norm, x, due)
        mixed = quantized(self._attend(self.qkv(normed), layout, angles))
        x, normed = quantized_norm_of_sum(self.final_layer_norm, x, self.out_proj(mixed))
        return x, self.fc2(quantized_gelu(self.fc1(normed)))


class ESM2(nn.Module):
    """The encoder: token ids of a packed buffer → representations, the last norm included."""

    def __init__(self, config: ESM2Config, inv_freq: Tensor) -> None:
        super().__init__()
        self.config = config
        self.embed_tokens = nn.Parameter(torch.empty(config.vocab_size, config.dim), requires_grad=False)
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.layers))
        self.emb_layer_norm_after = Norm(config.dim, EPS)
        # Held as bits: `.to(torch.bfloat16)` would round a float buffer, and angles grow with the position.
        self.inv_freq_bits: Tensor
        self.register_buffer("inv_freq_bits", inv_freq.to(torch.float32, copy=True).view(torch.int32), persistent=False)

    def quantize(self) -> None:
        """Turn the products of all layers into FP8 ones; the network must be in BF16."""
        for place, layer in enumerate(cast("Iterable[Layer]", self.layers)):
            self.layers[place] = QuantizedLayer(layer)

    @property
    def dim(self) -> int:
        """Width of an embedding."""
        return self.config.dim

    @property
    def inv_freq(self) -> Tensor:
        """(head_dim / 2,) fp32 angles that one position adds."""
        return self.inv_freq_bits.view(torch.float32)

    @torch.no_grad()
    def forward(self, tokens: Tensor, layout: PackedLayout) -> Tensor:
        """tokens (layout.size,) int64 → (layout.size, dim) representations."""
        x = self.embed_tokens[tokens] * TOKEN_SCALE
        due, angles = torch.zeros_like(x), self._angles(layout.positions)
        for layer in self.layers:
            x, due = layer(x, due, layout, angles)
        return self.emb_layer_norm_after.of_sum(x, due)

    def _angles(self, positions: Tensor) -> Angles:
        """(tokens,) positions → cosines and sines (tokens, 1, head_dim / 2), fp32."""
        # In fp64, so that the last bit of an fp32 cosine cannot depend on where in the buffer it is computed.
        angles = (positions.float()[:, None, None] * self.inv_freq).double()
        return angles.cos().float(), angles.sin().float()


def protein_mean(hidden: Tensor, lengths: Tensor, used: int) -> Tensor:
    """(n, dim) fp32 mean over the first min(1024, residues) residues of each protein, summed in row order.

    hidden: (tokens, dim); lengths: (n,) tokens of each protein, `<cls>` and `<eos>` included; used: their sum, given
    as a number so that a GPU is not waited for.

    The network sees the whole protein, and only the mean stops at residue 1024, as in the published tool, which cuts
    the representation and not the input.
    """
    pooled = (lengths - 2).clamp(max=POOLED_RESIDUES)
    # Each protein has three segments: <cls>, the residues that are averaged, and the rest with <eos>.
    segments = torch.stack((torch.ones_like(pooled), pooled, lengths - 1 - pooled), dim=1).flatten()
    return segment_mean(hidden, segments, used)[1::3]


def load_esm2(weights: Path, dtype: torch.dtype = torch.float32, device: torch.device = CPU) -> ESM2:
    """Build the network that `weights` hold, on `device` in `dtype`; 3B takes 11 GB in fp32 and half in BF16.

    Accepts fair-esm's keys and Hugging Face's, with any of their prefixes, and heads that the embedding does not use.
    Raises ModelError for tensors that are missing, unknown, or of shapes that do not fit each other.
    """
    found = {_fair_key(key): value for key, value in read_weights(weights).items()}
    found = {key: value for key, value in found.items() if not _UNUSED.match(key)}
    frequencies = [found.pop(key) for key in sorted(found) if _INV_FREQ.search(key)]
    config, inv_freq = _infer(weights, found, frequencies)
    with torch.device("meta"):
        model = ESM2(config, inv_freq)
    wanted = {name: _published_keys(name) for name, _ in model.named_parameters()}
    check_keys(weights, {key for keys in wanted.values() for key in keys}, set(found), "ESM-2")
    _check_shapes(weights, model, wanted, found)
    # Taken out of `found` one by one, so that a large network is not held twice, and converted on the device.
    each = in_order(
        lambda keys: torch.cat([found.pop(key).to(device).to(dtype) for key in keys]), wanted.values(), READING_THREADS
    )
    check_finite(weights, {"inv_freq": inv_freq})
    return filled(model, dict(zip(wanted, each, strict=True)), weights)


def _check_shapes(weights: Path, model: ESM2, wanted: Mapping[str, Sequence[str]], found: Mapping[str, Tensor]) -> None:
    """Raise ModelError for tensors of unfit shapes, before any is converted.

    By hand, since PyTorch imports its compiler, which takes seconds, to join tensors on the device `meta`.
    """
    for name, keys in wanted.items():
        rows, *rest = model.get_parameter(name).shape
        shape = (rows // len(keys), *rest)
        for key in keys:
            if tuple(found[key].shape) != shape:
                what = f"{key} is {tuple(found[key].shape)}, but the others need {shape}"
                raise ModelError(f"the tensors in {weights} do not fit each other: {what}")


def _fair_key(key: str) -> str:
    """fair-esm's name, without prefix, of a tensor in either layout."""
    key = _PREFIX.sub("", key)
    if key == "embeddings.word_embeddings.weight":
        return "embed_tokens.weight"
    match = re.fullmatch(r"layer\.(\d+)\.(.+)\.(\w+)", key)
    if match is None:
        return key
    layer, name, kind = match.groups()
    # Some versions of transformers save a LayerNorm under the names it had in TensorFlow.
    kind = {"gamma": "weight", "beta": "bias"}.get(kind, kind)
    return f"layers.{layer}.{_FROM_HUGGING_FACE.get(name, name)}.{kind}"


def _published_keys(name: str) -> tuple[str, ...]:
    """fair-esm's tensors that, one below the other, make our parameter `name`."""
    if name == "embed_tokens":
        return ("embed_tokens.weight",)
    match = re.fullmatch(r"(layers\.\d+)\.(qkv|out_proj)\.(weight|bias)", name)
    if match is None:
        return (name,)
    layer, part, kind = match.groups()
    parts = ("q_proj", "k_proj", "v_proj") if part == "qkv" else (part,)
    return tuple(f"{layer}.self_attn.{each}.{kind}" for each in parts)


def _infer(path: Path, found: Mapping[str, Tensor], frequencies: list[Tensor]) -> tuple[ESM2Config, Tensor]:
    """The numbers of the network and its rotation frequencies."""
    layers = {match[1] for key in found if (match := re.match(r"layers\.(\d+)\.", key))}
    embedding, fc1 = found.get("embed_tokens.weight"), found.get("layers.0.fc1.weight")
    if embedding is None or embedding.ndim != 2 or fc1 is None or fc1.ndim != 2:
        raise ModelError(f"{path} holds no ESM-2 network", hint="use weights from fair-esm or Hugging Face")
    vocabulary, dim = embedding.shape
    if vocabulary < len(ALPHABET) or not dim:
        raise ModelError(f"{path} knows {vocabulary} tokens, not the {len(ALPHABET)} of ESM-2")
    inv_freq = _one_inv_freq(path, frequencies) if frequencies else _published_inv_freq(path, dim)
    head_dim = 2 * len(inv_freq)
    if head_dim == 0 or dim % head_dim:
        raise ModelError(f"{path} has heads of {head_dim}, which do not divide its width of {dim}")
    return ESM2Config(vocabulary, dim, len(layers), dim // head_dim, fc1.shape[0]), inv_freq


def _one_inv_freq(path: Path, frequencies: list[Tensor]) -> Tensor:
    """The frequencies that all layers share. They are rounded to fp16 in the published files: never recompute them."""
    first = frequencies[0].float().flatten()
    if any(not torch.equal(first, other.float().flatten()) for other in frequencies):
        raise ModelError(f"the layers of {path} differ in their inv_freq", hint="this is not a published ESM-2 network")
    return first


def _published_inv_freq(path: Path, dim: int) -> Tensor:
    """What the published network of this width carries, for a copy that lost it."""
    if dim not in PUBLISHED_HEADS:
        raise ModelError(
            f"{path} has no inv_freq, and without it the number of heads of a network {dim} wide is not known",
            hint=f"save it with its buffers; published widths are {', '.join(map(str, PUBLISHED_HEADS))}",
        )
    head_dim = dim // PUBLISHED_HEADS[dim]
    exact = 10000.0 ** (-torch.arange(0, head_dim, 2, dtype=torch.float64) / head_dim)
    return exact.half().float()
