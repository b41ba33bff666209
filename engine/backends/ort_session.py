"""ONNX Runtime sessions: which device, how many threads, optimised graphs kept for next time."""

from __future__ import annotations

import hashlib
import os
import platform
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnxruntime as ort

from lipwire.engine.backends.planned import check_built_for
from lipwire.engine.backends.plans import fingerprint
from lipwire.engine.errors import BackendError, BundleError
from lipwire.engine.model.bundle import Bundle, Manifest, sha256
from lipwire.engine.model.cache import cache_folder
from lipwire.engine.model.onnx_file import external_data

_PROVIDERS = {
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
}
# Fewer threads are taken where they cost at most this much more time: they leave cores to decoding
# and tracking. Nearer to 1 the choice hangs on noise; further off a frame gets noticeably slower.
_SLOWER_IS_FINE = 1.08
_TRIAL_S = 0.15  # of running a graph to learn how fast it is; a slow graph runs twice in any case
_KEPT_GRAPHS = 16  # optimised graphs on disk, newest first; one bundle has two


@dataclass(frozen=True, slots=True)
class Device:
    """Where graphs run."""

    kind: str  # cpu, cuda or tensorrt
    number: int = 0

    @property
    def memory(self) -> str:
        """Where its arrays lie, in ONNX Runtime's words."""
        return "cpu" if self.kind == "cpu" else "cuda"

    def __str__(self) -> str:
        return "CPU" if self.kind == "cpu" else f"{self.kind}:{self.number}"


def choose_device(manifest: Manifest, wanted: str | None) -> Device:
    """The device to run a model on.

    Args:
        manifest: says what the graphs were built for.
        wanted: cpu, cuda, tensorrt, or with a number, cuda:1; None takes CUDA where this build of
            ONNX Runtime has it and the model allows it. TensorRT must be asked for: it builds
            engines for minutes before the first frame.

    Raises:
        BackendError: no such device here, or the model was built for another.
    """
    available = ort.get_available_providers()
    if wanted is None:
        cuda = _PROVIDERS["cuda"] in available and manifest.device != "cpu"
        wanted = "cuda" if cuda or manifest.device == "cuda" else "cpu"
    kind, _, number = wanted.partition(":")
    if kind not in _PROVIDERS or not (number or "0").isdecimal() or (kind == "cpu" and number):
        raise BackendError(f"no device {wanted!r}: use cpu, cuda, cuda:1, tensorrt …")
    check_built_for(manifest, kind)
    if _PROVIDERS[kind] not in available:
        raise BackendError(
            f"this ONNX Runtime has no {_PROVIDERS[kind]} (only {', '.join(available)}); "
            "see docs/gpu.md: pip uninstall onnxruntime, then install onnxruntime-gpu"
        )
    return Device(kind, int(number or 0))


def open_session(
    bundle: Bundle, name: str, device: Device, threads: int, largest_batch: int
) -> ort.InferenceSession:
    """Load one of a bundle's graphs.

    Raises:
        BackendError: it is no graph, fetches data from elsewhere, or the runtime refuses it.
    """
    path = bundle.file(name)
    try:
        outside = external_data(path)
    except BundleError as error:
        raise BackendError(f"{path}: ONNX Runtime refuses it ({error})") from error
    if outside is not None:
        raise BackendError(f"{path}: tensor {outside!r} lies outside the file; export it again")
    if device.kind != "cpu" and hasattr(ort, "preload_dlls"):  # 1.21 on
        ort.preload_dlls()  # of CUDA and cuDNN as pip installs them; it finds no others by itself
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    # Spinning threads would steal the core that decodes the next frame.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if device.kind == "cpu":
        # An arena keeps for good what the largest batch took, 95 MiB of the model that ships, and
        # spares a run nothing that can be measured. A GPU's is another matter: there malloc waits.
        options.enable_cpu_mem_arena = False
    try:
        if device.kind == "cpu":
            return _optimised_session(path, bundle.manifest.files[name], options)
        session = ort.InferenceSession(
            str(path), options, providers=_gpu_providers(path, device, bundle, largest_batch)
        )
    except Exception as error:  # the runtime raises several unrelated kinds
        raise BackendError(f"{path}: ONNX Runtime refuses it ({one_line(error)})") from error
    if session.get_providers()[0] != _PROVIDERS[device.kind]:
        raise BackendError(
            f"{path}: {_PROVIDERS[device.kind]} did not start, so the graph would run on the CPU; "
            "are the CUDA libraries installed?"
        )
    return session


