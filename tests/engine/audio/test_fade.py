"""Fades are as long at any frame rate, and end exactly."""

from __future__ import annotations

import numpy as np
import pytest

from lipwire.engine.audio.fade import CUT_S, HOLD_S, Fade


def shown(fade: Fade, speaking: list[bool], fps: float, start: int = 0) -> list[float]:
    return [fade.toward(now, (start + i) / fps) for i, now in enumerate(speaking)]


@pytest.mark.parametrize("fps", [10, 15, 24, 25, 29.97, 30, 50, 60])
def test_a_fade_takes_its_time_at_any_rate_and_ends_exactly(fps: float) -> None:
    fade = Fade(0.16)
    up = shown(fade, [True] * 60, fps)
    full = up.index(1.0)
    assert abs(full / fps - 0.16) <= max(0.04, 1 / fps) + 1e-6
    assert np.all(np.diff(up[: full + 1]) > 0)
    down = shown(fade, [False] * 60, fps, 60)
    gone = down.index(0.0)
    assert 0.16 <= (gone + 1) / fps <= 0.16 + HOLD_S + 2 / fps
    assert set(down[gone:]) == {0.0}


@pytest.mark.parametrize("fps", [25, 60])
def test_a_doubtful_moment_does_not_pulse(fps: int) -> None:
    fade = Fade(0.16)
    shown(fade, [True] * fps, fps)
    doubt = int(0.99 * HOLD_S * fps)
    assert set(shown(fade, [False] * doubt + [True] * 9, fps, fps)) == {1.0}


@pytest.mark.parametrize("fps", [10, 25, 60])
@pytest.mark.parametrize("ahead_s", [0.0, 0.06, 0.3])
def test_an_interruption_counts_from_its_own_time(fps: int, ahead_s: float) -> None:
    fade = Fade(0.4)
    shown(fade, [True] * fps, fps)
    cut_s = (fps - 1) / fps - ahead_s  # pictures until then have been asked about
    fade.cut(cut_s)
    after = shown(fade, [False] * fps, fps, fps)
    last = max((i for i, strength in enumerate(after) if strength), default=-1)
    assert last == -1 or (fps + last) / fps < cut_s + CUT_S
    assert after == sorted(after, reverse=True) and after[-1] == 0
    # Afterwards it fades as before.
    assert 0 < fade.toward(True, 2 + 1 / fps) <= 0.4


def test_no_fade_is_a_switch_and_a_lost_face_fades_in_afresh() -> None:
    fade = Fade(0.0)
    assert (fade.toward(True, 0.0), fade.toward(False, 1.0)) == (1.0, 0.0)
    fade = Fade(0.16)
    shown(fade, [True] * 25, 25)
    fade.reset()
    assert fade.toward(True, 1.0) == pytest.approx(0.25)
    assert fade.toward(True, 9.0) < 1.0  # a gap is not a jump
