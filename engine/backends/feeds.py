"""Jobs -> the named arrays that graphs take, and painted halves -> pictures; nothing is allocated.

The names and shapes are those of lipwire.engine.nets.graphs; this module needs no torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from lipwire.engine.audio.mel import N_MELS, WINDOW_COLUMNS
from lipwire.engine.errors import BackendError
from lipwire.engine.face.articulation import CODES
from lipwire.engine.face.articulation_scale import TYPICAL
from lipwire.engine.model.bundle import Manifest, check_steps
from lipwire.engine.model.ddim import NoiseSchedule, add_noise
from lipwire.engine.types import F32, U8, LipJob

Arrays = dict[str, F32]
SCHEDULE = NoiseSchedule.linear()


def feed_shapes(manifest: Manifest, batch: int, noise_rows: int) -> dict[str, tuple[int, ...]]:
    """Shape of every array that a frame brings, by name.

    Args:
        manifest: of the model.
        batch: axis 0.
        noise_rows: height of the noise image: S, or S/2 where only hidden rows are sampled.
    """
    size = manifest.crop_size
    told: dict[str, tuple[int, ...]] = {"reach": (batch, CODES)} if manifest.reach_px else {}
    if manifest.reference_codes:
        told["shown"] = (batch, manifest.references, CODES)
    return {
        "visible": (batch, 3, size // 2, size),
        "references": (batch, 3 * manifest.references, size, size),
        "mel": (batch, N_MELS, int(manifest.mel.get("columns", WINDOW_COLUMNS))),
        "noise": (batch, 3, noise_rows, size),
        **told,
    }


@lru_cache(maxsize=64)  # a seed a session
def noise_image(seed: int, rows: int, size: int) -> F32:
    """The one noise image of a seed, f32[3, rows, size]: the same for every frame of a session."""
    noise = np.random.default_rng(seed).standard_normal((3, rows, size), dtype=np.float32)
    noise.setflags(write=False)
    return noise


class Feeds:
    """Arrays for batches up to one size, written in place."""

    def __init__(self, manifest: Manifest, batch: int, noise_rows: int) -> None:
        shapes = feed_shapes(manifest, batch, noise_rows)
        self.arrays: Arrays = {name: np.zeros(shape, np.float32) for name, shape in shapes.items()}
        self.batch = batch
        self.entered: npt.NDArray[np.bool_] = np.zeros(batch, bool)  # which slots begin at a unit
        self._manifest = manifest
        self._seeds: list[int | None] = [None] * batch
        self._scratch: F32 = np.empty(shapes["visible"][1:], np.float32)

    def load_jobs(self, jobs: Sequence[LipJob]) -> None:
        """Write the jobs into the first slots; call `check_jobs` before."""
        visible, references = self.arrays["visible"], self.arrays["references"]
        half = self._manifest.crop_size // 2
        for slot, job in enumerate(jobs):
            _to_plane(job.crop[:half], visible[slot])
            for number, picture in enumerate(job.references):
                _to_plane(picture, references[slot, 3 * number : 3 * number + 3])
            self.arrays["mel"][slot] = job.mel
            if "reach" in self.arrays:
                self.arrays["reach"][slot] = reach_of(job)
            if "shown" in self.arrays:
                self.arrays["shown"][slot] = shown_of(self._manifest, job)
            self.entered[slot] = job.start is not None
            if job.start is not None or self._seeds[slot] != job.seed:
                noise = self.arrays["noise"][slot]
                noise[...] = first_sample(self._manifest, job, noise.shape[1])
                self._seeds[slot] = None if job.start is not None else job.seed

    def load_arrays(self, arrays: Arrays, entered: bool = False) -> None:
        """Write raw arrays of up to `batch` samples into the first slots.

        Args:
            arrays: by name.
            entered: whether `noise` is a picture with noise, see `first_sample`.
        """
        for name, values in arrays.items():
            self.arrays[name][: len(values)] = values
        self.entered[:] = entered
        self._seeds = [None] * self.batch

    def pictures(self, jobs: Sequence[LipJob], sample: F32) -> list[U8]:
        """The jobs' crops with their lower halves repainted, uint8[S, S, 3] each.

        Args:
            jobs: as loaded.
            sample: f32[B, 3, H, S] in ±1, of which the last S/2 rows count.

        Raises:
            BackendError: the model painted NaN or infinity.
        """
        half = self._manifest.crop_size // 2
        pictures = []
        for slot, job in enumerate(jobs):
            planes = self._scratch
            np.add(sample[slot, :, -half:], 1.0, out=planes)
            np.multiply(planes, 127.5, out=planes)
            if not np.isfinite(planes.sum()):  # cheaper than a mask; one NaN is enough to show
                raise BackendError(f"{self._manifest.name}: the model painted NaN or infinity")
            np.clip(np.rint(planes, out=planes), 0, 255, out=planes)
            picture = job.crop.copy()
            picture[half:] = planes.transpose(1, 2, 0)
            pictures.append(picture)
        return pictures


def reach_of(job: LipJob) -> F32:
    """What is known of the person's reach, f32[codes]."""
    return TYPICAL if job.reach is None else job.reach


