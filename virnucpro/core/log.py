"""Messages go to stderr, and all of them to a log file next to the output."""

from __future__ import annotations

import contextlib
import json
import logging
import logging.handlers
import os
import re
from collections.abc import Callable, Iterator
from io import TextIOWrapper
from pathlib import Path
from typing import TYPE_CHECKING

from virnucpro.io.files import open_regular

if TYPE_CHECKING:
    from rich.console import Console


class _JsonFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return json.dumps(
            {
                "time": self.formatTime(record),
                "level": record.levelname.lower(),
                "logger": record.name,
                "message": record.getMessage(),
            }
        )


class _ConsoleHandler(logging.Handler):
    """Writes through the console that also draws the progress bars, so that neither spoils the other."""

    def __init__(self, console: Console) -> None:
        super().__init__()
        self.console = console

    def emit(self, record: logging.LogRecord) -> None:
        style = "red" if record.levelno >= logging.ERROR else "yellow" if record.levelno >= logging.WARNING else None
        self.console.print(self.format(record), style=style, markup=False, emoji=False, highlight=False, soft_wrap=True)


class _LogFile(logging.FileHandler):
    def _open(self) -> TextIOWrapper:
        # Through a symbolic link the log could be written into any file of the user.
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW
        return open(os.open(self.baseFilename, flags, 0o666), "a", encoding="utf-8", errors="backslashreplace")

    def handleError(self, record: logging.LogRecord) -> None:
        """Stay silent: when the disk is full, the run itself reports it."""


def set_up(console: Console, quiet: bool = False, log_format: str = "text") -> None:
    """Send this package's messages, if `quiet` only errors, to `console` as text or as JSON, one object per line."""
    handler = _ConsoleHandler(console)
    handler.setLevel(logging.ERROR if quiet else logging.INFO)
    handler.setFormatter(_JsonFormatter() if log_format == "json" else logging.Formatter("%(message)s"))
    root = logging.getLogger("virnucpro")
    root.handlers[:] = [handler]
    root.setLevel(logging.DEBUG)
    root.propagate = False


class _Sender(logging.handlers.QueueHandler):
    def enqueue(self, record: logging.LogRecord) -> None:
        """Hand on a record that can be sent to another process; the queue is a function here."""
        self.queue(record)  # type: ignore[operator]

    def handleError(self, record: logging.LogRecord) -> None:
        """Raise the error, which ends this process: nobody receives its messages. `logging` would print it."""
        raise


def send_to(take: Callable[[logging.LogRecord], None], level: int, text: str = "%(message)s") -> None:
    """Hand the messages of this package, from a level on, only to `take`, which sends them to another process."""
    handler = _Sender(take)  # type: ignore[arg-type]
    handler.setFormatter(logging.Formatter(text))
    root = logging.getLogger("virnucpro")
    root.handlers[:] = [handler]
    root.setLevel(level)


def writes_json() -> bool:
    """Whether messages are written to stderr as JSON."""
    return any(isinstance(handler.formatter, _JsonFormatter) for handler in logging.getLogger("virnucpro").handlers)


@contextlib.contextmanager
def to_file(path: Path, first: str) -> Iterator[None]:
    """Also append every message to `path`, after a first line `first`. Raises OSError if the file cannot be opened."""
    handler = _LogFile(path)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    handler.handle(logging.LogRecord("virnucpro.run", logging.INFO, __file__, 0, first, None, None))
    root = logging.getLogger("virnucpro")
    root.addHandler(handler)
    if root.level == logging.NOTSET:  # called from Python, where nobody has set a level
        root.setLevel(logging.INFO)
    try:
        yield
    finally:
        root.removeHandler(handler)
        if not root.handlers:
            root.setLevel(logging.NOTSET)
        with contextlib.suppress(OSError):  # the disk is full: what has not been written yet is lost
            handler.close()


_LINE = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} [A-Z]+ virnucpro\.[\w.]+: (.*)")


def is_log(path: Path) -> bool:
    """Whether a file is empty, or begins like those that `to_file` writes."""
    try:
        line = next(_lines(path), None)
    except OSError:
        return False
    return line is None or bool(_LINE.match(line))


def has_line(path: Path, message: str) -> bool:
    """Whether a log holds this message; False where there is none."""
    try:
        return any((found := _LINE.match(line)) and found[1] == message for line in _lines(path))
    except OSError:
        return False


def _lines(path: Path) -> Iterator[str]:
    with open_regular(path) as file:
        for line in file:
            yield line.decode("utf-8", "replace").rstrip("\n")
