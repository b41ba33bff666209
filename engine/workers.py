"""Engine: one model, one worker thread, any number of sessions."""

from __future__ import annotations

import itertools
import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from types import TracebackType

import numpy as np

from engine.backends import Backend, load_backend
from engine.bundle import check_steps, open_bundle
from engine.config import EngineConfig
from engine.errors import BackendError, ConfigError, SessionClosed
from engine.session import FAULTS_A_LINE, Session
from engine.tracker import FaceTracker, TrackerPool
from engine.types import PLAYOUT_RATE_HZ, LipJob, VideoFrame

log = logging.getLogger(__name__)

Observe = Callable[[str, float], None]
"""Is told a stage's name and how long it took, seconds."""


class Engine:
    """A model and the thread that runs it for all sessions, earliest deadline first.

    Args:
        backend: paints the mouths; closed with the engine.
        make_tracker: makes a face tracker for each session; None lends MediaPipe's from a pool.
        clock: seconds that only move forward; every `now` given to its sessions is on this clock.

    Use `open_engine` to make one from a bundle, and `with` to end it.
    """

    def __init__(
        self,
        backend: Backend,
        make_tracker: Callable[[], FaceTracker] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.backend, self.clock = backend, clock
        self._pool = TrackerPool()
        self._make_tracker = make_tracker or self._pool
        self._sessions: dict[str, Session] = {}
        self._wake = threading.Condition()
        self._device = threading.Lock()  # a backend is not shared between threads
        self._faults = 0
        self._closing = False
        self._thread: threading.Thread | None = None
        self._names = itertools.count(1)
        self.observe: Observe | None = None
        """told how long preparing, generating and compositing a picture took, by the worker"""

    def session(self, config: EngineConfig | None = None, name: str | None = None) -> Session:
        """Begin a session; its clock starts now.

        Raises:
            BundleError: the model does not offer the steps that `config` asks for.
            ConfigError: another session has this name.
            SessionClosed: the engine has ended.
        """
        config = config or EngineConfig()
        manifest = self.backend.manifest
        steps = check_steps(manifest, config.steps or manifest.default_steps)
        session = Session(
            name or f"session-{next(self._names)}",
            self._make_tracker,
            config,
            steps=steps,
            steps_offered=manifest.steps_offered,
            crop_size=manifest.crop_size,
            now=0.0 if config.offline else self.clock(),
            wake=None if config.offline else self.notify,
        )
        with self._wake:
            if self._closing:
                raise SessionClosed("the engine has ended; open another")
            if not config.offline:
                self._forget_closed()
                if session.name in self._sessions:
                    raise ConfigError(f"a session named {session.name!r} is running already")
                self._sessions[session.name] = session
                self._ensure_thread()
        return session

    def _forget_closed(self) -> None:
        """Let go of sessions that were closed by themselves instead of through `end`."""
        self._sessions = {n: s for n, s in self._sessions.items() if not s.closed}

    def _ensure_thread(self) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="lipwire-worker", daemon=True)
            self._thread.start()

    def notify(self) -> None:
        """Wake the worker; `Session.push_video` does it too."""
        with self._wake:
            self._wake.notify()

    def end(self, session: Session) -> None:
        """End a session and forget it."""
        with self._wake:
            if self._sessions.get(session.name) is session:
                del self._sessions[session.name]
        session.close()

    def warm_up(self) -> None:
        """Load what is loaded on first use: a second that no call should wait for."""
        session = self.session(EngineConfig(offline=True, silence="generate"))
        session.push_speech(np.zeros(PLAYOUT_RATE_HZ // 2, np.int16), PLAYOUT_RATE_HZ, 0.0)
        session.push_video(VideoFrame(np.zeros((64, 64, 3), np.uint8), 0, Fraction(1, 25)), 0.0)
        self.work([session], 0.0)
        self.end(session)

    def work(self, sessions: list[Session], now: float) -> int:
        """Do one batch for these sessions in the calling thread; returns jobs begun.

        A session contributes one frame; frames that pass through count as begun too.
        """
        waiting = [(s.earliest_deadline_s, s) for s in sessions]
        due = sorted(((d, s) for d, s in waiting if d is not None), key=lambda pair: pair[0])
        jobs: list[tuple[LipJob, Session]] = []
        for _, session in due[: self.backend.batch_sizes[-1]]:
            with self._timed("prepare"):
                job = session.next_job(now)
            if job is not None:
                jobs.append((job, session))
        for steps in {job.steps for job, _ in jobs}:
            self._generate([pair for pair in jobs if pair[0].steps == steps], now)
        return len(due)

    def _generate(self, batch: list[tuple[LipJob, Session]], now: float) -> None:
        try:
            with self._device, self._timed("generate"):
                painted = self.backend.generate([job for job, _ in batch])
            if len(painted) != len(batch):
                raise BackendError(f"{len(painted)} pictures came back for {len(batch)} jobs")
        except Exception:
            self._faults += 1
            if self._faults == 1:
                log.exception("the model failed on a batch of %d", len(batch))
            elif self._faults % FAULTS_A_LINE == 0:
                log.error("the model failed on %d batches so far", self._faults)
            for job, session in batch:
                session.fail(job, now)
            return
        for (job, session), image in zip(batch, painted, strict=True):
            with self._timed("composite"):
                session.complete(job, image, now if session.config.offline else self.clock())

    @contextmanager
    def _timed(self, stage: str) -> Iterator[None]:
        begun_s = self.clock()
        yield
        if self.observe is not None:
            self.observe(stage, self.clock() - begun_s)

    def _run(self) -> None:
        while True:
            with self._wake:
                while not self._closing and not any(
                    s.earliest_deadline_s is not None for s in self._sessions.values()
                ):
                    self._wake.wait()
                if self._closing:
                    return
                self._forget_closed()
                sessions = list(self._sessions.values())
            try:
                self.work(sessions, self.clock())
            except Exception:  # a session's own fault must not end the others' worker
                log.exception("the worker stumbled and goes on")

    def close(self) -> None:
        """End every session and the worker."""
        with self._wake:
            if self._closing:
                return
            self._closing = True
            self._wake.notify_all()
            sessions = list(self._sessions.values())
            self._sessions.clear()
        if self._thread is not None:
            self._thread.join(timeout=10)
        for session in sessions:
            session.close()
        self._pool.close()
        self.backend.close()

    def __enter__(self) -> Engine:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def open_engine(
    bundle: str | Path | None = None, *, backend: str = "ort", threads: int | None = None
) -> Engine:
    """Open a model on this machine, warm: the first frame of a session costs no more than others.

    Args:
        bundle: a bundle's folder; None takes the model that ships with lipwire.
        backend: the runtime.
        threads: CPU threads of the runtime; None decides by the machine.

    Raises:
        BundleError: the bundle is incomplete, altered or unknown.
        BackendError: the runtime is missing or refuses the model.
    """
    engine = Engine(load_backend(open_bundle(bundle), backend, threads=threads))
    try:
        engine.warm_up()
    except BaseException:
        engine.close()
        raise
    return engine
