"""`virnucpro embed` with a protein model: what it reads, the same bytes whatever happens, the wrong alphabet."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import Cli, Records, random_records, to_fasta

import virnucpro
from virnucpro.io.store import read_result
from virnucpro.models.registry import resolve
from virnucpro.pipeline.events import FileDone
from virnucpro.runs.config import EmbedConfig
from virnucpro.runs.embed import run_embed
from virnucpro.runs.paths import RunPaths

AMINO_ACIDS = "ACDEFGHIKLMNPQRSTVWYXBZUO"
MODEL = ("--model", "esm2-mini")
CPU = ("-d", "cpu", "--dtype", "fp32")


def random_proteins(count: int, seed: int = 1) -> Records:
    rng = random.Random(seed)
    lengths = [rng.choice((1, 3, 20, 60, 166, 167)) for _ in range(count)]
    return [(f"p{i} of {count}", "".join(rng.choices(AMINO_ACIDS, k=n))) for i, n in enumerate(lengths)]


RECORDS = random_proteins(90)


@pytest.fixture
def config(tmp_path: Path) -> EmbedConfig:
    path = to_fasta(tmp_path / "in.faa", RECORDS)
    return EmbedConfig(
        (path,), tmp_path / "o.h5", model="esm2-mini", device="cpu", dtype="fp32", sequences_per_file=8, threads=2
    )


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The result of an undisturbed run."""
    path = to_fasta(tmp_path_factory.mktemp("undisturbed") / "in.faa", RECORDS)
    output = virnucpro.embed(path, path.with_suffix(".h5"), model="esm2-mini", device="cpu", dtype="fp32")
    return output.read_bytes()


def embeddings(records: Records, folder: Path) -> dict[str, bytes]:
    path = to_fasta(folder / "some.faa", records)
    ids, vectors = virnucpro.embed(path, model="esm2-mini", device="cpu", dtype="fp32")
    return {name: vector.tobytes() for name, vector in zip(ids, vectors, strict=True)}


# The same bytes.


@pytest.mark.parametrize(
    "changes",
    [{"threads": 1}, {"sequences_per_file": 50}, pytest.param({"device": "cpu,cpu"}, marks=pytest.mark.heavy)],
    ids=str,
)
def test_same_bytes(changes: dict[str, object], config: EmbedConfig, expected: bytes) -> None:
    run_embed(replace(config, **changes))  # type: ignore[arg-type]
    assert config.output.read_bytes() == expected


def test_an_interrupted_run_goes_on(config: EmbedConfig, expected: bytes, cli: Cli) -> None:
    done = 0

    def stop(_worker: int, event: object) -> None:
        nonlocal done
        done += isinstance(event, FileDone)
        if done == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_embed(config, stop)
    assert len(list(RunPaths(config.output).shards.glob("0*.h5"))) == 5
    said = cli("embed", *config.inputs, "-o", config.output, *MODEL, *CPU, "--sequences-per-file", 8)
    assert said.returncode == 0, said.stderr
    assert "resuming: 5 of 12 work files done" in said.stderr
    assert config.output.read_bytes() == expected


def test_company_makes_no_difference(tmp_path: Path) -> None:
    alone = {name: vector for record in RECORDS[:4] for name, vector in embeddings([record], tmp_path).items()}
    whole = embeddings(random.Random(2).sample(RECORDS, len(RECORDS)), tmp_path)
    assert len(set(whole.values())) > 60  # those of one letter may be equal
    assert {name: whole[name] for name in alone} == alone


# What is read.


def test_a_stop_at_the_end_and_case_and_layout_make_no_difference(tmp_path: Path) -> None:
    protein = RECORDS[1][1] + "MKV"
    same = {
        "plain": protein,
        "stop": protein + "*",
        "lower": protein.lower(),
        "wrapped": f"{protein[:2]}\n{protein[2:]}*\n",
    }
    found = embeddings([*same.items(), ("longer", protein + "A")], tmp_path)
    assert len({found[name] for name in same}) == 1
    assert found["longer"] != found["plain"]