def shown_of(manifest: Manifest, job: LipJob) -> F32:
    """The codes that a job's references show, f32[R, codes]; the usual mouth where not known."""
    if job.reference_codes is None:
        return np.zeros((manifest.references, CODES), np.float32)
    return job.reference_codes


def first_sample(manifest: Manifest, job: LipJob, rows: int) -> F32:
    """What a job's sampling begins with, f32[3, rows, S].

    The session's noise; of a job that begins at a unit that picture with the noise of the first
    entry step, see `lipwire.engine.model.ddim.NoiseSchedule.entry_timesteps`.
    """
    noise = noise_image(job.seed, rows, manifest.crop_size)
    if job.start is None:
        return noise
    t = SCHEDULE.entry_timesteps(job.steps, manifest.spacing)[0]  # type: ignore[arg-type]
    x_t = np.empty_like(noise)
    _to_plane(job.start, x_t)
    return np.asarray(add_noise(x_t, noise, SCHEDULE.alpha_bar(t)), np.float32)


def check_jobs(manifest: Manifest, jobs: Sequence[LipJob]) -> int:
    """The number of steps that all jobs of a batch take.

    Raises:
        BundleError: the model does not offer it.
        BackendError: the jobs differ in it, or one has another shape than the model's.
    """
    steps = jobs[0].steps
    if any(job.steps != steps for job in jobs):
        raise BackendError("all jobs of a batch must take the same number of steps")
    size = manifest.crop_size
    columns = int(manifest.mel.get("columns", WINDOW_COLUMNS))
    for job in jobs:
        for name, values, shape in (
            ("crop", job.crop, (size, size, 3)),
            ("references", job.references, (manifest.references, size, size, 3)),
            ("mel", job.mel, (N_MELS, columns)),
            ("reach", reach_of(job), (CODES,)),
            ("reference_codes", shown_of(manifest, job), (manifest.references, CODES)),
        ):
            if values.shape != shape:
                raise BackendError(
                    f"job {job.index} of {job.session}: {name} is {list(values.shape)}, "
                    f"model {manifest.name} takes {list(shape)}"
                )
        if job.start is None:
            continue
        if not manifest.reference_codes or job.start.shape != (size // 2, size, 3):
            raise BackendError(
                f"job {job.index} of {job.session}: start is {list(job.start.shape)}, model "
                f"{manifest.name} takes "
                + (f"{[size // 2, size, 3]}" if manifest.reference_codes else "none")
            )
    return check_steps(manifest, steps)


def check_arrays(manifest: Manifest, arrays: Arrays, noise_rows: int) -> int:
    """The number of samples in raw arrays.

    Raises:
        BackendError: one is missing or has another shape than the model's.
    """
    shapes = feed_shapes(manifest, len(arrays.get("mel", ())), noise_rows)
    for name, shape in shapes.items():
        found = arrays.get(name)
        if found is None:
            raise BackendError(f"model {manifest.name} needs {name} {list(shape)}")
        if found.shape != shape:
            raise BackendError(
                f"{name} is {list(found.shape)}, model {manifest.name} takes {list(shape)}"
            )
    return len(arrays["mel"])


def _to_plane(image: U8, out: F32) -> None:
    """uint8[h, w, 3] -> f32[3, h, w] in ±1."""
    np.divide(image.transpose(2, 0, 1), 127.5, out=out, dtype=np.float32, casting="unsafe")
    np.subtract(out, 1.0, out=out)
