"""Stop runs of the command line at a chosen file operation, or at any moment; each must then continue to the same end.

    python tests/kills.py every              kill -9 at each rename, removal and new file of every command
    python tests/kills.py full               no file can be written from each of these on
    python tests/kills.py random [STOPS]     kill -9 and signals at random moments, two workers

Each prints a line at the end with the number of trials and of failures. Small parts of them are tests: test_kills.py.
"""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

import psutil
from conftest import HANGS, alive, command_line, random_records, to_fasta

#: Audit events of Python after which the state on the disk has changed, and which of their arguments is the path.
EVENTS = {"os.rename": 1, "os.remove": 0, "os.rmdir": 0, "os.mkdir": 0, "open": 0}

#: For each command: its arguments except for inputs and output, and the output in its folder.
COMMANDS = {
    "embed": ("embed", "{in}", "-o", "o.h5", "-d", "cpu", "--dtype", "fp32", "-t", "1", "--batch-size", "256"),
    "embed to NumPy": ("embed", "{in}", "-o", "o.npy", "-d", "cpu", "--dtype", "fp32", "-t", "1",
                       "--batch-size", "256"),
    "predict": ("predict", "{in}", "-o", "out", "-d", "cpu", "--dtype", "fp32", "-t", "1", "--model", "mini-1",
                "--vanilla-output", "--batch-size", "256"),
    "predict samples": ("predict", "{in}", "{virus}", "--per-sample", "-o", "out", "-d", "cpu", "--dtype", "fp32",
                        "-t", "1", "--batch-size", "256"),
    "train": ("train", "--virus", "{virus}", "--other", "{other}", "-o", "out", "-d", "cpu", "--dtype", "fp32",
              "-t", "1", "--window", "90", "--epochs", "1"),
    "orfs": ("orfs", "{in}", "-o", "o", "-q"),
    "split": ("split", "{in}", "-o", "parts", "-n", "3"),
}  # fmt: skip

#: Names of files that depend on when a run was made, and how often it was started.
TOLD = (".log", ".run.json", "split.json")


