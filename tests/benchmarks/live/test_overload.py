"""The bench of overload: its arithmetic on a made-up call, and a real one in short."""

from __future__ import annotations

import io
import json
import time
from pathlib import Path
from typing import Any

import pytest
from calls import Running, keep_aiortc, sound_file
from fakes import FakeBackend, FakeTracker, picture, voiced
from typer.testing import CliRunner

from lipwire.benchmarks.live import overload
from lipwire.benchmarks.live.overload import (
    Glimpse,
    Slowed,
    call,
    delay_back_s,
    figures_of,
    judge,
    obey,
)
from lipwire.benchmarks.rig.probe import Probe
from lipwire.cli.main import app
from lipwire.engine import Engine
from lipwire.engine.backends import blank_job
from lipwire.engine.errors import LipwireError
from lipwire.engine.overload.levels import RUNGS

BORDERS = (0.0, 10.0, 20.0, 30.0)


def stats(at_s: float, rung: str, painted: int, passed: int, changes: int) -> Glimpse:
    figures = {
        "pasted": 0,
        "generated": painted,
        "held": 0,
        "passed_through": {"overloaded": passed, "silent": 25},
        "rung": rung,
        "steps": 2 if rung == "full" else 1,
        "rung_changes": changes,
    }
    return Glimpse(at_s, figures)


def made_call(back_s: float = 1.0) -> tuple[Probe, list[Glimpse]]:
    """A call as it should be: slowed, half is painted and late; back `back_s` after the end."""
    probe = Probe("nowhere", [])
    seen = []
    for number in range(750):
        sent_s = number / 25
        slowed = 10 <= sent_s < 20 + back_s
        probe.camera.sent_s.append(sent_s)
        probe.pictures.append((sent_s + (0.18 if slowed else 0.1), number))
        if number % 5 == 0:
            count = number // 2 if slowed else number
            seen.append(stats(sent_s, "half" if slowed else "full", count, number - count, slowed))
    probe.sounds = [(k * 0.02, k * 960) for k in range(1500)]
    return probe, seen


def test_the_thirds_and_the_way_back_are_told() -> None:
    probe, seen = made_call()
    figures = figures_of(probe, seen, BORDERS)
    before, slowed = figures["before"], figures["slowed"]
    assert before["pictures_share"] == pytest.approx(1, abs=0.02)
    assert before["generated_share"] == 1 and before["rungs"] == ["full"]
    assert before["delay_p50_ms"] == pytest.approx(100)
    assert slowed["generated_share"] == pytest.approx(0.5, abs=0.02) and slowed["rungs"] == ["half"]
    assert slowed["delay_p50_ms"] == pytest.approx(180) and slowed["steps"] == [1]
    assert figures["rung_back_s"] == pytest.approx(1.0, abs=0.21)
    assert figures["delay_back_s"] == pytest.approx(1.0, abs=0.35)
    assert all(judge(figures).values())


def test_what_does_not_come_back_is_missed() -> None:
    probe, seen = made_call(back_s=10.0)
    figures = figures_of(probe, seen, BORDERS)
    assert figures["delay_back_s"] is None and figures["rung_back_s"] is None
    met = judge(figures)
    assert not met["delay back within 3 s"] and not met["rung back within 3 s"]
    assert met["before: 95 % of the pictures"]
    slow = figures_of(*made_call(back_s=4.0), BORDERS)
    assert slow["rung_back_s"] > 3 and not judge(slow)["rung back within 3 s"]


def test_holes_and_lost_pictures_are_missed() -> None:
    probe, seen = made_call()
    probe.sounds = [(at_s, pts) for at_s, pts in probe.sounds if not 12.0 < at_s < 12.2]
    probe.pictures = [(at_s, n) for at_s, n in probe.pictures if n is None or not 100 < n < 125]
    met = judge(figures_of(probe, seen, BORDERS))
    assert [name for name, good in met.items() if not good] == [
        "before: 95 % of the pictures",
        "slowed: no hole in the sound",
    ]


def test_a_hiccup_after_the_way_back_does_not_count() -> None:
    probe, _ = made_call()
    probe.pictures = [(at_s + 0.1 * (26 < at_s < 26.2), n) for at_s, n in probe.pictures]
    assert delay_back_s(probe, 0.1, 20, 30) == pytest.approx(1.0, abs=0.35)


