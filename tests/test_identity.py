"""An embedding is a function of its sequence: the same bits in any batch, order or split, on any number of workers."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from toy_codon import save_toy_codon

import virnucpro
from virnucpro.core.device import find_cpu
from virnucpro.input.windows import SHORTEST
from virnucpro.models.linear import Linear, prepack

Embeddings = dict[str, bytes]

LENGTHS = [5, 17, 60, 150, 300, 500, 500, 500, 900, 2500, 9000]


def sequences(n: int, seed: int = 1, longest: int = 9000) -> list[tuple[str, str]]:
    rng, lengths = random.Random(seed), [length for length in LENGTHS if length <= longest]
    return [(f"s{i}", "".join(rng.choices("ACGTN", (9, 9, 9, 9, 1), k=rng.choice(lengths)))) for i in range(n)]


def write(path: Path, records: list[tuple[str, str]]) -> Path:
    path.write_text("".join(f">{name}\n{sequence}\n" for name, sequence in records))
    return path


def embed(path: Path, **settings: Any) -> Embeddings:
    output = path.with_suffix(".h5")
    virnucpro.embed(path, output, force=True, resume=False, **{"device": "cpu"} | settings)
    with h5py.File(output) as file:
        vectors = file["embeddings"][...]
        return {name: vector.tobytes() for name, vector in zip(file["ids"].asstr()[...], vectors, strict=True)}


@pytest.fixture(scope="module", params=["dnabert fp32", "dnabert bf16", "codon fp32", "codon bf16"])
def case(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def dtype(case: str) -> str:
    return case.split()[1]


@pytest.fixture(scope="module")
def codon(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_toy_codon(tmp_path_factory.mktemp("codon") / "model", channels=128, blocks=2)


@pytest.fixture(scope="module")
def imitated(dtype: str) -> bool:
    """Whether the CPU has to emulate the dtype, which takes so long that fewer cases must be enough."""
    return dtype == "bf16" and not find_cpu().bf16


@pytest.fixture(scope="module")
def settings(case: str, codon: Path, dtype: str, imitated: bool) -> dict[str, Any]:
    model = {"model": str(codon)} if case.startswith("codon") else {}
    return {"dtype": dtype} | model | ({"batch_size": 512} if imitated else {})


@pytest.fixture(scope="module")
def records(case: str, imitated: bool) -> list[tuple[str, str]]:
    found = sequences(14, longest=900) if imitated else sequences(30, longest=2500 if "codon" in case else 9000)
    return [(name, sequence) for name, sequence in found if len(sequence) >= SHORTEST]


@pytest.fixture(scope="module")
def expected(
    tmp_path_factory: pytest.TempPathFactory, records: list[tuple[str, str]], settings: dict[str, Any]
) -> Embeddings:
    return embed(write(tmp_path_factory.mktemp("expected") / "a.fa", records), **settings)


def test_all_embeddings_differ(expected: Embeddings, records: list[tuple[str, str]]) -> None:
    """Otherwise equality would prove nothing."""
    assert len(expected) == len(set(expected.values())) == len(records)


def test_shuffled_input(
    tmp_path: Path, records: list[tuple[str, str]], expected: Embeddings, settings: dict[str, Any]
) -> None:
    shuffled = random.Random(2).sample(records, len(records))
    assert embed(write(tmp_path / "a.fa", shuffled), **settings) == expected


def test_other_companions(
    tmp_path: Path,
    records: list[tuple[str, str]],
    expected: Embeddings,
    settings: dict[str, Any],
    imitated: bool,
) -> None:
    few = random.Random(3).sample(records, 12)
    others = sequences(10, seed=4, longest=900) if imitated else sequences(15, seed=4)
    strangers = [(f"x{i}", sequence) for i, (_, sequence) in enumerate(others)]
    mixed = random.Random(5).sample(few + strangers, len(few + strangers))
    found = embed(write(tmp_path / "a.fa", mixed), **settings)
    assert {name: found[name] for name, _ in few} == {name: expected[name] for name, _ in few}


@pytest.mark.parametrize("threads", [1, pytest.param(2, marks=pytest.mark.heavy), 3])
def test_threads(
    tmp_path: Path, records: list[tuple[str, str]], expected: Embeddings, settings: dict[str, Any], threads: int
) -> None:
    assert embed(write(tmp_path / "a.fa", records), threads=threads, **settings) == expected


def test_sequences_alone(
    tmp_path: Path, records: list[tuple[str, str]], expected: Embeddings, settings: dict[str, Any]
) -> None:
    for name, sequence in records[:4]:
        assert embed(write(tmp_path / "a.fa", [(name, sequence)]), **settings) == {name: expected[name]}


@pytest.mark.parametrize(
    ("model", "workers", "per_file"),
    [
        *(
            pytest.param("dnabert-mini", workers, per_file, marks=pytest.mark.heavy)
            for workers in (1, 2, 3)
            for per_file in (7, 10_000)
        ),
        ("codon", 1, 7),
        pytest.param("codon", 2, 9, marks=pytest.mark.heavy),
    ],
)
def test_result_files_are_equal_byte_for_byte(
    tmp_path: Path, codon: Path, model: str, workers: int, per_file: int
) -> None:
    path = write(tmp_path / "a.fa", sequences(30, longest=2500 if model == "codon" else 9000))
    settings = {"model": str(codon) if model == "codon" else model, "dtype": "fp32"}
    one = virnucpro.embed(path, tmp_path / "one.h5", device="cpu", **settings)
    device = ",".join(["cpu"] * workers)
    other = virnucpro.embed(path, tmp_path / "other.h5", device=device, sequences_per_file=per_file, **settings)
    assert one.read_bytes() == other.read_bytes()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("wide", "out"), [(768, 2304), (768, 768), (768, 6144), (3072, 768), (128, 384), (512, 128)])
def test_rows_of_a_product_do_not_depend_on_their_place(dtype: torch.dtype, wide: int, out: int) -> None:
    """The full shapes of DNABERT-S, which the small model above does not have; prepacked where possible."""
    torch.manual_seed(0)
    layer = Linear(wide, out, bias=False)
    layer.weight.data = torch.randn(out, wide).to(dtype)
    prepack(layer, 512)
    x = torch.randn(512, wide).to(dtype)
    order = torch.randperm(512)
    assert torch.equal(layer(x)[order], layer(x[order]))
    alone = torch.zeros_like(x)
    alone[99] = x[7]
    assert np.array_equal(layer(alone)[99].float().numpy(), layer(x)[7].float().numpy())


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
@pytest.mark.parametrize("device", ["1", "0,1", "1,1,0"])
def test_every_gpu_gives_the_same_bytes(
    tmp_path: Path, records: list[tuple[str, str]], settings: dict[str, Any], device: str
) -> None:
    path = write(tmp_path / "a.fa", records)
    one, other = (
        virnucpro.embed(path, tmp_path / f"{each}.h5", device=each, **{"batch_size": 2048} | settings)
        for each in ("0", device)
    )
    assert one.read_bytes() == other.read_bytes()
