"""Pipe: a bounded queue between two threads that either side can end; PipeThread: one of them."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any, Generic, TypeVar

T = TypeVar("T")


class Pipe(Generic[T]):
    """One side puts, the other iterates; whoever ends it wakes the other."""

    def __init__(self, size: int) -> None:
        self._items: deque[T] = deque()
        self._size = size
        self._change = threading.Condition()
        self._ended = False
        self._error: BaseException | None = None

    def put(self, item: T) -> bool:
        """Wait for room and add; False if the pipe has ended.

        Raises:
            BaseException: what the pipe was ended with.
        """
        with self._change:
            self._change.wait_for(lambda: self._ended or len(self._items) < self._size)
            if self._ended:
                self._raise()
                return False
            self._items.append(item)
            self._change.notify_all()
            return True

    def end(self, error: BaseException | None = None) -> None:
        """Nothing more comes; what waits is still taken, then `error` is raised there."""
        with self._change:
            self._ended = True
            self._error = self._error or error
            self._change.notify_all()

    def drop(self, error: BaseException | None = None) -> None:
        """Nothing more is wanted: what waits is forgotten, and the next `put` fails."""
        with self._change:
            self._items.clear()
            self.end(error)

    def check(self) -> None:
        """Raise what the pipe was ended with, if anything."""
        with self._change:
            self._raise()

    def __iter__(self) -> Iterator[T]:
        """Take items until the end.

        Raises:
            BaseException: what the pipe was ended with.
        """
        while True:
            with self._change:
                self._change.wait_for(lambda: self._items or self._ended)
                if not self._items:
                    self._raise()
                    return
                item = self._items.popleft()
                self._change.notify_all()
            yield item

    def _raise(self) -> None:
        if self._error is not None:
            raise self._error


class PipeThread:
    """A thread that works on a pipe; leaving the `with` block drops the pipe and waits for it."""

    def __init__(self, pipe: Pipe[Any], run: Callable[..., None], *args: Any) -> None:
        self._pipe = pipe
        self._thread = threading.Thread(target=run, args=args, name=run.__name__.strip("_"))

    def __enter__(self) -> PipeThread:
        self._thread.start()
        return self

    def join(self) -> None:
        """Let it do what waits.

        Raises:
            BaseException: what it failed with.
        """
        self._pipe.end()
        self._thread.join()
        self._pipe.check()

    def __exit__(self, *_: object) -> None:
        self._pipe.drop()
        self._thread.join()
