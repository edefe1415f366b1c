"""An agent of a run on a node of a cluster: it starts the worker of one device there, as a run on that host would.

Files come and go as bytes. They are in a folder of this process while the worker has them; before anything is computed,
the agent reports what has to be the same on all hosts.
"""

from __future__ import annotations

import contextlib
import glob
import logging
import os
import shutil
import socket
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from virnucpro._version import __version__
from virnucpro.core.device import Device, find_cpu, find_gpus, version_of
from virnucpro.errors import ModelError
from virnucpro.models.checksums import Checksum
from virnucpro.models.local import LocalModel, combined
from virnucpro.models.registry import resolve
from virnucpro.pipeline.events import Answer, FileDone, FileFailed
from virnucpro.pipeline.launch_local import Processes, Said, Work

#: Contents of files by name.
Files = Mapping[str, bytes]

#: The beginning of the names of agents' folders on this host; the number of the process follows.
FOLDERS = f"virnucpro-agent-{socket.gethostname()}-"

#: Seconds to wait for a message of the worker at a time; messages that are sent together.
POLL_SECONDS, MESSAGES_AT_ONCE = 60.0, 64


@dataclass(frozen=True)
class Folder:
    """A folder that is sent with the work: its files, without subfolders."""

    files: Files

    @classmethod
    def read(cls, path: Path) -> Folder:
        """Read all of it. Raises OSError."""
        return cls({file.name: file.read_bytes() for file in path.iterdir() if file.is_file()})


@dataclass(frozen=True)
class Found:
    """A device, and what must be the same everywhere."""

    device: Device
    traits: Mapping[str, str]


def traits(models: Sequence[LocalModel]) -> dict[str, str]:
    """What on this host decides results, besides the kind of device. Raises ModelError."""
    return {
        "virnucpro": __version__,
        "torch": str(version_of("torch")),
        "triton": str(version_of("triton")),
        "token authentication": "on" if os.environ.get("RAY_AUTH_MODE", "").lower() == "token" else "off",
        **{model.name: combined(Checksum.of(path).sha256 for path in model.files) for model in models},
    }


def here(model: LocalModel) -> LocalModel:
    """The copy of a model on this host: at the same path as on the other one, or else by its name."""
    found = model if all(path.exists() for path in model.files) else resolve(model.name)
    return replace(model, weights=found.weights, config=found.config, tokenizer=found.tokenizer)


class Agent:
    """Holds one device of this host, and after each `start` a worker on it."""

    def __init__(self) -> None:
        self.worker: _Worker | None = None

    def probe(self, models: Sequence[LocalModel], gpu: bool) -> Found:
        """The device, named by its number among those of this host, and the traits. Raises DeviceError."""
        try:
            found = traits([here(model) for model in models])
        except ModelError as error:
            found = {**traits([]), **{model.name: str(error) for model in models}}
        if not gpu:
            return Found(find_cpu(), found)
        number = os.environ.get("CUDA_VISIBLE_DEVICES", "0")
        return Found(replace(find_gpus()[0], name=f"cuda:{number}"), found)

    def start(self, work: Work, level: int) -> None:
        """Start a worker unless there is one; level: of its log. Raises ModelError."""
        os.environ.pop("OMP_NUM_THREADS", None)  # set by Ray; a worker uses the number of threads that it is told
        logging.getLogger("virnucpro").setLevel(level)
        self.close()
        self.worker = _Worker(work, Path(tempfile.mkdtemp(prefix=f"{FOLDERS}{os.getpid()}-")))

    def answer(self, answer: Answer, files: Files) -> None:
        """Answer a request of the worker; files: those of the work file, which are written to the folder."""
        if self.worker:
            self.worker.answer(answer, files)

    def kill(self) -> None:
        """End the worker by force; its death is heard like any other."""
        if self.worker:
            self.worker.kill()

    def said(self) -> list[Said]:
        """The next message of the worker and all that have come by then."""
        return self.worker.said() if self.worker else []

    def result(self, path: Path) -> Files:
        """Hand over the result of a work file that is done: it is not kept here."""
        return self.worker.result(path) if self.worker else {}

    def close(self) -> None:
        """Remove the folders of this process and of others that were killed."""
        if self.worker:
            self.worker.close()
        for folder in Path(tempfile.gettempdir()).glob(f"{FOLDERS}*"):
            if not Path("/proc", folder.name.removeprefix(FOLDERS).partition("-")[0]).exists():
                shutil.rmtree(folder, ignore_errors=True)


class _Worker:
    """A worker process on this host, the files that it holds, and where they came from."""

    def __init__(self, work: Work, folder: Path) -> None:
        self.work, self.folder = work, folder
        self.inputs, self.outputs = folder / "in", folder / "out"
        self.inputs.mkdir()
        self.outputs.mkdir()
        self.origins: dict[Path, Path] = {}
        kwargs = {name: self._at_hand(name, value) for name, value in work.kwargs.items()}
        self.processes = Processes(replace(work, output_dir=self.outputs, kwargs=kwargs))
        self.processes.start(0)

    def _at_hand(self, name: str, value: Any) -> Any:
        """The work as a worker on this host is called with it."""
        match value:
            case LocalModel():
                return here(value)
            case tuple():
                return tuple(self._at_hand(name, each) for each in value)
            case Folder(files):
                return _written(self.folder / name, files)
        return value

    def answer(self, answer: Answer, files: Files) -> None:
        if isinstance(answer, Path):
            local = _written(self.inputs, files) / answer.name
            self.origins[local] = answer
            answer = local
        with contextlib.suppress(KeyError):  # it died just now
            self.processes.answer(0, answer)

    def kill(self) -> None:
        with contextlib.suppress(KeyError):
            self.processes.kill(0)

    def said(self) -> list[Said]:
        heard: list[Said] = []
        before, seconds = -1, POLL_SECONDS
        while before < len(heard) < MESSAGES_AT_ONCE and self.processes.running:
            before = len(heard)
            self.processes.pump(lambda _, said: heard.append(self._passed_on(said)), seconds)
            seconds = 0.0
        return heard

    def _passed_on(self, said: Said) -> Said:
        match said:
            case FileDone(local, output):
                return FileDone(self._origin(local), self.work.output_dir / output.name)
            case FileFailed(local, reason, out_of_memory):
                origin = self._origin(local)
                return FileFailed(origin, reason.replace(str(local), str(origin)), out_of_memory)
        return said

    def result(self, path: Path) -> Files:
        return _taken(self.outputs, path)

    def _origin(self, local: Path) -> Path:
        """The original path of a work file that is no longer needed here."""
        for path in _files_of(local, self.inputs):
            path.unlink()
        return self.origins.pop(local)

    def close(self) -> None:
        self.kill()
        shutil.rmtree(self.folder, ignore_errors=True)


def _written(folder: Path, files: Files) -> Path:
    folder.mkdir(exist_ok=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return folder


def _files_of(work_file: Path, folder: Path) -> list[Path]:
    """All files of a work file in a folder."""
    return sorted(folder.glob(f"{glob.escape(work_file.stem)}.*"))


def _taken(folder: Path, work_file: Path) -> Files:
    """Read and remove them."""
    paths = _files_of(work_file, folder)
    files = {path.name: path.read_bytes() for path in paths}
    for path in paths:
        path.unlink()
    return files
