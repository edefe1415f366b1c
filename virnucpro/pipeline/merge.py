"""Results of work files are merged in input order while others are still being made."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType

from virnucpro.io.results import Result
from virnucpro.io.store import Shard, read_shard, read_shards
from virnucpro.pipeline.events import FileDone, Heard

#: Of one work file: (record number in it, id, reason) of what has no embedding.
LeftOut = list[tuple[int, str, str]]


class Merge:
    """Appends shards to a result in their order, each as soon as it and all before it are there.

    A shard that does not come, since its work file fails or was done by an earlier run, holds up those behind it until
    `finish`, which is told of all that there are. `left_out` says by the name of a shard what has no embedding.
    """

    def __init__(self, result: Result, shards: Sequence[Path]) -> None:
        self.result = result
        self.left_out: dict[str, LeftOut] = {}
        self._ahead = list(reversed(shards))
        self._there: set[Path] = set()
        self._taken: set[Path] = set()
        self._thread = ThreadPoolExecutor(1, "merge")
        self._error: Exception | None = None

    def __enter__(self) -> Merge:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._thread.shutdown(cancel_futures=True)
        self.result.discard()

    def hear(self, event: Heard) -> None:
        """Take note of a work file whose shard is there."""
        if isinstance(event, FileDone):
            self._there.add(event.output)
        while self._ahead and self._ahead[-1] in self._there:
            shard = self._ahead.pop()
            self._taken.add(shard)
            self._thread.submit(self._take, shard)

    def _take(self, path: Path) -> None:
        if self._error is None:
            try:
                self._append(path, read_shard(path))
            except Exception as error:
                self._error = error
                self.result.discard()  # the room on the disk may be needed for what is still being made

    def _append(self, path: Path, shard: Shard) -> None:
        self.result.append(shard)
        self.left_out[path.name] = shard.failed

    def finish(self, shards: Sequence[Path]) -> None:
        """Append the rest of `shards`, all that there are, in their order. Raises InputError, OSError."""
        self._thread.shutdown()
        if self._error is not None:
            raise self._error
        rest = [path for path in shards if path not in self._taken]
        for path, shard in zip(rest, read_shards(rest), strict=True):
            self._append(path, shard)
