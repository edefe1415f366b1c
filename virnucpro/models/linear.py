"""A linear layer, and a convolution over rows, which a CPU computes by oneDNN with a prepacked weight.

PyTorch's default product on a CPU packs the weight again at every call and, in fp32 on some CPUs, does not use AVX-512
(`benchmarks/embed.py` shows the difference). PyTorch's own compiler uses the prepacked oneDNN product for a frozen
model; it is called directly here, with the GELU or the sum after it in the same pass. Rows have the same result
wherever they are in the buffer (tests/test_identity.py).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from virnucpro.models.layers import gelu

#: Rows that a `Convolution` reads for each row: this many before it, the row itself, and this many after it.
REACH = 2
TAPS = 2 * REACH + 1


#: The products of oneDNN that PyTorch's compiler uses; not every build has them.
_PRODUCTS = ("_linear_pointwise", "_convolution_pointwise")


def prepacking_available(dtype: torch.dtype = torch.float32) -> bool:
    """Whether this build of PyTorch, on this CPU, offers the prepacked oneDNN product of numbers of `dtype`."""
    built_in = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    if not built_in or not all(hasattr(torch.ops.mkldnn, name) for name in _PRODUCTS):
        return False
    # In BF16 oneDNN needs AVX-512 or better; otherwise it fails instead of falling back.
    return dtype is not torch.bfloat16 or bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


class Linear(nn.Module):
    """y = x Wᵀ + b for x (rows, in); W is (out, in). Inference only."""

    def __init__(self, in_features: int, out_features: int, bias: bool = True) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(out_features, in_features), requires_grad=False)
        self.bias = nn.Parameter(torch.empty(out_features), requires_grad=False) if bias else None
        self._packed: Tensor | None = None

    def prepack(self, rows: int) -> None:
        """Prepack the weight for products of `rows` rows on this CPU; the plain weight is freed."""
        self._packed = torch.ops.mkldnn._reorder_linear_weight(self.weight.data, rows)
        self.weight = nn.Parameter(self.weight.data.new_empty(0), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        """(rows, in) → (rows, out)."""
        if self._packed is None:
            return functional.linear(x, self.weight, self.bias)
        return torch.ops.mkldnn._linear_pointwise(x, self._packed, self.bias, "none", [], "")  # type: ignore[no-any-return]

    def activated(self, x: Tensor) -> Tensor:
        """(rows, in) → (rows, out): GELU, by the error function, of the product."""
        if self._packed is None:
            return gelu(self.forward(x))
        return torch.ops.mkldnn._linear_pointwise(x, self._packed, self.bias, "gelu", [], "none")  # type: ignore[no-any-return]

    def added_to(self, total: Tensor, x: Tensor) -> Tensor:
        """(rows, out), (rows, in) → (rows, out): the sum of `total` and the product."""
        if self._packed is None:
            return total + self.forward(x)
        return torch.ops.mkldnn._linear_pointwise.binary(x, total, self._packed, self.bias, "add")  # type: ignore[no-any-return]


class Convolution(nn.Module):
    """y[i] = GELU(W [x[i-2], …, x[i+2]] + b) for x (rows, in); what lies beyond the first and last row is zero.

    W is (out, TAPS * in), the columns of the first tap first. Inference only.
    """

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(out_features, TAPS * in_features), requires_grad=False)
        self.bias = nn.Parameter(torch.empty(out_features), requires_grad=False)
        self._packed: Tensor | None = None

    def prepack(self, rows: int) -> None:
        """As `Linear.prepack`."""
        taps = self.weight.data.view(len(self.weight), TAPS, -1).transpose(1, 2).unsqueeze(2).contiguous()
        shape = (1, taps.shape[1], 1, rows)
        self._packed = torch.ops.mkldnn._reorder_convolution_weight(taps, *_PLACING, 1, shape)
        self.weight = nn.Parameter(self.weight.data.new_empty(0), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        """(rows, in) → (rows, out)."""
        if self._packed is None:
            return gelu(functional.linear(_with_neighbours(x), self.weight, self.bias))
        # For oneDNN an image of one line, channels last: nothing is gathered or copied.
        image = x.t()[None, :, None]
        y = torch.ops.mkldnn._convolution_pointwise(image, self._packed, self.bias, *_PLACING, 1, "gelu", [], "none")
        return y[0, :, 0].t()  # type: ignore[no-any-return]


#: Padding, stride and dilation of a convolution over the rows of an image of one line.
_PLACING = ((0, REACH), (1, 1), (1, 1))


def _with_neighbours(x: Tensor) -> Tensor:
    """(rows, in) → (rows, TAPS * in): each row between those before and after it."""
    padded = functional.pad(x, (0, 0, REACH, REACH))
    return padded.unfold(0, TAPS, 1).transpose(1, 2).flatten(1)


def prepack(model: nn.Module, rows: int) -> bool:
    """Prepack every layer of a CPU model for `rows` rows; False if this PyTorch or this CPU cannot."""
    layers = [module for module in model.modules() if isinstance(module, Linear | Convolution)]
    if not all(prepacking_available(layer.weight.dtype) for layer in layers):
        return False
    for layer in layers:
        layer.prepack(rows)
    return True
