"""Memory that is given back: counted in processes of their own."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

# Threads that allocate at once; glibc's own report then says how many heaps there are.
HEAPS = """
import ctypes, re, sys, threading
from lipwire.server.ops import memory as allocator
if sys.argv[1] == "bound":
    assert allocator.bound_heaps()
barrier = threading.Barrier(12)
libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
def work():
    barrier.wait()
    for _ in range(200):
        libc.free(ctypes.c_void_p(libc.malloc(60_000)))
    barrier.wait()
threads = [threading.Thread(target=work) for _ in range(12)]
[t.start() for t in threads]; [t.join() for t in threads]
libc.fopen.restype = ctypes.c_void_p
out = ctypes.c_void_p(libc.fopen(b"/dev/stdout", b"w"))
libc.malloc_info(0, out)
libc.fclose(out)
"""

# A hundred blocks of 100 kB below one that stays: the heap cannot shrink by itself.
TRIM = """
import ctypes
from lipwire.server.ops import memory as allocator
libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
libc.mallopt(-3, 1 << 30)  # M_MMAP_THRESHOLD: all from the heap, as after large blocks were freed
def resident():
    return int(open("/proc/self/statm").read().split()[1]) * 4096
blocks = []
for k in range(400):
    blocks.append(libc.malloc(100_000))
    ctypes.memset(blocks[-1], 1, 100_000)
keep = libc.malloc(100_000)
for block in blocks:
    libc.free(ctypes.c_void_p(block))
before = resident()
allocator.give_back()
print(before - resident())
"""


# A ring that was there before, and one that was made since.
RINGS = """
import gc, weakref
from lipwire.server.ops import memory as allocator
class Ring: pass
def ring():
    one, other = Ring(), Ring()
    one.other, other.other = other, one
    return one
gc.disable()
loaded = ring()
allocator.set_aside()
call = ring()
seen, ended = len(gc.get_objects()), weakref.ref(call)
del call
allocator.give_back()
print(seen, ended() is None, gc.get_freeze_count())
"""


def run(code: str, *arguments: str) -> str:
    """What a program prints."""
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


pytestmark = pytest.mark.skipif(
    platform.libc_ver()[0] != "glibc", reason="the C library is no glibc"
)


def test_threads_share_two_heaps() -> None:
    assert run(HEAPS, "free").count("<heap nr=") > 2
    assert 1 <= run(HEAPS, "bound").count("<heap nr=") <= 2


def test_what_is_free_goes_back_to_the_system() -> None:
    assert int(run(TRIM)) > 30_000_000


def test_a_round_frees_calls_and_passes_over_what_was_loaded() -> None:
    seen, freed, aside = run(RINGS).split()
    assert freed == "True" and int(seen) < 500 < int(aside)
