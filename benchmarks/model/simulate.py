"""`lipwire bench simulate`: how many sessions so many devices carry, in virtual time.

The policy is the engine's own (`engine/runtime/batcher.py`); only the clock, the frames and the
devices are made up, the devices from measured batch times. Beside each share of missed deadlines
stands the least that any schedule could reach.
"""

from __future__ import annotations

import heapq
import itertools
import json
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any, TypeVar

from annotated_types import Ge

from lipwire.benchmarks.harness.machine import describe_machine
from lipwire.benchmarks.harness.record import describe_bundle
from lipwire.benchmarks.harness.timing import batch_times
from lipwire.engine.config import EngineConfig
from lipwire.engine.errors import ConfigError
from lipwire.engine.runtime.batcher import Batcher, QueuedJob
from lipwire.engine.runtime.device_pool import MEASURE_S
from lipwire.engine.runtime.device_profile import DeviceProfile

Number = TypeVar("Number", int, float)
SESSIONS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64)
DEVICES = (1, 2, 4, 8)


@dataclass(frozen=True, slots=True)
class Scene:
    """What the sessions are like; the delay and patience are the engine's defaults."""

    fps: float = 25.0
    delay_s: float = EngineConfig().delay_s
    patience_s: float = EngineConfig().patience_s
    # Tracking and aligning, then compositing, on CPU threads that are never short; 640x480.
    prepare_s: float = 0.008
    composite_s: float = 0.004
    jitter_s: float = 0.003  # spread of a frame's arrival
    noise: float = 0.05  # spread of a batch's time around the measured median, relative
    seconds: float = 10.0


@dataclass(frozen=True, slots=True)
class Load:
    """One point: so many sessions on so many devices."""

    sessions: int
    devices: int
    missed: float  # share of frames that were not ready at their deadline
    bound: float  # the least share that any schedule could miss
    passed_through: float  # share of frames that no device painted at all
    mean_batch: float
    busy: float  # share of the devices' time


BatchTimes = Mapping[int, float]  # batch size -> seconds


def capacity_hz(times: BatchTimes, scene: Scene) -> float:
    """Frames a second that one device can finish in time, at most: 0 if not even one is."""
    left_s = scene.delay_s - scene.prepare_s - scene.composite_s
    return max((size / took_s for size, took_s in times.items() if took_s <= left_s), default=0.0)


def simulate(
    sessions: int, devices: Sequence[BatchTimes], steps: int, scene: Scene, seed: int = 0
) -> Load:
    """Run `scene.seconds` of virtual time."""
    rng = random.Random(seed)
    profiles = [DeviceProfile(str(i), tuple(sorted(times))) for i, times in enumerate(devices)]
    tables = dict(zip(map(id, profiles), devices, strict=True))
    for profile, times in zip(profiles, devices, strict=True):  # as `DevicePool.measure` does
        spent_s = 0.0
        for size in profile.sizes:
            profile.times.record(steps, size, times[size], 0.0)
            spent_s += 2 * times[size]
            if spent_s > MEASURE_S:
                break
    batcher = Batcher(profiles)
    batcher.tail_s = scene.composite_s
    events: list[tuple[float, int, Callable[[float], None]]] = []
    order = itertools.count()
    asked: dict[int, float] = {}
    total = missed = passed = painted = batches = 0
    busy_s = 0.0

    def at(time_s: float, what: Callable[[float], None]) -> None:
        heapq.heappush(events, (time_s, next(order), what))

    def arrive(now: float, name: str, pushed_s: float) -> None:
        nonlocal total, missed, passed
        deadline_s = pushed_s + scene.delay_s
        total += 1
        if batcher.admits(steps, deadline_s + scene.patience_s, now):
            queued_job = QueuedJob(name, steps, deadline_s, deadline_s + scene.patience_s)
            batcher.put(queued_job, now)
        else:
            missed, passed = missed + 1, passed + 1

    def finish(
        now: float, profile: DeviceProfile, batch: tuple[QueuedJob, ...], took_s: float
    ) -> None:
        nonlocal missed, painted
        batcher.done(profile, batch, took_s, now)
        painted += len(batch)
        missed += sum(now + scene.composite_s > queued_job.deadline_s for queued_job in batch)

    def ask(now: float) -> None:
        nonlocal missed, passed, batches, busy_s
        gone = len(batcher.expire(now))
        missed, passed = missed + gone, passed + gone
        for profile in profiles:
            pull = batcher.pull(profile, now)
            if pull.batch:
                size = profile.padded(len(pull.batch))
                took_s = tables[id(profile)][size] * max(0.5, rng.gauss(1, scene.noise))
                batches, busy_s = batches + 1, busy_s + took_s
                at(now + took_s, partial(finish, profile=profile, batch=pull.batch, took_s=took_s))
            elif pull.again_s is not None and asked.get(id(profile)) != pull.again_s:
                asked[id(profile)] = pull.again_s
                at(pull.again_s, lambda t: None)

    for index in range(sessions):
        phase_s = rng.uniform(0, 1 / scene.fps)
        for number in range(int(scene.seconds * scene.fps)):
            pushed_s = phase_s + number / scene.fps + abs(rng.gauss(0, scene.jitter_s))
            at(pushed_s + scene.prepare_s, partial(arrive, name=str(index), pushed_s=pushed_s))
    while events:
        now, _, what = heapq.heappop(events)
        what(now)
        ask(now)
    capacity = sum(capacity_hz(times, scene) for times in devices)
    return Load(
        sessions=sessions,
        devices=len(devices),
        missed=missed / total,
        bound=max(0.0, 1 - capacity / (sessions * scene.fps)),
        passed_through=passed / total,
        mean_batch=painted / max(batches, 1),
        busy=busy_s / (len(devices) * scene.seconds),
    )


