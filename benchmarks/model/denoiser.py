"""`lipwire bench denoiser`: what the networks cost, as shares of what this machine can do.

Everything is compared inside one run, rivals taking turns: batches with single frames, few steps
with 25, ONNX Runtime with the plain loop and with this machine's own matrix product (SGEMM).
"""

from __future__ import annotations

import gc
import itertools
import os
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from annotated_types import Ge
from torch import Tensor, nn

from lipwire.benchmarks.harness.machine import process_memory_mib
from lipwire.benchmarks.harness.record import judged
from lipwire.benchmarks.harness.timing import batch_times, sgemm, sgemm_gflops, take_turns
from lipwire.benchmarks.rig import subjects
from lipwire.engine.backends import Backend, blank_job, load_backend
from lipwire.engine.backends.planned import BATCH_SIZES
from lipwire.engine.model.bundle import Bundle, open_bundle
from lipwire.engine.model.ddim import NoiseSchedule, ddim_sample
from lipwire.engine.nets.diff2lip import Diff2LipUNet, network_input, replace_lower_half
from lipwire.engine.nets.graphs import example_inputs
from lipwire.engine.runtime.batcher import QueuedJob
from lipwire.engine.runtime.device import Model
from lipwire.engine.runtime.device_pool import DevicePool
from lipwire.engine.types import F32, U8, LipJob
from lipwire.export.write import count_gflop

TARGETS = {
    "trajectory_error": 1e-4,
    "encode_once_ratio": 0.95,
    "paper_steps_ratio": 1.1,
    "lite_steps_ratio": 1.1,
    "lite_batch_ratio": 0.9,
    "paper_batch_ratio": 0.9,
    "growth_mib": 1.0,
    "worker_ms": 1.0,
    "paper_sgemm_share": 0.6,
}
AT_LEAST = ("paper_sgemm_share",)
FEW_STEPS, MANY_STEPS = 2, 25  # lipwire's default against the paper's
BATCH = 8
Progress = Callable[[str], None]


def plain_loop(net: Diff2LipUNet, inputs: dict[str, Tensor], steps: int) -> Tensor:
    """Sampling as published: the audio is encoded again at every step."""
    schedule = NoiseSchedule.linear()
    visible, noise = inputs["visible"], inputs["noise"]
    whole = torch.cat([visible, torch.zeros_like(visible)], dim=2)
    condition = replace_lower_half(whole, noise)

    def denoise(x_t: Tensor, t: int) -> Tensor:
        x = network_input(x_t, condition, inputs["references"])
        out: Tensor = net(x, torch.full((len(x),), float(t)), net.audio_style(inputs["mel"]))
        return out[:, :3]

    with torch.inference_mode():
        return ddim_sample(
            denoise, noise, schedule.timesteps(steps), schedule, prediction="epsilon"
        )


