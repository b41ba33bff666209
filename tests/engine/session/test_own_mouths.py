"""A session that knows the person's own mouths: from what it has seen to what it shows."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from fakes import FakeBackend, make_manifest, voiced
from mouths import (
    SHUT,
    SPEAKING,
    STATS,
    TALK,
    Listener,
    MouthTracker,
    frame,
    make,
    mouth,
    play,
    speaking,
)

from lipwire.engine import ConfigError, Engine
from lipwire.engine.config import EngineConfig
from lipwire.engine.errors import BackendError
from lipwire.engine.session.session import Session
from lipwire.engine.types import JobSpec, Outcome, OutputFrame, VideoFrame
from lipwire.engine.units import selection
from lipwire.engine.units.steady import SIDE


def test_the_first_words_are_generated_and_the_rest_is_the_person_s_own() -> None:
    session = make()
    outcomes = [out.outcome for out in play(session, TALK)]
    begun = outcomes.index(Outcome.PASTED)
    assert 0 < begun <= 14  # half a second of speech
    assert set(outcomes[:begun]) == {Outcome.GENERATED}
    assert set(outcomes[begun:]) == {Outcome.PASTED}
    stats = session.stats(2.0)
    assert (stats.pasted, stats.generated) == (len(outcomes) - begun, begun)
    assert stats.bank.ready and stats.bank.units == len(TALK) and stats.bank.mib > 0


def test_the_mouth_is_as_open_as_the_voice_asks_not_as_the_person_s_is() -> None:
    session = make(config=EngineConfig(fade_s=0.0))
    play(session, TALK)
    session.push_speech(voiced(1.0), 16_000, len(TALK) / 25)
    out = play(session, [SHUT] * 20, len(TALK))
    spoken = [o for o in out if o.outcome is Outcome.PASTED]
    assert len(spoken) > 10
    original = speaking(SHUT)
    x, y = (int(v) for v in mouth(SHUT)[[13, 14]].mean(0))
    lips = slice(y - 4, y + 12), slice(x - 14, x + 14)
    for shown in spoken[2:-2]:
        assert np.abs(shown.image[lips].astype(int) - original[lips]).mean() > 4
        assert shown.box is not None
        same = shown.image.copy()
        x0, y0, x1, y1 = shown.box
        same[y0:y1, x0:x1] = original[y0:y1, x0:x1]
        assert (same == original).all()


def test_a_model_without_known_codes_generates_all() -> None:
    plain = JobSpec(references=1, mel_columns=16)
    session = Session("plain", MouthTracker, SPEAKING, spec=plain, articulation=Listener())
    assert {out.outcome for out in play(session, TALK)} == {Outcome.GENERATED}
    assert session.stats(2.0).bank.units == 0


def test_a_shut_mouth_alone_does_not_speak() -> None:
    assert {out.outcome for out in play(make(), [0.2] * 40)} == {Outcome.GENERATED}


def test_mouths_seen_in_silence_speak_the_first_word() -> None:
    session = make(config=EngineConfig(fade_s=0.0))
    assert {out.outcome for out in play(session, TALK)} == {Outcome.SILENT}
    assert session.stats(2.0).bank.units == len(TALK)  # each was looked at
    session.push_speech(voiced(0.6), 16_000, 1.6)
    outcomes = {out.outcome for out in play(session, [SHUT] * 20, len(TALK))}
    assert outcomes <= {Outcome.SILENT, Outcome.PASTED} and Outcome.PASTED in outcomes


def test_a_cut_to_somebody_else_forgets_the_mouths() -> None:
    session = make()
    play(session, TALK)
    for index in range(40, 44):
        image = speaking(3.0, scene=5)[:, ::-1].copy()
        image[0, 0] = (30, 0, 0)
        session.push_video(VideoFrame(image, index, Fraction(1, 25)), index / 25)
        session.jobs.begin(index / 25)
    assert session.stats(2.0).bank.units < 6


def test_what_is_said_next_is_known_as_far_as_the_voice_has_come() -> None:
    listener = Listener()
    session = make(listener, EngineConfig(fade_s=0.0))
    play(session, TALK)
    session.push_speech(voiced(1.0), 16_000, 1.6)
    play(session, [SHUT] * 30, len(TALK))
    assert max(listener.ahead) == 4
    assert min(listener.ahead) < 4  # towards its end


def test_a_generated_mouth_is_steadied_by_what_is_said_next() -> None:
    listener = Listener()
    session = make(listener, EngineConfig(own_mouths=False, silence="generate", fade_s=0.0))
    assert {out.outcome for out in play(session, TALK)} == {Outcome.GENERATED}
    assert max(listener.ahead) == SIDE


def test_a_listener_that_fails_costs_the_frame_and_no_more() -> None:
    listener = Listener()
    session = make(listener)
    play(session, TALK)
    listener.error = BackendError("broken")
    failed = play(session, [3.0] * 5, 40)
    assert Outcome.FAULT in {out.outcome for out in failed}
    listener.error = None
    healed = play(session, [3.0] * 8, 45)
    assert healed[-1].outcome is Outcome.PASTED


def test_a_film_is_seen_before_it_is_dubbed() -> None:
    config = EngineConfig(offline=True, silence="generate", fade_s=0.0, delay_s=0.0)
    film = TALK
    session = make(config=config)
    for index, opening in enumerate(film):
        session.learn(frame(index, opening))
    session.learned()
    assert session.pop_video(9.0) is None  # nothing of that comes out
    outcomes = []
    for index, opening in enumerate(film):
        session.push_video(frame(index, opening), index / 25)
        assert session.jobs.begin(index / 25) is None
        made = session.pop_video(index / 25)
        assert made is not None
        outcomes.append(made.outcome)
    assert set(outcomes) == {Outcome.PASTED}
    assert session.stats(2.0).bank.units == len(film)


def test_a_live_session_is_shown_no_film() -> None:
    with pytest.raises(ConfigError, match="live"):
        make().learn(frame(0, 0.0))


def test_an_engine_hands_its_listener_to_its_sessions() -> None:
    backend = FakeBackend()
    manifest = make_manifest(
        reach_px=5.0, codes={"mean": list(STATS.mean), "spread": list(STATS.spread)}
    )
    backend.manifest = manifest
    listener = Listener()
    engine = Engine(backend, MouthTracker, articulation=listener)
    assert engine.chooses and not Engine(FakeBackend(), MouthTracker).chooses
    session = engine.session(EngineConfig(offline=True, silence="generate", fade_s=0.0))
    out = []
    for index, opening in enumerate(TALK):
        session.push_video(frame(index, opening), index / 25)
        engine.work([session], index / 25)
        made = session.pop_video(index / 25)
        assert made is not None
        out.append(made.outcome)
    engine.end(session)
    engine.close()
    assert out[-1] is Outcome.PASTED and listener.ahead


def test_a_busy_machine_holds_the_mouth_and_fades_it_instead_of_flashing_the_original() -> None:
    session = make()
    play(session, TALK)
    first = len(TALK)
    for index in range(first, first + 12):  # nobody begins them
        session.push_video(frame(index, SHUT), index / 25)
    out = list(iter(lambda: session.pop_video((first + 12) / 25 + 0.2), None))[-12:-1]
    assert [o.outcome for o in out] == [Outcome.HELD] * 9 + [Outcome.OVERLOADED] * 2
    original = speaking(SHUT)
    for held in out[:9]:
        assert held.box is not None
        x0, y0, x1, y1 = held.box
        outside = held.image.copy()
        outside[y0:y1, x0:x1] = original[y0:y1, x0:x1]
        assert (outside == original).all() and (held.image != original).any()
    shown = [float(np.abs(o.image.astype(int) - original).mean()) for o in out]
    assert shown[:5] == pytest.approx([shown[0]] * 5)
    steps = -np.diff(shown[4:10])
    assert steps == pytest.approx([shown[0] / 5] * 5, rel=0.2)
    stats = session.stats(3.0)
    assert stats.held == 9
    assert stats.rung == "full"  # fewer steps would not have helped


def test_where_the_network_has_no_time_a_mouth_of_another_pose_speaks(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """In every frame, until what is painted now and then to measure says that there is time."""
    for name in ("UNLIKE", "ALIKE"):  # of the network's pose alone
        monkeypatch.setattr(selection, name, 2.0)
    session = make()
    assert {o.outcome for o in play(session, TALK)} == {Outcome.GENERATED}
    first = len(TALK)
    for index in range(first, first + 50):
        session.push_video(frame(index, SHUT), index / 25)  # replaced by the next
    assert session.stats(4.0).rung in ("half", "none")
    list(iter(lambda: session.pop_video(5.0), None))
    first, measured, outcomes = 150, 0, []
    for index in range(first, first + 20):
        session.push_video(frame(index, SHUT), index / 25)
        measured += session.jobs.begin(index / 25) is not None  # and never comes back
        outcomes += [o.outcome for o in iter(lambda: session.pop_video(index / 25 + 0.039), None)]  # noqa: B023
    assert set(outcomes) == {Outcome.PASTED} and len(outcomes) >= 18
    assert 2 <= measured <= 3
    assert session.stats(7.0).rung in ("half", "none")
    late = play(session, [SHUT] * 75, first + 20)
    assert late[-1].outcome is Outcome.GENERATED and session.stats(10.0).rung == "full"


@pytest.mark.parametrize("cut", [True, False])
def test_no_mouth_is_held_over_a_cut_or_after_an_interruption(cut: bool) -> None:
    session = make(config=EngineConfig(fade_s=0.0))
    play(session, TALK)
    session.push_speech(voiced(2.0), 16_000, 1.6)
    play(session, [SHUT] * 14, len(TALK))
    first = len(TALK) + 14
    if not cut:
        session.interrupt_speech(first / 25)
    for index in range(first, first + 5):
        image = speaking(SHUT)
        if cut:
            image = np.ascontiguousarray(255 - image)
        later = index + (0 if cut else 5)
        session.push_video(VideoFrame(image, later, Fraction(1, 25)), later / 25)
    out = list(iter(lambda: session.pop_video((first + 16) / 25), None))
    assert Outcome.HELD not in {o.outcome for o in out[-4:]}


def test_where_nothing_is_known_and_there_is_no_time_the_frame_s_own_mouth_is_moved() -> None:
    session = make()
    for index in range(50):
        session.push_video(frame(index, 4.0), index / 25)  # replaced by the next
    assert session.stats(2.0).rung == "none"
    list(iter(lambda: session.pop_video(3.0), None))
    out: list[OutputFrame] = []
    for index in range(100, 130):
        session.push_video(frame(index, 4.0), index / 25)
        session.jobs.begin(index / 25)  # what is painted to measure never comes back
        out += iter(lambda: session.pop_video(index / 25 + 0.039), None)  # noqa: B023
    assert len(out) >= 28 and {o.outcome for o in out} == {Outcome.PASTED}
    assert not session.stats(5.2).bank.ready
    before = speaking(4.0)
    assert all((o.image != before).any() for o in out)  # it shuts, as the voice is silent
    assert all((o.image[:64] == before[:64]).all() for o in out)


def test_a_frame_for_which_the_devices_are_too_busy_is_moved_and_counts_as_missed() -> None:
    session = make()
    out: list[OutputFrame] = []
    for index in range(8):
        session.push_video(frame(index, 4.0), index / 25)
        assert session.jobs.begin(index / 25, busy=True) is None
        out += iter(lambda: session.pop_video(index / 25 + 0.039), None)  # noqa: B023
    assert out and {o.outcome for o in out} == {Outcome.PASTED}
    assert session.stats(0.4).rung == "half"
    assert session.stats(0.4).bank.units == 8  # they are learned from
