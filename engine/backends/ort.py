"""ONNX Runtime: the default, on a CPU; the same class on CUDA and TensorRT where it has them.

Every batch size has its own arrays, bound once. A frame costs writing into them and running:

    jobs -> Feeds -> encode -> context -> step -> step -> ... -> x_prev -> pictures
                                           x_t and x_prev change places
"""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import onnxruntime as ort

from lipwire.engine.backends.cpu import usable_cores
from lipwire.engine.backends.feeds import Arrays, Feeds, check_arrays, feed_shapes
from lipwire.engine.backends.ort_session import (
    Device,
    choose_device,
    fewest_threads,
    one_line,
    open_session,
    shortest_run_s,
)
from lipwire.engine.backends.planned import (
    BATCH_SIZES,
    ENCODE,
    STEP,
    Paths,
    PlannedBackend,
    StepInputs,
    sample_rows,
    sizes_for_cores,
)
from lipwire.engine.errors import BackendError
from lipwire.engine.model.bundle import Bundle, Manifest
from lipwire.engine.model.ddim import COEFFICIENTS, step_coefficients
from lipwire.engine.types import F32

# On a CPU larger batch sizes are run once while opening until this much time has gone; the paper's
# network would take minutes. A GPU chooses kernels for each size: all are run.
WARM_UP_S = 1.0


class OrtBackend(PlannedBackend):
    """A bundle's graphs, `encode.onnx` once a frame (if it has one) and `step.onnx` once a step.

    Args:
        bundle: the model, of any kind.
        threads: CPU threads; None measures and takes the fewest that are about as fast as all.
        device: see `choose_device`.
        batch_sizes: to be made ready for, None for the usual ones; larger batches are cut.

    Raises:
        BackendError: a graph or the device is refused, or the model does not run.
        BundleError: the bundle lacks a graph.
    """

    def __init__(
        self,
        bundle: Bundle,
        threads: int | None = None,
        device: str | None = None,
        batch_sizes: tuple[int, ...] | None = None,
    ) -> None:
        self._device = choose_device(bundle.manifest, device)
        on_cpu = self._device.kind == "cpu"
        usual = sizes_for_cores(usable_cores()) if on_cpu else BATCH_SIZES
        super().__init__(bundle.manifest, batch_sizes or usual)
        if threads is None and on_cpu:
            threads = fewest_threads(lambda count: self._step_time_s(bundle, count), usable_cores())
        self.cpu_threads = threads or 1
        self._encode = self._session(bundle, ENCODE) if ENCODE in self.manifest.files else None
        self._step = self._session(bundle, STEP)
        threading = f", {self.cpu_threads} thread{'s' * (self.cpu_threads != 1)}" if on_cpu else ""
        self.description = f"ONNX Runtime {ort.__version__}, {self._device}{threading}"
        self._warm_up()

    def _session(self, bundle: Bundle, name: str, threads: int | None = None) -> Any:
        return open_session(
            bundle, name, self._device, threads or self.cpu_threads, self.batch_sizes[-1]
        )

    def _step_time_s(self, bundle: Bundle, threads: int) -> float:
        step = self._session(bundle, STEP, threads)
        feeds = {i.name: np.zeros((1, *i.shape[1:]), np.float32) for i in step.get_inputs()}
        try:
            return shortest_run_s(lambda: step.run(["x_prev"], feeds))
        except Exception as error:
            raise BackendError(f"ONNX Runtime failed ({one_line(error)})") from error

    def _warm_up(self) -> None:
        """Settle shapes and memory plans, so that no live frame waits for it."""
        begin = time.perf_counter()
        for size in self.batch_sizes:
            self.try_size(size)
            if self._device.kind == "cpu" and time.perf_counter() - begin > WARM_UP_S:
                break

    def _make_plan(self, size: int) -> _Plan:
        return _Plan(self.manifest, self._encode, self._step, size, self._device)

    def forward(self, arrays: Arrays, t: int) -> F32:
        """What the network itself returns at step `t` with x_t = noise; otherwise as `sample`."""
        self.check_open()
        count = check_arrays(self.manifest, arrays, self.noise_rows)
        numbers = np.zeros(len(COEFFICIENTS), np.float32)
        if self.manifest.prediction != "image":
            level = self.schedule.alpha_bar(t)
            numbers[:] = step_coefficients(level, 1.0, prediction=self.manifest.prediction)  # type: ignore[arg-type]
        feeds = {**arrays, "x_t": arrays["noise"], "t": np.full(count, t, np.float32)}
        feeds["coefficients"] = np.tile(numbers, (count, 1))
        for session, outputs in ((self._encode, None), (self._step, ["raw"])):
            if session is not None:
                names = outputs or [o.name for o in session.get_outputs()]
                taken = {i.name: feeds[i.name] for i in session.get_inputs()}
                feeds |= dict(zip(names, session.run(names, taken), strict=True))
        return np.asarray(feeds["raw"], np.float32)

    @property
    def noise_rows(self) -> int:
        """Height of the noise image and of the sample."""
        return _noise_rows(self._step, self.manifest)

    def close(self) -> None:
        super().close()
        for name in ("_encode", "_step"):
            self.__dict__.pop(name, None)


