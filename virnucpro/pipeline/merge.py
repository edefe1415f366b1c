"""Results of work files are taken in input order while others are still being made."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Generic, TypeVar

from virnucpro.io.results import Result
from virnucpro.io.store import Shard, read_shard, read_shards
from virnucpro.pipeline.events import FileDone, Heard

T = TypeVar("T")

#: Sequences of one work file without an embedding: (record number in it, id, reason).
LeftOut = list[tuple[int, str, str]]


class InTurn(Generic[T]):
    """Items in order, each with the work file that it waits for, or None; `left` are those not yet given out.

    A work file without an event, since it failed or was done by an earlier run, delays the items after it.
    """

    def __init__(self, waiting: Iterable[tuple[Path | None, T]]) -> None:
        self._waiting = deque(waiting)
        self._done: set[Path | None] = {None}

    def hear(self, event: Heard) -> Iterator[T]:
        """The items whose turn has come by this event: neither they nor any before them still wait."""
        if isinstance(event, FileDone):
            self._done.add(event.path)
        while self._waiting and self._waiting[0][0] in self._done:
            yield self._waiting.popleft()[1]

    @property
    def left(self) -> list[T]:
        """The items whose turn has not come, in order."""
        return [each for _, each in self._waiting]


class Merge:
    """Appends shards to a result in order, each as soon as its work file and all before it are done.

    Delayed shards are appended by `finish`, which gets all shards that exist. `left_out` says, by the name of a shard,
    which sequences have no embedding.
    """

    def __init__(self, result: Result, shards: Mapping[Path, Path]) -> None:
        self.result = result
        self.left_out: dict[str, LeftOut] = {}
        self._turn = InTurn(shards.items())
        self._thread = ThreadPoolExecutor(1, "merge")
        self._error: Exception | None = None

    def __enter__(self) -> Merge:
        return self

    def __exit__(self, *_: object) -> None:
        self._thread.shutdown(cancel_futures=True)
        self.result.discard()

    def hear(self, event: Heard) -> None:
        """Note that the shard of a work file is there."""
        for shard in self._turn.hear(event):
            self._thread.submit(self._take, shard)

    def _take(self, path: Path) -> None:
        if self._error is None:
            try:
                self._append(path, read_shard(path))
            except Exception as error:
                self._error = error
                self.result.discard()  # the space on the disk may be needed for the remaining work files

    def _append(self, path: Path, shard: Shard) -> None:
        self.result.append(shard)
        self.left_out[path.name] = shard.failed

    def finish(self, shards: Sequence[Path]) -> None:
        """Append the rest of `shards`, which are all that exist, in order. Raises InputError, OSError."""
        self._thread.shutdown()
        if self._error is not None:
            raise self._error
        left = {*self._turn.left}
        rest = [path for path in shards if path in left]
        for path, shard in zip(rest, read_shards(rest), strict=True):
            self._append(path, shard)
