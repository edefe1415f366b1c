"""Two GPUs, one of which fails in earnest: `python -m tests.gpu_faults`. A line PASS or FAIL for each trial.

On the second GPU a worker loses its CUDA context (a device-side assert, an illegal memory access) or is killed, once or
each time that it comes up. The run must be complete, its bytes those of an undisturbed run on one GPU, no process may
be left, and the parent must never have touched CUDA. Needs two GPUs and nothing but the package; the exit code is 1
if anything failed. `python -m tests.gpu_faults cuda:2,cuda:3` takes others.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from virnucpro.pipeline import caller, parallel_dnabert
from virnucpro.pipeline.caller import call_files_worker
from virnucpro.pipeline.events import FLUSH
from virnucpro.pipeline.parallel_dnabert import process_dnabert_files_worker
from virnucpro.runs.config import EmbedConfig, PredictConfig
from virnucpro.runs.embed import run_embed
from virnucpro.runs.predict import run_predict

SEQUENCES, A_FILE = 800, 20

#: Files that a worker gets before it fails, or before a healthy one waits until the other has failed often enough.
BEFORE = 3

#: Deaths in a row after which no more workers are started on a device.
RETIRED = 3

#: What tells when and where a run was.
TOLD = (".log", ".run.json")

# What befalls a device.


def device_assert(device: str) -> None:
    """An index out of range: every later call on this device fails. The launch itself does not wait for that."""
    torch.zeros(10, device=device)[torch.tensor([10**9], device=device)]


def illegal_access(device: str) -> None:
    """A read of an address that is nobody's."""
    code = "template <typename T> T wild(T x) { return x + *reinterpret_cast<volatile T*>(16ull); }"
    wild = torch.cuda.jiterator._create_jit_fn(code)
    wild(torch.ones(1, device=device))


def sigkill(device: str) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


#: By name: what is done, and what the death's cause must say.
FAULTS = {
    "device-side assert": (device_assert, "CUDA error: device-side assert triggered"),
    "illegal access": (illegal_access, "CUDA error: an illegal memory access was encountered"),
    "kill -9": (sigkill, "SIGKILL"),
}

# The workers, in their processes.


@dataclass(frozen=True)
class Plan:
    """What befalls the workers of a run. It crosses in the environment, and `folder` tells what has happened so far.

    device: the one that fails; times: how often.
    """

    fault: str
    device: str
    times: int
    folder: Path

    def publish(self) -> None:
        self.folder.mkdir()
        os.environ["GPU_FAULT"] = "\n".join(map(str, (self.fault, self.device, self.times, self.folder)))

    @classmethod
    def published(cls) -> Plan:
        fault, device, times, folder = os.environ["GPU_FAULT"].split("\n")
        return cls(fault, device, int(times), Path(folder))

    @property
    def struck(self) -> int:
        return len(list(self.folder.glob("struck.*")))

    def afflict(self, files: Iterable[Path | None], device: str) -> Iterator[Path | None]:
        """The files, in the midst of which it happens."""
        given = 0
        for path in files:
            if path is not FLUSH:
                given += 1
                self.meet(device, given)
            yield path

    def meet(self, device: str, given: int) -> None:
        """Fail if it is time to; the healthy device waits until the other has failed, so that it always gets to it."""
        mine = self.folder / f"struck.{os.getpid()}"
        if device == self.device and self.struck < self.times and (self.struck or given > BEFORE) and not mine.exists():
            mine.touch()
            FAULTS[self.fault][0](device)
        while device != self.device and given > BEFORE and self.struck < self.times:
            time.sleep(0.01)


def afflicted_embedding(files: Iterable[Path | None], device: str, *arguments: Any, **options: Any) -> object:
    return process_dnabert_files_worker(Plan.published().afflict(files, device), device, *arguments, **options)


def afflicted_calling(files: Iterable[Path | None], device: str, *arguments: Any, **options: Any) -> object:
    return call_files_worker(Plan.published().afflict(files, device), device, *arguments, **options)


# The trials.


class Log(logging.Handler):
    """All that is said, a text."""

    def __init__(self) -> None:
        super().__init__()
        self.text = ""

    def emit(self, record: logging.LogRecord) -> None:
        self.text += f"{record.getMessage()}\n"


def results(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files if not path.name.endswith(TOLD)}


def check(holds: object, what: str) -> None:
    if not holds:
        raise AssertionError(what)


