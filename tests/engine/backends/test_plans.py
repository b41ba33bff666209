"""TensorRT's plans on disk, and what is known of GPUs: all that needs neither."""

from __future__ import annotations

import ctypes
import logging
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fakes import FakeBackend, make_manifest

from lipwire.engine import backends
from lipwire.engine.backends import cuda, load_backend
from lipwire.engine.backends.plans import NotBuilt, PlanCache, Platform, fingerprint
from lipwire.engine.errors import BackendError, BundleError
from lipwire.engine.model.bundle import Bundle

HERE = Platform("sm_89", "550.54.14", "10.13.0")
MODEL = make_manifest(name="lite", version="0.1", files={"step.onnx": "ab", "encode.onnx": "cd"})


@pytest.fixture(autouse=True)
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    tmp_path.chmod(0o700)
    monkeypatch.setenv("LIPWIRE_CACHE", str(tmp_path))
    return tmp_path


class Builder:
    """Builds plans, and loads those that it knows."""

    def __init__(self) -> None:
        self.built = 0

    def build(self) -> bytes:
        self.built += 1
        return b"plan"

    @staticmethod
    def load(data: bytes) -> str:
        if data != b"plan":
            raise BackendError("built for another GPU")
        return "loaded"


def test_a_plan_is_built_once(caplog: pytest.LogCaptureFixture) -> None:
    builder = Builder()
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            cache = PlanCache(HERE, MODEL, "float16")
            assert cache.get("step", 8, builder.build, builder.load) == "loaded"
    assert builder.built == 1
    assert caplog.text.count("this takes minutes, once") == 1
    assert [path.name for path in cache.folder.iterdir()] == ["step-b8.plan"]


def test_where_nothing_is_to_be_built_a_missing_plan_is_named(
    caplog: pytest.LogCaptureFixture,
) -> None:
    builder = Builder()
    cache = PlanCache(HERE, MODEL, "float16")
    with pytest.raises(NotBuilt, match=r"step-b8\.plan is not there"):
        cache.get("step", 8, None, builder.load)
    cache.get("step", 8, builder.build, builder.load)
    assert cache.get("step", 8, None, builder.load) == "loaded"
    cache.path("step", 8).write_bytes(b"pl")
    with pytest.raises(NotBuilt, match=r"does not load \(built for another GPU\)"):
        cache.get("step", 8, None, builder.load)
    assert builder.built == 1 and "this takes minutes" in caplog.text


@pytest.mark.parametrize(
    ("platform", "manifest", "precision", "graph", "batch"),
    [
        (replace(HERE, architecture="sm_86"), MODEL, "float16", "step", 8),
        (replace(HERE, driver="560.1"), MODEL, "float16", "step", 8),
        (replace(HERE, tensorrt="10.14"), MODEL, "float16", "step", 8),
        (HERE, replace(MODEL, files={**MODEL.files, "step.onnx": "ef"}), "float16", "step", 8),
        (HERE, MODEL, "float32", "step", 8),
        (HERE, MODEL, "float16", "encode", 8),
        (HERE, MODEL, "float16", "step", 4),
    ],
)
def test_whatever_differs_is_another_plan(
    platform: Platform, manifest: Any, precision: str, graph: str, batch: int
) -> None:
    builder = Builder()
    PlanCache(HERE, MODEL, "float16").get("step", 8, builder.build, builder.load)
    PlanCache(platform, manifest, precision).get(graph, batch, builder.build, builder.load)
    assert builder.built == 2


def test_the_timing_cache_is_shared_by_models_but_not_by_platforms() -> None:
    one = PlanCache(HERE, MODEL, "float16").timing_cache
    assert one == PlanCache(HERE, replace(MODEL, name="other"), "float32").timing_cache
    assert one != PlanCache(replace(HERE, driver="1"), MODEL, "float16").timing_cache


