"""Resuming: only what is provably the same is used; whatever happens, the result is that of an undisturbed run."""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from conftest import Cli, random_records, to_fasta
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from virnucpro.io.store import read_result
from virnucpro.models.registry import EMBEDDED
from virnucpro.pipeline.events import FileDone, Phase
from virnucpro.runs.changes import CAUSES, changes
from virnucpro.runs.config import EmbedConfig
from virnucpro.runs.embed import EmbedResult, run_embed
from virnucpro.runs.paths import RunPaths

RECORDS = random_records(40, longest=120)
#: Settings that values follow from, with one that none does.
SETTINGS = sorted({cause for causes in CAUSES.values() for cause in causes} | {"work_dir"})
#: Work files of the runs below, of 4 sequences each.
PARTS = 10


@given(st.sets(st.sampled_from([*sorted(CAUSES), "inputs", "torch_version"])), st.sets(st.sampled_from(SETTINGS)))
def test_what_differs_is_never_silent(different: set[str], changed: set[str]) -> None:
    """Whatever values and settings differ: a run that found nothing would go on with another's results."""
    old, asked = dict.fromkeys(CAUSES, 1), dict.fromkeys(SETTINGS, "a")
    words = changes(old, old | dict.fromkeys(different, 2), asked, asked | dict.fromkeys(changed, "b"))
    assert bool(words) == bool(different)


def embed_once(folder: Path, **changes: Any) -> bytes:
    """The result of an undisturbed run."""
    folder.mkdir(exist_ok=True)
    path = to_fasta(folder / "in.fa", RECORDS)
    settings: dict[str, Any] = {"device": "cpu", "dtype": "fp32"} | changes
    run_embed(EmbedConfig((path,), folder / "o.h5", **settings))
    return (folder / "o.h5").read_bytes()


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return embed_once(tmp_path_factory.mktemp("undisturbed"))


@pytest.fixture
def config(tmp_path: Path) -> EmbedConfig:
    path = to_fasta(tmp_path / "in.fa", RECORDS)
    return EmbedConfig((path,), tmp_path / "o.h5", device="cpu", dtype="fp32", batch_size=2048, sequences_per_file=4)


def interrupt(config: EmbedConfig, after: int = 5, before: int = 0) -> RunPaths:
    """Run until `after` work files are done in addition to `before` earlier ones, and stop there like Ctrl-C."""
    done = 0

    def stop(_worker: int, event: object) -> None:
        nonlocal done
        done += isinstance(event, FileDone)
        if done == after:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_embed(config, stop)
    paths = RunPaths(config.output)
    assert len(list(paths.parts.glob("*.fa"))) == PARTS
    assert len(list(paths.shards.glob("0*.h5"))) == before + after
    assert not config.output.exists()
    return paths


def options(config: EmbedConfig) -> list[object]:
    """The command line of `config`."""
    words: list[object] = ["embed", *config.inputs, "-o", config.output, "-d", config.device, "--dtype", config.dtype]
    words += ["--batch-size", config.batch_size, "--max-tokens", config.max_tokens, "--model", config.model]
    return [*words, "--sequences-per-file", config.sequences_per_file]


def record(config: EmbedConfig) -> dict[str, Any]:
    contents: dict[str, Any] = json.loads(RunPaths(config.output).record.read_text())
    return contents


# What may be used again.


def test_an_interrupted_run_goes_on(config: EmbedConfig, cli: Cli, expected: bytes) -> None:
    paths = interrupt(config)
    assert record(config)["state"] == "working"
    stamps = {path: path.stat().st_mtime_ns for path in paths.shards.glob("0*.h5")}
    seen: dict[Path, int] = {}

    def look(_worker: int, event: object) -> None:
        if isinstance(event, Phase) and event.name == "writing the result":
            seen.update({path: path.stat().st_mtime_ns for path in stamps})

    run_embed(config, look)
    assert seen == stamps  # used, not made again
    assert config.output.read_bytes() == expected
    assert record(config)["state"] == "complete"
    assert not paths.work.exists()


def test_it_says_that_it_resumes(config: EmbedConfig, cli: Cli, expected: bytes) -> None:
    paths = interrupt(config, after=7)
    done = cli(*options(config))
    assert done.returncode == 0
    assert f"resuming: 7 of {PARTS} work files done" in done.stderr
    assert f"resuming: 7 of {PARTS}" in paths.log.read_text()
    assert config.output.read_bytes() == expected


