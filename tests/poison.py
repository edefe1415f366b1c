"""A worker that is killed by one file. Spawned processes import this, so it imports little."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from virnucpro.pipeline.caller import score_files_worker
from virnucpro.pipeline.stream import FLUSH

POISON = "000003.fna"


def poisoned(file_subset: Iterable[Path | None], *arguments: Any, **options: Any) -> object:
    """The real worker of `predict`, killed when it gets a certain file."""

    def met() -> Iterator[Path | None]:
        for path in file_subset:
            yield path
            if path is not FLUSH and path.name == POISON:
                os.kill(os.getpid(), signal.SIGKILL)

    return score_files_worker(met(), *arguments, **options)
