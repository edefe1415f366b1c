"""Run work in threads."""

from __future__ import annotations

import _thread
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")


def unbroken(work: Callable[[], R]) -> R:
    """Run `work` in a thread of its own, so that no signal interrupts it, and return its result.

    A signal breaks into Python code of the main thread. Where that was called by code that is none, as readers of
    weights do, this takes the exception for an error of its own, and says that the file is damaged.
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

    # Nor does it break into these two, as it would into the Python code of `Thread.start` and `Future.result`.
    _thread.start_new_thread(run, ())
    ended.acquire()
    return coming.result()


def in_order(work: Callable[[T], R], items: Iterable[T], threads: int) -> Iterator[R]:
    """Apply `work` to `items` in threads and yield the results in order; only a few wait at a time.

    What `work` raises is raised in its turn; what has not begun by then is not done.
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
