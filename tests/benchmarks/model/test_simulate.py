"""Virtual time: nothing is missed with room to spare, and overload comes near the bound."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from lipwire.benchmarks.model.simulate import (
    Scene,
    StepTimes,
    capacity_hz,
    command,
    run,
    simulate,
    stored,
)
from lipwire.engine.errors import ConfigError

CPU = {1: 0.011, 2: 0.021, 4: 0.041, 8: 0.081}  # batches save next to nothing
GPU = {1: 0.006, 2: 0.007, 4: 0.009, 8: 0.014, 16: 0.024}
SCENE = Scene(seconds=3)


@pytest.mark.parametrize("times", [CPU, GPU])
@pytest.mark.parametrize("devices", [1, 2])
def test_half_the_capacity_misses_nothing(times: dict[int, float], devices: int) -> None:
    sessions = max(1, int(0.5 * devices * capacity_hz(times, SCENE) / SCENE.fps))
    load = simulate(sessions, [times] * devices, 2, SCENE)
    assert load.missed == load.passed_through == load.bound == 0
    assert 0 < load.busy < 1


@pytest.mark.parametrize("times", [CPU, GPU])
@pytest.mark.parametrize("devices", [1, 2])
def test_overload_misses_little_more_than_any_schedule_must(
    times: dict[int, float], devices: int
) -> None:
    sessions = int(2 * devices * capacity_hz(times, SCENE) / SCENE.fps)
    load = simulate(sessions, [times] * devices, 2, SCENE)
    assert load.bound == pytest.approx(0.5, abs=0.08)
    assert load.bound - 0.02 <= load.missed <= load.bound + 0.12


def test_batches_grow_where_that_pays() -> None:
    assert simulate(16, [GPU], 2, SCENE).mean_batch > 3
    assert simulate(4, [CPU], 2, SCENE).mean_batch < 2


def test_a_slow_device_helps_a_quick_one() -> None:
    slow = {size: 3 * took_s for size, took_s in CPU.items()}
    alone, together = (simulate(5, park, 2, SCENE).missed for park in ([CPU], [CPU, slow]))
    assert together < alone - 0.05


def test_a_device_too_slow_for_a_single_frame_has_no_capacity() -> None:
    assert capacity_hz({1: 0.055}, SCENE) == 0
    assert simulate(1, [{1: 0.2}], 2, SCENE).bound == 1


def test_equal_seeds_give_equal_runs() -> None:
    assert simulate(6, [GPU], 2, SCENE) == simulate(6, [GPU], 2, SCENE)
    assert simulate(6, [GPU], 2, SCENE, seed=1) != simulate(6, [GPU], 2, SCENE)


def test_a_run_is_json() -> None:
    times = StepTimes(GPU, 2, "made up")
    scene = Scene(seconds=1)
    result = run(times, sessions=(1, 2), devices=(1, 2), speeds=(1, 0.5), scene=scene)
    assert json.loads(json.dumps(result)) == result
    assert [(load["devices"], load["sessions"]) for load in result["loads"]] == [
        (1, 1),
        (1, 2),
        (2, 1),
        (2, 2),
    ]


def test_the_command_counts_what_is_carried(tmp_path: Path) -> None:
    found = command(times=measurement(tmp_path), sessions="1,40", devices="1", seconds=1)
    (rows,) = found["tables"].values()
    assert [row["sessions"] for row in rows] == [1, 40]
    assert rows[0]["missed_share"] < 0.01 < rows[1]["missed_share"]
    assert found["figures"] == {"1 devices: sessions with at most 1 % missed": 1}
    with pytest.raises(ConfigError, match="must be numbers with commas"):
        command(times=measurement(tmp_path), sessions="a")
    with pytest.raises(ConfigError, match="above 0"):
        command(times=measurement(tmp_path), speeds="0")


def measurement(tmp_path: Path, **changes: Any) -> Path:
    rows = [
        {"network": "lite", "backend": "ort", "steps": 2, "batch": b, "ms": 10.0 * b}
        for b in (1, 2)
    ]
    result = {"rows": rows, "default_steps": 2, "machine": {"processor": "a"}, **changes}
    path = tmp_path / "denoiser.json"
    path.write_text(json.dumps(result))
    return path


def test_measured_times_are_read(tmp_path: Path) -> None:
    times = stored(measurement(tmp_path), None, "lite")
    assert times.seconds == {1: 0.01, 2: 0.02}
    assert (times.steps, times.origin) == (2, "measured: lite, 2 steps, ort, a")


def test_what_was_not_measured_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"not measured at 4 steps, only \[2\]"):
        stored(measurement(tmp_path), 4, "lite")
    with pytest.raises(ConfigError, match=r"paper was not measured"):
        stored(measurement(tmp_path), None, "paper")
    with pytest.raises(ConfigError, match="not a result of"):
        stored(measurement(tmp_path, rows=None), None, "lite")
    with pytest.raises(ConfigError, match="not a result of"):
        stored(tmp_path / "none.json", None, "lite")
