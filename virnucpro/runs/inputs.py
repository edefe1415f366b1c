"""The input of a run: streams copied to files, checksums, whether it is still the same, and what failed in it."""

from __future__ import annotations

import contextlib
import shutil
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from virnucpro.errors import InputError, OutputError
from virnucpro.io.files import failing_as, sha256_of
from virnucpro.runs.config import STDIN
from virnucpro.runs.paths import RunPaths

#: Something without a result: (input, record number from 1, or 0 for the rest of the file, id, reason).
Failure = tuple[str, int, str, str]


class Inputs:
    """Input files; names: as the user gave them; paths: what to read instead; described: for the run record."""

    def __init__(self, names: Sequence[Path], paths: RunPaths) -> None:
        self.names = tuple(names)
        self.paths = _spooled(self.names, paths)
        self.described = [_described(path, name) for path, name in zip(self.paths, self.names, strict=True)]

    @property
    def shown(self) -> list[Path]:
        """Their names in messages."""
        return [Path("standard input") if name == STDIN else name for name in self.names]

    @property
    def sums(self) -> list[str]:
        """The sha256 of each."""
        return [str(entry["sha256"]) for entry in self.described]

    def refuse_changed(self) -> None:
        """Raise InputError if one has changed since the run began; to be called after they were read again."""
        for path, name, before in zip(self.paths, self.shown, self.sums, strict=True):
            if _described(path, name)["sha256"] != before:
                raise InputError(f"{name} changed during the run", hint="wait until it is complete, then run again")

    def failures(self, found: Iterable[tuple[int, int, str, str]]) -> list[Failure]:
        """Failures as (index of the input, record, id, reason), with the name of the input, in input order."""
        # Record 0 stands for the rest of a file and comes after its records.
        ordered = sorted(found, key=lambda row: (row[0], row[1] == 0, row[1]))
        return [(str(self.names[index]), number, name, reason) for index, number, name, reason in ordered]


def _spooled(names: Sequence[Path], paths: RunPaths) -> list[Path]:
    """The inputs, with copies of `-` and pipes, so that these can be hashed, split and resumed like any other input."""
    hint = "free space, or choose another place with --work-dir"
    with failing_as(OutputError, f"cannot copy the input to {paths.streams}", hint):
        return [_copied(name, paths, index) for index, name in enumerate(names)]


def _copied(name: Path, paths: RunPaths, index: int) -> Path:
    if name != STDIN and name.is_file():
        return name
    if name == STDIN and sys.stdin is None:
        raise InputError("standard input is closed", hint="pipe sequences in, or give a file")
    paths.streams.mkdir(parents=True, exist_ok=True)
    copy = paths.streams / str(index)
    with contextlib.ExitStack() as stack:
        source = sys.stdin.buffer if name == STDIN else stack.enter_context(open(name, "rb"))
        shutil.copyfileobj(source, stack.enter_context(open(copy, "wb")), 1 << 20)
    return copy


def _described(path: Path, name: Path) -> dict[str, object]:
    """Name, size and sha256 of an input. Raises InputError."""
    with failing_as(InputError, f"cannot read {name}", "check the path and its permissions"):
        return {"path": str(name), "size": path.stat().st_size, "sha256": sha256_of(path)}