def _gpu_providers(path: Path, device: Device, bundle: Bundle, largest: int) -> list[Any]:
    """Execution providers for a GPU, the fastest first."""
    # An exhaustive search, the provider's default, begins anew with every batch size, in a call.
    cuda = (_PROVIDERS["cuda"], {"device_id": device.number, "cudnn_conv_algo_search": "HEURISTIC"})
    if device.kind == "cuda":
        return [cuda, _PROVIDERS["cpu"]]
    options: dict[str, Any] = {
        "device_id": device.number,
        "trt_fp16_enable": bundle.manifest.precision == "float16",
        "trt_timing_cache_enable": True,
    }
    # Engines are named by the graph's file and nodes, not by its weights: a folder each model.
    cache = cache_folder("tensorrt", fingerprint(bundle.manifest))
    if cache is not None:
        options |= dict.fromkeys(("trt_engine_cache_path", "trt_timing_cache_path"), str(cache))
        options["trt_engine_cache_enable"] = True
    # One engine for all batches: without a profile every new batch size builds another.
    plain = ort.InferenceSession(str(path), providers=[_PROVIDERS["cpu"]])
    for bound, batch in (("min", 1), ("opt", 1), ("max", largest)):
        options[f"trt_profile_{bound}_shapes"] = ",".join(
            f"{i.name}:{'x'.join(str(d) for d in (batch, *i.shape[1:]))}"
            for i in plain.get_inputs()
        )
    return [(_PROVIDERS["tensorrt"], options), cuda, _PROVIDERS["cpu"]]


def _optimised_session(
    path: Path, checksum: str, options: ort.SessionOptions
) -> ort.InferenceSession:
    """A CPU session, by way of the optimised graph of an earlier one where there is one."""
    providers = [_PROVIDERS["cpu"]]
    cache = cache_folder("graphs")
    if cache is None:
        return ort.InferenceSession(str(path), options, providers=providers)
    # Its memory layout suits one CPU and one version of the runtime.
    identity = "\n".join((checksum, ort.__version__, platform.machine(), _cpu_features()))
    kept = cache / f"{hashlib.sha256(identity.encode()).hexdigest()[:32]}.onnx"
    seal = kept.with_suffix(".sha256")
    plain_level = options.graph_optimization_level
    try:
        if seal.read_text() == sha256(kept):
            options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
            session = ort.InferenceSession(str(kept), options, providers=providers)
            os.utime(kept)
            return session
    except Exception:  # not there, damaged, or another version's: made again
        pass
    options.graph_optimization_level = plain_level
    fresh = kept.with_suffix(f".{os.getpid()}.tmp")
    options.optimized_model_filepath = str(fresh)
    try:
        session = ort.InferenceSession(str(path), options, providers=providers)
        seal.unlink(missing_ok=True)  # never a new graph under an old seal
        checksum = sha256(fresh)
        fresh.replace(kept)
        seal.write_text(checksum)
        _prune(cache)
    except OSError:  # the disk is full, or another process was faster: it was only a cache
        options.optimized_model_filepath = ""
        session = ort.InferenceSession(str(path), options, providers=providers)
    finally:
        fresh.unlink(missing_ok=True)
    return session


def _prune(cache: Path) -> None:
    by_age = sorted(cache.glob("*.onnx"), key=lambda path: path.stat().st_mtime, reverse=True)
    for old in by_age[_KEPT_GRAPHS:]:
        old.unlink(missing_ok=True)
        old.with_suffix(".sha256").unlink(missing_ok=True)


def _cpu_features() -> str:
    """What decides which kernels the runtime takes."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
        return next(line for line in lines if line.startswith(("flags", "Features")))
    except (OSError, StopIteration):
        return platform.processor()


def fewest_threads(time_of: Callable[[int], float], most: int) -> int:
    """Halve the number of threads for as long as it costs hardly any time."""
    chosen, fastest_s = most, time_of(most)
    while chosen > 1:
        elapsed_s = time_of(chosen // 2)
        fastest_s = min(fastest_s, elapsed_s)
        if elapsed_s > fastest_s * _SLOWER_IS_FINE:
            break
        chosen //= 2
    return chosen


def shortest_run_s(run: Callable[[], None]) -> float:
    """How long a call takes when nothing disturbs it; the first, which settles memory, is free."""
    run()
    begin = time.perf_counter()
    times: list[float] = []
    while not times or time.perf_counter() - begin < _TRIAL_S:
        started = time.perf_counter()
        run()
        times.append(time.perf_counter() - started)
    return min(times)


def one_line(error: Exception) -> str:
    """What went wrong; the runtime's own messages run over several lines."""
    return " ".join(str(error).split()) or type(error).__name__
