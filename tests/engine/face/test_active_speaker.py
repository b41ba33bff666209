"""How far lips are open, how loud a voice is, and whose lips go with it."""

from __future__ import annotations

import numpy as np
import pytest
from fakes import face_mesh, voiced
from films import Film, two
from hypothesis import given, settings
from hypothesis import strategies as st

from lipwire.engine.face.active_speaker import (
    FLOOR_DB,
    LOWER_LIP,
    UPPER_LIP,
    ActiveSpeakerDetector,
    Envelope,
    opening,
)
from lipwire.engine.face.alignment import face_width_px
from lipwire.engine.face.policy import Choice, Policy
from lipwire.engine.types import Face

RATE_HZ = 16_000


def face(gap: float, width_px: float = 100) -> Face:
    points = face_mesh((200, 200), width_px)
    points[LOWER_LIP] = points[UPPER_LIP] + (0, gap * face_width_px(points))
    return Face(points, 1.0)


def tone(seconds: float, peak: float) -> np.ndarray:
    time_s = np.arange(round(seconds * RATE_HZ)) / RATE_HZ
    return np.asarray(32767 * peak * np.sin(2 * np.pi * 200 * time_s), np.int16)


@pytest.mark.parametrize("width_px", [50, 100, 400])
def test_an_opening_is_a_share_of_the_face(width_px: float) -> None:
    assert opening(face(0.1, width_px).landmarks) == pytest.approx(0.1, rel=1e-3)
    assert opening(face(0.0, width_px).landmarks) == pytest.approx(0.0, abs=1e-3)


def test_levels_are_where_the_sound_is() -> None:
    envelope = Envelope()
    assert np.all(envelope.at(np.array([0.0, 1.0])) == FLOOR_DB)
    envelope.hear(tone(1.0, 0.001), RATE_HZ, 10.0)
    envelope.hear(tone(1.0, 0.5), RATE_HZ, 11.0)
    levels = envelope.at(np.array([5.0, 10.5, 11.5, 20.0]))
    assert levels[0] == levels[1] == levels[3] == FLOOR_DB
    assert levels[2] == pytest.approx(20 * np.log10(0.5) - 3.01, abs=0.2)


