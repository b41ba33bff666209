"""OpenVINO on a CPU: bfloat16 where the CPU multiplies it (AMX, AVX-512), float32 elsewhere.

Each graph is compiled for each batch size, as its kernels are chosen by shape; what was compiled is
kept in lipwire's cache. On opening, a picture is held against ONNX Runtime's in float32.
"""

from __future__ import annotations

import sys
from contextlib import closing
from typing import Any

import numpy as np

from lipwire.engine.backends import noise_job
from lipwire.engine.backends.cpu import usable_cores
from lipwire.engine.backends.feeds import Feeds, feed_shapes
from lipwire.engine.backends.ort import OrtBackend
from lipwire.engine.backends.ort_session import one_line
from lipwire.engine.backends.planned import (
    ENCODE,
    STEP,
    Paths,
    PlannedBackend,
    StepInputs,
    check_built_for,
    sample_rows,
    sizes_for_cores,
)
from lipwire.engine.backends.plans import fingerprint
from lipwire.engine.errors import BackendError, BundleError
from lipwire.engine.model.bundle import Bundle
from lipwire.engine.model.cache import cache_folder
from lipwire.engine.model.onnx_file import external_data
from lipwire.engine.types import F32

# When it is imported it reports to its makers, asking nobody, unless its telemetry is not there.
sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
import openvino  # noqa: E402

# A CPU gains little by painting more frames together, and each size is compiled for seconds.
BATCH_SIZES = (1, 2, 4)
# Mean difference from ONNX Runtime in float32, in levels of 255: as for half precision on a GPU.
TOLERANCE_LEVELS = 1.5


