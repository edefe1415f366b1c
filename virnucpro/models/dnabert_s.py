"""DNABERT-S and its family (DNABERT-2, small networks of the same layout) over packed tokens.

Source: Zhou et al. 2024, "DNABERT-S" (arXiv:2402.08777) and "DNABERT-2" (ICLR 2024). A BERT encoder, post-norm, with
ALiBi instead of position embeddings and a GELU-gated feed-forward part. Written from the published numbers; no remote
code is run.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import torch
from msgspec import Meta
from torch import Tensor, nn

from virnucpro.core.words import counted
from virnucpro.errors import ModelError
from virnucpro.models.attention import PackedLayout, alibi_slopes, packed_attention
from virnucpro.models.layers import Norm, gated_gelu
from virnucpro.models.linear import Linear
from virnucpro.models.weights import CPU, check_keys, filled, read_config, read_weights

#: Parts of published checkpoints that the embedding does not use.
UNUSED_PREFIXES = ("cls.", "pooler.")

_LAYER = re.compile(r"encoder\.layer\.(\d+)\.")

#: Sizes of tensors, which are compared with the weights later.
Size = Annotated[int, Meta(gt=0, le=1 << 24)]


@dataclass(frozen=True)
class DNABERTConfig:
    """The numbers of a network of this family, as its `config.json` names them."""

    vocab_size: Size = 4096
    type_vocab_size: Size = 2
    hidden_size: Size = 768
    num_hidden_layers: Size = 12
    num_attention_heads: Size = 12
    intermediate_size: Size = 3072
    layer_norm_eps: Annotated[float, Meta(gt=0, le=1e-2)] = 1e-12

    def __post_init__(self) -> None:
        if self.hidden_size % self.num_attention_heads:
            raise ValueError(f"a hidden_size of {self.hidden_size} for {self.num_attention_heads} heads makes no sense")


class Attention(nn.Module):
    """Self-attention with ALiBi, its output projection, residual and norm."""

    def __init__(self, config: DNABERTConfig) -> None:
        super().__init__()
        dim = config.hidden_size
        self.heads = config.num_attention_heads
        self.qkv = Linear(dim, 3 * dim)
        self.dense = Linear(dim, dim)
        self.norm = Norm(dim, config.layer_norm_eps)

    def forward(self, x: Tensor, layout: PackedLayout, slopes: Tensor) -> Tensor:
        """(tokens, dim) → (tokens, dim)."""
        tokens, dim = x.shape
        head_dim = dim // self.heads
        q, k, v = self.qkv(x).view(tokens, 3, self.heads, head_dim).unbind(1)
        context = packed_attention(q, k, v, layout, head_dim**-0.5, slopes)
        return self.norm.of_sum(x, self.dense(context))


class GatedMLP(nn.Module):
    """wo(gelu(a) * b) with a, b the halves of one product; residual and norm."""

    def __init__(self, config: DNABERTConfig) -> None:
        super().__init__()
        self.gated_layers = Linear(config.hidden_size, 2 * config.intermediate_size, bias=False)
        self.wo = Linear(config.intermediate_size, config.hidden_size)
        self.norm = Norm(config.hidden_size, config.layer_norm_eps)

    def forward(self, x: Tensor) -> Tensor:
        """(tokens, dim) → (tokens, dim)."""
        return self.norm.of_sum(x, self.wo(gated_gelu(self.gated_layers(x))))


class DNABERT(nn.Module):
    """The encoder: token ids of a packed buffer → hidden states of its last layer."""

    def __init__(self, config: DNABERTConfig) -> None:
        super().__init__()
        self.config = config
        self.word = nn.Parameter(torch.empty(config.vocab_size, config.hidden_size), requires_grad=False)
        self.kind = nn.Parameter(torch.empty(config.type_vocab_size, config.hidden_size), requires_grad=False)
        self.norm = Norm(config.hidden_size, config.layer_norm_eps)
        self.attention = nn.ModuleList(Attention(config) for _ in range(config.num_hidden_layers))
        self.mlp = nn.ModuleList(GatedMLP(config) for _ in range(config.num_hidden_layers))
        # Held as bits: `.to(torch.bfloat16)` would round a float buffer, and half of the slopes are no powers of two.
        self.slope_bits: Tensor
        slopes = alibi_slopes(config.num_attention_heads)
        self.register_buffer("slope_bits", slopes.view(torch.int32), persistent=False)

    @property
    def dim(self) -> int:
        """Width of an embedding."""
        return self.config.hidden_size

    @property
    def slopes(self) -> Tensor:
        """(heads,) fp32 slopes of ALiBi."""
        return self.slope_bits.view(torch.float32)

    @torch.no_grad()
    def forward(self, tokens: Tensor, layout: PackedLayout) -> Tensor:
        """tokens (layout.size,) int64 → (layout.size, dim) hidden states."""
        x = self.norm(self.word[tokens] + self.kind[0])
        slopes = self.slopes
        for attention, mlp in zip(self.attention, self.mlp, strict=True):
            x = mlp(attention(x, layout, slopes))
        return x  # type: ignore[no-any-return]


def _published_key(name: str) -> str:
    """The key of a published checkpoint that holds our parameter `name`."""
    parts = name.split(".")
    if parts[0] in ("word", "kind", "norm"):
        table = {"word": "word_embeddings.weight", "kind": "token_type_embeddings.weight"}
        return "embeddings." + table.get(parts[0], f"LayerNorm.{parts[-1]}")
    layer, rest = parts[1], ".".join(parts[2:])
    if parts[0] == "mlp":
        return f"encoder.layer.{layer}.mlp.{rest.replace('norm.', 'layernorm.')}"
    inside = {"qkv": "self.Wqkv", "dense": "output.dense", "norm": "output.LayerNorm"}[parts[2]]
    return f"encoder.layer.{layer}.attention.{inside}.{parts[3]}"


def load_dnabert(weights: Path, config: Path | None, device: torch.device = CPU) -> DNABERT:
    """Build the network of `config` (a config.json) with `weights`, fp32, on `device`.

    Accepts DNABERT-S's keys and DNABERT-2's (with `bert.` in front, and with a language-model head).
    Raises ModelError for tensors that are missing, unknown, or of another shape, and without a config.
    """
    numbers = read_config(DNABERTConfig, config, weights, "DNABERT-2 or DNABERT-S")
    found = {key.removeprefix("bert."): value for key, value in read_weights(weights).items()}
    found = {key: value for key, value in found.items() if not key.startswith(UNUSED_PREFIXES)}
    layers = {match[1] for key in found if (match := _LAYER.match(key))}
    if numbers.num_hidden_layers > len(layers):  # checked first, since making many layers takes long
        held = counted(len(layers), "layers")
        raise ModelError(f"{weights} holds {held}, but {config} says {numbers.num_hidden_layers}")
    with torch.device("meta"):
        model = DNABERT(numbers)
    wanted = {name: _published_key(name) for name, _ in model.named_parameters()}
    check_keys(weights, set(wanted.values()), set(found), "DNABERT")
    return filled(model, {name: found[key].to(device, copy=True).float() for name, key in wanted.items()}, weights)
