"""What a run holds while it is active: the lock on its output, its log, its record, the time of its stages.

    with session("embed", paths, config.described, force=False, listen=…) as run:
        ... run.record is that of an earlier run, if there was one ...
        run.begin(results, identity, choices, plan, details)
        with run.publishing([result], failures) as names: ...  # write names[result]
        run.complete({...})

However the block ends, what was needed only during the run is removed, except for work files from which the same
command can continue.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import shutil
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from virnucpro._version import __version__
from virnucpro.core import log
from virnucpro.errors import OutputError
from virnucpro.io.files import atomic_paths, make_folder, remove_unfinished
from virnucpro.io.tables import FAILED, write_table
from virnucpro.pipeline.events import Listener, Phase
from virnucpro.runs.changes import Asked, changes
from virnucpro.runs.inputs import Failure
from virnucpro.runs.names import refuse_taken, remove, taken
from virnucpro.runs.paths import RunPaths
from virnucpro.runs.record import RunRecord, as_recorded

logger = logging.getLogger("virnucpro.run")


@contextlib.contextmanager
def session(command: str, paths: RunPaths, settings: Asked, *, force: bool, listen: Listener) -> Iterator[Session]:
    """A run of `command` over `paths`. Raises OutputError if files are taken, and for every OSError in the block."""
    first_line = f"virnucpro {command} of {paths.output.name}"
    make_folder(paths.output.parent)
    with _failing_as_output_error(paths), _locked(paths):
        record = RunRecord.load(paths.record)
        refuse_taken(paths, record, command, first_line, force)
        if record is not None and record.command != command:
            record = None  # --force has removed it
        with log.to_file(paths.log, first_line):
            run = Session(command, paths, settings, record, force, listen)
            try:
                logger.debug("virnucpro %s", __version__)
                yield run
            except BaseException as error:
                logger.debug("ended by %s: %s", type(error).__name__, error)  # the caller shows it to the user
                raise
            finally:
                run.tidy()


@contextlib.contextmanager
def _failing_as_output_error(paths: RunPaths) -> Iterator[None]:
    """Raise OutputError for an OSError that has not become an error of this package before."""
    try:
        yield
    except OSError as error:
        where = error.filename or paths.shown
        raise OutputError(
            f"{where}: {error.strerror or error}", hint="fix that, then run the same command again"
        ) from error


@contextlib.contextmanager
def _locked(paths: RunPaths) -> Iterator[None]:
    """Keep a second run away from the same output, wherever its work files are."""
    path, descriptor = paths.lock, _lock(paths)
    try:
        yield
    finally:
        if _is_still_there(path, descriptor):  # otherwise it was removed meanwhile, and this file is another run's
            path.unlink()  # before it is closed, so that a run that opens it afterwards makes a new one
        os.close(descriptor)


def _lock(paths: RunPaths) -> int:
    path = paths.lock
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(descriptor)
            message = f"another run is writing {paths.shown}"
            raise OutputError(message, hint="wait for it, or choose another output") from error
        except OSError as error:
            logger.warning(
                "the file system of %s does not support locks (%s): do not start a second run on this output, or "
                "choose another place",
                path.parent,
                error.strerror,
            )
            return descriptor
        if _is_still_there(path, descriptor):
            return descriptor
        os.close(descriptor)  # the run that held it has ended and removed it: the locked file has no name any more


def _is_still_there(path: Path, descriptor: int) -> bool:
    with contextlib.suppress(FileNotFoundError):
        return os.path.samestat(path.lstat(), os.fstat(descriptor))
    return False


class Session:
    """One run; made by `session`. `record` is that of an earlier run, and from `begin` on its own."""

    def __init__(
        self, command: str, paths: RunPaths, settings: Asked, record: RunRecord | None, force: bool, listen: Listener
    ) -> None:
        self.command, self.paths, self.settings, self.record = command, paths, settings, record
        self.force, self.listen = force, listen
        self.started = datetime.now(timezone.utc)
        self._began = time.monotonic()
        self._seconds: dict[str, float] = {}

    @contextlib.contextmanager
    def stage(self, name: str, steps: int = 0, unit: str = "steps") -> Iterator[None]:
        """Announce a stage, and time it; steps: the largest number of them that it will report to the listener."""
        self.listen(None, Phase(name, steps, unit=unit))
        began = time.monotonic()
        yield
        seconds = time.monotonic() - began
        self._seconds[name] = self._seconds.get(name, 0.0) + seconds
        logger.debug("%s: done in %.1f s", name, seconds)

    @property
    def own(self) -> RunRecord:
        """The record of this run, or of the earlier one that it continues."""
        assert self.record is not None, "the run has not begun"
        return self.record

    def start_anew(self) -> None:
        """Remove the files by which an earlier run could be continued; its results and its record stay for now."""
        _clear(self.paths, self.paths.kept)
        self._clear_elsewhere()

    def _clear_elsewhere(self) -> None:
        for paths in self._elsewhere():
            _clear(paths, paths.folders)

    def _elsewhere(self) -> list[RunPaths]:
        """The same run with its earlier work folders, but not with those of a run whose record was copied here."""
        details = self.record.details if self.record else {}
        works = details["work"] if details.get("output") == str(self.paths.output.absolute()) else ()
        return [replace(self.paths, work_dir=Path(work)) for work in works if Path(work) != self.paths.work.absolute()]

    def take_over(self) -> None:
        """Continue with the work files of an earlier run that had them in another folder. Raises OSError."""
        elsewhere = self._elsewhere()
        if not elsewhere:
            return
        self._note_works(elsewhere)
        self.own.save()  # so that neither folder is forgotten if the run is killed here
        for before in elsewhere:
            logger.info("taking over the work files in %s", before.work)
            for old, new in zip(before.kept, self.paths.kept, strict=True):
                _move(old, new)
            _clear(before, before.folders)
        self._note_works([])

    def _note_works(self, others: Iterable[RunPaths]) -> None:
        self.own.details["work"] = [str(paths.work.absolute()) for paths in (self.paths, *others)]

    def already_done(
        self, results: Sequence[Path], identity: dict[str, Any], choices: dict[str, Any], recall: bool = False
    ) -> RunRecord | None:
        """The record of an earlier run, if it was the same and is complete. Raises OutputError for other results.

        recall: its results may be replaced by those of other choices, since these are made in seconds.
        """
        there = next(filter(os.path.lexists, results), None)
        if there is None or self.force:
            return None
        record = self.record
        if record is None or record.state == "working":
            raise taken(there)
        identity, choices = as_recorded(identity), as_recorded(choices | _names(results))
        if recall and record.identity == identity and record.choices != choices:
            if foreign := [path for path in results if os.path.lexists(path) and path.name not in _published(record)]:
                raise taken(foreign[0])
            return None
        old, new = record.identity | record.choices, identity | choices
        if changed := changes(old, new, record.settings, self.settings):
            raise OutputError(
                f"{there} exists and was made with other settings ({', '.join(changed)})",
                hint="choose another output, or overwrite with --force",
            )
        return record if self._is_whole(record, results) else None

    def _is_whole(self, record: RunRecord, results: Iterable[Path]) -> bool:
        lost = [path for path in results if not path.exists()]
        if record.state != "complete":
            logger.info("the previous run stopped while it renamed its results; they are written again")
        elif record.failed_work_files:
            logger.info("some work files failed last time and are tried again")
        elif lost:
            logger.info("%s is missing; running again", lost[0])
        else:
            logger.info("%s is complete; nothing to do", self.paths.shown)
            return True
        return False

    def begin(
        self,
        results: Sequence[Path],
        identity: dict[str, Any],
        choices: dict[str, Any],
        plan: dict[str, Any],
        details: dict[str, Any],
    ) -> None:
        """Write the record of this run: from here on the same command can continue it."""
        # With --force, existing files are not this run's; without it, `already_done` has checked that they are.
        ours = not self.force and any(map(os.path.lexists, results))
        names = _names(results)
        obsolete = self._obsolete(names["results"])
        self.record = RunRecord(
            self.paths.record,
            self.command,
            identity,
            choices | names,
            plan,
            "publishing" if ours else "working",
            {
                "started": self.started.isoformat(timespec="seconds"),
                "output": str(self.paths.output.absolute()),
                "settings": dict(self.settings),
                **details,
                "obsolete": obsolete,
            },
        )
        self._note_works([])
        self.record.save()

    def _obsolete(self, names: Iterable[str]) -> list[str]:
        """Results of the previous run that this one does not have: they are removed when the new ones are published.

        Some names are the same in all runs into a folder: if there are other runs, such files may be theirs.
        """
        mine, folder = self.paths.output.name, self.paths.output.parent
        alone = all(path == self.paths.record for path in folder.glob("*.run.json"))
        before = {*_published(self.record)} - {*names}
        return sorted(name for name in before if alone or name.startswith(mine))

    @contextlib.contextmanager
    def publishing(
        self, results: Sequence[Path], failures: Sequence[Failure], replaced: Iterable[Path] = ()
    ) -> Iterator[dict[Path, Path]]:
        """Temporary names for `results`; all get their final names together if the block succeeds.

        The list of failures is published with them if it is one of the results, or if there are any failures at the end
        of the block. The record says `publishing` before the first file is renamed, so that a run that is killed in
        between writes them again. Just before that, `replaced` files and results that only the previous run had are
        removed.
        """
        listed = self.paths.failed
        with atomic_paths((*results, listed)) as names:
            yield names
            if failures or listed in results:
                write_table(names[listed], FAILED, failures)
            else:
                del names[listed]
            self.own.state = "publishing"
            self.own.save()
            for path in (*replaced, listed, *map(self.paths.output.with_name, self.own.details["obsolete"])):
                remove(path)

    def complete(self, details: dict[str, Any], failed_work_files: dict[str, str] | None = None) -> None:
        """Write into the record that the run is complete, and its results."""
        details = {name: value for name, value in self.own.details.items() if name != "obsolete"} | {  # they are gone
            "seconds": round(time.monotonic() - self._began, 1),
            "stages": {name: round(seconds, 2) for name, seconds in self._seconds.items()},
            **details,
            "failed_work_files": failed_work_files or {},
        }
        record = replace(self.own, state="complete", details=details)
        record.save()
        self.record = record  # only now: until the disk says so, the work files are needed

    def tidy(self) -> None:
        """At the end, however the run ends: keep the work files only if it can be continued."""
        results = map(self.paths.output.with_name, _published(self.record))
        remove_unfinished((self.paths.record, self.paths.failed, *results))
        record = self.record
        goes_on = record is not None and (record.state != "complete" or record.failed_work_files)
        if not goes_on or not any(self.paths.parts.glob("*")):
            _clear(self.paths, self.paths.folders)
            self._clear_elsewhere()


def _clear(paths: RunPaths, folders: Iterable[Path]) -> None:
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)
    with contextlib.suppress(OSError):  # a folder that holds anything else stays
        paths.work.rmdir()


def _move(old: Path, new: Path) -> None:
    """Move all files of a folder, where they replace others with the same names."""
    if old.is_dir():
        new.mkdir(parents=True, exist_ok=True)
        for path in old.iterdir():
            shutil.move(path, new / path.name)
        old.rmdir()


def _names(results: Iterable[Path]) -> dict[str, list[str]]:
    return {"results": [path.name for path in results]}


def _published(record: RunRecord | None) -> list[str]:
    return [*record.results, *record.details.get("obsolete", ())] if record else []