def test_what_is_no_protein_is_listed(tmp_path: Path, cli: Cli) -> None:
    bad = {
        "inner": ("MK*VL", "this looks like a stop codon; cut the protein there"),
        "stops": ("MKVL**", "this looks like a stop codon"),
        "gap": ("MK-VL", "this looks like a gap"),
        "sign": ("MKVL#", "use X for an unknown amino acid"),
        "only": ("*", "no sequence follows this header"),
    }
    records = [*RECORDS[:2], *((name, sequence) for name, (sequence, _) in bad.items()), *RECORDS[2:4]]
    path, output = to_fasta(tmp_path / "in.faa", records), tmp_path / "o.h5"
    done = cli("embed", path, "-o", output, *MODEL, *CPU)
    assert done.returncode == 6, done.stderr
    failed = [line.split("\t") for line in Path(f"{output}.failed.tsv").read_text().splitlines()[1:]]
    assert [(row[1], row[2]) for row in failed] == [(str(i + 3), name) for i, name in enumerate(bad)]
    for row, (_, words) in zip(failed, bad.values(), strict=True):
        assert words in row[3]
    assert read_result(output)[0] == ["p0", "p1", "p2", "p3"]


# The wrong alphabet.


def test_dna_given_to_a_protein_model(tmp_path: Path, cli: Cli) -> None:
    path = to_fasta(tmp_path / "in.fa", random_records(30))
    done = cli("embed", path, "-o", tmp_path / "o.h5", *MODEL, *CPU)
    assert done.returncode == 3, done.stderr
    assert f"{path} looks like DNA, but the model embeds proteins" in done.stderr
    assert "virnucpro orfs" in done.stderr
    assert not (tmp_path / "o.h5").exists()


def test_dna_among_files_of_proteins_is_the_one_left_out(tmp_path: Path, cli: Cli) -> None:
    good, dna = to_fasta(tmp_path / "a.faa", RECORDS[:3]), to_fasta(tmp_path / "b.fa", random_records(5))
    done = cli("embed", good, dna, "-o", tmp_path / "o.h5", *MODEL, *CPU)
    assert done.returncode == 6, done.stderr
    assert read_result(tmp_path / "o.h5")[0] == ["p0", "p1", "p2"]
    assert f"{dna}\t0\t\t{dna} looks like DNA" in (tmp_path / "o.h5.failed.tsv").read_text()


def test_few_letters_that_could_be_dna_are_taken_for_the_protein_they_are(tmp_path: Path) -> None:
    assert list(embeddings([("short", "GATTACA"), ("other", "CATGAG")], tmp_path)) == ["short", "other"]


def test_proteins_given_to_a_dna_model(tmp_path: Path, cli: Cli) -> None:
    path = to_fasta(tmp_path / "in.faa", [("p0", "MKVLEFQ"), ("p1", "EFIL")])
    done = cli("embed", path, "-o", tmp_path / "o.h5", *CPU)
    assert done.returncode == 3, done.stderr
    assert "this looks like protein; give the DNA that codes for it" in done.stderr
    assert not (tmp_path / "o.h5").exists()


# What is written.


def test_formats_hold_the_same(config: EmbedConfig, tmp_path: Path, cli: Cli) -> None:
    for suffix in (".h5", ".npy", ".pt"):
        done = cli("embed", *config.inputs, "-o", tmp_path / f"o{suffix}", *MODEL, *CPU)
        assert done.returncode == 0, done.stderr
        assert "esm2-mini is UNTRAINED" in done.stderr or resolve("esm2-mini").trained
    ids, vectors = read_result(tmp_path / "o.h5")
    assert ids == [header.split()[0] for header, _ in RECORDS]
    assert np.array_equal(np.load(tmp_path / "o.npy"), vectors)
    published = torch.load(tmp_path / "o.pt", weights_only=True)
    assert list(published) == ["proteins", "data"]
    assert published["proteins"] == ids
    assert isinstance(published["data"], list)
    assert {tuple(vector.shape) for vector in published["data"]} == {vectors.shape[1:]}
    assert np.array_equal(torch.stack(published["data"]).numpy(), vectors)
