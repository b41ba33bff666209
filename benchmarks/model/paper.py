"""`lipwire bench paper`: the paper's headline, 25 steps for 200 frames of 128x128, on this machine.

The published figure is 4.67 s on 8 A6000 (section 4 of the paper); the network is the paper's,
with made weights: time does not depend on their values. Fewer frames are measured where a device
is slow, and what 200 would take is extrapolated, which is said.
"""

from __future__ import annotations

import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
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
    """Paint frames one batch after the other, on one device or on several at once.

    Args:
        frames: painted; fewer than 200 are extrapolated to it.
        steps: DDIM steps; the paper takes 25, and other numbers are scaled to it.
        device: cpu, or cuda:0, where the fastest runtime is taken; several, which share the
            frames, as cuda:0,cuda:1.
        batch: frames at once, on each device.
        progress: told each batch.
    """
    devices = device.split(",")
    with tempfile.TemporaryDirectory() as scratch, ExitStack() as opened:
        progress("exporting the paper's network")
        bundle = subjects.paper_bundle(subjects.network("paper"), Path(scratch) / "paper")
        backends: list[Any] = []
        for name in devices:
            backend = load_backend(bundle, "ort" if name == "cpu" else "auto", device=name)
            opened.callback(backend.close)
            backends.append(backend)
        job = replace(blank_job(backends[0].manifest, STEPS), steps=steps)
        progress("warming up")
        for backend in backends:
            backend.generate([replace(job, steps=1)] * batch)
        waiting = iter([range(i, min(i + batch, frames)) for i in range(0, frames, batch)])
        lock, done, took_s = threading.Lock(), 0, []
        begun_s = time.perf_counter()

        def paint(backend: Any) -> None:
            """Batches until there are no more."""
            nonlocal done
            while True:
                with lock:
                    indices = next(waiting, None)
                if indices is None:
                    return
                since_s = time.perf_counter()
                backend.generate([replace(job, index=index) for index in indices])
                now_s = time.perf_counter()
                with lock:
                    took_s.append(now_s - since_s)
                    done += len(indices)
                    fps = done / (now_s - begun_s)
                    progress(f"{done} of {frames} frames, {fps:.3g} a second")

        with ThreadPoolExecutor(len(backends)) as threads:
            list(threads.map(paint, backends))
        whole_s = time.perf_counter() - begun_s
        described = ", ".join(backend.description for backend in backends)
    scaled_s = whole_s / frames * FRAMES * STEPS / steps
    whole = frames >= FRAMES and steps == STEPS
    fps = FRAMES / scaled_s
    wanted = f"{FRAMES} frames at {STEPS} steps"
    how = "measured" if whole else f"extrapolated from {frames} frames at {steps} steps"
    return {
        "bundle": BUNDLE,
        "figures": {
            "frames_per_s": figure(fps, "1/s"),
            "published_frames_per_s_a_device": figure(PUBLISHED_FPS, "1/s"),
            "of_the_published_device_ratio": figure(fps / len(devices) / PUBLISHED_FPS, "ratio"),
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
