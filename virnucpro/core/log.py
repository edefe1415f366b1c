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
        self.console.print(self.format(record), style=style, markup=False, highlight=False, soft_wrap=True)


def set_up(console: Console, level: str = "normal", log_format: str = "text") -> None:
    """Send this package's messages to `console` (stderr), as text or as one JSON object a line."""
    handler = _ConsoleHandler(console)
    handler.setLevel(LEVELS[level])
    handler.setFormatter(_JsonFormatter() if log_format == "json" else logging.Formatter("%(message)s"))
    root = logging.getLogger("virnucpro")
    root.handlers[:] = [handler]
    root.setLevel(logging.DEBUG)
    root.propagate = False


def add_file(path: Path) -> logging.Handler:
    """Also append every message to `path`; the caller removes the handler when the run ends."""
    handler = logging.FileHandler(path, encoding="utf-8", delay=True)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logging.getLogger("virnucpro").addHandler(handler)
    return handler
