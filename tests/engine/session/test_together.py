"""Lips and sound together, in virtual time: flash and beep through a session, at any rate."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator
from fractions import Fraction

import numpy as np
import pytest
from fakes import FakeTracker, make_manifest, picture

from lipwire.benchmarks.rig.sync_marker import (
    RATE_HZ,
    SyncMarker,
    beeps,
    find_edges,
    skews,
    states,
    stripes,
)
from lipwire.engine.audio.timeline import MOMENT
from lipwire.engine.config import EngineConfig
from lipwire.engine.session.session import Session
from lipwire.engine.types import F64, LipJob, Outcome, VideoFrame

CONFIG = EngineConfig(silence="generate", fade_s=0.0)
TICK_S = 0.005
PICTURE = picture(120, 160)
LIPS = (slice(64, 84), slice(64, 96))  # of the face that FakeTracker sees there
BEACON = SyncMarker(make_manifest())


class Room:
    """A session with a camera before it, a voice and one device; what leaves is noted.

    Args:
        arrivals_s: of the pictures, ascending.
        took_s: how long the device takes for a picture that arrived at a time.
        config: of the session.
    """

    def __init__(
        self,
        arrivals_s: Iterable[float],
        took_s: Callable[[float], float] = lambda at_s: 0.0,
        config: EngineConfig = CONFIG,
    ) -> None:
        self.session = Session("room", FakeTracker, config)
        self._arrivals_s, self._took_s = iter(arrivals_s), took_s
        self._next_s: float | None = next(self._arrivals_s, None)
        self._job: LipJob | None = None
        self._free_s = self._took = 0.0
        self.first_s = 0.0
        """when the first beep is heard"""
        self.light: list[tuple[float, float]] = []
        self.sound: list[tuple[float, float]] = []
        self.outcomes: list[Outcome] = []

    def run(self, seconds: float) -> Room:
        """Beep for so long; the voice is sent four seconds ahead."""
        voice, sent = beeps(1), 0
        for tick in range(round(seconds / TICK_S)):
            now = tick * TICK_S
            while sent < now + 4:
                starts_s = now + self.session.push_speech(voice, RATE_HZ, now)
                self.first_s = starts_s if not sent else self.first_s
                sent += 1
            while self._next_s is not None and self._next_s <= now:
                at_s = self._next_s
                frame = VideoFrame(PICTURE, round(at_s * 90_000), Fraction(1, 90_000))
                self.session.push_video(frame, at_s)
                self._next_s = next(self._arrivals_s, None)
                self._work(now)
            self._work(now)
            self._look(now)
        return self

    def _work(self, now: float) -> None:
        if self._job is not None and self._free_s <= now:
            self.session.jobs.complete(self._job, BEACON.generate([self._job])[0], now, self._took)
            self._job = None
        while self._job is None and (job := self.session.jobs.begin(now)) is not None:
            self._took = self._took_s(now)
            self._job, self._free_s = job, now + self._took
            if not self._took:
                self.session.jobs.complete(job, BEACON.generate([job])[0], now, 0.0)
                self._job = None

    def _look(self, now: float) -> None:
        while (out := self.session.pop_video(now)) is not None:
            lips = out.image[LIPS].mean(axis=2)
            self.light.append((out.playout_s, stripes(lips)))
            self.outcomes.append(out.outcome)
        while (chunk := self.session.pop_audio(now)) is not None:
            levels = np.abs(chunk.samples.astype(float)).reshape(-1, 48).mean(axis=1)
            start_s = chunk.start / RATE_HZ
            self.sound += [(start_s + k / 1000, level) for k, level in enumerate(levels)]

    @property
    def rate_hz(self) -> float:
        """Of what leaves; every picture must be another."""
        times_s = np.array(self.light)[:, 0]
        assert (np.diff(times_s) > 0).all()
        return float(1 / np.diff(times_s).mean())

    def skews_ms(self) -> F64:
        """Of each beep, + where the sound is early."""
        times_s, levels = np.array(self.light).T
        light = find_edges(times_s, states(levels))
        times_s, levels = np.array(self.sound).T
        loud = np.convolve(levels, np.ones(9) / 9, "same") > 500
        sound = find_edges(times_s, np.where(loud, 1.0, -1.0))
        return 1000 * np.array(skews(light, sound))


def camera(fps: float, start_s: float = 0.0) -> Iterator[float]:
    """Pictures at a steady rate."""
    return (start_s + index / fps for index in itertools.count())


@pytest.mark.parametrize("fps", [10, 25, 50])
def test_sound_and_lips_are_centred_at_any_rate(fps: int) -> None:
    """A camera whose clock lies so beside the voice's that every phase of the two comes up."""
    room = Room(camera(fps + 1 / 4))  # a quarter of a picture further with each beep
    skews_ms = room.run(5).skews_ms()
    stands_ms = 1000 / fps
    assert len(skews_ms) >= 4
    assert room.rate_hz == pytest.approx(fps, abs=0.3)
    # Pictures show a beginning and an end up to a period late; more than half of it is made good.
    assert abs(skews_ms.mean() + (MOMENT - 0.5) * stands_ms + 4) < 5 + stands_ms / 8
    assert skews_ms.max() < (1 - MOMENT) * stands_ms + 5
    assert skews_ms.min() > -MOMENT * stands_ms - 12


def test_sound_and_lips_are_together_at_a_rate_that_changes() -> None:
    rng = np.random.default_rng(0)
    arrivals_s = np.cumsum(rng.uniform(1 / 30, 1 / 15, 200))
    room = Room(arrivals_s).run(7)
    skews_ms = room.skews_ms()
    assert len(skews_ms) >= 6 and set(room.outcomes) == {Outcome.GENERATED}
    assert np.abs(skews_ms).max() < 45 and abs(skews_ms.mean()) < 15


def test_a_mouth_that_is_held_is_painted_for_both_pictures() -> None:
    room = Room(camera(25.1), lambda at_s: 0.01 if at_s < 1 else 0.06).run(8)
    assert room.session.stats(8.0).rung == "half"
    skews_ms = room.skews_ms()[2:]
    assert len(skews_ms) >= 5 and set(room.outcomes[-50:]) == {Outcome.GENERATED, Outcome.HELD}
    assert skews_ms.max() < 40 and skews_ms.min() > -60 and -30 < skews_ms.mean() < 10


@pytest.mark.parametrize(
    ("since_beep_s", "stall_s"), [(-0.3, 0.3), (-0.1, 0.3), (0.05, 0.7), (0.15, 0.3), (-0.65, 0.7)]
)
def test_a_ladder_that_falls_and_climbs_within_a_beep_parts_nothing(
    since_beep_s: float, stall_s: float
) -> None:
    """What is seen is the person's own mouth, or a painted one in its place."""

    def took_s(at_s: float) -> float:
        since_s = at_s - (room.first_s + 2 + since_beep_s)
        return stall_s if 0 < since_s < stall_s else 0.02

    room = Room(camera(25.05), took_s)
    skews_ms = room.run(5).skews_ms()
    assert room.session.stats(5.0).rung_changes and len(skews_ms) >= 3
    assert skews_ms.max() < 48 and skews_ms.min() > -80
