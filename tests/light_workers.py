"""Workers that embed nothing and misbehave as they are told. Spawned processes import this, so it imports little."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator
from itertools import chain
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from virnucpro.errors import DeviceError, ModelError
from virnucpro.pipeline.events import FLUSH, Crashed, FileDone, Progress, Ready

Files = Iterable[Path | None]


def copier(files: Files, device: str, batch_size: int, output_dir: Path, **options: Any) -> None:
    """A good worker: its result contains the name of the file, and a note says which worker made it."""
    sink = options["progress_queue"]
    sink.put(Ready())
    for path in files:
        if path is not FLUSH:
            output = output_dir / f"{path.name}.h5"
            output.write_text(path.name)
            note(output_dir, f"{device} did {path.name}")
            sink.put(Progress(1, 1, 0.1))
            sink.put(FileDone(path, output))


def needs_the_next(files: Files, device: str, batch_size: int, output_dir: Path, **options: Any) -> None:
    """Each result is a pipe, whose content comes when the worker has got the next file or is told to stop."""
    sink, before = options["progress_queue"], list[Path]()
    sink.put(Ready())
    for path in chain(files, [None]):
        for output in before:
            output.write_text(output.stem)
        if path is not None:
            before = [output_dir / f"{path.name}.h5"]
            os.mkfifo(before[0])
            sink.put(FileDone(path, before[0]))


def leaves_a_folder(files: Files, device: str, batch_size: int, output_dir: Path, **options: Any) -> None:
    """Its result cannot be read, which is found out once this process is gone: a pipe beside it is read before."""
    for path in files:
        pipe, folder = (output_dir / f"{path.stem}.{suffix}" for suffix in ("1", "2"))
        os.mkfifo(pipe)
        folder.mkdir()
        script = 'while kill -0 "$0"; do sleep 0.1; done; : > "$1"'
        subprocess.Popen(["sh", "-c", script, str(os.getpid()), pipe], stderr=subprocess.DEVNULL)
        options["progress_queue"].put(FileDone(path, folder))


#: Seconds per sequence that they report: fewer than pass on any machine.
SPEEDS = {"fast": 1e-6, "also fast": 1e-6, "slow": 2e-6}


def teller(files: Files, device: str, batch_size: int, output_dir: Path, **options: Any) -> None:
    """Notes the files that it gets; the slow one finishes its first only when all others are taken."""
    sink, counts = options["progress_queue"], options["counts"]
    sink.put(Ready())
    with open(output_dir / f"{device}.txt", "a") as handed:
        for path in files:
            if path is FLUSH:
                continue
            print(path.name, file=handed, flush=True)
            # A fast one also waits until each has a file: otherwise one of them might do all.
            wait_for(lambda: len(taken(output_dir)) >= (len(counts) if device == "slow" else len(SPEEDS)))
            sink.put(Progress(counts[path], 10 * counts[path], counts[path] * SPEEDS[device]))
            sink.put(FileDone(path, output_dir / path.name))


def taken(folder: Path) -> list[str]:
    """The names of the files that workers have got."""
    return [name for notes in folder.glob("*.txt") for name in notes.read_text().split()]


def note(folder: Path, line: str) -> None:
    with open(folder / "notes", "a") as file:
        print(line, file=file)


def notes(folder: Path) -> list[str]:
    path = folder / "notes"
    return path.read_text().splitlines() if path.exists() else []


def met(files: Files, react: Callable[[Path], None]) -> Iterator[Path | None]:
    """The files; `react` is called for each when the worker gets it."""
    for path in files:
        if path is not FLUSH:
            react(path)
        yield path


def wait_for(condition: Callable[[], object]) -> None:
    while not condition():
        time.sleep(0.01)


def die(_path: Path) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def dies_on_3(files: Files, device: str, batch_size: int, output_dir: Path, **options: Any) -> None:
    """Killed by one file."""
    copier(met(files, lambda path: path.name == "3.fa" and die(path)), device, batch_size, output_dir, **options)


def dies_on_bad(files: Files, device: str, batch_size: int, output_dir: Path, **options: Any) -> None:
    """On the device "bad", killed by every file; on the other, nothing is done before three have died."""
    if device == "bad":
        note(output_dir, "bad started")
        copier(met(files, die), device, batch_size, output_dir, **options)
    wait_for(lambda: notes(output_dir).count("bad started") == 3)
    copier(files, device, batch_size, output_dir, **options)


def once_it_is_gone(files: Files, output_dir: Path) -> Files:
    """The files, once the process that noted its number is gone and its parent knows."""
    wait_for(lambda: notes(output_dir))
    pid = notes(output_dir)[0]
    return met(files, lambda _: wait_for(lambda: not Path("/proc", pid).exists()))


def unusable_on_bad(files: Files, device: str, batch_size: int, output_dir: Path, **options: Any) -> None:
    """Cannot use the device "bad"; the other device does not finish before that is known."""
    if device == "bad":
        note(output_dir, str(os.getpid()))
        raise DeviceError("cannot use bad", hint="mend it")
    copier(once_it_is_gone(files, output_dir), device, batch_size, output_dir, **options)


def stillborn(_files: Files, _device: str, _batch_size: int, output_dir: Path, **_options: object) -> None:
    """Dies before it is ready, each time."""
    note(output_dir, "start")
    os._exit(7)


def dies_idle(files: Files, device: str, batch_size: int, output_dir: Path, **options: Any) -> None:
    """On the device "idle", does its file and dies by `options["signal"]` while the other device works."""
    if device == "idle":
        note(output_dir, str(os.getpid()))
        copier([next(iter(files))], device, batch_size, output_dir, **options)
        os.kill(os.getpid(), options["signal"])
    copier(once_it_is_gone(files, output_dir), device, batch_size, output_dir, **options)


def hangs_last(files: Files, device: str, batch_size: int, output_dir: Path, **options: Any) -> None:
    """The file 3.fa stops the first process that gets it, once all others are done."""

    def stop(path: Path) -> None:
        if path.name == "3.fa" and not (output_dir / "hung").exists():
            wait_for(lambda: len(list(output_dir.glob("*.h5"))) == options["others"])
            (output_dir / "hung").write_text(str(os.getpid()))
            os.kill(os.getpid(), signal.SIGSTOP)

    copier(met(files, stop), device, batch_size, output_dir, **options)


def hangs_as_it_speaks(files: Files, device: str, batch_size: int, output_dir: Path, **options: Any) -> None:
    """The same in the middle of a long message: the first part that it writes still arrives."""

    def write_and_stop(connection: Connection, data: bytes) -> None:
        os.write(connection.fileno(), data)
        os.kill(os.getpid(), signal.SIGSTOP)

    def stop(path: Path) -> None:
        if path.name == "3.fa" and not (output_dir / "hung").exists():
            wait_for(lambda: len(list(output_dir.glob("*.h5"))) == options["others"])
            (output_dir / "hung").write_text(str(os.getpid()))
            Connection._send = write_and_stop  # type: ignore[attr-defined]
            options["progress_queue"].put(Crashed("at length " * 100_000))

    copier(met(files, stop), device, batch_size, output_dir, **options)


def raises_on_3(files: Files, device: str, batch_size: int, output_dir: Path, **options: Any) -> None:
    """An error that nobody foresaw."""

    def fail(path: Path) -> None:
        if path.name == "3.fa":
            raise KeyError("colour")

    copier(met(files, fail), device, batch_size, output_dir, **options)


def no_model(_files: Files, *_arguments: object, **_options: object) -> None:
    """Reports that no worker can do this run."""
    raise ModelError("no such weights", hint="get them")


def unusable(_files: Files, *_arguments: object, **_options: object) -> None:
    """Reports that it cannot use its device."""
    raise DeviceError("cannot use it", hint="mend it")


def loads_for_ever(_files: Files, _device: str, _batch_size: int, output_dir: Path, **_options: Any) -> None:
    """Never gets to its first file."""
    note(output_dir, "loading")
    time.sleep(1e6)


class UnpacksForEver:
    """An argument that a new process never finishes unpacking, as if an import took long."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __setstate__(self, state: dict[str, Path]) -> None:
        note(state["folder"], "loading")
        time.sleep(1e6)


def talks(files: Files, device: str, batch_size: int, output_dir: Path, **options: Any) -> None:
    """Writes to the log, and notes how it was started."""
    log = logging.getLogger("virnucpro.talk")
    if options.get("forward_logs"):
        from virnucpro.pipeline.base_worker import set_up_worker_logging, torch_device

        set_up_worker_logging(options["progress_queue"], torch_device(device))
    log.debug("a detail")
    note(output_dir, f"RAYON_NUM_THREADS={os.environ.get('RAYON_NUM_THREADS')}")
    copier(files, device, batch_size, output_dir, **options)


def keeper(files: Files, device: str, batch_size: int, output_dir: Path, *, kept: dict[str, Any], **more: Any) -> None:
    """Notes its process, and how many runs it was called for there; "3.fa" kills it.

    None of the `more["workers"]` workers finishes before each has a file.
    """
    kept["runs"] = kept.get("runs", 0) + 1
    own = f"{os.getpid()} {kept['runs']}"

    def react(path: Path) -> None:
        note(output_dir, own)
        wait_for(lambda: len({line for line in notes(output_dir) if " did " not in line}) >= more["workers"])
        if path.name == "3.fa":
            die(path)

    copier(met(files, react), device, batch_size, output_dir, **more)
