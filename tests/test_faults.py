"""Real faults: workers and parents that are killed, signals, a full disk, poison, no memory.

Nothing is lost, the result is that of an undisturbed run, and nothing waits forever.
"""

from __future__ import annotations

import contextlib
import fcntl
import gzip
import itertools
import logging
import os
import random
import resource
import signal
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import (
    HANGS,
    Cli,
    alive,
    held_command_line,
    interrupted_at_random,
    random_records,
    set_size,
    to_fasta,
    workers_of,
)
from light_workers import wait_for
from numpy.typing import NDArray

from virnucpro.cli import main
from virnucpro.input.fasta import DNA, read_records
from virnucpro.io.files import atomic_path
from virnucpro.io.results import write_merged
from virnucpro.io.store import Shard, read_result, read_shard
from virnucpro.models.attention import PackedLayout, segment_mean
from virnucpro.pipeline.base_worker import Embeddings
from virnucpro.pipeline.events import FileDone, Heard, Ready
from virnucpro.pipeline.stream import Encoder, Stream
from virnucpro.runs.config import EmbedConfig
from virnucpro.runs.embed import run_embed
from virnucpro.runs.paths import RunPaths

SEQUENCES, A_FILE = 480, 12
PARTS = SEQUENCES // A_FILE
OPTIONS = (
    "--dtype",
    "fp32",
    "--sequences-per-file",
    A_FILE,
    "--threads",
    2,
)  # 2: so that a run lasts long enough on any machine


