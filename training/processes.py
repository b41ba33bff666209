"""Work dealt out to processes.

Results come as they are done; a worker that dies is an error, not a wait.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from typing import TypeVar

from lipwire.engine.errors import LipwireError

Task = TypeVar("Task")
Result = TypeVar("Result")


def in_processes(
    function: Callable[[Task], Result], tasks: Sequence[Task], workers: int
) -> Iterator[Result]:
    """`function` of every task, in the order in which they are done.

    Processes are spawned, not forked: a fork would inherit half of a native library's threads.

    Raises:
        LipwireError: a worker was killed, most often for want of memory.
    """
    if not tasks:
        return
    executor = ProcessPoolExecutor(
        min(workers, len(tasks)), multiprocessing.get_context("spawn"), initializer=_begin_worker
    )
    before = set(multiprocessing.active_children())
    try:
        for done in as_completed([executor.submit(function, task) for task in tasks]):
            yield done.result()
    except BrokenProcessPool:
        raise LipwireError("a worker was killed; memory is the usual reason: use fewer") from None
    except BaseException:
        # Ctrl-C, or a task that failed: what is half done will be done again, so stop at once.
        executor.shutdown(wait=False, cancel_futures=True)
        for child in set(multiprocessing.active_children()) - before:
            child.terminate()
        raise
    finally:
        executor.shutdown(cancel_futures=True)


def _begin_worker() -> None:
    """Let a worker die of Ctrl-C without a word, and with its parent, however that ends."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """A parent that is killed outright, or interrupted while it starts a worker, ends nobody."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)  # nothing is lost: whatever a worker writes is written aside and renamed
