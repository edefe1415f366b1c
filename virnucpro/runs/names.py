"""The names that a run may write: not too long, not those of inputs, not taken by other files."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path

from virnucpro.core import log
from virnucpro.errors import InputError, OutputError, UsageError
from virnucpro.io.files import TEMPORARY_BYTES, unfinished
from virnucpro.runs.config import STDIN
from virnucpro.runs.paths import RunPaths
from virnucpro.runs.record import RunRecord

#: How to choose other names for the results.
HINT = "choose another output"
#: Bytes of a name, and of a path, if the file system does not say.
_LONGEST_NAME, _LONGEST_PATH = 255, 4096
#: Bytes of the longest path within a work folder.
_INSIDE_WORK = 32
#: Suffixes that are removed from an input's name to name the results.
_COMPRESSED = {".gz", ".bz2", ".xz", ".zst"}
_FORMATS = {".fa", ".fasta", ".fna", ".ffn", ".fas", ".fq", ".fastq", ".bam", ".ubam"}


def existing_folder(path: Path) -> Path:
    """The nearest folder above `path` that exists."""
    return next((folder for folder in path.absolute().parents if os.path.isdir(folder)), Path("/"))


def check(
    paths: RunPaths,
    results: Sequence[Path],
    inputs: Sequence[Path],
    *,
    force: bool,
    resume: bool = True,
    others: Sequence[Path] = (),
    hint: str = HINT,
) -> None:
    """Raise errors that can be found before anything is read; others: files that are read besides the inputs."""
    check_names(paths, results, (*inputs, *others), hint)
    for path in inputs:
        if path != STDIN and not os.path.exists(path):
            raise InputError(f"{path} does not exist", hint="check the path")
        if os.path.isdir(path):
            raise InputError(f"{path} is a folder", hint="give its files, for example with a pattern")
    there = next(filter(os.path.lexists, results), None)
    if there is not None and not force and not (resume and paths.record.exists()):  # it may be that of an earlier run
        raise taken(there)


def check_names(paths: RunPaths, results: Sequence[Path], reads: Iterable[Path], hint: str) -> None:
    """Check the names that a run will write, before anything is read or written.

    reads: every file that the run reads. hint: how to choose other names. Raises OutputError for a folder that cannot
    be written and for a name that is too long or that of a folder, UsageError for one that is that of an input.
    """
    files = (*results, paths.record, paths.failed, paths.log, paths.lock)
    folder = existing_folder(paths.output)
    if not os.access(folder, os.W_OK):
        raise OutputError(f"the folder {folder} cannot be written", hint="choose another folder with -o")
    for path in (*files, paths.work):
        _check_length(path, TEMPORARY_BYTES if path != paths.work else 0, hint)
        if path != paths.work and os.path.isdir(path):
            raise OutputError(f"{path} is a folder", hint=hint)
    _refuse_inputs([*files, *unfinished(files)], paths.folders, reads, hint)


def _check_length(path: Path, more: int, hint: str) -> None:
    *folders, name = map(len, map(os.fsencode, path.absolute().parts))
    try:
        longest = os.pathconf(existing_folder(path), "PC_NAME_MAX")
    except (OSError, ValueError):
        longest = _LONGEST_NAME
    if max(*folders, name + more) > longest:
        raise OutputError(f"the file name of {path} is too long", hint=hint)
    if len(os.fsencode(path.absolute())) + max(more, _INSIDE_WORK) >= _LONGEST_PATH:
        raise OutputError(f"the path {path} is too long", hint=hint)


def _refuse_inputs(files: Iterable[Path], folders: Sequence[Path], reads: Iterable[Path], hint: str) -> None:
    read = {path: path.resolve() for path in reads if path != STDIN}
    identities = {identity: path for path in read if (identity := _identity(path))}
    names = {resolved: path for path, resolved in read.items()}
    for path in files:
        identity = _identity(path)
        if same := names.get(path.resolve()) or (identity and identities.get(identity)):
            raise UsageError(f"the output {path} is also an input ({same})", hint=hint)
    for folder in folders:
        if inside := [path for path, resolved in read.items() if resolved.is_relative_to(folder.resolve())]:
            raise UsageError(f"the input {inside[0]} is in {folder}, which the run clears", hint=hint)


def _identity(path: Path) -> tuple[int, int] | None:
    """Device and inode of a file, which are the same under all its names; None if it cannot be found."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def refuse_taken(paths: RunPaths, record: RunRecord | None, command: str, first_line: str, force: bool) -> None:
    """Raise OutputError for files in the way that no earlier run has written; with `force` remove them.

    `record` is that of an earlier run, if one can be read; `first_line` is the first line of each run's log. Results
    are not checked here: those that are replaced stay until the new ones are there.
    """
    ours = record.command == command if record else log.has_line(paths.log, first_line)
    for path in (paths.record, paths.failed, paths.work, *paths.folders, paths.log):
        may_stay = path == paths.work or ours if path != paths.log else log.is_log(path)
        if not path.is_symlink() and (not path.exists() or may_stay):
            continue
        if not force:
            raise taken(path)
        remove(path)


def taken(path: Path) -> OutputError:
    """The error for an existing `path` that must not be overwritten."""
    what = "is a symbolic link" if path.is_symlink() else "exists"
    return OutputError(f"{path} {what}", hint="choose another output, or overwrite with --force")


def remove(path: Path) -> None:
    """Remove a file, a link, or a folder and all in it. Raises OSError."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def default_prefix(first: Path) -> str:
    """The name of the first input without the suffixes of its format; `stdin` for standard input.

    Raises UsageError for an open file without a name, such as the shell makes of `<(command)`.
    """
    if first == STDIN:
        return "stdin"
    if re.fullmatch(r"/dev/fd|/proc/[^/]+/fd", str(first.parent)):
        raise UsageError(f"{first} has no name that results could be named after", hint="name them with --prefix")
    name = Path(first.name)
    for endings in (_COMPRESSED, _FORMATS):
        if name.suffix.lower() in endings:
            name = name.with_suffix("")
    return name.name