@dataclass(frozen=True, slots=True)
class StepTimes:
    """How long batches take on one device, and how that is known."""

    seconds: BatchTimes
    steps: int
    origin: str


def measured(bundle: Path | None, steps: int | None, threads: int | None = None) -> StepTimes:
    """Batch times of a bundle on this machine's ONNX Runtime."""
    from lipwire.engine.backends import load_backend
    from lipwire.engine.model.bundle import check_steps, open_bundle

    opened = open_bundle(bundle)
    manifest = opened.manifest
    steps = check_steps(manifest, steps or manifest.default_steps)
    backend = load_backend(opened, "ort", threads=threads)
    try:
        times = batch_times(backend, steps, backend.batch_sizes)
    finally:
        backend.close()
    name = f"{manifest.name} {manifest.version}, {steps} steps, {backend.description}"
    return StepTimes(times, steps, f"measured: {name}, {describe_machine()['processor']}")


def stored(path: Path, steps: int | None, network: str) -> StepTimes:
    """Batch times of a network out of a file of `lipwire bench denoiser --json`."""
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        result = {**record, **record.get("details", {})}  # without: from before records
        rows = [row for row in result["rows"] if row["network"] == network]
        offered = sorted({int(row["steps"]) for row in rows})
        steps = steps or int(result["default_steps"])
        times = {int(row["batch"]): row["ms"] / 1e3 for row in rows if row["steps"] == steps}
        processor = result["machine"]["processor"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{path}: not a result of `lipwire bench denoiser --json`") from error
    if not times:
        raise ConfigError(f"{path}: {network} was not measured at {steps} steps, only {offered}")
    name = f"{network}, {steps} steps, {rows[0]['backend']}, {processor}"
    return StepTimes(times, steps, f"measured: {name}")


def run(
    one: StepTimes,
    *,
    sessions: Sequence[int] = SESSIONS,
    devices: Sequence[int] = DEVICES,
    speeds: Sequence[float] = (1.0,),
    scene: Scene | None = None,
    progress: Callable[[Load], None] = lambda load: None,
) -> dict[str, Any]:
    """Every number of sessions on every number of devices.

    Args:
        one: batch times of a device.
        sessions: how many, each.
        devices: how many, each.
        speeds: of the devices against that one, over and over: `(1, 0.5)` makes every other one
            half as fast.
        scene: what the sessions are like.
        progress: told each point.
    """
    scene = scene or Scene()
    loads = []
    for count in devices:
        park = [
            {size: took_s / speed for size, took_s in one.seconds.items()}
            for speed in itertools.islice(itertools.cycle(speeds), count)
        ]
        for number in sessions:
            loads.append(simulate(number, park, one.steps, scene))
            progress(loads[-1])
    ms = {str(size): round(took_s * 1e3, 3) for size, took_s in sorted(one.seconds.items())}
    return {
        "step_times": {"origin": one.origin, "steps": one.steps, "ms": ms},
        "speeds": list(speeds),
        "scene": asdict(scene),
        "loads": [asdict(load) for load in loads],
    }


def numbers(text: str, kind: type[Number]) -> list[Number]:
    """What stands between commas."""
    try:
        values = [kind(part) for part in text.split(",")]
    except ValueError:
        raise ConfigError(f"{text!r} must be numbers with commas between them") from None
    if min(values) <= 0:
        raise ConfigError(f"{text!r} must be above 0")
    return values


def command(
    *,
    times: Path | None = None,
    bundle: Path | None = None,
    network: str = "lite",
    steps: Annotated[int | None, Ge(1)] = None,
    sessions: str = ",".join(map(str, SESSIONS)),
    devices: str = ",".join(map(str, DEVICES)),
    speeds: str = "1",
    seconds: Annotated[float, Ge(1)] = 10,
    progress: Callable[[str], None] = lambda what: None,
) -> dict[str, Any]:
    """`run`, its parts named by text.

    Args:
        times: output of `bench denoiser --json`; without it, measured now.
        bundle: model to measure.
        network: for --times: lite or paper.
        steps: DDIM steps.
        sessions: how many, each.
        devices: how many, each.
        speeds: of the devices, over and over: 1,0.5 has every other half as fast.
        seconds: of virtual time at each point.
        progress: told each point.
    """
    one = measured(bundle, steps) if times is None else stored(times, steps, network)
    result = run(
        one,
        sessions=numbers(sessions, int),
        devices=numbers(devices, int),
        speeds=numbers(speeds, float),
        scene=Scene(seconds=seconds),
        progress=lambda load: progress(f"{load.sessions} sessions on {load.devices} devices"),
    )
    shown = ("sessions", "missed", "bound", "passed_through", "mean_batch", "busy")
    tables, carried = {}, {}
    for count in sorted({load["devices"] for load in result["loads"]}):
        loads = [load for load in result["loads"] if load["devices"] == count]
        tables[f"{count} devices; {one.origin}"] = [
            {n if n in ("sessions", "mean_batch") else f"{n}_share": load[n] for n in shown}
            for load in loads
        ]
        well = [load["sessions"] for load in loads if load["missed"] <= 0.01]
        carried[f"{count} devices: sessions with at most 1 % missed"] = max(well, default=0)
    bundled = None if bundle is None else describe_bundle(bundle)
    return {**result, "figures": carried, "tables": tables, "bundle": bundled}
