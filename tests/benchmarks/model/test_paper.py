"""The paper's headline: what was measured, and what was extrapolated, is said."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")
pytest.importorskip("onnx")

from lipwire.benchmarks.model.paper import FRAMES, PUBLISHED_FPS, STEPS, run  # noqa: E402
from lipwire.benchmarks.rig import subjects  # noqa: E402


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small one of the paper's networks."""
    small: Any = subjects.paper_network(subjects.SMALL)
    return subjects.paper_bundle(small, tmp_path_factory.mktemp("bench") / "small")


@pytest.fixture(autouse=True)
def small(exported: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Measured in place of the paper's."""
    monkeypatch.setattr(subjects, "network", lambda name: None)
    monkeypatch.setattr(subjects, "paper_bundle", lambda net, folder: exported)


def test_few_frames_are_extrapolated_and_say_so() -> None:
    found = run(frames=3, steps=2, batch=2)
    figures = found["figures"]
    (name,) = [name for name in figures if "extrapolated from 3 frames at 2 steps" in name]
    took_s = sum(k * ms for k, ms in zip((2, 2), found["samples"]["frame_ms"], strict=True)) / 1e3
    assert figures[name]["value"] >= took_s / 3 * FRAMES * STEPS / 2
    assert figures["frames_per_s"]["value"] == pytest.approx(FRAMES / figures[name]["value"])
    assert PUBLISHED_FPS == pytest.approx(5.35, abs=0.01) and found["input"]["extrapolated"]


def test_several_devices_share_the_frames() -> None:
    said: list[str] = []
    found = run(frames=5, steps=1, device="cpu,cpu", progress=said.append)
    figures = found["figures"]
    assert len(found["samples"]["frame_ms"]) == 5 and said[-1].startswith("5 of 5 frames")
    assert figures["of_the_published_device_ratio"]["value"] == pytest.approx(
        figures["frames_per_s"]["value"] / 2 / PUBLISHED_FPS
    )
