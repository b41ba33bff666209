"""A cut is another scene; light, noise, a hand and a pan are not."""

from __future__ import annotations

import numpy as np
import pytest
import skimage.data
from fakes import picture

from lipwire.engine.face.scene_cut import SceneCutDetector, correlation, thumbnail
from lipwire.engine.types import U8

PORTRAIT: U8 = skimage.data.astronaut()  # type: ignore[no-untyped-call]
CAT: U8 = np.ascontiguousarray(skimage.data.chelsea()[:, :400])  # type: ignore[no-untyped-call]


def cut(before: U8, after: U8) -> bool:
    cuts = SceneCutDetector()
    assert not cuts.update(before)  # the first picture is none
    assert not cuts.update(before.copy())
    return cuts.update(after)


@pytest.mark.parametrize(("a", "b"), [(PORTRAIT, CAT), (picture(), picture(scene=1))])
def test_another_scene_is_a_cut_both_ways(a: U8, b: U8) -> None:
    assert cut(a, b)
    assert cut(b, a)


def test_pictures_of_any_size_can_be_compared() -> None:
    assert cut(PORTRAIT, CAT[:90, :160])
    assert not cut(PORTRAIT, np.ascontiguousarray(PORTRAIT[::2, ::2]))
    assert thumbnail(np.zeros((2, 3, 3), np.uint8)).shape == (18, 24, 3)
    large = np.zeros((2160, 3840, 3), np.uint8)
    assert not cut(large, large)


@pytest.mark.parametrize("gain", [0.5, 1.4])
def test_light_that_comes_or_goes_is_no_cut(gain: float) -> None:
    assert not cut(PORTRAIT, np.asarray(np.clip(PORTRAIT * gain, 0, 255), np.uint8))
    assert not cut(PORTRAIT, np.asarray(np.clip(PORTRAIT + 80.0, 0, 255), np.uint8))


def test_noise_in_the_dark_is_no_cut() -> None:
    rng = np.random.default_rng(0)
    dark = [rng.integers(0, 12, (240, 320, 3), np.uint8) for _ in range(2)]
    assert not cut(*dark)


def test_a_hand_and_a_pan_are_no_cuts() -> None:
    hand = PORTRAIT.copy()
    hand[200:, :220] = (190, 140, 120)
    assert not cut(PORTRAIT, hand)
    assert not cut(PORTRAIT, np.ascontiguousarray(np.roll(PORTRAIT, 15, axis=1)))


def test_what_says_half_a_cut() -> None:
    cuts = SceneCutDetector()
    half = PORTRAIT.copy()
    half[:, 256:] = CAT[:1, :1] + np.zeros((512, 256, 3), np.uint8)
    cuts.update(PORTRAIT)
    assert not cuts.jumped and not cuts.unlike
    cuts.update(PORTRAIT)
    assert not cuts.jumped and not cuts.unlike
    cuts.update(half)
    assert cuts.unlike


def test_correlation_of_flat_pictures_is_one() -> None:
    flat = thumbnail(np.full((40, 60, 3), 9, np.uint8))
    assert correlation(flat, flat) == 1
    assert correlation(flat, thumbnail(PORTRAIT)) == 1  # nothing is known against it
