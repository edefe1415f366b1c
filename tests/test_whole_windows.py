"""Model sets with a DNA encoder only, which read whole windows: cards, calls, kept files, resuming, training."""

from __future__ import annotations

import json
import random
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Cli, Records, to_fasta
from numpy.typing import NDArray
from safetensors.numpy import load_file
from toy_codon import Reference, save_toy_codon
from toy_set import WINDOWS, other, save_toy_codon_set, toy_records, viral

from virnucpro.calls import tables
from virnucpro.errors import EXIT_SOME_FAILED, ModelError, UsageError
from virnucpro.input.cut import TOO_SHORT, Cutter, Rules
from virnucpro.input.frames import NO_CODON
from virnucpro.input.windows import iter_windows
from virnucpro.io.store import read_result
from virnucpro.io.tables import read_rows
from virnucpro.models.card import CARD, ClassifierCard
from virnucpro.models.classifier import WEIGHTS
from virnucpro.models.sets import resolve_set
from virnucpro.runs.config import PredictConfig
from virnucpro.runs.paths import PredictPaths
from virnucpro.runs.predict import run_predict

CPU = ("-d", "cpu", "--dtype", "fp32")
RECORDS: Records = [*toy_records(), ("short", "ACGTACG"), ("shortest", "ACGTACGT")]


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_toy_codon_set(tmp_path_factory.mktemp("toy codon") / "set")


def config(path: Path, output: Path, toy: Path, **changes: Any) -> PredictConfig:
    return replace(PredictConfig((path,), output, model=str(toy), device="cpu", dtype="fp32"), **changes)


