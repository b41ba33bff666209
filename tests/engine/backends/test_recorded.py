"""Recording and replaying: padding, refusal, order; and the whole frame as one recording."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from lipwire.engine.backends import blank_job, load_backend  # noqa: E402
from lipwire.engine.backends.cuda_graphs import WARM_UP_RUNS, CudaRecorder, GraphedBatches  # noqa: E402
from lipwire.engine.backends.feeds import first_sample  # noqa: E402
from lipwire.engine.backends.recorded import RecordedBackend  # noqa: E402
from lipwire.engine.backends.sampler import Part, Sampler  # noqa: E402
from lipwire.engine.errors import BackendError, BundleError  # noqa: E402
from lipwire.engine.face.articulation import CODES  # noqa: E402
from lipwire.engine.model.bundle import DEFAULT_BUNDLE, MANIFEST, open_bundle  # noqa: E402
from lipwire.engine.nets import build_network  # noqa: E402
from lipwire.engine.nets.graphs import ENCODE, STEP, example_inputs, graphs  # noqa: E402
from lipwire.engine.nets.precision import InFull, InHalf, mixed_precision  # noqa: E402

CPU = torch.device("cpu")
SHAPES = {"x": ((3,), torch.float32), "n": ((), torch.int64)}


class FakeRecorder:
    """Stands for CUDA graphs: work is done when it is recorded and when it is replayed."""

    def __init__(self, runs: int = WARM_UP_RUNS + 1) -> None:
        self._runs = runs

    def record(self, work: Callable[[], None]) -> Callable[[], None]:
        for _ in range(self._runs):
            work()
        return work


class Doubler:
    """A body that notes what it was given."""

    def __init__(self, size: int, seen: list[int]) -> None:
        self.size, self.seen = size, seen
        self.addresses: set[int] = set()

    def __call__(self, x: Any, n: Any) -> Any:
        assert len(x) == len(n) == self.size
        self.seen.append(self.size)
        self.addresses.add(x.data_ptr())
        return 2 * x + n[:, None]


@pytest.fixture
def seen() -> list[int]:
    return []


@pytest.fixture
def bodies(seen: list[int]) -> dict[int, Doubler]:
    return {size: Doubler(size, seen) for size in (1, 2, 4)}


@pytest.fixture
def call(bodies: dict[int, Doubler]) -> GraphedBatches:
    return GraphedBatches(bodies, SHAPES, ((3,), torch.float32), CPU, FakeRecorder())


def test_the_largest_batch_is_recorded_first(call: GraphedBatches, seen: list[int]) -> None:
    runs = WARM_UP_RUNS + 1
    assert seen == [4] * runs + [2] * runs + [1] * runs


@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_a_batch_runs_at_the_next_size_and_is_cut(
    call: GraphedBatches, seen: list[int], count: int
) -> None:
    seen.clear()
    x, n = torch.rand(count, 3), torch.arange(count)
    out = call(x=x, n=n)
    assert torch.equal(out, 2 * x + n[:, None])
    assert seen == [{1: 1, 2: 2, 3: 4, 4: 4}[count]]


def test_every_call_reads_the_same_addresses(
    call: GraphedBatches, bodies: dict[int, Doubler]
) -> None:
    for count in (1, 4, 2, 3, 4):
        call(x=torch.rand(count, 3), n=torch.arange(count))
    assert len({address for body in bodies.values() for address in body.addresses}) == 1


def test_what_was_not_recorded_is_refused_with_the_way_out(call: GraphedBatches) -> None:
    with pytest.raises(BackendError, match=r"batch of 5 was not recorded, only \[1, 2, 4\]") as big:
        call(x=torch.rand(5, 3), n=torch.arange(5))
    with pytest.raises(BackendError, match=r"x: float32\[2, 4\] was not recorded, only") as wide:
        call(x=torch.rand(2, 4), n=torch.arange(2))
    with pytest.raises(BackendError, match=r"n: int32\[2\] was not recorded, only int64\[2\]"):
        call(x=torch.rand(2, 3), n=torch.arange(2, dtype=torch.int32))
    with pytest.raises(BackendError, match="n: nothing was not recorded"):
        call(x=torch.rand(2, 3))
    assert all("graphs=False" in str(caught.value) for caught in (big, wide))


# --- several GPUs ---


class Streams:
    """Torch's streams and graphs, as far as a recorder sees them, on GPUs that are not here.

    Work goes to the current stream of the current device; a capture keeps what goes to the stream
    that it captures. Without a stream it takes torch's one of the process, made at the first
    capture, and makes that stream's device the current one.
    """

    def __init__(self) -> None:
        self.index, self.made = 0, 0
        self.streams: dict[int, Any] = {}
        self.default_capture: Any = None
        self.capturing: Any = None
        self.on: list[tuple[int, int]] = []

    def Stream(self, device: Any) -> Any:  # noqa: N802
        self.made += 1
        return SimpleNamespace(device=device.index, number=self.made, wait_stream=lambda s: None)

    def current_stream(self, device: Any) -> Any:
        if device.index not in self.streams:
            self.streams[device.index] = self.Stream(device)
        return self.streams[device.index]

    @contextmanager
    def device(self, device: Any) -> Iterator[None]:
        before, self.index = self.index, device.index
        yield
        self.index = before

    @contextmanager
    def stream(self, stream: Any) -> Iterator[None]:
        with self.device(SimpleNamespace(index=stream.device)):
            before = self.streams.get(stream.device)
            self.streams[stream.device] = stream
            yield
            self.streams[stream.device] = before or self.Stream(SimpleNamespace(index=self.index))

    @contextmanager
    def graph(
        self, graph: Any, *, pool: Any, stream: Any = None, capture_error_mode: str
    ) -> Iterator[None]:
        if stream is None:
            if self.default_capture is None:
                self.default_capture = self.Stream(SimpleNamespace(index=self.index))
            stream = self.default_capture
        with self.stream(stream):
            self.capturing = (stream, graph)
            yield
            self.capturing = None

    def CUDAGraph(self) -> Any:  # noqa: N802
        graph = SimpleNamespace(kernels=[])
        graph.replay = lambda: [kernel() for kernel in graph.kernels]
        return graph

    def graph_pool_handle(self) -> tuple[int, int]:
        return (self.index, 0)

    def launch(self, device: int, kernel: Callable[[], None]) -> None:
        stream = self.current_stream(SimpleNamespace(index=device))
        self.on.append((device, stream.number))
        if self.capturing is not None and stream is self.capturing[0]:
            self.capturing[1].kernels.append(kernel)


def test_two_devices_record_each_its_own_work(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also in turns, on one stream for warming up and capturing."""
    streams = Streams()
    names = "Stream current_stream device stream graph CUDAGraph graph_pool_handle"
    for name in names.split():
        monkeypatch.setattr(torch.cuda, name, getattr(streams, name))
    ran: list[tuple[int, int]] = []

    def work(device: int, number: int) -> Callable[[], None]:
        return lambda: streams.launch(device, lambda: ran.append((device, number)))

    recorders = [CudaRecorder(torch.device("cuda", index)) for index in (0, 1)]
    replays = {
        (device, number): recorders[device].record(work(device, number))
        for number in (0, 1)
        for device in (0, 1)
    }
    for which, replay in replays.items():
        ran.clear()
        replay()
        assert ran == [which]
    for device in (0, 1):
        used = [number for place, number in streams.on if place == device]
        assert len(used) == 2 * (WARM_UP_RUNS + 1) and len(set(used)) == 1


