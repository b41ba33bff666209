"""Engine: one model on any number of devices, any number of sessions.

a CPU thread    Session.jobs.begin (listen, track, align) -> QueuedJob
a device        QueuedJob -> picture            (engine/runtime/device_pool.py)
a CPU thread    Session.jobs.complete (composite)
"""

from __future__ import annotations

import heapq
import itertools
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from fractions import Fraction
from functools import partial
from types import TracebackType

import numpy as np

from lipwire.engine.backends import Backend, blank_job
from lipwire.engine.config import EngineConfig
from lipwire.engine.errors import ConfigError, SessionClosed
from lipwire.engine.face.tracker import FaceTracker, Runtime, TrackerPool
from lipwire.engine.log_limit import LogLimiter
from lipwire.engine.model.bundle import check_steps
from lipwire.engine.overload.load_tracker import LoadTracker
from lipwire.engine.runtime.batcher import QueuedJob
from lipwire.engine.runtime.device import DeviceStatus, Model
from lipwire.engine.runtime.device_pool import DevicePool
from lipwire.engine.session.conditioning import Listen
from lipwire.engine.session.session import Session
from lipwire.engine.trace import UNTRACED
from lipwire.engine.types import F32, PLAYOUT_RATE_HZ, U8, LipJob, Outcome, VideoFrame
from lipwire.engine.units.enrolled import EnrolledBank

log = logging.getLogger(__name__)

Observe = Callable[[str, float], None]
"""Is told a stage's name and how long it took, seconds."""


def unobserved(stage: str, seconds: float) -> None:
    """An `Observe` for nobody."""


