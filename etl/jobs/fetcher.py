"""One thread that works ahead of another. Unlike an executor's, it never keeps a process from ending."""

import threading
from collections.abc import Callable
from concurrent.futures import Future
from queue import SimpleQueue
from typing import Any, TypeVar

T = TypeVar("T")


class Fetcher:
    """Does what is submitted in order, in a thread that starts with the first."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._thread: threading.Thread | None = None
        self._orders: SimpleQueue[Callable[[], None] | None] = SimpleQueue()

    def submit(self, work: Callable[[], T]) -> Future[T]:
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name=self._name, daemon=True)
            self._thread.start()
        future: Future[T] = Future()
        self._orders.put(lambda: _fulfil(future, work))
        return future

    def close(self) -> None:
        """End when all is done, without waiting for it."""
        self._orders.put(None)

    def _run(self) -> None:
        while order := self._orders.get():
            order()
            del order  # it holds what was fetched


def _fulfil(future: "Future[Any]", work: Callable[[], Any]) -> None:
    try:
        future.set_result(work())
    except BaseException as failure:
        future.set_exception(failure)
