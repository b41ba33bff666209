"""The filter that steadies what a tracker finds."""

from __future__ import annotations

import numpy as np
from hypothesis import example, given, settings
from hypothesis import strategies as st

from lipwire.engine.face.one_euro import OneEuro
from lipwire.engine.types import F64


def filtered(values: F64, fps: float = 25) -> F64:
    smooth = OneEuro()
    return np.array([smooth(value, index / fps) for index, value in enumerate(values)])


def test_a_still_face_stops_shaking() -> None:
    noise = np.random.default_rng(0).normal(0, 0.5, (200, 4))
    steady = filtered(300 + noise)
    assert steady[50:].std() < 0.55 * noise.std()
    assert np.diff(steady[50:], axis=0).std() < 0.35 * np.diff(noise, axis=0).std()
    assert np.abs(steady[50:].mean(0) - 300).max() < 0.2


def test_a_turn_is_followed() -> None:
    step = np.concatenate([np.zeros(20), np.full(30, 100.0)])[:, None]
    after = filtered(step)[20:, 0]
    assert after[4] > 90  # 0.2 s later it is there
    assert np.all(after <= 100.0 + 1e-9)  # and it does not swing past
    pan = np.arange(100.0)[:, None] * 8  # 200 pixels a second
    lag = pan[50:, 0] - filtered(pan)[50:, 0]
    assert 0 <= lag.max() < 16  # two frames


def test_the_first_value_and_the_first_after_a_reset_pass_unchanged() -> None:
    smooth = OneEuro()
    assert smooth(np.array([5.0]), 0.0) == 5.0
    assert smooth(np.array([9.0]), 0.04) != 9.0
    smooth.reset()
    assert smooth(np.array([9.0]), 0.08) == 9.0
    assert smooth(np.array([1.0]), 0.08) == 1.0  # no time has passed
    assert smooth(np.array([2.0]), 0.01) == 2.0  # it ran backwards


def test_what_is_given_is_not_changed() -> None:
    smooth = OneEuro()
    first = np.array([1.0, 2.0])
    out = smooth(first, 0.0)
    out += 100
    smooth(np.array([3.0, 4.0]), 0.04)
    assert first.tolist() == [1.0, 2.0]
    assert np.all(smooth(np.array([3.0, 4.0]), 0.08) < 5)


@settings(max_examples=100, deadline=None)
@given(
    values=st.lists(st.floats(-1e4, 1e4), min_size=2, max_size=30),
    steps=st.lists(st.floats(-0.1, 1.0), min_size=30, max_size=30),
)
@example(values=[0.0, 1e4, 0.0], steps=[0.0, 2.3e-311, 1e-12])  # a clock that stumbles
def test_it_never_leaves_the_range_of_what_it_saw(values: list[float], steps: list[float]) -> None:
    smooth = OneEuro()
    now = 0.0
    for value, step in zip(values, steps, strict=False):
        now += step
        out = smooth(np.array([value]), now)[0]
        assert min(values) - 1e-6 <= out <= max(values) + 1e-6


def test_a_face_twice_as_near_is_smoothed_the_same() -> None:
    rng = np.random.default_rng(1)
    path = np.cumsum(rng.normal(0, 1, (60, 2)), axis=0)
    far, near = OneEuro(), OneEuro()
    for index, value in enumerate(path):
        once = far(value, index / 25, 0.5)
        twice = near(2 * value, index / 25, 0.25)
        assert np.allclose(2 * once, twice)


def test_a_steady_pan_lags_less_than_half_a_frame() -> None:
    pan = np.arange(100.0)[:, None] * 2  # 50 pixels of the crop a second
    lag_frames = (pan[50:, 0] - filtered(pan)[50:, 0]) / 2
    assert lag_frames.max() < 0.5
