"""Pictures of the results of `virnucpro predict`: which sequences get one, and under which name."""

from __future__ import annotations

import contextlib
import heapq
import logging
import os
import re
import sys
from collections.abc import Iterable, Iterator
from difflib import get_close_matches
from itertools import islice
from pathlib import Path

from virnucpro.calls.read import CURE, Region, Results, ScoredWindow, Sequence
from virnucpro.core.caches import settle_caches
from virnucpro.errors import InputError, OutputError, UsageError

logger = logging.getLogger("virnucpro.report")

DEFAULT_TOP = 20
FORMATS = ("png", "svg")

#: Verdicts that get a picture without being asked for, in their order.
VIRAL = ("virus", "mixed")

#: Ids among which one is sought that was misspelt; more would take minutes.
_ENOUGH_IDS = 100_000
_LONGEST_NAME = 60


def check_matplotlib() -> None:
    """Raise UsageError where matplotlib is not installed; a command that draws at its end asks at its beginning."""
    try:
        _import_matplotlib()
    except ImportError as error:
        raise UsageError("pictures need matplotlib", hint="pip install 'virnucpro[report]'") from error


def _import_matplotlib() -> None:
    """Import it whatever MPLBACKEND says: that of a notebook may name what is not installed here; files need none."""
    if sys.modules.get("matplotlib"):
        return
    settle_caches()
    backend = os.environ.pop("MPLBACKEND", None)
    try:
        import matplotlib
    finally:
        if backend is not None:
            os.environ["MPLBACKEND"] = backend
    if backend is not None:
        with contextlib.suppress(ValueError):
            matplotlib.rcParams["backend"] = backend


def plot_results(
    folder: Path,
    prefix: str,
    output: Path,
    *,
    file_format: str = "png",
    top: int = DEFAULT_TOP,
    ids: tuple[str, ...] = (),
    force: bool = False,
) -> list[Path]:
    """Draw sequences of the results `prefix` in `folder`, one picture each, into the folder `output`.

    Which: all those with one of `ids`; without ids the `top` best, viruses before mixed, higher scores first. How many
    viral ones were left out is logged. `file_format`: one of FORMATS. `force` overwrites pictures of the same names;
    others stay. Memory: one pass over each table keeps what is drawn, nothing else.

    Returns the pictures, in that order; none (and no folder) if no sequence is viral. Raises UsageError without
    matplotlib, InputError for tables that are absent or damaged or an id that is not there, OutputError for what cannot
    be written.
    """
    check_matplotlib()
    results = Results(folder, prefix)
    min_score = results.min_score()
    survey = _Survey(results)
    chosen = _named(survey, results, ids) if ids else heapq.nsmallest(top, filter(_is_viral, survey), key=_rank)
    paths = [output / _file_name(sequence, file_format) for sequence in chosen]
    if chosen:
        _check_free(paths, force)
        windows = _windows(results, chosen, survey.windows)
        regions = _regions(results, chosen, survey.regions)
        _make(output)
        for sequence, path in zip(chosen, paths, strict=True):
            _write(path, file_format, sequence, windows[sequence.number], regions[sequence.number], min_score)
    _log(survey, paths, 0 if ids else survey.viral - len(chosen))
    return paths


class _Survey:
    """The sequences of a run, counted while they pass; `windows`, `regions`: rows that the other tables must have."""

    def __init__(self, results: Results) -> None:
        self._results = results
        self.sequences = self.viral = self.windows = self.regions = 0

    def __iter__(self) -> Iterator[Sequence]:
        for sequence in self._results.sequences():
            self.sequences += 1
            self.viral += _is_viral(sequence)
            self.windows, self.regions = sequence.windows.stop, sequence.regions.stop
            yield sequence


def _is_viral(sequence: Sequence) -> bool:
    return sequence.verdict in VIRAL


