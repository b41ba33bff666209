"""The visible mark: there, readable, and nowhere else."""

from __future__ import annotations

import av
import numpy as np
import pytest

from lipwire.engine import ConfigError
from lipwire.engine.types import U8
from lipwire.server.config import Place, ServerConfig
from lipwire.server.media.watermark import Watermark, make_mark


def luma(frame: av.VideoFrame) -> U8:
    """A copy of the brightness plane; PyAV's own conversion wants even sides."""
    plane = frame.planes[0]
    rows = np.frombuffer(memoryview(plane), np.uint8).reshape(-1, plane.line_size)
    return rows[: frame.height, : frame.width].copy()


def marked(mark: Watermark, height: int, width: int, level: int) -> tuple[U8, U8]:
    """A grey picture before and after, luma only."""
    flat = np.full((height, width, 3), level, np.uint8)
    frame = av.VideoFrame.from_ndarray(flat, format="rgb24").reformat(format="yuv420p")
    before = luma(frame)
    mark.draw(frame)
    return before, luma(frame)


@pytest.mark.parametrize("place", ["top-left", "top-right", "bottom-left", "bottom-right"])
@pytest.mark.parametrize("level", [0, 128, 255])
def test_it_stands_in_its_corner_and_can_be_read(place: Place, level: int) -> None:
    before, after = marked(Watermark(place=place), 480, 640, level)
    rows, columns = np.nonzero(before != after)
    assert (rows < 240).all() == place.startswith("top")
    assert (columns < 320).all() == place.endswith("left")
    assert len(rows) < 0.02 * before.size  # and leaves the picture alone
    under = after[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
    assert under.max() > 225  # white letters
    assert np.median(under) < 110  # on a dark plate, whatever was there


@pytest.mark.parametrize("size", [(2, 2), (16, 16), (97, 131), (48, 64), (1080, 1920), (90, 1280)])
def test_any_size_will_do(size: tuple[int, int]) -> None:
    for place in ("top-right", "bottom-left"):
        before, after = marked(Watermark(place=place), *size, 128)
        assert before.shape == after.shape and (before != after).any()


def test_it_grows_with_the_picture_and_shortens_where_it_must() -> None:
    def width(mark: Watermark, height: int, picture_width: int) -> int:
        before, after = marked(mark, height, picture_width, 128)
        columns = np.nonzero((before != after).any(0))[0]
        return int(columns.max() - columns.min())

    small, large = width(Watermark(), 480, 640), width(Watermark(), 1080, 1920)
    assert large > 1.5 * small > 0
    assert width(Watermark("a text of which there is far too much for it"), 240, 320) < 60
    assert width(Watermark("Künstlich erzeugt"), 480, 640) > small


def test_only_the_picture_under_it_changes_and_twice_is_the_same() -> None:
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (480, 640, 3), np.uint8)
    frames = [
        av.VideoFrame.from_ndarray(noise, format="rgb24").reformat(format="yuv420p")
        for _ in range(2)
    ]
    clean, mark = frames[0].to_ndarray().copy(), Watermark()
    for frame in frames:
        mark.draw(frame)
    one, two = (frame.to_ndarray() for frame in frames)
    assert (one == two).all()
    assert (one[:480, :320] == clean[:480, :320]).all() and (one[60:480] == clean[60:480]).all()


def test_other_pixel_formats_are_refused() -> None:
    with pytest.raises(ConfigError, match="yuv420p, not on rgb24"):
        Watermark().draw(av.VideoFrame(64, 64, "rgb24"))


def test_only_an_explicit_setting_turns_it_off() -> None:
    made = make_mark(ServerConfig(mark_text="KI", mark_place="bottom-left"))
    assert made is not None and (made.text, made.place) == ("KI", "bottom-left")
    assert make_mark(ServerConfig()) is not None
    assert make_mark(ServerConfig(mark=False)) is None
