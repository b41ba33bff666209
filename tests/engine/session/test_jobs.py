"""Jobs: what they carry, what becomes of their frames, and less work under overload."""

from __future__ import annotations

import itertools
import logging

import numpy as np
import pytest
from fakes import FakeTracker, ScriptedTracker, picture, voiced
from sessions import DELAY_S, SLOW_S, frame, make, paint, pop_all, run, work

from lipwire.engine.config import EngineConfig
from lipwire.engine.session.session import Session
from lipwire.engine.types import JobSpec, Outcome, OutputFrame


def test_a_job_carries_all_it_needs() -> None:
    session = Session("name", FakeTracker, EngineConfig(silence="generate", seed=7), steps=4)
    session.push_video(frame(0), 0.0)
    job = session.jobs.begin(0.0)
    assert job is not None
    assert (job.session, job.index, job.seed, job.steps) == ("name", 0, 7, 4)
    assert job.crop.shape == (128, 128, 3) and job.references.shape == (1, 128, 128, 3)
    assert job.mel.shape == (80, 16)
    assert session.jobs.begin(0.0) is None
    session.set_steps(1)
    session.push_video(frame(1), 0.04)
    job = session.jobs.begin(0.04)
    assert job is not None and job.steps == 1


def test_a_job_has_the_shapes_that_the_model_asks_for() -> None:
    session = make(spec=JobSpec(64, "box", references=3, mel_columns=20))
    session.push_video(frame(0), 0.0)
    job = session.jobs.begin(0.0)
    assert job is not None
    assert job.crop.shape == (64, 64, 3) and job.references.shape == (3, 64, 64, 3)
    assert job.mel.shape == (80, 20)


def test_no_face() -> None:
    out = run(make(tracker=lambda: ScriptedTracker({1, 2})), 6)
    assert [f.outcome for f in out] == [
        Outcome.GENERATED,
        *[Outcome.NO_FACE] * 3,
        Outcome.GENERATED,
        Outcome.GENERATED,
    ]
    assert out[1].image is frame(1).image


def test_an_unusable_face() -> None:
    out = run(make(tracker=lambda: FakeTracker(width=0.1)), 2)
    assert {f.outcome for f in out} == {Outcome.FACE_UNUSABLE}


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
        Outcome.FAULT,
        Outcome.GENERATED,
        Outcome.FAULT,
        Outcome.GENERATED,
    ]
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
    job = session.jobs.begin(0.0)
    assert job is not None
    session.jobs.fail(job, 0.01)
    out = session.pop_video(0.1)
    assert out is not None and out.outcome is Outcome.FAULT
    assert out.image is frame(0).image


def test_a_picture_of_the_wrong_shape_from_the_model_is_a_fault() -> None:
    session = make()
    session.push_video(frame(0), 0.0)
    job = session.jobs.begin(0.0)
    assert job is not None
    session.jobs.complete(job, np.zeros((64, 64, 3), np.uint8), 0.01)
    out = session.pop_video(0.1)
    assert out is not None and out.outcome is Outcome.FAULT


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
        *[Outcome.GENERATED] * 25,
        *[Outcome.OCCLUDED] * 5,
        *[Outcome.GENERATED] * 10,
    ]


def slow(session: Session, frames: int, took_s: float, first: int = 0) -> list[OutputFrame]:
    """A call at 25 fps whose device takes `took_s` for each job, one at a time."""
    out, running, free_s = [], None, 0.0
    for index in range(first, first + frames):
        now = index / 25
        session.push_video(frame(index), now)
        for step in range(8):
            now = index / 25 + step * 0.005
            if running is not None and free_s <= now:
                session.jobs.complete(running, paint(running), now, took_s)
                running = None
            if running is None and (running := session.jobs.begin(now)) is not None:
                free_s = now + took_s
            out += pop_all(session, now)
    return out


def test_a_slow_device_gets_fewer_steps_and_all_frames_go_out() -> None:
    session = make()
    out = slow(session, 50, 0.01)
    assert session.stats(2.0).rung == "full" and session.jobs.steps == 2
    out += slow(session, 50, 0.045, first=50)
    stats = session.stats(4.0)
    assert session.steps == 2 and session.jobs.steps == stats.steps == 1
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
        if (job := session.jobs.begin(index / 25)) is not None:
            session.jobs.complete(job, paint(job), index / 25, 0.06)
            pop_all(session, index / 25 + 1)
            return session
        index += 1


