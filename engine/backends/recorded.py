"""Torch on a GPU, the default there: the whole sampler as CUDA graphs, one a step count and size.

The network computes in half precision where that does no harm, channels last. Jobs are written
into pinned buffers at a size that was recorded; the graph reads its own copies of them, and the
copy of its pictures back is the one wait a batch. `trt.py` is the same with other parts.

Not run on the machines that this project was built on: they have no GPU. What is not CUDA itself is
tested with a recorder that stands for it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from lipwire.engine.backends import blank_job, noise_job
from lipwire.engine.backends.cuda_graphs import CudaRecorder, GraphedBatches, Recorder
from lipwire.engine.backends.feeds import check_jobs, first_sample, reach_of, shown_of
from lipwire.engine.backends.sampler import Part, Sampler
from lipwire.engine.errors import BackendError, ConfigError
from lipwire.engine.model.bundle import Bundle
from lipwire.engine.nets import build_network
from lipwire.engine.nets.graphs import ENCODE, STEP, Graph, example_inputs, graphs
from lipwire.engine.nets.precision import mixed_precision
from lipwire.engine.types import U8, LipJob

# Mean difference from the network in float32, in levels of 255. More: something else is painted,
# and the backend is not used; less: half precision alone would fail.
TOLERANCE_LEVELS = 1.5
Parts = tuple[Part | None, Part]


class RecordedBackend:
    """A bundle's network on one GPU, replayed.

    Args:
        bundle: the model; it must hold its network (see `lipwire.engine.nets.build_network`).
        device: as torch names it.
        graphs: replay CUDA graphs; without them any batch runs, several times slower at few steps.
        half: compute in float16 where that does no harm.
        batch_sizes: to record; larger batches are cut.
        recorder: makes what records on a device.

    Raises:
        BackendError: no such GPU, it refuses the network, or it paints something else than the
            network does in float32.
        BundleError: the bundle does not hold its network.
    """

    runtime = f"torch {torch.__version__}"  # for people

    def __init__(
        self,
        bundle: Bundle,
        device: str = "cuda:0",
        *,
        graphs: bool = True,
        half: bool = True,
        batch_sizes: tuple[int, ...] = (1, 2, 4, 8, 16),
        recorder: Callable[[torch.device], Recorder] = CudaRecorder,
    ) -> None:
        self.manifest = manifest = bundle.manifest
        self.batch_sizes = tuple(sorted(batch_sizes))
        self._device = _device(device)
        if self._device.type == "cuda" and manifest.device == "cpu":
            raise BackendError(f"bundle {manifest.name} was built for device 'cpu', not for a GPU")
        net = build_network(bundle)
        self._rows = example_inputs(net, 1)["noise"].shape[2]
        reference = self._cut(net, 1)  # cut on the CPU, where their examples lie
        network = mixed_precision(net) if half else net
        network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        cut = {size: self._cut(network, size) for size in self.batch_sizes}
        self._precision = "float16" if half else "float32"
        self._paint: dict[int, Callable[..., Tensor]] = {}
        with self._on_device(), torch.inference_mode():
            for graph in (*reference, *(graph for size in cut for graph in cut[size])):
                graph.module.to(self._device)
            self._staged = self._buffers()
            self._prepare(cut)
            shared = recorder(self._device) if graphs else None
            for steps in manifest.steps_offered:
                samplers = {
                    size: Sampler(manifest, *self._parts(cut[size], size), steps, self._device)
                    for size in self.batch_sizes
                }
                self._paint[steps] = self._recorded(samplers, shared)
        name = torch.cuda.get_device_name(self._device) if self._device.type == "cuda" else "CPU"
        self.description = f"{self.runtime}, {self._precision}, {device}: {name}"
        self._compare(reference)

    # --- what another runtime does otherwise ---

    def _prepare(self, cut: Mapping[int, tuple[Graph, ...]]) -> None:
        """Make ready for `_parts`."""

    def _parts(self, cut: tuple[Graph, ...], batch: int) -> Parts:
        """What runs a network's graphs at one batch size, for one recording."""
        return in_order({graph.name: Part.of(graph) for graph in cut})

    # --- ---

    def _cut(self, net: torch.nn.Module, batch: int) -> tuple[Graph, ...]:
        try:
            return graphs(net, batch)
        except ConfigError as error:
            raise BackendError(f"{self.runtime} does not run it: {error}") from error

    def _on_device(self) -> AbstractContextManager[object]:
        return torch.cuda.device(self._device) if self._device.type == "cuda" else nullcontext()

    def _buffers(self) -> dict[str, Tensor]:
        """Host memory for the largest batch, pinned: copies from it do not wait."""
        pinned, largest = self._device.type == "cuda", self.batch_sizes[-1]
        return {
            name: torch.from_numpy(np.repeat(array, largest, axis=0)).clone().pin_memory()
            if pinned
            else torch.from_numpy(np.repeat(array, largest, axis=0))
            for name, array in self._arrays(blank_job(self.manifest)).items()
        }

    def _arrays(self, job: LipJob) -> dict[str, npt.NDArray[Any]]:
        """What a job brings, one row each."""
        arrays: dict[str, npt.NDArray[Any]] = {
            "crops": job.crop,
            "references": job.references,
            "mel": job.mel,
            "noise": first_sample(self.manifest, job, self._rows),
        }
        if self.manifest.reach_px:
            arrays["reach"] = reach_of(job)
        if self.manifest.reference_codes:
            arrays["shown"] = shown_of(self.manifest, job)
            arrays["entered"] = np.array(job.start is not None, np.int64)
        return {name: array[None] for name, array in arrays.items()}

    def _inputs(self, jobs: Sequence[LipJob]) -> dict[str, Tensor]:
        """The jobs in the buffers, filled with the last one up to the next size."""
        size = next(size for size in self.batch_sizes if size >= len(jobs))
        for row in range(size):
            for name, array in self._arrays(jobs[min(row, len(jobs) - 1)]).items():
                self._staged[name].numpy()[row] = array[0]
        return {name: buffer[:size] for name, buffer in self._staged.items()}

    def _recorded(
        self, samplers: Mapping[int, Sampler], recorder: Recorder | None
    ) -> Callable[..., Tensor]:
        if recorder is None:

            def paint(**values: Tensor) -> Tensor:
                placed = {name: value.to(self._device) for name, value in values.items()}
                return samplers[len(values["crops"])](**placed)

            return paint
        row = {name: (tuple(b.shape[1:]), b.dtype) for name, b in self._staged.items()}
        return GraphedBatches(samplers, row, row["crops"], self._device, recorder)

    def _compare(self, reference: tuple[Graph, ...]) -> None:
        """Hold what paints against the network itself, on noise."""
        job = noise_job(self.manifest)
        parts = in_order({graph.name: Part.of(graph) for graph in reference})
        wanted = Sampler(self.manifest, *parts, job.steps, self._device)
        painted = self.generate([job])[0].astype(float)
        with torch.inference_mode(), self._on_device():
            one = {n: v[:1].to(self._device) for n, v in self._inputs([job]).items()}
            right = wanted(**one).cpu().numpy()
        difference = float(np.abs(painted - right[0]).mean())
        if not difference <= TOLERANCE_LEVELS:
            raise BackendError(
                f"{self.runtime}'s pictures differ from the network's by {difference:.1f} of 255 "
                "levels; open the backend with half=False"
            )

    def generate(self, jobs: Sequence[LipJob]) -> list[U8]:
        """Repaint the lower half of each crop; see `Backend.generate`."""
        if "_paint" not in self.__dict__:
            raise BackendError(f"the backend of {self.manifest.name} is closed")
        if not jobs:
            return []
        steps, largest = check_jobs(self.manifest, jobs), self.batch_sizes[-1]
        if len(jobs) > largest:
            return [*self.generate(jobs[:largest]), *self.generate(jobs[largest:])]
        try:
            with torch.inference_mode(), self._on_device():
                # numpy's copy: on a CPU the buffer itself would be given away.
                painted = self._paint[steps](**self._inputs(jobs)).cpu().numpy()
                return list(painted[: len(jobs)].copy())
        except (RuntimeError, ValueError, AttributeError) as error:  # torch's and CUDA's own
            if isinstance(error, BackendError):
                raise
            raise BackendError(f"{self.runtime} failed ({' '.join(str(error).split())})") from error

    def close(self) -> None:
        """Free the GPU; nothing can be generated any more."""
        for name in ("_paint", "_staged"):
            self.__dict__.pop(name, None)


def in_order(parts: Mapping[str, Part]) -> Parts:
    """As `Sampler` takes them."""
    return parts.get(ENCODE), parts[STEP]


def _device(name: str) -> torch.device:
    """A device of torch that is here."""
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise BackendError(f"torch knows no device {name!r}; use cuda:0") from error
    if device.type == "cuda":
        if not torch.cuda.is_available():
            build = torch.version.cuda
            raise BackendError(
                f"this torch was built for CUDA {build} and sees no GPU; is the driver older?"
                if build
                else "this torch is a CPU build; pip install 'lipwire[gpu]'"
            )
        if (device.index or 0) >= torch.cuda.device_count():
            raise BackendError(f"there is no {name}, only {torch.cuda.device_count()} GPUs")
        device = torch.device("cuda", device.index or 0)
    return device
