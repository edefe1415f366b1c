"""Every benchmark runs, and its JSON file holds what README.md says; times are not judged here."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import HANGS

pytestmark = pytest.mark.heavy

ROOT = Path(__file__).parent.parent


@pytest.fixture(autouse=True)
def _importable(monkeypatch: pytest.MonkeyPatch) -> None:
    """The benchmarks are not part of the installed package."""
    monkeypatch.syspath_prepend(ROOT)


def run(name: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", f"benchmarks.{name}", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=HANGS, cwd=ROOT)


def quick(name: str, tmp_path: Path, *arguments: object) -> dict[str, list[dict[str, Any]]]:
    """The results of a quick run."""
    from benchmarks.common import format_table

    path = tmp_path / "found.json"
    done = run(name, "--quick", "--json", path, *arguments)
    assert done.returncode == 0, done.stderr
    found = json.loads(path.read_text())
    assert found["benchmark"] == name
    assert {"cpu", "cores", "torch", "virnucpro", "load"} <= found["environment"].keys()
    assert found["settings"]["quick"] is True
    for rows in found["results"].values():
        assert format_table(rows) in done.stdout
    return found["results"]


def test_embed_compares_the_ways(tmp_path: Path) -> None:
    rows = {row["way"]: row for row in quick("embed", tmp_path)["ways"]}
    assert list(rows) == ["published", "plan fp32", "plan bf16", "engine fp32", "engine auto"]
    assert all(row["sequences/s"] > 0 and row["tokens/s"] > 0 for row in rows.values())
    assert rows["published"]["times published"] == 1
    # The reference is written independently of the engine; they agree up to rounding.
    assert rows["engine fp32"]["largest difference"] < 1e-5
    assert rows["plan fp32"]["largest difference"] < 1e-5
    assert all(row["smallest cosine"] > 0.9999 for row in rows.values())


def test_codon_times_batches(tmp_path: Path) -> None:
    (row,) = quick("codon", tmp_path)["batches"]
    assert (row["tokens"], row["windows"]) == (2304, 2)
    assert row["ms a window"] >= row["fastest tenth"] > 0


def test_scaling_measures_workers_and_devices(tmp_path: Path) -> None:
    found = quick("scaling", tmp_path)
    assert [row["workers"] for row in found["cpu_workers"]] == [1, 2, 2]
    assert all(row["speed-up"] > 0 for row in found["cpu_workers"])
    devices = found["simulated_devices"]
    assert [row["devices"] for row in devices] == ["1", "2", "2, one slow"]
    assert all(row["seconds"] > 0 and row["busy max/mean"] >= 1 for row in devices)


def test_gpu_on_a_cpu_finds_no_differing_bits(tmp_path: Path) -> None:
    found = quick("gpu", tmp_path, "--device", "cpu", "--probe")
    assert {row["dtype"] for row in found["matrix_peak"]} == {"bf16", "fp32"}
    for table in ("forward_bf16", "forward_fp32", "forward_esm2", "parts", "stages"):
        assert found[table]
    ways = {row["way"].partition(":")[0].partition(",")[0] for row in found["end_to_end"]}
    assert ways == {"engine bf16", "engine fp32", "ESM-2 bf16", "plan", "published"}
    assert {row["change"][:3] for row in found["bits"]} == {"not", "(a)", "(b)", "(c)", "(d)", "(e)"}
    assert all(row["differing"] == 0 for row in found["bits"] + found["esm_bits"] + found["probe"])
    assert [float(row["smallest cosine"]) > 0.9999 for row in found["accuracy"]] == [True] * 3


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without CUDA")
def test_gpu_without_cuda_says_so() -> None:
    done = run("gpu", "--quick")
    assert done.returncode == 5
    assert done.stderr.startswith("error: this machine has no CUDA device")


def test_sizes_add_up() -> None:
    from benchmarks.common import even_sizes
    from benchmarks.scaling import unequal_sizes

    assert even_sizes(10, 4) == [2, 3, 2, 3]
    sizes = unequal_sizes(24_000, 20, 2500)
    assert sum(sizes) == 24_000
    assert min(sizes) == 20
    assert max(sizes) <= 2500


def test_padded_batches_keep_order_and_budget() -> None:
    from benchmarks.reference import padded_batches

    ids = [np.zeros(n, dtype=np.int64) for n in (5, 9, 2, 30, 1, 1)]
    batches = [[len(item) for item in batch] for batch in padded_batches(ids, 20)]
    assert batches == [[5, 9], [2], [30], [1, 1]]


def test_predict_tells_the_stages_apart(tmp_path: Path) -> None:
    found = quick("predict", tmp_path, "--options", "--device cpu --model mini-1")
    (cutting,) = found["cutting"]
    (whole,) = found["runs"]
    assert cutting["frames"] == whole["frames"] > 0
    stages = {row["stage"]: row for row in found["stages_0.05"]}
    assert stages.keys() >= {"splitting", "scoring", "calling", "starting and ending"}
    parts = [row["seconds"] for name, row in stages.items() if name != "all but the encoders"]
    assert sum(parts) == pytest.approx(whole["seconds"], rel=1e-3)


def test_tokenizer_compares_two_ways(tmp_path: Path) -> None:
    pytest.importorskip("numba", reason="Numba is not installed")
    rows = quick("tokenizer", tmp_path)["tokenizer"]
    assert [row["sequences"] for row in rows] == ["random", "repetitive", "a tenth N"]
    assert all(row["differing"] == 0 and row["ours"] > 0 and row["tokenizers"] > 0 for row in rows)


def test_multi_gpu_on_a_cpu_ends_in_the_same_bytes_even_with_a_worker_killed(tmp_path: Path) -> None:
    rows = quick(
        "multi_gpu", tmp_path, "--device", "cpu", "--gpus", 1, 2,
        "--sequences", 60, "--proteins", 30, "--dna-tokens", 512, "--protein-tokens", 512,
    )["multi_gpu"]  # fmt: skip
    for network, number in (("DNABERT-S", 60), ("ESM-2", 30)):
        found = [row for row in rows if row["network"] == network]
        assert [row["GPUs"].partition(" killed")[0][:1] for row in found] == ["1", "2", "2"]
        assert "killed" in found[-1]["GPUs"]
        assert {row["sequences"] for row in found} == {number}
        assert len({row["sha256"] for row in found}) == 1


def test_esm_ways_compares_with_transformers(tmp_path: Path) -> None:
    pytest.importorskip("transformers", reason="transformers is not installed")
    found = quick("esm_ways", tmp_path)
    assert {row["lengths"] for row in found["ways"]} == {"166 residues", "20 to 166", "30 to 800"}
    assert {str(row["way"]).partition(",")[0] for row in found["ways"]} == {"virnucpro", "transformers"}
    assert all(row["tokens/s"] > 0 for row in found["ways"])
    (cost,) = found["cost"]
    assert (cost["dtype"], cost["differing in other company"]) == ("bf16", 0)


def test_esm_profile_times_the_pass_and_its_products(tmp_path: Path) -> None:
    found = quick("esm_profile", tmp_path)
    assert all(row["tokens/s"] > 0 for row in found["passes"])
    assert {row["product"] for row in found["products"]} == {"qkv", "out_proj", "fc1", "fc2", "all"}


def test_predict_gpu_finds_the_same_bytes_on_one_worker_and_two(tmp_path: Path) -> None:
    found = quick("predict_gpu", tmp_path, "--options", "--sequences-per-file 20")
    assert len(found["runs"]) == 2
    assert found["identity"] == [{"dtype": "auto", "different results": 1}]
    assert all(row["frames"] > 0 and 0 < row["bytes a frame"] < 1000 for row in found["runs"])
