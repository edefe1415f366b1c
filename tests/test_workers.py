"""Worker processes that die, hang, break or cannot start: what happens to their files, their devices and the run."""

from __future__ import annotations

import logging
import multiprocessing
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import light_workers as light
import psutil
import pytest
import real_workers as real
import torch
from conftest import HANGS, alive, random_records, to_fasta, workers_of
from launcher_tests import KillingLauncherTests, LauncherTests, outputs

from virnucpro.errors import DeviceError, InputError, ModelError, UsageError
from virnucpro.io.store import read_shard
from virnucpro.pipeline import work_queue
from virnucpro.pipeline.launch_local import Inline, Processes, Work, Workers, launcher_for, started_ahead
from virnucpro.pipeline.parallel_dnabert import embed_dnabert_files, process_dnabert_files_worker
from virnucpro.pipeline.schedule import STALL_SECONDS
from virnucpro.pipeline.work_queue import QueueResult, WorkQueue

TESTS = Path(__file__).parent


def files(number: int) -> dict[Path, int]:
    return {Path(f"{index}.fa"): 1 for index in range(number)}


def run(worker: Any, devices: Sequence[str], folder: Path, number: int = 6, **options: Any) -> QueueResult:
    """A run of so many files with light workers."""
    return WorkQueue(worker, devices, 0, folder, files(number), options).run()


def test_what_only_a_start_can_hand_over_reaches_the_workers(tmp_path: Path) -> None:
    """Locks and queues of multiprocessing cannot be sent later."""
    result = run(light.copier, ["a", "b"], tmp_path, gate=multiprocessing.get_context("spawn").Barrier(2))
    assert (len(result.done), result.failed) == (6, {})


# Devices and files that kill.


@pytest.mark.parametrize("devices", [["cuda:0"], ["a", "b"]])
def test_poison_takes_its_workers_down_and_nothing_else(devices: list[str], tmp_path: Path) -> None:
    """Also on one GPU: its worker is a process of its own. (No GPU is used here.)"""
    result = run(light.dies_on_3, devices, tmp_path)
    assert result.failed.keys() == {Path("3.fa")}
    assert outputs(tmp_path) == {f"{number}.fa" for number in (0, 1, 2, 4, 5)} == {path.name for path in result.done}
    reason = result.failed[Path("3.fa")]
    assert reason.startswith("2 workers died on it, the last on ")
    assert reason.endswith(" (SIGKILL; out of memory?)")