@pytest.fixture(scope="module")
def complete(toy: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an undisturbed run; `in.fa` is next to it."""
    folder = tmp_path_factory.mktemp("undisturbed")
    run_predict(config(to_fasta(folder / "in.fa", RECORDS), folder / "out", toy, keep_embeddings=True))
    return folder / "out"


def windows(folder: Path) -> list[dict[str, str]]:
    return list(read_rows(folder / "in.windows.tsv.gz", tables.WINDOWS))


def results(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name not in ("in.run.json", "run.log")}


def expected_score(vector: NDArray[np.float64], folder: Path) -> float:
    """The score of a classifier in float64: class 1 of the softmax, which is also virus / (virus + other)."""
    state = {name: value.astype(np.float64) for name, value in load_file(folder / WEIGHTS).items()}
    hidden = state["hidden.weight"] @ vector + state["hidden.bias"]
    scaled = (hidden - state["norm.running_mean"]) / np.sqrt(state["norm.running_var"] + 1e-5)
    active = np.maximum(scaled * state["norm.weight"] + state["norm.bias"], 0)
    other, virus = np.exp(state["output.weight"] @ active + state["output.bias"])
    return float(virus / (virus + other))


def test_every_window_is_scored_by_the_network(complete: Path, toy: Path) -> None:
    reference, sequences = Reference(toy.with_name("codon")), {name.split()[0]: bases for name, bases in RECORDS}
    found = windows(complete)
    for row in found:
        bases = sequences[row["sequence_id"]][int(row["start"]) - 1 : int(row["end"])]
        note = TOO_SHORT if len(bases) < 8 else NO_CODON if set(bases) == {"N"} else ""
        assert (row["note"], row["frames"], row["best_frame"]) == (note, "", "")
        assert (row["evidence"], row["call"] == "not_scored") == (("", True) if note else ("dna", False))
        if not note:
            assert float(row["score"]) == pytest.approx(expected_score(reference.vector(bases), toy), abs=1e-4)
    assert {row["note"] for row in found} == {TOO_SHORT, NO_CODON, ""}
    verdicts = {row["verdict"] for row in read_rows(complete / "in.sequences.tsv", tables.SEQUENCES)}
    assert verdicts == {"virus", "mixed", "other", "not_scored"}


def test_embeddings_are_kept_by_window(complete: Path, toy: Path) -> None:
    assert not list(complete.glob("*protein*"))
    ids, vectors = read_result(complete / "in.dna.h5")
    reference = Reference(toy.with_name("codon"))
    cut = {window.id: window.sequence for header, bases in RECORDS if header != "protein x"
           for window in iter_windows(header.split()[0], bases, WINDOWS[0])}  # fmt: skip
    scored = [row for row in windows(complete) if row["evidence"]]
    assert ids == [f"{row['sequence_id']}_chunk_{row['window']}" for row in scored]
    np.testing.assert_allclose(vectors, [reference.vector(cut[name]) for name in ids], rtol=0, atol=5e-5)


def test_no_frames_and_no_proteins_are_cut(tmp_path: Path) -> None:
    paths = PredictPaths(tmp_path / "x")
    paths.parts.mkdir(parents=True)
    path = to_fasta(tmp_path / "in.fa", RECORDS)
    plan = Cutter(Rules(150, reads="windows"), paths.part_file, 20, 1).cut([path], [path])
    assert not any(part.frames for part in plan.parts)
    assert len(plan.parts) > 1
    names = {part.name + suffix for part in plan.parts for suffix in (".fna", ".index")}
    assert {path.name for path in paths.parts.iterdir()} == names


@pytest.mark.parametrize(
    "changes",
    [
        {"threads": 1, "sequences_per_file": 7},
        {"threads": 3},
        pytest.param({"device": "cpu,cpu", "sequences_per_file": 7}, marks=pytest.mark.heavy),
    ],
)
def test_the_same_bytes_on_any_number_of_workers(
    complete: Path, toy: Path, tmp_path: Path, changes: dict[str, Any]
) -> None:
    path = complete.with_name("in.fa")
    run_predict(config(path, tmp_path / "out", toy, keep_embeddings=True, **changes))
    ours, theirs = results(tmp_path / "out"), results(complete)
    # Its fingerprint differs between devices and settings.
    assert read_result(tmp_path / "out" / "in.dna.h5")[1].tobytes() == read_result(complete / "in.dna.h5")[1].tobytes()
    del ours["in.dna.h5"], theirs["in.dna.h5"]
    assert ours == theirs


def test_what_needs_frames_is_refused(complete: Path, toy: Path, tmp_path: Path) -> None:
    for changes, words in (({"exact": True}, "--frames exact"), ({"vanilla_output": True}, "--vanilla-output")):
        with pytest.raises(UsageError, match=f"{words}: toy codon reads whole windows"):
            run_predict(config(complete.with_name("in.fa"), tmp_path / "out", toy, **changes))


def test_a_lost_result_is_made_again(complete: Path, toy: Path, tmp_path: Path, cli: Cli) -> None:
    folder = shutil.copytree(complete, tmp_path / "out")
    words = ("predict", complete.with_name("in.fa"), "-o", folder, "--model", toy, *CPU, "--keep-embeddings")
    assert cli(*words).returncode == EXIT_SOME_FAILED
    (folder / "in.dna.h5").unlink()
    assert cli(*words).returncode == EXIT_SOME_FAILED
    assert results(folder) == results(complete)


def changed_card(folder: Path, **values: Any) -> None:
    card = json.loads((folder / CARD).read_text())
    (folder / CARD).write_text(json.dumps(card | values))


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"reads": "frames"}, r"encoders\.protein must be there for open frames"),
        ({"reads": "words"}, r"enum value 'words' .*\$\.reads"),
        ({"encoders": {"dna": None, "protein": {}}}, r"`object`, got `null` .*\$\.dna"),
    ],
)
def test_a_card_that_contradicts_itself_is_refused(
    toy: Path, tmp_path: Path, values: dict[str, Any], words: str
) -> None:
    folder = shutil.copytree(toy, tmp_path / "set")
    changed_card(folder, **values)
    with pytest.raises(ModelError, match=words):
        ClassifierCard.read(folder)


def test_encoders_of_other_families_are_refused(toy: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(toy, tmp_path / "set")
    pin = json.loads((folder / CARD).read_text())["encoders"]["dna"]
    changed_card(folder, encoders={"dna": pin | {"name": "esm2-mini", "dim": 160}})
    with pytest.raises(ModelError, match="esm2-mini is of the family esm2, expected codon or dnabert"):
        resolve_set(str(folder))
    frames = {"dna": pin | {"name": "../codon"}, "protein": pin | {"name": "esm2-mini", "dim": 160}}
    save_toy_codon(tmp_path / "codon")
    changed_card(folder, reads="frames", encoders=frames)
    with pytest.raises(ModelError, match=r"\.\./codon is of the family codon, expected dnabert"):
        resolve_set(str(folder))


def test_a_classifier_is_trained_on_whole_windows(toy: Path, tmp_path: Path, cli: Cli) -> None:
    pytest.importorskip("sklearn")
    for name, kind in (("virus", viral), ("other", other)):
        to_fasta(
            tmp_path / f"{name}.fa", [(f"{name}{i}", kind(random.Random(i).randint(100, 400), i)) for i in range(40)]
        )
    data = ("--virus", tmp_path / "virus.fa", "--other", tmp_path / "other.fa", "--window", 150, *CPU)
    refused = cli("train", *data, "-o", tmp_path / "new", "--model-set", toy, "--dna-only-head")
    assert (refused.returncode, "--dna-only-head" in refused.stderr) == (2, True)
    done = cli("train", *data, "-o", tmp_path / "new", "--model-set", toy, "--epochs", 5)
    assert done.returncode == 0, done.stderr
    found = resolve_set(str(tmp_path / "new"))
    assert (found.card.reads, len(found.encoders), found.card.window) == ("windows", 1, (150,))
    assert found.encoders[0].weights.resolve() == toy.with_name("codon").resolve() / WEIGHTS
    metrics = found.card.metrics["counts"]
    assert metrics["test windows"] == metrics["test windows scored"] > 0
    called = cli("predict", tmp_path / "virus.fa", "-o", tmp_path / "out", "--model", tmp_path / "new", *CPU)
    assert called.returncode == 0, called.stderr
    rows = read_rows(tmp_path / "out" / "virus.sequences.tsv", tables.SEQUENCES)
    assert sum(row["verdict"] == "virus" for row in rows) > 30
