"""Lips and sound at a receiver, and the arithmetic of measuring that."""

from __future__ import annotations

import numpy as np
import pytest
from calls import Camera, Running
from fakes import FakeTracker, make_manifest

from lipwire.benchmarks.live.sync import Ears, figures_of, measure
from lipwire.benchmarks.rig.sync_marker import SyncMarker
from lipwire.engine import Engine


def test_sound_that_comes_first_counts_as_early() -> None:
    figures = figures_of([0.01] * 10 + [0.02] * 10)
    assert figures["skew_p50_ms"] == pytest.approx(15) and figures["drift_ms"] == pytest.approx(10)


def striped(ears: Ears) -> list[float]:
    """When each picture with stripes across was due."""
    times_s, levels = ears.signal("video")
    return [float(at_s) for at_s in times_s[levels > 15]]


async def test_lips_and_sound_are_together_at_the_receiver() -> None:
    """R10 in short: a real call, times from sender reports only.

    Picture by picture, so that a machine too busy to paint most of them still tells something.
    """
    with Engine(SyncMarker(make_manifest()), FakeTracker) as engine, Running(engine) as server:
        ears = await measure(server.url, 60.0, Camera(), lambda e: len(striped(e)) >= 12)
    times_s, levels = ears.signal("audio")
    loud_s = times_s[levels > 1000]
    assert len(loud_s) and loud_s[0] < striped(ears)[-1]
    inside = [at_s for at_s in striped(ears) if at_s > times_s[0] + 0.1]
    away_s = [float(np.abs(loud_s - at_s).min()) for at_s in inside]
    assert len(inside) >= 5
    # ITU-R BT.1359's limit. A machine too busy to send all sound leaves parts of beeps out, and
    # shows stripes again in up to nine pictures whose own it had no time for.
    assert np.median(away_s) < 0.125
