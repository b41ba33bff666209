"""The original voice on the clock: in step with its picture, whatever the network does."""

from __future__ import annotations

import numpy as np
import pytest
import soxr
from fakes import voiced

from lipwire.engine.audio.source_timeline import SourceTimeline


def test_the_original_is_heard_in_step_with_its_picture() -> None:
    original = SourceTimeline(0.06)
    samples = voiced(2.0, 48_000)
    for index, piece in enumerate(np.split(samples, 100)):
        original.push(piece, 48_000, 1.0 + 0.02 * index)
    start = round(1.06 * 48_000)
    assert np.array_equal(original.read(start, start + 96_000), samples)
    assert not original.read(start - 4_800, start).any()


@pytest.mark.parametrize("rate_hz", [8_000, 16_000, 44_100, 48_000])
def test_the_original_survives_jitter_unbroken(rate_hz: int) -> None:
    """Read as it is played, 40 ms after it has come: nothing may be held back for longer."""
    rng = np.random.default_rng(0)
    original = SourceTimeline(0.06)
    samples = voiced(3.0, rate_hz)
    arrivals = 1.0 + 0.02 * np.arange(150) + rng.uniform(0, 0.02, 150)
    heard, read = [], 0
    for piece, now in zip(np.split(samples, 150), arrivals, strict=True):
        stop = round((now + 0.02) * 48_000)
        heard.append(original.read(read, stop))
        read = stop
        original.push(piece, rate_hz, now)
    sound = np.concatenate(heard).astype(int)
    wanted = soxr.resample(samples.astype(np.float32), rate_hz, 48_000)[:120_000]
    start = round((arrivals[0] + 0.06) * 48_000)
    # Its filter differs from soxr's near half the rate only, and 3 s are before any correction.
    away = sound[start : start + 120_000] - wanted
    assert np.abs(away[100:]).max() <= (2 if rate_hz == 48_000 else 100)  # of 12,000


def test_the_original_is_put_back_in_its_place_after_a_stall() -> None:
    original = SourceTimeline(0.06)
    original.push(np.full(960, 100, np.int16), 48_000, 1.0)
    original.push(np.full(960, 200, np.int16), 48_000, 2.0)
    start = round(2.06 * 48_000)
    assert original.read(start - 1, start + 961).tolist() == [0] + [200] * 960 + [0]
    for _ in range(20):  # a burst of what had stalled: newer sound takes the older one's place
        original.push(np.full(960, 300, np.int16), 48_000, 2.1)
    original.push(np.full(960, 400, np.int16), 48_000, 2.12)
    where = int(np.flatnonzero(original.read(0, 48_000 * 3) == 400)[0])
    assert abs(where / 48_000 - 2.18) <= SourceTimeline.SLACK_S + 0.02


def test_a_pause_of_hours_in_the_original_costs_nothing() -> None:
    original = SourceTimeline(0.06)
    for hour in range(20):
        original.push(np.full(960, 100, np.int16), 48_000, hour * 3600.0)
    start = round((19 * 3600 + 0.06) * 48_000)
    assert np.all(original.read(start, start + 960) == 100)


def test_the_original_off_line_lies_where_it_is_put() -> None:
    original = SourceTimeline(0.0, kept_s=60.0)
    samples = voiced(20.0, 48_000)
    for index, piece in enumerate(np.split(samples, 200)):  # far ahead of any reading
        original.push(piece, 48_000, 0.1 * index + 0.5)
    assert np.array_equal(original.read(24_000, 24_000 + 960_000), samples)
