"""The arithmetic of flash and beep."""

from __future__ import annotations

import numpy as np
import pytest
from fakes import make_manifest, picture

from lipwire.benchmarks.rig.sync_marker import (
    BEEP_S,
    Edges,
    SyncMarker,
    beeps,
    find_edges,
    skews,
    states,
    stripes,
)
from lipwire.engine.types import F64, LipJob

PERIOD_S = 0.04


def flashes(late_s: float = 0.0, hidden: tuple[float, float] = (0.0, 0.0)) -> Edges:
    """Of six seconds, each with a flash at its beginning; originals are shown for a while."""
    times_s = np.arange(0, 6, PERIOD_S)
    shown = np.where((times_s - late_s) % 1 < BEEP_S, 90.0, -70.0)
    shown[(times_s >= hidden[0]) & (times_s < hidden[1])] = 3.0
    return find_edges(times_s, states(shown))


def sounds() -> Edges:
    times_s = np.arange(0, 6, 0.005)
    return find_edges(times_s, np.where(times_s % 1 < BEEP_S, 1.0, -1.0))


def test_a_beep_that_comes_first_counts_as_early() -> None:
    assert skews(flashes(0.04), sounds()) == pytest.approx([0.05] * 5, abs=0.021)
    assert skews(flashes(-0.08), sounds()) == pytest.approx([-0.07] * 5, abs=0.021)
    assert skews(Edges(np.zeros(0), np.zeros(0)), sounds()) == []


@pytest.mark.parametrize("hidden", [(1.9, 2.1), (2.1, 2.2), (2.1, 2.4), (1.5, 2.15)])
def test_a_flash_that_is_partly_hidden_is_measured_by_what_was_seen(
    hidden: tuple[float, float],
) -> None:
    """Its middle is where it would be, not that of what is left of it."""
    whole, part = skews(flashes(), sounds()), skews(flashes(hidden=hidden), sounds())
    assert len(part) == len(whole)
    assert part == pytest.approx(whole, abs=PERIOD_S / 2)


def test_a_flash_that_is_hidden_is_not_measured() -> None:
    assert len(skews(flashes(hidden=(1.8, 2.5)), sounds())) == len(skews(flashes(), sounds())) - 1


def test_an_edge_within_a_hole_is_not_seen() -> None:
    times_s = np.array([0.0, 0.04, 0.08, 0.5, 0.54])
    edges = find_edges(times_s, np.array([-1.0, 1.0, 1.0, -1.0, -1.0]))
    assert list(edges.rises) == [0.04] and not len(edges.falls)


def heard(level: float) -> LipJob:
    crop = picture(128, 128)
    mel = np.full((80, 24), level, np.float32)
    return LipJob("test", 0, crop, crop[None], mel, 0, 2, 0.0)


def test_a_beacon_turns_its_stripes_with_the_voice() -> None:
    def seen(image: F64) -> float:
        return stripes(image[70:120, 30:100])

    loud, silent = (heard(level) for level in (2.0, -4.0))
    across, upright = (
        seen(SyncMarker(make_manifest()).generate([job])[0].mean(axis=2)) for job in (loud, silent)
    )
    assert across > 50 and upright < -50 and abs(seen(loud.crop.mean(axis=2))) < 10
    assert list(states(np.array([across, upright, 2.0]))) == [1, -1, 0]


def test_the_voice_beeps() -> None:
    voice = beeps(2)
    loud = np.abs(voice.reshape(2, -1)).mean(0) > 0
    assert len(voice) == 96_000 and abs(loud.mean() - BEEP_S) < 0.01
