"""Rates, key frames and repeats on a clock that the test moves."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pytest

from lipwire.server.rtc import rate_control
from lipwire.server.rtc.rate_control import (
    USUAL_FPS,
    KeyThrottle,
    PictureRate,
    RateController,
    RetransmissionBudget,
)


def rate_controller(start: int = 900_000) -> RateController:
    return RateController(start, 200_000, 2_500_000)


def test_an_estimate_that_flaps_costs_one_key_frame() -> None:
    made = rate_controller()
    rates = [700_000 if index // 5 % 2 else 900_000 for index in range(60)]
    changes = sum(made.estimate(rate, index * 0.04) for index, rate in enumerate(rates))
    assert changes == 1 and made.rate == 700_000


def test_noise_is_ignored() -> None:
    made = rate_controller()
    for index in range(200):
        assert not made.estimate(900_000 + 80_000 * (-1) ** index, index * 0.1)


def test_a_drop_is_followed_at_once_and_a_rise_when_it_lasts() -> None:
    made = rate_controller()
    assert made.estimate(400_000, 0.0) and made.rate == 400_000
    for index in range(1, 30):
        assert not made.estimate(1_200_000, index * 0.1)
    assert any(made.estimate(1_200_000, 3.0 + index * 0.1) for index in range(5))
    assert made.rate == 1_200_000


def test_rebuilds_are_apart_unless_the_path_breaks_down() -> None:
    made = rate_controller(2_000_000)
    assert made.estimate(1_600_000, 0.0)
    assert not made.estimate(1_200_000, 0.3)
    assert made.estimate(500_000, 0.4) and made.rate == 500_000


def test_rates_stay_within_their_bounds() -> None:
    made = rate_controller()
    made.estimate(1, 0.0)
    assert made.rate == 200_000
    for index in range(40):
        made.estimate(10**12, 1.0 + index * 0.2)
    assert made.rate == 2_500_000


def test_a_storm_of_requests_is_answered_now_and_then() -> None:
    keys = KeyThrottle()
    sent = 0
    for frame in range(100):  # four seconds, a request with every picture
        keys.ask()
        sent += keys.take(frame * 0.04)
    assert 4.0 / rate_control.KEY_REST_S * 0.7 <= sent <= 4.0 / rate_control.KEY_REST_S + 1
    assert keys.asked == 100


def test_a_request_is_kept_until_it_may_be_answered() -> None:
    keys = KeyThrottle()
    keys.record(0.0)
    keys.ask()
    assert not keys.take(0.04) and keys.take(rate_control.KEY_REST_S) and not keys.take(10.0)


def test_repeats_are_no_amplifier() -> None:
    budget = RetransmissionBudget()
    assert budget.take(7, 0.0) and not budget.take(7, 0.001)  # listed twice in one request
    assert budget.take(7, 0.02)
    given = sum(budget.take(number, 0.02) for number in range(1000, 8000))
    assert given <= rate_control.REPEATS_BURST
    for second in range(1, 50):
        given = sum(budget.take(number, float(second)) for number in range(5000))
        assert given <= rate_control.REPEATS_PER_S
    assert len(budget._last) <= 4 * rate_control.REPEATS_BURST


def changes(rate: PictureRate, gaps_s: Iterable[float], start_s: float = 0.0) -> int:
    return sum(rate.record(float(at_s)) for at_s in start_s + np.cumsum([0.0, *gaps_s]))


@pytest.mark.parametrize("fps", [10, 15, 20, 50, 60])
def test_a_picture_rate_that_is_far_off_is_noticed_once_and_soon(fps: int) -> None:
    rate = PictureRate()
    assert changes(rate, [1 / fps] * round(1.2 * fps)) == 1
    assert rate.fps == pytest.approx(fps, rel=0.02)
    assert changes(rate, [1 / fps] * 20 * fps, 2.0) == 0


@pytest.mark.parametrize("fps", [24, 25, 29.97, 30])
def test_usual_picture_rates_cost_no_key_frame(fps: float) -> None:
    rate = PictureRate()
    assert changes(rate, [1 / fps] * 600) == 0 and rate.fps == USUAL_FPS


def test_a_camera_that_wavers_stalls_or_stops_costs_few_key_frames() -> None:
    rate = PictureRate()
    wavering = np.random.default_rng(0).uniform(1 / 30, 1 / 15, 1200)
    assert changes(rate, wavering) <= 1
    assert changes(rate, [0.04, 0.04, 3.0] * 100, 1000.0) == 0
    # In the dark a camera halves its rate again and again.
    assert changes(rate, ([1 / 30] * 60 + [1 / 15] * 30) * 15, 2000.0) <= 12
