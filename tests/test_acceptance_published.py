"""With the published weights, `predict --model 500` gives the results of the published tool.

Runs if the model set 500 is complete in the folder that $VIRNUCPRO_MODELS names (`virnucpro models list` shows it), and
the published results are next to the checkout.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import Cli
from numpy.typing import NDArray
from safetensors.numpy import load_file

from virnucpro.io.store import read_result
from virnucpro.models.registry import VARIABLE
from virnucpro.models.sets import listed_set

GOLDEN = Path(__file__).parents[2] / "shared" / "golden" / "vanilla_embeddings"
CASES = ("test_fixed_500bp", "test_with_orfs")
Vectors = Mapping[str, NDArray[np.float32]]


def models_dir() -> Path:
    """The folder with the published weights; skips if something is missing, and says what."""
    if not GOLDEN.is_dir():
        pytest.skip(f"the published tool's results are not at {GOLDEN}")
    folder = os.environ.get(VARIABLE)
    if not folder:
        pytest.skip(f"the published weights are not here: ${VARIABLE} names no folder of models")
    status = listed_set("500", Path(folder)).status
    if status != "ready":
        pytest.skip(f"model set 500 {status} in ${VARIABLE}, {folder}")
    return Path(folder)


@pytest.fixture(scope="module", params=CASES)
def golden(request: pytest.FixtureRequest) -> Path:
    return GOLDEN / str(request.param)


@pytest.fixture
def predicted(golden: Path, tmp_path: Path, cli: Cli) -> Path:
    """The folder of our results."""
    options = ("--model", "500", "--models-dir", models_dir(), "--dtype", "fp32", "--vanilla-output")
    done = cli("predict", golden / "input.fa", "-o", tmp_path / "out", *options, "--keep-embeddings")
    assert done.returncode == 0, done.stderr
    return tmp_path / "out"


def published_vectors(golden: Path, which: str) -> Vectors:
    ids = json.loads((golden / "ids.json").read_text())[which]
    return dict(zip(ids, load_file(golden / "embeddings.safetensors")[which], strict=True))


def our_vectors(folder: Path, which: str) -> Vectors:
    if which == "merged":
        merged = torch.load(folder / "input_merged.pt", weights_only=True)
        return dict(zip(merged["ids"], merged["data"].numpy(), strict=True))
    kept = {"dnabert_s": "input.dna.h5", "esm2_3b": "input.protein.h5"}[which]
    return dict(zip(*read_result(folder / kept), strict=True))


def scores(path: Path) -> dict[str, tuple[str, float, float]]:
    header, *lines = path.read_text().splitlines()
    assert header == "Sequence_ID\tPrediction\tscore1\tscore2"
    cells = (line.split("\t") for line in lines)
    return {name: (label, float(others), float(virus)) for name, label, others, virus in cells}


@pytest.mark.timeout(7200)
def test_as_published(golden: Path, predicted: Path) -> None:
    """Embeddings within 1e-4 by id, scores within 1e-3, the same label of each frame and call of each window."""
    for which in ("dnabert_s", "esm2_3b", "merged"):
        ours, theirs = our_vectors(predicted, which), published_vectors(golden, which)
        assert ours.keys() == theirs.keys()
        for name, vector in theirs.items():
            np.testing.assert_allclose(ours[name], vector, rtol=0, atol=1e-4, err_msg=f"{which} of {name}")
    found, expected = (scores(folder / "prediction_results.txt") for folder in (predicted, golden))
    assert found.keys() == expected.keys()
    for name, (label, others, virus) in expected.items():
        assert found[name] == (label, pytest.approx(others, abs=1e-3), pytest.approx(virus, abs=1e-3)), name
    calls = "prediction_results_highestscore.csv"
    assert (predicted / calls).read_bytes() == (golden / calls).read_bytes()


@pytest.mark.parametrize("case", CASES)
def test_the_published_results_are_what_the_test_takes_them_for(case: str) -> None:
    """So that the test above does not pass or fail because there is nothing to compare."""
    if not GOLDEN.is_dir():
        pytest.skip(f"the published tool's results are not at {GOLDEN}")
    folder = GOLDEN / case
    dna, protein, merged = (published_vectors(folder, which) for which in ("dnabert_s", "esm2_3b", "merged"))
    assert dna.keys() == protein.keys() == merged.keys() == scores(folder / "prediction_results.txt").keys()
    for name, vector in merged.items():
        assert np.array_equal(vector, [*dna[name], *protein[name]])
