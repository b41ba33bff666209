"""Several devices: they share, what fails or hangs is taken out, models are swapped under load."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import pytest
from fakes import FakeBackend, FakeTracker, video_frame
from threadpoolctl import threadpool_info, threadpool_limits

from lipwire.engine.backends import blank_job, is_out_of_memory
from lipwire.engine.config import EngineConfig
from lipwire.engine.errors import BackendError
from lipwire.engine.model.bundle import DEFAULT_BUNDLE, MANIFEST
from lipwire.engine.runtime import device, device_pool
from lipwire.engine.runtime.batcher import QueuedJob
from lipwire.engine.runtime.device import Model
from lipwire.engine.runtime.device_pool import DevicePool
from lipwire.engine.runtime.engine import Engine
from lipwire.engine.runtime.open import open_engine
from lipwire.engine.session.session import Session
from lipwire.engine.types import U8, LipJob, Outcome, OutputFrame

# Without the ladder: on a busy machine frames would rightly be left out.
CONFIG = EngineConfig(silence="generate", fade_s=0.0, delay_s=0.02, patience_s=2.0, ladder=False)
# Long enough to be given to another device when the first one has been given up.
PATIENT = EngineConfig(silence="generate", fade_s=0.0, delay_s=2.0, patience_s=2.0, ladder=False)


class Stuck(FakeBackend):
    """Hangs in `generate` until it is released."""

    def __init__(self, **manifest: object) -> None:
        super().__init__(**manifest)  # type: ignore[arg-type]
        self.release, self.entered = threading.Event(), threading.Event()

    def generate(self, jobs: Sequence[LipJob]) -> list[U8]:
        self.entered.set()
        assert self.release.wait(30)
        return super().generate(jobs)


class Clock:
    """Stands still while the machine is slow: nothing is late, nothing hangs, by the clock."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


class Timed(FakeBackend):
    """Takes its millisecond on the test's clock; one job at a time, so that none is waited for."""

    def __init__(self, clock: Clock) -> None:
        super().__init__(batch_sizes=(1,))
        self._clock = clock

    def generate(self, jobs: Sequence[LipJob]) -> list[U8]:
        self._clock.now_s += 0.001
        return super().generate(jobs)


class Small(FakeBackend):
    """Has memory for so many jobs at once."""

    room = 1

    def generate(self, jobs: Sequence[LipJob]) -> list[U8]:
        if len(jobs) > self.room:
            raise RuntimeError("CUDA error: out of memory")
        return super().generate(jobs)


def wait_for(condition: Callable[[], bool], timeout_s: float = 20.0) -> None:
    until_s = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < until_s, "it never happened"
        time.sleep(0.002)


def next_frame(engine: Engine, session: Session, ahead_s: float = 0.0) -> OutputFrame:
    """Wait for one; `ahead_s` looks past a long delay."""
    found: list[OutputFrame] = []

    def pop() -> bool:
        out = session.pop_video(engine.clock() + ahead_s)
        if out is not None:
            found.append(out)
        return bool(found)

    wait_for(pop)
    return found[0]


def show(engine: Engine, session: Session, index: int = 0, ahead_s: float = 0.0) -> OutputFrame:
    session.push_video(video_frame(index), engine.clock())
    return next_frame(engine, session, ahead_s)


def state(engine: Engine) -> list[str]:
    return [each.state for each in engine.devices()]


@contextmanager
def running(*backends: FakeBackend, **options: object) -> Iterator[Engine]:
    engine = Engine(list(backends), FakeTracker, **options)  # type: ignore[arg-type]
    try:
        yield engine
    finally:
        for backend in backends:
            if isinstance(backend, Stuck):
                backend.release.set()
        engine.close()


@pytest.fixture(autouse=True)
def unhurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that stalls for a second makes no device hang, but where that is the subject."""
    monkeypatch.setattr(device, "HANG_FLOOR_S", 60.0)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hanging is noticed soon; every batch was measured to take next to nothing."""
    monkeypatch.setattr(device, "HANG_FLOOR_S", 0.15)
    monkeypatch.setattr(device, "HANG_UNMEASURED_S", 0.15)
    monkeypatch.setattr(device_pool, "WATCH_S", 0.02)


# --- several at once ---


def test_all_devices_take_part() -> None:
    backends = [FakeBackend(delay_s=0.05, batch_sizes=(1,)) for _ in range(3)]
    with running(*backends, cpu_threads=2) as engine:
        sessions = [engine.session(PATIENT) for _ in range(6)]
        for session in sessions:
            session.push_video(video_frame(0), engine.clock())
        for session in sessions:
            assert next_frame(engine, session, 2.0).outcome is Outcome.GENERATED
        assert all(backend.jobs for backend in backends)
        status = engine.devices()
        assert [each.name for each in status] == ["device#1", "device#2", "device#3"]
        wait_for(lambda: sum(each.jobs for each in engine.devices()) == 6)


