"""`lipwire bench paper`: the paper's headline, 25 steps for 200 frames of 128x128, on this machine.

The published figure is 4.67 s on 8 A6000 (section 4 of the paper); the network is the paper's,
with made weights: time does not depend on their values. Fewer frames are measured where a device
is slow, and what 200 would take is extrapolated, which is said.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

from annotated_types import Ge

from lipwire.benchmarks.harness.record import figure
from lipwire.benchmarks.rig import subjects
from lipwire.engine.backends import blank_job, load_backend

FRAMES, STEPS = 200, 25
PUBLISHED_S, PUBLISHED_DEVICES = 4.67, 8
PUBLISHED_FPS = FRAMES / PUBLISHED_S / PUBLISHED_DEVICES
BUNDLE = {
    "name": "paper's network, made weights",
    "version": "published architecture",
    **{"sha256": "", "steps": STEPS, "gflop_per_frame": None},
}


def run(
    *,
    frames: Annotated[int, Ge(1)] = FRAMES,
    steps: Annotated[int, Ge(1)] = STEPS,
    device: str = "cpu",
    batch: Annotated[int, Ge(1)] = 1,
    progress: Callable[[str], None] = lambda what: None,
) -> dict[str, Any]:
    """Paint frames one batch after the other on one device.

    Args:
        frames: painted; fewer than 200 are extrapolated to it.
        steps: DDIM steps; the paper takes 25, and other numbers are scaled to it.
        device: cpu, or cuda:0, where the fastest runtime is taken.
        batch: frames at once.
        progress: told each batch.
    """
    with tempfile.TemporaryDirectory() as scratch:
        progress("exporting the paper's network")
        bundle = subjects.paper_bundle(subjects.network("paper"), Path(scratch) / "paper")
        name = "ort" if device == "cpu" else "auto"
        backend: Any = load_backend(bundle, name, device=device)
        try:
            job = replace(blank_job(bundle.manifest, STEPS), steps=steps)
            progress("warming up")
            backend.generate([replace(job, steps=1)] * batch)
            took_s: list[float] = []
            done = 0
            while done < frames:
                size = min(batch, frames - done)
                begun_s = time.perf_counter()
                backend.generate([replace(job, index=done + k) for k in range(size)])
                took_s.append(time.perf_counter() - begun_s)
                done += size
                progress(f"{done} of {frames} frames, {done / sum(took_s):.3g} a second")
            described = backend.description
        finally:
            backend.close()
    scaled_s = sum(took_s) / frames * FRAMES * STEPS / steps
    whole = frames >= FRAMES and steps == STEPS
    fps = FRAMES / scaled_s
    wanted = f"{FRAMES} frames at {STEPS} steps"
    how = "measured" if whole else f"extrapolated from {frames} frames at {steps} steps"
    return {
        "bundle": BUNDLE,
        "figures": {
            "frames_per_s": figure(fps, "1/s"),
            "published_frames_per_s_a_device": figure(PUBLISHED_FPS, "1/s"),
            "of_the_published_device_ratio": figure(fps / PUBLISHED_FPS, "ratio"),
            f"{wanted}, {how}": figure(scaled_s, "s"),
            f"{wanted}, published, {PUBLISHED_DEVICES} A6000": figure(PUBLISHED_S, "s"),
        },
        "samples": {"frame_ms": [s * 1e3 / batch for s in took_s]},
        "input": {
            "frames": frames,
            "steps": steps,
            "device": described,
            "batch": batch,
            "extrapolated": not whole,
        },
    }