@pytest.mark.parametrize("garbage", [b"", b"pla"])
def test_a_plan_that_does_not_load_is_built_again(
    garbage: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    builder, cache = Builder(), PlanCache(HERE, MODEL, "float16")
    cache.path("step", 1).write_bytes(garbage)
    with caplog.at_level(logging.WARNING):
        assert cache.get("step", 1, builder.build, builder.load) == "loaded"
    assert "step-b1.plan does not load (" in caplog.text and "building" in caplog.text
    assert cache.path("step", 1).read_bytes() == b"plan"


def test_a_build_that_fails_leaves_nothing() -> None:
    def fail() -> bytes:
        raise BackendError("no converter")

    cache = PlanCache(HERE, MODEL, "float16")
    with pytest.raises(BackendError, match="no converter"):
        cache.get("step", 1, fail, Builder.load)
    assert not list(cache.folder.iterdir())


def test_a_folder_that_others_may_write_to_is_not_used(root: Path) -> None:
    root.chmod(0o777)
    with pytest.raises(BackendError, match="private cache folder"):
        PlanCache(HERE, MODEL, "float16")


def test_the_fingerprint_knows_every_file_and_no_order() -> None:
    turned = replace(MODEL, files=dict(reversed(list(MODEL.files.items()))))
    assert fingerprint(turned) == fingerprint(MODEL)
    assert fingerprint(replace(MODEL, files={"step.onnx": "ab"})) != fingerprint(MODEL)


# --- GPUs ---


def test_the_drivers_version_is_read_from_its_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "version"
    file.write_text("NVRM version: NVIDIA UNIX x86_64 Kernel Module  550.54.14  Thu Feb 22 2024\n")
    monkeypatch.setattr(cuda, "DRIVER_FILE", file)
    assert cuda.driver_version() == "550.54.14"
    file.write_text("something else\n")
    monkeypatch.setattr(cuda, "LIBRARY", "libnosuch.so.1")
    assert cuda.driver_version() == "unknown"


def test_no_driver_means_no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda, "LIBRARY", "libnosuch.so.1")
    assert cuda.gpu_count() == 0


class Driver:
    """libcuda with so many GPUs."""

    def __init__(self, count: int, initialised: int = 0) -> None:
        self._count, self._initialised = count, initialised

    def cuInit(self, flags: int) -> int:  # noqa: N802
        return self._initialised

    def cuDeviceGetCount(self, out: Any) -> int:  # noqa: N802
        ctypes.cast(out, ctypes.POINTER(ctypes.c_int))[0] = self._count
        return 0

    def cuDriverGetVersion(self, out: Any) -> int:  # noqa: N802
        ctypes.cast(out, ctypes.POINTER(ctypes.c_int))[0] = 12040
        return 0


def test_gpus_are_counted_by_the_driver(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(cuda, "DRIVER_FILE", tmp_path / "none")
    monkeypatch.setattr(ctypes, "CDLL", lambda name: Driver(2))
    assert cuda.gpu_count() == 2
    assert cuda.driver_version() == "cuda12040"
    monkeypatch.setattr(ctypes, "CDLL", lambda name: Driver(2, initialised=999))
    assert cuda.gpu_count() == 0


# --- the fastest that is here ---


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[tuple[str, dict[str, Any]]]]:
    """What was asked of which runtime, on a machine with a GPU."""
    asked: list[tuple[str, dict[str, Any]]] = []

    def factory(name: str) -> Any:
        def make(bundle: Bundle, **options: Any) -> FakeBackend:
            asked.append((name, options))
            backend = FakeBackend()
            backend.description = name
            backend.cpu_threads = 3  # type: ignore[attr-defined]
            return backend

        return make

    import types

    names = ("ort", "torch", "trt", "openvino")
    module = types.SimpleNamespace(**{name: factory(name) for name in names})

    def refusing(bundle: Bundle, **options: Any) -> FakeBackend:
        raise BackendError("pictures differ")

    def gone(bundle: Bundle, **options: Any) -> FakeBackend:
        raise ImportError("No module named 'gone'")

    module.refusing, module.gone = refusing, gone
    monkeypatch.setattr(backends, "import_module", lambda name: module)
    for name in names:
        monkeypatch.setitem(backends._FACTORIES, name, f"x:{name}")
    monkeypatch.setattr(backends, "gpu_count", lambda: 1)
    monkeypatch.setattr(backends, "find_spec", lambda name: None)
    monkeypatch.setattr(backends, "_said", set())
    yield asked


BUNDLE = Bundle(Path("nowhere"), MODEL)