def test_frames_leave_in_order_whoever_painted_them() -> None:
    quick, slow = FakeBackend(), FakeBackend(delay_s=0.03)
    with running(quick, slow, cpu_threads=2) as engine:
        sessions = [engine.session(CONFIG) for _ in range(3)]
        for index in range(6):
            for session in sessions:
                session.push_video(video_frame(index), engine.clock())
            outs = [next_frame(engine, session) for session in sessions]
            assert [out.index for out in outs] == [index] * 3


# --- faults ---


def test_a_failing_device_is_taken_out_and_its_jobs_go_elsewhere(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """An idle device that was never measured is taken for quicker than one that was."""
    clock = Clock()
    bad, good = FakeBackend(batch_sizes=(1,)), Timed(clock)
    bad.error = RuntimeError("scripted")
    with running(bad, good, clock=clock) as engine, caplog.at_level(logging.ERROR):
        session = engine.session(CONFIG)
        for index in range(12):
            out = show(engine, session, index, CONFIG.delay_s)
            assert out.outcome is Outcome.GENERATED
        assert state(engine) == ["out", "live"]
        assert len(bad.batches) == device_pool.FAULTS_IN_A_ROW
    assert "taken out" in caplog.text


def test_a_device_that_was_taken_out_is_tried_again() -> None:
    clock = Clock()
    bad, good = FakeBackend(batch_sizes=(1,)), Timed(clock)
    bad.error = RuntimeError("scripted")
    with running(bad, good, clock=clock) as engine:
        session = engine.session(CONFIG)
        index = 0
        while state(engine)[0] == "live":
            assert index < 12
            show(engine, session, index := index + 1, CONFIG.delay_s)
        bad.error = None
        show(engine, session, index := index + 1, CONFIG.delay_s)
        assert state(engine)[0] == "out"  # its time is not over
        before = len(bad.batches)
        clock.now_s += device.OUT_FIRST_S
        while len(bad.batches) == before:
            assert index < 24
            out = show(engine, session, index := index + 1, CONFIG.delay_s)
            assert out.outcome is Outcome.GENERATED
        assert state(engine)[0] == "live"


def test_the_last_device_is_not_taken_out() -> None:
    bad = FakeBackend()
    bad.error = RuntimeError("scripted")
    with running(bad) as engine:
        session = engine.session(CONFIG)
        for index in range(2 * device_pool.FAULTS_IN_A_ROW):
            assert show(engine, session, index).outcome is Outcome.FAULT
        bad.error = None
        assert show(engine, session, 99).outcome is Outcome.GENERATED


def test_a_bad_job_does_not_take_its_neighbours_with_it() -> None:
    class Picky(FakeBackend):
        def generate(self, jobs: Sequence[LipJob]) -> list[U8]:
            if any(job.session == "bad" for job in jobs):
                raise RuntimeError("scripted")
            return super().generate(jobs)

    gate = threading.Event()
    done: dict[str, object] = {}

    class Gated(Picky):
        def generate(self, jobs: Sequence[LipJob]) -> list[U8]:
            assert gate.wait(20)
            return super().generate(jobs)

    backend = Gated(batch_sizes=(1, 2, 4))
    model = Model([backend])
    line = DevicePool(
        model,
        time.monotonic,
        lambda queued_job, image: done.update({queued_job.source: image}),
        lambda queued_job, why: done.update({queued_job.source: why}),
    )
    now = time.monotonic()
    for name in ("first", "bad", "a", "b"):
        blank = blank_job(model.manifest)
        job = LipJob(name, 0, blank.crop, blank.references, blank.mel, 0, 2, now + 20)
        line.put(QueuedJob(name, 2, now + 20, now + 20, job))
    gate.set()
    wait_for(lambda: len(done) == 4)
    line.close()
    assert done["bad"] is Outcome.FAULT
    assert all(isinstance(done[name], np.ndarray) for name in ("first", "a", "b"))


# --- hanging ---


@pytest.mark.usefixtures("impatient")
def test_the_jobs_of_a_hanging_device_go_to_another(caplog: pytest.LogCaptureFixture) -> None:
    stuck, good = Stuck(), FakeBackend(delay_s=0.01)
    with running(stuck, good) as engine, caplog.at_level(logging.WARNING):
        session = engine.session(PATIENT)
        index = 0
        while not stuck.entered.is_set():
            assert index < 50
            session.push_video(video_frame(index), engine.clock())
            out = next_frame(engine, session, 2.0)
            assert out.outcome is Outcome.GENERATED
            index += 1
        wait_for(lambda: state(engine) == ["hung", "live"])
        assert "hangs on a batch of 1" in caplog.text
        for index in range(100, 104):
            session.push_video(video_frame(index), engine.clock())
            assert next_frame(engine, session, 2.0).outcome is Outcome.GENERATED
        # It comes back: what it brings is of no use, but it is used again.
        stuck.release.set()
        wait_for(lambda: state(engine) == ["live", "live"])
        assert "is back" in caplog.text


@pytest.mark.usefixtures("impatient")
def test_pictures_flow_though_the_only_device_hangs() -> None:
    stuck = Stuck()
    with running(stuck) as engine:
        session = engine.session(CONFIG)
        outs = [show(engine, session, index) for index in range(4)]
        assert {out.outcome for out in outs} == {Outcome.FAULT}
        assert np.array_equal(outs[3].image, video_frame(3).image)
        assert state(engine) == ["hung"]
        stuck.release.set()
        wait_for(lambda: state(engine) == ["live"])
        assert show(engine, session, 9).outcome is Outcome.GENERATED


@pytest.mark.usefixtures("impatient")
def test_a_hanging_device_does_not_hold_up_the_end() -> None:
    stuck = Stuck()
    engine = Engine(stuck, FakeTracker)
    session = engine.session(CONFIG)
    assert show(engine, session).outcome is Outcome.FAULT
    begun_s = time.monotonic()
    engine.close()
    assert time.monotonic() - begun_s < 9  # it waits 10 s for one that works
    assert not stuck.closed  # somebody is still inside
    stuck.release.set()


# --- memory ---


def test_batches_shrink_where_memory_lacks(caplog: pytest.LogCaptureFixture) -> None:
    backend = Small(batch_sizes=(1, 2, 4))
    with running(backend) as engine, caplog.at_level(logging.WARNING):
        config = EngineConfig(offline=True, silence="generate", fade_s=0.0)
        sessions = [engine.session(config) for _ in range(4)]
        for session in sessions:
            session.push_video(video_frame(0), 0.0)
        engine.work(sessions, 0.0)
        for session in sessions:
            out = session.pop_video(0.0)
            assert out is not None and out.outcome is Outcome.GENERATED
        assert engine.devices()[0].largest_batch == 1
    assert "out of memory on a batch of 4" in caplog.text


def test_no_memory_for_a_single_job_is_a_fault() -> None:
    backend = Small()
    backend.room = 0
    with running(backend) as engine:
        session = engine.session(CONFIG)
        assert show(engine, session).outcome is Outcome.FAULT


@pytest.mark.parametrize(
    ("error", "memory"),
    [
        (MemoryError(), True),
        (RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB"), True),
        (RuntimeError("Failed to allocate memory for requested buffer of size 9"), True),
        (RuntimeError("std::bad_alloc"), True),
        (RuntimeError("shapes differ"), False),
        (None, False),
    ],
)
def test_the_runtimes_words_for_it_are_known(error: Exception | None, memory: bool) -> None:
    assert is_out_of_memory(error) is memory


def test_the_cause_counts_too() -> None:
    try:
        try:
            raise MemoryError
        except MemoryError as cause:
            raise BackendError("the runtime failed") from cause
    except BackendError as error:
        assert is_out_of_memory(error)


# --- a bundle on several devices ---


def test_a_bundle_opens_on_several_devices() -> None:
    if not (DEFAULT_BUNDLE / MANIFEST).is_file():
        pytest.skip("no model has been built into this copy")
    threadpool_limits(2, user_api="blas")
    with open_engine(devices=["cpu", "cpu"], threads=1) as engine:
        pools = [pool for pool in threadpool_info() if pool["user_api"] == "blas"]
        assert pools and {pool["num_threads"] for pool in pools} == {1}  # a second one would spin
        assert [each.name for each in engine.devices()] == ["cpu#1", "cpu#2"]
        session = engine.session(PATIENT)
        session.push_video(video_frame(0), engine.clock())
        out = next_frame(engine, session, 2.5)
        assert out.outcome is Outcome.NO_FACE  # the picture shows none; the tracker was asked


def test_a_device_that_is_not_here_is_named() -> None:
    with pytest.raises(BackendError, match="no CUDAExecutionProvider"):
        open_engine(devices=["cuda:0"])


def test_stages_can_be_watched() -> None:
    seen: list[str] = []
    with running(FakeBackend()) as engine:
        engine.observe = lambda stage, took_s: seen.append(stage)
        show(engine, engine.session(CONFIG))
        wait_for(lambda: len(seen) == 3)
    assert seen == ["prepare", "generate", "composite"]