class _Plan:
    """One batch size: arrays, and the graphs bound to them."""

    def __init__(
        self, manifest: Manifest, encode: Any, step: Any, size: int, device: Device
    ) -> None:
        self.size = size
        rows = _noise_rows(step, manifest)
        self.feeds = Feeds(manifest, size, rows)
        shape = feed_shapes(manifest, size, rows)["noise"]
        self._at = StepInputs(size)
        arrays = {**self.feeds.arrays, "t": self._at.t, "coefficients": self._at.coefficients}
        self._inputs = {name: _Value(array, device) for name, array in arrays.items()}
        self._x = [_Value(np.zeros(shape, np.float32), device) for _ in range(2)]
        self._encode, self._step = encode, step
        context = {}
        if encode is not None:
            shapes = {o.name: (size, *o.shape[1:]) for o in encode.get_outputs()}
            context = {n: _Value(np.zeros(s, np.float32), device) for n, s in shapes.items()}
            self._encoding = _bind(encode, self._inputs, context)
        inputs = {**self._inputs, **context}
        self._stepping = [
            _bind(step, {**inputs, "x_t": now}, {"x_prev": after})
            for now, after in (self._x, self._x[::-1])
        ]

    def run(self, paths: Paths) -> F32:
        """Sample what the feeds hold; the result is overwritten by the next run.

        Raises:
            BackendError: the runtime failed.
        """
        try:
            return self._run(paths)
        except Exception as error:
            raise BackendError(f"ONNX Runtime failed ({one_line(error)})") from error

    def _run(self, paths: Paths) -> F32:
        for name in self.feeds.arrays:
            self._inputs[name].push()
        if self._encode is not None:
            self._encode.run_with_iobinding(self._encoding)
        np.copyto(self._x[0].array, self.feeds.arrays["noise"])
        self._x[0].push()
        entered = self.feeds.entered
        for number, (noise, unit) in enumerate(zip(*paths, strict=True)):
            self._at.write(noise, unit, entered)
            self._inputs["t"].push()
            self._inputs["coefficients"].push()
            self._step.run_with_iobinding(self._stepping[number % 2])
        return self._x[len(paths[0]) % 2].pull()


class _Value:
    """An array that a graph is bound to; on a CPU graph and array share the memory."""

    def __init__(self, array: F32, device: Device) -> None:
        self.array = array
        self._shared = device.memory == "cpu"
        self.value = (
            ort.OrtValue.ortvalue_from_numpy(array)
            if self._shared
            else ort.OrtValue.ortvalue_from_numpy(array, device.memory, device.number)
        )

    def push(self) -> None:
        """Make the device see what was written to the array."""
        if not self._shared:
            self.value.update_inplace(self.array)

    def pull(self) -> F32:
        """The array with what the device has written."""
        if not self._shared:
            np.copyto(self.array, self.value.numpy())
        return self.array


def _bind(session: Any, inputs: dict[str, _Value], outputs: dict[str, _Value]) -> Any:
    """Bind those inputs that the graph takes."""
    binding = session.io_binding()
    for wanted in session.get_inputs():
        if wanted.name not in inputs:
            raise BackendError(f"the graph takes {wanted.name!r}, which nothing provides")
        binding.bind_ortvalue_input(wanted.name, inputs[wanted.name].value)
    for name, value in outputs.items():
        binding.bind_ortvalue_output(name, value.value)
    return binding


def _noise_rows(step: Any, manifest: Manifest) -> int:
    """Height of the sample: what `x_prev` says."""
    shape = next(o.shape for o in step.get_outputs() if o.name == "x_prev")
    return sample_rows(shape, manifest.crop_size)
