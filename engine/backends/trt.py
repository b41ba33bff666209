"""TensorRT: each graph a plan for each batch size, each number of steps one CUDA graph.

Not run on the machines that this project was built on: they have no GPU. It is kept thin for that:
what can be tested without one lies in sampler.py, graphs.py, plans.py and nets/precision.py.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import tensorrt
import torch
from tensorrt import Logger, Runtime  # a folder of stubs alone has neither
from torch import Tensor
from torch_tensorrt.dynamo import convert_exported_program_to_serialized_trt_engine

from lipwire.engine.backends import blank_job
from lipwire.engine.backends.cuda import driver_version
from lipwire.engine.backends.cuda_graphs import CudaRecorder, GraphedBatches
from lipwire.engine.backends.feeds import check_jobs, first_sample, reach_of, shown_of
from lipwire.engine.backends.plans import PlanCache, Platform
from lipwire.engine.backends.sampler import Part, Sampler
from lipwire.engine.errors import BackendError, ConfigError
from lipwire.engine.model.bundle import Bundle
from lipwire.engine.nets import build_network
from lipwire.engine.nets.graphs import ENCODE, STEP, Graph, example_inputs, graphs
from lipwire.engine.nets.precision import mixed_precision
from lipwire.engine.types import U8, LipJob

# Mean difference from the network in float32, in levels of 255. More: the plans paint something
# else and are not used; less: half precision alone would fail.
TOLERANCE_LEVELS = 1.5


class TrtBackend:
    """A bundle's network, compiled for one GPU; slow to open the first time.

    Args:
        bundle: the model; it must hold its network (see `lipwire.engine.nets.build_network`).
        device: as torch names it.
        graphs: replay CUDA graphs; without them any batch runs, several times slower at few steps.
        half: compute in float16 where that does no harm.
        batch_sizes: to build plans for.

    Raises:
        BackendError: no such GPU, TensorRT refuses the network, or the plans paint something else.
        BundleError: the bundle does not hold its network.
    """

    def __init__(
        self,
        bundle: Bundle,
        device: str = "cuda:0",
        *,
        graphs: bool = True,
        half: bool = True,
        batch_sizes: tuple[int, ...] = (1, 2, 4, 8),
    ) -> None:
        if not torch.cuda.is_available():
            raise BackendError("TensorRT needs an NVIDIA GPU, and torch sees none")
        self.manifest = manifest = bundle.manifest
        if manifest.device == "cpu":
            raise BackendError(f"bundle {manifest.name} was built for device 'cpu', not for a GPU")
        self.batch_sizes = batch_sizes
        self._device = torch.device(device)
        net = build_network(bundle)
        self._rows = example_inputs(net, 1)["noise"].shape[2]
        reference = _graphs(net, 1)  # cut on the CPU, where their examples lie
        network = mixed_precision(net) if half else net
        cut = {size: _graphs(network, size) for size in batch_sizes}
        for graph in (*reference, *(graph for size in cut for graph in cut[size])):
            graph.module.to(self._device)
        precision = "float16" if half else "float32"
        cache = PlanCache(_platform(self._device), manifest, precision)
        compiled = {size: _compiled(cut[size], size, cache, self._device) for size in batch_sizes}
        self._recorder = CudaRecorder(self._device) if graphs else None
        self._paint: dict[int, Callable[..., Tensor]] = {}
        for steps in manifest.steps_offered:
            samplers = {
                size: Sampler(manifest, *parts, steps, self._device)
                for size, parts in compiled.items()
            }
            self._paint[steps] = self._recorded(samplers) if graphs else _by_size(samplers)
        name = torch.cuda.get_device_name(self._device)
        self.description = f"TensorRT {tensorrt.__version__}, {precision}, {device}: {name}"
        self._compare(reference)

    def _recorded(self, samplers: dict[int, Sampler]) -> GraphedBatches:
        assert self._recorder is not None
        row = {
            name: (tuple(value.shape[1:]), value.dtype)
            for name, value in self._inputs([blank_job(self.manifest)]).items()
        }
        return GraphedBatches(samplers, row, row["crops"], self._device, self._recorder)

    def _compare(self, reference: tuple[Graph, ...]) -> None:
        """Hold the plans against the network itself, on noise.

        Raises:
            BackendError: they differ.
        """
        rng = np.random.default_rng(0)
        blank = blank_job(self.manifest)
        job = LipJob("", 0, rng.integers(0, 255, blank.crop.shape, np.uint8),
                     rng.integers(0, 255, blank.references.shape, np.uint8),
                     rng.uniform(-4, 4, blank.mel.shape).astype(np.float32),
                     0, self.manifest.default_steps, 0.0)  # fmt: skip
        wanted = Sampler(
            self.manifest,
            *_parts({graph.name: Part.of(graph) for graph in reference}),
            job.steps,
            self._device,
        )
        with torch.inference_mode():
            right = wanted(**self._inputs([job])).cpu().numpy()
        difference = float(np.abs(self.generate([job])[0].astype(float) - right[0]).mean())
        if not difference <= TOLERANCE_LEVELS:
            raise BackendError(
                f"TensorRT's pictures differ from the network's by {difference:.1f} of 255 levels; "
                "open the backend with half=False"
            )

    def _inputs(self, jobs: Sequence[LipJob]) -> dict[str, Tensor]:
        arrays = {
            "crops": np.stack([job.crop for job in jobs]),
            "references": np.stack([job.references for job in jobs]),
            "mel": np.stack([job.mel for job in jobs]),
            "noise": np.stack([first_sample(self.manifest, job, self._rows) for job in jobs]),
        }
        if self.manifest.reach_px:
            arrays["reach"] = np.stack([reach_of(job) for job in jobs])
        if self.manifest.reference_codes:
            arrays["shown"] = np.stack([shown_of(self.manifest, job) for job in jobs])
            arrays["entered"] = np.array([job.start is not None for job in jobs], np.int64)
        return {name: torch.from_numpy(array).to(self._device) for name, array in arrays.items()}

    def generate(self, jobs: Sequence[LipJob]) -> list[U8]:
        """Repaint the lower half of each crop; see `Backend.generate`."""
        if "_paint" not in self.__dict__:
            raise BackendError(f"the backend of {self.manifest.name} is closed")
        if not jobs:
            return []
        steps = check_jobs(self.manifest, jobs)
        try:
            with torch.inference_mode(), torch.cuda.device(self._device):
                return list(self._paint[steps](**self._inputs(jobs)).cpu().numpy())
        except (RuntimeError, ValueError) as error:  # torch's and CUDA's own
            if isinstance(error, BackendError):
                raise
            raise BackendError(f"TensorRT failed ({' '.join(str(error).split())})") from error

    def close(self) -> None:
        """Free the GPU; nothing can be generated any more."""
        for name in ("_paint", "_recorder"):
            self.__dict__.pop(name, None)


def _parts(parts: dict[str, Part]) -> tuple[Part | None, Part]:
    return parts.get(ENCODE), parts[STEP]


def _graphs(net: torch.nn.Module, batch: int) -> tuple[Graph, ...]:
    try:
        return graphs(net, batch)
    except ConfigError as error:
        raise BackendError(f"TensorRT does not run it: {error}") from error


def _by_size(samplers: dict[int, Sampler]) -> Callable[..., Tensor]:
    """Without CUDA graphs: plans are for fixed sizes all the same, so larger batches are cut."""

    def paint(**values: Tensor) -> Tensor:
        count, largest = len(values["crops"]), max(samplers)
        pieces = []
        for begin in range(0, count, largest):
            piece = {name: value[begin : begin + largest] for name, value in values.items()}
            rows = len(piece["crops"])
            size = min(s for s in samplers if s >= rows)
            index = torch.arange(size, device=piece["crops"].device).clamp(max=rows - 1)
            pieces.append(samplers[size](**{n: v[index] for n, v in piece.items()})[:rows])
        return torch.cat(pieces)

    return paint


def _compiled(
    cut: tuple[Graph, ...], batch: int, cache: PlanCache, device: torch.device
) -> tuple[Part | None, Part]:
    """A network's graphs at one batch size, run by TensorRT."""
    parts: dict[str, Part] = {}
    for graph in cut:
        outputs = [tuple(o.shape) for o in _run(graph, device)]
        plan = cache.get(
            graph.name,
            batch,
            lambda graph=graph: _build(graph, device, cache.timing_cache),  # type: ignore[misc]
            lambda data, outputs=outputs: Plan(data, outputs, device),  # type: ignore[misc]
        )
        parts[graph.name] = Part.of(graph, plan)
    return _parts(parts)


