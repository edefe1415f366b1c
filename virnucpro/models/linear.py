"""A linear layer that a CPU runs through oneDNN with its weight laid out beforehand.

PyTorch's default product on a CPU packs the weight anew at every call and, in fp32 on some CPUs, makes no use of
AVX-512 (`benchmarks/embed.py` shows the difference). The prepacked oneDNN product is what PyTorch's own compiler emits
for a frozen model; it is called here directly. Rows come out the same wherever they lie in the buffer
(tests/test_identity.py).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


def prepacking_available(dtype: torch.dtype = torch.float32) -> bool:
    """Whether this build of PyTorch, on this CPU, offers the prepacked oneDNN product of numbers of `dtype`."""
    built_in = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    if not built_in or not hasattr(torch.ops.mkldnn, "_linear_pointwise"):
        return False
    # In BF16 oneDNN wants AVX-512 or better; without it, it does not fall back but fails.
    return dtype is not torch.bfloat16 or bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


class Linear(nn.Module):
    """y = x Wᵀ + b for x (rows, in); W is (out, in). Inference only."""

    def __init__(self, in_features: int, out_features: int, bias: bool = True) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(out_features, in_features), requires_grad=False)
        self.bias = nn.Parameter(torch.empty(out_features), requires_grad=False) if bias else None
        self._packed: Tensor | None = None

    def prepack(self, rows: int) -> None:
        """Lay the weight out for products of `rows` rows on this CPU; the plain weight is let go."""
        self._packed = torch.ops.mkldnn._reorder_linear_weight(self.weight.data, rows)
        self.weight = nn.Parameter(self.weight.data.new_empty(0), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        """(rows, in) → (rows, out)."""
        if self._packed is None:
            return nn.functional.linear(x, self.weight, self.bias)
        return torch.ops.mkldnn._linear_pointwise(x, self._packed, self.bias, "none", [], "")  # type: ignore[no-any-return]


def prepack(model: nn.Module, rows: int) -> bool:
    """Prepack every `Linear` of a CPU model for `rows` rows; False where this PyTorch or this CPU cannot."""
    layers = [module for module in model.modules() if isinstance(module, Linear)]
    if not all(prepacking_available(layer.weight.dtype) for layer in layers):
        return False
    for layer in layers:
        layer.prepack(rows)
    return True
