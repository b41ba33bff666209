"""Runtimes that run a bundle's graphs, behind one protocol; loaded only when asked for."""

from __future__ import annotations

import inspect
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from importlib import import_module
from importlib.util import find_spec
from statistics import median
from typing import Any, Protocol

import numpy as np

from lipwire.engine.audio.mel import N_MELS, WINDOW_COLUMNS
from lipwire.engine.backends.cuda import gpu_count
from lipwire.engine.errors import BackendError, BundleError
from lipwire.engine.model.bundle import Bundle, Manifest
from lipwire.engine.types import U8, LipJob

log = logging.getLogger(__name__)


class Backend(Protocol):
    """Paints mouths. One per device; not shared between threads."""

    manifest: Manifest
    batch_sizes: tuple[int, ...]
    """sizes that run without waste, ascending; any batch up to the last is accepted"""
    description: str
    """one line for people: runtime, device, threads"""

    def generate(self, jobs: Sequence[LipJob]) -> list[U8]:
        """Repaint the lower half of each job's crop, uint8[S, S, 3] each.

        All jobs of a batch take the same number of steps. The upper half is the crop's own.

        Raises:
            BackendError: the runtime failed.
        """
        ...

    def close(self) -> None: ...


# name -> module:attribute of a factory (Bundle, **options) -> Backend
_FACTORIES = {
    "ort": "lipwire.engine.backends.ort:OrtBackend",
    "eager": "lipwire.engine.backends.eager:EagerBackend",
    "openvino": "lipwire.engine.backends.openvino:OpenVinoBackend",
    "torch": "lipwire.engine.backends.recorded:RecordedBackend",
    "trt": "lipwire.engine.backends.trt:TrtBackend",
}
AUTO = "auto"


def load_backend(bundle: Bundle, name: str = "ort", **options: Any) -> Backend:
    """Open a bundle on a runtime.

    Args:
        bundle: the model.
        name: of the runtime; `auto` takes torch on an NVIDIA GPU, TensorRT where its plans are
            built and measured to be faster, and ONNX Runtime where neither opens, which is said
            once. On a CPU it takes ONNX Runtime, OpenVINO where that is installed and faster.
        **options: the runtime's own, e.g. `threads=2` for `ort`; None leaves it to the runtime.

    Raises:
        BackendError: unknown, not installed, it has no such option, it refuses the graphs, or the
            device lacks memory.
    """
    if name == AUTO:
        return _load_fastest(bundle, options)
    if name not in _FACTORIES:
        raise BackendError(f"no backend {name!r}; known: {sorted([*_FACTORIES, AUTO])}")
    module, attribute = _FACTORIES[name].split(":")
    try:
        factory: Callable[..., Backend] = getattr(import_module(module), attribute)
    except ImportError as error:
        raise BackendError(f"backend {name!r} is not installed ({error})") from error
    given = {option: value for option, value in options.items() if value is not None}
    known = inspect.signature(factory).parameters
    takes_any = any(p.kind is p.VAR_KEYWORD for p in known.values())
    if not takes_any and (foreign := sorted(given.keys() - known)):
        raise BackendError(f"backend {name!r} has no option {', '.join(foreign)}")
    try:
        return factory(bundle, **given)
    except ImportError as error:
        raise BackendError(f"backend {name!r} is not installed ({error})") from error
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        where = given.get("device", "the default device")
        raise BackendError(
            f"{bundle.path}: out of memory while loading it on {where} by {name!r}"
        ) from error


_said: set[str] = set()  # why a runtime is not used, said once a process
# Another runtime takes the usual one's place where it needs at most this share of its time.
_FASTER = 0.95
_TRIALS = 20


def _load_fastest(bundle: Bundle, options: dict[str, Any]) -> Backend:
    device = options.get("device")
    if device != "cpu" and gpu_count():
        found: list[Backend] = []
        for name, more in (("torch", {}), ("trt", {"build": False})):
            try:
                found.append(load_backend(bundle, name, device=device, **more))
            except (BackendError, BundleError) as error:
                # That TensorRT is not installed is no news where torch runs.
                if not (found and "not installed" in str(error)):
                    _say_once(f"the GPU backend {name!r} is not used: {error}")
        if found:
            return _faster_of(found)
        _say_once(f"ONNX Runtime takes the GPU backends' place on {device or 'its own choice'}")
        return load_backend(bundle, "ort", **options)
    usual: Any = load_backend(bundle, "ort", **options)
    if device not in (None, "cpu") or find_spec("openvino") is None:
        return usual
    try:
        other = load_backend(
            bundle, "openvino", **options | {"threads": usual.cpu_threads, "reference": usual}
        )
    except (BackendError, BundleError) as error:
        _say_once(f"OpenVINO is not used: {error}")
        return usual
    return _faster_of([usual, other])