def _run(graph: Graph, device: torch.device) -> Sequence[Tensor]:
    with torch.inference_mode():
        made = graph.module(*(value.to(device) for value in graph.inputs.values()))
    return tuple(made)


def _build(graph: Graph, device: torch.device, timing_cache: Path) -> bytes:
    """Compile one graph; types are taken as the module has them."""
    inputs = tuple(value.to(device) for value in graph.inputs.values())
    try:
        exported = torch.export.export(graph.module, inputs)
        plan = convert_exported_program_to_serialized_trt_engine(
            exported,
            arg_inputs=list(inputs),
            device=device,
            use_explicit_typing=True,
            use_fp32_acc=True,
            disable_tf32=False,
            immutable_weights=True,
            timing_cache_path=str(timing_cache),
        )
    except Exception as error:  # converters raise of many kinds
        raise BackendError(
            f"TensorRT refuses the graph {graph.name} ({' '.join(str(error).split())})"
        ) from error
    return bytes(plan)


class Plan:
    """A plan, deserialised, with the memory it works in.

    Args:
        data: as built.
        outputs: shapes of what it gives, in order; all float32 or as the plan says.
        device: the GPU.

    Raises:
        BackendError: it was built for something else.
    """

    def __init__(
        self, data: bytes, outputs: Sequence[tuple[int, ...]], device: torch.device
    ) -> None:
        with torch.cuda.device(device):
            self._runtime = Runtime(Logger(Logger.WARNING))  # must outlive the engine
            engine = self._runtime.deserialize_cuda_engine(data)
            if engine is None:
                raise BackendError("the plan was built for another GPU, driver or TensorRT")
            self._context = engine.create_execution_context()
        names = [engine.get_tensor_name(i) for i in range(engine.num_io_tensors)]
        mode = tensorrt.TensorIOMode.INPUT
        self._inputs = [name for name in names if engine.get_tensor_mode(name) == mode]
        self._outputs = [name for name in names if name not in self._inputs]
        found = [engine.get_tensor_shape(name) for name in self._outputs]
        shapes = [tuple(int(dims[i]) for i in range(len(dims))) for dims in found]
        if shapes != [tuple(shape) for shape in outputs]:
            raise BackendError(f"the plan gives {shapes}, not {list(outputs)}")
        self._made = [
            (shape, _TYPES[engine.get_tensor_dtype(name)])
            for shape, name in zip(shapes, self._outputs, strict=True)
        ]
        self._takes = [_TYPES[engine.get_tensor_dtype(name)] for name in self._inputs]
        self._device = device

    def __call__(self, *values: Tensor) -> list[Tensor]:
        """Queue it on the current stream, so that a recorder sees it.

        Raises:
            BackendError: TensorRT would not.
        """
        given = [v.to(dtype).contiguous() for v, dtype in zip(values, self._takes, strict=True)]
        made = [torch.empty(s, dtype=t, device=self._device) for s, t in self._made]
        for name, value in zip([*self._inputs, *self._outputs], [*given, *made], strict=True):
            self._context.set_tensor_address(name, value.data_ptr())
        stream = torch.cuda.current_stream(self._device).cuda_stream
        if not self._context.execute_async_v3(stream):
            raise BackendError("TensorRT would not run a plan; its own message is above")
        return made


_TYPES = {
    tensorrt.DataType.FLOAT: torch.float32,
    tensorrt.DataType.HALF: torch.float16,
    tensorrt.DataType.INT32: torch.int32,
    tensorrt.DataType.INT64: torch.int64,
    tensorrt.DataType.BOOL: torch.bool,
}


def _platform(device: torch.device) -> Platform:
    major, minor = torch.cuda.get_device_capability(device)
    return Platform(f"sm_{major}{minor}", driver_version(), tensorrt.__version__)
