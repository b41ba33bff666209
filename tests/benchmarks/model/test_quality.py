"""The bench of the picture at tiny size: it runs, and its measures tell good from bad."""

from __future__ import annotations

from contextlib import closing
from functools import cache
from pathlib import Path

import cv2
import numpy as np
import pytest
from fakes import FakeBackend, FakeTracker, picture

from lipwire.benchmarks.model import quality, strips
from lipwire.benchmarks.rig import fixture
from lipwire.engine import EngineConfig, Outcome
from lipwire.engine.errors import ConfigError
from lipwire.engine.face.tracker import MeshTracker
from lipwire.engine.types import F32, U8, Patch

pytest.importorskip("skimage")


def take(**how: object) -> fixture.Take:
    images = [picture(240, 320, seed) for seed in range(30)]
    return fixture.play(
        FakeBackend(),
        FakeTracker,
        images,
        fixture.voice(2.0),
        EngineConfig(silence="generate"),
        **how,
    )  # type: ignore[arg-type]


def test_every_picture_comes_out_once_and_those_that_are_painted_are_seen() -> None:
    found = take()
    assert [out.index for out in found.shown] == list(range(30))
    assert len(found.painted) == sum(out.outcome is Outcome.GENERATED for out in found.shown) == 30
    assert all((out.image != image).any() for image, out in found.pairs())


def test_an_interruption_comes_at_its_time() -> None:
    images = [picture(240, 320)] * 40
    speech = fixture.voice(2.0)
    found = fixture.play(
        FakeBackend(), FakeTracker, images, speech, EngineConfig(), interrupt_s=0.9
    )
    changed = [out.playout_s for image, out in found.pairs() if (out.image != image).any()]
    assert 0.7 < max(changed) <= 1.0
    whole = fixture.play(FakeBackend(), FakeTracker, images, speech, EngineConfig())
    assert max(out.playout_s for image, out in whole.pairs() if (out.image != image).any()) > 1.2


def test_a_mouth_that_is_badly_put_in_is_told_from_a_good_one() -> None:
    good = take().painted[10:13]
    worse = []
    for mouth in good:
        change = mouth.patch.change.copy()
        change[4:-4, 4:-4] += 80  # a box with another colour
        worse.append(
            fixture.Painted(
                mouth.aligned, mouth.generated, Patch(mouth.patch.x, mouth.patch.y, change)
            )
        )
    fine, bad = quality.alike(good), quality.alike(worse)
    assert fine["changed_outside_mask"] == 0 < bad["changed_outside_mask"]
    assert fine["colour_off_levels"] + 10 < bad["colour_off_levels"]


def test_all_figures_of_a_short_run_have_targets(monkeypatch: pytest.MonkeyPatch) -> None:
    parts: list[str] = []
    monkeypatch.setattr(quality, "MOMENTS", ((25, (0.913,)),))
    followed = dict.fromkeys(  # measured in test_tracking.py
        ("crop_lag_frames_worst", "frames_to_pass_through", "frames_to_return", "frames_lost"), 0.0
    )
    monkeypatch.setattr(quality.tracking, "run", lambda seconds: followed)
    result = quality.run(seconds=0.7, progress=parts.append)
    assert len(parts) == len(quality.PARTS)
    assert set(result["figures"]) == set(quality.TARGETS) == set(result["met"])
    assert all(np.isfinite(value) for value in result["figures"].values())
    assert result["figures"]["changed_outside_mask"] == 0
    assert result["met"]["interrupted_mouth_ms"]


def test_a_folder_without_a_manifest_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is no corpus"):
        quality.people(tmp_path)


def test_a_strip_shows_both_and_says_what_became_of_each(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(strips, "FRAMES", 24)
    (path,) = strips.run(tmp_path, only=["glasses"])
    image = cv2.imread(str(path))
    assert path.name == "glasses.jpg" and image is not None
    assert image.shape[1] == strips.COLUMNS * (strips.TILE_PX + 2)
    high = (image.shape[0] - 20) // 2
    above, below = image[:high].astype(int), image[high : 2 * high].astype(int)
    assert (
        np.abs(above - below)[: high // 3].mean() < 4
    )  # but for the JPEG, hair and eyes are the same
    with pytest.raises(ConfigError, match="is no case"):
        strips.run(tmp_path, only=["tail"])


@cache
def seen() -> tuple[U8, F32]:
    """The portrait and her landmarks."""
    image = fixture.portrait(1)[0]
    with closing(MeshTracker(still=True)) as tracker:
        face = tracker.track(image)
    assert face is not None
    return image, face.landmarks


@pytest.mark.parametrize("name", strips.CASES)
def test_what_is_drawn_changes_a_picture_and_is_the_same_each_time(name: str) -> None:
    _, draw = strips.CASES[name]
    image, points = seen()
    one, two = (draw(image, points, strips.FRAMES // 2) for _ in range(2))
    assert one.dtype == np.uint8 and one.shape == image.shape
    assert np.array_equal(one, two)
    assert (draw is strips.plain) == np.array_equal(one, image)
