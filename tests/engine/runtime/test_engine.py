"""The engine's thread: it works by itself, survives faults and ends when told to."""

from __future__ import annotations

import gc
import logging
import threading
import time
import weakref
from collections.abc import Callable, Iterator

import numpy as np
import pytest
from fakes import FakeBackend, FakeTracker, video_frame

from lipwire.engine.backends import Backend
from lipwire.engine.config import EngineConfig
from lipwire.engine.errors import BundleError, ConfigError, SessionClosed
from lipwire.engine.face.tracker import FaceTracker
from lipwire.engine.runtime.engine import Engine
from lipwire.engine.session.session import Session
from lipwire.engine.types import U8, LipJob, Outcome, OutputFrame

# Patience enough for a machine that is busy with something else.
# Without the ladder: on a busy machine frames would rightly be left out.
CONFIG = EngineConfig(silence="generate", fade_s=0.0, delay_s=0.02, patience_s=2.0, ladder=False)


@pytest.fixture
def backend() -> FakeBackend:
    return FakeBackend()


@pytest.fixture
def engine(backend: FakeBackend) -> Iterator[Engine]:
    with Engine(backend, FakeTracker) as engine:
        yield engine


def next_frame(engine: Engine, session: Session, timeout_s: float = 3.0) -> OutputFrame:
    """Wait for one, on the real clock."""
    until_s = time.monotonic() + timeout_s
    while time.monotonic() < until_s:
        out = session.pop_video(engine.clock())
        if out is not None:
            return out
        time.sleep(0.002)
    raise AssertionError("no frame came out")


def show(engine: Engine, session: Session, index: int = 0) -> OutputFrame:
    session.push_video(video_frame(index), engine.clock())
    return next_frame(engine, session)


_before: set[threading.Thread] = set()


@pytest.fixture(autouse=True)
def others() -> None:
    """Threads that other tests have left running are not this test's."""
    _before.clear()
    _before.update(threading.enumerate())


def threads() -> set[str]:
    """Names of the threads that this test's engines run."""
    started = set(threading.enumerate()) - _before
    return {t.name for t in started if t.name.startswith("lipwire-")}


def test_fakes_are_what_they_stand_for() -> None:
    """Checked by mypy: the protocols and the fakes have not parted."""
    backend: Backend = FakeBackend()
    tracker: FaceTracker = FakeTracker()
    assert backend.batch_sizes
    tracker.close()


def test_frames_are_generated_without_being_asked_for(engine: Engine, backend: FakeBackend) -> None:
    session = engine.session(CONFIG)
    for index in range(3):
        out = show(engine, session, index)
        assert out.outcome is Outcome.GENERATED
        assert out.index == index
        assert (out.image != video_frame(index).image).any()
    assert backend.threads == {"lipwire-device"}
    assert session.name == "session-1"


def test_the_model_of_a_session_decides_the_crop_and_the_steps() -> None:
    with Engine(FakeBackend(crop_size=64, default_steps=4), FakeTracker) as engine:
        session = engine.session(CONFIG)
        assert session.steps == 4
        assert show(engine, session).outcome is Outcome.GENERATED
        assert isinstance(engine.backend, FakeBackend)
        assert engine.backend.jobs[0].crop.shape == (64, 64, 3)
        with pytest.raises(BundleError, match=r"offers \[1, 2, 4, 8\] steps, not 3"):
            engine.session(EngineConfig(steps=3))
        with pytest.raises(ConfigError, match="steps is 3"):
            session.set_steps(3)


def test_a_failing_model_lets_frames_through_and_is_tried_again(
    engine: Engine, backend: FakeBackend, caplog: pytest.LogCaptureFixture
) -> None:
    session = engine.session(CONFIG)
    backend.error = RuntimeError("out of memory")
    with caplog.at_level(logging.ERROR):
        faults = [show(engine, session, index) for index in range(3)]
    assert {out.outcome for out in faults} == {Outcome.FAULT}
    assert np.array_equal(faults[1].image, video_frame(1).image)
    assert "out of memory" in caplog.text
    assert len(caplog.records) == 1
    backend.error = None
    assert show(engine, session, 3).outcome is Outcome.GENERATED


@pytest.mark.parametrize("answer", [[], [np.zeros((128, 128, 3), np.uint8)] * 2, [None], None])
def test_a_model_that_answers_nonsense_is_a_fault(
    engine: Engine,
    backend: FakeBackend,
    monkeypatch: pytest.MonkeyPatch,
    answer: object,
    caplog: pytest.LogCaptureFixture,
) -> None:
    session = engine.session(CONFIG)
    with monkeypatch.context() as patched, caplog.at_level(logging.CRITICAL):
        patched.setattr(backend, "generate", lambda jobs: answer)
        assert show(engine, session).outcome is Outcome.FAULT
    assert show(engine, session, 1).outcome is Outcome.GENERATED


