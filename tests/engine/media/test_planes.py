"""Pictures in their own planes: what is not repainted is what came in."""

from __future__ import annotations

import sys
from fractions import Fraction

import av
import numpy as np
import pytest
from fakes import FakeBackend, ScriptedTracker, picture, voiced

from lipwire.engine import Engine, EngineConfig, Outcome, OutputFrame, VideoFrame
from lipwire.engine.media.colour import BT601, BT709, BT2020, Colour, rgb_to_yuv, to_yuv
from lipwire.engine.media.files import to_rgb
from lipwire.engine.media.planes import even, frame_of, paint_image, paint_planes, planes_of
from lipwire.engine.types import U8, Patch, Planes


def noise(height: int, width: int, seed: int = 0, matrix: int = BT601) -> Planes:
    """Any bytes, also those outside the limited range: decoders give such."""
    rng = np.random.default_rng(seed)
    half = (height + 1) // 2, (width + 1) // 2
    y, u, v = (rng.integers(0, 256, shape, np.uint8) for shape in ((height, width), half, half))
    return Planes(y, u, v, matrix)


def equal(one: Planes, two: Planes) -> bool:
    return all(np.array_equal(getattr(one, p), getattr(two, p)) for p in "yuv")


def test_a_frame_that_was_read_is_freed_without_the_collector() -> None:
    """A cycle through it would keep half a megabyte of each picture until a collection."""
    frame = frame_of(noise(48, 64))
    before = sys.getrefcount(frame)
    planes_of(frame)
    to_rgb(frame)
    assert sys.getrefcount(frame) == before


@pytest.mark.parametrize("shape", [(48, 64), (47, 63), (97, 131), (1, 1), (2, 1)])
def test_there_and_back_is_the_same(shape: tuple[int, int]) -> None:
    planes = noise(*shape)
    frame = frame_of(planes)
    back = planes_of(frame)
    assert back is not None and equal(back, planes)
    other = frame_of(back)
    np.frombuffer(memoryview(other.planes[0]), np.uint8)[:] = 0  # as a mark or an encoder may
    assert equal(back, planes)


def test_planes_that_came_in_cannot_be_written_to() -> None:
    planes = planes_of(frame_of(noise(4, 4)))
    assert planes is not None
    for plane in (planes.y, planes.u, planes.v):
        with pytest.raises(ValueError, match="read-only"):
            plane[0, 0] = 1


def test_what_other_formats_hold_goes_by_rgb() -> None:
    rgb = av.VideoFrame.from_ndarray(picture(48, 64), format="rgb24")
    assert planes_of(rgb) is None
    for name in ("yuvj420p", "yuv444p", "nv12", "yuv420p10le"):
        assert planes_of(rgb.reformat(format=name)) is None
    full = frame_of(noise(4, 4))
    full.color_range = 2
    assert planes_of(full) is None


@pytest.mark.parametrize("shape", [(48, 64), (47, 64), (48, 63), (47, 63)])
def test_an_odd_picture_grows_by_its_last_line(shape: tuple[int, int]) -> None:
    planes = noise(*shape)
    grown = even(planes)
    assert grown.y.shape == (48, 64) and grown.u.shape == (24, 32)
    assert np.array_equal(grown.y[: shape[0], : shape[1]], planes.y)
    assert np.array_equal(grown.y[-1, : shape[1]], planes.y[-1])
    assert np.array_equal(grown.u, planes.u) and np.array_equal(grown.v, planes.v)


