"""TensorRT: each graph a plan for each batch size, each number of steps one CUDA graph.

Not run on the machines that this project was built on: they have no GPU. It is kept thin for that:
what can be tested without one lies in recorded.py, sampler.py, cuda_graphs.py, plans.py and
nets/precision.py.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from importlib.metadata import version
from pathlib import Path

import tensorrt
import torch
from tensorrt import Logger, Runtime  # a folder of stubs alone has neither
from torch import Tensor
from torch_tensorrt.dynamo import convert_exported_program_to_serialized_trt_engine

from lipwire.engine.backends.cuda import driver_version
from lipwire.engine.backends.plans import NotBuilt, PlanCache, Platform
from lipwire.engine.backends.recorded import Parts, RecordedBackend, in_order
from lipwire.engine.backends.sampler import Part
from lipwire.engine.errors import BackendError
from lipwire.engine.model.bundle import Bundle
from lipwire.engine.nets.graphs import Graph


class TrtBackend(RecordedBackend):
    """A bundle's network, compiled for one GPU; slow to open the first time.

    As `RecordedBackend`, but that TensorRT computes.

    Args:
        bundle: the model; it must hold its network.
        device: as torch names it.
        build: build what plans are missing, for minutes.
        batch_sizes: to build; larger batches are cut.

    Raises:
        BackendError: also where TensorRT refuses the network, or plans are missing that are not to
            be built.
    """

    runtime = f"TensorRT {tensorrt.__version__}"

    def __init__(
        self,
        bundle: Bundle,
        device: str = "cuda:0",
        *,
        build: bool = True,
        batch_sizes: tuple[int, ...] = (1, 2, 4, 8, 16),
    ) -> None:
        self._build = build
        self._build_command = f"lipwire bundle build {bundle.path} --device {device}"
        super().__init__(bundle, device, batch_sizes=batch_sizes)

    def _prepare(self, cut: Mapping[int, tuple[Graph, ...]]) -> None:
        """Build every plan, or find it on disk."""
        if self._device.type != "cuda":
            raise BackendError(f"TensorRT needs an NVIDIA GPU, not {self._device}")
        cache = PlanCache(_platform(self._device), self.manifest, self._precision)
        try:
            self._engines = {
                (graph.name, size): _compiled(graph, size, cache, self._device, self._build)
                for size in self.batch_sizes
                for graph in cut[size]
            }
        except NotBuilt as error:
            raise BackendError(
                f"TensorRT's plan {error}; build it ahead: {self._build_command}"
            ) from error

    def _parts(self, cut: tuple[Graph, ...], batch: int) -> Parts:
        """Contexts of their own: one that is in a recording must not be changed afterwards."""
        plans = {g.name: Plan(self._engines[g.name, batch], self._device) for g in cut}
        return in_order({graph.name: Part.of(graph, plans[graph.name]) for graph in cut})

    def close(self) -> None:
        super().close()
        self.__dict__.pop("_engines", None)


def _compiled(
    graph: Graph, batch: int, cache: PlanCache, device: torch.device, build: bool
) -> Engine:
    """A graph at one batch size, as TensorRT runs it."""
    outputs = [tuple(o.shape) for o in _run(graph, device)]
    return cache.get(
        graph.name,
        batch,
        partial(_build, graph, device, cache.timing_cache) if build else None,
        lambda data: Engine(data, outputs),
    )


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


class Engine:
    """A plan, deserialised on the current device.

    Raises:
        BackendError: it was built for something else.
    """

    def __init__(self, data: bytes, outputs: Sequence[tuple[int, ...]]) -> None:
        self._runtime = Runtime(Logger(Logger.WARNING))  # must outlive the engine
        self.engine = engine = self._runtime.deserialize_cuda_engine(data)
        if engine is None:
            raise BackendError("the plan was built for another GPU, driver or TensorRT")
        names = [engine.get_tensor_name(i) for i in range(engine.num_io_tensors)]
        mode = tensorrt.TensorIOMode.INPUT
        self.inputs = [name for name in names if engine.get_tensor_mode(name) == mode]
        self.outputs = [name for name in names if name not in self.inputs]
        shapes = [self._shape(name) for name in self.outputs]
        if shapes != [tuple(shape) for shape in outputs]:
            raise BackendError(f"the plan gives {shapes}, not {list(outputs)}")

    def _shape(self, name: str) -> tuple[int, ...]:
        dims = self.engine.get_tensor_shape(name)
        return tuple(int(dims[i]) for i in range(len(dims)))

    def buffer(self, name: str, device: torch.device) -> Tensor:
        """Memory for one of its tensors."""
        dtype = _TYPES[self.engine.get_tensor_dtype(name)]
        return torch.zeros(self._shape(name), dtype=dtype, device=device)


class Plan:
    """An engine with a context and memory of its own, whose addresses never change.

    Raises:
        BackendError: memory runs out.
    """

    def __init__(self, engine: Engine, device: torch.device) -> None:
        self._engine, self._device = engine, device  # must outlive the context
        self._context = engine.engine.create_execution_context()
        if self._context is None:
            raise BackendError("out of memory: TensorRT makes no context for a plan")
        self._given = [engine.buffer(name, device) for name in engine.inputs]
        self._made = [engine.buffer(name, device) for name in engine.outputs]
        names, buffers = [*engine.inputs, *engine.outputs], [*self._given, *self._made]
        for name, buffer in zip(names, buffers, strict=True):
            self._context.set_tensor_address(name, buffer.data_ptr())

    def __call__(self, *values: Tensor) -> list[Tensor]:
        """Queue it on the current stream, so that a recorder sees it.

        Returns:
            Its own memory, which the next call overwrites.

        Raises:
            BackendError: TensorRT would not.
        """
        for buffer, value in zip(self._given, values, strict=True):
            buffer.copy_(value)
        stream = torch.cuda.current_stream(self._device).cuda_stream
        if not self._context.execute_async_v3(stream):
            raise BackendError("TensorRT would not run a plan; its own message is above")
        return self._made


_TYPES = {
    tensorrt.DataType.FLOAT: torch.float32,
    tensorrt.DataType.HALF: torch.float16,
    tensorrt.DataType.INT32: torch.int32,
    tensorrt.DataType.INT64: torch.int64,
    tensorrt.DataType.BOOL: torch.bool,
}


def _platform(device: torch.device) -> Platform:
    major, minor = torch.cuda.get_device_capability(device)
    name = torch.cuda.get_device_name(device)
    built = f"{tensorrt.__version__}-{version('torch_tensorrt')}"
    return Platform(f"{name}-sm_{major}{minor}", driver_version(), built)
