"""`lipwire bench capacity`: sessions are added until it judders.

Smooth, strictly: of every session 95 % of the pictures come back repainted, and the 99th percentile
of the pacing error (RFC 3550 section 6.4.1: how unevenly arrives what was evenly spaced) is at most
40 ms, one frame. The callers (`benchmarks/rig/load_generator.py`) neither encode nor decode.
"""

from __future__ import annotations

import re
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from annotated_types import Ge

from lipwire.benchmarks.harness.machine import process_memory_mib
from lipwire.benchmarks.harness.record import describe_bundle, figure
from lipwire.benchmarks.live import foreign
from lipwire.benchmarks.rig.foreign_client import Visit
from lipwire.benchmarks.rig.scenes import made_clip
from lipwire.benchmarks.rig.server import UNLIMITED, run_json, serving
from lipwire.benchmarks.rig.signalling import Doors
from lipwire.benchmarks.rig.voices import sample_voice
from lipwire.engine.backends.cpu import usable_cores
from lipwire.engine.errors import ConfigError
from lipwire.engine.model.bundle import open_bundle

PACING_MS = 40.0
SHARE = 0.95
SIZES, SIZE = ("320x240", "640x480", "1280x720"), "640x480"


def _foreign(
    doors: Doors, seconds: float, most: int, clip: Path | None, progress: Callable[[str], None]
) -> dict[str, Any]:
    """Calls to a server that is there already, until it judders, as far as can be seen of it."""
    rows: list[dict[str, Any]] = []
    samples: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as scratch:
        shown = clip or made_clip(Path(scratch) / "clip.mp4")
        for calls in range(1, most + 1):
            progress(f"{calls} calls, {SIZE}")
            visit = Visit(
                str(shown), str(sample_voice()), **asdict(doors), seconds=seconds, calls=calls
            )
            found = foreign.load(visit)
            rows.append(found["row"])
            samples[f"pacing {calls} of {SIZE}_ms"] = found["pacing_ms"]
            if not rows[-1]["smooth"]:
                break
    carried = max((row["sessions"] for row in rows if row["smooth"]), default=0)
    ended = not rows[-1]["smooth"]
    figures = {
        "smooth_sessions": figure(carried),
        "limit_found": figure("yes" if ended else f"no, stopped at {most}"),
    }
    return {
        "bundle": foreign.UNKNOWN,
        "figures": figures,
        "samples": samples,
        "tables": {"sessions": rows},
        "input": {**asdict(doors), "seconds": seconds, "fps": 25, "codec": "VP8"},
    }


def smooth(calls: list[dict[str, Any]]) -> bool:
    """Whether every call is."""
    return all(
        min(call["pictures_share"], call["generated_share"]) >= SHARE
        and float(np.percentile(call["pacing_ms"] or [2 * PACING_MS], 99)) <= PACING_MS
        for call in calls
    )


def load(
    calls: int, size: str, steps: int, seconds: float, clip: Path, bundle: Path | None
) -> dict[str, Any]:
    """So many calls on a server of their own: a row, and the pacing errors."""
    with serving(bundle, max_sessions=calls, **UNLIMITED) as (url, server):
        flags = {"calls": calls, "size": size, "steps": steps, "seconds": seconds}
        command = [sys.executable, "-m", "lipwire.benchmarks.rig.load_generator"]
        command += [url, str(clip), str(sample_voice()), "--pid", str(server.pid)]
        command += [f"--{name}={value}" for name, value in flags.items()]
        told = run_json(command, seconds + 180)
        memory = process_memory_mib(server.pid)
    found = told["calls"]
    pacing_ms = [value for call in found for value in call["pacing_ms"]]
    row = {
        "sessions": calls,
        "size": size,
        "steps": steps,
        "pictures_share": min(call["pictures_share"] for call in found),
        "generated_share": min(call["generated_share"] for call in found),
        "pacing_p99_ms": float(np.percentile(pacing_ms or [0], 99)),
        "delay_p95_ms": max(call["delay_p95_ms"] for call in found),
        "cpu_cores": told["cpu_cores"],
        "peak_mib": memory["peak_mib"],
        "smooth": smooth(found),
    }
    return {"row": row, "pacing_ms": pacing_ms}


def run(
    *,
    seconds: Annotated[float, Ge(1)] = 20,
    most: Annotated[int, Ge(1)] = 64,
    short: bool = False,
    clip: Path | None = None,
    bundle: Path | None = None,
    offer: str | None = None,
    whip: str | None = None,
    whep: str | None = None,
    progress: Callable[[str], None] = lambda what: None,
) -> dict[str, Any]:
    """Add sessions at 640x480 and default steps; then one session at other sizes and steps.

    Args:
        seconds: of each load.
        most: sessions; it stops there in any case.
        short: no other sizes and steps.
        clip: a video with a face; without it, a made one.
        bundle: the model; without it, the one that ships.
        offer: load another server, from outside: where it takes an offer as JSON. `{call}` in an
            address is the number of the call.
        whip: the same, where it takes what is published; with --whep.
        whep: where it gives that back.
        progress: told each load.
    """
    if offer or whip or whep:
        return _foreign(Doors(offer, whip, whep), seconds, most, clip, progress)
    manifest = open_bundle(bundle).manifest
    growth: list[dict[str, Any]] = []
    others: list[dict[str, Any]] = []
    samples: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as scratch:
        shown = clip or made_clip(Path(scratch) / "clip.mp4")

        def at(calls: int, size: str, steps: int) -> dict[str, Any]:
            if not re.fullmatch(r"\d+x\d+", size):
                raise ConfigError(f"size is {size!r}, must be like 640x480")
            progress(f"{calls} sessions, {size}, {steps} steps")
            found = load(calls, size, steps, seconds, shown, bundle)
            samples[f"pacing {calls} of {size}, {steps} steps_ms"] = found["pacing_ms"]
            row: dict[str, Any] = found["row"]
            return row

        for calls in range(1, most + 1):
            growth.append(at(calls, SIZE, manifest.default_steps))
            if not growth[-1]["smooth"]:
                break
        if not short:
            others += [at(1, size, manifest.default_steps) for size in SIZES if size != SIZE]
            others += [
                at(1, SIZE, steps)
                for steps in manifest.steps_offered
                if steps != manifest.default_steps
            ]
    carried = max((row["sessions"] for row in growth if row["smooth"]), default=0)
    ended = not growth[-1]["smooth"]
    cores = usable_cores()
    slope = (
        np.polyfit([r["sessions"] for r in growth], [r["cpu_cores"] for r in growth], 1)[0]
        if len(growth) > 1
        else growth[0]["cpu_cores"]
    )
    figures = {
        "smooth_sessions": figure(carried),
        "limit_found": figure("yes" if ended else f"no, stopped at {most}"),
        "smooth_sessions_per_core": figure(carried / cores),
        "smooth_sessions_per_device": figure(carried),
        "cores_each_further_session": figure(float(slope), "cores"),
        **{
            f"cores, 1 session, {r['size']}, {r['steps']} steps": figure(r["cpu_cores"], "cores")
            for r in (growth[0], *others)
        },
    }
    return {
        "bundle": describe_bundle(bundle),
        "figures": figures,
        "samples": samples,
        "tables": {"sessions": growth, "sizes and steps": others},
        "input": {"seconds": seconds, "fps": 25, "codec": "VP8", "devices": 1, "cores": cores},
    }
