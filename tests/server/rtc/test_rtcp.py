"""RTP time and wall clock."""

from __future__ import annotations

import time

import pytest
from aiortc import clock

from lipwire.server.rtc.rtcp import ClockMap, ntp_seconds, rtp_at, to_ntp


def test_ntp_time_is_the_wall_clock() -> None:
    ours, theirs = to_ntp(time.monotonic()), clock.current_ntp_time()
    assert ntp_seconds(ours) == pytest.approx(ntp_seconds(theirs), abs=1.0)
    assert ntp_seconds(to_ntp(7.5)) - ntp_seconds(to_ntp(7.0)) == pytest.approx(0.5, abs=1e-5)


def test_two_tracks_of_one_session_map_to_one_clock() -> None:
    sound, picture = ClockMap(48_000), ClockMap(90_000)
    # Reported at different times, from random origins, one of them about to wrap.
    sound.learn(to_ntp(100.0), rtp_at(4_294_967_290, 20.0, 48_000))
    picture.learn(to_ntp(100.8), rtp_at(12_345, 20.8, 90_000))
    a = sound.seconds(rtp_at(4_294_967_290, 21.0, 48_000))
    b = picture.seconds(rtp_at(12_345, 21.0, 90_000))
    assert a is not None and b is not None and abs(a - b) < 2e-5
    assert a == pytest.approx(ntp_seconds(to_ntp(101.0)), abs=1e-4)


def test_times_before_the_report_are_mapped_too() -> None:
    made = ClockMap(90_000)
    made.learn(to_ntp(100.0), 10)
    earlier = made.seconds((10 - 90_000) & 0xFFFF_FFFF)
    assert earlier == pytest.approx(ntp_seconds(to_ntp(99.0)), abs=1e-4)


def test_without_a_report_nothing_is_known() -> None:
    made = ClockMap(90_000)
    assert made.seconds(5) is None
    made.learn(0, 5)  # what aiortc reports before it has sent anything
    assert made.seconds(5) is None
