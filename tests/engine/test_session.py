"""The session under a clock of our own: order, times, outcomes, sound."""

from __future__ import annotations

import itertools
import logging
import threading
from collections import Counter
from collections.abc import Callable
from fractions import Fraction

import numpy as np
import pytest
from fakes import (
    FakeBackend,
    FakeTracker,
    SceneTracker,
    ScriptedTracker,
    TalkingTracker,
    make_manifest,
    picture,
    video_frame,
    voiced,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.choice import Choice, Policy
from engine.config import EngineConfig
from engine.errors import ConfigError, MediaError, SessionClosed
from engine.loudness import CEILING
from engine.mel import SILENCE, log_mel, window, window_start_at
from engine.session import ABANDONED_S, MAX_FLIGHT, Session
from engine.types import (
    U8,
    FaceState,
    JobSpec,
    LipJob,
    Outcome,
    OutputFrame,
    Sighting,
    VideoFrame,
)

# Generating all the time takes the voice out of tests that are not about it.
ALWAYS = EngineConfig(silence="generate", fade_s=0.0)
DELAY_S, PATIENCE_S = ALWAYS.delay_s, ALWAYS.patience_s
PICTURES = [picture(96, 128, seed) for seed in range(4)]


def frame(index: int, image: U8 | None = None) -> VideoFrame:
    return VideoFrame(PICTURES[index % 4] if image is None else image, index, Fraction(1, 25))


def make(
    config: EngineConfig = ALWAYS, tracker: Callable[[], FakeTracker] = FakeTracker,
    now: float = 0.0, spec: JobSpec | None = None,
) -> Session:  # fmt: skip
    return Session("test", tracker, config, now=now, spec=spec)


def paint(job: LipJob) -> U8:
    return FakeBackend().generate([job])[0]


def work(session: Session, now: float) -> bool:
    """Do all of the next frame's work at once; whether there was a job."""
    job = session.next_job(now)
    if job is not None:
        session.complete(job, paint(job), now)
    return job is not None


def pop_all(session: Session, now: float) -> list[OutputFrame]:
    return list(iter(lambda: session.pop_video(now), None))


def run(session: Session, frames: int, start_s: float = 0.0, first: int = 0) -> list[OutputFrame]:
    """A healthy call at 25 fps."""
    out = []
    for index in range(first, first + frames):
        now = start_s + (index - first) / 25
        session.push_video(frame(index), now)
        work(session, now + 0.01)
        out += pop_all(session, now + 0.039)
    return out + pop_all(session, start_s + frames / 25 + session.config.delay_s)


# --- the way through ---


def test_frames_come_out_in_order_at_their_time() -> None:
    session = make()
    out = run(session, 20)
    assert [f.index for f in out] == list(range(20))
    assert [f.pts for f in out] == list(range(20))
    assert all(f.time_base == Fraction(1, 25) for f in out)
    assert np.allclose([f.playout_s for f in out], [i / 25 + DELAY_S for i in range(20)])
    assert all(f.outcome is Outcome.GENERATED for f in out)
    assert all(f.latency_s == pytest.approx(0.01) for f in out)
    assert all((f.image != frame(f.index).image).any() for f in out)


def test_a_frame_is_not_shown_before_its_time() -> None:
    session = make()
    session.push_video(frame(0), 1.0)
    work(session, 1.001)
    assert session.next_due() == pytest.approx(1.0 + DELAY_S)
    assert session.pop_video(1.0 + DELAY_S - 1e-6) is None
    out = session.pop_video(1.0 + DELAY_S)
    assert out is not None and out.outcome is Outcome.GENERATED
    assert session.next_due() is None


def test_the_clock_starts_where_the_caller_says() -> None:
    session = make(now=1e6)
    session.push_video(frame(0), 1e6 + 2)
    assert session.time_s(1e6 + 2) == 2
    assert session.earliest_deadline_s == pytest.approx(1e6 + 2 + DELAY_S)
    job = session.next_job(1e6 + 2)
    assert job is not None
    assert job.deadline_s == pytest.approx(1e6 + 2 + DELAY_S)
    session.complete(job, paint(job), 1e6 + 2.01)
    assert session.next_due() == pytest.approx(1e6 + 2 + DELAY_S)
    out = session.pop_video(1e6 + 3)
    assert out is not None
    assert out.playout_s == pytest.approx(2 + DELAY_S)


def test_a_job_carries_all_it_needs() -> None:
    session = Session("name", FakeTracker, EngineConfig(silence="generate", seed=7), steps=4)
    session.push_video(frame(0), 0.0)
    job = session.next_job(0.0)
    assert job is not None
    assert (job.session, job.index, job.seed, job.steps) == ("name", 0, 7, 4)
    assert job.crop.shape == (128, 128, 3) and job.references.shape == (1, 128, 128, 3)
    assert job.mel.shape == (80, 16)
    assert session.next_job(0.0) is None
    session.set_steps(1)
    session.push_video(frame(1), 0.04)
    job = session.next_job(0.04)
    assert job is not None and job.steps == 1


def test_a_job_has_the_shapes_that_the_model_asks_for() -> None:
    session = make(spec=JobSpec(64, "box", references=3, mel_columns=20))
    session.push_video(frame(0), 0.0)
    job = session.next_job(0.0)
    assert job is not None
    assert job.crop.shape == (64, 64, 3) and job.references.shape == (3, 64, 64, 3)
    assert job.mel.shape == (80, 20)
    session.adopt(make_manifest(crop_size=96, references=2, mel={"columns": 24}, default_steps=8,
                                steps_offered=(8,)))  # fmt: skip
    session.push_video(frame(1), 0.04)
    job = session.next_job(0.04)
    assert job is not None
    assert job.crop.shape == (96, 96, 3) and job.references.shape == (2, 96, 96, 3)
    assert (job.mel.shape, job.steps) == ((80, 24), 8)


def test_all_of_a_job_is_for_one_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another one may be adopted at any time, from another thread."""
    session = make()
    adopting = threading.Thread(
        target=session.adopt, args=(make_manifest(crop_size=64, mel={"columns": 24}),)
    )
    listen = session._speech.mel_window

    def interrupted(*arguments: float) -> object:
        adopting.start()
        adopting.join(0.1)
        return listen(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(session._speech, "mel_window", interrupted)
    session.push_video(frame(0), 0.0)
    job = session.next_job(0.0)
    adopting.join(20)
    monkeypatch.undo()
    assert job is not None
    assert (job.crop.shape[0], job.mel.shape[1]) == (128, 16)
    session.push_video(frame(1), 0.04)
    job = session.next_job(0.04)
    assert job is not None
    assert (job.crop.shape[0], job.mel.shape[1]) == (64, 24)


def test_steps_that_the_model_does_not_offer_are_refused() -> None:
    session = Session("test", FakeTracker, steps_offered=(1, 2))
    with pytest.raises(ConfigError, match=r"steps is 3, must be one of \[1, 2\]"):
        session.set_steps(3)
    assert session.steps == 2


@pytest.mark.parametrize(
    "image",
    [np.zeros((9, 9), np.uint8), np.zeros((9, 9, 4), np.uint8), np.zeros((9, 9, 3), np.float32)],
)
def test_what_is_no_picture_is_refused(image: U8) -> None:
    session = make()
    with pytest.raises(MediaError, match=r"must be uint8\[H, W, 3\]; got"):
        session.push_video(VideoFrame(image, 0, Fraction(1, 25)), 0.0)
    assert session.stats(0.0).frames_in == 0


# --- what can happen to a frame ---


def test_a_newer_frame_overtakes_one_that_nobody_has_begun() -> None:
    session = make()
    for index in range(3):
        session.push_video(frame(index), index / 100)
    work(session, 0.03)
    out = pop_all(session, 1.0)
    assert [f.outcome for f in out] == [
        Outcome.OVERLOADED, Outcome.OVERLOADED, Outcome.GENERATED,
    ]  # fmt: skip
    assert out[0].image is frame(0).image


def test_a_frame_that_has_been_begun_is_not_overtaken() -> None:
    session = make()
    session.push_video(frame(0), 0.0)
    job = session.next_job(0.0)
    session.push_video(frame(1), 0.04)
    assert job is not None
    session.complete(job, paint(job), 0.05)
    work(session, 0.05)
    assert [f.outcome for f in pop_all(session, 0.2)] == [Outcome.GENERATED] * 2


def test_late_is_late_only_after_patience_and_later_results_are_dropped() -> None:
    session = make()
    session.push_video(frame(0), 0.0)
    job = session.next_job(0.0)
    assert job is not None
    assert session.next_due() == pytest.approx(DELAY_S + PATIENCE_S)
    assert session.pop_video(DELAY_S + PATIENCE_S) is None
    out = session.pop_video(DELAY_S + PATIENCE_S + 1e-3)
    assert out is not None and out.outcome is Outcome.LATE
    assert out.image is frame(0).image
    session.complete(job, paint(job), 0.3)
    session.fail(job, 0.3)
    assert session.pop_video(1.0) is None
    assert session.stats(1.0).outcomes == {Outcome.LATE: 1}


def test_a_result_within_patience_is_still_shown() -> None:
    session = make()
    session.push_video(frame(0), 0.0)
    job = session.next_job(0.0)
    assert job is not None
    assert session.pop_video(DELAY_S + PATIENCE_S - 0.01) is None
    session.complete(job, paint(job), DELAY_S + PATIENCE_S - 0.005)
    out = session.pop_video(DELAY_S + PATIENCE_S - 0.005)
    assert out is not None and out.outcome is Outcome.GENERATED


def test_a_frame_that_nobody_begins_goes_out_late_and_is_not_begun_any_more() -> None:
    session = make()
    session.push_video(frame(0), 0.0)
    out = session.pop_video(1.0)
    assert out is not None and out.outcome is Outcome.LATE
    assert session.earliest_deadline_s is None
    assert session.next_job(1.0) is None


def test_no_face() -> None:
    out = run(make(tracker=lambda: ScriptedTracker({1, 2})), 6)
    assert [f.outcome for f in out] == [
        Outcome.GENERATED, *[Outcome.NO_FACE] * 3, Outcome.GENERATED, Outcome.GENERATED,
    ]  # fmt: skip
    assert out[1].image is frame(1).image


def test_an_unusable_face() -> None:
    out = run(make(tracker=lambda: FakeTracker(width=0.1)), 2)
    assert {f.outcome for f in out} == {Outcome.FACE_UNUSABLE}


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
        job = session.next_job(index / 25)
        if index == 10:
            assert job is None  # one picture between two mouths
        elif job is not None:
            if index > 10:  # nothing of what was before the cut is among them
                mean = job.references.reshape(2, -1, 3).astype(float).mean(1)
                assert np.abs(mean - job.crop.reshape(-1, 3).mean(0)).max() < 3
            session.complete(job, paint(job), index / 25)
        (out,) = pop_all(session, index / 25 + DELAY_S)
        strengths.append(int(np.abs(out.image.astype(int) - image).max()))
    assert strengths[10] == 0 < strengths[11] < strengths[12] < strengths[13]


def test_a_covered_mouth_passes_through() -> None:
    session = make()
    bare = picture(300, 400)
    covered = bare.copy()
    covered[174:214, 165:235] = (30, 30, 30)
    outcomes = []
    for index in range(40):
        image = covered if 25 <= index < 30 else bare
        session.push_video(frame(index, image), index / 25)
        work(session, index / 25)
        outcomes += [f.outcome for f in pop_all(session, index / 25 + DELAY_S)]
    assert outcomes == [
        *[Outcome.GENERATED] * 25, *[Outcome.OCCLUDED] * 5, *[Outcome.GENERATED] * 10,
    ]  # fmt: skip


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


@pytest.mark.parametrize("shape", [(16, 16), (0, 0), (4100, 60)])
def test_unsuitable_sizes(shape: tuple[int, int]) -> None:
    session = make()
    session.push_video(frame(0, np.zeros((*shape, 3), np.uint8)), 0.0)
    assert not work(session, 0.0)
    out = session.pop_video(1.0)
    assert out is not None and out.outcome is Outcome.UNSUITABLE
    assert out.image.shape == (*shape, 3)


def test_a_size_may_change_from_frame_to_frame() -> None:
    session = make()
    shapes = [(96, 128), (480, 640), (20, 20), (200, 100)]
    for index, (height, width) in enumerate(shapes):
        session.push_video(frame(index, picture(height, width)), index / 25)
        work(session, index / 25)
    out = pop_all(session, 2.0)
    assert [f.image.shape[:2] for f in out] == shapes
    assert out[2].outcome is Outcome.UNSUITABLE


def test_a_failing_tracker_is_a_fault_and_the_next_frame_is_tried(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.ERROR):
        out = run(make(tracker=lambda: ScriptedTracker(failing={0, 2})), 4)
    assert [f.outcome for f in out] == [
        Outcome.FAULT, Outcome.GENERATED, Outcome.FAULT, Outcome.GENERATED,
    ]  # fmt: skip
    assert out[0].image is frame(0).image
    assert "tracking frame 0 failed" in caplog.text
    assert len(caplog.records) == 1  # one with its trace; a fault a frame must not fill the disk


def test_a_tracker_that_cannot_be_made_is_a_fault() -> None:
    def broken() -> FakeTracker:
        raise OSError("libGL.so.1 is missing")

    out = run(make(tracker=broken), 3)
    assert {f.outcome for f in out} == {Outcome.FAULT}


def test_a_failing_model_is_a_fault() -> None:
    session = make()
    session.push_video(frame(0), 0.0)
    job = session.next_job(0.0)
    assert job is not None
    session.fail(job, 0.01)
    out = session.pop_video(0.1)
    assert out is not None and out.outcome is Outcome.FAULT
    assert out.image is frame(0).image


def test_a_picture_of_the_wrong_shape_from_the_model_is_a_fault() -> None:
    session = make()
    session.push_video(frame(0), 0.0)
    job = session.next_job(0.0)
    assert job is not None
    session.complete(job, np.zeros((64, 64, 3), np.uint8), 0.01)
    out = session.pop_video(0.1)
    assert out is not None and out.outcome is Outcome.FAULT


# --- the voice ---


def test_silence_passes_through_and_is_glanced_at() -> None:
    tracker = FakeTracker()
    out = run(make(EngineConfig(), lambda: tracker), 10)
    assert {f.outcome for f in out} == {Outcome.SILENT}
    assert all(f.image is frame(f.index).image for f in out)
    assert tracker.calls == 4  # of ten


def test_the_mouth_speaks_while_the_voice_is_heard_and_fades_at_both_ends() -> None:
    session = make(EngineConfig(fade_s=0.16))
    heard_s = session.push_speech(voiced(1.0), 16_000, 0.0)
    out = run(session, 75)
    spoken = [f for f in out if f.outcome is Outcome.GENERATED]
    assert {f.outcome for f in out} == {Outcome.GENERATED, Outcome.SILENT}
    first, last = spoken[0].playout_s, spoken[-1].playout_s
    assert heard_s - 0.2 <= first <= heard_s
    assert heard_s + 1.0 <= last <= heard_s + 1.0 + 0.8
    assert [f.index for f in spoken] == list(range(spoken[0].index, spoken[-1].index + 1))

    def change(f: OutputFrame) -> float:
        return float(np.abs(f.image.astype(int) - frame(f.index).image).sum())

    # Every fourth picture is the same one, so that these differ by their strength alone.
    assert change(spoken[0]) < 0.4 * change(spoken[4]) < change(spoken[8])
    assert change(spoken[-1]) < 0.4 * change(spoken[-5]) < change(spoken[-9])
    assert change(spoken[8]) == pytest.approx(change(spoken[12]), rel=0.05)


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
        job = session.next_job(index / 25)
        if job is not None:
            break
    assert job is not None
    # The first words are painted from the mouth that was shut before them.
    shut = make(spec=JobSpec(references=2))
    shut.push_video(frame(0), 0.0)
    first = shut.next_job(0.0)
    assert first is not None
    assert np.array_equal(job.references[0], first.crop)
    assert not np.array_equal(job.references[1], first.crop)


@pytest.mark.parametrize("columns", [16, 24])
def test_the_frame_shown_at_a_time_hears_what_is_heard_at_that_time(columns: int) -> None:
    """More columns than the paper's are more past."""
    session = make(spec=JobSpec(mel_columns=columns))
    samples = np.concatenate([voiced(1.0), np.zeros(16_000, np.int16)])
    start_s = session.push_speech(samples, 16_000, 0.0)
    place = np.zeros(48_000, np.int16)
    start = round(start_s * 16_000)
    place[start : start + len(samples)] = samples
    mel = log_mel(place.astype(np.float32) / 32768)
    sound = []
    for index in range(40):
        now = index / 25
        session.push_video(frame(index), now)
        job = session.next_job(now)
        assert job is not None
        # The middle of the time that it stands, which the second picture tells.
        middle_s = now + DELAY_S + (0.02 if index else 0.0)
        wanted = window(mel, window_start_at(middle_s, columns), columns)
        assert np.abs(job.mel - wanted).max() < 1e-4
        paper = window(mel, window_start_at(middle_s))
        assert np.array_equal(wanted[:, -16:], paper)
        while (chunk := session.pop_audio(now)) is not None:
            sound.append(chunk)
    assert [chunk.start for chunk in sound] == [960 * i for i in range(len(sound))]
    heard = np.concatenate([chunk.samples for chunk in sound])
    onset_s = np.flatnonzero(np.abs(heard.astype(int)) > 50)[0] / 48_000
    assert onset_s == pytest.approx(start_s, abs=0.001)


def test_sound_comes_in_blocks_when_it_is_due() -> None:
    session = make()
    assert session.pop_audio(-0.001) is None
    blocks = [session.pop_audio(0.0), session.pop_audio(0.0199), session.pop_audio(0.02)]
    assert blocks[0] is not None and blocks[1] is None and blocks[2] is not None
    assert (blocks[0].start, blocks[2].start) == (0, 960)
    assert blocks[0].rate_hz == 48_000
    assert len(blocks[0].samples) == 960


def test_an_interruption_silences_and_closes_the_mouth() -> None:
    session = make(EngineConfig(fade_s=0.0))
    session.push_speech(voiced(5.0), 16_000, 0.0)
    assert session.stats(0.5).speech_backlog_s > 4
    outcomes = []
    for index in range(75):
        now = index / 25
        if index == 25:
            session.interrupt_speech(now)
        session.push_video(frame(index), now)
        work(session, now)
        outcomes += [f.outcome for f in pop_all(session, now + 0.039)]
        for _ in range(2):
            session.pop_audio(now + 0.02)
    assert session.stats(1.2).speech_backlog_s == 0
    assert outcomes[20] is Outcome.GENERATED
    assert set(outcomes[45:]) == {Outcome.SILENT}
    assert not session.read_audio(48_000).samples.any()


def test_the_original_voice_is_heard_at_its_level() -> None:
    session = make(EngineConfig(original_level=0.25))
    for index in range(50):
        session.push_original(np.full(960, 8000, np.int16), 48_000, 0.02 * index)
    voice = np.full(24_000, 1000, np.int16)
    start = round(session.push_speech(voice, 48_000, 0.0) * 48_000)
    heard = session.read_audio(48_000).samples
    assert not heard[: round(DELAY_S * 48_000)].any()
    assert np.all(heard[round(DELAY_S * 48_000) : start] == 2000)
    assert np.all(heard[start : start + 20_000] == 3000)


def test_the_original_is_not_heard_unless_asked_for() -> None:
    session = make()
    session.push_original(np.full(960, 8000, np.int16), 48_000, 0.0)
    assert not session.read_audio(9600).samples.any()
    session.set_sound(original_level=1.0)
    session.push_original(np.full(48_000, 8000, np.int16), 48_000, 0.3)
    heard = session.read_audio(48_000).samples  # it rises without a click
    assert heard.max() == 8000 and np.abs(np.diff(heard[12_000:].astype(int))).max() < 250
    for wrong in ({"original_level": 7.0}, {"loudness_lufs": 3.0}):
        with pytest.raises(ConfigError):
            session.set_sound(**wrong)


def test_a_loud_mix_is_limited_and_not_clipped() -> None:
    session = make(EngineConfig(original_level=1.0))
    for index in range(20):
        session.push_original(np.full(960, 30_000, np.int16), 48_000, 0.02 * index)
    session.push_speech(np.full(4_800, 30_000, np.int16), 48_000, 0.0)
    heard = session.read_audio(24_000).samples
    assert 29_000 < heard.max() <= np.ceil(CEILING * 32768)
    assert heard.min() >= 0


def test_silence_can_be_shown_as_a_shut_mouth_and_back_while_it_runs() -> None:
    session = make(EngineConfig(fade_s=0.08))

    def outcomes(first: int, silence: str) -> list[Outcome]:
        session.set_silence(silence)  # type: ignore[arg-type]
        seen = []
        for index in range(first, first + 10):
            session.push_video(frame(index), index / 25)
            work(session, index / 25)
            seen += [f.outcome for f in pop_all(session, index / 25 + 0.039)]
        return seen[-5:]

    assert set(outcomes(0, "original")) == {Outcome.SILENT}
    assert set(outcomes(10, "generate")) == {Outcome.GENERATED}
    assert set(outcomes(20, "original")) == {Outcome.SILENT}
    with pytest.raises(ConfigError, match="silence is 'open'"):
        session.set_silence("open")  # type: ignore[arg-type]


def test_a_shut_mouth_does_not_hear_noise() -> None:
    """Breath, hiss and tones in the voice's pauses reach the ears, not the model."""
    rng = np.random.default_rng(0)
    session = make(EngineConfig(silence="generate"))
    noise = np.concatenate([np.zeros(8_000), rng.normal(0, 300, 40_000)]).astype(np.int16)
    session.push_speech(noise, 16_000, 0.0)
    for index in range(60):
        session.push_video(frame(index), index / 25)
        job = session.next_job(index / 25)
        assert job is not None
        if index > 35:  # a voice detector needs a moment to know the noise
            assert np.all(job.mel == SILENCE)
    assert session.read_audio(96_000).samples.any()


@pytest.mark.parametrize("fps", [10, 25, 30, 60])
@pytest.mark.parametrize("at_s", [1.0, 1.013, 1.031])
def test_after_an_interruption_no_mouth_moves_later_than_100_ms(fps: int, at_s: float) -> None:
    for silence in ("original", "generate"):
        session = make(EngineConfig(silence=silence))  # type: ignore[arg-type]
        session.push_speech(voiced(5.0), 16_000, 0.0)
        interrupted = False
        for index in range(2 * fps):
            now = index / fps
            if now >= at_s and not interrupted:
                session.interrupt_speech(at_s)
                interrupted = True
            while session.pop_audio(now) is not None:
                pass
            session.push_video(frame(index), now)
            job = session.next_job(now)
            moves = job is not None and (silence == "original" or bool((job.mel > SILENCE).any()))
            playout_s = now + session.config.delay_s
            # A picture may take the place of one that was shown within the time.
            if playout_s > at_s + 0.1 + 1 / fps:
                assert not moves, f"{silence}: at {playout_s - at_s:.3f} s"
            elif 0.6 < playout_s < at_s:
                assert moves


@pytest.mark.parametrize("fps", [10, 25, 30, 60])
@pytest.mark.parametrize("at_s", [1.0, 1.013, 1.031])
@pytest.mark.parametrize("delay_s", [0.06, 0.3])
def test_no_picture_shows_an_interrupted_mouth_after_100_ms(
    fps: int, at_s: float, delay_s: float
) -> None:
    """Nor do those that had been painted before the interruption and waited for their time."""
    session = make(EngineConfig(delay_s=delay_s))
    session.push_speech(voiced(5.0), 16_000, 0.0)
    shown: list[OutputFrame] = []
    late: list[LipJob] = []
    interrupted = False
    for tick in range(2 * 120):
        now = tick / 120
        if now >= at_s and not interrupted:
            session.interrupt_speech(at_s)
            interrupted = True
        if tick % (120 // fps) == 0:
            session.push_video(frame(tick), now)
            job = session.next_job(now)
            if job is not None:
                late.append(job)
        while len(late) > 1:  # a device that takes its time
            job = late.pop(0)
            session.complete(job, paint(job), now)
        shown += pop_all(session, now)
    before = [out for out in shown if 0.65 < out.playout_s < at_s - 0.1]
    assert before and all(out.outcome is Outcome.GENERATED for out in before)
    for out in shown:
        differs = bool((out.image != PICTURES[out.pts % 4]).any())
        if out.playout_s > at_s + 0.06:
            assert not differs and out.outcome is not Outcome.GENERATED


@pytest.mark.parametrize("fps", [10, 24, 60])
def test_the_end_of_speech_does_not_leave_the_mouth_open(fps: int) -> None:
    session = make(EngineConfig())
    start_s = session.push_speech(voiced(0.7), 16_000, 0.0)
    end_s, shown = start_s + 0.7, []
    for index in range(3 * fps):
        session.push_video(frame(index), index / fps)
        work(session, index / fps)
        shown += pop_all(session, (index + 0.9) / fps)
    last = max(f.playout_s for f in shown if f.outcome is Outcome.GENERATED)
    assert end_s < last < end_s + 0.3 + 0.05 + 0.16 + 3 / fps


# --- numbers ---


def test_statistics() -> None:
    session = make(tracker=lambda: ScriptedTracker({3}))
    out = run(session, 50, start_s=5.0)
    assert len(out) == 50
    stats = session.stats(out[-1].playout_s)
    assert (stats.frames_in, stats.frames_out) == (50, 50)
    assert stats.outcomes == {Outcome.GENERATED: 48, Outcome.NO_FACE: 2}
    assert stats.generated == 48
    assert stats.fps == pytest.approx(25, rel=0.1)
    assert DELAY_S <= stats.delay_p50_s <= 0.08
    assert stats.delay_p95_s >= stats.delay_p50_s
    assert stats.speaking is False
    assert stats.steps == 2
    assert session.stats(60.0).fps == 0.0


def test_asking_for_statistics_does_not_move_the_voice() -> None:
    asked, left = make(), make()
    pushed = []
    for session in (asked, left):
        session.push_speech(voiced(0.1), 16_000, 0.0)
        for step in range(30):
            if session is asked:
                session.stats(step / 100)
        pushed.append(session.push_speech(voiced(0.1), 16_000, 0.15))
        assert session.stats(0.3).speaking
    assert pushed[0] == pushed[1]


# --- the end ---


def test_closing_lets_out_what_is_in_flight() -> None:
    tracker = FakeTracker()
    session = make(tracker=lambda: tracker)
    session.push_video(frame(0), 0.0)
    job = session.next_job(0.0)
    session.push_video(frame(1), 0.04)
    session.close()
    session.close()
    assert tracker.closed
    assert job is not None
    session.complete(job, paint(job), 0.05)
    assert session.next_job(0.05) is None
    assert [f.outcome for f in pop_all(session, 1.0)] == [Outcome.LATE, Outcome.LATE]
    with pytest.raises(SessionClosed, match="session test has ended"):
        session.push_video(frame(2), 0.1)
    with pytest.raises(SessionClosed):
        session.push_speech(voiced(0.1), 16_000, 0.1)
    session.push_original(np.zeros(10, np.int16), 48_000, 0.1)  # the last packets may still come
    session.interrupt_speech(0.1)
    session.flush_speech()
    assert session.pop_audio(0.2) is not None
    assert session.stats(1.0).frames_out == 2


def test_closing_waits_for_the_tracker_at_work() -> None:
    inside, go_on = threading.Event(), threading.Event()

    class Slow(FakeTracker):
        def track(self, image: U8) -> None:
            inside.set()
            assert go_on.wait(5)
            assert not self.closed

    tracker = Slow()
    session = make(tracker=lambda: tracker)
    session.push_video(frame(0), 0.0)
    worker = threading.Thread(target=session.next_job, args=(0.0,))
    worker.start()
    assert inside.wait(5)
    closer = threading.Thread(target=session.close)
    closer.start()
    assert session.pop_video(1.0) is not None  # nobody else waits
    go_on.set()
    worker.join(5)
    closer.join(5)
    assert tracker.closed


def test_memory_is_bounded_when_nobody_pops() -> None:
    session = make()
    for index in range(500):
        session.push_video(frame(index), index / 25)
        work(session, index / 25)
    held = len(session._flight)
    assert held <= (DELAY_S + PATIENCE_S + ABANDONED_S) * 25 + 2
    out = pop_all(session, 30.0)
    assert [f.index for f in out] == list(range(500 - held, 500))
    stats = session.stats(30.0)
    assert stats.frames_out == held
    assert stats.outcomes[Outcome.LATE] == 500 - held


def test_memory_is_bounded_against_a_flood() -> None:
    session = make(EngineConfig(silence="generate", fade_s=0.0, ladder=False))
    for index in range(MAX_FLIGHT + 300):
        session.push_video(frame(index), 0.0)
    assert len(session._flight) == MAX_FLIGHT
    assert work(session, 0.0)
    assert [f.index for f in pop_all(session, 1.0)] == list(range(300, MAX_FLIGHT + 300))


def test_a_long_delay_drops_nothing() -> None:
    session = make(EngineConfig(delay_s=2.0, silence="generate", fade_s=0.0))
    out = []
    for index in range(300):  # 60 fps
        now = index / 60
        session.push_video(frame(index), now)
        work(session, now)
        out += pop_all(session, now)
    out += pop_all(session, 10.0)
    assert [f.index for f in out] == list(range(300))
    assert {f.outcome for f in out} == {Outcome.GENERATED}


# --- off-line ---


def test_off_line_nothing_is_late_or_overtaken_and_speech_begins_at_zero() -> None:
    config = EngineConfig(offline=True, fade_s=0.0)
    session = make(config)
    assert session.push_speech(voiced(2.0, 24_000), 24_000, 0.0) == 0.0
    session.flush_speech()
    reference = make(config)
    reference.push_speech(voiced(2.0, 24_000), 24_000, 0.0)
    for index in range(100):  # far more than a live session would hold
        session.push_video(frame(index), index / 25)
    out = []
    for index in range(100):
        assert session.pop_video(1e6) is None  # waiting for ever is no reason to give up
        work(session, 1e5)
        out += pop_all(session, 0.0)  # and what is ready is not held back
        reference.push_video(frame(index), index / 25)
        work(reference, index / 25)
        (same,) = pop_all(reference, index / 25)
        assert np.array_equal(out[-1].image, same.image)
    assert [f.index for f in out] == list(range(100))
    assert [f.playout_s for f in out] == [index / 25 for index in range(100)]
    spoken = [f.outcome is Outcome.GENERATED for f in out]
    assert all(spoken[:50])
    assert not any(spoken[70:])
    sound = session.read_audio(96_000)
    assert sound.start == 0
    assert sound.samples.any()
    assert not session.read_audio(9600).samples.any()


def test_off_line_the_original_lies_under_its_own_pictures() -> None:
    session = make(EngineConfig(offline=True, original_level=0.5))
    for index in range(100):  # all of it before anything is read
        session.push_original(np.full(4_800, 100 * index, np.int16), 48_000, 0.1 * index)
    heard = session.read_audio(480_000).samples.reshape(100, 4_800)
    assert np.array_equal(heard[:, 2_400], 50 * np.arange(100))


# --- any order of things ---

EVENTS = st.lists(
    st.one_of(
        st.tuples(st.just("push"), st.integers(0, 2)),
        st.tuples(st.just("begin"), st.just(0)),
        st.tuples(st.sampled_from(["complete", "fail"]), st.integers(0, 5)),
        st.tuples(st.just("pop"), st.just(0)),
        st.tuples(st.just("wait"), st.integers(0, 30)),
        st.tuples(st.just("speak"), st.integers(0, 30)),
        st.tuples(st.sampled_from(["interrupt", "stats", "due"]), st.just(0)),
    ),
    max_size=60,
)


@settings(max_examples=150, deadline=None)
@given(
    events=EVENTS, offline=st.booleans(), silence=st.booleans(), close=st.booleans(),
    bad=st.sets(st.integers(0, 20)),
)  # fmt: skip
def test_no_interleaving_loses_or_reorders_a_frame(
    events: list[tuple[str, int]], offline: bool, silence: bool, close: bool, bad: set[int]
) -> None:
    logging.disable(logging.CRITICAL)  # scripted faults
    config = EngineConfig(
        offline=offline, silence="original" if silence else "generate", fade_s=0.08
    )
    session = make(config, lambda: ScriptedTracker(failing=bad, missing={n + 1 for n in bad}))
    now, count = 0.0, itertools.count()
    pushed = 0
    jobs: list[LipJob] = []
    out: list[OutputFrame] = []
    try:
        for name, amount in events:
            if name == "push":
                small = np.zeros((20, 20, 3), np.uint8) if amount == 2 else None
                session.push_video(frame(next(count), small), now)
                pushed += 1
            elif name == "begin" and (job := session.next_job(now)) is not None:
                jobs.append(job)
            elif name == "complete" and jobs:
                job = jobs.pop(amount % len(jobs))
                session.complete(job, paint(job), now)
            elif name == "fail" and jobs:
                session.fail(jobs.pop(amount % len(jobs)), now)
            elif name == "pop" and (popped := session.pop_video(now)) is not None:
                assert offline or popped.playout_s <= now
                out.append(popped)
            elif name == "wait":
                now += amount / 100
            elif name == "speak":
                session.push_speech(voiced(amount / 10), 16_000, now)
            elif name == "interrupt":
                session.interrupt_speech(now)
            elif name == "stats":
                assert session.stats(now).frames_in == pushed
            elif name == "due" and (due := session.next_due()) is not None and not offline:
                session_out = session.pop_video(due + 1e-9)
                if session_out is not None:
                    out.append(session_out)
        if close:
            session.close()
        else:
            while session.earliest_deadline_s is not None:
                if (job := session.next_job(now)) is not None:
                    jobs.append(job)
            for job in jobs:
                session.complete(job, paint(job), now)
        out += pop_all(session, now + 100)
    finally:
        logging.disable(logging.NOTSET)
    assert [f.index for f in out] == list(range(pushed))
    assert [f.pts for f in out] == list(range(pushed))
    stats = session.stats(now + 100)
    assert stats.frames_out == stats.frames_in == pushed
    assert stats.outcomes == Counter(f.outcome for f in out)
    for f in out:
        changed = f.outcome is Outcome.GENERATED
        if f.image.shape[0] > 20:
            assert changed or f.image is frame(f.index).image
    if offline and not close:
        assert not {Outcome.LATE, Outcome.OVERLOADED} & set(stats.outcomes)


def test_every_thread_may_call_at_once() -> None:
    """Pushing, working, popping and asking from four threads for a while."""
    session = make(EngineConfig(fade_s=0.0))
    ended = threading.Event()
    errors: list[BaseException] = []
    out: list[OutputFrame] = []
    clock = itertools.count()

    def now() -> float:
        return next(clock) / 20_000

    def loop(action: Callable[[], object]) -> threading.Thread:
        def body() -> None:
            try:
                while not ended.is_set():
                    action()
            except BaseException as error:
                errors.append(error)

        return threading.Thread(target=body)

    def pop() -> None:
        if (popped := session.pop_video(now())) is not None:
            out.append(popped)
        session.pop_audio(now())

    def talk() -> None:
        session.push_speech(voiced(0.01), 16_000, now())
        session.stats(now())
        session.next_due()
        session.interrupt_speech(now())

    indices = itertools.count()
    threads = [
        loop(lambda: session.push_video(frame(next(indices)), now())),
        loop(lambda: work(session, now())),
        loop(pop),
        loop(talk),
    ]
    for thread in threads:
        thread.start()
    ended.wait(0.4)
    ended.set()
    for thread in threads:
        thread.join(5)
    session.close()
    out += pop_all(session, 1e9)
    assert not errors
    assert out
    indices_out = [f.index for f in out]
    assert indices_out == sorted(set(indices_out))


def test_push_wakes_the_worker() -> None:
    woken: list[bool] = []
    session = Session("test", FakeTracker, wake=lambda: woken.append(True))
    session.push_video(video_frame(0), 0.0)
    assert woken == [True]


# --- overload ---


def slow(session: Session, frames: int, took_s: float, first: int = 0) -> list[OutputFrame]:
    """A call at 25 fps whose device takes `took_s` for each job, one at a time."""
    out, running, free_s = [], None, 0.0
    for index in range(first, first + frames):
        now = index / 25
        session.push_video(frame(index), now)
        for step in range(8):
            now = index / 25 + step * 0.005
            if running is not None and free_s <= now:
                session.complete(running, paint(running), now, took_s)
                running = None
            if running is None and (running := session.next_job(now)) is not None:
                free_s = now + took_s
            out += pop_all(session, now)
    return out


def test_a_slow_device_gets_fewer_steps_and_all_frames_go_out() -> None:
    session = make()
    out = slow(session, 50, 0.01)
    assert session.stats(2.0).rung == "full" and session.job_steps == 2
    out += slow(session, 50, 0.045, first=50)
    stats = session.stats(4.0)
    assert session.steps == 2 and session.job_steps == stats.steps == 1
    assert stats.rung == "one" or stats.rung == "half"
    assert stats.rung_reason == "pictures came too late" and stats.rung_changes
    out += pop_all(session, 5.0)
    assert [f.index for f in out] == list(range(100))


def test_every_second_frame_is_painted_and_then_none() -> None:
    session = make()
    out = slow(session, 25, 0.01)
    out += slow(session, 75, 0.06, first=25)
    assert session.stats(4.0).rung == "half"
    settled = [f for f in out if f.index > 60]
    painted = [f.index for f in settled if f.outcome is Outcome.GENERATED]
    assert all(b - a == 2 for a, b in itertools.pairwise(painted)) and len(painted) > 10
    # Those between hold its mouth: an original between two painted ones would flicker.
    assert {f.outcome for f in settled} == {Outcome.GENERATED, Outcome.HELD}
    assert all((f.image != frame(f.index).image).any() and f.box for f in settled)
    out += slow(session, 75, 0.3, first=100)
    assert session.stats(7.0).rung == "none"
    lowest = [f for f in out if f.index > 150]
    assert {f.outcome for f in lowest} == {Outcome.OVERLOADED}  # what is probed is not shown
    assert all((f.image == frame(f.index).image).all() for f in lowest)
    out += slow(session, 75, 0.01, first=175)
    assert session.stats(10.0).rung == "full"
    changes = session.rung_changes()
    assert [c.after.name for c in changes][-3:] == ["half", "one", "full"]
    assert changes[-1].at_s < 10.0 and session.rung_changes(changes[-2].number) == changes[-1:]
    assert [f.index for f in out] == list(range(len(out)))  # in order, none missing


def halved() -> Session:
    """A session on the rung that paints every second frame; its last frame was painted."""
    session = make()
    slow(session, 48, 0.06)
    assert session.stats(2.0).rung == "half"
    index = 48
    while True:
        session.push_video(frame(index), index / 25)
        if (job := session.next_job(index / 25)) is not None:
            session.complete(job, paint(job), index / 25, 0.06)
            pop_all(session, index / 25 + 1)
            return session
        index += 1


def test_a_held_mouth_is_that_of_the_frame_before_whichever_is_ready_first() -> None:
    session = halved()
    first = session.stats(0.0).frames_in
    start_s = first / 25
    # The frame that holds is ready for the mouth that was generated before it ...
    session.push_video(frame(first), start_s)
    assert session.next_job(start_s) is None
    # ... and the next one waits for a mouth that is still being generated.
    session.push_video(frame(first + 1), start_s + 0.04)
    job = session.next_job(start_s + 0.04)
    assert job is not None and job.index == first + 1
    session.push_video(frame(first + 2), start_s + 0.08)
    assert session.next_job(start_s + 0.08) is None
    (held,) = pop_all(session, start_s + DELAY_S)
    assert held.outcome is Outcome.HELD
    assert pop_all(session, start_s + 0.04 + DELAY_S) == []
    session.complete(job, paint(job), start_s + 0.105, 0.06)
    out = pop_all(session, start_s + 0.08 + DELAY_S)
    assert [f.outcome for f in out] == [Outcome.GENERATED, Outcome.HELD]


def test_without_a_mouth_to_hold_the_original_goes_out_at_once() -> None:
    session = halved()
    first = session.stats(0.0).frames_in + 1
    start_s = first / 25
    session.push_video(frame(first - 1), start_s - 0.04)
    assert session.next_job(start_s - 0.04) is None
    session.push_video(frame(first), start_s)
    job = session.next_job(start_s)
    assert job is not None
    session.push_video(frame(first + 1), start_s + 0.04)
    assert session.next_job(start_s + 0.04) is None  # it waits
    session.fail(job, start_s + 0.05)
    session.push_video(frame(first + 2), start_s + 0.08)
    job = session.next_job(start_s + 0.08)
    assert job is not None
    session.fail(job, start_s + 0.09)
    session.push_video(frame(first + 3), start_s + 0.12)
    assert session.next_job(start_s + 0.12) is None
    out = pop_all(session, start_s + 0.12 + DELAY_S)
    assert [f.index for f in out] == list(range(first - 1, first + 4))
    assert [f.outcome for f in out[1:]] == [
        Outcome.FAULT, Outcome.FAULT, Outcome.FAULT, Outcome.OVERLOADED
    ]  # fmt: skip


def test_without_the_ladder_steps_stay() -> None:
    session = make(EngineConfig(silence="generate", fade_s=0.0, ladder=False))
    slow(session, 75, 0.3)
    stats = session.stats(3.0)
    assert stats.rung == "full" and stats.rung_changes == {} and session.job_steps == 2


def test_frames_that_pass_in_silence_are_not_missed() -> None:
    session = make(EngineConfig())
    for index in range(50):
        session.push_video(frame(index), index / 25)  # no worker comes
        pop_all(session, index / 25)
    assert session.stats(2.0).rung == "full"
    session.push_speech(voiced(4.0), 16_000, 2.0)
    for index in range(50, 125):
        session.push_video(frame(index), index / 25)
        pop_all(session, index / 25)
    assert session.stats(5.0).rung != "full"


def test_other_steps_are_another_top() -> None:
    session = make()
    slow(session, 75, 0.3)
    assert session.stats(3.0).rung == "none"
    session.set_steps(8)
    assert session.steps == 8 and session.job_steps == 1
    slow(session, 100, 0.005, first=75)
    assert session.job_steps == 8
