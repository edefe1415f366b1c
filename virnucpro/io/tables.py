"""How tables are written and read: tab-separated, one header line, equal rows as equal bytes."""

from __future__ import annotations

import gzip
import io
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO, cast

FAILED: Mapping[str, str] = {
    "input": "file",
    "record": "place of the record in that file, from 1; 0 is the rest of the file",
    "sequence_id": "first word of the header",
    "reason": "what is wrong, and a hint",
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


def text_file(path: Path, mode: str = "w") -> TextIO:
    """A table's file; names of inputs stand in it with the bytes that they have, which need not be UTF-8."""
    return cast(TextIO, open(path, mode, encoding="utf-8", errors="surrogateescape", newline=""))


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