@dataclass(frozen=True)
class Bench:
    """Runs commands in `folder` on the devices, a trial each, and compares what they leave."""

    folder: Path
    devices: tuple[str, str]
    log: Log = field(default_factory=Log)
    good: list[bool] = field(default_factory=list)

    def trial(self, name: str, work: Callable[..., str | None], *arguments: object) -> None:
        """Run it, and print how it went."""
        began, verdict = time.perf_counter(), "PASS"
        self.log.text = ""
        try:
            said = work(*arguments)
        except Exception:
            verdict, said = "FAIL", f"{traceback.format_exc()}{self.log.text}"
        self.good.append(verdict == "PASS")
        print(f"{verdict} {name} ({time.perf_counter() - began:.0f} s){f': {said}' if said else ''}", flush=True)

    def commands(self) -> None:
        first, second = self.devices
        for command in ("embed", "predict"):
            self.trial(f"{command} on {first}", self.undisturbed, command, first)
            for devices in (second, f"{first},{second}"):
                self.trial(f"{command} on {devices}", self.undisturbed, command, devices)
            for fault in FAULTS:
                for times in (1, RETIRED):
                    name = f"{command}, {fault} on {second}, workers that meet it: {times}"
                    self.trial(name, self.afflicted, command, Plan(fault, second, times, self.folder / name))

    def undisturbed(self, command: str, devices: str) -> None:
        Plan("", "", 0, self.folder / f"{command} on {devices}").publish()
        self.run(command, devices)

    def afflicted(self, command: str, plan: Plan) -> str:
        plan.publish()
        self.run(command, ",".join(self.devices))
        deaths = [
            line for line in self.log.text.splitlines() if line.startswith("the worker on ") and " died (" in line
        ]
        check(plan.struck == len(deaths) == plan.times, f"it met {plan.struck} workers, and these died: {deaths}")
        for line in deaths:
            check(f"on {plan.device} died" in line and FAULTS[plan.fault][1] in line, line)
        retired = f"no more workers are started on {plan.device}" in self.log.text
        check(retired == (plan.times >= RETIRED), f"retired: {retired}")
        return f"{deaths[-1]}{'; its device was retired' if retired else ''}"

    def run(self, command: str, devices: str) -> None:
        """One run into a folder of its own; it must leave the same as the first one of that command."""
        place, reference = self.folder / "results", self.folder / command
        place.mkdir()
        both = {"inputs": (self.folder / "in.fa",), "device": devices, "threads": 4, "sequences_per_file": A_FILE}
        try:
            if command == "embed":
                failures = run_embed(EmbedConfig(output=place / "o.h5", **both)).failures
            else:
                failures = run_predict(PredictConfig(output=place / "out", model="mini-1", **both)).failures
            check(not failures, f"failures: {failures[:3]}")
            check(not multiprocessing.active_children(), f"left: {multiprocessing.active_children()}")
            if reference.exists():
                check(results(place) == results(reference), "other bytes than without a fault")
            else:
                place.rename(reference)
        finally:
            shutil.rmtree(place, ignore_errors=True)

    def in_one_process(self) -> None:
        """One device after the other in this process, which has CUDA from here on."""
        made = []
        for number, device in enumerate(self.devices):
            output = self.folder / f"in one process {number}"
            made += process_dnabert_files_worker([self.folder / "in.fa"], device, 2048, output)[0]
        check(made[0].read_bytes() == made[1].read_bytes(), "other bytes")


def main() -> int:
    """All trials; returns the exit code."""
    first, second = (sys.argv[1] if len(sys.argv) > 1 else "cuda:0,cuda:1").split(",")
    parallel_dnabert.process_dnabert_files_worker = afflicted_embedding
    caller.call_files_worker = afflicted_calling
    with tempfile.TemporaryDirectory() as place:
        bench = Bench(Path(place), (first, second))
        random_input(bench.folder / "in.fa")
        logging.getLogger("virnucpro").addHandler(bench.log)
        logging.getLogger("virnucpro").setLevel(logging.INFO)
        bench.commands()
        bench.trial("the parent has not touched CUDA", lambda: check(not torch.cuda.is_initialized(), "it has"))
        bench.trial("one device after the other in one process", bench.in_one_process)
    print(f"{len(bench.good)} trials, {bench.good.count(False)} failed")
    return int(not all(bench.good))


def random_input(path: Path) -> None:
    """Sequences of mixed lengths with few stop codons, so that their frames are open."""
    rng = random.Random(1)
    with open(path, "w") as file:
        for number in range(SEQUENCES):
            print(f">s{number}\n{''.join(rng.choices('ACGT', (1, 4, 4, 1), k=rng.randint(500, 3000)))}", file=file)


if __name__ == "__main__":
    sys.exit(main())
