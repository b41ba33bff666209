"""lipwire.server.dub.pipe: order, bounds and ends."""

from __future__ import annotations

import threading
import time

import pytest

from lipwire.server.dub.pipe import Pipe, PipeThread


def fill(pipe: Pipe[int], count: int, put: list[int]) -> None:
    for number in range(count):
        if not pipe.put(number):
            return
        put.append(number)
    pipe.end()


def test_items_arrive_in_order_and_no_more_wait_than_may() -> None:
    pipe: Pipe[int] = Pipe(3)
    put: list[int] = []
    taken = []
    with PipeThread(pipe, fill, pipe, 50, put):
        for item in pipe:
            taken.append(item)
            assert len(put) - len(taken) <= 4  # three wait, one may be just coming
    assert taken == list(range(50))


def test_dropping_wakes_the_side_that_puts() -> None:
    pipe: Pipe[int] = Pipe(1)
    put: list[int] = []
    began = time.monotonic()
    with PipeThread(pipe, fill, pipe, 1000, put):
        assert next(iter(pipe)) == 0
    assert len(put) < 5
    assert time.monotonic() - began < 5
    assert "fill" not in {thread.name for thread in threading.enumerate()}


def test_an_error_reaches_the_side_that_takes_after_what_came_before() -> None:
    pipe: Pipe[int] = Pipe(8)
    pipe.put(1)
    pipe.end(ValueError("broke"))
    items = iter(pipe)
    assert next(items) == 1
    with pytest.raises(ValueError, match="broke"):
        next(items)


def test_an_error_reaches_the_side_that_puts() -> None:
    pipe: Pipe[int] = Pipe(1)

    def fail_at_two() -> None:
        for item in pipe:
            if item == 2:
                pipe.drop(OSError("disk full"))
                return

    with PipeThread(pipe, fail_at_two), pytest.raises(OSError, match="disk full"):
        for number in range(1000):
            pipe.put(number)


def test_join_lets_the_thread_finish_and_raises_what_it_failed_with() -> None:
    pipe: Pipe[int] = Pipe(100)
    taken: list[int] = []

    def slow() -> None:
        for item in pipe:
            time.sleep(0.002)
            taken.append(item)
        pipe.end(ValueError("at the end"))

    with PipeThread(pipe, slow) as thread:
        for number in range(20):
            pipe.put(number)
        with pytest.raises(ValueError, match="at the end"):
            thread.join()
    assert taken == list(range(20))
    with pytest.raises(ValueError, match="at the end"):
        pipe.put(1)
