"""quiet_stderr: native libraries that load without a word."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager

_stderr = threading.Lock()  # two at once would each save the other's null as the real one


@contextmanager
def quiet_stderr() -> Iterator[None]:
    """Hide what is printed on stderr meanwhile: the native libraries cannot be told to be quiet."""
    with _stderr:
        saved, null = os.dup(2), os.open(os.devnull, os.O_WRONLY)
        try:
            os.dup2(null, 2)
            yield
        finally:
            os.dup2(saved, 2)
            os.close(saved)
            os.close(null)
