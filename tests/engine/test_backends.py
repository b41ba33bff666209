"""What every runtime owes: the same picture, only below, whatever the batch."""

from __future__ import annotations

import functools
import shutil
import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fakes import make_manifest, picture

from engine.backends import _FACTORIES, Backend, load_backend
from engine.bundle import DEFAULT_BUNDLE, MANIFEST, Bundle, open_bundle, sha256
from engine.diffusion import NoiseSchedule, ddim_sample
from engine.errors import BackendError, BundleError
from engine.mel import log_mel, window
from engine.types import F32, U8, LipJob
from engine.workers import open_engine

BACKENDS = sorted(set(_FACTORIES) - {"trt"})
# TensorRT owes the same, where there is a GPU to ask.
CONTRACT = [*BACKENDS, pytest.param("trt", marks=pytest.mark.gpu)]

if not (DEFAULT_BUNDLE / MANIFEST).is_file():
    pytest.skip("no model has been built into this copy", allow_module_level=True)


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    return open_bundle()


@functools.cache
def _backend(name: str) -> Backend:
    try:
        return load_backend(open_bundle(), name)
    except BackendError as error:
        if "not installed" in str(error):
            pytest.skip(str(error))
        raise


@pytest.fixture(params=CONTRACT)
def backend(request: pytest.FixtureRequest) -> Backend:
    return _backend(request.param)


def job(index: int = 0, steps: int = 2, seed: int = 0, size: int = 128) -> LipJob:
    """A crop, another reference and sound that is never silent."""
    rng = np.random.default_rng(index)
    sound = (rng.normal(0, 0.1, 8000) * (1 + np.sin(np.arange(8000) / 300))).astype(np.float32)
    mel = window(log_mel(sound), 8)
    return LipJob("test", index, picture(size, size, index),
                  picture(size, size, index + 50)[None], mel, seed, steps, 0.0)  # fmt: skip


def test_pictures_have_the_size_and_kind_of_the_crop(backend: Backend) -> None:
    (out,) = backend.generate([job()])
    assert out.shape == (128, 128, 3)
    assert out.dtype == np.uint8


def test_the_upper_half_is_the_crops_own(backend: Backend) -> None:
    jobs = [job(i) for i in range(3)]
    crops = [j.crop.copy() for j in jobs]
    for j, crop, out in zip(jobs, crops, backend.generate(jobs), strict=True):
        assert np.array_equal(out[:64], crop[:64])
        assert (out[64:] != crop[64:]).any()
        assert np.array_equal(j.crop, crop)  # what was given is not written to


def test_the_crops_lower_half_is_not_looked_at(backend: Backend) -> None:
    """Or it could copy the mouth that it is to replace."""
    plain = job()
    blank = plain.crop.copy()
    blank[64:] = 0
    (a,), (b,) = (backend.generate([j]) for j in (plain, replace(plain, crop=blank)))
    assert np.array_equal(a, b)


@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_a_batch_is_as_good_as_one_by_one(backend: Backend, count: int) -> None:
    jobs = [job(i, seed=i % 2) for i in range(count)]
    together = backend.generate(jobs)
    assert len(together) == count
    for one, out in zip(jobs, together, strict=True):
        (alone,) = backend.generate([one])
        assert np.abs(out.astype(int) - alone).max() <= 1


def test_the_largest_batch_that_is_offered_is_taken(backend: Backend) -> None:
    assert list(backend.batch_sizes) == sorted(set(backend.batch_sizes))
    assert backend.batch_sizes[0] >= 1
    largest = backend.batch_sizes[-1]
    assert len(backend.generate([job(i, steps=1) for i in range(largest)])) == largest
    assert backend.generate([]) == []


def test_equal_seeds_give_equal_pictures(backend: Backend) -> None:
    first, again, other = (backend.generate([job(seed=s)])[0] for s in (3, 3, 4))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
    for seed in range(10, 100):  # other sessions come and go
        backend.generate([job(seed=seed, steps=1)]) if seed % 30 == 0 else None
    assert np.array_equal(backend.generate([job(seed=3)])[0], first)