def _say_once(line: str) -> None:
    if line not in _said:
        _said.add(line)
        log.warning("%s", line)


def _faster_of(backends: list[Backend]) -> Backend:
    """The first, or the second if it is measured to be faster; the other one is closed."""
    if len(backends) == 1:
        return backends[0]
    first_s, second_s = (_time_s(backend) for backend in backends)
    kept, left = backends if second_s > _FASTER * first_s else backends[::-1]
    first, second = (backend.description for backend in backends)
    ms = (first, first_s * 1e3, second, second_s * 1e3, kept.description)
    log.info("%s: %.2f ms a picture; %s: %.2f ms; taken: %s", *ms)
    left.close()
    return kept


def _time_s(backend: Backend) -> float:
    """Of one picture at the default steps."""
    job, times = blank_job(backend.manifest), []
    for _ in range(_TRIALS):
        begin = time.perf_counter()
        backend.generate([job])
        times.append(time.perf_counter() - begin)
    return median(times)


# How the runtimes say that memory is short: CUDA, torch, ONNX Runtime's arena, TensorRT, C++.
_OUT_OF_MEMORY = ["out of memory", "failed to allocate", "outofmemory", "bad_alloc"]
_OUT_OF_MEMORY += ["smaller than requested bytes"]


def is_out_of_memory(error: BaseException | None) -> bool:
    """Whether an error, or what caused it, means that the device's memory does not suffice."""
    while error is not None:
        text = f"{type(error).__name__}: {error}".lower()
        if isinstance(error, MemoryError) or any(sign in text for sign in _OUT_OF_MEMORY):
            return True
        error = error.__cause__
    return False


def build_ahead(bundle: Bundle, device: str | None = None) -> Iterator[tuple[str, str]]:
    """Open a bundle on every runtime that `auto` chooses from, building what that takes.

    Args:
        bundle: the model.
        device: as for `load_backend`; None is a GPU where there is one.

    Yields:
        A runtime's name, and what became of it, in one line.

    Raises:
        BackendError: none opens; the last one's reason.
    """
    on_gpu = gpu_count() > 0 if device is None else device.startswith("cuda")
    names = ("torch", "trt") if on_gpu else ("ort", "openvino")
    refused: BackendError | BundleError | None = None
    opened = 0
    for name in ("ort",) if device == "tensorrt" else names:
        begin = time.perf_counter()
        try:
            backend = load_backend(bundle, name, device=device)
            job = blank_job(bundle.manifest, bundle.manifest.steps_offered[0])
            for size in backend.batch_sizes:
                backend.generate([job] * size)
            backend.close()
        except (BackendError, BundleError) as error:
            refused = error
            yield name, str(error)
            continue
        opened += 1
        sizes = ", ".join(map(str, backend.batch_sizes))
        took = f"ready in {time.perf_counter() - begin:.1f} s"
        yield name, f"{backend.description}: {took}, batches of {sizes}"
    if not opened:
        assert refused is not None
        raise BackendError(
            f"{bundle.path}: no runtime opens it on {device or 'this machine'}: {refused}"
        )


def blank_job(manifest: Manifest, steps: int | None = None) -> LipJob:
    """A job of a model's shapes that shows nothing: to warm up and to measure with."""
    size = manifest.crop_size
    crop = np.zeros((size, size, 3), np.uint8)
    mel = np.zeros((N_MELS, int(manifest.mel.get("columns", WINDOW_COLUMNS))), np.float32)
    references = np.zeros((manifest.references, *crop.shape), np.uint8)
    return LipJob(
        "", 0, crop, references, mel, manifest.noise_seed, steps or manifest.default_steps, 0.0
    )


def noise_job(manifest: Manifest) -> LipJob:
    """A job of a model's shapes that shows noise: to compare what runtimes make of it."""
    rng, blank = np.random.default_rng(0), blank_job(manifest)
    return replace(
        blank,
        crop=rng.integers(0, 255, blank.crop.shape, np.uint8),
        references=rng.integers(0, 255, blank.references.shape, np.uint8),
        mel=rng.uniform(-4, 4, blank.mel.shape).astype(np.float32),
        seed=0,
    )
