"""Several samples: each has the results that it would have alone, whatever happens to the others."""

from __future__ import annotations

import logging
import os
import shutil
import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from conftest import HANGS, Cli, alive, held_command_line, to_fasta, workers_of
from kills import TOLD, tree
from light_workers import wait_for
from toy_set import WINDOWS, other, toy_records, viral

import virnucpro
from virnucpro.calls.tables import FAILED_SAMPLES, SAMPLES
from virnucpro.errors import OutputError, UsageError
from virnucpro.io.tables import read_rows
from virnucpro.runs.config import PredictConfig
from virnucpro.runs.predict import run_predict
from virnucpro.runs.samples import named_by_file, read_sheet, run_samples

Settings = dict[str, Any]


def write_inputs(folder: Path) -> list[Path]:
    """Three samples; the middle one has records that cannot be used."""
    first = [(f"v{i}", viral(400, i)) for i in range(2)] + [("o", other(450, 1))]
    last = [(f"o{i}", other(400, i)) for i in range(2)]
    return [
        to_fasta(folder / "first.fa", first),
        to_fasta(folder / "middle.fasta", toy_records()),
        to_fasta(folder / "last.fa", last),
    ]


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return write_inputs(tmp_path_factory.mktemp("inputs"))


def settings(toy: Path, **more: Any) -> Settings:
    return {"model": str(toy), "device": "cpu", "dtype": "fp32", "keep_embeddings": True, **more}


