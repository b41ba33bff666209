"""Keeps glibc's allocator and Python's collector from holding on to what calls have given back.

Pictures are made in one thread and let go in another: a decoder's, the colour threads', an
encoder's. glibc gives threads up to eight heaps a core, and each keeps room for the most that was
ever in it, so a server that leaks nothing still grows for an hour. Two heaps reach their size in
the first minutes. Pictures go back to the system at once. Elsewhere (musl, macOS) nothing is done.

A call that is over lies in reference cycles, aiortc's among them, until the collector's rarest
round. That round takes 100 ms of everybody's time where it goes through all the libraries, and is
rare for that reason; without them it takes a few.
"""

from __future__ import annotations

import ctypes
import gc
import sys

M_TRIM_THRESHOLD, M_ARENA_MAX = -1, -8  # <malloc.h>
# One: threads wait for each other's pictures; many: each keeps its own unused room.
HEAPS = 2
# Free memory that a heap keeps, bytes. Unless it is told, glibc raises this to twice the largest
# block ever freed: 30 MiB of pictures that are gone. Less: every picture is new pages; more: they
# stay.
KEPT = 1 << 20


def bound_heaps() -> bool:
    """Have few, small heaps from now on; call it before threads start. Whether it was possible."""
    libc = _glibc()
    return libc is not None and all(
        libc.mallopt(option, value)
        for option, value in ((M_ARENA_MAX, HEAPS), (M_TRIM_THRESHOLD, KEPT))
    )


def set_aside() -> None:
    """Leave what is there now out of the collector's rounds for good; when all is loaded."""
    gc.collect()
    gc.freeze()


def give_back() -> None:
    """Return free memory to the system: milliseconds during which others wait."""
    gc.collect()
    libc = _glibc()
    if libc is not None:
        libc.malloc_trim(0)


def _glibc() -> ctypes.CDLL | None:
    if not sys.platform.startswith("linux"):
        return None
    libc = ctypes.CDLL(None)
    return libc if hasattr(libc, "malloc_trim") and hasattr(libc, "mallopt") else None