def test_one_sessions_fault_is_not_another_s(backend: FakeBackend) -> None:
    trackers = [FakeTracker(), FakeTracker()]
    trackers[0].error = RuntimeError("scripted")
    made = iter(trackers)
    with Engine(backend, lambda: next(made)) as engine:
        first, second = engine.session(CONFIG), engine.session(CONFIG)
        assert show(engine, first).outcome is Outcome.FAULT
        for index in range(3):
            first.push_video(video_frame(index), engine.clock())
            second.push_video(video_frame(index), engine.clock())
            assert next_frame(engine, first).outcome is Outcome.FAULT
            assert next_frame(engine, second).outcome is Outcome.GENERATED


def test_several_sessions_are_served_side_by_side(engine: Engine) -> None:
    sessions = [engine.session(CONFIG) for _ in range(5)]
    for index in range(4):
        for session in sessions:
            session.push_video(video_frame(index), engine.clock())
        for session in sessions:
            out = next_frame(engine, session)
            assert (out.index, out.outcome) == (index, Outcome.GENERATED)
    assert len({session.name for session in sessions}) == 5


def test_closing_ends_everything(backend: FakeBackend) -> None:
    made: list[FakeTracker] = []

    def make_tracker() -> FakeTracker:
        made.append(FakeTracker())
        return made[-1]

    engine = Engine(backend, make_tracker)
    session = engine.session(CONFIG)
    show(engine, session)
    assert threads() == {"lipwire-worker", "lipwire-device", "lipwire-watch"}
    engine.close()
    engine.close()
    assert not threads()
    assert backend.closed
    assert session.closed
    assert [tracker.closed for tracker in made] == [True]
    with pytest.raises(SessionClosed):
        session.push_video(video_frame(1), 0.0)
    with pytest.raises(SessionClosed, match="the engine has ended"):
        engine.session()
    with pytest.raises(SessionClosed, match="the engine has ended"):
        engine.session(EngineConfig(offline=True))


def test_closing_in_the_middle_of_a_batch_waits_for_it(backend: FakeBackend) -> None:
    backend.delay_s = 0.2
    engine = Engine(backend, FakeTracker)
    session = engine.session(CONFIG)
    session.push_video(video_frame(0), engine.clock())
    while not backend.batches:
        time.sleep(0.002)
    engine.close()  # FakeBackend asserts that it is not called once closed
    assert not threads()
    out = session.pop_video(engine.clock() + 1)
    assert out is not None
    assert out.outcome in (Outcome.LATE, Outcome.GENERATED)


def test_ending_one_session_leaves_the_others(engine: Engine) -> None:
    first, second = engine.session(CONFIG), engine.session(CONFIG)
    show(engine, first)
    engine.end(first)
    engine.end(first)
    assert first.closed
    assert show(engine, second).outcome is Outcome.GENERATED


def test_sessions_that_ended_are_not_kept(engine: Engine) -> None:
    """Also where somebody closed them directly: a server runs for months."""
    last, *ended = [engine.session(CONFIG) for _ in range(9)]
    for index, session in enumerate(ended):
        show(engine, session)
        if index % 2:
            session.close()
        else:
            engine.end(session)
    gone = [weakref.ref(session) for session in ended]
    del session, ended
    for index in range(2):
        show(engine, last, index)
    gc.collect()
    assert len(engine._sessions) == 1
    assert not any(ref() for ref in gone)


def test_names_are_unique_while_they_are_in_use(engine: Engine) -> None:
    first = engine.session(CONFIG, name="call")
    with pytest.raises(ConfigError, match="a session named 'call' is running already"):
        engine.session(CONFIG, name="call")
    engine.end(first)
    assert show(engine, engine.session(CONFIG, name="call")).outcome is Outcome.GENERATED


# --- one batch at a time, in the caller's thread ---


def offline(engine: Engine, steps: int | None = None) -> Session:
    config = EngineConfig(offline=True, silence="generate", fade_s=0.0, steps=steps)
    return engine.session(config)


def test_offline_work_is_done_by_the_caller(engine: Engine, backend: FakeBackend) -> None:
    session = offline(engine)
    assert not threads()
    session.push_video(video_frame(0), 0.0)
    assert engine.work([session], 0.0) == 1
    assert engine.work([session], 0.0) == 0
    out = session.pop_video(0.0)
    assert out is not None and out.outcome is Outcome.GENERATED
    assert out.latency_s == 0
    assert backend.threads == {threading.current_thread().name}


