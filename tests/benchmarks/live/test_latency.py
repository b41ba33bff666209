"""From notes of both processes to stages that add up; and a whole call, in short."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from calls import Running
from fakes import FakeBackend, FakeTracker

from lipwire.benchmarks.harness.timing import percentiles
from lipwire.benchmarks.live.latency import digest
from lipwire.benchmarks.live.stages import STAGES, stage_table, ways
from lipwire.benchmarks.rig import speech_path
from lipwire.benchmarks.rig.clicks import CLICK_HZ, click_levels, clicks, with_clicks
from lipwire.benchmarks.rig.latency_client import Plan, netem
from lipwire.benchmarks.rig.scenes import made_clip
from lipwire.benchmarks.rig.voices import sample_voice
from lipwire.engine import Engine
from lipwire.engine.errors import LipwireError
from lipwire.engine.trace import POINTS, Trace

FRAMES = 100


def notes(**changes: Any) -> dict[str, Any]:
    """A call in which every stage takes a millisecond, and every tenth picture passes through."""
    sent, server, back = [], [], []
    for n in range(FRAMES):
        at = n / 25
        sent.append(
            [
                n,
                n * 3600,
                {"captured": at, "encoding": at + 0.001, "encoded": at + 0.002, "sent": at + 0.003},
            ]
        )
        times: list[Any] = [at + 0.004 + k / 1000 for k in range(len(POINTS))]
        if n % 10 == 0:
            times[POINTS.index("generating")] = None
        server.append([n * 3600, "late" if n % 10 == 0 else "generated", *times])
        home = times[-1] + 0.001
        marks = {"received": home, "decoding": home + 0.001, "decoded": home + 0.002}
        back.append([home + 0.003, n, n * 3600, marks])
    return {
        "called_s": -1.0,
        "spoken_s": -0.9,
        "since_s": 0.4,
        "until_s": 3.0,
        "client_cpu_s": 0.5,
        "client_mib": 100.0,
        "own_s": 0.01,
        "columns": ["pts", "outcome", *POINTS],
        "server": server,
        "sent": sent,
        "back": back,
        "clicks": [[0.5, 0.6], [1.5, 1.6]],
        "offsets": {"video": [0.1] * 9, "audio": [0.08] * 9},
        "sounds": [],
        "first": {},
        "last": {"delay_p50_ms": 60.0, "delay_p95_ms": 61.0},
        "server_cpu_per_s": 0.8,
        "resident_mib": 300.0,
        "peak_mib": 400.0,
        "ready_s": 2.0,
        **changes,
    }


def test_stages_are_all_points_and_add_up() -> None:
    assert len(STAGES) == 3 + len(POINTS) + 4
    found = ways(notes())
    assert len(found) == 65 and all(0.4 <= way.number / 25 < 3.0 for way in found)
    rows = stage_table(found)
    stages = [row["p50_ms"] for row in rows[: len(STAGES)]]
    assert stages == pytest.approx([1.0] * len(STAGES))
    rest, whole = rows[-2], rows[-1]
    assert rest["stage"].startswith("rest") and rest["p50_ms"] == pytest.approx(0, abs=1e-6)
    assert whole["p50_ms"] == pytest.approx(sum(stages))


def test_what_medians_leave_over_is_the_rest() -> None:
    """A third of the pictures waits 40 ms in each of three stages: no median shows it."""
    noted = notes()
    for number, row in enumerate(noted["server"]):
        first = 2 + POINTS.index(("decoding", "tracked", "encoding")[number % 3])
        row[first:] = [None if at is None else at + 0.04 for at in row[first:]]
        home = noted["back"][number]
        home[0] += 0.04
        home[3] = {point: at + 0.04 for point, at in home[3].items()}
    found = digest(noted, Plan("", "", ""))
    assert found["rows"][-2]["p50_ms"] == pytest.approx(40)
    assert found["rows"][-2]["mean_ms"] == pytest.approx(0, abs=1e-6)
    assert found["figures"]["rest_share"]["ok"]


def test_pictures_that_no_stages_explain_are_the_rest() -> None:
    noted = notes()
    for number, row in enumerate(noted["server"]):
        if number % 3 == 0 and row[1] == "generated":
            row[2 + POINTS.index("tracked")] = None
            noted["back"][number][0] += 0.06
    found = digest(noted, Plan("", "", ""))
    assert found["rows"][-2]["mean_ms"] == pytest.approx(20, abs=1)
    assert found["figures"]["rest_share"]["ok"] is False


def test_figures_of_a_call() -> None:
    figures = digest(notes(), Plan("", "", ""))["figures"]
    assert figures["generated_share"]["value"] == pytest.approx(0.9, abs=0.02)
    assert figures["pasted_share"]["value"] == 0
    assert figures["painted_share"]["value"] == pytest.approx(0.9, abs=0.02)
    assert figures["painted_share"]["ok"] is False
    assert figures["rest_share"]["ok"] and figures["pictures_per_s"]["value"] == pytest.approx(25)
    assert figures["pacing_error_p99_ms"]["value"] == pytest.approx(0, abs=1e-6)
    assert figures["av_offset_ms"]["value"] == pytest.approx(20)
    assert figures["click_error_max_ms"]["value"] == pytest.approx(0, abs=1e-6)
    # Picture 1 is the first that was painted: its own time and every stage, after the calling.
    assert figures["first_generated_s"]["value"] == pytest.approx(1 + 0.04 + len(STAGES) / 1000)


def test_numbers_that_do_not_agree_are_refused() -> None:
    noted = notes()
    for row in noted["server"]:
        row[2:] = [None if at is None else at + 1.0 for at in row[2:]]
    with pytest.raises(LipwireError, match="numbers do not agree"):
        ways(noted)


@pytest.mark.parametrize("read_as", [20, 31, 32, 5_000, None])
def test_a_marker_that_is_misread_costs_one_sample(read_as: int | None) -> None:
    noted, clean = notes(), digest(notes(), Plan("", "", ""))["figures"]
    row = noted["back"][30]
    row[0], row[1] = row[0] - 0.02, read_as
    if read_as == 31:  # before the right one comes back, with another's times
        row[3] = {point: at - 0.063 for point, at in row[3].items()}
    found = digest(noted, Plan("", "", ""))["figures"]
    assert found["pictures_misread"]["value"] <= 1
    assert len(ways(notes())) - 2 <= len(ways(noted)) < len(ways(notes()))
    for name in ("pictures_per_s", "glass_to_glass_p50_ms"):
        assert found[name]["value"] == pytest.approx(clean[name]["value"], rel=0.03)


def test_nothing_has_no_percentiles() -> None:
    assert set(percentiles([]).values()) == {None}
    assert percentiles([0.001, 0.003])["max_ms"] == pytest.approx(3)


def test_clicks_are_found_in_a_voice() -> None:
    rng = np.random.default_rng(0)
    voice = np.convolve(rng.normal(0, 9000, 24_000 * 5), np.ones(9) / 9, "same").astype(np.int16)
    spoken = with_clicks(voice)
    assert len(spoken) == 24_000 * 5 and not np.array_equal(spoken, voice)
    heard = np.interp(np.arange(48_000 * 5) / 2, np.arange(len(spoken)), spoken.astype(float))
    levels = click_levels(heard)
    found = clicks(levels, np.arange(len(levels)) * 0.005)
    assert found == pytest.approx(np.arange(5), abs=0.011)
    assert CLICK_HZ > 8000
    assert len(clicks(np.zeros(0), np.zeros(0))) == 0


def test_weather_in_the_words_of_tc() -> None:
    plan = Plan("", "", "", delay_ms=20, jitter_ms=2, loss=0.01)
    assert netem(plan) == ["netem", "delay", "20ms", "2ms", "loss", "1.0%"]


def test_a_trace_keeps_the_first_mark() -> None:
    times = iter([1.0, 2.0, 3.0])
    trace = Trace(lambda: next(times))
    trace.stamp("received")
    trace.stamp("received")
    trace.stamp("decoding", 9.0)
    assert trace.at_s == {"received": 1.0, "decoding": 9.0}


def test_a_call_is_traced_from_glass_to_glass(tmp_path: Path) -> None:
    """A real caller in its own process, and a server with a model that paints at once."""
    clip = made_clip(tmp_path / "clip.mp4", seconds=1)
    with Engine(FakeBackend(), FakeTracker) as engine, Running(engine) as server:
        plan = Plan(server.url, str(clip), str(sample_voice()), seconds=4, settle_s=1, delay_ms=5)
        done = subprocess.run(
            [
                sys.executable,
                "-m",
                "lipwire.benchmarks.rig.latency_client",
                json.dumps(asdict(plan)),
            ],
            stdout=subprocess.PIPE,
            check=True,
            timeout=120,
        )
    noted = json.loads(done.stdout)
    found = ways(noted)
    assert found and noted["last"]["frames_out"] > 0
    # However busy the machine is: each picture's stages are its way, piece by piece.
    whole = [way for way in found if len(way.stages_s) == len(STAGES)]
    for way in whole:
        assert sum(way.stages_s.values()) == pytest.approx(way.whole_s, abs=1e-6)
    for way in found:
        assert way.whole_s > 0.01  # the relay's 5 ms each way
    heard = speech_path.ways(noted)
    assert heard
    for block in heard:
        assert sum(block.stages_s.values()) == pytest.approx(block.whole_s, abs=1e-6)
        assert block.after_due_s > 0.005
        # Clocks of two processes, read one after the other: nothing comes before it was sent.
        assert min(block.stages_s.values()) > -0.05