@pytest.fixture(scope="module")
def fasta(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return to_fasta(tmp_path_factory.mktemp("input") / "in.fa", random_records(SEQUENCES))


@pytest.fixture(scope="module")
def expected(fasta: Path) -> bytes:
    """The result of an undisturbed run with one worker."""
    return run_embed(EmbedConfig((fasta,), fasta.with_suffix(".h5"), device="cpu", dtype="fp32")).output.read_bytes()


def config(fasta: Path, output: Path, device: str = "cpu") -> EmbedConfig:
    return EmbedConfig((fasta,), output, device=device, dtype="fp32", sequences_per_file=A_FILE, threads=2)


def finished(output: Path) -> int:
    """How many work files of a run are done."""
    return len(list(RunPaths(output).shards.glob("0*.h5")))


class Run:
    """The command line in a process group of its own, as a shell starts it.

    held_at: how many work files it does, or one more, before it waits; there are fewer of them than sequences.
    """

    def __init__(
        self, fasta: Path | str, output: Path, device: str, *options: object, held_at: int = SEQUENCES, **settings: Any
    ) -> None:
        words = ("embed", fasta, "-o", output, "-d", device, *OPTIONS, *options)
        command, env = held_command_line(RunPaths(output).shards, held_at, *words)
        self.process = subprocess.Popen(
            command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
            **settings,
        )  # fmt: skip

    def wait_until(self, condition: Callable[[], object]) -> None:
        def reached() -> object:
            assert self.process.poll() is None, f"it ended: {self.process.communicate()}"
            return condition()

        wait_for(reached)

    def end(self) -> tuple[int, str]:
        """Exit code and standard error."""
        _, said = self.process.communicate(timeout=HANGS)
        return self.process.returncode, said

    def __enter__(self) -> Run:
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.communicate()


# Kill -9.


class KillOne:
    """Listens to a run of this process on two workers, and kills one of them at a moment; the run waits meanwhile."""

    def __init__(self, moment: Callable[[Heard], bool], rng: random.Random) -> None:
        self.moment, self.rng, self.done = moment, rng, False

    def __call__(self, _worker: int | None, event: Heard) -> None:
        if not self.done and self.moment(event):
            self.done = True
            workers = workers_of(os.getpid())
            assert len(workers) == 2
            killed = self.rng.choice(workers)
            killed.kill()
            wait_for(lambda: not alive([killed]))


@pytest.mark.parametrize("seed", [1, pytest.param(2, marks=pytest.mark.heavy)])
def test_kill_of_a_worker_at_any_moment(
    seed: int, fasta: Path, tmp_path: Path, expected: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    rng, output = random.Random(seed), tmp_path / "o.h5"
    moment = 0 if seed == 1 else rng.randrange(1, PARTS // 2)  # 0: while it starts
    kill = KillOne(lambda event: isinstance(event, FileDone if moment else Ready) and finished(output) >= moment, rng)
    with caplog.at_level(logging.INFO, "virnucpro"):
        result = run_embed(config(fasta, output, "cpu,cpu"), kill)
    assert caplog.text.count("died (SIGKILL; out of memory?)") == 1
    assert (result.sequences, result.failures) == (SEQUENCES, [])
    assert output.read_bytes() == expected
    assert workers_of(os.getpid()) == []


def test_kill_of_the_parent(fasta: Path, tmp_path: Path, expected: bytes, cli: Cli) -> None:
    output = tmp_path / "o.h5"
    with Run(fasta, output, "cpu,cpu", held_at=5) as run:
        run.wait_until(lambda: finished(output) >= 5)
        orphans = workers_of(run.process.pid)
        assert len(orphans) == 2
        run.process.kill()
        wait_for(lambda: not alive(orphans))
        assert "Traceback" not in run.end()[1]
    assert 5 <= finished(output) < PARTS
    assert not output.exists()
    done = cli("embed", fasta, "-o", output, "-d", "cpu", *OPTIONS)
    assert done.returncode == 0
    assert "resuming: " in done.stderr
    assert output.read_bytes() == expected


# Signals.


@pytest.mark.heavy
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_signals(number: signal.Signals, code: int, fasta: Path, tmp_path: Path, expected: bytes) -> None:
    output = tmp_path / "o.h5"
    with Run(fasta, output, "cpu,cpu", held_at=3) as run:
        run.wait_until(lambda: finished(output) >= 3)
        workers = workers_of(run.process.pid)
        # A terminal sends Ctrl-C to all the group; a batch system may send SIGTERM to the parent alone.
        (os.killpg if number == signal.SIGINT else os.kill)(run.process.pid, number)
        returncode, said = run.end()
    assert returncode == code
    assert "interrupted; finished work files are kept" in said
    assert "run the same command again to continue" in said
    assert "Traceback" not in said
    assert alive(workers) == []
    assert 3 <= finished(output) < PARTS
    run_embed(config(fasta, output))
    assert output.read_bytes() == expected


@pytest.mark.heavy
def test_interrupt_while_the_workers_start(fasta: Path, tmp_path: Path) -> None:
    """They ignore Ctrl-C from the first moment, so they print nothing when the parent ends them."""
    with Run(fasta, tmp_path / "o.h5", "cpu,cpu", held_at=0) as run:
        run.wait_until(lambda: len(workers_of(run.process.pid)) == 2)
        time.sleep(random.Random(4).uniform(0, 1))
        os.killpg(run.process.pid, signal.SIGINT)
        returncode, said = run.end()
    assert returncode == 130
    assert "Traceback" not in said


@pytest.mark.usefixtures("_own_signals_and_logging")
def test_signal_while_input_is_read_is_no_damage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The signal breaks into a decompressor that waits for a pipe and whose errors mean a damaged file."""
    pipe, raised = tmp_path / "pipe", threading.Event()
    os.mkfifo(pipe)

    def half_and_a_signal() -> None:
        with open(pipe, "wb") as file:
            file.write(gzip.compress(b">a\nACGT\n" * 50_000)[:500])
            file.flush()
            wait_for(lambda: not int.from_bytes(fcntl.ioctl(file, termios.FIONREAD, bytes(4)), sys.byteorder))
            while not raised.wait(0.05):  # a signal just before the read has no effect
                os.kill(os.getpid(), signal.SIGTERM)

    def raise_once(number: int, frame: Any) -> None:
        if not raised.is_set():
            raised.set()
            handler(number, frame)

    monkeypatch.setattr(sys, "argv", ["virnucpro"])
    with pytest.raises(SystemExit):
        main()  # installs its signal handler, and finds no command
    handler: Any = signal.getsignal(signal.SIGTERM)
    signal.signal(signal.SIGTERM, raise_once)
    writer = threading.Thread(target=half_and_a_signal)
    writer.start()
    try:
        with pytest.raises(BaseException) as caught:  # noqa: PT011
            list(read_records(pipe))
    finally:
        raised.set()
        writer.join()
    assert not isinstance(caught.value, Exception)


# One run at a time.


@pytest.mark.heavy
def test_second_run_on_the_same_output(fasta: Path, tmp_path: Path, expected: bytes, cli: Cli) -> None:
    output = tmp_path / "o.h5"
    with Run("-", output, "cpu", stdin=subprocess.PIPE) as run:
        run.wait_until(RunPaths(output).streams.exists)
        done = cli("embed", fasta, "-o", output, "-d", "cpu", *OPTIONS)
        assert done.returncode == 3
        assert f"another run is writing {output}" in done.stderr
        assert "→ wait for it, or choose another output" in done.stderr
        _, said = run.process.communicate(fasta.read_text(), timeout=HANGS)
        assert run.process.returncode == 0, said
    assert output.read_bytes() == expected


# A full disk.


@pytest.mark.parametrize(
    ("kilobytes", "what"),
    [
        pytest.param(150, "parts", marks=pytest.mark.heavy),
        (600, "shards/"),
        pytest.param(1340, "o.h5", marks=pytest.mark.heavy),
    ],
)
def test_full_disk(kilobytes: int, what: str, small_disk: Path, fasta: Path, expected: bytes, cli: Cli) -> None:
    """The disk is full when the input is split, when a work file is done, or when most of the result is merged.

    Then the last work files are still being embedded, and either may meet it.
    """
    set_size(small_disk, kilobytes)
    output = small_disk / "o.h5"
    done = cli("embed", fasta, "-o", output, "-d", "cpu", *OPTIONS)
    assert done.returncode == 3, done.stderr
    assert "Traceback" not in done.stderr
    assert what in done.stderr
    assert "No space left on device" in done.stderr
    assert "→ free space" in done.stderr
    assert not output.exists()
    set_size(small_disk, 20_000)
    result = run_embed(config(fasta, output))
    assert result.failures == []
    assert output.read_bytes() == expected
    assert not list(small_disk.rglob(".*"))


@pytest.mark.heavy
def test_full_disk_of_the_workers(fasta: Path, tmp_path: Path, expected: bytes) -> None:
    """A limit on the size of files stops workers that wait for files, and the parent must still notice."""

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (16_000, 16_000))

    output = tmp_path / "o.h5"
    with Run(fasta, output, "cpu,cpu", "--sequences-per-file", 100, preexec_fn=limit) as run:
        returncode, said = run.end()
    assert returncode == 3, said
    assert "Traceback" not in said
    assert "shards/" in said
    assert "File too large" in said
    run_embed(config(fasta, output))
    assert output.read_bytes() == expected


# No memory.


def letters(sequences: Sequence[str]) -> list[NDArray[np.int64]]:
    """One token for each letter."""
    return [np.frombuffer(sequence.encode(), np.uint8).astype(np.int64) for sequence in sequences]


def mean_letter(tokens: torch.Tensor, layout: PackedLayout, used: int) -> torch.Tensor:
    """There is no memory for sequences with a G."""
    if (tokens == ord("G")).any():
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
    return segment_mean(tokens[:, None].float(), layout.lengths, used)


@pytest.mark.parametrize("lanes", [1, 3])
def test_out_of_memory_fails_the_files_of_one_batch(lanes: int, tmp_path: Path) -> None:
    """Each file except for the last two fills batches of its own; those two share one."""
    sequences = {"a": "A" * 256, "g": "G" * 256, "c": "C" * 256, "t": "T" * 100, "tg": "TG" * 78}
    files = [to_fasta(tmp_path / f"{name}.fa", [(name, sequence)]) for name, sequence in sequences.items()]
    light = Encoder(DNA, 1, 1, 256, 0, letters, mean_letter)
    stream = Stream([light], Embeddings(tmp_path, {}), torch.device("cpu"), lanes, 8192, None)
    processed, failed = stream.go(files)
    assert sorted(path.name for path in processed) == ["a.fa.h5", "c.fa.h5"]
    assert [float(read_shard(tmp_path / f"{name}.fa.h5").embeddings[0, 0]) for name in "ac"] == [ord("A"), ord("C")]
    assert sorted(path.name for path, _ in failed) == ["g.fa", "t.fa", "tg.fa"]
    for _, reason in failed:
        assert "out of memory on cpu with a batch of 256 tokens" in reason
        assert "lower --batch-size" in reason


def test_another_error_of_the_device_ends_the_worker(tmp_path: Path) -> None:
    """After it the device may be useless, so that the other files, too, are left to another worker."""

    def broken(_tokens: torch.Tensor, _layout: PackedLayout, _used: int) -> torch.Tensor:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    files = [to_fasta(tmp_path / f"{number}.fa", [("a", "A" * 256)]) for number in range(3)]
    encoder = Encoder(DNA, 1, 1, 256, 0, letters, broken)
    stream = Stream([encoder], Embeddings(tmp_path, {}), torch.device("cpu"), 1, 8192, None)
    with pytest.raises(RuntimeError, match="illegal memory access"):
        stream.go(files)
    assert (stream.processed, stream.failed) == ([], [])


# What is written.


def test_the_device_goes_on_while_a_result_is_written(tmp_path: Path) -> None:
    """The first result is written only once far more batches are embedded than can wait anywhere."""
    files = [to_fasta(tmp_path / f"{number}.fa", [("a", "A" * 256)]) for number in range(2)]
    to_fasta(files[1], [(str(number), "A" * 256) for number in range(40)])
    embedded, enough = itertools.count(1), threading.Event()

    def count(tokens: torch.Tensor, layout: PackedLayout, used: int) -> torch.Tensor:
        if next(embedded) > 30:
            enough.set()
        return mean_letter(tokens, layout, used)

    class Slow(Embeddings):
        def write(self, path: Path, shards: Sequence[Shard]) -> None:
            assert enough.wait(60)
            super().write(path, shards)

    light = Encoder(DNA, 1, 1, 256, 0, letters, count)
    processed, _ = Stream([light], Slow(tmp_path, {}), torch.device("cpu"), 1, 8192, None).go(files)
    assert [path.name for path in processed] == ["0.fa.h5", "1.fa.h5"]


# Python itself swallows an interrupt that comes while it removes a dead entry from a dictionary of weak references.
@pytest.mark.filterwarnings(
    r"ignore:Exception ignored in. <function WeakValueDictionary\..*remove:pytest.PytestUnraisableExceptionWarning"
)
def test_interrupts_while_the_result_is_written(tmp_path: Path) -> None:
    """HDF5 crashes the process if it is interrupted; an interrupt leaves neither a result nor a part of one."""
    rows, block = 20_000, 4000
    vectors = np.random.default_rng(5).random((block, 16), dtype=np.float32)
    shards = [Shard([f"s{first + i} of many" for i in range(block)], vectors) for first in range(0, rows, block)]
    output = tmp_path / "o.h5"

    def write() -> None:
        with atomic_path(output) as temporary:
            write_merged([temporary], shards, {}, "hdf5")

    for done in interrupted_at_random(write, times=20, seed=5):
        assert not list(tmp_path.glob(".*"))
        assert not done or len(read_result(output)[0]) == rows
        output.unlink(missing_ok=True)


@pytest.mark.parametrize("share", [0.001, 0.3, 0.6, 0.9, 0.999])
def test_full_disk_at_any_place_of_the_result(share: float, tmp_path: Path) -> None:
    """In a process of its own, since HDF5 used to crash it. Headers make the file large where HDF5 reads back."""
    code = """if True:
        import resource, sys
        import numpy as np
        from virnucpro.errors import OutputError
        from virnucpro.io.files import atomic_path
        from virnucpro.io.results import write_merged
        from virnucpro.io.store import Shard
        from pathlib import Path
        path, share = Path(sys.argv[1]), float(sys.argv[2])
        shards = [Shard([f"s{i} " + "x" * 200 for i in range(30_000)], np.ones((30_000, 4), np.float32))]
        write_merged([path], shards, {}, "hdf5")
        size = path.stat().st_size
        path.unlink()
        resource.setrlimit(resource.RLIMIT_FSIZE, (int(share * size), resource.RLIM_INFINITY))
        try:
            with atomic_path(path) as temporary:
                write_merged([temporary], shards, {}, "hdf5")
        except OutputError as error:
            print(error)
    """
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "o.h5"), str(share)], capture_output=True, text=True, timeout=HANGS
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "o.h5: File too large (free space" in done.stdout
    assert list(tmp_path.iterdir()) == []