@pytest.fixture(scope="module")
def alone(inputs: list[Path], toy: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the results of a run for each sample."""
    folder = tmp_path_factory.mktemp("alone")
    for path in inputs:
        run_predict(PredictConfig((path,), folder / path.stem, **settings(toy)))
    return folder


def results(folder: Path) -> dict[str, bytes]:
    """All files of the samples, except for those that contain times, and those about all samples."""
    found = tree(folder)
    return {name: content for name, content in found.items() if os.sep in name and not name.endswith(TOLD)}


def words(inputs: Sequence[Path], toy: Path, output: Path, *more: object) -> list[object]:
    return ["predict", *inputs, "-o", output, "--per-sample", "--model", toy, "-d", "cpu", "--dtype", "fp32", *more]


@pytest.mark.parametrize("device", ["cpu", pytest.param("cpu,cpu", marks=pytest.mark.heavy)])
def test_the_same_bytes_as_alone_and_models_loaded_once(
    device: str, inputs: list[Path], toy: Path, alone: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    result = run_samples(named_by_file(inputs), tmp_path / "out", settings(toy, device=device))
    assert results(tmp_path / "out") == results(alone)
    assert ([*result.results], result.failed) == (["first", "middle", "last"], {})
    if device == "cpu":  # with two workers, one may be done before the other has begun
        assert caplog.text.count("esm2-mini ready after") == 1
    assert result.some_failed  # bad records of the middle sample


def test_a_bad_sample_does_not_stop_the_others(
    inputs: list[Path], toy: Path, alone: Path, tmp_path: Path, cli: Cli
) -> None:
    bad = to_fasta(tmp_path / "proteins.fa", [("x", "MKVLE")])
    order = [bad, inputs[0], tmp_path / "absent.fa", *inputs[1:]]
    done = cli(*words(order, toy, tmp_path / "out", "--keep-embeddings"))
    assert done.returncode == 6
    assert "3 of 5 samples with results" in done.stderr
    assert "2 failed; see " in done.stderr
    failed = {
        row["sample"]: row["reason"] for row in read_rows(tmp_path / "out" / "samples.failed.tsv", FAILED_SAMPLES)
    }
    assert [*failed] == ["proteins", "absent"]
    assert failed["proteins"].startswith("no usable sequence in the input: line 2: 'L' is not a DNA letter")
    assert failed["absent"] == f"{tmp_path}/absent.fa does not exist (check the path)"
    notes = {row["sample"]: row["note"] for row in read_rows(tmp_path / "out" / "samples.tsv", SAMPLES)}
    assert notes == {"first": "", "last": "", "middle": "", **failed}
    found = {name: content for name, content in results(tmp_path / "out").items() if "proteins" not in name}
    assert found == results(alone)


def test_a_sample_that_is_mended_is_done_and_the_others_stay(
    inputs: list[Path], toy: Path, tmp_path: Path, cli: Cli
) -> None:
    path = tmp_path / "late.fa"
    command = words([inputs[0], path], toy, tmp_path / "out")
    assert cli(*command).returncode == 6
    before = {each: each.stat().st_mtime_ns for each in (tmp_path / "out" / "first").glob("*.tsv")}
    to_fasta(path, [("o", other(700, 1))])
    done = cli(*command)
    assert done.returncode == 0
    assert "first.* is complete; nothing to do" in done.stderr
    assert {each: each.stat().st_mtime_ns for each in before} == before
    assert list(read_rows(tmp_path / "out" / "samples.failed.tsv", FAILED_SAMPLES)) == []


def test_results_of_other_settings_are_a_matter_of_their_sample(
    inputs: list[Path], toy: Path, tmp_path: Path, cli: Cli
) -> None:
    alone = settings(toy, keep_embeddings=False, window=WINDOWS[1])
    run_predict(PredictConfig((inputs[0],), tmp_path / "out" / "first", **alone))
    command = words([inputs[0], inputs[2]], toy, tmp_path / "out")
    assert cli(*command).returncode == 6
    first, last = read_rows(tmp_path / "out" / "samples.tsv", SAMPLES)
    assert "was made with other settings (--window)" in first["note"]
    assert (first["sequences"], last["sequences"], last["note"]) == ("3", "2", "")
    assert cli(*command, "--force").returncode == 0
    assert [row["note"] for row in read_rows(tmp_path / "out" / "samples.tsv", SAMPLES)] == ["", ""]


def test_what_is_wrong_with_all_is_said_before_anything_is_done(
    inputs: list[Path], toy: Path, tmp_path: Path, cli: Cli
) -> None:
    done = cli(*words(inputs, toy, tmp_path / "out", "--window", "7"))
    assert (done.returncode, (tmp_path / "out").exists()) == (2, False)
    assert "was trained on windows of" in done.stderr
    done = cli(*words(inputs, tmp_path / "no set", tmp_path / "out"))
    assert (done.returncode, (tmp_path / "out").exists()) == (4, False)


# Which inputs are a sample.


def test_samples_of_one_name_are_refused(inputs: list[Path], toy: Path, tmp_path: Path, cli: Cli) -> None:
    (tmp_path / "again").mkdir()
    twin = shutil.copy(inputs[0], tmp_path / "again" / "first.fa.gz")
    done = cli(*words([*inputs, twin], toy, tmp_path / "out"))
    assert (done.returncode, (tmp_path / "out").exists()) == (2, False)
    assert f"{inputs[0]} and {twin} would both be the sample first" in done.stderr


def test_a_sheet(inputs: list[Path], toy: Path, tmp_path: Path, cli: Cli) -> None:
    sheet = tmp_path / "sheet.tsv"
    sheet.write_text(
        f"\ufeffsample\tpath\r\n# a comment\r\n\r\nA b\t{inputs[0]}\t{inputs[2]}\r\nlast\t{inputs[2]}\t\r\n"
    )
    assert read_sheet(sheet) == {"A b": (inputs[0], inputs[2]), "last": (inputs[2],)}
    command = ["predict", "--samples", sheet, "-o", tmp_path / "out", "--model", toy, "-d", "cpu", "--dtype", "fp32"]
    assert cli(*command).returncode == 0
    rows = read_rows(tmp_path / "out" / "samples.tsv", SAMPLES)
    assert [(row["sample"], row["sequences"], row["folder"]) for row in rows] == [
        ("A b", "5", "A b"),
        ("last", "2", "last"),
    ]
    done = cli(*command, inputs[0])
    assert done.returncode == 2
    assert "Give either INPUT... or --samples SHEET." in done.stderr
    done = cli(*command, "--prefix", "x")
    assert (done.returncode, "--prefix is for a single run" in done.stderr) == (2, True)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "names no sample"),
        ("sample\tpath\n", "names no sample"),
        ("a a.fa\n", "line 1 is not a sample"),
        ("a\ta.fa\n\tb.fa\n", "line 2 is not a sample"),
        ("a\ta.fa\nb\tb.fa\na\tc.fa\n", "line 3: the sample a is listed twice"),
        ("a/b\ta.fa\n", "the beginning of a file name"),
        ("..\ta.fa\n", "the beginning of a file name"),
    ],
)
def test_sheets_that_are_none(text: str, words: str, tmp_path: Path) -> None:
    (tmp_path / "sheet.tsv").write_text(text)
    with pytest.raises(UsageError, match=words):
        run_samples(read_sheet(tmp_path / "sheet.tsv"), tmp_path / "out", {})
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["samples.tsv", "samples.failed.tsv", "samples.report.html"])
def test_files_of_others_are_not_overwritten(name: str, inputs: list[Path], toy: Path, tmp_path: Path) -> None:
    precious = tmp_path / name
    precious.write_text("sample\tpath\nmine\tmine.fa\n")
    with pytest.raises(OutputError, match=f"{name} exists and is"):
        run_samples(named_by_file(inputs), tmp_path, settings(toy))
    assert [*tmp_path.iterdir()] == [precious]


# Stopped, and from Python.


@pytest.mark.heavy
def test_killed_in_the_middle_it_goes_on(inputs: list[Path], toy: Path, alone: Path, tmp_path: Path, cli: Cli) -> None:
    """Killed when the second sample has some scores, with two workers; continued with one."""
    out = tmp_path / "out"
    command = words(inputs, toy, out, "--keep-embeddings", "--sequences-per-file", "4")
    shards = out / "middle" / "middle.work" / "shards"
    line, env = held_command_line(shards, 1, *command, "--device", "cpu,cpu")
    run = subprocess.Popen(line, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    wait_for(lambda: any(shards.glob("*.h5")) or run.poll() is not None)
    started = workers_of(run.pid)
    run.send_signal(signal.SIGKILL)
    assert run.wait(HANGS) == -signal.SIGKILL
    wait_for(lambda: not alive(started))
    assert (out / "first" / "first.virus.fna").exists()
    assert not (out / "middle" / "middle.virus.fna").exists()
    assert not (out / "samples.tsv").exists()
    again = cli(*command)
    assert again.returncode == 6, again.stderr
    assert "first.* is complete; nothing to do" in again.stderr
    assert results(out) == results(alone)


def test_from_python(inputs: list[Path], toy: Path, alone: Path, tmp_path: Path) -> None:
    options = {"model": toy, "device": "cpu", "dtype": "fp32"}
    found = virnucpro.predict_samples([*inputs, tmp_path / "absent.fa"], tmp_path / "out", **options)
    assert {name: len(rows) for name, rows in found.items()} == {"first": 3, "middle": len(toy_records()), "last": 2}
    assert found["first"] == virnucpro.predict(inputs[0], **options)
    named = virnucpro.predict_samples({"x": inputs[2], "y": [inputs[2], inputs[0]]}, **options)
    assert {name: len(rows) for name, rows in named.items()} == {"x": 2, "y": 5}
    with pytest.raises(UsageError, match="no sample is given"):
        virnucpro.predict_samples([])
