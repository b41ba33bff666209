"""CUDA graphs: a function of fixed buffers, recorded once for each batch size and replayed.

    call = GraphedBatches(paint, shapes, (1, 2, 4, 8), device, CudaRecorder(device))
    call(crops=..., mel=...)          # any batch up to 8: padded to the next size, replayed, cut

Plan: warm up, record, pad, then refuse. Nothing is allocated for a frame; a shape that was not
recorded is an error and never a silent new recording, which would take a hundred frames' time.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol

import torch
from torch import Tensor

from lipwire.engine.errors import BackendError

WARM_UP_RUNS = 3  # libraries choose their kernels in the first; a recorder must not see that
OFF_SWITCH = "open the backend with graphs=False to run any shape"

Shapes = Mapping[str, tuple[tuple[int, ...], torch.dtype]]  # name -> shape of one row, type


class Recorder(Protocol):
    """What records work and plays it again."""

    def record(self, work: Callable[[], None]) -> Callable[[], None]:
        """Do `work` some times, record it, and return what plays it again."""


class CudaRecorder:
    """Records CUDA graphs that share one memory pool, so they must be replayed one at a time.

    Warms up and captures on a stream of its own. Torch would otherwise capture on one stream for
    the whole process, made on the device of the first capture, which leaves a second device's
    graphs empty; and libraries with a workspace for each stream would meet it within a capture.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        with torch.cuda.device(device):
            self._pool = torch.cuda.graph_pool_handle()
            self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]

    def record(self, work: Callable[[], None]) -> Callable[[], None]:
        with torch.cuda.device(self._device):
            current, own = torch.cuda.current_stream(self._device), self._stream
            own.wait_stream(current)
            with torch.cuda.stream(own):
                for _ in range(WARM_UP_RUNS):
                    work()
            current.wait_stream(own)
            graph = torch.cuda.CUDAGraph()
            # Only this thread's calls are watched: other devices' workers go on meanwhile.
            with torch.cuda.graph(
                graph, pool=self._pool, stream=own, capture_error_mode="thread_local"
            ):
                work()
        return graph.replay


class GraphedCall:
    """One recording: fixed inputs, one fixed output.

    Args:
        body: what is recorded; takes `inputs` by name.
        inputs: the buffers that it reads, at addresses that never change.
        output: the buffer that its result is copied to.
        recorder: records it.
    """

    def __init__(
        self,
        body: Callable[..., Tensor],
        inputs: Mapping[str, Tensor],
        output: Tensor,
        recorder: Recorder,
    ) -> None:
        self._inputs, self._output = dict(inputs), output

        def work() -> None:
            output.copy_(body(**inputs))

        self._replay = recorder.record(work)

    def __call__(self, **values: Tensor) -> Tensor:
        """Fill the inputs and play; the result is overwritten by the next call.

        Raises:
            BackendError: names, shapes or types other than recorded; it names the off-switch.
        """
        found = {name: (tuple(value.shape), value.dtype) for name, value in values.items()}
        wanted = {name: (tuple(b.shape), b.dtype) for name, b in self._inputs.items()}
        if found != wanted:
            name = next(n for n in {**wanted, **found} if found.get(n) != wanted.get(n))
            raise BackendError(
                f"{name}: {_said(found.get(name))} was not recorded, only "
                f"{_said(wanted.get(name))}; {OFF_SWITCH}"
            )
        for name, value in values.items():
            self._inputs[name].copy_(value, non_blocking=True)
        self._replay()
        return self._output


def _said(what: tuple[tuple[int, ...], torch.dtype] | None) -> str:
    return f"{str(what[1]).removeprefix('torch.')}{list(what[0])}" if what else "nothing"


class GraphedBatches:
    """One recording for each batch size, all on the largest one's buffers.

    Args:
        bodies: what is recorded at each size.
        shapes: of the inputs, one row each.
        out: shape and type of the output, one row.
        device: where the buffers lie.
        recorder: records; shared by all recordings of a device.
    """

    def __init__(
        self,
        bodies: Mapping[int, Callable[..., Tensor]],
        shapes: Shapes,
        out: tuple[tuple[int, ...], torch.dtype],
        device: torch.device,
        recorder: Recorder,
    ) -> None:
        self.sizes = tuple(sorted(bodies))
        largest = self.sizes[-1]
        inputs = {
            name: torch.zeros((largest, *shape), dtype=dtype, device=device)
            for name, (shape, dtype) in shapes.items()
        }
        output = torch.zeros((largest, *out[0]), dtype=out[1], device=device)
        self._calls: dict[int, GraphedCall] = {}
        # Largest first: what it needs, the smaller ones find in the pool.
        for size in reversed(self.sizes):
            views = {name: buffer[:size] for name, buffer in inputs.items()}
            self._calls[size] = GraphedCall(bodies[size], views, output[:size], recorder)

    def __call__(self, **values: Tensor) -> Tensor:
        """Run a batch; padded with its last row to the next size that was recorded.

        Raises:
            BackendError: larger than any, or of another shape; it names the off-switch.
        """
        count = len(next(iter(values.values())))
        size = next((size for size in self.sizes if size >= count), None)
        if size is None:
            raise BackendError(
                f"a batch of {count} was not recorded, only {list(self.sizes)}; {OFF_SWITCH}"
            )
        padded = {name: _padded(value, size) for name, value in values.items()}
        return self._calls[size](**padded)[:count]


def _padded(value: Tensor, size: int) -> Tensor:
    missing = size - len(value)
    return (
        value if missing <= 0 else torch.cat([value, value[-1:].expand(missing, *value.shape[1:])])
    )
