"""The command line, held at a chosen point: `HELD_IN=o.h5.work/shards HELD_AT=5 python tests/held.py embed …`.

When so many work files are done in that folder, no worker renames another one to its final name. So a test that waits
for this moment to stop the run is in time on any machine.
"""

from __future__ import annotations

import os
import sys
import time

#: Environment variables that tell a run where and when to wait.
FOLDER, DONE = "HELD_IN", "HELD_AT"


def hold(event: str, arguments: tuple[object, ...]) -> None:
    """Never return from a rename that would exceed the number."""
    if event == "os.rename" and os.path.dirname(str(arguments[1])) == os.environ[FOLDER]:
        while sum(name[0] != "." for name in os.listdir(os.environ[FOLDER])) >= int(os.environ[DONE]):
            time.sleep(0.01)


if __name__ in ("__main__", "__mp_main__"):  # workers do the renames; they import the program under this name
    sys.addaudithook(hold)

if __name__ == "__main__":
    from virnucpro.cli import main

    main()
