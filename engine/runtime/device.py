"""A device and what runs on it: the nouns that `engine/runtime/device_pool.py` works with."""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence
from dataclasses import dataclass

from lipwire.engine.backends import Backend, is_out_of_memory
from lipwire.engine.errors import BackendError
from lipwire.engine.model.bundle import Manifest
from lipwire.engine.runtime.batcher import QueuedJob
from lipwire.engine.runtime.device_profile import DeviceProfile, StepTimes
from lipwire.engine.types import U8, LipJob

log = logging.getLogger(__name__)

# A batch that takes so many times as long as expected, and at least so long, hangs. Smaller: a busy
# machine's hiccup takes a good device out for a moment; larger: its jobs come too late for another.
HANG_FACTOR = 10.0
HANG_FLOOR_S = 0.5
HANG_UNMEASURED_S = 60.0  # the first batch of its kind may compile or load something
# How long a device that failed stays out before it is given one job to prove itself; doubles with
# each relapse.
OUT_FIRST_S = 1.0


class Model:
    """A bundle, opened on every device."""

    def __init__(self, backends: Sequence[Backend]) -> None:
        assert backends, "a model needs a device"
        self.backends = tuple(backends)
        self.manifest: Manifest = backends[0].manifest
        self.times = tuple(StepTimes() for _ in backends)


@dataclass(frozen=True, slots=True)
class DeviceStatus:
    """A device as people see it."""

    name: str
    description: str
    state: str  # live, out (it failed; it will be tried again) or hung
    batches: int
    jobs: int
    faults: int
    largest_batch: int
    busy_s: float  # time spent on batches so far


@dataclass(slots=True)
class Run:
    """A batch on a device."""

    batch: tuple[QueuedJob, ...]
    expected_s: float
    started_s: float | None = None  # None: the device is still in another's hands
    given_up: bool = False

    def hangs(self, now: float) -> bool:
        """Whether it should have come back long ago."""
        if self.given_up or self.started_s is None:
            return False
        limit_s = HANG_UNMEASURED_S
        if self.expected_s > 0:
            limit_s = max(HANG_FLOOR_S, HANG_FACTOR * self.expected_s)
        return now - self.started_s > limit_s


class Device:
    """One place where models run, and its record."""

    def __init__(self, index: int, profile: DeviceProfile) -> None:
        self.index, self.profile = index, profile
        self.hands = threading.Lock()  # a backend is not shared between threads
        self.run: Run | None = None
        self.hung = False
        self.out_until_s: float | None = None
        self.out_s = OUT_FIRST_S
        self.in_a_row = 0
        self.batches = self.jobs = self.faults = 0
        self.busy_s = 0.0
        self.thread: threading.Thread | None = None

    @property
    def name(self) -> str:
        """As given by the user."""
        return self.profile.name

    def generate(self, backend: Backend, jobs: Sequence[LipJob]) -> list[U8]:
        """Run a batch, in smaller pieces where memory lacks; the pieces stay small from then on.

        Raises:
            BackendError: another number of pictures came back.
            Exception: whatever the backend raised.
        """
        try:
            painted = backend.generate(jobs)
        except Exception as error:
            if len(jobs) < 2 or not is_out_of_memory(error):
                raise
            half = (len(jobs) + 1) // 2
            self.profile.limit = min(self.profile.limit, half)
            said = "%s: out of memory on a batch of %d; batches of at most %d from now on"
            log.warning(said, self.name, len(jobs), self.profile.limit)
            return self.generate(backend, jobs[:half]) + self.generate(backend, jobs[half:])
        if len(painted) != len(jobs):
            raise BackendError(f"{len(painted)} pictures came back for {len(jobs)} jobs")
        return painted
