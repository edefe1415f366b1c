"""Write and read tables: tab-separated, with one header line; equal rows give equal bytes."""

from __future__ import annotations

import gzip
import io
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from virnucpro.io.files import refuse_other

FAILED: Mapping[str, str] = {
    "input": "file",
    "record": "position of the record in that file, counted from 1; 0 stands for the rest of the file",
    "sequence_id": "first word of the header",
    "reason": "what is wrong, and what to do about it",
}


def number(value: float | None) -> str:
    """A score as text with six decimals; empty for None."""
    return "" if value is None else f"{value:.6f}"


class Table:
    """Writes rows to a text file; `columns` are the header."""

    def __init__(self, file: TextIO, columns: Iterable[str]) -> None:
        self._file = file
        self.row(*columns)

    def row(self, *values: object) -> None:
        """Write one row; a tab or line break in a value becomes a space."""
        cells = [str(value).translate(_BLANKS) for value in values]
        self._file.write("\t".join(cells) + "\n")


_BLANKS = str.maketrans("\t\n\r", "   ")


def write_table(path: Path, columns: Iterable[str], rows: Iterable[Iterable[object]]) -> None:
    """Write a whole table. Raises OSError."""
    with text_file(path) as file:
        table = Table(file, columns)
        for row in rows:
            table.row(*row)


def text_file(path: Path) -> TextIO:
    """Open a table for writing; names of inputs keep their bytes, which need not be UTF-8."""
    return open(path, "w", encoding="utf-8", errors="surrogateescape", newline="")


@contextmanager
def gzip_text(path: Path) -> Iterator[TextIO]:
    """Open a gzip file for text as `text_file` does; it has no time and no name, so equal text gives equal bytes."""
    with (
        open(path, "wb") as raw,
        gzip.GzipFile("", "wb", 6, raw, mtime=0) as packed,
        io.TextIOWrapper(packed, encoding="utf-8", errors="surrogateescape", newline="") as text,
    ):
        yield text


def refuse_other_table(path: Path, columns: Iterable[str]) -> None:
    """Raise OutputError for an existing file that is not a table with these columns."""
    refuse_other(path, ("\t".join(columns) + "\n").encode(), "table of this kind")


def read_rows(path: Path, columns: Collection[str]) -> Iterator[dict[str, str]]:
    """The rows of a table, packed or not, by column.

    Raises OSError, ValueError for another table or one that is cut off, and what unpacking a damaged file raises.
    """
    opener = gzip.open if path.suffix == ".gz" else open
    with opener(path, "rt", encoding="utf-8", errors="surrogateescape") as file:  # names of inputs
        if next(file, "") != "\t".join(columns) + "\n":
            raise ValueError("its columns are not those that this version of virnucpro writes")
        for number, line in enumerate(file, 2):
            cells = line.rstrip("\n").split("\t")
            if not line.endswith("\n") or len(cells) != len(columns):
                raise ValueError(f"line {number} is truncated")
            yield dict(zip(columns, cells, strict=True))
