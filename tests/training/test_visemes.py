from __future__ import annotations

import numpy as np
import pytest

from engine.errors import ConfigError
from training.visemes import (
    SHAPES,
    Segment,
    Viseme,
    from_arpabet,
    mouth_track,
    segments_of,
    viseme_track,
    visemes_of,
)


@pytest.mark.parametrize(
    ("phoneme", "visemes"),
    [
        ("p", [Viseme.BILABIAL]),
        ("aʊ", [Viseme.OPEN, Viseme.ROUND_CLOSE]),
        ("tʃ", [Viseme.ALVEOLAR, Viseme.POSTALVEOLAR]),
        ("tʲ", [Viseme.ALVEOLAR]),
        ("iː", [Viseme.SPREAD]),
        ("ɑ̃", [Viseme.OPEN]),
        ("kʷ", [Viseme.ROUND_CLOSE]),
        ("", [Viseme.SILENCE]),
    ],
)
def test_phonemes_have_the_mouths_they_need(phoneme: str, visemes: list[Viseme]) -> None:
    assert list(visemes_of(phoneme)) == visemes


def test_unknown_sounds_are_named() -> None:
    with pytest.raises(ConfigError, match="'ж'"):
        visemes_of("ж")
    with pytest.raises(ConfigError, match="'xx'"):
        from_arpabet("xx")


def test_every_viseme_has_a_shape_within_bounds() -> None:
    assert set(SHAPES) == set(Viseme)
    for shape in SHAPES.values():
        assert max(map(abs, (shape.opening, shape.width, shape.protrusion))) <= 1
        assert all(0 < hold <= 1 for hold in shape.holds)


def test_segments_share_a_sounds_time() -> None:
    assert segments_of([("aɪ", 1.0, 1.2)]) == [
        Segment(Viseme.OPEN, 1.0, pytest.approx(1.1)),
        Segment(Viseme.SPREAD, pytest.approx(1.1), pytest.approx(1.2)),
    ]


def test_tracks_close_for_p_open_for_a_and_rest_shut() -> None:
    segments = segments_of([("", 0.0, 0.5), ("a", 0.5, 0.8), ("p", 0.8, 0.9), ("u", 0.9, 1.2)])
    times_s = np.array([0.25, 0.65, 0.85, 1.05, 3.0])
    assert viseme_track(segments, times_s).tolist() == [0, 11, 1, 13, 0]
    opening, width, protrusion = mouth_track(segments, times_s).T
    assert opening[0] < -0.9 and opening[1] > 0.7 and opening[2] < -0.8 and opening[4] < -0.9
    assert width[3] < -0.8 and protrusion[3] > 0.8


def test_mouths_move_without_jumps_and_before_the_sound() -> None:
    segments = segments_of([("s", 0.0, 0.3), ("u", 0.3, 0.6)])
    times_s = np.arange(0, 0.6, 0.005)
    protrusion = mouth_track(segments, times_s)[:, 2]
    assert np.abs(np.diff(protrusion)).max() < 0.25
    assert protrusion[times_s < 0.28].max() > 0, "an [u] is prepared during the [s] before it"
