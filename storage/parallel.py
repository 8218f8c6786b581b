"""Work done ahead of where it is needed, in order and in bounded memory."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from functools import partial
from queue import SimpleQueue
from typing import Any, TypeVar

T = TypeVar("T")
R = TypeVar("R")


def ordered_map(
    work: Callable[[T], R],
    items: Iterable[T],
    threads: int,
    ahead: int,
    pool_of: Callable[[int], Executor] = ThreadPoolExecutor,
) -> Generator[R, None, None]:
    """Yield `work(item)` in the items' order, at most `ahead` results waiting; one thread or fewer works inline.

    The first exception of `work` is raised in its place, and what was not begun is dropped. Leaving waits for what was
    begun, unless `pool_of` is Forsaken.
    """
    if threads <= 1:
        yield from map(work, items)
        return
    with pool_of(threads) as pool:
        waiting: deque[Future[R]] = deque()
        try:
            for item in items:
                waiting.append(pool.submit(work, item))
                if len(waiting) > ahead:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


class Forsaken(Executor):
    """Threads that neither leaving nor the end of the process waits for: a read may stall for minutes.

    For work alone that does no harm when it goes on unseen, or is cut off.
    """

    def __init__(self, threads: int) -> None:
        self._calls: SimpleQueue[tuple[Future[Any], Callable[[], Any]] | None] = SimpleQueue()
        self._threads = [threading.Thread(target=self._serve, daemon=True) for _ in range(threads)]
        for thread in self._threads:
            thread.start()

    def submit(self, fn: Callable[..., R], /, *args: Any, **kwargs: Any) -> Future[R]:
        future: Future[R] = Future()
        self._calls.put((future, partial(fn, *args, **kwargs)))
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Let each thread end behind what was submitted; whoever wants less cancels the futures."""
        for _ in self._threads:
            self._calls.put(None)

    def _serve(self) -> None:
        for future, call in iter(self._calls.get, None):
            if future.set_running_or_notify_cancel():
                try:
                    future.set_result(call())
                except BaseException as error:  # its taker's to handle, whatever it is
                    future.set_exception(error)
            del future, call  # results are large, the next call may be long in coming
