"""The results of `virnucpro predict`, read back row by row: the table of windows can be larger than the memory."""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple, TypedDict, TypeVar, cast, get_type_hints

from virnucpro.calls.tables import REGIONS, SEQUENCES, WINDOWS
from virnucpro.errors import InputError, UsageError
from virnucpro.io.tables import read_rows
from virnucpro.runs.paths import PredictPaths

HINT = "rerun `virnucpro predict`"

Row = TypeVar("Row")


class SequenceRow(TypedDict):
    """A row of the sequences table (docs/outputs.md says what each column means); None where a cell is empty."""

    number: int
    sequence_id: str
    length: int
    verdict: str
    score: float | None
    threshold: float | None
    false_positive_rate: float | None
    windows: int
    windows_scored: int
    windows_viral: int
    viral_fraction: float | None
    regions: int
    input: str
    record: int
    note: str


class WindowRow(NamedTuple):
    """Bases `start` to `end` (from 0, `end` excluded) of sequence `number`; score None if it has none.

    frames: names of its open frames; best_frame: empty if the score is not based on a frame; viral: by itself.
    """

    number: int
    start: int
    end: int
    frames: tuple[str, ...]
    best_frame: str
    score: float | None
    viral: bool


class RegionRow(NamedTuple):
    """Bases `start` to `end` (from 0, `end` excluded) of a sequence with this id, and its scored and viral windows."""

    id: str
    start: int
    end: int
    score: float
    windows_scored: int
    windows_viral: int


class Called(NamedTuple):
    """A sequence with all its windows and regions."""

    sequence: SequenceRow
    windows: list[WindowRow]
    regions: list[RegionRow]


def find_prefix(folder: Path) -> str:
    """The prefix of the only results in `folder`. Raises InputError if there are none, UsageError for several."""
    ending = PredictPaths(folder / "*").sequences.name
    prefixes = sorted(path.name.removesuffix(ending[1:]) for path in folder.glob(ending))
    if not prefixes:
        raise InputError(
            f"no results of `virnucpro predict` in {folder}", hint="give the output folder (-o) of a finished run"
        )
    if len(prefixes) > 1:
        raise UsageError(f"{folder} holds several results: {', '.join(prefixes)}", hint="choose one with --prefix")
    return prefixes[0]


class Results:
    """The results with this prefix in `folder`.

    A file that cannot be read, is truncated or is not a table of `predict` raises InputError with its name.
    """

    def __init__(self, folder: Path, prefix: str) -> None:
        self.paths = PredictPaths(folder / prefix)

    def record(self) -> dict[str, Any]:
        """The record of the run, which must be complete."""
        path = self.paths.record
        with reading(path):
            record: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
            if record["command"] != "predict":
                raise InputError(f"{path} is the record of `virnucpro {record['command']}`", hint=HINT)
            if record["state"] != "complete":
                raise InputError(f"{path} belongs to an unfinished run", hint="run the same command again to finish it")
        return record

    def sequences(self) -> Iterator[SequenceRow]:
        """All sequences in input order."""
        read = {column: _CELLS[kind] for column, kind in get_type_hints(SequenceRow).items()}
        with reading(self.paths.sequences):
            for row in read_rows(self.paths.sequences, SEQUENCES):
                yield cast(SequenceRow, {column: cell(row[column]) for column, cell in read.items()})

    def windows(self) -> Iterator[WindowRow]:
        """All windows in input order."""
        with reading(self.paths.windows):
            yield from map(_window, read_rows(self.paths.windows, WINDOWS))

    def regions(self) -> Iterator[RegionRow]:
        """All viral regions in input order."""
        with reading(self.paths.regions):
            yield from map(_region, read_rows(self.paths.regions, REGIONS))

    def called(self) -> Iterator[Called]:
        """All sequences in input order, each with its windows and regions; the tables must belong together."""
        windows, regions = self.windows(), self.regions()
        for sequence in self.sequences():
            called = Called(
                sequence,
                self._next(self.paths.windows, windows, sequence["windows"]),
                self._next(self.paths.regions, regions, sequence["regions"]),
            )
            if any(window.number != sequence["number"] for window in called.windows):
                raise self._foreign(self.paths.windows)
            if any(region.id != sequence["sequence_id"] for region in called.regions):
                raise self._foreign(self.paths.regions)
            yield called
        for path, rows in ((self.paths.windows, windows), (self.paths.regions, regions)):
            if next(rows, None) is not None:
                raise self._foreign(path)

    def _next(self, path: Path, rows: Iterator[Row], count: int) -> list[Row]:
        found = list(islice(rows, count))
        if len(found) < count:
            raise self._foreign(path)
        return found

    def _foreign(self, path: Path) -> InputError:
        return InputError(f"{path} has other rows than {self.paths.sequences} counts", hint=HINT)


def _window(row: Mapping[str, str]) -> WindowRow:
    return WindowRow(
        number=int(row["number"]),
        start=int(row["start"]) - 1,
        end=int(row["end"]),
        frames=tuple(filter(None, row["frames"].split(","))),
        best_frame=row["best_frame"],
        score=_score(row["score"]),
        viral=row["call"] == "virus",
    )


def _region(row: Mapping[str, str]) -> RegionRow:
    return RegionRow(
        id=row["#sequence_id"],
        start=int(row["start"]),
        end=int(row["end"]),
        score=float(row["region_score"]),
        windows_scored=int(row["windows_scored"]),
        windows_viral=int(row["windows_viral"]),
    )


def _score(cell: str) -> float | None:
    return float(cell) if cell else None


#: How a cell is read, by the declared type of its column.
_CELLS: Mapping[object, Callable[[str], object]] = {int: int, str: str, float | None: _score}


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Raise InputError for everything that can go wrong when `path` is read."""
    try:
        yield
    except FileNotFoundError as error:
        raise InputError(f"{path} does not exist", hint="run `virnucpro predict` first, to its end") from error
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}", hint=HINT) from error
    except (EOFError, zlib.error, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path} is damaged or not a result of `virnucpro predict`: {error}", hint=HINT) from error
