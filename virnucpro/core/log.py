"""Messages: to the terminal or a batch log on stderr, and all of them to a file beside the output."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

LEVELS = {"quiet": logging.ERROR, "normal": logging.INFO, "verbose": logging.DEBUG}


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
    def handleError(self, record: logging.LogRecord) -> None:
        """Say nothing: when the disk is full, the run says so itself."""


def set_up(console: Console, level: str = "normal", log_format: str = "text") -> None:
    """Send this package's messages to `console` (stderr), as text or as one JSON object a line."""
    handler = _ConsoleHandler(console)
    handler.setLevel(LEVELS[level])
    handler.setFormatter(_JsonFormatter() if log_format == "json" else logging.Formatter("%(message)s"))
    root = logging.getLogger("virnucpro")
    root.handlers[:] = [handler]
    root.setLevel(logging.DEBUG)
    root.propagate = False


def writes_json() -> bool:
    """Whether messages go to stderr as JSON objects."""
    return any(isinstance(handler.formatter, _JsonFormatter) for handler in logging.getLogger("virnucpro").handlers)


def add_file(path: Path) -> logging.Handler:
    """Also append every message to `path`; `remove` it when the run ends. Raises OSError."""
    handler = _LogFile(path, encoding="utf-8", errors="surrogateescape")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    root = logging.getLogger("virnucpro")
    root.addHandler(handler)
    if root.level == logging.NOTSET:  # called from Python, where nobody has set a level
        root.setLevel(logging.INFO)
    return handler


def remove(handler: logging.Handler) -> None:
    """Undo `add_file`."""
    handler.close()
    root = logging.getLogger("virnucpro")
    root.removeHandler(handler)
    if not root.handlers:
        root.setLevel(logging.NOTSET)