def test_interrupted_again_and_again(config: EmbedConfig, expected: bytes) -> None:
    interrupt(config, after=3)
    interrupt(config, after=2, before=3)
    interrupt(config, after=4, before=5)
    run_embed(config)
    assert config.output.read_bytes() == expected
    assert record(config)["devices"][0]["files"] == PARTS - 9


@pytest.mark.heavy
def test_other_devices_and_another_split(config: EmbedConfig, cli: Cli, expected: bytes) -> None:
    interrupt(config)
    done = cli(*options(replace(config, device="cpu,cpu", sequences_per_file=3)), "--threads", 2)
    assert done.returncode == 0, done.stderr
    assert f"resuming: 5 of {PARTS}" in done.stderr
    assert config.output.read_bytes() == expected
    check_balance(record(config), files=PARTS - 5)


def check_balance(contents: dict[str, Any], files: int) -> None:
    assert contents["state"] == "complete"
    assert [device["device"] for device in contents["devices"]] == ["cpu", "cpu"]
    assert sum(device["files"] for device in contents["devices"]) == files
    for device in contents["devices"]:
        assert {"files", "sequences", "tokens", "busy_seconds", "seconds", "busy_share"} <= device.keys()
        assert device["tokens"] >= device["sequences"]
        assert 0 <= device["busy_share"] <= 1
    busy = [device["busy_seconds"] for device in contents["devices"]]
    assert contents["busy_spread"] == pytest.approx(2 * max(busy) / sum(busy), abs=1e-3)


def test_the_record_of_a_run(config: EmbedConfig) -> None:
    run_embed(config)
    contents = record(config)
    assert contents["state"] == "complete"
    assert contents["result"] == {"sequences": 40, "dim": 128, "failures": []}
    assert contents["inputs"][0]["sha256"] == hashlib.sha256(config.inputs[0].read_bytes()).hexdigest()
    assert contents["models"]["model"]["name"] == "dnabert-mini"
    assert contents["failed_work_files"] == {}
    (device,) = contents["devices"]
    assert (device["files"], device["sequences"]) == (PARTS, 40)
    assert device["tokens"] > 40
    assert device["busy_seconds"] > 0
    assert contents["busy_spread"] == 1


# What must not be used again: each says why, and starts from the beginning.


def change_input(config: EmbedConfig) -> EmbedConfig:
    to_fasta(config.inputs[0], [*RECORDS[:-1], ("s119 of {PARTS}0", "ACGT")])
    return config


def change_tensor(config: EmbedConfig) -> EmbedConfig:
    path = Path(config.model) / "model.safetensors"
    tensors = load_file(path)
    name = sorted(tensors)[0]
    tensors[name] = tensors[name] + 0.25
    save_file(tensors, path)
    return config


def change_tokenizer(config: EmbedConfig) -> EmbedConfig:
    path = Path(config.model) / "tokenizer.json"
    path.write_text(path.read_text() + "\n")
    return config


CHANGES: dict[str, Callable[[EmbedConfig], EmbedConfig]] = {
    "inputs": change_input,
    "--dtype": lambda config: replace(config, dtype="bf16"),
    "--batch-size": lambda config: replace(config, batch_size=1024),
    "--max-tokens": lambda config: replace(config, max_tokens=16),
    "model weights": change_tensor,
    "model tokenizer": change_tokenizer,
}


@pytest.mark.parametrize("what", CHANGES)
def test_what_changed_is_said_and_the_run_starts_anew(what: str, config: EmbedConfig, cli: Cli, tmp_path: Path) -> None:
    model = shutil.copytree(EMBEDDED / "dnabert-mini", tmp_path / "model")
    config = replace(config, model=str(model))
    interrupt(config)
    changed = CHANGES[what](config)
    done = cli(*options(changed))
    assert done.returncode == (6 if what == "--max-tokens" else 0), done.stderr
    assert f"not resuming the earlier run: {what} changed; starting from the beginning" in done.stderr
    assert "resuming: " not in done.stderr
    assert record(config)["devices"][0]["files"] == PARTS
    fresh = replace(changed, output=tmp_path / "fresh.h5")
    run_embed(fresh)
    assert config.output.read_bytes() == fresh.output.read_bytes()