def test_every_number_of_steps_that_is_offered(backend: Backend) -> None:
    pictures = {s: backend.generate([job(steps=s)])[0] for s in backend.manifest.steps_offered}
    assert set(pictures) >= {1, 2, 4, 8}
    for one, other in zip(pictures.values(), list(pictures.values())[1:], strict=False):
        difference = np.abs(one.astype(int) - other)[64:]
        assert 0 < difference.mean() < 25  # another route to the same mouth


def test_steps_that_are_not_offered_and_mixed_steps_are_refused(backend: Backend) -> None:
    with pytest.raises(BundleError, match=r"offers \[1, 2, 4, 8\] steps, not 3"):
        backend.generate([job(steps=3)])
    with pytest.raises(BackendError, match="same number of steps"):
        backend.generate([job(steps=1), job(steps=2)])
    assert backend.generate([job()])  # and it goes on working


def test_a_job_of_the_wrong_shape_is_an_error_of_one_kind(backend: Backend) -> None:
    with pytest.raises(BackendError) as caught:
        backend.generate([replace(job(), mel=np.zeros((80, 15), np.float32))])
    assert "\n" not in str(caught.value)
    with pytest.raises(BackendError):
        backend.generate([job(size=64)])
    with pytest.raises(BackendError):
        backend.generate([job(), job(size=64)])


def test_the_voice_moves_the_mouth(backend: Backend) -> None:
    spoken = job()
    silent = replace(spoken, mel=np.full((80, 16), -4, np.float32))
    (a,), (b,) = (backend.generate([j]) for j in (spoken, silent))
    assert (a != b).any()


def test_it_says_what_it_is(backend: Backend) -> None:
    assert backend.description
    assert "\n" not in backend.description
    assert backend.manifest.name == "lite"


def test_closing_twice_is_no_error(bundle: Bundle) -> None:
    for name in BACKENDS:
        one = load_backend(bundle, name)
        one.close()
        one.close()
        with pytest.raises(BackendError):
            one.generate([job()])


# --- opening ---


def test_an_unknown_runtime_is_named(bundle: Bundle) -> None:
    with pytest.raises(BackendError, match=r"no backend 'tpu'; known: \["):
        load_backend(bundle, "tpu")


