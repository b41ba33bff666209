"""LazyFacePipeline: whose face it is, in speech and in silence."""

from __future__ import annotations

import numpy as np
import pytest
from fakes import FakeTracker, SceneTracker, TalkingTracker, picture, voiced
from sessions import DELAY_S, frame, make, paint, pop_all, run, work

from lipwire.engine.config import EngineConfig
from lipwire.engine.face.policy import Choice, Policy
from lipwire.engine.types import FaceState, JobSpec, Outcome, Sighting


def test_silence_passes_through_and_is_glanced_at() -> None:
    tracker = FakeTracker()
    out = run(make(EngineConfig(), lambda: tracker), 10)
    assert {f.outcome for f in out} == {Outcome.SILENT}
    assert all(f.image is frame(f.index).image for f in out)
    assert tracker.calls == 4  # of ten


def test_a_silent_face_is_glanced_at_where_references_matter() -> None:
    tracker = TalkingTracker()
    session = make(EngineConfig(fade_s=0.0), lambda: tracker, spec=JobSpec(references=2))
    out = run(session, 10)
    assert {f.outcome for f in out} == {Outcome.SILENT}
    assert all(f.image is frame(f.index).image for f in out)
    assert tracker.calls == 4  # of ten
    tracker.opening = 0.1
    session.push_speech(voiced(1.0), 16_000, 0.4)
    for index in range(10, 60):
        session.push_video(frame(index + 1), index / 25)
        job = session.jobs.begin(index / 25)
        if job is not None:
            break
    assert job is not None
    # The first words are painted from the mouth that was shut before them.
    shut = make(tracker=TalkingTracker, spec=JobSpec(references=2))
    shut.push_video(frame(0), 0.0)
    first = shut.jobs.begin(0.0)
    assert first is not None
    assert np.array_equal(job.references[0], first.crop)
    assert not np.array_equal(job.references[1], first.crop)


@pytest.mark.parametrize("gone", [1, 5, 25])
def test_a_face_that_leaves_is_let_go_at_once_and_fades_in_on_its_return(gone: int) -> None:
    tracker = SceneTracker(ann=((160.0, 120.0), 90))
    session = make(EngineConfig(silence="generate", fade_s=0.16), lambda: tracker)
    change, image = [], picture()
    for index in range(40 + gone):
        tracker.hidden = {"ann"} if 20 <= index < 20 + gone else set()
        session.push_video(frame(index, image), index / 25)
        work(session, index / 25)
        (out,) = pop_all(session, index / 25 + DELAY_S)
        assert out.index == index  # never a frame lost
        change.append(int(np.abs(out.image.astype(int) - image).max()))
        painted = out.outcome is Outcome.GENERATED
        assert painted == (change[-1] > 0)
        if 20 <= index < 20 + gone:
            assert out.outcome is Outcome.NO_FACE
    full = change[19]
    assert change[20 : 20 + gone + 1] == [0] * (gone + 1)  # one more, to be sure of it
    back = change[20 + gone + 1 :]
    assert 0 < back[0] < 0.5 * full  # within five frames, and not at once
    assert np.all(np.diff(back[:4]) > 0)
    assert back[6] == pytest.approx(full, rel=0.1)


def test_after_a_cut_the_new_face_fades_in_from_its_own_references() -> None:
    tracker = SceneTracker(ann=((160.0, 120.0), 90))
    config = EngineConfig(silence="generate", fade_s=0.16)
    session = make(config, lambda: tracker, spec=JobSpec(references=2))
    strengths = []
    for index in range(20):
        image = picture(seed=index, scene=int(index >= 10))
        session.push_video(frame(index, image), index / 25)
        job = session.jobs.begin(index / 25)
        if index == 10:
            assert job is None  # one picture between two mouths
        elif job is not None:
            if index > 10:  # nothing of what was before the cut is among them
                mean = job.references.reshape(2, -1, 3).astype(float).mean(1)
                assert np.abs(mean - job.crop.reshape(-1, 3).mean(0)).max() < 3
            session.jobs.complete(job, paint(job), index / 25)
        (out,) = pop_all(session, index / 25 + DELAY_S)
        strengths.append(int(np.abs(out.image.astype(int) - image).max()))
    assert strengths[10] == 0 < strengths[11] < strengths[12] < strengths[13]


def test_the_face_can_be_chosen_and_the_figures_say_which() -> None:
    tracker = SceneTracker(ann=((90.0, 120.0), 90), bob=((230.0, 120.0), 80))
    session = make(tracker=lambda: tracker)
    assert session.stats(0.0).face == Sighting()
    images = [picture(seed=index) for index in range(9)]

    def see(index: int) -> Sighting:
        session.push_video(frame(index, images[index]), index / 25)
        work(session, index / 25)
        return session.stats(index / 25).face

    sighting = see(0)
    assert (sighting.state, sighting.faces, sighting.index) == (FaceState.TRACKED, 2, 0)
    session.choose_face(Choice(next=True))
    assert see(1).reason is Outcome.NO_FACE  # one picture between two mouths
    sighting = see(2)
    assert (sighting.index, sighting.policy, sighting.reason) == (1, "position", None)
    session.choose_face(Choice(Policy.LARGEST))
    see(3)
    assert see(4).index == 0
    assert tracker.followed == "ann"


def test_the_original_is_listened_to_only_while_lips_decide() -> None:
    session = make()
    assert not session.wants_original
    session.choose_face(Choice(Policy.LIPS))
    assert session.wants_original
    session.push_original(voiced(0.5, 48_000), 48_000, 0.0)
    heard = session.read_audio(48_000).samples
    assert not heard.any()  # listened to, and not heard
    session.choose_face(Choice(next=True))
    assert not session.wants_original


def test_the_one_whose_lips_go_with_the_original_is_dubbed() -> None:
    tracker = SceneTracker(ann=((90.0, 120.0), 90), bob=((230.0, 120.0), 80))
    session = make(tracker=lambda: tracker)
    session.choose_face(Choice(Policy.LIPS))
    sound = voiced(0.04, 48_000).astype(float)
    for index in range(125):
        loud = max(0.0, float(np.sin(2 * np.pi * 2.1 * index / 25)))
        tracker.openings = {"bob": 0.1 * loud}
        session.push_original((sound * loud).astype(np.int16), 48_000, index / 25)
        session.push_video(frame(index), index / 25)
        work(session, index / 25)
        pop_all(session, index / 25 + DELAY_S)
    assert session.stats(5.0).face.index == 1
    assert tracker.followed == "bob"
