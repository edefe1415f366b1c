"""Layers that the encoders share; each runs as a kernel of `models/kernels.py` if `kernels_for` says so."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from virnucpro.models.backend import kernels_for


class Norm(nn.Module):
    """LayerNorm computed in fp32 whatever the dtype of its input."""

    def __init__(self, dim: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(dim), requires_grad=False)
        self.bias = nn.Parameter(torch.empty(dim), requires_grad=False)
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """(tokens, dim) → (tokens, dim), same dtype."""
        if kernels := kernels_for(x.device.type):
            return kernels.normed(x, self.weight, self.bias, self.eps)  # type: ignore[no-any-return]
        dim = (x.shape[-1],)
        return functional.layer_norm(x.float(), dim, self.weight.float(), self.bias.float(), self.eps).to(x.dtype)

    def of_sum(self, x: Tensor, added: Tensor) -> Tensor:
        """The norm of x + added, both (tokens, dim)."""
        if kernels := kernels_for(x.device.type):
            return kernels.normed_sum(x, added, self.weight, self.bias, self.eps, keep=False)[1]  # type: ignore[no-any-return]
        return self.forward(x + added)

    def with_sum(self, x: Tensor, added: Tensor) -> tuple[Tensor, Tensor]:
        """x + added, and the norm of that, all (tokens, dim)."""
        if kernels := kernels_for(x.device.type):
            return kernels.normed_sum(x, added, self.weight, self.bias, self.eps, keep=True)  # type: ignore[no-any-return]
        x = x + added
        return x, self.forward(x)


def gelu(x: Tensor) -> Tensor:
    """GELU by the error function of (tokens, width)."""
    if kernels := kernels_for(x.device.type):
        return kernels.activated(x, gated=False)  # type: ignore[no-any-return]
    return functional.gelu(x)


def gated_gelu(x: Tensor) -> Tensor:
    """(tokens, 2 * width) → (tokens, width): GELU of the left half times the right half."""
    if kernels := kernels_for(x.device.type):
        return kernels.activated(x, gated=True)  # type: ignore[no-any-return]
    gate, value = x.chunk(2, dim=-1)
    return functional.gelu(gate).mul_(value)
