"""What can be known of NVIDIA's GPUs without torch or any toolkit: is one here, and its driver."""

from __future__ import annotations

import ctypes
from pathlib import Path

DRIVER_FILE = Path("/proc/driver/nvidia/version")
LIBRARY = "libcuda.so.1"  # comes with the driver


def gpu_count() -> int:
    """GPUs that this process may use; 0 where there is no driver."""
    try:
        cuda = ctypes.CDLL(LIBRARY)
    except OSError:
        return 0
    count = ctypes.c_int()
    if cuda.cuInit(0) != 0 or cuda.cuDeviceGetCount(ctypes.byref(count)) != 0:
        return 0
    return count.value


def driver_version() -> str:
    """Of the NVIDIA driver, e.g. 550.54.14; "unknown" where it does not say."""
    try:
        # NVRM version: NVIDIA UNIX x86_64 Kernel Module  550.54.14  Thu Feb 22 01:44:30 UTC 2024
        words = DRIVER_FILE.read_text(encoding="utf-8").split()
        return words[words.index("Module") + 1]
    except (OSError, ValueError, IndexError):
        pass
    try:
        number = ctypes.c_int()
        ctypes.CDLL(LIBRARY).cuDriverGetVersion(ctypes.byref(number))
        return f"cuda{number.value}"
    except OSError:
        return "unknown"
