"""How a process is asked to stop, and finishes what it has begun."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator


@contextlib.contextmanager
def stopping() -> Iterator[Callable[[], bool]]:
    """Tells whether Ctrl-C or SIGTERM came; the second one interrupts at once.

    The first must not: raised inside a native library that is being loaded, an exception aborts
    the process, and an unfinished file stays.
    """
    wishes: list[int] = []

    def wish(number: int, _: object) -> None:
        wishes.append(number)
        if len(wishes) > 1:
            raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        yield lambda: False  # signals are the main thread's
        return
    before = {number: signal.signal(number, wish) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: bool(wishes)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