def test_a_held_mouth_is_that_of_the_frame_before_whichever_is_ready_first() -> None:
    session = halved()
    first = session.stats(0.0).frames_in
    start_s = first / 25
    # The frame that holds is ready for the mouth that was generated before it ...
    session.push_video(frame(first), start_s)
    assert session.jobs.begin(start_s) is None
    # ... and the next one waits for a mouth that is still being generated.
    session.push_video(frame(first + 1), start_s + 0.04)
    job = session.jobs.begin(start_s + 0.04)
    assert job is not None and job.index == first + 1
    session.push_video(frame(first + 2), start_s + 0.08)
    assert session.jobs.begin(start_s + 0.08) is None
    (held,) = pop_all(session, start_s + SLOW_S)
    assert held.outcome is Outcome.HELD
    assert pop_all(session, start_s + 0.04 + SLOW_S) == []
    session.jobs.complete(job, paint(job), start_s + 0.105, 0.06)
    out = pop_all(session, start_s + 0.08 + SLOW_S)
    assert [f.outcome for f in out] == [Outcome.GENERATED, Outcome.HELD]


def test_without_a_mouth_to_hold_the_original_goes_out_at_once() -> None:
    session = halved()
    first = session.stats(0.0).frames_in + 1
    start_s = first / 25
    session.push_video(frame(first - 1), start_s - 0.04)
    assert session.jobs.begin(start_s - 0.04) is None
    session.push_video(frame(first), start_s)
    job = session.jobs.begin(start_s)
    assert job is not None
    session.push_video(frame(first + 1), start_s + 0.04)
    assert session.jobs.begin(start_s + 0.04) is None  # it waits
    session.jobs.fail(job, start_s + 0.05)
    session.push_video(frame(first + 2), start_s + 0.08)
    job = session.jobs.begin(start_s + 0.08)
    assert job is not None
    session.jobs.fail(job, start_s + 0.09)
    session.push_video(frame(first + 3), start_s + 0.12)
    assert session.jobs.begin(start_s + 0.12) is None
    out = pop_all(session, start_s + 0.12 + SLOW_S)
    assert [f.index for f in out] == list(range(first - 1, first + 4))
    assert [f.outcome for f in out[1:]] == [
        Outcome.FAULT,
        Outcome.FAULT,
        Outcome.FAULT,
        Outcome.OVERLOADED,
    ]


def test_without_the_ladder_steps_stay() -> None:
    session = make(EngineConfig(silence="generate", fade_s=0.0, ladder=False))
    slow(session, 75, 0.3)
    stats = session.stats(3.0)
    assert stats.rung == "full" and stats.rung_changes == {} and session.jobs.steps == 2


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
    assert session.steps == 8 and session.jobs.steps == 1
    slow(session, 100, 0.005, first=75)
    assert session.jobs.steps == 8


def test_on_the_lower_rungs_a_device_is_needed_now_and_then() -> None:
    session = make(EngineConfig(silence="generate", delay_s=DELAY_S))
    session.push_video(frame(0), 0.0)
    assert session.jobs.needs_device(0.0)
    for index in itertools.count(1):
        now = index / 25
        session.push_video(frame(index), now)  # replaced by the next: nobody had the time
        if session.stats(now).rung == "half":
            break
    assert session.jobs.needs_device(now)
    assert session.jobs.begin(now) is not None
    session.push_video(frame(index + 1), now + 0.04)
    assert not session.jobs.needs_device(now + 0.04)  # it holds the mouth of the one before
    for late in itertools.count(index + 2):
        now = late / 25
        session.push_video(frame(late), now)
        session.pop_video(now + DELAY_S + 0.2)
        if session.stats(now).rung == "none":
            break
    session.push_video(frame(late + 1), now + 0.3)
    assert not session.jobs.needs_device(now + 0.3)
    assert session.jobs.needs_device(now + 1.0)
