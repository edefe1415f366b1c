"""`virnucpro predict` under real faults: killed at every step, workers that die, disks that are full.

The same command run again gives the bytes of an undisturbed run.
"""

from __future__ import annotations

import logging
import os
import random
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import HANGS, Cli, set_size, to_fasta
from poison import POISON, poisoned
from test_faults import KillOne
from test_predict import CLEAN, RECORD, RECORDS, config, everything, record, results, rows

from virnucpro.input.frames import ALL_STOPPED, NO_CODON, TOO_SHORT
from virnucpro.input.index import IndexedWindow, read_index
from virnucpro.pipeline import caller
from virnucpro.pipeline.events import FileDone, Phase
from virnucpro.runs.config import PredictConfig
from virnucpro.runs.paths import PredictPaths
from virnucpro.runs.predict import run_predict
from virnucpro.runs.run import work_folder

#: Sequences per work file, so that there are many work files.
A_FILE = 12


@pytest.fixture
def settings(complete: Path, tmp_path: Path, toy: Path) -> PredictConfig:
    return everything(complete.with_name("in.fa"), tmp_path / "out", toy, sequences_per_file=A_FILE, threads=2)


@pytest.fixture
def clean(tmp_path: Path) -> Path:
    """Input of one work file, without bad records."""
    return to_fasta(tmp_path / "in.fa", [*CLEAN, ("n", "N" * 90)])


def words(settings: PredictConfig) -> list[object]:
    """The command line of `settings`."""
    options = ("-d", "cpu", "--dtype", "fp32", "--sequences-per-file", A_FILE, "--threads", 2)
    outputs = ("--vanilla-output", "--keep-embeddings")
    return ["predict", *settings.inputs, "-o", settings.output, "--model", settings.model, *options, *outputs]


def paths_of(settings: PredictConfig) -> PredictPaths:
    output = settings.output / "in"
    return PredictPaths(output, work_folder(output, settings.work_dir))


def shards(settings: PredictConfig) -> int:
    return len(list(paths_of(settings).shards.glob("0*.scores.h5")))


# Kill -9 of the parent, at named operations, not at times.

#: The command line in a process that is killed when it does something to a path for the nth time.
DOOMED = """if True:
    import fnmatch, os, signal, sys
    event, pattern, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
    del sys.argv[1:4]

    def look(name, arguments):
        global count
        if name == event and fnmatch.fnmatch(os.path.basename(str(arguments[event == "os.rename"])), pattern):
            count -= 1
            if not count:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(look)
    from virnucpro.cli import main
    main()
"""

MOMENTS = {
    "splitting": ("open", "000003.faa", 1),
    "scoring": ("os.rename", "*.scores.h5", 6),
    "scoring again": ("os.rename", "*.scores.h5", 4),
    "calling": ("open", ".in.windows.tsv.gz.*.tmp", 1),
    "publishing": ("os.rename", "in.regions.bed", 1),
    "tidying": ("shutil.rmtree", "shards", 1),
}


def killed(settings: PredictConfig, moment: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", DOOMED, *map(str, MOMENTS[moment]), *map(str, words(settings))],
        capture_output=True,
        timeout=HANGS,
    )
    assert done.returncode == -signal.SIGKILL, (moment, done.stderr.decode())


@pytest.mark.heavy
def test_killed_again_and_again(settings: PredictConfig, complete: Path, cli: Cli) -> None:
    """Once in each step; each run continues what the one before left."""
    output, work = settings.output, paths_of(settings).work
    killed(settings, "splitting")
    assert not (output / "in.run.json").exists()
    assert (work / "parts" / "000003.fna").exists()
    killed(settings, "scoring")
    assert (record(output)["state"], shards(settings)) == ("working", 5)
    killed(settings, "scoring again")
    assert shards(settings) == 8
    killed(settings, "calling")
    assert {path.name for path in output.iterdir() if path.is_file() and path.name[0] != "."} == RECORD
    killed(settings, "publishing")
    assert record(output)["state"] == "publishing"
    there = results_of(output)
    assert 0 < len(there) < len(results(complete))
    killed(settings, "tidying")
    assert record(output)["state"] == "complete"
    assert work.exists()
    done = cli(*words(settings))
    assert (done.returncode, "nothing to do" in done.stderr) == (6, True), done.stderr  # there are bad records
    assert results(output) == results(complete)
    assert {path.name for path in output.iterdir()} == {path.name for path in complete.iterdir()}