@settings(max_examples=30, deadline=None)
@given(cuts=st.lists(st.integers(1, 6), min_size=1, max_size=8), jitter=st.floats(-0.1, 0.1))
def test_pieces_that_jitter_are_one_voice(cuts: list[int], jitter: float) -> None:
    """Packets of whole blocks, late or early, give the levels of the whole."""
    rng = np.random.default_rng(0)
    sound = (tone(1.0, 0.5) * np.repeat(rng.uniform(0, 1, 50), RATE_HZ // 50)).astype(np.int16)
    whole, pieces = Envelope(), Envelope()
    whole.hear(sound, RATE_HZ, 0.0)
    place, step = 0, 0
    while place < len(sound):
        size = cuts[step % len(cuts)] * RATE_HZ // 50
        late_s = jitter if step % 2 else 0.0
        pieces.hear(sound[place : place + size], RATE_HZ, place / RATE_HZ + late_s)
        place, step = place + size, step + 1
    times_s = np.arange(0.05, 0.9, 0.04)
    assert np.allclose(pieces.at(times_s), whole.at(times_s), atol=1e-6)


def test_a_pause_is_silence_and_memory_is_bounded() -> None:
    envelope = Envelope()
    for second in range(60):
        envelope.hear(tone(0.5, 0.5), RATE_HZ, float(second))
    assert envelope.at(np.array([2.25]))[0] == FLOOR_DB  # forgotten
    assert envelope.at(np.array([59.25]))[0] > -15


def watch(gaps: dict[int, float], seconds: float, voice_of: int | None, gain: float = 0.1) -> int:
    """Who of two is said to speak after a talk: by index their lips' own rate, 0 = still."""
    envelope = Envelope()
    lips = ActiveSpeakerDetector(envelope)
    said = 0
    for index in range(round(seconds * 25)):
        time_s = index / 25
        loud = max(0.0, float(np.sin(2 * np.pi * 2.1 * time_s)))
        envelope.hear((tone(0.04, 0.5) * loud).astype(np.int16), RATE_HZ, time_s)
        faces = []
        for i, hz in gaps.items():
            moving = loud if i == voice_of else max(0.0, float(np.sin(2 * np.pi * hz * time_s + 1)))
            faces.append(face(gain * moving if hz or i == voice_of else 0.0))
        lips.update(faces, time_s)
        said = lips.speaker(time_s)
    return said


def test_whose_lips_go_with_the_voice() -> None:
    assert watch({0: 0, 1: 0}, 4.0, voice_of=1) == 1
    assert watch({0: 0, 1: 0}, 4.0, voice_of=0) == 0
    assert watch({0: 1.3, 1: 0}, 4.0, voice_of=1) == 1  # the other chews
    assert watch({0: 0, 1: 1.3}, 4.0, voice_of=None) == 0  # a chewer is no speaker


def test_nobody_is_judged_too_soon_or_for_too_little() -> None:
    assert watch({0: 0, 1: 0}, 1.2, voice_of=1) == 0
    assert watch({0: 0, 1: 0}, 4.0, voice_of=1, gain=0.002) == 0


def test_faces_out_of_sight_do_not_count() -> None:
    lips = ActiveSpeakerDetector(Envelope())
    for index in range(100):
        lips.update([face(0.1 * (index % 2)), None], index / 25)
        assert lips.speaker(index / 25) == 0
    lips.update([face(0.0)], 4.0)  # another number of faces
    assert lips.speaker(4.0) == 0


# --- who is followed for it ---


def syllables(time_s: float) -> float:
    """Loudness of a talker, 0 to 1."""
    return float(
        max(0.0, np.sin(2 * np.pi * 2.3 * time_s)) * (np.sin(2 * np.pi * 0.3 * time_s) > -0.6)
    )


def talk(film: Film, envelope: Envelope, seconds: float, who: str, other: str = "") -> None:
    """`who` speaks; `other` moves lips too, but not with the voice."""
    rng = np.random.default_rng(0)
    sound = voiced(0.04, 16_000)
    for _ in range(round(seconds * 25)):
        loud = syllables(film.time_s)
        envelope.hear((sound * loud).astype(np.int16), 16_000, film.time_s)
        openings = dict.fromkeys(film.tracker.people, 0.01)
        openings[who] = 0.01 + 0.1 * loud
        if other:
            openings[other] = 0.05 + 0.05 * float(np.sin(2 * np.pi * 1.3 * film.time_s))
        film.tracker.openings = {k: v + rng.normal(0, 0.004) for k, v in openings.items()}
        film.update()


@pytest.mark.parametrize("chewing", [False, True])
def test_who_speaks_is_followed_and_the_next_speaker_after_him(chewing: bool) -> None:
    envelope = Envelope()
    film = Film(two(), envelope)
    film.selector.choose(Choice(Policy.LIPS))
    talk(film, envelope, 5.0, "ann", "bob" if chewing else "")
    assert film.tracker.followed == "ann"
    talk(film, envelope, 7.0, "bob", "ann" if chewing else "")
    assert film.tracker.followed == "bob"
    talk(film, envelope, 3.0, "bob")
    assert film.tracker.followed == "bob"


def test_without_a_voice_nobody_is_taken_for_the_speaker() -> None:
    envelope = Envelope()
    film = Film(two(), envelope)
    film.selector.choose(Choice(Policy.LIPS))
    for index in range(250):
        film.tracker.openings = {"bob": 0.05 + 0.05 * float(np.sin(index))}
        film.update()
    assert film.tracker.followed == "ann"


def test_pointing_ends_the_choice_by_lips() -> None:
    envelope = Envelope()
    film = Film(two(), envelope)
    film.selector.choose(Choice(Policy.LIPS))
    film.update()
    film.selector.choose(Choice(index=0))
    talk(film, envelope, 8.0, "bob")
    assert film.tracker.followed == "ann"
