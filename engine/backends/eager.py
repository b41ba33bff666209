"""Plain torch, on any device it has: the reference that every other runtime is held against."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from lipwire.engine.backends.feeds import Arrays, Feeds, check_arrays, check_jobs
from lipwire.engine.errors import BackendError
from lipwire.engine.model.bundle import Bundle, check_steps
from lipwire.engine.nets import build_network
from lipwire.engine.nets.graphs import example_inputs
from lipwire.engine.nets.reference import sample
from lipwire.engine.types import F32, U8, LipJob


class EagerBackend:
    """A bundle's network in float32, rebuilt from its weights.

    Raises:
        BackendError: torch does not have the device.
        BundleError: the bundle does not hold its network.
    """

    def __init__(
        self, bundle: Bundle, threads: int | None = None, device: str | None = None
    ) -> None:
        self.manifest = bundle.manifest
        self.batch_sizes = (1, 2, 4, 8, 16)
        if threads is not None:
            torch.set_num_threads(threads)
        net = build_network(bundle)
        self.noise_rows = example_inputs(net, 1)["noise"].shape[2]
        try:
            self._device = torch.device(device or "cpu")
            self._net = net.to(self._device)
        except Exception as error:  # torch raises several unrelated kinds
            raise BackendError(
                f"torch has no device {device!r} ({' '.join(str(error).split())})"
            ) from error
        self._feeds: dict[int, Feeds] = {}
        self.description = f"torch {torch.__version__}, eager, {self._device}"

    def generate(self, jobs: Sequence[LipJob]) -> list[U8]:
        """Repaint the lower half of each crop; see `Backend.generate`."""
        self._check_open()
        if not jobs:
            return []
        steps, count = check_jobs(self.manifest, jobs), len(jobs)
        if count not in self._feeds:
            self._feeds[count] = Feeds(self.manifest, count, self.noise_rows)
        feeds = self._feeds[count]
        feeds.load_jobs(jobs)
        sample = self._sample(feeds.arrays, steps)
        if feeds.entered.any():
            entered = self._sample(feeds.arrays, steps, entered=True)
            sample = np.where(feeds.entered[:, None, None, None], entered, sample)
        return feeds.pictures(jobs, sample)

    def sample(
        self, arrays: Arrays, steps: int, *, clip: bool = True, entered: bool = False
    ) -> F32:
        """Sample on raw arrays; as `OrtBackend.sample`."""
        self._check_open()
        check_steps(self.manifest, steps)
        check_arrays(self.manifest, arrays, self.noise_rows)
        return self._sample(arrays, steps, clip, entered)

    def _sample(self, arrays: Arrays, steps: int, clip: bool = True, entered: bool = False) -> F32:
        try:
            inputs = {
                name: torch.from_numpy(np.ascontiguousarray(values)).to(self._device)
                for name, values in arrays.items()
            }
            painted = sample(self._net, inputs, self.manifest, steps, clip=clip, entered=entered)
            return painted.cpu().numpy()
        except RuntimeError as error:
            raise BackendError(f"torch failed ({' '.join(str(error).split())})") from error

    def _check_open(self) -> None:
        if "_net" not in self.__dict__:
            raise BackendError(f"the backend of {self.manifest.name} is closed")

    def close(self) -> None:
        """Free the network; nothing can be generated any more."""
        self.__dict__.pop("_net", None)