class Trials:
    """Runs the command line in forks of one process that has imported everything: a second each instead of several."""

    def __init__(self) -> None:
        self._server = subprocess.Popen(
            [sys.executable, __file__, "serve"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def __enter__(self) -> Trials:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.communicate()

    def run(self, folder: Path, words: list[str], stop_at: int = 0, how: str = "kill") -> tuple[int, list[str], str]:
        """Exit code, the operations below `folder` in order, and the messages.

        stop_at: number, from 1, of the operation before which the run is stopped; how: one of `STOPS`.
        """
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        print(json.dumps([str(folder), words, stop_at, how]), file=self._server.stdin, flush=True)
        code, operations, said = json.loads(self._server.stdout.readline())
        return code, operations, said


def kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def fill() -> None:
    """Like a full disk: files can be made, but nothing can be written to them. Python ignores the signal for that."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))


#: How a run is stopped, and how it may end then.
STOPS = {"kill": (kill, {-signal.SIGKILL}), "full": (fill, {0, 3, 6})}


def serve() -> None:
    """Run each request, one per line."""
    from virnucpro.cli import main  # noqa: F401
    from virnucpro.pipeline import parallel_dnabert, parallel_esm  # noqa: F401
    from virnucpro.runs import embed, orfs, predict, split, train  # noqa: F401

    for line in sys.stdin:
        folder, words, stop_at, how = json.loads(line)
        if words[0] == "train":
            import sklearn.metrics  # noqa: F401
            import torch._dynamo  # noqa: F401  (what an optimizer imports at its first step)
        notes, said = Heard(), Heard()
        child = os.fork()
        if not child:
            _child(folder, words, stop_at, how, notes.into, said.into)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        print(json.dumps([code, notes.text().splitlines(), said.text()]), flush=True)


class Heard:
    """A pipe with room for all messages of a run, which go to `into`."""

    def __init__(self) -> None:
        self._out, self.into = os.pipe()
        fcntl.fcntl(self.into, fcntl.F_SETPIPE_SZ, 1 << 20)

    def text(self) -> str:
        """All messages, once nobody can write more."""
        os.close(self.into)
        with open(self._out, encoding="utf-8") as file:
            return file.read()


def _child(folder: str, words: list[str], stop_at: int, how: str, notes: int, said: int) -> None:
    from virnucpro.cli import main

    os.chdir(folder)
    for stream in (1, 2):
        os.dup2(said, stream)
    sys.stdout, sys.stderr = (open(stream, "w", closefd=False) for stream in (1, 2))  # noqa: SIM115
    count = 0

    def look(event: str, arguments: tuple[object, ...]) -> None:
        nonlocal count
        if event not in EVENTS:
            return
        path = os.path.abspath(str(arguments[EVENTS[event]]))
        if not path.startswith(folder) or path.endswith(".log") or (event == "open" and not _makes(arguments)):
            return
        count += 1
        os.write(notes, f"{event} {os.path.relpath(path, folder)}\n".encode())
        if count == stop_at:
            STOPS[how][0]()

    sys.addaudithook(look)
    sys.argv = ["virnucpro", *words]
    code = 97
    try:
        main()
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 98
    os._exit(code)


def _makes(arguments: tuple[object, ...]) -> bool:
    """Whether an `open` creates or empties a file."""
    flags = arguments[2]
    return isinstance(flags, int) and bool(flags & (os.O_CREAT | os.O_TRUNC))


def words_of(name: str, folder: Path) -> list[str]:
    """The arguments of a command; its inputs are made in `folder`."""
    inputs = {
        "{in}": to_fasta(folder / "in.fa", [*random_records(12), ("bad", "MKVLE")]),
        "{virus}": to_fasta(folder / "v.fa", random_records(12, seed=2, shortest=200)),
        "{other}": to_fasta(folder / "w.fa", random_records(12, seed=3, shortest=200)),
    }
    return [str(inputs.get(word, word)) for word in COMMANDS[name]]


def tree(folder: Path) -> dict[str, bytes]:
    """All files below a folder; for logs and records only that they exist."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): b"" if path.name.endswith(TOLD) else path.read_bytes() for path in files}


def stop_and_go_on(
    trials: Trials, name: str, folder: Path, chosen: slice = slice(None), how: str = "kill"
) -> Iterator[str]:
    """Stop a command at each `chosen` operation of an undisturbed run, and run it again; yields what is wrong.

    An empty text means that everything was as in the undisturbed run.
    """
    (folder / "inputs").mkdir(parents=True)
    words = words_of(name, folder / "inputs")
    (undisturbed := folder / "undisturbed").mkdir()
    code, operations, said = trials.run(undisturbed, words)
    assert code in (0, 6), said
    wanted = tree(undisturbed)
    for number in range(1, len(operations) + 1)[chosen]:
        (place := folder / "stopped").mkdir()
        first, _, said = trials.run(place, words, number, how)
        again, _, told = trials.run(place, words)
        bad = first not in STOPS[how][1] or again != code or "Traceback" in said + told or tree(place) != wanted
        what = f"{name}, {how} at {number}, {operations[number - 1]}: exit codes {first} and {again}"
        yield f"{what}, {sorted(tree(place))}, {said}, {told}" if bad else ""
        shutil.rmtree(place)


# At any moment, with two workers.

TWO = ("-d", "cpu,cpu", "--dtype", "fp32", "--sequences-per-file", "8", "-t", "2")


def descendants(pid: int) -> list[psutil.Process]:
    """Every process that a run has started."""
    with contextlib.suppress(psutil.NoSuchProcess):
        return psutil.Process(pid).children(recursive=True)
    return []


def stop_somewhere(words: list[str], folder: Path, rng: random.Random, longest: float) -> tuple[int, list[int]]:
    """Start a run and stop it at a random moment unless it ends before; exit code, and processes that outlive it."""
    run = subprocess.Popen(
        command_line(*words), cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    with contextlib.suppress(subprocess.TimeoutExpired):
        return run.wait(rng.uniform(0, longest)), []
    started = descendants(run.pid)
    how = rng.choice(["kill the parent", "kill all", "kill a worker", "SIGTERM", "SIGINT"])
    if how == "kill a worker" and started:
        with contextlib.suppress(psutil.NoSuchProcess):
            rng.choice(started).kill()
        return run.wait(HANGS), _outliving(started)
    if how == "kill all":
        os.killpg(run.pid, signal.SIGKILL)
    else:
        run.send_signal({"SIGTERM": signal.SIGTERM, "SIGINT": signal.SIGINT}.get(how, signal.SIGKILL))
    return run.wait(HANGS), _outliving(started)


def _outliving(started: list[psutil.Process]) -> list[int]:
    end = time.monotonic() + HANGS
    while (left := alive(started)) and time.monotonic() < end:
        time.sleep(0.05)
    return [process.pid for process in left]


#: Exit codes of a run that was stopped at any moment, also before it could install its signal handlers.
STOPPED = (-signal.SIGKILL, -signal.SIGTERM, -signal.SIGINT, 128 + signal.SIGTERM, 128 + signal.SIGINT)


def random_stops(folder: Path, stops: int, seed: int, commands: tuple[str, ...]) -> Iterator[str]:
    """Stop runs at random moments until `stops` is reached, each again until it is complete; yields as above."""
    rng = random.Random(seed)
    source = to_fasta(folder / "in.fa", random_records(60, seed=seed))
    words = {name: [name, str(source), "-o", "o.h5" if name == "embed" else "out", *TWO] for name in commands}
    wanted = {name: _undisturbed(folder / name, words[name]) for name in commands}
    while stops > 0:
        name, place = rng.choice(commands), Path(tempfile.mkdtemp(dir=folder))
        for attempt in itertools.count(1):
            before = {path: path.stat().st_mtime_ns for path in place.rglob("*")}
            ended, orphans = stop_somewhere(words[name], place, rng, 25 * attempt)  # so that it ends on any machine
            # Python ends with 1 if Ctrl-C comes before it has started the program, which then has done nothing.
            not_begun = ended == 1 and before == {path: path.stat().st_mtime_ns for path in place.rglob("*")}
            if orphans or not (not_begun or ended in (0, *STOPPED)):
                yield f"{name}: exit code {ended}, outlived by {orphans}"
            if not ended:
                break
            stops -= 1
        yield "" if tree(place) == wanted[name] else f"{name}: {sorted(tree(place))}"


def _undisturbed(folder: Path, words: list[str]) -> dict[str, bytes]:
    folder.mkdir()
    subprocess.run(command_line(*words), cwd=folder, check=True, capture_output=True, timeout=HANGS)
    return tree(folder)


def _count(found: Iterator[str], name: str) -> None:
    trials = bad = 0
    for each in found:
        trials += 1
        if each:
            bad += 1
            print(each, flush=True)
    print(f"{name}: {trials} trials, {bad} bad", flush=True)


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        serve()
        sys.exit()
    with tempfile.TemporaryDirectory() as place:
        if sys.argv[1] in ("every", "full"):
            how = "kill" if sys.argv[1] == "every" else "full"
            with Trials() as trials:
                for name in COMMANDS:
                    _count(stop_and_go_on(trials, name, Path(place, name), how=how), name)
        else:
            stops = int(sys.argv[2]) if len(sys.argv) > 2 else 100
            _count(random_stops(Path(place), stops, 1, ("embed", "predict")), f"{stops} stops at random moments")
