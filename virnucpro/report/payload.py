"""The data of the page's script: columns of numbers, packed into one text."""

from __future__ import annotations

import base64
import gzip
import json
from array import array
from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from virnucpro.calls.read import Called, RegionRow, SequenceRow, WindowRow
from virnucpro.input.frames import FRAME_NAMES
from virnucpro.report.html import printable
from virnucpro.report.survey import VERDICTS, Survey

#: A window without a score. With one: twice its thousandths, and 1 if it is viral.
NO_SCORE = 0xFFFF
#: A window whose score is not based on a frame. Otherwise six bits, one per open frame, and above these the place of
#: the best frame.
_FRAME_BITS, _NO_FRAME = len(FRAME_NAMES), 0x7

#: Names of the columns, and how each number is kept, as NumPy has it.
_ROWS = {
    "number": "u4",
    "length": "u4",
    "verdict": "u1",
    "score": "f4",
    "threshold": "f4",
    "rate": "f4",
    "windows": "u4",
    "scored": "u4",
    "viral": "u4",
    "regions": "u4",
    "tracks": "u4",
    "input": "u2",
    "record": "u4",
    "note": "u4",
}
_WINDOWS = {"step": "u4", "size": "u4", "value": "u2", "frames": "u2"}
_REGIONS = {"start": "u4", "end": "u4", "region_score": "f4", "region_scored": "u4", "region_viral": "u4"}


class Columns:
    """Takes the sequences of the page with their regions, and with their windows if the page holds these.

    Of rows: `windows` is how many windows a sequence has, `tracks` how many of them are here. Of windows: `step` is the
    distance from the start of the previous one.
    """

    def __init__(self) -> None:
        self._kinds = _ROWS | _WINDOWS | _REGIONS
        self._columns = {name: array(np.dtype(kind).char) for name, kind in self._kinds.items()}
        self._ids: list[str] = []
        self._notes: dict[str, int] = {"": 0}
        self._inputs: dict[str, int] = {}
        self._frames = False

    def add(self, called: Called, with_windows: bool) -> None:
        """Take the next sequence."""
        windows = called.windows if with_windows else []
        self._row(called.sequence, len(windows))
        for region in called.regions:
            self._region(region)
        start = 0
        for window in windows:
            self._window(window, window.start - start)
            start = window.start

    def _put(self, **values: Any) -> None:
        for name, value in values.items():
            self._columns[name].append(value)

    def _row(self, row: SequenceRow, tracks: int) -> None:
        self._ids.append(row["sequence_id"])
        self._put(
            number=row["number"],
            length=row["length"],
            verdict=VERDICTS.index(row["verdict"]),
            score=_or_nan(row["score"]),
            threshold=_or_nan(row["threshold"]),
            rate=_or_nan(row["false_positive_rate"]),
            windows=row["windows"],
            scored=row["windows_scored"],
            viral=row["windows_viral"],
            regions=row["regions"],
            tracks=tracks,
            input=self._inputs.setdefault(printable(row["input"]), len(self._inputs)),
            record=row["record"],
            note=self._notes.setdefault(printable(row["note"]), len(self._notes)),
        )

    def _region(self, region: RegionRow) -> None:
        self._put(
            start=region.start,
            end=region.end,
            region_score=region.score,
            region_scored=region.windows_scored,
            region_viral=region.windows_viral,
        )

    def _window(self, window: WindowRow, step: int) -> None:
        value = NO_SCORE if window.score is None else 2 * round(1000 * window.score) + window.viral
        self._frames = self._frames or bool(window.frames)
        self._put(step=step, size=window.end - window.start, value=value, frames=_frames(window))

    def packed(self, survey: Survey, facts: dict[str, Any]) -> str:
        """Everything as base64 of gzip: the length of a JSON text, the text, then the columns that it names.

        A column is the lowest bytes of all its numbers, then the next ones, and so on, since this compresses better.
        """
        columns = {
            name: np.array(column, f"<{self._kinds[name]}")
            for name, column in self._columns.items()
            if name != "frames" or self._frames
        }
        columns["scores"] = survey.scores.ravel().astype("<u4")
        if not survey.complete:
            columns["density"] = survey.density.ravel().astype("<u4")
        head = facts | {
            "columns": {name: [column.dtype.str[1:], len(column)] for name, column in columns.items()},
            "ids": self._ids,
            "notes": list(self._notes),
            "inputs": list(self._inputs),
            "frameNames": list(FRAME_NAMES),
        }
        text = json.dumps(head, ensure_ascii=False, separators=(",", ":")).encode()
        parts = len(text).to_bytes(4, "little"), text, *map(_planes, columns.values())
        return base64.b64encode(gzip.compress(b"".join(parts), 9, mtime=0)).decode("ascii")


def _or_nan(value: float | None) -> float:
    return float("nan") if value is None else value


def _frames(window: WindowRow) -> int:
    best = FRAME_NAMES.index(window.best_frame) if window.best_frame else _NO_FRAME
    return sum(1 << FRAME_NAMES.index(name) for name in window.frames) | best << _FRAME_BITS


def _planes(column: NDArray[Any]) -> bytes:
    return bytes(column.view("u1").reshape(len(column), column.itemsize).T.tobytes())


def collect(called: Iterable[Called], survey: Survey) -> Columns:
    """The columns of the sequences that a survey has chosen."""
    columns = Columns()
    for each, row, track in zip(called, survey.rows, survey.tracks, strict=True):
        if row:
            columns.add(each, bool(track))
    return columns