def test_the_earliest_deadline_goes_first_and_batches_are_full(
    engine: Engine, backend: FakeBackend
) -> None:
    sessions = [offline(engine) for _ in range(6)]
    pushed_s = [0.5, 0.1, 0.4, 0.0, 0.3, 0.2]
    for session, now in zip(sessions, pushed_s, strict=True):
        session.push_video(video_frame(0), now)
    assert engine.work(sessions, 0.6) == 6
    assert engine.work(sessions, 0.6) == 2
    order = [[job.session for job in batch] for batch in backend.batches]
    wanted = [sessions[i].name for i in np.argsort(pushed_s)]
    assert order == [wanted[:4], wanted[4:]]  # the fake takes at most four


def test_jobs_of_different_steps_are_not_mixed(engine: Engine, backend: FakeBackend) -> None:
    sessions = [offline(engine, steps) for steps in (1, 2, 1, 4)]
    for session in sessions:
        session.push_video(video_frame(0), 0.0)
    engine.work(sessions, 0.0)
    assert sorted(len(batch) for batch in backend.batches) == [1, 1, 2]
    assert all(len({job.steps for job in batch}) == 1 for batch in backend.batches)
    for session in sessions:
        out = session.pop_video(0.0)
        assert out is not None and out.outcome is Outcome.GENERATED


def test_each_job_gets_its_own_picture() -> None:
    shades = {"a": 40, "b": 120, "c": 220}

    def colour(job: LipJob) -> tuple[int, int, int]:
        return (shades[job.session],) * 3

    grey: U8 = np.full((240, 320, 3), 128, np.uint8)
    with Engine(FakeBackend(colour), FakeTracker) as engine:
        config = EngineConfig(offline=True, silence="generate", fade_s=0.0)
        sessions = [engine.session(config, name) for name in shades]
        for session in sessions:
            session.push_video(video_frame(0, image=grey), 0.0)
        engine.work(sessions, 0.0)
        for session in sessions:
            out = session.pop_video(0.0)
            assert out is not None
            assert out.outcome is Outcome.GENERATED
        assert [job.session for job in engine.backend.jobs] == list(shades)  # type: ignore[attr-defined]


def test_live_and_offline_work_do_not_meet_in_the_model() -> None:
    busy = threading.Lock()

    class Jealous(FakeBackend):
        def generate(self, jobs: object) -> list[U8]:
            assert busy.acquire(blocking=False), "two threads in one model"
            try:
                return super().generate(jobs)  # type: ignore[arg-type]
            finally:
                busy.release()

    with Engine(Jealous(delay_s=0.01), FakeTracker) as engine:
        live, other = engine.session(CONFIG), offline(engine)
        for index in range(15):
            live.push_video(video_frame(index), engine.clock())
            other.push_video(video_frame(index), 0.0)
            engine.work([other], 0.0)
            out = other.pop_video(0.0)
            assert out is not None and out.outcome is Outcome.GENERATED
            assert next_frame(engine, live).outcome is Outcome.GENERATED


def wait_for(condition: Callable[[], bool], timeout_s: float = 3.0) -> None:
    until_s = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < until_s, "it never happened"
        time.sleep(0.002)


def test_an_idle_engine_does_not_spin(engine: Engine, backend: FakeBackend) -> None:
    session = engine.session(CONFIG)
    show(engine, session)
    before = time.process_time()
    time.sleep(0.2)
    assert time.process_time() - before < 0.1
    session.push_video(video_frame(1), engine.clock())
    wait_for(lambda: len(backend.batches) == 2)


def test_warming_up_leaves_nothing_behind() -> None:
    with Engine(FakeBackend(), FakeTracker) as engine:
        engine.warm_up()
        engine.session(name="session-1").close()  # the name and the place are free
        assert engine.work([], 0.0) == 0


def test_busy_devices_hold_up_only_frames_that_need_one(
    backend: FakeBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    trackers: list[FakeTracker] = []

    def tracker() -> FakeTracker:
        trackers.append(FakeTracker())
        return trackers[-1]

    with Engine(backend, tracker) as engine:
        monkeypatch.setattr(engine._device_pool, "admits", lambda *_: False)
        patient = EngineConfig(silence="generate", fade_s=0.0, delay_s=0.02, patience_s=0.1)
        session = engine.session(patient)
        assert show(engine, session).outcome is Outcome.LATE
        assert not trackers  # its face was not looked for in vain
        begun: list[bool] = []
        monkeypatch.setattr(
            session.jobs,
            "begin",
            lambda now, busy: begun.append(busy) or session._frame_queue.take(),
        )
        monkeypatch.setattr(type(session.jobs), "moves", True)
        session.push_video(video_frame(1), engine.clock())
        next_frame(engine, session)
        monkeypatch.setattr(session.jobs, "needs_device", lambda now: False)
        session.push_video(video_frame(2), engine.clock())
        next_frame(engine, session)
        assert begun == [True, False]
