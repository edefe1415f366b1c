"""Run work in threads, and hand things from one to another."""

from __future__ import annotations

import _thread
import atexit
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Generic, TypeVar

T = TypeVar("T")
R = TypeVar("R")


#: What `unbroken` runs now.
_at_work: set[Future[Any]] = set()


def at_work() -> bool:
    """Whether something runs in `unbroken`, perhaps after whoever called it has been interrupted."""
    return bool(_at_work)


def unbroken(work: Callable[[], R]) -> R:
    """Run `work` in a thread of its own, so that no signal interrupts it, and return its result.

    A signal breaks into Python code of the main thread. If that was called by foreign code, as by readers of weights,
    this takes the exception for an error of its own, and says that the file is damaged. So what a signal raises is
    raised when the work is done, and what a second one raises at once. The work then goes on, and Python would abort a
    process that ended meanwhile: a program waits for it at its end, or ends by `os._exit` if something is `at_work`.
    """
    coming: Future[R] = Future()
    ended = _thread.allocate_lock()
    ended.acquire()

    def run() -> None:
        try:
            coming.set_result(work())
        except BaseException as error:
            coming.set_exception(error)
        finally:
            _at_work.discard(coming)
            ended.release()

    _at_work.add(coming)
    # A signal cannot break into these two, as it could into the Python code of `Thread.start` and `Future.result`.
    _thread.start_new_thread(run, ())
    try:
        ended.acquire()
    except BaseException:
        atexit.register(coming.exception)  # which also keeps the result from being freed in the thread
        while not coming.done():
            time.sleep(0.01)
        atexit.unregister(coming.exception)
        raise
    return coming.result()


def in_order(work: Callable[[T], R], items: Iterable[T], threads: int) -> Iterator[R]:
    """Apply `work` to `items` in threads and yield the results in order; only a few wait at a time.

    What `work` raises is raised when its turn comes; work that has not begun by then is not done.
    """
    with ThreadPoolExecutor(threads) as pool:
        coming: deque[Future[R]] = deque()
        try:
            for item in items:
                coming.append(pool.submit(work, item))
                if len(coming) > threads:
                    yield coming.popleft().result()
            while coming:
                yield coming.popleft().result()
        finally:
            for each in coming:
                each.cancel()


class Aborted(Exception):
    """The pipeline is being torn down; the stage that meets this returns."""


class Channel(Generic[T]):
    """Hands items from any number of producers to any number of consumers; at most `size` items wait.

    It can be closed and aborted, so that no stage waits forever.
    """

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
