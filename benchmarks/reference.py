"""DNABERT-S as published, in plain PyTorch: the yardstick of the benchmarks, independent of the engine's own network.

One padded batch at a time, attention over all of its width with a mask. Run it under `torch.autocast` for BF16.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file
from torch import Tensor
from torch.nn.functional import gelu, layer_norm, linear

from virnucpro.models.dnabert_s import DNABERTConfig
from virnucpro.models.local import CONFIG, WEIGHTS
from virnucpro.models.weights import read_config

Ids = NDArray[np.int64]


class Reference:
    """The network of a model folder on one device, fp32."""

    def __init__(self, folder: Path, device: torch.device) -> None:
        self.config = read_config(DNABERTConfig, folder / CONFIG, folder, "DNABERT-2 or DNABERT-S")
        # Parameters that ask for gradients, as a module's do by default: autocast keeps only their BF16 copies.
        self.weights = {key: value.to(device).requires_grad_() for key, value in load_file(folder / WEIGHTS[0]).items()}
        self.device = device
        self.alibi = torch.zeros(0)

    @torch.no_grad()
    def embed(self, batch: Sequence[Ids]) -> NDArray[np.float32]:
        """(n, dim) means over all tokens of each sequence; sequences of one length need no mask."""
        lengths = [len(ids) for ids in batch]
        width = max(lengths)
        tokens = torch.zeros(len(batch), width, dtype=torch.int64)
        for row, ids in enumerate(batch):
            tokens[row, : len(ids)] = torch.from_numpy(ids)
        real = (torch.arange(width) < torch.tensor(lengths)[:, None]).to(self.device)
        hidden = self._encode(tokens.to(self.device), None if min(lengths) == width else real)
        sums = (hidden.float() * real[:, :, None]).sum(1)
        means: NDArray[np.float32] = (sums / real.sum(1, keepdim=True)).cpu().numpy()
        return means

    def _encode(self, tokens: Tensor, real: Tensor | None) -> Tensor:
        """tokens, real (n, width) → (n, width, dim)."""
        w = self.weights
        x = w["embeddings.word_embeddings.weight"][tokens] + w["embeddings.token_type_embeddings.weight"][0]
        x = self._norm(x, "embeddings.LayerNorm")
        bias = self._alibi(tokens.shape[1])
        if real is not None:
            bias = bias.masked_fill(~real[:, None, None, :], float("-inf"))
        for layer in range(self.config.num_hidden_layers):
            x = self._mlp(self._attention(x, bias, f"encoder.layer.{layer}.attention"), f"encoder.layer.{layer}.mlp")
        return x

    def _attention(self, x: Tensor, bias: Tensor, name: str) -> Tensor:
        n, width, dim = x.shape
        heads = self.config.num_attention_heads
        qkv = self._linear(x, f"{name}.self.Wqkv").view(n, width, 3, heads, dim // heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        scores = q @ k.transpose(-1, -2) / math.sqrt(dim // heads) + bias
        context = (scores.softmax(-1) @ v).transpose(1, 2).reshape(n, width, dim)
        return self._norm(self._linear(context, f"{name}.output.dense") + x, f"{name}.output.LayerNorm")

    def _mlp(self, x: Tensor, name: str) -> Tensor:
        gate, value = linear(x, self.weights[f"{name}.gated_layers.weight"]).chunk(2, -1)
        return self._norm(self._linear(gelu(gate) * value, f"{name}.wo") + x, f"{name}.layernorm")

    def _linear(self, x: Tensor, name: str) -> Tensor:
        return linear(x, self.weights[f"{name}.weight"], self.weights[f"{name}.bias"])

    def _norm(self, x: Tensor, name: str) -> Tensor:
        weight, bias = self.weights[f"{name}.weight"], self.weights[f"{name}.bias"]
        return layer_norm(x.float(), weight.shape, weight, bias, self.config.layer_norm_eps)

    def _alibi(self, width: int) -> Tensor:
        """(heads, width, width) -slope · |i - j|; made once for the widest batch, as published."""
        if self.alibi.shape[-1] < width:
            position = torch.arange(width, device=self.device)
            distance = (position[:, None] - position[None, :]).abs()
            slopes = torch.tensor(_slopes(self.config.num_attention_heads), device=self.device)
            self.alibi = -slopes[:, None, None] * distance
        return self.alibi[:, :width, :width]


def _slopes(heads: int) -> list[float]:
    """2^-1 … 2^-8 for 8 heads; for 12, four more from between the steps of 16."""
    if math.log2(heads).is_integer():
        return [2 ** (-8 * (i + 1) / heads) for i in range(heads)]
    fewer = 2 ** int(math.log2(heads))
    return _slopes(fewer) + _slopes(2 * fewer)[0::2][: heads - fewer]


def padded_batches(ids: Sequence[Ids], budget: int) -> Iterator[Sequence[Ids]]:
    """Sequences in their order, in batches of at most `budget` tokens, padding included."""
    first, width = 0, 0
    for i, item in enumerate(ids):
        wider = max(width, len(item))
        if i > first and (i - first + 1) * wider > budget:
            yield ids[first:i]
            first, wider = i, len(item)
        width = wider
    yield ids[first:]
