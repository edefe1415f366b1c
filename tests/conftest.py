"""What several test files use: random DNA, the command line in a process of its own or in this one, results.

Take the functions by `from conftest import …`.
"""

from __future__ import annotations

import contextlib
import logging
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from pathlib import Path

import held
import psutil
import pytest
from hypothesis import HealthCheck, settings

from virnucpro.io.store import read_result

# A process that a shell starts in the background ignores Ctrl-C, and so do its children; some tests send Ctrl-C.
signal.signal(signal.SIGINT, signal.default_int_handler)

# Two processes of pytest have two cores: more threads of PyTorch would wait for each other, and spin meanwhile.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# Each of the many processes that tests start would compile the whole package, and pytest all tests.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False

#: Header and sequence of each record.
Records = list[tuple[str, str]]
Completed = subprocess.CompletedProcess[str]
Cli = Callable[..., Completed]

#: Seconds after which a command counts as hanging: a guard, so large that no load of the machine triggers it.
HANGS = 840

# No test depends on time or chance; `--hypothesis-profile search` tries other examples than these.
settings.register_profile("search", max_examples=1000, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("virnucpro", settings.get_profile("search"), max_examples=50, derandomize=True)
settings.load_profile("virnucpro")


def random_records(count: int, seed: int = 1, shortest: int = 20, longest: int = 300) -> Records:
    """Sequences of mixed lengths, some with N; the same for the same seed."""
    rng = random.Random(seed)
    lengths = [rng.randint(shortest, longest) for _ in range(count)]
    return [(f"s{i} of {count}", "".join(rng.choices("ACGTN", (9, 9, 9, 9, 1), k=n))) for i, n in enumerate(lengths)]


def to_fasta(path: Path, records: Sequence[tuple[str, str]]) -> Path:
    """Write `records` to `path`, and return it."""
    path.write_text("".join(f">{header}\n{sequence}\n" for header, sequence in records), encoding="utf-8")
    return path


def vectors_by_id(path: Path) -> dict[str, bytes]:
    """Each id of an HDF5 result with the bytes of its embedding; ids must differ."""
    ids, vectors = read_result(path)
    assert len(set(ids)) == len(ids)
    return {name: vector.tobytes() for name, vector in zip(ids, vectors, strict=True)}


def command_line(*arguments: object) -> list[str]:
    """The words that start the command line in a process of its own."""
    return [sys.executable, "-m", "virnucpro", *map(str, arguments)]


def held_command_line(folder: Path, done: int, *arguments: object) -> tuple[list[str], dict[str, str]]:
    """The same for a run that stops and waits when so many files are done in a folder, and its environment."""
    settings = {held.FOLDER: str(folder), held.DONE: str(done)}
    return [sys.executable, held.__file__, *map(str, arguments)], os.environ | settings


def run_cli(*arguments: object, input: str | bytes | None = None, env: dict[str, str] | None = None) -> Completed:
    """The command line in a process of its own; `env` adds to the environment."""
    fed = input.encode() if isinstance(input, str) else input
    done = subprocess.run(
        command_line(*arguments), input=fed, env=os.environ | (env or {}), capture_output=True, timeout=HANGS
    )
    return subprocess.CompletedProcess(done.args, done.returncode, done.stdout.decode(), done.stderr.decode())


def workers_of(pid: int) -> list[psutil.Process]:
    """The spawned workers of a process."""
    found = []
    for child in psutil.Process(pid).children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            if "spawn_main" in " ".join(child.cmdline()):
                found.append(child)
    return found


def alive(processes: Sequence[psutil.Process]) -> list[psutil.Process]:
    """Those that still run; a process that has ended may stay in the table until it is waited for."""
    found = []
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            if process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


def interrupted_at_random(work: Callable[[], object], times: int, seed: int) -> Iterator[bool]:
    """Repeat `work` until a signal has interrupted it so many times; yields each time whether it was completed.

    The signals come within the time that the work took when it was last completed, so that the machine's speed does not
    matter.
    """
    rng, longest = random.Random(seed), 0.001
    before = signal.signal(signal.SIGALRM, signal.default_int_handler)
    try:
        while times:
            began = time.perf_counter()
            try:
                signal.setitimer(signal.ITIMER_REAL, rng.uniform(1e-5, longest))
                work()
                signal.setitimer(signal.ITIMER_REAL, 0)
            except KeyboardInterrupt:
                times -= 1
                longest *= 1.2
                yield False
            else:
                longest = max(0.001, time.perf_counter() - began)
                yield True
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@pytest.fixture
def _own_signals_and_logging() -> Iterator[None]:
    """The command line changes both; restore them afterwards."""
    root = logging.getLogger("virnucpro")
    handlers, level, propagate = root.handlers[:], root.level, root.propagate
    on_signals = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    root.propagate = propagate
    for number, handler in on_signals.items():
        signal.signal(number, handler)


@pytest.fixture
def cli(_own_signals_and_logging: None, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Cli:
    """`cli(*arguments)`: the same as `run_cli`, in this process, which saves the seconds that importing torch takes."""
    from virnucpro.cli import main

    def run(*arguments: object) -> Completed:
        monkeypatch.setattr(sys, "argv", ["virnucpro", *map(str, arguments)])
        capfd.readouterr()
        with pytest.raises(SystemExit) as end:
            main()
        out, err = capfd.readouterr()
        assert isinstance(end.value.code, int)
        return subprocess.CompletedProcess(sys.argv, end.value.code, out, err)

    return run


@pytest.fixture(scope="session")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a model set with calls of every kind: see `toy_set`."""
    from toy_set import save_toy_set

    return save_toy_set(tmp_path_factory.mktemp("toy") / "set")


@pytest.fixture(scope="session")
def complete(toy: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an undisturbed run of `predict` with all outputs; `in.fa` is next to it."""
    from toy_set import toy_records

    from virnucpro.runs.config import PredictConfig
    from virnucpro.runs.predict import run_predict

    folder = tmp_path_factory.mktemp("undisturbed")
    path = to_fasta(folder / "in.fa", toy_records())
    everything = {"vanilla_output": True, "keep_embeddings": True}
    run_predict(PredictConfig((path,), folder / "out", model=str(toy), device="cpu", dtype="fp32", **everything))
    return folder / "out"


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 MB, which can be enlarged."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if os.geteuid() != 0 or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", folder]).returncode:
        pytest.skip("no file system can be mounted here")
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)  # a process may still have it open


def set_size(disk: Path, kilobytes: int) -> None:
    subprocess.run(["mount", "-o", f"remount,size={kilobytes}k", disk], check=True)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """pytest-xdist sends reports as UTF-8, but the log of a test may contain file names that are not UTF-8."""
    report = yield
    report.sections = [(name, text.encode(errors="backslashreplace").decode()) for name, text in report.sections]
    return report