def test_a_third_without_figures_is_named() -> None:
    probe, seen = made_call()
    gone = [(at_s, n) for at_s, n in probe.pictures if at_s < 20]
    probe.pictures, kept = gone, probe.pictures
    with pytest.raises(LipwireError, match="no picture came back in the third 'after'"):
        figures_of(probe, seen, BORDERS)
    probe.pictures = kept
    with pytest.raises(LipwireError, match="the server gave 0 figures in the third 'slowed'"):
        figures_of(probe, [g for g in seen if not 10 <= g.at_s < 20], BORDERS)
    probe.camera.sent_s = [at_s for at_s in probe.camera.sent_s if at_s >= 10]
    with pytest.raises(LipwireError, match="no picture was sent in the third 'before'"):
        figures_of(probe, seen, BORDERS)


def test_a_slowed_device_takes_longer_and_paints_the_same() -> None:
    inner = FakeBackend(delay_s=0.05)
    device = Slowed(inner)
    job = blank_job(inner.manifest)
    obey(io.StringIO("1.0\n4\n"), device)
    assert device.factor == 4 and device.manifest is inner.manifest
    begun_s = time.monotonic()
    (painted,) = device.generate([job])
    assert time.monotonic() - begun_s >= 4 * 0.05
    assert (painted == inner.generate([job])[0]).all()
    device.close()
    assert inner.closed


async def test_a_short_call_has_every_figure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keep_aiortc(monkeypatch)
    monkeypatch.setattr(overload, "ASK_EVERY_S", 0.05)
    voice = tmp_path / "voice.wav"
    voice.write_bytes(sound_file(voiced(4.0, 24_000), 24_000))
    device = Slowed(FakeBackend(delay_s=0.02))
    factors: list[float] = []

    def slow(factor: float) -> None:
        factors.append(factor)
        device.factor = factor

    images = [picture(240, 416, seed) for seed in range(3)]
    with Engine(device, FakeTracker) as engine, Running(engine, ladder=True) as server:
        found = await call(server.url, images, voice, 6.0, slow, factor=30.0, settle_s=1.0)
    assert factors == [1.0, 30.0, 1.0]
    figures = figures_of(*found)
    for name in overload.PARTS:
        part = figures[name]
        assert part["pictures_share"] > 0 and part["delay_p95_ms"] >= part["delay_p50_ms"] > 0
        assert set(part["rungs"]) <= set(RUNGS) and sum(part["outcomes"].values()) > 0
    assert figures["slowed"]["rungs"] != ["full"]  # 600 ms a picture
    assert set(judge(figures)) >= {"delay back within 3 s", "slowed: no hole in the sound"}
    json.dumps(figures)


@pytest.mark.parametrize("back_s", [1.0, 5.0])
def test_the_command_shows_the_thirds_beside_their_targets(
    back_s: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    figures = figures_of(*made_call(back_s), BORDERS)
    asked: list[dict[str, Any]] = []

    def run(*, seconds: float = 60, factor: float = 4.0, ladder: bool = True) -> dict[str, Any]:
        asked.append({"seconds": seconds, "factor": factor, "ladder": ladder})
        return {"factor": 4.0, "figures": figures, "met": judge(figures)}

    monkeypatch.setattr(overload, "run", run)
    file = tmp_path / "r.json"
    shown = CliRunner().invoke(app, ["bench", "overload", "--seconds", "30", "--json", str(file)])
    assert asked == [{"seconds": 30.0, "factor": 4.0, "ladder": True}]
    assert shown.exit_code == (0 if back_s < 3 else 1)
    assert "slowed: 95 % of the pictures" in shown.output and "half" in shown.output
    assert ("MISSED" in shown.output) is (back_s > 3)
    assert json.loads(file.read_text())["figures"]["slowed: rungs"]["value"] == "half"
    printed = CliRunner().invoke(app, ["bench", "overload", "--no-ladder", "--json", "-"])
    assert json.loads(printed.stdout)["details"]["factor"] == 4.0 and asked[-1]["ladder"] is False


def test_a_probe_without_pictures_has_no_delays() -> None:
    assert delay_back_s(Probe("nowhere", []), 0.1, 0, 10) is None
