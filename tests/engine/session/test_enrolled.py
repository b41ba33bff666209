"""A session that is given mouths from before the call: its person's, or another's."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from functools import cache

import numpy as np
import pytest
from fakes import FakeBackend, make_manifest, voiced
from mouths import (
    CENTRE,
    SHUT,
    STATS,
    TALK,
    Listener,
    MouthTracker,
    enrolled,
    make,
    play,
    show,
    speaking,
    unit,
)

from lipwire.engine import BankError, ConfigError, Consent, Engine, read_bank, write_bank
from lipwire.engine.config import EngineConfig
from lipwire.engine.face.articulation_scale import ArticulationScale
from lipwire.engine.session.session import Session
from lipwire.engine.types import U8, Enrolled, JobSpec, Outcome, VideoFrame
from lipwire.engine.units.bank import CAPACITY, MouthBank
from lipwire.engine.units.enrolled import enrolled_bank

LIVE = EngineConfig(fade_s=0.0)
ME = Consent("me", "yes", "2026-11-29", "0.2.0")


@cache
def stranger(opening: float) -> U8:
    """The face of `speaking` with dark glasses, and a nose in the light."""
    image = speaking(opening).copy()
    x, y = (round(v) for v in CENTRE)
    image[y - 34 : y - 14, x - 46 : x + 46] = (25, 20, 20)
    image[y - 14 : y + 8, x - 8 : x + 8] = (250, 240, 230)
    return image


def state(session: Session) -> Enrolled:
    return session.stats(0.0).bank.enrolled


@pytest.mark.parametrize("given", [True, False])
def test_the_first_word_is_said_with_mouths_of_the_bank(given: bool) -> None:
    session = make(config=LIVE)
    if given:
        session.enrol(read_bank(write_bank(enrolled())))
        assert state(session) is Enrolled.WAITING
    play(session, [SHUT] * 10)
    session.push_speech(voiced(0.6), 16_000, 0.4)
    said = {out.outcome for out in play(session, [SHUT] * 20, 10)} - {Outcome.SILENT}
    assert said == ({Outcome.PASTED} if given else {Outcome.GENERATED})
    assert state(session) is (Enrolled.USED if given else Enrolled.NONE)


def test_another_person_s_mouths_are_refused_and_the_call_goes_on() -> None:
    session = make(config=LIVE)
    session.enrol(enrolled())
    session.push_speech(voiced(3.0), 16_000, 0.4)
    said = {out.outcome for out in show(session, [stranger(SHUT)] * 70)}
    assert said == {Outcome.SILENT, Outcome.GENERATED}
    assert state(session) is Enrolled.REFUSED
    kept = session.stats(0.0).bank
    assert kept.units > 0 and kept.openings[1:] == (0,) * 7  # those of the stranger alone


def test_a_face_is_not_judged_by_one_glance() -> None:
    session = make(config=LIVE)
    session.enrol(enrolled())
    show(session, [stranger(SHUT)] * 20)
    assert state(session) is Enrolled.WAITING
    play(session, [SHUT] * 12, 20)  # who was taken for somebody else comes to look like himself
    assert state(session) is Enrolled.USED


def test_who_comes_back_has_the_mouths_again_and_another_has_not() -> None:
    session = make(config=LIVE)
    session.enrol(enrolled())
    play(session, [SHUT] * 10)
    known = session.stats(0.0).bank.units
    assert known > len(TALK)
    show(session, [np.ascontiguousarray(255 - stranger(SHUT)[:, ::-1])] * 6, 10)  # a cut
    assert session.stats(0.0).bank.units < 10 and state(session) is Enrolled.WAITING
    play(session, [SHUT] * 12, 16)
    assert session.stats(0.0).bank.units > len(TALK) and state(session) is Enrolled.USED


def test_what_the_call_has_seen_stays_beside_what_is_given() -> None:
    session = make()
    play(session, TALK)
    session.enrol(enrolled())
    play(session, [SHUT] * 8, len(TALK))
    assert session.stats(0.0).bank.units == 2 * len(TALK) + 8
    assert state(session) is Enrolled.USED


def test_a_session_s_own_mouths_can_be_kept() -> None:
    session = make()
    with pytest.raises(BankError, match="too few"):
        session.enrolled(ME)
    play(session, TALK[:3])
    with pytest.raises(BankError, match="too few"):
        session.enrolled(ME)
    play(session, TALK[3:], 3)
    bank = session.enrolled(ME)
    assert bank.consent is ME and len(bank.units) == len(bank.seen) == len(TALK)
    assert len(bank.openings) > 20


def test_a_film_gives_the_mouths_of_whom_it_shows_most_and_takes_those_of_a_bank() -> None:
    config = EngineConfig(offline=True, silence="generate", fade_s=0.0, delay_s=0.0)
    session = make(config=config)
    session.enrol(enrolled())
    film = [speaking(o) for o in TALK] + [np.ascontiguousarray(255 - stranger(o)) for o in TALK[:9]]
    for index, image in enumerate(film):
        image = image.copy()
        image[0, 0] = speaking(TALK[index % len(TALK)])[0, 0]  # what the tracker reads
        session.learn(VideoFrame(image, index, Fraction(1, 25)))
    session.learned()
    assert state(session) is Enrolled.USED  # though the last to be seen is another
    assert len(session.enrolled(ME).units) == 2 * len(TALK)


def test_a_long_film_is_thinned_to_what_a_call_keeps() -> None:
    bank = MouthBank(STATS, 500)
    for index in range(260):
        bank.add(unit(TALK[index % len(TALK)], index / 25))
    made = enrolled_bank(bank, ArticulationScale(5.0), STATS, ME)
    assert len(made.units) == CAPACITY
    times = [one.time_s for one in made.units]
    assert times == sorted(times)


def test_a_session_that_generates_every_mouth_takes_no_bank() -> None:
    backend = FakeBackend()
    backend.manifest = make_manifest(
        reach_px=5.0, codes={"mean": list(STATS.mean), "spread": list(STATS.spread)}
    )
    with Engine(backend, MouthTracker, articulation=Listener()) as engine:
        session = engine.session(LIVE, bank=enrolled())
        assert state(session) is Enrolled.WAITING
        with pytest.raises(ConfigError, match="no own mouths"):
            engine.session(replace(LIVE, own_mouths=False), bank=enrolled())
    with pytest.raises(ConfigError, match="no own mouths"):
        Session("plain", MouthTracker, LIVE, spec=JobSpec(), bank=enrolled())
