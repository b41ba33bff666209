"""A bundle's graphs on a CPU's runtimes, planned once for each batch size and then run.

What a runtime adds is how a graph is opened and how arrays are bound to it: `ort.py`,
`openvino.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np

from lipwire.engine.backends.feeds import Arrays, Feeds, check_arrays, check_jobs
from lipwire.engine.errors import BackendError
from lipwire.engine.model.bundle import Manifest, check_steps
from lipwire.engine.model.ddim import COEFFICIENTS, NoiseSchedule, trajectory
from lipwire.engine.types import F32, U8, LipJob

ENCODE, STEP = "encode.onnx", "step.onnx"
BATCH_SIZES = (1, 2, 4, 8, 16)

Path = list[tuple[int, F32]]  # timesteps with their coefficients
Paths = tuple[Path, Path]  # of samples that begin at noise, and of those that begin at a unit


def sizes_for_cores(cores: int, sizes: Sequence[int] = BATCH_SIZES) -> tuple[int, ...]:
    """Batches worth having on a CPU: up to a picture for each core, at least 2.

    Larger ones save it nothing, take longer than a call waits, and cost 1.4 MiB for each picture.
    """
    return tuple(size for size in sizes if size <= max(2, cores))


def check_built_for(manifest: Manifest, kind: str) -> None:
    """Refuse a kind of device (cpu, cuda, tensorrt) that the graphs were not built for.

    Raises:
        BackendError: names both.
    """
    if manifest.device not in ("any", "cpu" if kind == "cpu" else "cuda"):
        built = f"bundle {manifest.name} was built for device {manifest.device!r}"
        raise BackendError(f"{built}, not for {kind!r}")


class Plan(Protocol):
    """One batch size: arrays, and the graphs bound to them."""

    feeds: Feeds

    def run(self, paths: Paths) -> F32:
        """Sample what the feeds hold; the result is overwritten by the next run.

        Raises:
            BackendError: the runtime failed.
        """
        ...


class PlannedBackend:
    """`encode.onnx` once a frame (where there is one) and `step.onnx` once a step."""

    def __init__(self, manifest: Manifest, batch_sizes: tuple[int, ...] | None) -> None:
        self.manifest = manifest
        self.batch_sizes = batch_sizes or BATCH_SIZES
        self.schedule = NoiseSchedule.linear()
        self._known = {manifest.default_steps: self._paths(manifest.default_steps)}
        self._plans: dict[int, Plan] = {}

    def _make_plan(self, size: int) -> Plan:
        raise NotImplementedError

    @property
    def noise_rows(self) -> int:
        """Height of the noise image and of the sample."""
        raise NotImplementedError

    def plan(self, jobs: int) -> Plan:
        """The plan that takes so many jobs."""
        size = next(size for size in self.batch_sizes if size >= jobs)
        if size not in self._plans:
            self._plans[size] = self._make_plan(size)
        return self._plans[size]

    def _paths(self, steps: int, clip: bool = True) -> Paths:
        if self.manifest.prediction == "image":  # one pass, without noise
            once: Path = [(0, np.zeros(len(COEFFICIENTS), np.float32))]
            return once, once
        spacing: Any = self.manifest.spacing
        how: dict[str, Any] = {"prediction": self.manifest.prediction, "clip": clip}
        noise, unit = (
            trajectory(self.schedule, steps, spacing, entered=entered, **how)
            for entered in (False, True)
        )
        return _arrays(noise), _arrays(unit)

    def try_size(self, size: int) -> None:
        """Run one step at a batch size.

        Raises:
            BackendError: it fails, or paints NaN.
        """
        noise, unit = self._known[self.manifest.default_steps]
        if not np.isfinite(self.plan(size).run((noise[:1], unit[:1]))).all():
            raise BackendError(f"{self.manifest.name}: the model paints NaN; are its weights?")

    def generate(self, jobs: Sequence[LipJob]) -> list[U8]:
        """Repaint the lower half of each crop; see `Backend.generate`."""
        self.check_open()
        if not jobs:
            return []
        steps = check_jobs(self.manifest, jobs)
        largest = self.batch_sizes[-1]
        if len(jobs) > largest:
            return [*self.generate(jobs[:largest]), *self.generate(jobs[largest:])]
        if steps not in self._known:
            self._known[steps] = self._paths(steps)
        plan = self.plan(len(jobs))
        plan.feeds.load_jobs(jobs)
        return plan.feeds.pictures(jobs, plan.run(self._known[steps]))

    def sample(
        self, arrays: Arrays, steps: int, *, clip: bool = True, entered: bool = False
    ) -> F32:
        """Sample on raw arrays, to hold a bundle against a reference.

        Args:
            arrays: visible, references, mel and noise as in `lipwire.engine.nets.graphs`.
            steps: of those offered.
            clip: keep the clean-image estimate in ±1 at every step.
            entered: `noise` is a picture with noise, see `lipwire.engine.backends.feeds`.

        Returns:
            f32[B, 3, H, S]; H is S, or S/2 for a model that samples the hidden half only.

        Raises:
            BackendError: an array is missing or misshapen, or the runtime failed.
            BundleError: the steps are not offered.
        """
        self.check_open()
        paths = self._paths(check_steps(self.manifest, steps), clip)
        count = check_arrays(self.manifest, arrays, self.noise_rows)
        largest, pieces = self.batch_sizes[-1], []
        for begin in range(0, count, largest):
            piece = {name: values[begin : begin + largest] for name, values in arrays.items()}
            plan = self.plan(len(piece["mel"]))
            plan.feeds.load_arrays(piece, entered)
            pieces.append(plan.run(paths)[: len(piece["mel"])].copy())
        return np.concatenate(pieces)

    def check_open(self) -> None:
        """Raise once it is closed.

        Raises:
            BackendError: it is.
        """
        if "_plans" not in self.__dict__:
            raise BackendError(f"the backend of {self.manifest.name} is closed")

    def close(self) -> None:
        """Free the graphs and arrays; nothing can be generated any more."""
        self.__dict__.pop("_plans", None)


def _arrays(path: Sequence[tuple[int, tuple[float, ...]]]) -> Path:
    return [(t, np.array(numbers, np.float32)) for t, numbers in path]


class StepInputs:
    """The two inputs of a step that tell it where it is, written before each."""

    def __init__(self, size: int) -> None:
        self.t: F32 = np.zeros(size, np.float32)
        self.coefficients: F32 = np.zeros((size, len(COEFFICIENTS)), np.float32)

    def write(self, noise: tuple[int, F32], unit: tuple[int, F32], entered: Any) -> None:
        """The step of samples that begin at noise, and of those that `entered` at a unit."""
        self.t[:], self.coefficients[:] = noise
        self.t[entered], self.coefficients[entered] = unit


def sample_rows(shape: Sequence[Any], crop_size: int) -> int:
    """Height of the sample, from the shape of `x_prev`.

    Raises:
        BackendError: it fits no crop of that size.
    """
    rows = shape[2] if len(shape) == 4 else None
    if rows not in (crop_size // 2, crop_size):
        raise BackendError(
            f"{STEP} returns x_prev {list(shape)}, which does not fit crops of {crop_size} px"
        )
    return int(rows)
