"""A dark face is lifted for the model and its mouth put back; other pictures are left alone."""

from __future__ import annotations

import numpy as np
import pytest
import skimage.data
from fakes import FakeTracker, picture

from lipwire.engine.config import EngineConfig
from lipwire.engine.face.exposure import DIM, LIT, MOST_GAIN, SIDES, VISIBLE, gain_of, lit, times
from lipwire.engine.session.aligned import Aligned, composite
from lipwire.engine.session.face_pipeline import FacePipeline
from lipwire.engine.types import U8, JobSpec

PORTRAIT: U8 = np.ascontiguousarray(skimage.data.astronaut()[70:198, 160:288])  # type: ignore[no-untyped-call]


def level(crop: U8) -> float:
    return float(crop[VISIBLE, SIDES].mean())


def lamp(share: float) -> U8:
    return np.asarray(np.rint(PORTRAIT * (share * LIT / level(PORTRAIT))), np.uint8)


@pytest.mark.parametrize("share", [0.7, 1.0, 1.3])
def test_ordinary_pictures_are_the_very_same(share: float) -> None:
    crop = lamp(share)
    assert level(crop) > DIM[1]
    assert gain_of(crop) == 1.0
    assert lit(crop) is crop


@pytest.mark.parametrize("share", [0.2, 0.3, 0.4])
def test_dark_faces_get_the_light_that_is_missing(share: float) -> None:
    assert level(lit(lamp(share))) == pytest.approx(LIT, rel=0.05)


def test_the_gain_has_no_steps_and_a_limit() -> None:
    gains = [gain_of(lamp(share)) for share in np.arange(0.9, 0.02, -0.01)]
    assert gains[0] == 1.0
    assert max(gains) == gains[-1] == MOST_GAIN
    assert all(0.9 < after / before < 1.2 for before, after in zip(gains, gains[1:], strict=False))
    assert gain_of(np.zeros((128, 128, 3), np.uint8)) == MOST_GAIN  # and of a black picture


def test_what_is_bright_in_a_dark_face_keeps_its_colour() -> None:
    crop = lamp(0.3)
    crop[90:112, 20:60] = (240, 200, 160)  # a screen lights the chin
    assert gain_of(crop) < 1.1
    assert np.abs(times(lit(crop), 1 / gain_of(crop)).astype(int) - crop).max() <= 1


@pytest.mark.parametrize("size", [96, 256])
def test_any_size(size: int) -> None:
    crop = (
        np.repeat(np.repeat(lamp(0.25), 2, 0), 2, 1) if size == 256 else lamp(0.25)[16:112, 16:112]
    )
    assert level(lit(lamp(0.25))) > 3 * level(lamp(0.25))
    assert gain_of(np.ascontiguousarray(crop)) > 2


def test_a_mouth_goes_back_into_the_dark() -> None:
    dark = np.asarray(picture(240, 320) // 5, np.uint8)
    found = FacePipeline(FakeTracker(), EngineConfig(), JobSpec(references=2)).find(dark, 0.0)
    assert isinstance(found, Aligned)
    assert found.gain > 3
    assert level(found.crop) > 3 * dark.mean()
    assert np.array_equal(found.references, np.stack([found.crop] * 2))
    # What the model gives back unchanged changes nothing; teeth in its light are teeth in the dark.
    assert np.abs(composite(found, found.crop, 1.0).change).max(initial=0) < 3
    teeth = found.crop.copy()
    teeth[80:96, 48:80] = 240
    added = composite(found, teeth, 1.0).change
    assert 20 < added.max() < 240 / found.gain
