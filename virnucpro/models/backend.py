"""Which code computes on a device: our Triton kernels on a GPU if Triton works, else plain PyTorch.

The answer is found once per process by running a kernel, so that every batch of every run is computed by the same code.
"""

from __future__ import annotations

import importlib.util
import os
from functools import lru_cache
from types import ModuleType

import torch

from virnucpro.core.caches import settle_caches


def kernels_for(device_type: str) -> ModuleType | None:
    """The module `models.kernels` if it computes tensors on `device_type`, else None.

    A CPU runs plain PyTorch, unless Triton's interpreter is requested (TRITON_INTERPRET=1, for tests).
    """
    if device_type != "cuda" and os.environ.get("TRITON_INTERPRET") != "1":
        return None
    return _working_kernels(device_type)[0]


def why_no_kernels(device_type: str) -> str:
    """Why `kernels_for` returns None on a GPU; empty if it does not."""
    return _working_kernels(device_type)[1]


@lru_cache
def _working_kernels(device_type: str) -> tuple[ModuleType | None, str]:
    if importlib.util.find_spec("triton") is None:
        return None, "Triton is not installed"
    settle_caches()
    try:
        from virnucpro.models import kernels

        one = torch.ones(1, 16, device=device_type)
        kernels.normed(one, one[0], one[0], 1e-5)
    except Exception as error:  # no C compiler, no driver, a GPU too old, no place for its cache: all kinds of errors
        return None, f"Triton does not work here: {error}"
    return kernels, ""
