"""The results of `virnucpro predict`, read back row by row: the table of windows can be larger than the memory."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from virnucpro.calls.tables import REGIONS, SEQUENCES, WINDOWS
from virnucpro.errors import InputError, UsageError
from virnucpro.runs.paths import PredictPaths

CURE = "make it again with `virnucpro predict`"


class Sequence(NamedTuple):
    """A row of the sequences table; length in bases, score None where there is none.

    windows, regions: which rows of the other two tables, from 0, are this sequence's. All three are in input order.
    """

    number: int
    id: str
    length: int
    verdict: str
    score: float | None
    windows: range
    regions: range
    note: str


class ScoredWindow(NamedTuple):
    """Bases `start` to `end` (from 0, `end` excluded) of sequence `number`; score None if it has none."""

    number: int
    start: int
    end: int
    score: float | None


class Region(NamedTuple):
    """Bases `start` to `end` (from 0, `end` excluded) of a sequence with this id."""

    id: str
    start: int
    end: int


def find_prefix(folder: Path) -> str:
    """How the only results in `folder` are named. Raises InputError if there are none, UsageError if several."""
    ending = PredictPaths(folder / "*").sequences.name
    prefixes = sorted(path.name.removesuffix(ending[1:]) for path in folder.glob(ending))
    if not prefixes:
        raise InputError(
            f"no results of `virnucpro predict` in {folder}", hint="give the folder of its -o, after it has ended"
        )
    if len(prefixes) > 1:
        raise UsageError(f"{folder} holds several results: {', '.join(prefixes)}", hint="choose one with --prefix")
    return prefixes[0]


class Results:
    """The results that are named `prefix` in `folder`.

    What cannot be read, is cut off or is no table of `predict` raises InputError with the file's name.
    """

    def __init__(self, folder: Path, prefix: str) -> None:
        self.paths = PredictPaths(folder / prefix)

    def min_score(self) -> float:
        """The score from which on the run called a window viral."""
        path = self.paths.manifest
        with _reading(path):
            record = json.loads(path.read_text(encoding="utf-8"))
            if record["command"] != "predict":
                raise InputError(f"{path} is the record of `virnucpro {record['command']}`", hint=CURE)
            return float(record["result"]["min_score"])

    def sequences(self) -> Iterator[Sequence]:
        """All sequences in input order."""
        windows = regions = 0
        with _reading(self.paths.sequences):
            for row in _rows(self.paths.sequences, SEQUENCES):
                sequence = _sequence(row, windows, regions)
                windows, regions = sequence.windows.stop, sequence.regions.stop
                yield sequence

    def windows(self) -> Iterator[ScoredWindow]:
        """All windows in input order."""
        with _reading(self.paths.windows):
            for row in _rows(self.paths.windows, WINDOWS):
                yield ScoredWindow(int(row["number"]), int(row["start"]) - 1, int(row["end"]), _score(row["score"]))

    def regions(self) -> Iterator[Region]:
        """All viral regions in input order."""
        with _reading(self.paths.regions):
            for row in _rows(self.paths.regions, REGIONS):
                yield Region(row["#sequence_id"], int(row["start"]), int(row["end"]))


def _sequence(row: Mapping[str, str], windows: int, regions: int) -> Sequence:
    """The sequence of a row, before which the other tables have so many rows."""
    return Sequence(
        number=int(row["number"]),
        id=row["sequence_id"],
        length=int(row["length"]),
        verdict=row["verdict"],
        score=_score(row["score"]),
        windows=range(windows, windows + int(row["windows"])),
        regions=range(regions, regions + int(row["regions"])),
        note=row["note"],
    )


def _score(cell: str) -> float | None:
    return float(cell) if cell else None


def _rows(path: Path, columns: Mapping[str, str]) -> Iterator[dict[str, str]]:
    """The rows of a table by column. Raises ValueError if it is another table, or cut off."""
    opener = gzip.open if path.suffix == ".gz" else open
    with opener(path, "rt", encoding="utf-8", errors="surrogateescape") as file:  # names of inputs
        if next(file, "") != "\t".join(columns) + "\n":
            raise ValueError("its columns are not those of this version of virnucpro")
        for number, line in enumerate(file, 2):
            cells = line.rstrip("\n").split("\t")
            if not line.endswith("\n") or len(cells) != len(columns):
                raise ValueError(f"line {number} is cut off")
            yield dict(zip(columns, cells, strict=True))


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Every way in which reading `path` can fail, as InputError."""
    try:
        yield
    except FileNotFoundError as error:
        raise InputError(f"{path} does not exist", hint="let `virnucpro predict` run to its end") from error
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}", hint=CURE) from error
    except (EOFError, zlib.error, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path} is damaged or no result of `virnucpro predict`: {error}", hint=CURE) from error
