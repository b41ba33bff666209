"""Pictures are shown as soon as the machine keeps up, and no later than the slack allows."""

from __future__ import annotations

import numpy as np
import pytest
from sessions import frame, make, paint

from lipwire.engine.config import EngineConfig
from lipwire.engine.session.playout_delay import PlayoutDelay


def settled(took_s: float, spread_s: float, frames: int = 4000) -> float:
    rng, delay = np.random.default_rng(0), PlayoutDelay(0.048, 0.060)
    for each in rng.normal(took_s, spread_s, frames):
        delay.record(float(each))
    return delay.now_s


def test_it_follows_the_95th_percentile_within_bounds() -> None:
    assert settled(0.025, 0.002) == pytest.approx(0.048)
    assert settled(0.120, 0.002) == pytest.approx(0.060)
    assert settled(0.050, 0.002) == pytest.approx(0.050 + 1.645 * 0.002, abs=0.003)


def test_it_rises_within_a_quarter_of_a_second_and_falls_within_three() -> None:
    delay = PlayoutDelay(0.048, 0.060)
    for _ in range(6):
        delay.record(0.1)
    assert delay.now_s == pytest.approx(0.060)
    for _ in range(75):
        delay.record(0.02)
    assert delay.now_s == pytest.approx(0.048)


def test_a_session_whose_pictures_take_long_shows_them_later_and_evenly() -> None:
    session = make(EngineConfig(silence="generate"))
    shown = []
    for index in range(100):
        now = index / 25
        session.push_video(frame(index), now)
        job = session.jobs.begin(now)
        assert job is not None
        session.jobs.complete(job, paint(job), now + 0.056)
        due_s = session.next_due()
        assert due_s is not None
        out = session.pop_video(max(due_s, now + 0.056))
        assert out is not None
        shown.append(out.playout_s - now)
    assert shown[0] == pytest.approx(0.048)
    assert min(shown[20:]) > 0.052 and max(shown) <= 0.060 + 1e-9
    assert np.abs(np.diff(shown)).max() < 0.005