def results_of(output: Path) -> dict[str, bytes]:
    """Files with their final names in the folder of a run that was killed."""
    return {
        path.name: path.read_bytes()
        for path in output.iterdir()
        if path.is_file() and path.name[0] != "." and path.name not in RECORD
    }


# Workers that die.


@pytest.mark.heavy
def test_one_death_costs_nothing(settings: PredictConfig, complete: Path, caplog: pytest.LogCaptureFixture) -> None:
    kill = KillOne(lambda event: isinstance(event, FileDone), random.Random(1))
    with caplog.at_level(logging.INFO, "virnucpro"):
        run_predict(replace(settings, device="cpu,cpu"), kill)
    assert caplog.text.count("died (SIGKILL; out of memory?)") == 1
    assert results(settings.output) == results(complete)


@pytest.mark.heavy
def test_a_work_file_that_kills_is_given_up(
    settings: PredictConfig, complete: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A work file that kills two workers is given up; another run completes the results."""
    with monkeypatch.context() as changed:
        changed.setattr(caller, "score_files_worker", poisoned)
        with caplog.at_level(logging.INFO, "virnucpro"):
            result = run_predict(replace(settings, device="cpu,cpu"))
    assert caplog.text.count("died (SIGKILL; out of memory?)") == 2
    reason = "its work file failed: 2 workers died on it, the last on cpu (SIGKILL; out of memory?)"
    check_given_up(settings, complete, reason)
    assert [row[2] for row in result.failures if reason in row[3]] == sorted_ids(given_up(settings))
    done = cli(*words(settings))
    assert done.returncode == 6  # there are bad records
    assert "some work files failed last time and are tried again" in done.stderr
    assert results(settings.output) == results(complete)
    assert not paths_of(settings).work.exists()


def given_up(settings: PredictConfig) -> set[str]:
    """Keys of the windows in the work file that was given up."""
    index = read_index(paths_of(settings).parts / POISON.replace(".fna", ".index"))
    return {row.key for row in index if isinstance(row, IndexedWindow) and (row.frames or row.reason == ALL_STOPPED)}


def sorted_ids(keys: set[str]) -> list[str]:
    numbers = sorted({int(key.partition("_")[0]) for key in keys})
    return [RECORDS[number][0].split()[0] for number in numbers]


def check_given_up(settings: PredictConfig, complete: Path, reason: str) -> None:
    """Windows of that work file have a reason and no score; all others are as in an undisturbed run."""
    lost = given_up(settings)
    assert lost
    pairs = zip(rows(settings.output / "in.windows.tsv.gz"), rows(complete / "in.windows.tsv.gz"), strict=True)
    for found, expected in pairs:
        if f"{int(found['number']) - 1}_{found['window']}" in lost:
            blank = dict.fromkeys(("evidence", "best_frame", "virus_score", "other_score", "score"), "")
            assert found == expected | blank | {"call": "not_scored", "note": reason}
        else:
            assert found == expected
    both = zip(rows(settings.output / "in.sequences.tsv"), rows(complete / "in.sequences.tsv"), strict=True)
    for found, expected in both:
        touched = found["sequence_id"] in sorted_ids(lost)
        assert (reason in found["note"]) is touched
        assert touched or found == expected


def test_of_a_work_file_that_fails_only_what_needed_it_is_lost(clean: Path, tmp_path: Path, toy: Path) -> None:
    """A window without anything to embed has its usual reason; the reason may name a folder that is not UTF-8."""
    settings = config(clean, tmp_path / "out", toy, work_dir=tmp_path / os.fsdecode(b"work\xff"))
    proteins, away = paths_of(settings).parts / "000001.faa", tmp_path / "away.faa"

    def lose(_worker: int, event: object) -> None:
        if isinstance(event, Phase) and event.name == "scoring" and event.total:
            shutil.move(proteins, away)
            proteins.write_bytes(b"PK\3\4")

    result = run_predict(settings, lose)
    notes = {row["sequence_id"]: row["note"] for row in rows(settings.output / "in.sequences.tsv")}
    assert (notes["two"], notes["n"]) == (TOO_SHORT, NO_CODON)
    assert all("its work file failed" in notes[name] for name in ("v", "o"))
    assert [row[2] for row in result.failures] == ["v", "o"]
    assert record(settings.output)["failed_work_files"].keys() == {"000001.fna"}
    shutil.move(away, proteins)
    assert run_predict(settings).failures == []
    run_predict(replace(settings, output=tmp_path / "fresh"))
    assert results(settings.output) == results(tmp_path / "fresh")


# Resuming: damaged files are made again.


def interrupt(settings: PredictConfig, where: str) -> None:
    """Run until stage `where` begins, and stop there as Ctrl-C does."""

    def stop(_worker: int, event: object) -> None:
        if isinstance(event, Phase) and event.name == where:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_predict(settings, stop)
    assert record(settings.output)["state"] == "working"


@pytest.mark.parametrize("suffix", [".fna", ".faa", ".index"])
def test_work_files_that_are_cut_are_made_again(
    suffix: str, clean: Path, tmp_path: Path, toy: Path, caplog: pytest.LogCaptureFixture
) -> None:
    settings = config(clean, tmp_path / "out", toy)
    interrupt(settings, "scoring")
    path = paths_of(settings).parts / f"000001{suffix}"
    path.write_bytes(path.read_bytes()[:-5])
    run_predict(settings)
    assert f"work file 000001{suffix} is missing or damaged; starting from the beginning" in caplog.text
    run_predict(replace(settings, output=tmp_path / "fresh"))
    assert results(settings.output) == results(tmp_path / "fresh")


def test_results_of_work_files_that_are_damaged_are_made_again(
    settings: PredictConfig, complete: Path, caplog: pytest.LogCaptureFixture
) -> None:
    interrupt(settings, "calling")
    damaged = sorted(paths_of(settings).shards.glob("0*.scores.h5"))[3:5]
    for path in damaged:
        path.write_bytes(path.read_bytes()[:-100])
    with caplog.at_level(logging.INFO, "virnucpro"):
        run_predict(replace(settings, sequences_per_file=5))  # the split stays that of the run that began
    for path in damaged:
        assert f"{path} is damaged" in caplog.text
    parts = len(record(settings.output)["plan"]["parts"])
    assert caplog.text.count(f"of {parts} work files done") == 1
    assert results(settings.output) == results(complete)


def test_what_other_settings_made_is_not_taken_up(
    clean: Path, tmp_path: Path, toy: Path, caplog: pytest.LogCaptureFixture
) -> None:
    settings = config(clean, tmp_path / "out", toy)
    interrupt(replace(settings, window=300, exact=True), "calling")
    run_predict(settings)
    assert "not resuming the earlier run: --frames, --window changed; starting from the beginning" in caplog.text
    run_predict(replace(settings, output=tmp_path / "fresh"))
    assert results(settings.output) == results(tmp_path / "fresh")


# A full disk.


@pytest.mark.parametrize(
    ("kilobytes", "what"), [(40, "parts"), pytest.param(300, "shards/", marks=pytest.mark.heavy), (700, "out/")]
)
def test_full_disk(
    kilobytes: int, what: str, small_disk: Path, settings: PredictConfig, complete: Path, cli: Cli
) -> None:
    """The disk is full when the input is cut, when a work file is done, or when the results are written."""
    set_size(small_disk, kilobytes)
    settings = replace(settings, output=small_disk / "out")
    done = cli(*words(settings))
    assert done.returncode == 3, done.stderr
    assert what in done.stderr
    assert "No space left on device" in done.stderr
    assert "→ free space" in done.stderr
    assert "Traceback" not in done.stderr
    assert not results_of(settings.output)
    set_size(small_disk, 20_000)
    assert cli(*words(settings)).returncode == 6
    assert results(settings.output) == results(complete)
