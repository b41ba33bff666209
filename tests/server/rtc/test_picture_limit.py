"""How large pictures may be follows from what a pixel costs here."""

from __future__ import annotations

import pytest

from lipwire.server.api import app
from lipwire.server.config import ServerConfig
from lipwire.server.rtc import picture_limit
from lipwire.server.rtc.picture_limit import RATE_HZ, SHARE, SIZES, largest, pixel_cost_s


def cost_s(width: int, height: int, cores: int) -> float:
    """Of a pixel, where this size takes just what it may."""
    return SHARE * cores / RATE_HZ / (width * height)


@pytest.mark.parametrize("cores", [1, 2, 16])
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_the_largest_that_fits_is_taken(size: tuple[int, int], cores: int) -> None:
    exactly_s = cost_s(*size, cores)
    assert largest(exactly_s * 0.999, cores) == size
    below = SIZES[max(SIZES.index(size) - 1, 0)]
    assert largest(exactly_s * 1.001, cores) == below  # and never less than the smallest


@pytest.mark.parametrize("codec", ["vp8", "h264"])
def test_a_pixel_costs_something(codec: str, caplog: pytest.LogCaptureFixture) -> None:
    assert 0 < pixel_cost_s(codec) < 1e-4
    assert not caplog.records  # no picture was refused


def test_what_an_operator_says_is_not_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr(picture_limit, "measured", lambda codec: asked.append(codec) or (960, 540))
    settings = app._with_measured_pictures(ServerConfig(max_pixels=777))
    assert settings.picture_pixels == 777 and not asked
    settings = app._with_measured_pictures(ServerConfig(video_codec="h264", max_sessions=7))
    assert settings.picture_pixels == 960 * 540 and asked == ["h264"]
    assert settings.max_sessions == 7
