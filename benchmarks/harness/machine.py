"""What was measured on: machine and versions, printed with every figure."""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from lipwire.engine.backends.cpu import usable_cores

PACKAGES = ("onnxruntime", "ai-edge-litert", "aiortc", "av", "numpy", "opencv-python-headless")


def describe_machine() -> dict[str, Any]:
    """Processor, cores, memory, system, versions and how busy it is already."""
    return {
        "processor": _processor(),
        "cores": usable_cores(),
        "memory_gib": round(_memory_bytes() / 2**30, 1),
        "system": platform.platform(),
        "python": platform.python_version(),
        "load_1min": round(os.getloadavg()[0], 2),
        "versions": {name: _version(name) for name in PACKAGES},
    }


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _memory_bytes() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def process_memory_mib(pid: int) -> dict[str, float]:
    """Resident memory of a process now and at its peak, MiB (Linux)."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    fields = dict(line.split(":", 1) for line in lines if ":" in line)
    return {
        "resident_mib": round(int(fields["VmRSS"].split()[0]) / 1024, 1),
        "peak_mib": round(int(fields["VmHWM"].split()[0]) / 1024, 1),
    }


def process_cpu_s(pid: int) -> float:
    """Processor time a process has used, seconds (Linux)."""
    after_name = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(after_name[11]) + int(after_name[12])) / os.sysconf("SC_CLK_TCK")
