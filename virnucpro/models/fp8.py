"""Matrix products in FP8 (E4M3: 4 bits of exponent, 3 of fraction) with a scale for each row.

A row of the activations is divided by its largest number over 448, the largest number of E4M3, and so is each row of a
weight, once. The product is multiplied by the scales: the result for a row is a function of that row (DESIGN rule 1).
Only products are in FP8; they are summed in fp32 and give BF16, and everything else is as in BF16. Micikevicius et al.
2022 (arXiv:2209.05433) for the format.

GPUs of compute capability 8.9 or higher multiply it. Elsewhere the same arithmetic runs slowly in fp32, for tests.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from virnucpro.models.backend import kernels_for
from virnucpro.models.layers import Norm
from virnucpro.models.linear import Linear

FP8 = torch.float8_e4m3fn
#: The largest number of E4M3, and the smallest scale, which is that of a row of zeros.
LARGEST, SMALLEST_SCALE = 448.0, 1e-12


class Quantized(NamedTuple):
    """(rows, width) numbers in FP8, and (rows, 1) fp32 scales by which they are to be multiplied."""

    values: Tensor
    scales: Tensor

    def float(self) -> Tensor:
        """(rows, width) fp32."""
        return self.values.float() * self.scales


def quantized(x: Tensor) -> Quantized:
    """(rows, width) numbers, each row by its own scale."""
    if kernels := kernels_for(x.device.type):
        return Quantized(*kernels.quantized(x))
    return _quantized(x.float())


def _quantized(x: Tensor) -> Quantized:
    scales = (x.abs().amax(1, keepdim=True) / LARGEST).clamp(min=SMALLEST_SCALE)
    return Quantized((x * (1 / scales)).to(FP8), scales)


def quantized_gelu(x: Tensor) -> Quantized:
    """GELU by the error function of (rows, width), from its fp32 values."""
    if kernels := kernels_for(x.device.type):
        return Quantized(*kernels.quantized_gelu(x))
    return _quantized(functional.gelu(x.float()))


def quantized_norm_of_sum(norm: Norm, x: Tensor, added: Tensor) -> tuple[Tensor, Quantized]:
    """x + added, and the norm of that from its fp32 values."""
    if kernels := kernels_for(x.device.type):
        total, *found = kernels.quantized_norm_of_sum(x, added, norm.weight, norm.bias, norm.eps)
        return total, Quantized(*found)
    x = x + added
    normed = functional.layer_norm(x.float(), (x.shape[-1],), norm.weight.float(), norm.bias.float(), norm.eps)
    return x, _quantized(normed)


class QuantizedLinear(nn.Module):
    """y = x Wᵀ + b with x and W in FP8; made of a `Linear`, whose weight it takes over. Inference only."""

    def __init__(self, linear: Linear) -> None:
        super().__init__()
        weight = quantized(linear.weight.data)
        linear.weight = nn.Parameter(linear.weight.data.new_empty(0), requires_grad=False)
        self.weight = nn.Parameter(weight.values, requires_grad=False)
        self.scales = nn.Parameter(weight.scales, requires_grad=False)
        self.bias = linear.bias

    def forward(self, x: Quantized) -> Tensor:
        """(rows, in) → (rows, out) in BF16."""
        if x.values.device.type == "cuda":
            return torch._scaled_mm(
                x.values,
                self.weight.t(),
                scale_a=x.scales,
                scale_b=self.scales.t(),
                bias=self.bias,
                out_dtype=torch.bfloat16,
                use_fast_accum=True,
            )
        weight = self.weight.float() * self.scales
        bias = None if self.bias is None else self.bias.float()
        return functional.linear(x.float(), weight, bias).to(torch.bfloat16)
