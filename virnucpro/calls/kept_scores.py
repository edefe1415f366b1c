"""`PREFIX.scores.gz`: every score of a run, exact, so that calls with other thresholds need no models.

A gzip file of JSON lines: a header with the fingerprint of the run, its rows in input order, and their number. Scores
are float32, as hexadecimal digits. Nothing depends on how the input was split, so equal scores give equal bytes.
"""

from __future__ import annotations

import gzip
import json
import logging
import zlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from virnucpro.calls.scoring import Row, ScoredWindow
from virnucpro.input.index import IndexedSequence, IndexedWindow

logger = logging.getLogger("virnucpro.run")

FORMAT = 1


def keep_scores(file: TextIO, fingerprint: str, failed: Mapping[str, str], rows: Iterable[Row]) -> Iterator[Row]:
    """The rows, each written as it passes; failed: work files that failed, complete when the rows end."""
    count = 0
    file.write(_line({"virnucpro_scores": FORMAT, "fingerprint": fingerprint}))
    for row in rows:
        file.write(_line(["sequence", *row] if isinstance(row, IndexedSequence) else _packed(row)))
        count += 1
        yield row
    file.write(_line({"rows": count, "whole": not failed}))


def _line(value: object) -> str:
    return json.dumps(value, separators=(",", ":")) + "\n"


def _packed(row: ScoredWindow) -> list[object]:
    found = {name: (other, virus) for name, other, virus in row.frames}
    none = (np.nan, np.nan)
    scores = [found.get(name, none) for name in row.window.frames]
    if row.score is not None and not row.frames:
        scores = [(row.score.other, row.score.virus)]
    return ["window", *row.window, np.array(scores, "<f4").tobytes().hex(), row.reason]


def holds_scores(path: Path, fingerprint: str) -> bool:
    """Whether `path` is intact and holds all scores of the run with this fingerprint."""
    try:
        with gzip.open(path, "rt", encoding="utf-8") as file:
            head, last, lines = json.loads(next(file)), "", 0
            for last in file:  # noqa: B007  # reading to the end checks the sum
                lines += 1
    except FileNotFoundError:
        return False
    except (OSError, EOFError, zlib.error, ValueError, StopIteration) as error:
        logger.warning("%s is damaged (%s): scores are computed again", path, error or "it is empty")
        return False
    whole = {"rows": lines - 1, "whole": True}
    return head == {"virnucpro_scores": FORMAT, "fingerprint": fingerprint} and last == _line(whole)


def read_scores(path: Path) -> Iterator[Row]:
    """The rows of a file for which `holds_scores` is true."""
    with gzip.open(path, "rt", encoding="utf-8") as file:
        for line in file:
            match json.loads(line):
                case ["sequence", *values]:
                    yield IndexedSequence(*values)
                case ["window", key, start, end, frames, window_reason, unknown, scores, reason]:
                    window = IndexedWindow(key, start, end, tuple(frames), window_reason, unknown)
                    yield _unpacked(window, np.frombuffer(bytes.fromhex(scores), "<f4").reshape(-1, 2).tolist(), reason)


def _unpacked(window: IndexedWindow, scores: list[Any], reason: str) -> ScoredWindow:
    """A window with its scores: none, or one for each frame (NaN if it has none), or that of the whole window."""
    each = zip(window.frames or ("",), scores, strict=False)
    scored = [(name, other, virus) for name, (other, virus) in each if not np.isnan(virus)]
    return ScoredWindow.of(window, scored, reason)