def test_no_resume(config: EmbedConfig, cli: Cli, expected: bytes) -> None:
    interrupt(config)
    done = cli(*options(config), "--no-resume")
    assert done.returncode == 0
    assert "resuming" not in done.stderr
    assert record(config)["devices"][0]["files"] == PARTS
    assert config.output.read_bytes() == expected


@pytest.mark.parametrize("harm", ["{", "[]", '{"state": "embedding"}', "\0\0"])
def test_damaged_record(harm: str, config: EmbedConfig, cli: Cli, expected: bytes) -> None:
    interrupt(config)
    RunPaths(config.output).record.write_text(harm)
    done = cli(*options(config))
    assert done.returncode == 0
    assert "is not a run record" in done.stderr
    assert config.output.read_bytes() == expected


# Damage among the work files.


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def flip_a_bit(path: Path, seed: int = 0) -> None:
    data = bytearray(path.read_bytes())
    data[random.Random(f"{path.name}{seed}").randrange(len(data))] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("harm", [cut, empty, flip_a_bit])
def test_damaged_results_are_made_again(
    harm: Callable[[Path], None], config: EmbedConfig, cli: Cli, expected: bytes
) -> None:
    paths = interrupt(config, after=6)
    damaged = sorted(paths.shards.glob("0*.h5"))[:4]
    for path in damaged:
        harm(path)
    done = cli(*options(config))
    assert done.returncode == 0
    said = done.stderr
    # A changed bit in a part of a shard that is not read is no damage.
    redone = [path for path in damaged if f"{path} is damaged" in said]
    assert len(redone) == 4 if harm is not flip_a_bit else len(redone) >= 3
    assert f"resuming: {6 - len(redone)} of {PARTS}" in said
    assert config.output.read_bytes() == expected


def make_a_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


@pytest.mark.parametrize("harm", [cut, empty, flip_a_bit, make_a_pipe, Path.unlink])
def test_damaged_work_files_are_cut_again(
    harm: Callable[[Path], None], config: EmbedConfig, cli: Cli, expected: bytes
) -> None:
    """A power cut may shorten a work file, and a disk may change a letter in it."""
    paths = interrupt(config)
    harm(sorted(paths.parts.glob("*.fa"))[-1])
    done = cli(*options(config))
    assert done.returncode == 0
    assert "000010.fa is missing or damaged; starting from the beginning" in done.stderr
    assert config.output.read_bytes() == expected


def lose_a_work_file(config: EmbedConfig) -> tuple[EmbedResult, Path]:
    """Run while work file 3 is missing; returns where it was put."""
    away = config.output.with_name("away.fa")

    def lose(_worker: int, event: object) -> None:
        if isinstance(event, Phase) and event.name == "embedding":
            shutil.move(RunPaths(config.output).part_file("000003", ".fa"), away)

    return run_embed(config, lose), away


def test_a_work_file_that_fails_is_listed_and_tried_again(config: EmbedConfig, cli: Cli, expected: bytes) -> None:
    result, away = lose_a_work_file(config)
    paths = RunPaths(config.output)
    assert [(row[0], row[1]) for row in result.failures] == [(str(config.inputs[0]), n) for n in range(9, 13)]
    assert all("its work file failed" in row[3] for row in result.failures)
    assert list(record(config)["failed_work_files"]) == ["000003.fa"]
    assert read_result(config.output)[0] == [f"s{i}" for i in range(40) if not 8 <= i < 12]
    shutil.move(away, paths.part_file("000003", ".fa"))
    done = cli(*options(config))
    assert done.returncode == 0
    assert "tried again" in done.stderr
    assert f"resuming: {PARTS - 1} of {PARTS}" in done.stderr
    assert config.output.read_bytes() == expected
    assert not paths.failed.exists()
    assert not paths.work.exists()


# A run that is complete.


def test_a_complete_run_has_nothing_to_do(config: EmbedConfig, cli: Cli, expected: bytes) -> None:
    run_embed(config)
    stamp, before = config.output.stat().st_mtime_ns, record(config)
    done = cli(*options(replace(config, sequences_per_file=50)))
    assert done.returncode == 0
    assert "nothing to do" in done.stderr
    assert (config.output.stat().st_mtime_ns, record(config)) == (stamp, before)
    assert not RunPaths(config.output).work.exists()


