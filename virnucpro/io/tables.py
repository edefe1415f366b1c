"""The tables of `virnucpro predict`: their columns, each with its meaning, and how rows are written.

Tab-separated, one header line. Numbers are written in one way, so that equal results are equal bytes. The meanings
stand in the command's help and in docs/outputs.md, and tests keep the three together.
"""

from __future__ import annotations

import gzip
import io
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO, cast

SEQUENCES: Mapping[str, str] = {
    "number": "place of the sequence in all of the input, from 1",
    "sequence_id": "first word of its header; record_N, by its place in its file, where there is none",
    "length": "bases; 0 if the record could not be read",
    "verdict": "virus, mixed (not viral as a whole, but with viral regions), other, or not_scored",
    "score": "mean of its windows' scores, weighted by their bases; 0 to 1, virus from --min-score on (docs/calls.md)",
    "windows": "windows it was cut into",
    "windows_scored": "windows with a score: with an open frame, or without if the model scores these by their DNA",
    "windows_viral": "windows with a score of --min-score or more",
    "viral_fraction": "windows_viral / windows_scored",
    "regions": "viral regions, listed in the regions table",
    "input": "file it came from",
    "record": "its place in that file, from 1",
    "note": "why it was not scored, or was scored in part; that it has no name of its own",
}

WINDOWS: Mapping[str, str] = {
    "number": "the sequence, as in the sequences table",
    "sequence_id": "first word of its header",
    "window": "number of the window in the sequence, from 1; the published id is SEQUENCE_ID_chunk_WINDOW",
    "start": "first base, from 1",
    "end": "last base, included",
    "frames": "open frames, of F1 F2 F3 (as it stands) and R1 R2 R3 (reverse complement), with commas",
    "evidence": "what the score rests on: dna+protein (open frames) or dna (the window as it stands)",
    "best_frame": "the frame with the highest virus score",
    "virus_score": "highest score for virus among the frames, or of the window",
    "other_score": "highest score for others among the frames, or of the window",
    "score": "virus_score / (virus_score + other_score): 0.5 or more exactly where the published rule calls virus",
    "call": "virus, other, or not_scored",
    "note": "why there is no score",
}

REGIONS: Mapping[str, str] = {
    "#sequence_id": "first word of the header",
    "start": "bases before the region (BED counts from 0)",
    "end": "last base of the region",
    "name": "SEQUENCE_ID:START-END, from 1, as in the FASTA of viruses",
    "score": "1000 times the mean score, rounded, as BED wants it",
    "strand": "always . (the calls do not tell strands)",
    "mean_score": "mean of its windows' scores, weighted by their bases",
    "windows": "scored windows in the region",
    "windows_viral": "those of them that are viral",
}

FAILED: Mapping[str, str] = {
    "input": "file",
    "record": "place of the record in that file, from 1; 0 is the rest of the file",
    "id": "first word of the header",
    "reason": "what is wrong, and the cure",
}


def number(value: float | None) -> str:
    """A score as text: six decimals; nothing where there is none."""
    return "" if value is None else f"{value:.6f}"


class Table:
    """Rows into a text file; `columns` come first, as the header."""

    def __init__(self, file: TextIO, columns: Iterable[str]) -> None:
        self._file = file
        self.row(*columns)

    def row(self, *values: object) -> None:
        """One row; a tab or line break in a value becomes a blank."""
        cells = [str(value).translate(_BLANKS) for value in values]
        self._file.write("\t".join(cells) + "\n")


_BLANKS = str.maketrans("\t\n\r", "   ")


def text_file(path: Path | int, mode: str = "w") -> TextIO:
    """A table's file; names of inputs stand in it with the bytes that they have, which need not be UTF-8.

    An open file may be given by its number; it stays open.
    """
    owned = isinstance(path, Path)
    return cast(TextIO, open(path, mode, encoding="utf-8", errors="surrogateescape", newline="", closefd=owned))


@contextmanager
def gzip_text(path: Path) -> Iterator[TextIO]:
    """A gzip file to write text in; it holds no time and no name, so equal text gives equal bytes."""
    with (
        open(path, "wb") as raw,
        gzip.GzipFile("", "wb", 6, raw, mtime=0) as packed,
        io.TextIOWrapper(packed, encoding="utf-8", newline="") as text,
    ):
        yield text


def read_rows(path: Path) -> list[dict[str, str]]:
    """The rows of a table, each by column."""
    with text_file(path, "r") as file:
        columns, *rows = (line.rstrip("\n").split("\t") for line in file)
    return [dict(zip(columns, row, strict=True)) for row in rows]
