"""Keeps glibc's allocator from holding on to what calls have given back.

Pictures are made in one thread and let go in another: a decoder's, the colour threads', an
encoder's. glibc gives threads up to eight heaps a core, and each keeps room for the most that was
ever in it, so a server that leaks nothing still grows for an hour. Two heaps reach their size in
the first minutes. Elsewhere (musl, macOS) nothing is done.
"""

from __future__ import annotations

import ctypes
import sys

M_ARENA_MAX = -8  # <malloc.h>
# One: threads wait for each other's pictures; many: each keeps its own unused room.
HEAPS = 2


def bound_heaps() -> bool:
    """Have few heaps from now on; call it before threads start. Whether that was possible."""
    libc = _glibc()
    return libc is not None and bool(libc.mallopt(M_ARENA_MAX, HEAPS))


def give_back() -> None:
    """Return free memory to the system: milliseconds during which others' allocations wait."""
    libc = _glibc()
    if libc is not None:
        libc.malloc_trim(0)


def _glibc() -> ctypes.CDLL | None:
    if not sys.platform.startswith("linux"):
        return None
    libc = ctypes.CDLL(None)
    return libc if hasattr(libc, "malloc_trim") and hasattr(libc, "mallopt") else None
