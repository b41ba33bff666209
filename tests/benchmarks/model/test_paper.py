"""The paper's headline: what was measured, and what was extrapolated, is said."""

from __future__ import annotations

from typing import Any

import pytest

pytest.importorskip("torch")
pytest.importorskip("onnx")

from lipwire.benchmarks.model.paper import FRAMES, PUBLISHED_FPS, STEPS, run  # noqa: E402
from lipwire.benchmarks.rig import subjects  # noqa: E402


def test_few_frames_are_extrapolated_and_say_so(monkeypatch: pytest.MonkeyPatch) -> None:
    small: Any = subjects.paper_network(subjects.SMALL)
    monkeypatch.setattr(subjects, "network", lambda name: small)
    found = run(frames=3, steps=2, batch=2)
    figures = found["figures"]
    (name,) = [name for name in figures if "extrapolated from 3 frames at 2 steps" in name]
    took_s = sum(k * ms for k, ms in zip((2, 2), found["samples"]["frame_ms"], strict=True)) / 1e3
    assert figures[name]["value"] >= took_s / 3 * FRAMES * STEPS / 2
    assert figures["frames_per_s"]["value"] == pytest.approx(FRAMES / figures[name]["value"])
    assert PUBLISHED_FPS == pytest.approx(5.35, abs=0.01) and found["input"]["extrapolated"]


def test_several_devices_share_the_frames(monkeypatch: pytest.MonkeyPatch) -> None:
    small: Any = subjects.paper_network(subjects.SMALL)
    monkeypatch.setattr(subjects, "network", lambda name: small)
    said: list[str] = []
    found = run(frames=5, steps=1, device="cpu,cpu", progress=said.append)
    figures = found["figures"]
    assert len(found["samples"]["frame_ms"]) == 5 and said[-1].startswith("5 of 5 frames")
    assert figures["of_the_published_device_ratio"]["value"] == pytest.approx(
        figures["frames_per_s"]["value"] / 2 / PUBLISHED_FPS
    )
