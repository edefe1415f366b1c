"""The GPU kernels, checked in a process of their own; the list of attention's tiles."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import HANGS

from virnucpro.models import backend
from virnucpro.models.attention import PackedLayout, attention_tiles

CHECKS = Path(__file__).with_name("kernel_checks.py")


@pytest.mark.heavy
@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton is not installed")
def test_kernels() -> None:
    """All of `kernel_checks.py`, interpreted where there is no GPU."""
    env = os.environ | ({} if torch.cuda.is_available() else {"TRITON_INTERPRET": "1"})
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(CHECKS)]
    done = subprocess.run(command, capture_output=True, text=True, env=env, timeout=HANGS)
    assert done.returncode == 0, done.stdout


def test_a_cpu_runs_plain_pytorch() -> None:
    assert backend.kernels_for("cpu") is None
    assert PackedLayout.build([3, 4], 16, "cpu").tiles is None


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without CUDA")
def test_where_kernels_do_not_work_plain_pytorch_does_and_the_reason_is_known() -> None:
    assert backend.kernels_for("cuda") is None
    assert backend.why_no_kernels("cuda").startswith("Triton ")
    layout = PackedLayout.build([3, 4], 16, "cuda")
    assert layout.tiles is None
    assert layout.blocks


@pytest.mark.parametrize("lengths", [[], [1], [64], [65, 3, 200], [40] * 8, [512]])
def test_tiles_cover_every_row_once(lengths: list[int]) -> None:
    size, queries = 512, 64
    counts = np.array(lengths, dtype=np.int64)
    starts = np.cumsum(counts) - counts
    found = attention_tiles(starts, counts, size, queries)
    tiles = found[1:].tolist()
    assert found[0].tolist() == [len(tiles), 0, 0, 0]
    covered = sorted(row for start, _, begin, end in tiles for row in range(start + begin, start + end))
    assert covered == list(range(size))
    assert all(0 < end - begin <= queries and begin % queries == 0 for _, _, begin, end in tiles)
    real = {(int(start), int(length)) for start, length in zip(starts, counts, strict=True)}
    assert {(start, length) for start, length, _, _ in tiles if length} == real
    assert [length for _, length, _, _ in tiles] == sorted((tile[1] for tile in tiles), reverse=True)