def _rank(sequence: Sequence) -> tuple[int, float, int]:
    return VIRAL.index(sequence.verdict), -(sequence.score or 0), sequence.number


def _named(sequences: Iterable[Sequence], results: Results, ids: tuple[str, ...]) -> list[Sequence]:
    """All sequences with one of the ids, in input order; each id must be there, and each sequence have windows."""
    wanted = set(ids)
    found = [sequence for sequence in sequences if sequence.id in wanted]
    missing = sorted(wanted.difference(sequence.id for sequence in found))
    if missing:
        raise InputError(
            f"no sequence {missing[0]!r} in {results.paths.sequences}", hint=_close_to(missing[0], results)
        )
    for sequence in found:
        if not sequence.windows:
            raise InputError(f"{sequence.id} has no windows to draw", hint=sequence.note or None)
    return found


def _close_to(name: str, results: Results) -> str:
    close = get_close_matches(name, (sequence.id for sequence in islice(results.sequences(), _ENOUGH_IDS)))
    return f"did you mean {' or '.join(close)}?" if close else "an id is the first word of a header"


def _file_name(sequence: Sequence, file_format: str) -> str:
    """A name of harmless letters for any id; the number makes it unique."""
    readable = re.sub(r"[^A-Za-z0-9.-]+", "_", sequence.id)[:_LONGEST_NAME].strip("_.-")
    return "_".join(filter(None, (f"{sequence.number:06d}", readable))) + f".{file_format}"


def _check_free(paths: list[Path], force: bool) -> None:
    there = next((path for path in paths if os.path.exists(path)), None)
    if there and not force:
        raise OutputError(f"{there} exists", hint="choose another folder, or overwrite with --force")


def _make(output: Path) -> None:
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"cannot make the folder {output}: {error.strerror}", hint="choose another place") from error


def _windows(results: Results, chosen: list[Sequence], expected: int) -> dict[int, list[ScoredWindow]]:
    """Windows of the chosen sequences, by the sequence's number."""
    found: dict[int, list[ScoredWindow]] = {sequence.number: [] for sequence in chosen}
    rows = 0
    for window in results.windows():
        rows += 1
        if window.number in found:
            found[window.number].append(window)
    _check_rows(results, results.paths.windows, rows, expected)
    return found


def _regions(results: Results, chosen: list[Sequence], expected: int) -> dict[int, list[Region]]:
    """Regions of the chosen sequences, by the sequence's number. Found by their place, for two may share an id."""
    owners = {row: sequence for sequence in chosen for row in sequence.regions}
    found: dict[int, list[Region]] = {sequence.number: [] for sequence in chosen}
    rows = 0
    for region in results.regions():
        if owner := owners.get(rows):
            if region.id != owner.id:
                raise InputError(f"{results.paths.regions} is not of the run of {results.paths.sequences}", hint=CURE)
            found[owner.number].append(region)
        rows += 1
    _check_rows(results, results.paths.regions, rows, expected)
    return found


def _check_rows(results: Results, table: Path, rows: int, expected: int) -> None:
    if rows != expected:
        raise InputError(f"{table} has {rows} rows where {results.paths.sequences} counts {expected}", hint=CURE)


def _write(
    path: Path,
    file_format: str,
    sequence: Sequence,
    windows: list[ScoredWindow],
    regions: list[Region],
    min_score: float,
) -> None:
    from virnucpro import picture
    from virnucpro.io.files import atomic_path

    with atomic_path(path) as temporary:
        picture.save(picture.draw(sequence, windows, regions, min_score), temporary, file_format)


def _log(survey: _Survey, paths: list[Path], left_out: int) -> None:
    if not paths:
        logger.info("none of %d sequences is viral, so no picture", survey.sequences)
        return
    logger.info("pictures: %d, in %s", len(paths), paths[0].parent)
    if left_out:
        logger.info("viral sequences left out: %d; `virnucpro plot --top %d` draws all", left_out, survey.viral)
