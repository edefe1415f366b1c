"""Run work in threads, and hand things from one to another."""

from __future__ import annotations

import _thread
import atexit
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Generic, TypeVar

T = TypeVar("T")
R = TypeVar("R")

#: Seconds after which a wait begins anew: a signal that comes just before one is noticed only after it.
ANEW_SECONDS = 0.1


def unbroken(work: Callable[[], R]) -> R:
    """Run `work` in a thread of its own, so that no signal interrupts it, and return its result.

    A signal breaks into Python code of the main thread. If that was called by foreign code, as by readers of weights,
    this takes the exception for an error of its own, and says that the file is damaged. Here what a signal raises is
    raised at once, and the work goes on in vain. Python would abort a process that ended meanwhile: a program waits for
    it at its end, unless it ends by `os._exit`.
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
            ended.release()

    # A signal cannot break into these two, as it could into the Python code of `Thread.start` and `Future.result`.
    _thread.start_new_thread(run, ())
    try:
        while not ended.acquire(timeout=ANEW_SECONDS):
            pass
    except BaseException:
        atexit.register(coming.exception)
        coming.add_done_callback(lambda done: atexit.unregister(done.exception))  # it would keep the result
        raise
    return coming.result()


def in_order(work: Callable[[T], R], items: Iterable[T], threads: int) -> Iterator[R]:
    """Apply `work` to `items` in threads and yield the results in order; only a few wait at a time.

    What `work` raises is raised when its turn comes; work that has not begun by then is not done. What has begun is
    waited for then, but not after a signal, nor if the caller takes no more results.
    """
    pool, coming = ThreadPoolExecutor(threads), deque[Future[R]]()
    try:
        for item in items:
            coming.append(pool.submit(work, item))
            if len(coming) > threads:
                yield _result(coming.popleft())
        while coming:
            yield _result(coming.popleft())
    except Exception:
        pool.shutdown(cancel_futures=True)
        raise
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def _result(coming: Future[R]) -> R:
    """Wait for a result."""
    while not coming.done():
        wait([coming], ANEW_SECONDS)
    return coming.result()


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
