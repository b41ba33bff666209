from __future__ import annotations

import cv2
import numpy as np
import pytest
from clips import portrait

from lipwire.training.data.augment_picture import (
    Jitter,
    Light,
    camera_noise,
    covered,
    defocus,
    degrade,
    h264,
    jittered,
    jittered_landmarks,
    jpeg,
    lit,
    low_resolution,
    motion_blur,
    occlusion,
)


def _rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


@pytest.fixture(scope="module")
def frames() -> np.ndarray:
    return np.stack([portrait(o, 128) for o in np.linspace(0, 1, 5)])


def _sharpness(frames: np.ndarray) -> float:
    return float(np.mean([cv2.Laplacian(f, cv2.CV_32F).std() for f in frames]))


def _difference(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.abs(a.astype(np.float32) - b).mean())


def test_noise_grows_with_light_and_is_new_in_every_frame() -> None:
    flat = (
        np.zeros((2, 128, 128, 3), np.uint8) + np.array([[20], [200]], np.uint8)[:, :, None, None]
    )
    noisy = camera_noise(np.repeat(flat, 2, axis=0), _rng(), shot=10, read=1).astype(np.float32)
    dark, bright = noisy[:2].std(), noisy[2:].std()
    assert dark == pytest.approx(np.sqrt(1 + 100 * 20 / 255), rel=0.1)
    assert bright == pytest.approx(np.sqrt(1 + 100 * 200 / 255), rel=0.1)
    assert noisy[2].mean() == pytest.approx(200, abs=0.3)
    assert abs(np.corrcoef(noisy[2].ravel(), noisy[3].ravel())[0, 1]) < 0.02


def test_compression_loses_more_the_stronger_it_is(frames: np.ndarray) -> None:
    for effect, mild, harsh in ((jpeg, 90, 15), (h264, 18, 42)):
        losses = [_difference(effect(frames, value), frames) for value in (mild, harsh)]
        assert 0 < losses[0] < losses[1] < 25
        assert effect(frames, mild).shape == frames.shape


def test_colours_survive_compression(frames: np.ndarray) -> None:
    for out in (jpeg(frames, 90), h264(frames, 18)):
        assert np.abs(out.mean((0, 1, 2)) - frames.mean((0, 1, 2))).max() < 3


def test_blurs_and_low_resolution_soften(frames: np.ndarray) -> None:
    sharp = _sharpness(frames)
    for out in (defocus(frames, 1.5), motion_blur(frames, 6, 30), low_resolution(frames, 0.4)):
        assert out.shape == frames.shape and out.dtype == np.uint8
        assert _sharpness(out) < 0.7 * sharp
        assert abs(out.mean() - frames.mean()) < 2


def test_motion_blur_smears_along_its_line_alone() -> None:
    dot = np.zeros((1, 64, 64, 3), np.uint8)
    dot[0, 32, 32] = 255
    out = motion_blur(dot, 8, 0)[0, ..., 0]
    columns, rows = np.flatnonzero(out.max(0) > 8), np.flatnonzero(out.max(1) > 8)
    assert 7 <= len(columns) <= 11 and len(rows) <= 3


def test_light_brightens_tints_slopes_and_darkens_corners() -> None:
    grey = np.full((1, 128, 128, 3), 100, np.uint8)
    assert lit(grey, Light()).tolist() == grey.tolist()
    assert lit(grey, Light(gain=1.5)).mean() == pytest.approx(150, abs=0.5)
    assert lit(grey, Light(gamma=0.7)).mean() > 120
    tinted = lit(grey, Light(tint=(1.1, 1.0, 0.9))).mean((0, 1, 2))
    assert tinted == pytest.approx([110, 100, 90], abs=0.5)
    sloped = lit(grey, Light(slope=(0.3, 0)))[0, 64, :, 0]
    assert sloped[0] == pytest.approx(70, abs=1) and sloped[-1] == pytest.approx(130, abs=1)
    red = np.zeros((1, 128, 128, 3), np.uint8) + np.array([200, 50, 50], np.uint8)
    assert lit(red, Light(colour=0.5))[0, 0, 0].tolist() == [150, 75, 75]
    dark = lit(grey, Light(vignette=0.4))[0, ..., 0]
    assert dark[0, 0] == pytest.approx(60, abs=1) and dark[64, 64] == 100


def test_occlusions_lie_before_the_lower_face() -> None:
    for seed in range(20):
        picture, cover = occlusion(128, _rng(seed), 5)
        assert picture.shape == (5, 128, 128, 3) and cover.shape == (5, 128, 128)
        assert cover.min() >= 0 and 0.99 <= cover.max() <= 1
        assert 0.01 < cover[:, 64:].mean() < 0.8 and cover[:, :40].mean() < 0.05
        face = np.full((5, 128, 128, 3), 130, np.uint8)
        out = covered(face, picture, cover)
        assert (out[cover == 0] == 130).all() and np.array_equal(
            out[cover == 1], picture[cover == 1]
        )


def test_landmarks_move_with_their_pixels() -> None:
    spot = np.zeros((1, 128, 128, 3), np.uint8)
    cv2.circle(spot[0], (80, 50), 3, (255, 255, 255), -1)
    jitter = Jitter(3, -2, 5, 1.04, lean=0.1, squeeze=1.1)
    moved = jittered(spot, [jitter])[0, ..., 0].astype(np.float64)
    y, x = np.mgrid[0:128, 0:128]
    found = [(moved * axis).sum() / moved.sum() for axis in (x, y)]
    points = jittered_landmarks(np.array([[[80, 50]]], np.float32), [jitter])
    assert points[0, 0] == pytest.approx(found, abs=0.1)
    assert jittered(spot, [Jitter()]).tolist() == spot.tolist()


def test_a_degraded_sample_follows_its_seed_and_keeps_its_shape(frames: np.ndarray) -> None:
    landmarks = np.full((5, 468, 2), 64, np.float32)
    unchanged = held = moved = 0
    for seed in range(60):
        out, again = (degrade(frames, frames[:2], landmarks, _rng(seed)) for _ in range(2))
        assert np.array_equal(out.frames, again.frames) and np.array_equal(out.weight, again.weight)
        assert out.frames.shape == frames.shape and out.frames.dtype == np.uint8
        assert out.references.shape == (2, 128, 128, 3)
        assert out.landmarks.shape == landmarks.shape and out.weight.shape == (5, 128, 128)
        assert out.weight.min() >= 0 and out.weight.max() == 1
        unchanged += np.array_equal(out.frames, frames)
        held += out.weight.min() < 1
        moved += not np.array_equal(out.landmarks, landmarks)
    assert 12 <= unchanged <= 30 and held >= 1 and moved >= 10


def test_frames_and_references_share_the_camera() -> None:
    face = np.stack([portrait(0.5, 128)] * 5)
    landmarks = np.full((5, 468, 2), 64, np.float32)
    for seed in range(30):
        out = degrade(face, face[:1], landmarks, _rng(seed))
        if out.weight.min() == 1:
            assert abs(out.frames.mean() - out.references.mean()) < 6
