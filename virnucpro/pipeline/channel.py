"""A bounded queue between threads that can be closed and aborted, so that no stage waits without a way out."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator
from typing import Generic, TypeVar

T = TypeVar("T")


class Aborted(Exception):
    """The pipeline is being torn down; the stage that meets this returns."""


class Channel(Generic[T]):
    """Hands items from any number of producers to any number of consumers, at most `size` waiting."""

    def __init__(self, size: int, producers: int = 1) -> None:
        self._items: deque[T] = deque()
        self._size = size
        self._producers = producers
        self._aborted = False
        self._changed = threading.Condition()

    def put(self, item: T) -> None:
        """Wait for room and hand `item` over. Raises Aborted."""
        with self._changed:
            self._changed.wait_for(lambda: self._aborted or len(self._items) < self._size)
            if self._aborted:
                raise Aborted
            self._items.append(item)
            self._changed.notify_all()

    def close(self) -> None:
        """One producer is done; when the last is, consumers come to their end."""
        with self._changed:
            self._producers -= 1
            self._changed.notify_all()

    def abort(self) -> None:
        """Wake every waiting stage with Aborted."""
        with self._changed:
            self._aborted = True
            self._changed.notify_all()

    def __iter__(self) -> Iterator[T]:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._aborted or self._items or self._producers <= 0)
                if self._aborted:
                    raise Aborted
                if not self._items:
                    return
                item = self._items.popleft()
                self._changed.notify_all()
            yield item