class OpenVinoBackend(PlannedBackend):
    """A bundle's graphs, compiled by OpenVINO.

    Args:
        bundle: the model, of any kind.
        threads: of the CPU; None takes half of the cores, as others decode and track.
        device: cpu or None.
        batch_sizes: to compile, None for those that the cores carry; larger batches are cut.
        half: compute in bfloat16; None does so where the CPU has instructions for it.
        reference: the bundle by ONNX Runtime, where it is open already; it stays open.

    Raises:
        BackendError: another device is asked for, OpenVINO refuses a graph, or it paints something
            else than ONNX Runtime does in float32.
        BundleError: the bundle lacks a graph.
    """

    def __init__(
        self,
        bundle: Bundle,
        threads: int | None = None,
        device: str | None = None,
        batch_sizes: tuple[int, ...] | None = None,
        half: bool | None = None,
        reference: OrtBackend | None = None,
    ) -> None:
        few = sizes_for_cores(usable_cores(), BATCH_SIZES)
        super().__init__(bundle.manifest, batch_sizes or few)
        if device not in (None, "cpu"):
            raise BackendError(f"OpenVINO is used on the CPU alone, not on {device!r}")
        check_built_for(self.manifest, "cpu")
        self.cpu_threads = threads or max(1, usable_cores() // 2)
        self._core = openvino.Core()
        if half is None:
            half = "BF16" in self._core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
        self._options: dict[str, Any] = {
            "INFERENCE_PRECISION_HINT": "bf16" if half else "f32",
            "INFERENCE_NUM_THREADS": self.cpu_threads,
            "NUM_STREAMS": 1,
            "ENABLE_CPU_PINNING": False,  # decoding and tracking want the same cores
        }
        cache = cache_folder("openvino", fingerprint(self.manifest))
        if cache is not None:
            self._options["CACHE_DIR"] = str(cache)
        self._encode = self._read(bundle, ENCODE) if ENCODE in self.manifest.files else None
        self._step = self._read(bundle, STEP)
        precision = "bfloat16" if half else "float32"
        version = openvino.__version__.split("-")[0]
        threading = f"{self.cpu_threads} thread{'s' * (self.cpu_threads != 1)}"
        self.description = f"OpenVINO {version}, CPU, {precision}, {threading}"
        for size in self.batch_sizes:
            self.try_size(size)
        if reference is not None:
            self._compare(reference)
            return
        with closing(
            OrtBackend(bundle, threads=self.cpu_threads, device="cpu", batch_sizes=(1,))
        ) as opened:
            self._compare(opened)

    def _read(self, bundle: Bundle, name: str) -> Any:
        path = bundle.file(name)
        try:
            if (tensor := external_data(path)) is not None:
                raise BackendError(f"{path}: tensor {tensor!r} lies outside the file")
            return self._core.read_model(str(path))
        except BundleError as error:
            raise BackendError(f"{path}: OpenVINO refuses it ({error})") from error
        except RuntimeError as error:
            raise BackendError(f"{path}: OpenVINO refuses it ({one_line(error)})") from error

    @property
    def noise_rows(self) -> int:
        """Height of the noise image and of the sample."""
        shape = self._step.output("x_prev").get_partial_shape()
        rows = [d.get_length() if d.is_static else None for d in shape]
        return sample_rows(rows, self.manifest.crop_size)

    def _make_plan(self, size: int) -> _Plan:
        try:
            return _Plan(self, size)
        except RuntimeError as error:
            raise BackendError(f"OpenVINO failed ({one_line(error)})") from error

    def requests(self, size: int) -> tuple[Any | None, Any]:
        """What runs encode and step at one batch size."""

        def compiled(model: Any) -> Any:
            model = model.clone()
            shapes = {i.get_any_name(): list(i.partial_shape)[1:] for i in model.inputs}
            model.reshape({n: [size, *(d.get_length() for d in s)] for n, s in shapes.items()})
            return self._core.compile_model(model, "CPU", self._options).create_infer_request()

        return None if self._encode is None else compiled(self._encode), compiled(self._step)

    def _compare(self, reference: OrtBackend) -> None:
        """Hold a picture of noise against ONNX Runtime's, which is in float32.

        Raises:
            BackendError: they differ.
        """
        job = noise_job(self.manifest)
        (wanted,), (painted,) = reference.generate([job]), self.generate([job])
        difference = float(np.abs(painted.astype(float) - wanted).mean())
        if not difference <= TOLERANCE_LEVELS:
            raise BackendError(
                f"OpenVINO's pictures differ from ONNX Runtime's by {difference:.1f} of 255 "
                "levels; open the backend with half=False"
            )

    def close(self) -> None:
        super().close()
        for name in ("_encode", "_step", "_core"):
            self.__dict__.pop(name, None)


class _Plan:
    """One batch size: arrays that both graphs read and write in place."""

    def __init__(self, backend: OpenVinoBackend, size: int) -> None:
        manifest, rows = backend.manifest, backend.noise_rows
        self.feeds = Feeds(manifest, size, rows)
        self._at = StepInputs(size)
        shape = feed_shapes(manifest, size, rows)["noise"]
        self._x: list[F32] = [np.zeros(shape, np.float32) for _ in range(2)]
        arrays = {**self.feeds.arrays, "t": self._at.t, "coefficients": self._at.coefficients}
        self._encode, self._step = backend.requests(size)
        if self._encode is not None:
            for port in self._encode.model_outputs:
                arrays[port.get_any_name()] = np.zeros(tuple(port.shape), np.float32)
            _bind(self._encode, arrays)
        # x_t and x_prev change places at every step.
        self._ways = [
            {name: openvino.Tensor(array, shared_memory=True) for name, array in way.items()}
            for way in ({"x_t": now, "x_prev": after} for now, after in (self._x, self._x[::-1]))
        ]
        _bind(self._step, arrays | {"x_t": self._x[0], "x_prev": self._x[1]})
        self._arrays = arrays  # tensors that share memory do not hold it

    def run(self, paths: Paths) -> F32:
        try:
            if self._encode is not None:
                self._encode.infer()
            np.copyto(self._x[0], self.feeds.arrays["noise"])
            for number, (noise, unit) in enumerate(zip(*paths, strict=True)):
                self._at.write(noise, unit, self.feeds.entered)
                for name, tensor in self._ways[number % 2].items():
                    self._step.set_tensor(name, tensor)
                self._step.infer()
        except RuntimeError as error:
            raise BackendError(f"OpenVINO failed ({one_line(error)})") from error
        return self._x[len(paths[0]) % 2]


def _bind(request: Any, arrays: dict[str, F32]) -> None:
    """Let a graph read and write these arrays; outputs that nobody wants are its own."""
    for port in (*request.model_inputs, *request.model_outputs):
        name = port.get_any_name()
        if name in arrays:
            if tuple(port.shape) != arrays[name].shape:
                wanted = list(arrays[name].shape)
                raise BackendError(
                    f"the graph's {name} is {list(port.shape)}, the model's {wanted}"
                )
            request.set_tensor(name, openvino.Tensor(arrays[name], shared_memory=True))
        elif port in request.model_inputs:
            raise BackendError(f"the graph takes {name!r}, which nothing provides")
