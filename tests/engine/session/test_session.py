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
from fakes import FakeTracker, ScriptedTracker, video_frame, voiced
from hypothesis import given, settings
from hypothesis import strategies as st
from sessions import DELAY_S, PATIENCE_S, frame, make, paint, pop_all, run, work

from lipwire.engine.config import EngineConfig
from lipwire.engine.errors import ConfigError, MediaError, SessionClosed
from lipwire.engine.session.session import Session
from lipwire.engine.types import U8, LipJob, Outcome, OutputFrame, VideoFrame

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


def test_a_frame_is_shown_at_its_time_on_the_caller_s_clock() -> None:
    session = make(now=1e6)
    session.push_video(frame(0), 1e6 + 2)
    assert session.time_s(1e6 + 2) == 2
    assert session.jobs.earliest_deadline_s == pytest.approx(1e6 + 2 + DELAY_S)
    job = session.jobs.begin(1e6 + 2)
    assert job is not None
    assert job.deadline_s == pytest.approx(1e6 + 2 + DELAY_S)
    session.jobs.complete(job, paint(job), 1e6 + 2.01)
    assert session.next_due() == pytest.approx(1e6 + 2 + DELAY_S)
    assert session.pop_video(1e6 + 2 + DELAY_S - 1e-6) is None
    out = session.pop_video(1e6 + 2 + DELAY_S + 1e-6)
    assert out is not None and out.outcome is Outcome.GENERATED
    assert out.playout_s == pytest.approx(2 + DELAY_S)
    assert session.next_due() is None


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
    assert [f.outcome for f in out] == [Outcome.OVERLOADED, Outcome.OVERLOADED, Outcome.GENERATED]
    assert out[0].image is frame(0).image


def test_a_frame_that_has_been_begun_is_not_overtaken() -> None:
    session = make()
    session.push_video(frame(0), 0.0)
    job = session.jobs.begin(0.0)
    session.push_video(frame(1), 0.04)
    assert job is not None
    session.jobs.complete(job, paint(job), 0.05)
    work(session, 0.05)
    assert [f.outcome for f in pop_all(session, 0.2)] == [Outcome.GENERATED] * 2


def test_late_is_late_only_after_patience_and_later_results_are_dropped() -> None:
    session = make()
    session.push_video(frame(0), 0.0)
    job = session.jobs.begin(0.0)
    assert job is not None
    assert session.next_due() == pytest.approx(DELAY_S + PATIENCE_S)
    assert session.pop_video(DELAY_S + PATIENCE_S) is None
    out = session.pop_video(DELAY_S + PATIENCE_S + 1e-3)
    assert out is not None and out.outcome is Outcome.LATE
    assert out.image is frame(0).image
    session.jobs.complete(job, paint(job), 0.3)
    session.jobs.fail(job, 0.3)
    assert session.pop_video(1.0) is None
    assert session.stats(1.0).outcomes == {Outcome.LATE: 1}


def test_a_result_within_patience_is_still_shown() -> None:
    session = make()
    session.push_video(frame(0), 0.0)
    job = session.jobs.begin(0.0)
    assert job is not None
    assert session.pop_video(DELAY_S + PATIENCE_S - 0.01) is None
    session.jobs.complete(job, paint(job), DELAY_S + PATIENCE_S - 0.005)
    out = session.pop_video(DELAY_S + PATIENCE_S - 0.005)
    assert out is not None and out.outcome is Outcome.GENERATED


def test_a_frame_that_nobody_begins_goes_out_late_and_is_not_begun_any_more() -> None:
    session = make()
    session.push_video(frame(0), 0.0)
    out = session.pop_video(1.0)
    assert out is not None and out.outcome is Outcome.LATE
    assert session.jobs.earliest_deadline_s is None
    assert session.jobs.begin(1.0) is None


# --- the voice ---


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
    stats = session.stats(0.5)
    assert stats.speech_backlog_s > 4 and stats.speaking
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


# --- the end ---


def test_closing_lets_out_what_is_in_flight() -> None:
    tracker = FakeTracker()
    session = make(tracker=lambda: tracker)
    session.push_video(frame(0), 0.0)
    job = session.jobs.begin(0.0)
    session.push_video(frame(1), 0.04)
    session.close()
    session.close()
    assert tracker.closed
    assert job is not None
    session.jobs.complete(job, paint(job), 0.05)
    assert session.jobs.begin(0.05) is None
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
    worker = threading.Thread(target=session.jobs.begin, args=(0.0,))
    worker.start()
    assert inside.wait(5)
    closer = threading.Thread(target=session.close)
    closer.start()
    assert session.pop_video(1.0) is not None  # nobody else waits
    go_on.set()
    worker.join(5)
    closer.join(5)
    assert tracker.closed


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
    events=EVENTS,
    offline=st.booleans(),
    silence=st.sampled_from(["original", "generate"]),
    close=st.booleans(),
    bad=st.sets(st.integers(0, 20)),
)
def test_no_interleaving_loses_or_reorders_a_frame(
    events: list[tuple[str, int]], offline: bool, silence: str, close: bool, bad: set[int]
) -> None:
    logging.disable(logging.CRITICAL)  # scripted faults
    config = EngineConfig(offline=offline, silence=silence, fade_s=0.08)
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
            elif name == "begin" and (job := session.jobs.begin(now)) is not None:
                jobs.append(job)
            elif name == "complete" and jobs:
                job = jobs.pop(amount % len(jobs))
                session.jobs.complete(job, paint(job), now)
            elif name == "fail" and jobs:
                session.jobs.fail(jobs.pop(amount % len(jobs)), now)
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
                if (popped := session.pop_video(due + 1e-9)) is not None:
                    out.append(popped)
        if close:
            session.close()
        else:
            while session.jobs.earliest_deadline_s is not None:
                if (job := session.jobs.begin(now)) is not None:
                    jobs.append(job)
            for job in jobs:
                session.jobs.complete(job, paint(job), now)
        out += pop_all(session, now + 100)
    finally:
        logging.disable(logging.NOTSET)
    assert [f.index for f in out] == list(range(pushed))
    assert [f.pts for f in out] == list(range(pushed))
    stats = session.stats(now + 100)
    assert stats.frames_out == stats.frames_in == pushed
    assert stats.outcomes == Counter(f.outcome for f in out)
    for f in out:
        if f.image.shape[0] <= 20:
            continue
        if f.outcome in (Outcome.GENERATED, Outcome.HELD):
            assert f.box is not None
            x0, y0, x1, y1 = f.box
            outside = (f.image != frame(f.index).image).any(2)
            outside[y0:y1, x0:x1] = False
            assert not outside.any()
        else:
            assert f.image is frame(f.index).image
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
