"""stopping: the first signal is a wish, the second one is not."""

from __future__ import annotations

import os
import signal
import threading

import pytest

from lipwire.engine.signals import stopping


@pytest.mark.parametrize("wish", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_is_told_and_the_second_interrupts(wish: signal.Signals) -> None:
    before = signal.getsignal(wish)
    with pytest.raises(KeyboardInterrupt), stopping() as stop:
        assert not stop()
        os.kill(os.getpid(), wish)
        assert stop()
        os.kill(os.getpid(), wish)
    assert signal.getsignal(wish) is before


def test_another_thread_is_told_of_none() -> None:
    told: list[bool] = []

    def ask() -> None:
        with stopping() as stop:
            told.append(stop())

    thread = threading.Thread(target=ask)
    thread.start()
    thread.join(5)
    assert told == [False]
