"""What every run guarantees about files: no input and no foreign file is touched, there is one run at a time, messages
that cannot be written do not stop it, and what is resumed is what was left."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import HANGS, Cli, command_line, random_records, set_size, to_fasta

from virnucpro.errors import InputError, OutputError, UsageError
from virnucpro.pipeline.events import Phase, unheard
from virnucpro.runs.config import EmbedConfig, OrfsConfig, PredictConfig, TrainConfig
from virnucpro.runs.embed import run_embed
from virnucpro.runs.orfs import run_orfs
from virnucpro.runs.paths import OrfsPaths, RunPaths
from virnucpro.runs.predict import run_predict
from virnucpro.runs.record import RunRecord
from virnucpro.runs.session import Session, session

CPU = ("-d", "cpu", "--dtype", "fp32", "-t", 1)
RECORDS = random_records(30)


@pytest.fixture
def fasta(tmp_path: Path) -> Path:
    return to_fasta(tmp_path / "in.fa", RECORDS)


def tree(folder: Path) -> dict[str, bytes]:
    """All files below a folder."""
    files = (path for path in folder.rglob("*") if path.is_file() and not path.is_symlink())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def words(command: str, path: object, folder: Path) -> list[object]:
    """A command line with its results in `folder`."""
    return {
        "embed": ["embed", path, "-o", folder / "o.h5", *CPU],
        "predict": ["predict", path, "-o", folder, "-p", "o", *CPU],
        "train": ["train", "--virus", path, "--other", path, "-o", folder, *CPU],
        "orfs": ["orfs", path, "-o", folder / "o"],
    }[command]


# Names that do not fit.


@pytest.mark.parametrize("letters", [225, 250])
def test_an_input_whose_name_is_too_long_to_name_results_by(letters: int, tmp_path: Path, cli: Cli) -> None:
    path = to_fasta(tmp_path / ("n" * (letters - 3) + ".fa"), RECORDS)
    done = cli("predict", path, "-o", tmp_path / "out", *CPU)
    assert done.returncode == 3
    assert "too long" in done.stderr
    assert "--prefix" in done.stderr
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    "options",
    [
        ("predict", "{in}", "-o", "{}/out", "--prefix", "p" * 229),
        ("embed", "{in}", "-o", "{}/" + "e" * 245 + ".h5"),
        ("orfs", "{in}", "-o", "{}/" + "o" * 240),
        ("embed", "{in}", "-o", "{}/o.h5", "--work-dir", "{}/" + "/".join(["w" * 250] * 17)),
    ],
)
def test_names_that_are_too_long_are_refused_at_once(
    options: tuple[str, ...], fasta: Path, tmp_path: Path, cli: Cli
) -> None:
    done = cli(*(word.replace("{in}", str(fasta)).replace("{}", str(tmp_path)) for word in options))
    assert (done.returncode, "too long" in done.stderr) == (3, True), done.stderr
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == [fasta]


def test_the_longest_names_that_are_taken_work(fasta: Path, tmp_path: Path) -> None:
    longest = next(
        length for length in range(255, 0, -1) if _fits(OrfsConfig((fasta,), tmp_path / ("x" * length)), tmp_path)
    )
    assert longest > 200
    run_orfs(OrfsConfig((fasta,), tmp_path / ("x" * longest)))


def _fits(config: OrfsConfig, folder: Path) -> bool:
    from virnucpro.runs.names import check_names

    paths = OrfsPaths(config.output)
    try:
        check_names(paths, paths.results, (), "")
    except OutputError:
        return False
    return True


def test_an_empty_output_is_no_output(fasta: Path, tmp_path: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for command in ("embed", "predict", "train", "orfs"):
        options = words(command, fasta, tmp_path)
        options[options.index("-o") + 1] = ""
        done = cli(*options)
        assert (done.returncode, "empty" in done.stderr) == (2, True), done.stderr
    assert list(tmp_path.iterdir()) == [fasta]


def test_what_the_shell_opens_has_no_name(fasta: Path, tmp_path: Path, cli: Cli) -> None:
    """Like `<(cat in.fa)`: the end of a pipe, by its number."""
    ours, theirs = os.pipe()
    with open(theirs, "wb") as pipe:
        pipe.write(fasta.read_bytes())
    line = ("predict", f"/dev/fd/{ours}", "-o", tmp_path / "out", *CPU)
    refused = cli(*line)
    assert (refused.returncode, "--prefix" in refused.stderr) == (2, True), refused.stderr
    assert list(tmp_path.iterdir()) == [fasta]
    taken = cli(*line, "-p", "x")
    os.close(ours)
    assert taken.returncode == 0, taken.stderr
    assert (tmp_path / "out" / "x.sequences.tsv").exists()


# Inputs with names of files that a run writes or clears.

NAMED_ALIKE = {
    "embed": ["o.h5", "o.h5.failed.tsv", "o.h5.run.json", "o.h5.log", ".o.h5.lock", "o.h5.work/parts/000001.fa",
              "o.h5.work/streams/0", ".o.h5.0123abcd-5.tmp"],
    "predict": ["run.log", "o.failed.tsv", "o.virus.fna", "o.run.json", "o.work/shards/a.fa"],
    "train": ["train.log", "train.failed.tsv", "model.json", "MODEL_CARD.md", "train.work/features/a.fa"],
    "orfs": ["o.windows.fa", "o.failed.tsv", "o.orfs.log", "o.orfs.run.json", "o.orfs.work/streams/x.fa"],
}  # fmt: skip


@pytest.mark.parametrize(
    ("command", "name"), [(command, name) for command, all_ in NAMED_ALIKE.items() for name in all_]
)
def test_no_input_is_written_or_cleared(command: str, name: str, tmp_path: Path, cli: Cli) -> None:
    path = tmp_path / name
    path.parent.mkdir(parents=True, exist_ok=True)
    to_fasta(path, RECORDS)
    before = tree(tmp_path)
    for force in ((), ("--force",)):
        done = cli(*words(command, path, tmp_path), *force)
        assert (done.returncode, str(path) in done.stderr) == (2, True), done.stderr
        assert tree(tmp_path) == before


def test_an_input_under_another_name_is_the_same(fasta: Path, tmp_path: Path, cli: Cli) -> None:
    os.link(fasta, tmp_path / "o.h5.log")
    (tmp_path / "o.orfs.log").symlink_to(fasta)
    for command in ("embed", "orfs"):
        assert cli(*words(command, fasta, tmp_path), "--force").returncode == 2
    assert fasta.read_bytes() == tree(tmp_path)["in.fa"]


def test_a_table_of_groups_is_an_input(fasta: Path, tmp_path: Path, cli: Cli) -> None:
    (tmp_path / "train.log").write_text("s0\t1\n")
    done = cli(*words("train", fasta, tmp_path), "--group-by", tmp_path / "train.log", "--force")
    assert done.returncode == 2
    assert (tmp_path / "train.log").read_text() == "s0\t1\n"


# Other people's files.

FOREIGN = {
    "embed": ["o.h5.failed.tsv", "o.h5.run.json", "o.h5.log", "o.h5.work/parts/notes.txt"],
    "predict": ["run.log", "o.run.json", "o.work/shards/notes.txt"],
    "orfs": ["o.failed.tsv", "o.orfs.log", "o.orfs.run.json"],
}


@pytest.mark.parametrize(("command", "name"), [(command, name) for command in FOREIGN for name in FOREIGN[command]])
def test_other_peoples_files_are_taken_only_if_told(
    command: str, name: str, fasta: Path, tmp_path: Path, cli: Cli
) -> None:
    path = tmp_path / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("notes of mine\n")
    before = tree(tmp_path)
    refused = cli(*words(command, fasta, tmp_path))
    assert (refused.returncode, "--force" in refused.stderr) == (3, True), refused.stderr
    assert tree(tmp_path) == before
    assert cli(*words(command, fasta, tmp_path), "--force").returncode == 0
    assert not path.exists() or b"notes of mine" not in path.read_bytes()


def test_the_record_of_another_command_is_other_peoples(fasta: Path, tmp_path: Path, cli: Cli) -> None:
    assert cli(*words("predict", fasta, tmp_path)).returncode == 0
    (tmp_path / "o.run.json").rename(tmp_path / "o.orfs.run.json")
    refused = cli(*words("orfs", fasta, tmp_path))
    assert (refused.returncode, "o.orfs.run.json exists" in refused.stderr) == (3, True), refused.stderr


def test_orfs_and_predict_under_one_name(fasta: Path, tmp_path: Path, cli: Cli) -> None:
    """They have separate records."""
    assert cli(*words("predict", fasta, tmp_path)).returncode == 0
    before = (tmp_path / "o.run.json").read_bytes()
    (tmp_path / "o.failed.tsv").unlink()
    assert cli(*words("orfs", fasta, tmp_path)).returncode == 0
    assert (tmp_path / "o.run.json").read_bytes() == before


@pytest.mark.parametrize("name", ["o.h5.log", "o.h5.failed.tsv", "o.h5.run.json", "o.h5.work"])
def test_symbolic_links_are_not_followed(name: str, fasta: Path, tmp_path: Path, cli: Cli) -> None:
    target = tmp_path / "elsewhere" / "target"
    target.parent.mkdir()
    if name.endswith("work"):
        (target / "parts").mkdir(parents=True)
        to_fasta(target / "parts" / "mine.fa", RECORDS)
    else:
        target.write_text("mine\n")
    (tmp_path / name).symlink_to(target)
    before = tree(target.parent)
    refused = cli(*words("embed", fasta, tmp_path))
    assert (refused.returncode, "is a symbolic link" in refused.stderr) == (3, True), refused.stderr
    assert cli(*words("embed", fasta, tmp_path), "--force").returncode == 0
    assert tree(target.parent) == before
    assert not (tmp_path / name).is_symlink()


# One run at a time.


def test_another_work_folder_is_no_other_output(fasta: Path, tmp_path: Path, cli: Cli) -> None:
    """The lock is on the output, wherever the work files are."""
    config = EmbedConfig((fasta,), tmp_path / "o.h5", device="cpu", dtype="fp32", threads=1)
    said = []

    def meanwhile(_worker: int, event: object) -> None:
        if isinstance(event, Phase) and event.name == "embedding" and not said:
            said.append(cli(*words("embed", fasta, tmp_path), "--work-dir", tmp_path / "w").stderr)

    assert run_embed(config, meanwhile).sequences == len(RECORDS)
    assert "another run is writing" in said[0]
    assert not (tmp_path / ".o.h5.lock").exists()


def test_a_lock_that_was_removed_is_no_lock(fasta: Path, tmp_path: Path) -> None:
    """A process that opened the lock file before its holder removed it must not take it for the current one."""
    path = RunPaths(tmp_path / "o.h5").lock
    with open(path, "w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        path.unlink()
        run_embed(EmbedConfig((fasta,), tmp_path / "o.h5", device="cpu", threads=1))
    assert (tmp_path / "o.h5").exists()
    path.touch()  # left by a run that was killed: nobody holds it
    run_embed(EmbedConfig((fasta,), tmp_path / "o.h5", device="cpu", threads=1))
    assert not path.exists()


def test_the_lock_of_another_run_is_not_removed(tmp_path: Path) -> None:
    """The lock of a run that began after somebody had removed the lock of this run."""
    paths = RunPaths(tmp_path / "o.h5")

    def begin() -> AbstractContextManager[Session]:
        return session("embed", paths, {}, force=False, listen=unheard)

    with ExitStack() as stack:
        with begin():
            paths.lock.unlink()
            stack.enter_context(begin())
        with pytest.raises(OutputError, match="another run is writing"):
            stack.enter_context(begin())
    assert not paths.lock.exists()


NO_LOCKS = "#include <errno.h>\nint flock(int fd, int op) { errno = ENOLCK; return -1; }\n"


def test_a_file_system_without_locks(fasta: Path, tmp_path: Path) -> None:
    """NFS and Lustre may be like this: it does not mean that there is another run."""
    if shutil.which("gcc") is None:
        pytest.skip("needs gcc")
    (tmp_path / "no.c").write_text(NO_LOCKS)
    subprocess.run(["gcc", "-shared", "-fPIC", "-o", tmp_path / "no.so", tmp_path / "no.c"], check=True)
    done = subprocess.run(
        command_line(*words("orfs", fasta, tmp_path)),
        capture_output=True,
        text=True,
        timeout=HANGS,
        env=os.environ | {"LD_PRELOAD": str(tmp_path / "no.so")},
    )
    assert done.returncode == 0, done.stderr
    assert "another run" not in done.stderr
    assert "does not support locks (No locks available)" in done.stderr
    assert (tmp_path / "o.orfs.fna").exists()


# Messages.


@pytest.mark.parametrize("full", [False, pytest.param(True, marks=pytest.mark.heavy)])
def test_messages_that_cannot_be_written_are_lost_and_nothing_else(
    full: bool, fasta: Path, tmp_path: Path, cli: Cli
) -> None:
    """Nobody reads them, or the disk is full."""
    reader, writer = os.pipe()
    os.close(reader)
    with open(writer, "w") as closed, open("/dev/full", "w") as disk:
        line = command_line(*words("predict", fasta, tmp_path / "unheard"))
        done = subprocess.run(line, stdout=closed, stderr=disk if full else closed, timeout=HANGS)
    assert done.returncode == cli(*words("predict", fasta, tmp_path / "heard")).returncode == 0
    unheard, heard = (tree(tmp_path / name) for name in ("unheard", "heard"))
    assert unheard.keys() == heard.keys()
    assert unheard["o.sequences.tsv"] == heard["o.sequences.tsv"]


@pytest.mark.parametrize(("redirected", "code"), [("2>/dev/full", 3), (">/dev/full", 3), ("| head -1", 0), ("2>&-", 3)])
def test_streams_that_fail(redirected: str, code: int, tmp_path: Path) -> None:
    """Errors keep their exit code; an answer that cannot be written is an error, too."""
    command = "models list" if redirected[0] in ">|" else f"orfs {tmp_path}/none.fa -o {tmp_path}/o"
    line = f"set -o pipefail; {sys.executable} -m virnucpro {command} {redirected}"
    done = subprocess.run(["bash", "-c", line], capture_output=True, text=True, timeout=HANGS)
    assert done.returncode == code
    assert "Traceback" not in done.stderr
    assert "cannot write standard output" in done.stderr or redirected != ">/dev/full"


def test_full_disk_for_everything_but_the_first_bytes(small_disk: Path, fasta: Path, cli: Cli) -> None:
    """The log, the work folder, the record: an error that names a file, and no traceback."""
    for kilobytes in (4, 8, 12, 16, 24, 32):
        set_size(small_disk, kilobytes)
        for command in ("embed", "predict", "orfs"):
            done = cli(*words(command, fasta, small_disk / f"{command}{kilobytes}"))
            if done.returncode:
                assert (done.returncode, "Traceback" in done.stderr) == (3, False), done.stderr
                assert "No space left on device" in done.stderr or "does not exist" in done.stderr


# What is resumed.


def stop_at(stage: str) -> Callable[[int, object], None]:
    def stop(_worker: int, event: object) -> None:
        if isinstance(event, Phase) and event.name == stage:
            raise KeyboardInterrupt

    return stop


@pytest.fixture
def settings(fasta: Path, tmp_path: Path) -> dict[str, Any]:
    return {"inputs": (fasta,), "output": tmp_path / "out", "device": "cpu", "dtype": "fp32", "threads": 1}


def test_another_threshold_goes_on_from_the_same_vectors(
    settings: dict[str, Any], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    settings |= {"model": "mini-1"}
    with pytest.raises(KeyboardInterrupt):
        run_predict(PredictConfig(**settings), stop_at("calling"))
    with caplog.at_level("INFO", "virnucpro"):
        run_predict(PredictConfig(**settings, min_score=0.25, vanilla_output=True))
    assert caplog.text.count("resuming: ") == 1
    run_predict(PredictConfig(**settings | {"output": tmp_path / "fresh"}, min_score=0.25, vanilla_output=True))
    names = [path.name for path in (tmp_path / "fresh").iterdir() if path.name not in ("run.log", "in.run.json")]
    for name in names:
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "fresh" / name).read_bytes()


def test_results_that_a_forced_run_does_not_make_are_removed(settings: dict[str, Any], tmp_path: Path) -> None:
    settings |= {"model": "mini-1"}
    run_predict(PredictConfig(**settings, vanilla_output=True, keep_embeddings=True, report=True))
    folder = tmp_path / "out"
    others = {"in.report.html", "in.dna.h5", "in.protein.h5", "in_merged.pt", "prediction_results.txt"}
    assert others < {path.name for path in folder.iterdir()}
    run_predict(PredictConfig(**settings, min_score=0.25, force=True))
    assert not others & {path.name for path in folder.iterdir()}


def test_another_work_folder_takes_over_what_is_done(
    settings: dict[str, Any], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """After a full disk a run can continue in another place, and nothing is left in the old one."""
    settings |= {"output": tmp_path / "o.h5", "sequences_per_file": 8}
    with pytest.raises(KeyboardInterrupt):
        run_embed(EmbedConfig(**settings, work_dir=tmp_path / "one"), stop_at("writing the result"))
    assert list((tmp_path / "one").rglob("*.h5"))
    with caplog.at_level("INFO", "virnucpro"):
        run_embed(EmbedConfig(**settings, work_dir=tmp_path / "two"))
    assert "resuming: 4 of 4 work files done" in caplog.text
    assert list((tmp_path / "one").iterdir()) == list((tmp_path / "two").iterdir()) == []


def test_a_copy_of_a_run_leaves_the_original_alone(settings: dict[str, Any], tmp_path: Path) -> None:
    settings |= {"output": tmp_path / "one" / "o.h5"}
    (tmp_path / "one").mkdir()
    with pytest.raises(KeyboardInterrupt):
        run_embed(EmbedConfig(**settings), stop_at("writing the result"))
    before = tree(tmp_path / "one")
    shutil.copytree(tmp_path / "one", tmp_path / "two")
    shutil.rmtree(tmp_path / "two" / "o.h5.work")
    run_embed(EmbedConfig(**settings | {"output": tmp_path / "two" / "o.h5"}))
    assert tree(tmp_path / "one") == before


def test_a_run_that_starts_anew_clears_the_old_work_folder(settings: dict[str, Any], tmp_path: Path) -> None:
    settings |= {"output": tmp_path / "o.h5"}
    with pytest.raises(KeyboardInterrupt):
        run_embed(EmbedConfig(**settings, work_dir=tmp_path / "one"), stop_at("writing the result"))
    run_embed(EmbedConfig(**settings, max_tokens=30))
    assert list((tmp_path / "one").iterdir()) == []


@pytest.mark.parametrize("command", ["embed", "predict", "orfs"])
def test_an_input_that_changes_under_the_run(
    command: str, settings: dict[str, Any], fasta: Path, tmp_path: Path
) -> None:
    """Between its checksum and its reading."""

    def change(_worker: int, event: object) -> None:
        if isinstance(event, Phase) and event.name == "splitting":
            to_fasta(fasta, RECORDS[:1])

    embedding, calling = (settings | {"output": tmp_path / name} for name in ("o.h5", "o"))
    run: Callable[[], object] = {
        "embed": lambda: run_embed(EmbedConfig(**embedding), change),
        "predict": lambda: run_predict(PredictConfig(**calling), change),
        "orfs": lambda: run_orfs(OrfsConfig((fasta,), tmp_path / "o"), change),
    }[command]
    with pytest.raises(InputError, match="changed during the run"):
        run()
    assert not list(tmp_path.glob("o*/*.tsv")) + list(tmp_path.glob("o.h5")) + list(tmp_path.glob("*.windows.fa"))
    run()
    record = json.loads(next(path for path in tmp_path.rglob("*.run.json")).read_text())
    assert record["inputs"][0]["size"] == fasta.stat().st_size


def test_a_result_of_another_work_file_is_not_taken(
    settings: dict[str, Any], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """All results of a run look alike: the same fingerprint, the same number of sequences."""
    settings |= {"output": tmp_path / "o.h5", "sequences_per_file": 8}
    with pytest.raises(KeyboardInterrupt):
        run_embed(EmbedConfig(**settings), stop_at("writing the result"))
    shards = RunPaths(tmp_path / "o.h5").shards
    shutil.copy(shards / "000001.fa.h5", shards / "000002.fa.h5")
    run_embed(EmbedConfig(**settings))
    assert "000002.fa.h5 is the result of another file" in caplog.text
    run_embed(EmbedConfig(**settings | {"output": tmp_path / "fresh.h5"}))
    assert (tmp_path / "o.h5").read_bytes() == (tmp_path / "fresh.h5").read_bytes()


def test_a_clock_that_goes_backwards(settings: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import time

    real = time.time
    began = real()
    monkeypatch.setattr(time, "time", lambda: began - 1000 * (real() - began))
    run_orfs(OrfsConfig(settings["inputs"], tmp_path / "o"))
    record = RunRecord.load(tmp_path / "o.orfs.run.json")
    assert record is not None
    assert record.details["seconds"] >= 0
    assert all(seconds >= 0 for seconds in record.details["stages"].values())


# Settings from Python.


@pytest.mark.parametrize(
    "wrong",
    [
        {"dtype": "float32"}, {"dtype": None}, {"batch_size": -1}, {"batch_size": 2.5}, {"batch_size": True},
        {"device": -1}, {"device": None}, {"device": ["cpu"]}, {"threads": 0}, {"threads": 10**9},
        {"sequences_per_file": 0}, {"work_dir": 3}, {"work_dir": ""}, {"models_dir": b"x"}, {"resume": "no"},
        {"force": 1}, {"output": ""}, {"output": "a\0b"}, {"inputs": ()}, {"inputs": "in.fa"}, {"inputs": 3},
        {"model": 7}, {"model": ""}, {"min_score": 2}, {"min_score": float("nan")}, {"min_score": "0.5"},
        {"prefix": "a/b"}, {"prefix": ""}, {"prefix": ".."}, {"window": 0}, {"min_length": -1}, {"preset": 3},
        {"exact": "published"}, {"report": None},
    ],
)  # fmt: skip
def test_settings_that_make_no_sense(wrong: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=f"^{next(iter(wrong))} must be"):
        PredictConfig(**{"inputs": ["in.fa"], "output": "out"} | wrong)


@pytest.mark.parametrize(
    "wrong", [{"seed": -1}, {"test_fraction": 0}, {"validation_fraction": 0.6}, {"learning_rate": float("inf")}]
)
def test_settings_of_training_that_make_no_sense(wrong: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=f"^{next(iter(wrong))} must be"):
        TrainConfig(inputs=(Path("v"), Path("o")), output=Path("m"), **wrong)


def test_settings_in_a_pythons_words() -> None:
    config = PredictConfig(["in.fa"], "out", device=0, work_dir="w", model=Path("set"))  # type: ignore[arg-type]
    assert (config.inputs, config.output, config.work_dir) == ((Path("in.fa"),), Path("out"), Path("w"))
    assert (config.device, config.model) == ("0", "set")


def test_settings_as_numpy_has_them() -> None:
    paths: Any = np.array(["a.fa", "b.fa"])
    config = PredictConfig(paths, paths[0], batch_size=np.int32(512), min_score=np.float32(0.5), model=paths[1])
    assert (config.inputs, config.output) == ((Path("a.fa"), Path("b.fa")), Path("a.fa"))
    assert (config.batch_size, config.min_score, config.model) == (512, 0.5, "b.fa")
    assert [type(each) for each in (config.batch_size, config.min_score, config.model)] == [int, float, str]