# Threads that track and composite. More than half the cores would take them from decoding,
# encoding and the model itself; more than eight are never busy.
CPU_THREADS = min(8, max(1, (os.cpu_count() or 1) // 2))


class Engine:
    """A model, the devices that run it and the threads around them, for all sessions.

    Args:
        backend: paints the mouths; several of one bundle are so many devices. Closed with the
            engine.
        make_tracker: makes a face tracker for each session; None lends MediaPipe's nets from a
            pool.
        clock: seconds that only move forward; every `now` given to its sessions is on this clock.
        devices: names of the devices, for people.
        cpu_threads: that track and composite; None decides by the machine.
        articulation: tells the codes that a voice asks for, by which a person's own mouths are
            chosen; None: every mouth is generated.
        tracker: what runs the face nets of the pool, LiteRT or MediaPipe (the extra `mediapipe`).

    Use `open_engine` to make one from a bundle, and `with` to end it.
    """

    def __init__(
        self,
        backend: Backend | Sequence[Backend],
        make_tracker: Callable[[], FaceTracker] | None = None,
        clock: Callable[[], float] = time.monotonic,
        *,
        devices: Sequence[str] | None = None,
        cpu_threads: int | None = None,
        articulation: Listen | None = None,
        tracker: Runtime = "litert",
    ) -> None:
        backends = backend if isinstance(backend, Sequence) else [backend]
        self.clock = clock
        self._device_pool = DevicePool(
            Model(backends), clock, self._painted, self._dropped, devices, self._generated
        )
        self._load = LoadTracker(len(backends))
        self.observe: Observe = unobserved
        """told how long preparing, generating and compositing took, by the thread that did it"""
        self._articulation = articulation
        self._pool = TrackerPool(tracker)
        self._make_tracker = make_tracker or self._pool
        self._sessions: dict[str, Session] = {}
        self._wake = threading.Condition()  # guards what follows
        self._preparing: set[Session] = set()  # a session's frames are begun one after the other
        self._to_composite: list[tuple[float, int, QueuedJob, U8, float]] = []  # heap by deadline
        self._closing = self._fleet_closed = False
        self._cpu_threads = cpu_threads or CPU_THREADS
        self._threads: list[threading.Thread] = []
        self._faults = LogLimiter(log, "the model failed on %d batches so far")
        self._names, self._order = itertools.count(1), itertools.count()

    @property
    def backend(self) -> Backend:
        """The model as it runs on the first device."""
        return self._device_pool.model.backends[0]

    @property
    def chooses(self) -> bool:
        """Whether mouths are chosen among the person's own."""
        return self._articulation is not None

    def devices(self) -> list[DeviceStatus]:
        """What every device is and does."""
        return self._device_pool.status()

    # --- sessions ---

    def find_faces(self, image: U8) -> F32:
        """Every face in one picture that belongs to no session; takes tens of milliseconds.

        Returns:
            f32[N, 4]: x0, y0, x1, y1 in pixels, from the brows to the chin.
        """
        tracker = self._make_tracker()
        try:
            return tracker.detect(image)
        finally:
            tracker.close()

    def session(
        self,
        config: EngineConfig | None = None,
        name: str | None = None,
        bank: EnrolledBank | None = None,
    ) -> Session:
        """Begin a session; its clock starts now.

        Args:
            config: its settings.
            name: for logs; None makes one.
            bank: the person's own mouths to begin with, see `Session.enrol`.

        Raises:
            BundleError: the model does not offer the steps that `config` asks for.
            ConfigError: another session has this name, or a bank for a model that takes none.
            SessionClosed: the engine has ended.
        """
        config = config or EngineConfig()
        manifest = self._device_pool.model.manifest
        steps = check_steps(manifest, config.steps or manifest.default_steps)
        session = Session(
            name or f"session-{next(self._names)}",
            self._make_tracker,
            config,
            steps=steps,
            steps_offered=manifest.steps_offered,
            spec=manifest.job_spec,
            now=0.0 if config.offline else self.clock(),
            wake=None if config.offline else self.notify,
            load=self._load,
            articulation=self._articulation,
            bank=bank,
        )
        with self._wake:
            if self._closing:
                raise SessionClosed("the engine has ended; open another")
            if not config.offline:
                self._forget_closed()
                if session.name in self._sessions:
                    raise ConfigError(f"a session named {session.name!r} is running already")
                self._sessions[session.name] = session
                self._ensure_threads()
        return session

    def _forget_closed(self) -> None:
        """Let go of sessions that were closed by themselves instead of through `end`."""
        self._sessions = {n: s for n, s in self._sessions.items() if not s.closed}

    def _ensure_threads(self) -> None:
        while len(self._threads) < self._cpu_threads:
            thread = threading.Thread(target=self._run, name="lipwire-worker", daemon=True)
            self._threads.append(thread)
            thread.start()

    def notify(self) -> None:
        """Wake a worker; `Session.push_video` does it too."""
        with self._wake:
            self._wake.notify()

    def end(self, session: Session) -> None:
        """End a session and forget it."""
        with self._wake:
            if self._sessions.get(session.name) is session:
                del self._sessions[session.name]
        session.close()

    # --- the model ---

    def warm_up(self) -> None:
        """Load what is loaded on first use, and measure every device; no call should wait for it.

        Raises:
            BackendError: a device does not run the model.
        """
        self._device_pool.measure(blank_job(self._device_pool.model.manifest))
        session = self.session(EngineConfig(offline=True, silence="generate"))
        session.push_speech(np.zeros(PLAYOUT_RATE_HZ // 2, np.int16), PLAYOUT_RATE_HZ, 0.0)
        session.push_video(VideoFrame(np.zeros((64, 64, 3), np.uint8), 0, Fraction(1, 25)), 0.0)
        self.work([session], 0.0)
        self.end(session)

    # --- offline work, in the calling thread ---

    def work(self, sessions: list[Session], now: float) -> int:
        """Do one batch for these sessions in the calling thread; returns jobs begun.

        A session contributes one frame; frames that pass through count as begun too.
        """
        waiting = [(s.jobs.earliest_deadline_s, s) for s in sessions]
        due = sorted(((d, s) for d, s in waiting if d is not None), key=lambda pair: pair[0])
        most = self.backend.batch_sizes[-1]
        begun = [(session, self.begin(session, now)) for _, session in due[:most]]
        jobs = [(session, job) for session, job in begun if job is not None]
        for steps in {job.steps for _, job in jobs}:
            batch = [(session, job) for session, job in jobs if job.steps == steps]
            painted = self.paint([job for _, job in batch])
            for (session, job), image in zip(batch, painted, strict=True):
                self.finish(session, job, image, now)
        return len(due)

    # The three parts of it, for whoever gives each a thread of its own. A session's frames go
    # through each in order; while one is painted the next may be begun.

    def begin(self, session: Session, now: float, busy: bool = False) -> LipJob | None:
        """Begin a session's waiting frame; None if it passes through, or none waits."""
        with self._timed("prepare"):
            return session.jobs.begin(now, busy)

    def paint(self, jobs: Sequence[LipJob]) -> Sequence[U8 | None]:
        """The mouths of jobs that take the same steps, uint8[S, S, 3] each; None: it failed."""
        try:
            return self._device_pool.generate_now(jobs)
        except Exception as error:
            self._faults.record(error, "the model failed on a batch of %d", len(jobs))
            return [None] * len(jobs)

    def finish(self, session: Session, job: LipJob, image: U8 | None, now: float) -> None:
        """Put what `paint` gave for a job into its frame."""
        if image is None:
            session.jobs.fail(job, now)
            return
        with self._timed("composite"):
            session.jobs.complete(job, image, now if session.config.offline else self.clock())

    @contextmanager
    def _timed(self, stage: str) -> Iterator[None]:
        begun_s = self.clock()
        yield
        self.observe(stage, self.clock() - begun_s)

    def _generated(self, took_s: float) -> None:
        self.observe("generate", took_s)

    # --- live work: the CPU threads ---

    def _run(self) -> None:
        while self._turn():
            pass

    def _turn(self) -> bool:
        """Do one thing; a method, so that an idle thread keeps no session alive."""
        with self._wake:
            while (work := self._choose()) is None:
                if self._fleet_closed:
                    return False
                self._wake.wait()
        try:
            work()
        except Exception:  # a session's own fault must not end the others' worker
            log.exception("a worker stumbled and goes on")
        return True

    def _choose(self) -> Callable[[], None] | None:
        """The most urgent thing to do; lock held. What is painted is nearest to its deadline."""
        if self._to_composite:
            _, _, queued_job, image, since_s = heapq.heappop(self._to_composite)
            return lambda: self._composite(queued_job, image, since_s)
        if self._closing:
            return None
        self._forget_closed()
        idle = [s for s in self._sessions.values() if s not in self._preparing]
        waiting = [(s.jobs.earliest_deadline_s, s) for s in idle]
        due = sorted(((d, s) for d, s in waiting if d is not None), key=lambda pair: pair[0])
        for deadline_s, session in due:
            expires_s = deadline_s + session.config.patience_s
            if self._device_pool.admits(
                session.jobs.steps, expires_s
            ) or not session.jobs.needs_device(self.clock()):
                self._preparing.add(session)
                return partial(self._prepare, session)
        for _, session in due:  # no device will have the time for them
            if session.jobs.moves:
                self._preparing.add(session)
                return partial(self._prepare, session, busy=True)
        return None

    def _prepare(self, session: Session, busy: bool = False) -> None:
        try:
            job = self.begin(session, self.clock(), busy)
            if job is not None:
                self._device_pool.put(
                    QueuedJob(
                        source=session.name,
                        steps=job.steps,
                        deadline_s=job.deadline_s,
                        expires_s=job.deadline_s + session.config.patience_s,
                        job=job,
                        owner=session,
                    )
                )
        finally:
            with self._wake:
                self._preparing.discard(session)
                # A frame that came meanwhile has woken nobody who could take it.
                self._wake.notify()

    def _painted(self, queued_job: QueuedJob, image: U8) -> None:
        trace = queued_job.job.trace or UNTRACED
        trace.stamp("generating", queued_job.started_s)
        trace.stamp("generated")
        self._load.devices = self._device_pool.live
        self._load.worked(queued_job.source, queued_job.took_s / queued_job.mates, self.clock())
        with self._wake:
            entry = (queued_job.deadline_s, next(self._order), queued_job, image, self.clock())
            heapq.heappush(self._to_composite, entry)
            self._wake.notify()

    def _composite(self, queued_job: QueuedJob, image: U8, since_s: float) -> None:
        session: Session = queued_job.owner
        (queued_job.job.trace or UNTRACED).stamp("compositing")
        with self._timed("composite"):
            session.jobs.complete(
                queued_job.job, image, self.clock(), queued_job.took_s, queued_job.mates
            )
        self._device_pool.composited(self.clock() - since_s)

    def _dropped(self, queued_job: QueuedJob, why: Outcome) -> None:
        session: Session = queued_job.owner
        session.jobs.fail(queued_job.job, self.clock(), why)
        self.notify()  # there is room for another

    # --- the end ---

    def close(self) -> None:
        """End every session and the workers."""
        with self._wake:
            if self._closing:
                return
            self._closing = True
            sessions = list(self._sessions.values())
            self._sessions.clear()
        self._device_pool.close()
        with self._wake:
            self._fleet_closed = True
            self._wake.notify_all()
        for thread in self._threads:
            thread.join(timeout=10)
        for session in sessions:
            session.close()
        self._pool.close()

    def __enter__(self) -> Engine:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
