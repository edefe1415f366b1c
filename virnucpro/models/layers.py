"""Layers that the encoders share."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import layer_norm


class Norm(nn.Module):
    """LayerNorm computed in fp32 whatever the dtype of its input."""

    def __init__(self, dim: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(dim), requires_grad=False)
        self.bias = nn.Parameter(torch.empty(dim), requires_grad=False)
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """(tokens, dim) → (tokens, dim), same dtype."""
        dim = (x.shape[-1],)
        return layer_norm(x.float(), dim, self.weight.float(), self.bias.float(), self.eps).to(x.dtype)