# --- the whole frame ---

if not (DEFAULT_BUNDLE / MANIFEST).is_file():
    pytest.skip("no model has been built into this copy", allow_module_level=True)


@pytest.fixture(scope="module")
def bundle() -> Any:
    return open_bundle()


@pytest.fixture(scope="module")
def net(bundle: Any) -> Any:
    return build_network(bundle)


def sampler(bundle: Any, net: Any, steps: int, batch: int) -> Sampler:
    parts = {graph.name: Part.of(graph) for graph in graphs(net, batch)}
    return Sampler(bundle.manifest, parts[ENCODE], parts[STEP], steps, CPU)


def jobs(count: int, bundle: Any, steps: int = 2) -> list[Any]:
    from fakes import picture

    blank = blank_job(bundle.manifest, steps)
    rng = np.random.default_rng(3)
    size, shown = bundle.manifest.crop_size, bundle.manifest.references
    told = bundle.manifest.reference_codes
    return [
        replace(
            blank,
            crop=picture(size, size, index),
            references=np.stack([picture(size, size, index + 9 + r) for r in range(shown)]),
            mel=rng.uniform(-4, 4, blank.mel.shape).astype(np.float32),
            seed=index % 2,
            reach=rng.uniform(0.6, 1.6, CODES).astype(np.float32),
            reference_codes=rng.normal(size=(shown, CODES)).astype(np.float32),
            start=picture(size // 2, size, index + 5) if index % 2 and told else None,
        )
        for index in range(count)
    ]


def tensors(batch: list[Any], net: Any) -> dict[str, Any]:
    rows = example_inputs(net, 1)["noise"].shape[2]
    noise = [first_sample(open_bundle().manifest, j, rows) for j in batch]
    return {
        "crops": torch.from_numpy(np.stack([j.crop for j in batch])),
        "references": torch.from_numpy(np.stack([j.references for j in batch])),
        "mel": torch.from_numpy(np.stack([j.mel for j in batch])),
        "noise": torch.from_numpy(np.stack(noise)),
        "reach": torch.from_numpy(np.stack([j.reach for j in batch])),
        "shown": torch.from_numpy(np.stack([j.reference_codes for j in batch])),
        "entered": torch.tensor([int(j.start is not None) for j in batch]),
    }


@pytest.mark.parametrize("steps", [1, 4])
def test_the_recorded_frame_is_what_onnx_runtime_paints(bundle: Any, net: Any, steps: int) -> None:
    """Audio path, all steps and the mask, padded from three to four."""
    batch = jobs(3, bundle, steps)
    values = tensors(batch, net)
    with torch.inference_mode():
        call = GraphedBatches(
            {size: sampler(bundle, net, steps, size) for size in (1, 4)},
            {name: (tuple(v.shape[1:]), v.dtype) for name, v in values.items()},
            (batch[0].crop.shape, torch.uint8),
            CPU,
            FakeRecorder(1),
        )
        painted = call(**values).numpy()
    backend = load_backend(bundle, "ort", threads=1)
    for job, ours, theirs in zip(batch, painted, backend.generate(batch), strict=True):
        half = len(job.crop) // 2
        assert np.array_equal(ours[:half], job.crop[:half])
        assert np.abs(ours.astype(int) - theirs).max() <= 1
        assert (ours[half:] != job.crop[half:]).any()
    backend.close()


@pytest.mark.parametrize("recorded", [True, False])
def test_the_gpu_backend_paints_what_onnx_runtime_paints(bundle: Any, recorded: bool) -> None:
    """On a CPU, with what stands for CUDA graphs; batches are padded, cut, and mixed."""
    made: list[torch.device] = []

    def recorder(device: torch.device) -> FakeRecorder:
        made.append(device)
        return FakeRecorder(1)

    ours = RecordedBackend(
        replace(bundle, manifest=replace(bundle.manifest, steps_offered=(1, 2))),
        "cpu",
        batch_sizes=(1, 4),
        half=recorded,
        graphs=recorded,
        recorder=recorder,
    )
    assert made == [CPU] * recorded, "one for all recordings of a device"
    theirs = load_backend(bundle, "ort", threads=1)
    for count in (1, 3, 5):
        batch = jobs(count, bundle)
        pairs = list(zip(ours.generate(batch), theirs.generate(batch), strict=True))
        errors = [np.abs(a.astype(int) - b).mean() for a, b in pairs]
        assert max(errors) < (0.5 if recorded else 0.01)
        half = len(batch[0].crop) // 2
        assert all(
            np.array_equal(a[:half], j.crop[:half]) for (a, _), j in zip(pairs, batch, strict=True)
        )
    first = ours.generate(batch[:1])[0]
    kept = first.copy()
    ours.generate(batch[1:2])
    assert np.array_equal(first, kept), "a picture is not the buffer of the next one"
    ours.close()
    with pytest.raises(BackendError, match="is closed"):
        ours.generate(batch)
    theirs.close()


def test_a_gpu_that_is_not_here_is_one_line(bundle: Any) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is one")
    for device, why in (("cuda:0", "torch"), ("gpu", "no device 'gpu'")):
        with pytest.raises(BackendError, match=why) as caught:
            load_backend(bundle, "torch", device=device)
        assert "\n" not in str(caught.value)


def test_steps_that_are_not_offered_are_refused(bundle: Any, net: Any) -> None:
    with pytest.raises(BundleError, match="not 3"):
        sampler(bundle, net, 3, 1)


# --- half precision ---


def test_convolutions_compute_in_half_and_norms_in_full(net: Any) -> None:
    mixed = mixed_precision(net)
    halves = [m for m in mixed.modules() if isinstance(m, InHalf)]
    fulls = [m for m in mixed.modules() if isinstance(m, InFull)]
    assert halves and fulls
    assert {p.dtype for m in halves for p in m.parameters()} == {torch.float16}
    assert {p.dtype for m in fulls for p in m.parameters()} == {torch.float32}
    assert {p.dtype for p in net.parameters()} == {torch.float32}, "the network given is as it was"


def test_norms_survive_what_half_precision_does_not() -> None:
    norm = torch.nn.GroupNorm(1, 4)
    loud = torch.full((1, 4, 32, 32), 300.0, dtype=torch.float16)
    loud[:, ::2] *= -1
    with torch.no_grad():
        out = InFull(norm)(loud)
    assert out.dtype == torch.float16
    assert torch.isfinite(out).all() and float(out.abs().mean()) == pytest.approx(1.0, abs=0.01)


def test_the_picture_in_mixed_precision_is_nearly_the_same(bundle: Any, net: Any) -> None:
    values = tensors(jobs(2, bundle), net)
    with torch.inference_mode():
        full = sampler(bundle, net, 2, 2)(**values).numpy().astype(int)
        mixed = sampler(bundle, mixed_precision(net), 2, 2)(**values).numpy().astype(int)
    assert np.abs(full - mixed).mean() < 0.5
    assert (full != mixed).any(), "nothing was computed in half precision"