def trajectory_error(bundle: Bundle, net: Diff2LipUNet, goldens: Path | None) -> float:
    """Relative error of 25 steps' sampled image against the reference trajectory.

    Args:
        bundle: of `net`.
        net: small enough to sample in seconds.
        goldens: folder of the reference's own numbers, which `net` must be made for; None compares
            with `plain_loop`.
    """
    backend: Any = load_backend(bundle, "ort")
    try:
        if goldens is None:
            inputs = example_inputs(net, 2, seed=4)
            wanted: F32 = plain_loop(net, inputs, MANY_STEPS).numpy()
            arrays = {
                name: inputs[name].numpy() for name in ("visible", "references", "mel", "noise")
            }
        else:
            _, golden = subjects.golden(goldens)
            wanted = golden["ddim_sample"]
            arrays = {
                "visible": golden["face"][:, :, : golden["face"].shape[2] // 2],
                "references": golden["ref"],
                "mel": golden["mel"],
                "noise": np.repeat(golden["noise"], len(golden["face"]), axis=0),
            }
        found = backend.sample(
            {name: np.ascontiguousarray(a, np.float32) for name, a in arrays.items()}, MANY_STEPS
        )
    finally:
        backend.close()
    half = wanted.shape[2] // 2  # the visible half is overwritten, whatever the sampler leaves
    found, wanted = found[:, :, half:], wanted[:, :, half:]
    return float(np.linalg.norm(found - wanted) / np.linalg.norm(wanted))


def worker_ms(backend: Backend, count: int = 300) -> dict[str, float]:
    """What putting a job through the queue and a device's thread adds to it, ms."""
    inside: list[float] = []
    done = threading.Event()
    added: list[float] = []

    class Timed:
        manifest, batch_sizes = backend.manifest, backend.batch_sizes
        description = backend.description

        def generate(self, jobs: Sequence[LipJob]) -> list[U8]:
            begun_s = time.perf_counter()
            painted = backend.generate(jobs)
            inside.append(time.perf_counter() - begun_s)
            return painted

        def close(self) -> None:
            pass

    def back(*_: object) -> None:
        done.set()

    model = Model([Timed()])
    device_pool = DevicePool(model, time.monotonic, back, back)
    job = blank_job(backend.manifest)
    device_pool.measure(job)
    for number in range(count):
        done.clear()
        now = time.monotonic()
        begun_s = time.perf_counter()
        # Another source each time: a batch is not held open for the next frame of the same.
        device_pool.put(QueuedJob(str(number), job.steps, now + 60, now + 60, job))
        done.wait(60)
        added.append(time.perf_counter() - begun_s - inside[-1])
    device_pool.close()
    return {
        "worker_ms": statistics.median(added) * 1e3,
        "worker_p95_ms": float(np.percentile(added, 95)) * 1e3,
    }


def growth_mib(backend: Backend, frames: int, tick: Callable[[], None]) -> float:
    """How much resident memory grows over so many frames, after a tenth of them to settle."""
    job = blank_job(backend.manifest)
    before = 0.0
    gc.collect()  # what others left would fall away meanwhile, and hide what grows
    for number in range(frames):
        if number == frames // 10:
            before = process_memory_mib(os.getpid())["resident_mib"]
        backend.generate([replace(job, index=number, seed=number % 4)])
        tick()
    return process_memory_mib(os.getpid())["resident_mib"] - before


def run(
    *,
    goldens: Path | None = None,
    frames: Annotated[int, Ge(100)] = 10_000,
    rounds: Annotated[int, Ge(1)] = 5,
    paper_rounds: Annotated[int, Ge(1)] = 1,
    paper: bool = True,
    threads: Annotated[int | None, Ge(1)] = None,
    progress: Progress = lambda what: None,
) -> dict[str, Any]:
    """Measure; returns machine, command, every row, and the figures beside their targets.

    Args:
        goldens: folder of reference numbers; None compares with a plain torch loop of ours.
        frames: painted one after the other to see whether memory grows.
        rounds: of the lite network.
        paper_rounds: of the paper's, two minutes or three each.
        paper: whether to measure it at all.
        threads: CPU threads of ONNX Runtime; None lets it choose.
        progress: told what is being measured.
    """
    rows: list[dict[str, Any]] = []
    figures: dict[str, float] = {}
    lite = open_bundle()
    manifest = lite.manifest
    backend = load_backend(lite, "ort", threads=threads, batch_sizes=BATCH_SIZES)
    rate = sgemm_gflops(take_turns({"sgemm": sgemm()}, 5)["sgemm"])

    def row(network: str, steps: int, batch: int, took_s: float, gflop: float, by: str) -> None:
        speed = gflop * batch / took_s
        rows.append(
            {
                "network": network,
                "backend": by,
                "steps": steps,
                "batch": batch,
                "ms": took_s * 1e3,
                "ms_a_frame": took_s * 1e3 / batch,
                "gflop_a_frame": gflop,
                "gflops": speed,
                "sgemm_share": speed / rate,
            }
        )

    lite_net = subjects.network("lite")
    for steps in manifest.steps_offered:
        progress(f"lite, {steps} steps")
        for batch, took_s in batch_times(backend, steps, backend.batch_sizes, rounds).items():
            row("lite", steps, batch, took_s, count_gflop(lite_net, steps), backend.description)
    most = manifest.steps_offered[-1]
    single = blank_job(manifest)
    progress("lite, batches and steps against single frames")
    taken = take_turns(
        {
            "one": lambda: backend.generate([single]),
            "batch": lambda: backend.generate([single] * BATCH),
            "most": lambda: backend.generate([replace(single, steps=most)]),
        },
        3 * rounds,
    )
    one, eight, many = (statistics.median(taken[name]) for name in ("one", "batch", "most"))
    figures["lite_batch_ratio"] = eight / (BATCH * one)
    figures["lite_steps_ratio"] = (one / many) / (single.steps / most)
    progress("what the worker adds")
    figures |= worker_ms(backend)
    ticks = itertools.count(1)

    def tick() -> None:
        if (number := next(ticks)) % 500 == 0:
            progress(f"memory over {frames} frames: {number}")

    figures["growth_mib"] = growth_mib(backend, frames, tick)
    backend.close()
    with tempfile.TemporaryDirectory() as scratch:
        progress("Wav2Lip's generator")
        _wav2lip(Path(scratch), rounds, threads, row)
        progress("the paper's trajectory, small")
        config = subjects.golden(goldens)[0] if goldens else subjects.SMALL
        small: Any = subjects.paper_network(config)
        tiny = subjects.paper_bundle(small, Path(scratch) / "small")
        figures["trajectory_error"] = trajectory_error(tiny, small, goldens)
        if paper:
            net = subjects.network("paper")
            progress("exporting the paper's network, full size")
            bundle = subjects.paper_bundle(net, Path(scratch) / "paper")
            figures |= _paper(net, bundle, paper_rounds, threads, row, progress)
    return {
        "sgemm_gflops": rate,
        "default_steps": manifest.default_steps,
        "goldens": goldens is not None,
        "rows": rows,
        "tables": {f"networks; SGEMM {rate:.0f} GFLOP/s": rows},
        "figures": figures,
        "targets": TARGETS,
        "met": judged(figures, TARGETS, AT_LEAST),
    }


def _wav2lip(scratch: Path, rounds: int, threads: int | None, row: Callable[..., None]) -> None:
    """The row of the paper's baseline: one pass, 96x96."""
    net = subjects.network("wav2lip")
    bundle = subjects.wav2lip_bundle(net, scratch / "wav2lip")
    backend = load_backend(bundle, "ort", threads=threads, batch_sizes=BATCH_SIZES)
    gflop = count_gflop(net, 1)
    for batch, took_s in batch_times(backend, 1, backend.batch_sizes, rounds).items():
        row("wav2lip", 1, batch, took_s, gflop, backend.description)
    backend.close()


def _paper(
    net: nn.Module,
    bundle: Bundle,
    rounds: int,
    threads: int | None,
    row: Callable[..., None],
    progress: Progress,
) -> dict[str, float]:
    """The figures of the paper's network; a pass takes seconds on a CPU, so there are few."""
    progress("opening it in ONNX Runtime")
    backend = load_backend(bundle, "ort", threads=threads, batch_sizes=BATCH_SIZES)
    gflop = {steps: count_gflop(net, steps) for steps in (1, FEW_STEPS, MANY_STEPS)}
    inputs = example_inputs(net, 1)
    one = blank_job(bundle.manifest, 1)

    def job(steps: int, batch: int = 1) -> Callable[[], object]:
        return lambda: backend.generate([replace(one, steps=steps)] * batch)

    assert isinstance(net, Diff2LipUNet)
    progress("one pass against SGEMM")
    short = take_turns({"sgemm": sgemm(), "pass": job(1), "few": job(FEW_STEPS)}, 3 * rounds)
    product, once, few = (statistics.median(short[name]) for name in ("sgemm", "pass", "few"))
    progress("a batch of eight")
    eight = statistics.median(take_turns({"eight": job(1, BATCH)}, rounds)["eight"])
    progress("25 steps against the plain loop; minutes")
    plain_loop(net, inputs, 1)
    long = take_turns(
        {"ours": job(MANY_STEPS), "plain": lambda: plain_loop(net, inputs, MANY_STEPS)},
        rounds,
        lambda: progress("25 steps against the plain loop; minutes"),
        warm=False,  # both have run already
    )
    ours, plain = (statistics.median(long[name]) for name in ("ours", "plain"))
    rows = ((1, 1, once), (FEW_STEPS, 1, few), (1, BATCH, eight), (MANY_STEPS, 1, ours))
    for steps, batch, took_s in rows:
        row("paper", steps, batch, took_s, gflop[steps], backend.description)
    plain_gflop = MANY_STEPS * gflop[1]
    row("paper", MANY_STEPS, 1, plain, plain_gflop, f"plain torch {torch.__version__} loop")
    backend.close()
    return {
        "encode_once_ratio": ours / plain,
        "paper_steps_ratio": (few / ours) / (FEW_STEPS / MANY_STEPS),
        "paper_batch_ratio": eight / (BATCH * once),
        "paper_sgemm_share": gflop[1] / once / sgemm_gflops([product]),
    }