def test_a_runtime_that_is_not_installed_is_named(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(_FACTORIES, "gone", "engine.backends.gone:Gone")
    with pytest.raises(BackendError, match="backend 'gone' is not installed"):
        load_backend(bundle, "gone")


@pytest.fixture
def spoilt(tmp_path: Path) -> Iterator[Path]:
    """A copy of the shipped bundle, to be changed; its checksums are put right by `reseal`."""
    path = tmp_path / "spoilt"
    shutil.copytree(DEFAULT_BUNDLE, path)
    yield path


def reseal(path: Path, **changes: object) -> Bundle:
    manifest = open_bundle().manifest
    sums = {name: sha256(path / name) for name in manifest.files if (path / name).exists()}
    sealed = replace(manifest, **{"files": sums, **changes})  # type: ignore[arg-type]
    (path / MANIFEST).write_text(sealed.to_json(), encoding="utf-8")
    return open_bundle(path)


@pytest.mark.parametrize("garbage", [b"", b"not a graph", b"\x08\x07\x12\x00"])
def test_a_graph_that_the_runtime_refuses_is_named(spoilt: Path, garbage: bytes) -> None:
    (spoilt / "denoise.onnx").write_bytes(garbage)
    with pytest.raises(BackendError, match=r"denoise\.onnx: ONNX Runtime refuses it") as caught:
        load_backend(reseal(spoilt), "ort")
    assert "\n" not in str(caught.value)


def test_a_bundle_without_a_graph_is_named(spoilt: Path) -> None:
    (spoilt / "encode.onnx").unlink()
    with pytest.raises(BundleError, match=r"holds no encode\.onnx"):
        load_backend(reseal(spoilt), "ort")


def test_graphs_of_another_size_than_the_manifest_says_are_refused_at_once(spoilt: Path) -> None:
    with pytest.raises(BackendError, match="ONNX Runtime failed"):
        load_backend(reseal(spoilt, crop_size=96), "ort")


def test_a_kind_that_the_runtime_does_not_run_is_named(spoilt: Path) -> None:
    with pytest.raises(BackendError, match="does not run kind 'diff2lip'"):
        load_backend(reseal(spoilt, kind="diff2lip"), "ort")


def test_an_engine_opens_the_shipped_model() -> None:
    with open_engine(threads=1) as engine:
        assert "1 thread" in engine.backend.description
        assert engine.session().steps == engine.backend.manifest.default_steps


# --- against torch ---


@pytest.mark.parametrize("steps", [1, 2, 8])
def test_onnx_runtime_paints_what_torch_paints(
    tmp_path_factory: pytest.TempPathFactory, steps: int
) -> None:
    torch = pytest.importorskip("torch")
    pytest.importorskip("onnx")
    net, path = _tiny_bundle(tmp_path_factory.getbasetemp())
    backend = load_backend(open_bundle(path), "ort", threads=1)
    jobs = [job(index, steps, seed=5, size=64) for index in range(2)]

    def planes(images: list[U8]) -> F32:
        return np.stack(images).transpose(0, 3, 1, 2).astype(np.float32) / 127.5 - 1

    crops, references = (torch.from_numpy(planes(images)) for images in
                         ([j.crop for j in jobs], [j.references[0] for j in jobs]))  # fmt: skip
    schedule = NoiseSchedule.linear()
    with torch.no_grad():
        context = net.encode(crops, references, torch.from_numpy(np.stack([j.mel for j in jobs])))

        def denoise(x_t: Any, t: int) -> Any:
            sigma = (1 - schedule.alpha_bar(t)) ** 0.5
            return net.denoiser(x_t, torch.full((2,), float(t)), torch.full((2,), sigma),
                                references, *context)  # fmt: skip

        noise = np.random.default_rng(5).standard_normal((3, 32, 64), dtype=np.float32)
        hidden = ddim_sample(
            denoise,
            torch.from_numpy(np.stack([noise, noise])),
            schedule.timesteps(steps, spacing="trailing"), schedule, prediction="v",
        ).numpy()  # fmt: skip
    wanted = np.clip(np.rint((hidden.transpose(0, 2, 3, 1) + 1) * 127.5), 0, 255)
    for out, want in zip(backend.generate(jobs), wanted, strict=True):
        assert np.abs(out[32:].astype(int) - want).max() <= 1
    assert wanted.std() > 5  # it paints something
    backend.close()


@functools.cache
def _tiny_bundle(folder: Path) -> tuple[Any, Path]:
    """A random small network and its bundle.

    Written by torch's older exporter, in a second instead of half a minute: what is asked here is
    whether the backend runs graphs as torch would, and `tests/export` asks after the exporter.
    """
    import torch

    from engine.nets.lite import LiteConfig, LiteNet
    from export.lite import _Denoise, _Encode, example_inputs

    config = LiteConfig(size=64, widths=(8, 16, 24, 32), embed=32, voice_width=32)
    torch.manual_seed(1)
    net = LiteNet(config).eval()
    with torch.no_grad():
        for values in net.parameters():
            values.copy_(torch.randn_like(values) * 0.15)
    path = folder / "tiny"
    path.mkdir()
    inputs = example_inputs(net, 2)
    frame = {name: inputs[name] for name in ("visible", "reference", "mel")}
    with torch.no_grad():
        context = _Encode(net)(*frame.values())
    names = [f"context_{i}" for i in range(len(context))]
    step = {name: inputs[name] for name in ("x_t", "t", "sigma", "reference")}
    step |= dict(zip(names, context, strict=True))
    for file, module, feeds, outputs in (
        ("encode.onnx", _Encode(net), frame, names), ("denoise.onnx", _Denoise(net), step, ["v"]),
    ):  # fmt: skip
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that it is the older one
            torch.onnx.export(
                module, tuple(feeds.values()), str(path / file), dynamo=False, opset_version=18,
                input_names=list(feeds), output_names=outputs,
                dynamic_axes={name: {0: "batch"} for name in [*feeds, *outputs]},
            )  # fmt: skip
    sums = {file.name: sha256(file) for file in sorted(path.iterdir())}
    manifest = make_manifest(name="tiny", files=sums, crop_size=64)
    (path / MANIFEST).write_text(manifest.to_json(), encoding="utf-8")
    return net, path