def test_what_a_device_kills_another_does(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    result = run(light.dies_on_bad, ["bad", "good"], tmp_path, 12)
    assert (len(result.done), result.failed) == (12, {})
    assert [stats.files for stats in result.stats] == [0, 12]
    assert caplog.text.count("the worker on bad died (SIGKILL; out of memory?)") == 3
    assert "no more workers are started on bad: 3 workers died there without finishing a file" in caplog.text


def real_files(folder: Path, number: int) -> dict[Path, int]:
    """Files of 40 sequences, each of several batches of 512 tokens."""
    records = random_records(40 * number, shortest=190, longest=210)
    paths = [folder / f"{index:03}.fa" for index in range(number)]
    return {to_fasta(path, records[40 * index : 40 * index + 40]): 40 for index, path in enumerate(paths)}


@pytest.mark.heavy
@pytest.mark.parametrize("worker", [real.sticky_on_bad, real.killed_on_bad])
def test_a_broken_device_loses_no_file(worker: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    counts, options = real_files(tmp_path, 16), {"dtype": "fp32", "threads": 1}
    (tmp_path / "out").mkdir()
    result = WorkQueue(worker, ["good", "bad"], 512, tmp_path / "out", counts, options).run()
    assert (result.done.keys(), result.failed) == (counts.keys(), {})
    process_dnabert_files_worker(counts, "cpu", 512, tmp_path / "alone", **options)
    for output in result.done.values():
        assert output.read_bytes() == (tmp_path / "alone" / output.name).read_bytes()
    if worker is real.sticky_on_bad:
        assert "the worker on bad crashed:\nTraceback (most recent call last):" in caplog.text
        assert "died (RuntimeError: CUDA error: an illegal memory access was encountered)" in caplog.text
    else:
        assert "the worker on bad died (SIGKILL; out of memory?)" in caplog.text


def test_a_device_that_cannot_be_used_leaves_the_work_to_the_others(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    result = run(light.unusable_on_bad, ["bad", "good"], tmp_path)
    assert (len(result.done), result.failed) == (6, {})
    assert "no more workers are started on bad: cannot use bad (mend it)" in caplog.text
    with pytest.raises(DeviceError, match="cannot use bad") as caught:
        run(light.unusable_on_bad, ["bad"], tmp_path)
    assert caught.value.hint == "mend it"


def test_devices_on_which_no_worker_lives(tmp_path: Path) -> None:
    with pytest.raises(DeviceError, match=r"no worker on one, other stays alive: 3 workers died .*: exit code 7"):
        run(light.stillborn, ["one", "other"], tmp_path)
    assert 3 <= len(light.notes(tmp_path)) <= 6
    assert workers_of(os.getpid()) == []


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGRTMIN + 3])
def test_death_of_an_idle_worker(number: int, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Real-time signals have a number and no name."""
    result = run(light.dies_idle, ["idle", "busy"], tmp_path, 2, signal=number)
    assert (len(result.done), result.failed) == (2, {})
    said = "SIGKILL; out of memory?" if number == signal.SIGKILL else f"signal {number:d}"
    assert f"the worker on idle died ({said})" in caplog.text


def test_an_unforeseen_error_is_told_with_its_traceback(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    result = run(light.raises_on_3, ["a", "b"], tmp_path)
    assert len(result.done) == 5
    (reason,) = result.failed.values()
    assert reason.endswith("(KeyError: 'colour')")
    assert "Traceback (most recent call last):" in caplog.text
    assert 'raise KeyError("colour")' in caplog.text


def test_an_error_of_all_workers_ends_the_run(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no such weights") as caught:
        run(light.no_model, ["one", "other"], tmp_path)
    assert caught.value.hint == "get them"
    assert workers_of(os.getpid()) == []


# Workers that hang, and workers whose parent is gone.


@pytest.fixture
def hurried(monkeypatch: pytest.MonkeyPatch) -> Callable[[Path], None]:
    """A clock that runs fast while the process whose number is in a file lives."""
    extra = [0.0]

    def since(path: Path) -> None:
        def monotonic() -> float:
            if path.exists() and (pid := path.read_text()) and Path("/proc", pid).exists():
                extra[0] += 30
            return time.monotonic() + extra[0]

        monkeypatch.setattr(work_queue, "time", SimpleNamespace(monotonic=monotonic))
        monkeypatch.setattr(work_queue, "TICK_SECONDS", 0.01)

    return since


@pytest.mark.parametrize("worker", [light.hangs_last, light.hangs_as_it_speaks])
def test_a_worker_that_hangs_is_replaced(
    worker: Any, hurried: Callable[[Path], None], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """For half an hour a stopped process says nothing."""
    hurried(tmp_path / "hung")
    result = run(worker, ["a", "b"], tmp_path, others=5)
    assert (len(result.done), result.failed) == (6, {})
    (seconds,) = map(int, re.findall(r"died \(it was silent for (\d+) s\)", caplog.text))
    assert seconds > STALL_SECONDS


@pytest.mark.parametrize("moment", ["unpacks", "loads"])
def test_workers_whose_parent_is_gone_end(moment: str, tmp_path: Path) -> None:
    """Whatever they do: while their arguments, and so PyTorch, are imported, and while weights are loaded."""
    code = f"""if True:
        import sys
        sys.path.insert(0, {str(TESTS)!r})
        from pathlib import Path
        import light_workers as light
        from virnucpro.pipeline.work_queue import WorkQueue
        folder = Path({str(tmp_path)!r})
        options = {{"much": light.UnpacksForEver(folder)}} if {moment!r} == "unpacks" else {{}}
        WorkQueue(light.loads_for_ever, ["a", "b"], 0, folder, {{Path("1"): 1, Path("2"): 1}}, options).run()
    """
    parent = subprocess.Popen([sys.executable, "-c", code])
    try:
        light.wait_for(lambda: len(light.notes(tmp_path)) == 2 or parent.poll() is not None)
        orphans = workers_of(parent.pid)
        assert len(orphans) == 2
    finally:
        parent.kill()
        parent.wait()
    light.wait_for(lambda: not alive(orphans))


# Where workers cannot be started.

UNGUARDED = "import virnucpro; virnucpro.embed('in.fa', 'out.h5', device='cpu,cpu')\n"


@pytest.mark.heavy
def test_a_program_without_a_guard_is_told_so(tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(LIGHT_PROGRAM.replace('__name__ == "__main__"', "True"))
    command = [sys.executable, tmp_path / "program.py", TESTS, tmp_path]
    done = subprocess.run(command, capture_output=True, text=True, timeout=HANGS, cwd=tmp_path)
    assert done.returncode == 1
    said = "UsageError: worker processes fail as they import this program; see above (put the call under `if __name__"
    assert said in done.stderr.splitlines()[-1]
    assert "UsageError: a worker process reached this call as it imported the program" in done.stderr
    assert outputs(tmp_path) == set()


@pytest.mark.heavy
def test_a_program_from_standard_input_is_told_so(tmp_path: Path) -> None:
    to_fasta(tmp_path / "in.fa", random_records(2))
    done = subprocess.run(
        [sys.executable], input=UNGUARDED, capture_output=True, text=True, timeout=HANGS, cwd=tmp_path
    )
    assert done.returncode == 1
    assert "UsageError: workers cannot import the program, since there is no file" in done.stderr
    assert not (tmp_path / "out.h5.work").exists()


def test_a_daemonic_process_is_told_so(tmp_path: Path) -> None:
    path = tmp_path / "program.py"
    path.write_text(
        "import multiprocessing, virnucpro\n"
        'if __name__ == "__main__":\n'
        "    with multiprocessing.Pool(1) as pool:\n"
        '        pool.apply(virnucpro.embed, ("in.fa",), {"device": "cpu,cpu"})\n'
    )
    to_fasta(tmp_path / "in.fa", random_records(2))
    done = subprocess.run([sys.executable, path], capture_output=True, text=True, timeout=HANGS, cwd=tmp_path)
    assert done.returncode == 1
    assert "UsageError: a daemonic process, such as those of multiprocessing.Pool, cannot start workers" in done.stderr


LIGHT_PROGRAM = """
import sys
sys.path.insert(0, sys.argv[1])
from pathlib import Path
import light_workers
from virnucpro.pipeline.work_queue import WorkQueue
if __name__ == "__main__":
    WorkQueue(light_workers.copier, ["a", "b"], 0, Path(sys.argv[2]), {Path("1"): 1, Path("2"): 1}).run()
"""


@pytest.mark.heavy
@pytest.mark.skipif(sys.version_info < (3, 11), reason="Python 3.10 always begins in the current folder")
def test_files_in_the_current_folder_are_not_imported(tmp_path: Path) -> None:
    for name in ("random", "socket", "selectors", "tempfile"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('the wrong module')")
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    (folder / "program.py").write_text(LIGHT_PROGRAM)
    command = [sys.executable, folder / "program.py", TESTS, folder]
    done = subprocess.run(command, capture_output=True, text=True, timeout=HANGS, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert outputs(folder) == {"1", "2"}


def test_files_of_one_name_are_refused_where_all_are_known(tmp_path: Path) -> None:
    same = [tmp_path / folder / "same.fa" for folder in "xy"]
    refused = f"{same[0]} and {same[1]} would have the same result file"
    with pytest.raises(InputError, match=refused):
        WorkQueue(light.copier, ["a", "b"], 0, tmp_path, dict.fromkeys(same, 1))
    with pytest.raises(InputError, match=refused):
        embed_dnabert_files(same, ["cpu"], tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


# Workers that stay.


def stay(workers: Workers, devices: Sequence[str], folder: Path, *names: str) -> set[tuple[int, int]]:
    """A run over files of these names; for each worker its process, and how many runs it has done there."""
    folder.mkdir()
    files, options = {Path(name): 1 for name in names}, {"workers": len(devices)}
    queue = WorkQueue(light.keeper, devices, 0, folder, files, options, launch=workers.launch)
    done = set(map(str, queue.run().done))
    assert done == {*names} - {"3.fa"}
    found = [line.split() for line in light.notes(folder) if " did " not in line]
    return {(int(pid), int(runs)) for pid, runs in found}


def test_workers_stay_for_the_next_run(tmp_path: Path) -> None:
    with Workers() as workers:
        first = stay(workers, ["a", "b"], tmp_path / "1", "1.fa", "2.fa")
        second = stay(workers, ["a", "b"], tmp_path / "2", "1.fa", "2.fa")
        assert {pid for pid, _ in first} == {pid for pid, _ in second} == {one.pid for one in workers_of(os.getpid())}
        assert [runs for _, runs in (*first, *second)] == [1, 1, 2, 2]
    assert workers_of(os.getpid()) == []


def test_one_worker_in_this_process_keeps_what_it_loads(tmp_path: Path) -> None:
    with Workers() as workers:
        runs = [stay(workers, ["cpu"], tmp_path / name, "1.fa") for name in ("1", "2")]
        assert runs == [{(os.getpid(), 1)}, {(os.getpid(), 2)}]
    assert workers.kept == {}


def test_one_that_dies_does_not_stay(tmp_path: Path) -> None:
    with Workers() as workers:
        first = stay(workers, ["a"], tmp_path / "1", "1.fa", "3.fa")
        assert len(first) > 1
        ((pid, runs),) = stay(workers, ["a"], tmp_path / "2", "1.fa")
        assert runs == 1
        assert pid not in dict(first)


def test_one_that_is_killed_while_it_waits(tmp_path: Path) -> None:
    with Workers() as workers:
        (first,) = stay(workers, ["a"], tmp_path / "1", "1.fa")
        psutil.Process(first[0]).kill()
        (second,) = stay(workers, ["a"], tmp_path / "2", "1.fa")
        assert second == (second[0], 1)
        assert second[0] != first[0]


def test_one_that_cannot_be_used_does_not_stay(tmp_path: Path) -> None:
    with Workers() as workers:
        queue = WorkQueue(light.unusable_on_bad, ["bad", "good"], 0, tmp_path, files(6), launch=workers.launch)
        assert len(queue.run().done) == 6
        assert [*workers.resting] == ["good"]


# Workers that are started before the run.


def test_a_run_has_workers_that_were_started_before(tmp_path: Path) -> None:
    """Those without a file end with the run, too."""
    with started_ahead("cpu,cpu,cpu") as launch:
        before = {worker.pid for worker in workers_of(os.getpid())}
        assert len(before) == 3
        queue = WorkQueue(light.keeper, ["cpu"] * 3, 0, tmp_path, files(2), {"workers": 2}, launch=launch)
        assert len(queue.run().done) == 2
        used = {int(line.split()[0]) for line in light.notes(tmp_path) if " did " not in line}
        assert len(used) == 2
        assert used < before
        assert workers_of(os.getpid()) == []


@pytest.mark.parametrize("spec", ["cpu", "nonsense", None])
def test_none_is_started_before_where_none_is_needed_or_can_be(spec: str | None) -> None:
    with started_ahead(spec) as launch:
        assert launch is launcher_for
        assert workers_of(os.getpid()) == []


def test_none_is_started_before_by_a_process_that_cannot_start_any(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(vars(multiprocessing.current_process())["_config"], "daemon", True)
    with started_ahead("cpu,cpu") as launch:
        assert launch is launcher_for
        assert workers_of(os.getpid()) == []


def test_a_worker_that_was_started_is_not_started_again(tmp_path: Path) -> None:
    launcher = Processes(Work(light.copier, ["a", "b"], 0, tmp_path, {}))
    launcher.start(1)
    try:
        (before,) = workers_of(os.getpid())
        launcher.start(1)
        assert workers_of(os.getpid()) == [before]
        queue = WorkQueue(light.copier, ["a", "b"], 0, tmp_path, files(4), launch=lambda _work: launcher)
        assert len(queue.run().done) == 4
        assert not before.is_running()
    finally:
        launcher.close()


# Every launcher, by the same tests.


def test_the_kind_of_launcher(tmp_path: Path) -> None:
    for devices, kind in ((["cpu"], Inline), (["cuda:0"], Processes), (["cpu", "cpu"], Processes)):
        assert type(launcher_for(Work(light.copier, devices, 0, tmp_path, {}))) is kind


class TestInline(LauncherTests):
    launch, returned, crashed = Inline, "it returned", "it returned"


class TestProcesses(KillingLauncherTests):
    launch = Processes


def test_an_error_of_the_listener_is_none_of_the_worker(tmp_path: Path) -> None:
    def fail(_slot: int, _event: object) -> None:
        raise ZeroDivisionError

    for devices in (["cpu"], ["one"]):
        with pytest.raises(ZeroDivisionError):
            WorkQueue(light.copier, devices, 0, tmp_path, files(2), {}, fail).run()
        assert workers_of(os.getpid()) == []


@pytest.mark.heavy
def test_a_process_is_started_as_the_run_is_set_up(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Its log has the level of the parent's; its tokenizer has the threads of a worker."""
    for level, details in ((logging.DEBUG, 1), (logging.INFO, 0)):
        with caplog.at_level(level, "virnucpro"):
            run(light.talks, ["cpu", "cpu"], tmp_path, 1, threads=3)
        assert caplog.text.count("[cpu] a detail") == details
        caplog.clear()
    assert light.notes(tmp_path).count("RAYON_NUM_THREADS=3") == 2


def test_a_tokenizer_in_this_process_has_the_threads_of_the_worker(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a setting that later workers do not inherit."""
    monkeypatch.delenv("RAYON_NUM_THREADS", raising=False)
    run(light.talks, ["cpu"], tmp_path, 1, threads=3)
    assert light.notes(tmp_path).count("RAYON_NUM_THREADS=3") == 1
    assert "RAYON_NUM_THREADS" not in os.environ


# The worker called by hand.


def test_results_made_by_hand_say_what_made_them(tmp_path: Path) -> None:
    path = to_fasta(tmp_path / "a.fa", random_records(3))
    (output,), _ = process_dnabert_files_worker([path], "cpu", 500, tmp_path, dtype="fp32", attributes={"mine": 7})
    attributes = dict(read_shard(output).attributes)
    assert len(str(attributes["model_sha256"])) == 64
    wanted = {"model": "dnabert-mini", "dtype": "fp32", "token_budget": 512, "model_trained": True, "mine": 7}
    assert {name: attributes[name] for name in wanted} == wanted
    assert {"virnucpro_version", "torch_version", "model_revision"} <= attributes.keys()


class Taken(list[object]):
    put = list.append


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
@pytest.mark.parametrize("device", [0, "0", "cuda:0"])
def test_logs_are_forwarded_from_a_device_by_number(device: int | str, tmp_path: Path) -> None:
    with pytest.raises(DeviceError, match="cannot use cuda:0"):
        process_dnabert_files_worker([], device, 0, tmp_path, progress_queue=Taken(), forward_logs=True)  # type: ignore[arg-type]


def test_logs_are_forwarded_to_somebody(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="forward_logs needs a progress_queue"):
        process_dnabert_files_worker([], "cpu", 0, tmp_path, forward_logs=True)
