"""`lipwire bench loss|delay|soak`: a whole server, callers in other processes, and a bad day.

Each prints what was asked for in docs/reliability.md beside what was found.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from annotated_types import Ge, Le

from lipwire.benchmarks.harness.machine import process_memory_mib
from lipwire.benchmarks.rig.scenes import made_clip
from lipwire.benchmarks.rig.server import serving
from lipwire.benchmarks.rig.voices import sample_voice
from lipwire.engine.errors import LipwireError

Seconds = Annotated[float, Ge(5)]
Share = Annotated[float, Ge(0), Le(0.5)]
SIDES, ASKED = ("at the server", "at the caller"), "gap_to_key_request_max_ms"
KEY_ASKED_MS = 200.0
SAMPLE_S = 5.0  # between two looks at the server's memory


def start_probe(url: str, seconds: float, *flags: object) -> subprocess.Popen[bytes]:
    """Callers in a process of their own; see `lipwire.benchmarks.rig.probe`."""
    command = [sys.executable, "-m", "lipwire.benchmarks.rig.probe", url, "--seconds", str(seconds)]
    return subprocess.Popen(
        [*command, *map(str, flags)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        bufsize=0,  # whoever reads a line must not swallow the next
        start_new_session=True,  # Ctrl-C is for the benchmark, which ends its callers itself
    )


def figures_of(probe: subprocess.Popen[bytes], timeout_s: float) -> list[dict[str, Any]]:
    """What a probe found; one that calls until it is told is told now."""
    out, _ = probe.communicate(timeout=timeout_s)
    if probe.returncode:
        raise LipwireError("a caller failed; its message is above")
    found: list[dict[str, Any]] = json.loads(out)
    return found


def verdict(figures: dict[str, Any], met: dict[str, bool], **extra: Any) -> dict[str, Any]:
    """A result as every benchmark prints it."""
    return {**extra, "figures": figures, "met": met}


def loss(
    *,
    seconds: Seconds = 60,
    share: Share = 0.02,
    bursts: Share = 0.01,
    delay_ms: Annotated[float, Ge(0)] = 20,
    seeds: Annotated[int, Ge(1)] = 1,
    progress: Callable[[str], None] = lambda what: None,
) -> dict[str, Any]:
    """R5: a call over a path that loses packets both ways, singly and in bursts of five.

    Interrupted, it gives the runs that are over.

    Args:
        seconds: measured, of each run.
        share: of packets lost singly.
        bursts: share of packets lost in bursts.
        delay_ms: one way.
        seeds: runs, one after the other, each with other losses.
        progress: told which run it is at.
    """
    flags = ("--loss", share, "--burst-loss", bursts, "--delay-ms", delay_ms)
    runs: list[dict[str, Any]] = []
    cut = ""
    try:
        with serving() as (url, _):
            for seed in range(1, seeds + 1):
                progress(f"run {seed} of {seeds}, {seconds:g} s each")
                probe = start_probe(url, seconds, *flags, "--seed", seed)
                try:
                    runs += figures_of(probe, seconds + 90)
                finally:
                    probe.kill()
    except KeyboardInterrupt:
        if not runs:
            raise
        cut = f"interrupted after {len(runs)} of {seeds} runs"
    figures = {
        name: max(run[name] for run in runs)
        for name in ("freeze_max_ms", "freezes_over_500_ms", "sound_holes_over_60_ms")
    }
    asked_ms = [run[side][ASKED] for run in runs for side in SIDES if ASKED in run[side]]
    figures[ASKED] = max(asked_ms, default=None)
    met = {
        "no freeze over 500 ms": figures["freezes_over_500_ms"] == 0,
        "a key frame is asked for within 200 ms of a gap": bool(asked_ms)
        and max(asked_ms) <= KEY_ASKED_MS,
        "no hole in the sound over 60 ms": figures["sound_holes_over_60_ms"] == 0,
    }
    weather = {"loss": share, "burst_loss": bursts, "delay_ms": delay_ms}
    return verdict(figures | {"runs": runs}, met, weather=weather, incomplete=cut)


def delay(*, seconds: Seconds = 60) -> dict[str, Any]:
    """R11: what a call adds to a picture, from a camera to the reader of what comes back.

    That is both ways and both ends: encoding and decoding twice.

    Args:
        seconds: measured, once without and once with a painted mouth.
    """
    found = {}
    with tempfile.TemporaryDirectory() as scratch, serving() as (url, _):
        (found["passed_through"],) = figures_of(start_probe(url, seconds), seconds + 90)
        clip = made_clip(Path(scratch) / "clip.mp4")
        flags = ("--clip", clip, "--speech", sample_voice())
        (found["painted"],) = figures_of(start_probe(url, seconds, *flags), seconds + 90)
    met = {
        "passed through: p95 at most 100 ms": (found["passed_through"]["delay_p95_ms"] or 1e9)
        <= 100,
        "painted: p95 at most 150 ms": (found["painted"]["delay_p95_ms"] or 1e9) <= 150,
    }
    return verdict(found, met)


def soak(
    *,
    minutes: Annotated[float, Ge(0.5)] = 30,
    calls: Annotated[int, Ge(1)] = 1,
    painted: bool = True,
) -> dict[str, Any]:
    """R1: calls that last, and the server's memory meanwhile.

    Args:
        minutes: of the calls.
        calls: at once; what the machine carries.
        painted: whether a face speaks; otherwise a test card passes through.
    """
    seconds = minutes * 60
    memory: list[tuple[float, float]] = []
    with tempfile.TemporaryDirectory() as scratch, serving(max_sessions=calls) as (url, server):
        flags: list[object] = ["--calls", calls, "--settle", min(30, seconds / 6)]
        if painted:
            flags += ["--clip", made_clip(Path(scratch) / "clip.mp4"), "--speech", sample_voice()]
        probe = start_probe(url, seconds, *flags)
        begun = time.monotonic()
        while probe.poll() is None and time.monotonic() < begun + seconds + 180:
            memory.append(
                (time.monotonic() - begun, process_memory_mib(server.pid)["resident_mib"])
            )
            time.sleep(SAMPLE_S)
        found = figures_of(probe, 60)
    # Pools and caches fill at first: five minutes, or the first third of a short run.
    late = [(t, mib) for t, mib in memory if t > min(300, seconds / 3)]
    times, sizes = np.array(late or [(0.0, 0.0)]).T
    slope = float(np.polyfit(times, sizes, 1)[0]) * 60 if len(late) > 2 else 0.0
    figures = {
        "pictures_share": min(f["pictures_share"] for f in found),
        "sound_holes_over_60_ms": sum(f["sound_holes_over_60_ms"] for f in found),
        "freeze_max_ms": max(f["freeze_max_ms"] for f in found),
        "resident_begin_mib": memory[0][1],
        "resident_end_mib": memory[-1][1],
        "resident_slope_mib_per_min": slope,
        "calls": found,
    }
    met = {
        "99 % of the pictures": figures["pictures_share"] >= 0.99,
        "no hole in the sound over 60 ms": figures["sound_holes_over_60_ms"] == 0,
        "memory grows by less than 0.5 MiB a minute": slope < 0.5,
    }
    return verdict(figures, met, minutes=minutes, calls=calls, painted=painted)
