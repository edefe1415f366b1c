"""The command `virnucpro`, also as `python -m virnucpro`."""

from __future__ import annotations

import os
import signal
from types import FrameType
from typing import NoReturn


def main() -> NoReturn:
    """Entry point: imports the command line, which takes half a second and may be interrupted, and runs it."""
    for number in (signal.SIGINT, signal.SIGTERM):
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _end)
    from virnucpro.cli import main as run

    run()


def _end(number: int, _frame: FrameType | None) -> NoReturn:
    """End at once: nothing has been done yet, and whatever is being imported could take an exception for its own."""
    os._exit(128 + number)


if __name__ == "__main__":
    main()