def test_a_complete_run_with_failures_still_says_so(config: EmbedConfig, cli: Cli) -> None:
    with open(config.inputs[0], "a") as file:
        file.write(">p\nMKVLE\n")
    first, second = cli(*options(config)), cli(*options(config))
    assert (first.returncode, second.returncode) == (6, 6)
    assert "nothing to do" in second.stderr
    assert f"1 failed; see {RunPaths(config.output).failed}" in second.stderr
    assert RunPaths(config.output).failed.exists()


@pytest.mark.parametrize("what", ["inputs", "--batch-size", "--max-tokens"])
def test_other_settings_do_not_overwrite_a_complete_run(what: str, config: EmbedConfig, cli: Cli) -> None:
    run_embed(config)
    before = config.output.read_bytes()
    done = cli(*options(CHANGES[what](config)))
    assert done.returncode == 3
    assert f"was made with other settings ({what})" in done.stderr
    assert "--force" in done.stderr
    assert config.output.read_bytes() == before
    assert not RunPaths(config.output).work.exists()
    assert cli(*options(CHANGES[what](config)), "--force").returncode in (0, 6)
    assert config.output.read_bytes() != before


def test_no_resume_does_not_overwrite_a_complete_run(config: EmbedConfig, cli: Cli, expected: bytes) -> None:
    run_embed(config)
    done = cli(*options(config), "--no-resume")
    assert done.returncode == 3
    assert "exists" in done.stderr
    assert config.output.read_bytes() == expected


def test_forced_run_that_is_interrupted_goes_on(config: EmbedConfig, cli: Cli, expected: bytes) -> None:
    run_embed(replace(config, max_tokens=16))
    old = config.output.read_bytes()
    config.output.rename(config.output.with_name("old.h5"))
    interrupt(replace(config, force=True))
    config.output.write_bytes(old)
    done = cli(*options(config))
    assert done.returncode == 3  # the files there do not belong to the interrupted run
    done = cli(*options(config), "--force")
    assert done.returncode == 0
    assert f"resuming: 5 of {PARTS}" in done.stderr
    assert config.output.read_bytes() == expected


# The folder of work files.


def test_only_what_is_ours_is_removed(config: EmbedConfig, expected: bytes, tmp_path: Path) -> None:
    scratch = tmp_path / "scratch"
    (scratch / "theirs").mkdir(parents=True)
    (scratch / "mine.txt").write_text("mine")
    used: list[Path] = []

    def look(_worker: int, event: object) -> None:
        if isinstance(event, FileDone):
            used.extend([event.path, event.output])

    run_embed(replace(config, work_dir=scratch), look)
    assert len(used) == 2 * PARTS
    assert all(scratch in path.parents for path in used)
    assert sorted(path.name for path in scratch.rglob("*")) == ["mine.txt", "theirs"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.fa", "o.h5", "o.h5.log", "o.h5.run.json", "scratch"]
    assert config.output.read_bytes() == expected


def test_a_work_folder_with_something_else_in_it_stays(config: EmbedConfig) -> None:
    work = RunPaths(config.output).work
    work.mkdir()
    (work / "mine.txt").write_text("mine")
    run_embed(config)
    assert [path.name for path in work.iterdir()] == ["mine.txt"]


def test_two_outputs_share_a_work_folder(config: EmbedConfig, expected: bytes, tmp_path: Path) -> None:
    shared = replace(config, work_dir=tmp_path / "scratch")
    with pytest.raises(KeyboardInterrupt):
        run_embed(shared, stop_at_once)
    (tmp_path / "other").mkdir()
    other = replace(shared, output=tmp_path / "other" / "o.h5", max_tokens=16)
    run_embed(other)
    run_embed(shared)
    assert config.output.read_bytes() == expected
    assert record(config)["devices"][0]["files"] == PARTS - 1
    assert list((tmp_path / "scratch").iterdir()) == []


def stop_at_once(_worker: int, event: object) -> None:
    if isinstance(event, FileDone):
        raise KeyboardInterrupt


def test_unfinished_files_of_a_killed_run_are_removed(config: EmbedConfig, tmp_path: Path) -> None:
    for name in (".o.h5.0123abcd-123.tmp", ".o.h5.run.json.89abcdef-77.tmp"):
        (tmp_path / name).write_text("half")
    others = [".o.h5.backup.tmp", ".o2.h5.0123abcd-123.tmp"]
    for name in others:
        (tmp_path / name).write_text("of another")
    run_embed(config)
    assert sorted(path.name for path in tmp_path.glob(".*")) == others
