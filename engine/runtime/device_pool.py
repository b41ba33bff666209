"""The devices: a thread for each, pulling from one queue; what fails or hangs is taken out.

    pool.put(queued)           -> painted(queued, picture) or dropped(queued, why), from any thread
Operations are short and under one lock; backends run without it.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence

from lipwire.engine.errors import BackendError
from lipwire.engine.log_limit import LogLimiter
from lipwire.engine.runtime.batcher import Batcher, QueuedJob
from lipwire.engine.runtime.device import OUT_FIRST_S, Device, DeviceStatus, Model, Run
from lipwire.engine.runtime.device_profile import DeviceProfile
from lipwire.engine.types import U8, LipJob, Outcome

log = logging.getLogger(__name__)

WATCH_S = 0.1  # how often is looked; while something runs only
# So many faults in a row take a device out. One may be the job's; more would cost more frames.
FAULTS_IN_A_ROW = 3
OUT_LAST_S = 60.0  # the longest that it stays out
# Time spent on each device to measure it before it is used. Less: batch sizes are found out at the
# expense of the first calls; more: the server is ready later.
MEASURE_S = 0.2


class DevicePool:
    """All devices and the queue in front of them.

    Args:
        model: what they run.
        clock: seconds that only move forward.
        painted: is given each picture, in a device's thread.
        dropped: is given each job that nobody could or will paint.
        names: of the devices; None numbers them.
        generated: is told how long each batch took, seconds.
    """

    def __init__(
        self,
        model: Model,
        clock: Callable[[], float],
        painted: Callable[[QueuedJob, U8], None],
        dropped: Callable[[QueuedJob, Outcome], None],
        names: Sequence[str] | None = None,
        generated: Callable[[float], None] = lambda took_s: None,
    ) -> None:
        self.model = model
        self._clock, self._painted, self._dropped = clock, painted, dropped
        self._generated = generated
        names = _distinct(names or ["device"] * len(model.backends))
        self.devices = [
            Device(index, DeviceProfile(name, backend.batch_sizes, times))
            for index, (name, backend, times) in enumerate(
                zip(names, model.backends, model.times, strict=True)
            )
        ]
        self._batcher = Batcher(device.profile for device in self.devices)
        lock = threading.Lock()  # one for both: who waits on which only says who is woken
        self._wake, self._watching = threading.Condition(lock), threading.Condition(lock)
        self._faults = LogLimiter(log, "the model failed on %d batches so far")
        self._closing = False
        self._watch: threading.Thread | None = None
        self._awake = False  # the watch is

    # --- jobs ---

    def put(self, queued_job: QueuedJob) -> None:
        """Take a job that is ready to be painted."""
        with self._wake:
            self._start()
            why = Outcome.LATE if self._closing else Outcome.FAULT
            if taken := not self._closing and bool(self._batcher.live()):
                self._batcher.put(queued_job, self._clock())
                self._wake.notify_all()
        if not taken:
            self._dropped(queued_job, why)

    def admits(self, steps: int, expires_s: float) -> bool:
        """Whether one more job has a chance; see `Batcher.admits`.

        With no device left jobs are let in all the same, and pass through as faults: that says
        what is wrong.
        """
        with self._wake:
            dead = not self._batcher.live()
            return dead or self._batcher.admits(steps, expires_s, self._clock())

    @property
    def live(self) -> int:
        """Devices that take jobs."""
        return sum(device.profile.live for device in self.devices)

    def composited(self, took_s: float) -> None:
        """A painted picture took so long to be put into its frame."""
        with self._wake:
            self._batcher.composited(took_s)

    def generate_now(self, jobs: Sequence[LipJob]) -> list[U8]:
        """Run a batch in the calling thread, on the first device that works.

        Raises:
            BackendError: none works, or the model failed.
        """
        with self._wake:
            device = next((d for d in self.devices if d.profile.live), None)
        if device is None:
            raise BackendError("no device is left that works")
        with device.hands:
            begun_s = self._clock()
            painted = device.generate(self.model.backends[device.index], jobs)
            self._generated(self._clock() - begun_s)
        return painted

    # --- the model ---

    def measure(self, job: LipJob) -> None:
        """What batches of copies of a job cost on every device; nothing is loaded late either.

        Alone in any case, larger ones as long as that takes next to no time.

        Raises:
            BackendError: a device does not run it; the message says which.
        """
        for device, backend, times in zip(
            self.devices, self.model.backends, self.model.times, strict=True
        ):
            first_s = self._clock()
            for size in backend.batch_sizes:
                try:
                    with device.hands:
                        device.generate(backend, [job] * size)
                        begun_s = self._clock()
                        device.generate(backend, [job] * size)
                        ended_s = self._clock()
                except Exception as error:
                    line = " ".join(str(error).split()) or type(error).__name__
                    raise BackendError(f"{device.name}: {line}") from error
                with self._wake:
                    times.record(job.steps, size, ended_s - begun_s, ended_s)
                if ended_s - first_s > MEASURE_S:
                    break

    # --- a device's thread ---

    def _start(self) -> None:
        if self._watch is not None or self._closing:
            return
        self._watch = threading.Thread(target=self._keep_watch, name="lipwire-watch", daemon=True)
        self._watch.start()
        for device in self.devices:
            device.thread = threading.Thread(
                target=self._serve, args=(device,), name=f"lipwire-{device.name}", daemon=True
            )
            device.thread.start()

    def _serve(self, device: Device) -> None:
        while self._turn(device):
            pass

    def _turn(self, device: Device) -> bool:
        """One batch, or the jobs that have expired; a method, so that no job is kept while idle."""
        run, expired = self._next(device)
        for queued_job in expired:
            self._dropped(queued_job, Outcome.OVERLOADED)
        if run is None:
            return bool(expired)
        painted: list[U8] = []
        error: Exception | None = None
        with device.hands:
            run.started_s = self._clock()
            for queued_job in run.batch:
                queued_job.started_s = run.started_s
            try:
                jobs = [queued_job.job for queued_job in run.batch]
                painted = device.generate(self.model.backends[device.index], jobs)
            except Exception as caught:
                error = caught
            self._generated(self._clock() - run.started_s)
        self._settle(device, run, painted, error)
        return True

    def _next(self, device: Device) -> tuple[Run | None, list[QueuedJob]]:
        """Wait for a batch, or for jobs that have expired; neither means that all is over."""
        with self._wake:
            while not self._closing:
                now = self._clock()
                if device.out_until_s is not None and now >= device.out_until_s:
                    self._bring_back(device)
                if expired := self._batcher.expire(now):
                    return None, expired
                pull = self._batcher.pull(device.profile, now)
                if pull.batch:
                    expected_s = (device.profile.free_s or now) - now
                    device.run = Run(pull.batch, expected_s)
                    self._wake.notify_all()  # for the others an idle neighbour less
                    if not self._awake:
                        self._watching.notify()
                    return device.run, []
                times_s = [t for t in (pull.again_s, device.out_until_s) if t is not None]
                self._wake.wait(min(times_s) - now if times_s else None)
            return None, []

    def _settle(self, device: Device, run: Run, painted: list[U8], error: Exception | None) -> None:
        """A batch came back from a device."""
        lost: list[QueuedJob] = []
        with self._wake:
            now = self._clock()
            took_s = now - (run.started_s or now)
            device.busy_s += took_s
            device.run = None
            if run.given_up:
                log.warning("%s: is back after %.1f s", device.name, took_s)
                device.hung, device.profile.free_s = False, None
                device.profile.live = device.out_until_s is None
            else:
                self._batcher.done(device.profile, run.batch, None if error else took_s, now)
            if error is None and not run.given_up:
                device.in_a_row, device.out_s = 0, OUT_FIRST_S
                device.batches += 1
                device.jobs += len(run.batch)
            elif error is not None and not run.given_up:
                self._faults.record(
                    error, "%s: the model failed on a batch of %d", device.name, len(run.batch)
                )
                lost = self._failed(device, run.batch, now)
            self._wake.notify_all()
        if not run.given_up and error is None:
            for queued_job, picture in zip(run.batch, painted, strict=True):
                queued_job.took_s, queued_job.mates = took_s, len(run.batch)
                self._painted(queued_job, picture)
        for queued_job in lost:
            self._dropped(queued_job, Outcome.FAULT)

    def _failed(self, device: Device, batch: tuple[QueuedJob, ...], now: float) -> list[QueuedJob]:
        """Mark the fault; what can be tried again is queued, the rest is returned. Lock held."""
        device.faults += 1
        device.in_a_row += 1
        others = [profile for profile in self._batcher.live() if profile is not device.profile]
        if others and device.in_a_row >= FAULTS_IN_A_ROW and device.profile.live:
            said = "%s: failed %d times in a row; taken out for %.0f s"
            log.error(said, device.name, device.in_a_row, device.out_s)
            device.profile.live, device.out_until_s = False, now + device.out_s
            device.out_s = min(2 * device.out_s, OUT_LAST_S)
        lost = []
        for queued_job in batch:
            first_time = not queued_job.failed_on
            queued_job.failed_on.add(device.name)
            # Once more: elsewhere, or alone if it had neighbours that may have been to blame.
            if first_time and (others or len(batch) > 1) and now < queued_job.expires_s:
                self._batcher.put(queued_job, now)
            else:
                lost.append(queued_job)
        return lost

    def _bring_back(self, device: Device) -> None:
        """One more fault takes it out again."""
        device.out_until_s, device.in_a_row = None, FAULTS_IN_A_ROW - 1
        device.profile.live = not device.hung

    # --- the watch ---

    def _keep_watch(self) -> None:
        while True:
            lost: list[QueuedJob] = []
            with self._wake:
                if self._closing:
                    return
                now = self._clock()
                for device in self.devices:
                    if device.run is not None and device.run.hangs(now):
                        lost += self._give_up(device, device.run, now)
                if not lost:
                    self._awake = any(d.run and not d.run.given_up for d in self.devices)
                    self._watching.wait(WATCH_S if self._awake else None)
            for queued_job in lost:
                self._dropped(queued_job, Outcome.FAULT)

    def _give_up(self, device: Device, run: Run, now: float) -> list[QueuedJob]:
        """A device hangs: its jobs go elsewhere or are returned, its thread is left to itself.

        A thread inside a native library cannot be ended. Should it come back, the device is used
        again. Lock held.
        """
        said = "%s: hangs on a batch of %d that should take %.0f ms; its jobs go elsewhere"
        log.error(said, device.name, len(run.batch), run.expected_s * 1e3)
        run.given_up = device.hung = True
        lost = self._failed(device, run.batch, now)
        device.profile.live = False
        if not self._batcher.live():
            for other in self.devices:
                if other.out_until_s is not None and not other.hung:
                    self._bring_back(other)
        self._wake.notify_all()
        if not self._batcher.live():
            lost += self._batcher.expire(now)  # all of them
        return lost

    # --- people ---

    def status(self) -> list[DeviceStatus]:
        """A snapshot of every device."""
        with self._wake:
            return [
                DeviceStatus(
                    name=device.name,
                    description=backend.description,
                    state="hung" if device.hung else "live" if device.profile.live else "out",
                    batches=device.batches,
                    jobs=device.jobs,
                    faults=device.faults,
                    largest_batch=device.profile.limit,
                    busy_s=device.busy_s,
                )
                for device, backend in zip(self.devices, self.model.backends, strict=True)
            ]

    def close(self) -> None:
        """Finish what runs, give back what waits, close the models; a hung device is left alone."""
        with self._wake:
            if self._closing:
                return
            self._closing = True
            self._wake.notify_all()
            self._watching.notify_all()
        for device in self.devices:
            if device.thread is not None and not device.hung:
                device.thread.join(timeout=10)
        if self._watch is not None:
            self._watch.join(timeout=10)
        with self._wake:
            waiting = self._batcher.waiting
        for queued_job in waiting:
            self._dropped(queued_job, Outcome.LATE)
        for device in self.devices:
            # A thread that is still inside would crash if what it uses were freed.
            if device.thread is None or not device.thread.is_alive():
                self.model.backends[device.index].close()


def _distinct(names: Sequence[str]) -> list[str]:
    """Two devices of one name (two workers on one CPU, say) are numbered."""
    return [
        name if list(names).count(name) == 1 else f"{name}#{list(names[:index]).count(name) + 1}"
        for index, name in enumerate(names)
    ]