@pytest.mark.parametrize("matrix", [BT601, BT709, BT2020])
def test_a_change_of_rgb_is_the_change_that_a_conversion_makes(matrix: int) -> None:
    before = np.asarray(picture(48, 64) // 2 + 40, np.uint8)
    change = np.zeros((20, 30, 3), np.float32)
    change[:] = (30, -20, 12)
    patch = Patch(10, 8, change)
    planes = planes_of(to_yuv(before, Colour(matrix)))
    assert planes is not None
    painted = paint_planes(planes, patch)
    wanted = planes_of(to_yuv(paint_image(before, patch), Colour(matrix)))
    assert wanted is not None
    for one, two in ((painted.y, wanted.y), (painted.u, wanted.u), (painted.v, wanted.v)):
        assert np.abs(one.astype(int) - two.astype(int)).max() <= 1
    assert np.allclose(rgb_to_yuv(matrix).sum(1), [219 / 255, 0, 0])  # grey has no chroma


@pytest.mark.parametrize("corner", [(0, 0), (62, 46), (20, 10)])
def test_outside_the_patch_every_bit_stays(corner: tuple[int, int]) -> None:
    planes, (x, y) = noise(47, 63), corner
    change = np.full((min(47 - y, 8), min(63 - x, 6), 3), 40, np.float32)
    change[0] = 0
    patch = Patch(x, y, change)
    out = paint_planes(planes, patch)
    x0, y0, x1, y1 = patch.box
    luma = out.y != planes.y
    assert not luma[:y0].any() and not luma[y0].any()  # where the change is 0, nothing changes
    assert not luma[y1:].any() and not luma[:, :x0].any() and not luma[:, x1:].any()
    chroma = (out.u != planes.u) | (out.v != planes.v)
    chroma[y0 // 2 : (y1 + 1) // 2, x0 // 2 : (x1 + 1) // 2] = False
    assert not chroma.any()


def test_a_painted_picture_is_rounded_as_numpy_rounds() -> None:
    rng = np.random.default_rng(5)
    image = rng.integers(0, 256, (64, 48, 3), np.uint8)
    change = rng.integers(-600, 600, (40, 30, 3)).astype(np.float32) / 2  # many lie half between
    out = paint_image(image, Patch(6, 8, change))
    wanted = image.copy()
    wanted[8:48, 6:36] = np.clip(np.rint(image[8:48, 6:36] + change), 0, 255)
    assert np.array_equal(out, wanted)


# --- through a session ---


def run(planes: Planes | None, image: U8, missing: range = range(0)) -> list[OutputFrame]:
    """Ten frames of one picture under a voice."""
    tracker = ScriptedTracker(missing)
    shown = []
    with Engine(FakeBackend(), lambda: tracker) as engine:
        session = engine.session(EngineConfig(offline=True, silence="generate"))
        session.push_speech(voiced(2.0, 48_000), 48_000, 0.0)
        for index in range(10):
            now = index / 25
            session.push_video(VideoFrame(image, index, Fraction(1, 25), planes), now)
            engine.work([session], now)
            out = session.pop_video(now)
            assert out is not None
            shown.append(out)
        engine.end(session)
    return shown


def test_a_session_paints_planes_and_passes_them_on() -> None:
    frame = to_yuv(picture(241, 321), Colour())
    planes, image = planes_of(frame), to_rgb(frame)
    assert planes is not None
    outs = run(planes, image, missing=range(4, 6))
    assert {out.outcome for out in outs} == {Outcome.GENERATED, Outcome.NO_FACE}
    for out in outs:
        assert out.planes is not None
        if out.outcome != Outcome.GENERATED:
            assert out.planes is planes and out.image is image and out.box is None
            continue
        assert out.box is not None
        x0, y0, x1, y1 = out.box
        assert x0 % 2 == y0 % 2 == 0
        changed = out.planes.y != planes.y
        assert changed[y0:y1, x0:x1].sum() > 200
        changed[y0:y1, x0:x1] = False
        assert not changed.any()
        # What viewers of the planes see is what the picture in RGB shows.
        seen = to_rgb(frame_of(out.planes)).astype(int)
        assert np.abs(seen - out.image).mean() < 1.5


def test_a_picture_without_planes_is_painted_all_the_same() -> None:
    outs = run(None, picture(240, 320))
    assert outs[-1].outcome == Outcome.GENERATED and outs[-1].planes is None
    assert outs[-1].box is not None