def test_a_gpu_gets_the_faster_of_torch_and_tensorrt_and_a_cpu_neither(
    opened: list[tuple[str, dict[str, Any]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    times_s = {"torch": 0.010, "trt": 0.005}
    monkeypatch.setattr(backends, "_time_s", lambda backend: times_s[backend.description])
    assert load_backend(BUNDLE, "auto", device="cuda:1", threads=2).description == "trt"
    times_s["trt"] = 0.0099
    assert load_backend(BUNDLE, "auto", device="cuda:1").description == "torch"
    load_backend(BUNDLE, "auto", device="cpu", threads=2)
    monkeypatch.setattr(backends, "gpu_count", lambda: 0)
    load_backend(BUNDLE, "auto", threads=None)
    assert opened == [
        *[("torch", {"device": "cuda:1"}), ("trt", {"device": "cuda:1", "build": False})] * 2,
        ("ort", {"device": "cpu", "threads": 2}),
        ("ort", {}),
    ]


def test_a_cpu_gets_openvino_where_it_is_installed_and_faster(
    opened: list[tuple[str, dict[str, Any]]],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    times_s = {"ort": 0.010, "openvino": 0.005, "torch": 0.001, "trt": 0.001}
    monkeypatch.setattr(backends, "_time_s", lambda backend: times_s[backend.description])
    monkeypatch.setattr(backends, "find_spec", lambda name: object())
    assert load_backend(BUNDLE, "auto", device="cpu").description == "openvino"
    usual = opened[1][1].pop("reference")
    assert usual.description == "ort", "it is compared with what is open already"
    assert opened == [("ort", {"device": "cpu"}), ("openvino", {"device": "cpu", "threads": 3})]
    times_s["openvino"] = 0.0099
    assert load_backend(BUNDLE, "auto", device="cpu").description == "ort"
    opened.clear()
    load_backend(BUNDLE, "auto", device="cuda:0", threads=None)
    assert "openvino" not in dict(opened), "a GPU's place is not taken by it"

    monkeypatch.setitem(backends._FACTORIES, "openvino", "x:refusing")
    with caplog.at_level(logging.WARNING):
        assert load_backend(BUNDLE, "auto", device="cpu").description == "ort"
    assert "OpenVINO is not used: pictures differ" in caplog.text


def test_building_ahead_opens_what_auto_chooses_from(
    opened: list[tuple[str, dict[str, Any]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = Bundle(Path("nowhere"), make_manifest())
    said = dict(backends.build_ahead(bundle, "cuda:0"))
    assert [name for name, _ in opened] == ["torch", "trt"] == list(said)
    assert all("build" not in options for _, options in opened), "plans are built"
    assert said["trt"].startswith("trt: ready in ") and "batches of 1, 2, 4" in said["trt"]
    opened.clear()
    monkeypatch.setitem(backends._FACTORIES, "openvino", "x:gone")
    assert "not installed" in dict(backends.build_ahead(bundle, "cpu"))["openvino"]
    monkeypatch.setitem(backends._FACTORIES, "ort", "x:gone")
    with pytest.raises(BackendError, match="nowhere: no runtime opens it on cpu: .*not installed"):
        list(backends.build_ahead(bundle, "cpu"))


@pytest.mark.parametrize(
    "error",
    [
        ImportError("No module named 'torch'"),
        BackendError("refused"),
        BundleError("does not hold its network"),
    ],
)
def test_where_neither_opens_onnx_runtime_takes_their_place_and_says_so(
    opened: list[tuple[str, dict[str, Any]]],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    error: Exception,
) -> None:
    import_module: Any = backends.import_module  # type: ignore[attr-defined]

    def some(name: str) -> Any:
        if name == "gone":
            raise error
        return import_module(name)

    monkeypatch.setattr(backends, "import_module", some)
    monkeypatch.setattr(backends, "_said", set())
    for name in ("torch", "trt"):
        monkeypatch.setitem(backends._FACTORIES, name, f"gone:{name}")
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            load_backend(BUNDLE, "auto", device="cuda:0")
    assert opened == [("ort", {"device": "cuda:0"})] * 3
    assert caplog.text.count("'torch' is not used") == 1, "why, once"
    assert caplog.text.count("ONNX Runtime takes the GPU backends' place on cuda:0") == 1
    with pytest.raises((BackendError, BundleError)):
        load_backend(BUNDLE, "trt")  # asked for by name, it is not replaced


def test_too_little_memory_is_named_with_the_device(
    monkeypatch: pytest.MonkeyPatch, opened: list[Any]
) -> None:
    def full(bundle: Bundle, **options: Any) -> FakeBackend:
        raise RuntimeError("CUDA out of memory.\nTried to allocate 2 GiB")

    import types

    module = types.SimpleNamespace(ort=full)
    monkeypatch.setattr(backends, "import_module", lambda name: module)
    with pytest.raises(BackendError, match="out of memory while loading it on cuda:3") as caught:
        load_backend(BUNDLE, "ort", device="cuda:3")
    assert "\n" not in str(caught.value)
