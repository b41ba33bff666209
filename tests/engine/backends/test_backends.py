"""What every runtime owes: the same picture, only below, whatever the batch."""

from __future__ import annotations

import tracemalloc
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from runtimes import SIZE, job, open_once, reseal

from lipwire.engine.audio.mel import SILENCE
from lipwire.engine.backends import _FACTORIES, Backend, load_backend, ort
from lipwire.engine.backends.ort_session import fewest_threads
from lipwire.engine.errors import BackendError, BundleError
from lipwire.engine.model.bundle import Bundle, open_bundle, sha256
from lipwire.engine.runtime.open import open_engine

ON_GPU = ("torch", "trt")
BACKENDS = sorted(set(_FACTORIES) - set(ON_GPU))
# These owe the same, where there is a GPU to ask.
CONTRACT = [*BACKENDS, *(pytest.param(name, marks=pytest.mark.gpu) for name in ON_GPU)]


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    return open_bundle()


@pytest.fixture(params=CONTRACT)
def backend(request: pytest.FixtureRequest) -> Backend:
    return open_once(request.param)


def test_pictures_have_the_size_and_kind_of_the_crop(backend: Backend) -> None:
    (out,) = backend.generate([job()])
    assert out.shape == (SIZE, SIZE, 3)
    assert out.dtype == np.uint8


def test_the_upper_half_is_the_crops_own(backend: Backend) -> None:
    jobs = [job(i) for i in range(3)]
    crops = [j.crop.copy() for j in jobs]
    for j, crop, out in zip(jobs, crops, backend.generate(jobs), strict=True):
        assert np.array_equal(out[: SIZE // 2], crop[: SIZE // 2])
        assert (out[SIZE // 2 :] != crop[SIZE // 2 :]).any()
        assert np.array_equal(j.crop, crop)  # what was given is not written to


def test_the_crops_lower_half_is_not_looked_at(backend: Backend) -> None:
    """Or it could copy the mouth that it is to replace."""
    plain = job()
    blank = plain.crop.copy()
    blank[SIZE // 2 :] = 0
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


@pytest.mark.parametrize(("cores", "sizes"), [(1, (1, 2)), (2, (1, 2)), (6, (1, 2, 4))])
def test_a_cpu_is_offered_no_batch_larger_than_its_cores(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch, cores: int, sizes: tuple[int, ...]
) -> None:
    monkeypatch.setattr(ort, "usable_cores", lambda: cores)
    with closing(load_backend(bundle, "ort", threads=1)) as backend:
        assert backend.batch_sizes == sizes


def test_one_that_is_ready_for_single_frames_paints_the_same(bundle: Bundle) -> None:
    single = load_backend(bundle, "ort", threads=1, batch_sizes=(1,))
    try:
        assert single.batch_sizes == (1,)
        jobs = [job(i) for i in range(3)]
        for one, out in zip(jobs, single.generate(jobs), strict=True):
            assert np.array_equal(out, open_once("ort").generate([one])[0])
    finally:
        single.close()


def test_equal_seeds_give_equal_pictures(backend: Backend) -> None:
    first, again, other = (backend.generate([job(seed=s)])[0] for s in (3, 3, 4))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
    for seed in range(10, 100):  # other sessions come and go
        backend.generate([job(seed=seed, steps=1)]) if seed % 30 == 0 else None
    assert np.array_equal(backend.generate([job(seed=3)])[0], first)


def test_every_number_of_steps_that_is_offered(backend: Backend) -> None:
    pictures = {s: backend.generate([job(steps=s)])[0] for s in backend.manifest.steps_offered}
    assert set(pictures) >= {1, 2, 4, 8, 25}
    for one, other in zip(pictures.values(), list(pictures.values())[1:], strict=False):
        difference = np.abs(one.astype(int) - other)[SIZE // 2 :]
        # Another route to the same mouth; pictures of noise with nothing in common differ by 85.
        assert 0 < difference.mean() < 40


def test_steps_that_are_not_offered_and_mixed_steps_are_refused(backend: Backend) -> None:
    with pytest.raises(BundleError, match=r"offers \[1, 2, 4, 8, 25\] steps, not 3"):
        backend.generate([job(steps=3)])
    with pytest.raises(BackendError, match="same number of steps"):
        backend.generate([job(steps=1), job(steps=2)])
    assert backend.generate([job()])  # and it goes on working


def test_a_job_of_the_wrong_shape_is_an_error_of_one_kind(backend: Backend) -> None:
    with pytest.raises(BackendError) as caught:
        backend.generate([replace(job(), mel=job().mel[:, 1:])])
    assert "\n" not in str(caught.value)
    with pytest.raises(BackendError):
        backend.generate([job(size=64)])
    with pytest.raises(BackendError):
        backend.generate([job(), job(size=64)])


def test_the_voice_moves_the_mouth(backend: Backend) -> None:
    spoken = job()
    silent = replace(spoken, mel=np.full_like(spoken.mel, SILENCE))
    (a,), (b,) = (backend.generate([j]) for j in (spoken, silent))
    assert (a != b).any()


def test_it_says_what_it_is(backend: Backend) -> None:
    assert backend.description
    assert "\n" not in backend.description
    assert backend.manifest.name == "lite"


def test_closing_twice_is_no_error(bundle: Bundle) -> None:
    for name in BACKENDS:
        open_once(name)  # skips where it is not installed
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
    monkeypatch.setitem(_FACTORIES, "gone", "lipwire.engine.backends.gone:Gone")
    with pytest.raises(BackendError, match="backend 'gone' is not installed"):
        load_backend(bundle, "gone")
    with pytest.raises(BackendError, match="backend 'eager' has no option batch_sizes"):
        load_backend(bundle, "eager", batch_sizes=(1,))


@pytest.mark.parametrize("garbage", [b"", b"not a graph", b"\x08\x07\x12\x00"])
def test_a_graph_that_the_runtime_refuses_is_named(spoilt: Path, garbage: bytes) -> None:
    (spoilt / "step.onnx").write_bytes(garbage)
    with pytest.raises(BackendError, match=r"step\.onnx: ONNX Runtime refuses it") as caught:
        load_backend(reseal(spoilt), "ort")
    assert "\n" not in str(caught.value)


def test_a_bundle_without_a_graph_is_named(spoilt: Path) -> None:
    (spoilt / "step.onnx").unlink()
    with pytest.raises(BundleError, match=r"holds no step\.onnx"):
        load_backend(reseal(spoilt), "ort")


def test_graphs_of_another_size_than_the_manifest_says_are_refused_at_once(spoilt: Path) -> None:
    with pytest.raises(BackendError, match="does not fit crops of 96 px"):
        load_backend(reseal(spoilt, crop_size=96), "ort")
    with pytest.raises(BackendError, match="ONNX Runtime failed"):
        load_backend(reseal(spoilt, references=4), "ort")
    with pytest.raises(BackendError, match="ONNX Runtime failed"):
        load_backend(reseal(spoilt, mel={"columns": 20}), "ort")


def test_a_bundle_for_another_device_is_named(spoilt: Path) -> None:
    with pytest.raises(BackendError, match="was built for device 'cuda', not for 'cpu'"):
        load_backend(reseal(spoilt, device="cuda"), "ort", device="cpu")
    if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        with pytest.raises(BackendError, match=r"no CUDAExecutionProvider .* onnxruntime-gpu"):
            load_backend(reseal(spoilt, device="cuda"), "ort")
    with pytest.raises(BackendError, match="was built for device 'cpu', not for 'cuda'"):
        load_backend(reseal(spoilt, device="cpu"), "ort", device="cuda:0")
    for wrong in ("tpu", "cpu:1", "cuda:x", ""):
        with pytest.raises(BackendError, match="no device"):
            load_backend(reseal(spoilt), "ort", device=wrong)


def test_a_graph_that_fetches_data_from_elsewhere_is_refused(spoilt: Path) -> None:
    onnx = pytest.importorskip("onnx")
    model = onnx.load(str(spoilt / "step.onnx"))
    tensor = model.graph.initializer[0]
    tensor.data_location = onnx.TensorProto.EXTERNAL
    entry = tensor.external_data.add()
    entry.key, entry.value = "location", "../../secret"
    (spoilt / "step.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(BackendError, match=rf"tensor '{tensor.name}' lies outside the file"):
        load_backend(reseal(spoilt), "ort")


def test_a_graph_with_nan_in_it_is_refused_before_it_paints(spoilt: Path) -> None:
    onnx = pytest.importorskip("onnx")
    model = onnx.load(str(spoilt / "step.onnx"))
    tensor = next(t for t in model.graph.initializer if t.name.endswith("paint.2.bias"))
    values = np.frombuffer(tensor.raw_data, np.float32).copy()
    values[3] = np.nan
    tensor.raw_data = values.tobytes()
    (spoilt / "step.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(BackendError, match="paints NaN"):
        load_backend(reseal(spoilt), "ort")
    pytest.importorskip("torch")
    with pytest.raises(BundleError, match=r"paint\.2\.bias holds NaN"):
        load_backend(reseal(spoilt), "eager")


# --- ONNX Runtime's own ---


def test_painting_allocates_nothing_but_the_pictures() -> None:
    backend = load_backend(open_bundle(), "ort", threads=1)
    jobs = [job(index) for index in range(2)]
    backend.generate(jobs)
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    pictures = backend.generate(jobs)
    after, peak = tracemalloc.get_traced_memory()
    for _ in range(20):
        backend.generate(jobs)
    settled = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    given = sum(picture.nbytes for picture in pictures)
    assert after - before < given + 20_000
    assert peak - before < given + 64 * 1024  # numpy converts in pieces of 8 Ki values
    assert abs(settled - after) < 20_000
    backend.close()


def test_a_smaller_batch_is_not_touched_by_what_was_painted_before() -> None:
    backend = load_backend(open_bundle(), "ort", threads=1)
    (alone,) = backend.generate([job(7)])
    backend.generate([job(index) for index in range(4)])
    three = backend.generate([job(7), job(8), job(9)])  # in the slots of four
    assert np.abs(three[0].astype(int) - alone).max() <= 1
    backend.close()


def test_an_optimised_graph_is_kept_and_made_again_when_it_was_altered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LIPWIRE_CACHE", str(tmp_path / "cache"))
    want = load_backend(open_bundle(), "ort", threads=1).generate([job()])[0]
    kept = sorted((tmp_path / "cache" / "graphs").glob("*.onnx"))
    assert len(kept) == 2
    times = [path.stat().st_ino for path in kept]
    for spoil in (
        lambda p: p.write_bytes(b"evil"),
        lambda p: p.write_bytes(p.read_bytes()[:-9]),
        lambda p: p.with_suffix(".sha256").write_text("0" * 64),
        lambda p: p.unlink(),
    ):
        again = load_backend(open_bundle(), "ort", threads=1).generate([job()])[0]
        assert np.array_equal(again, want)
        assert [path.stat().st_ino for path in kept] == times  # taken as it was
        for path in kept:
            spoil(path)
        again = load_backend(open_bundle(), "ort", threads=1).generate([job()])[0]
        assert np.array_equal(again, want)
        times = [path.stat().st_ino for path in kept]
    for path in kept:  # right by its checksum, but not a graph
        path.write_bytes(b"evil")
        path.with_suffix(".sha256").write_text(sha256(path))
    again = load_backend(open_bundle(), "ort", threads=1).generate([job()])[0]
    assert np.array_equal(again, want)
    monkeypatch.setenv("LIPWIRE_CACHE", "")
    assert np.array_equal(load_backend(open_bundle(), "ort", threads=1).generate([job()])[0], want)


@pytest.mark.parametrize(
    ("seconds", "threads"),
    [
        ({4: 1.0, 2: 1.9, 1: 3.7}, 4),
        ({4: 1.0, 2: 1.05, 1: 1.9}, 2),
        ({4: 1.0, 2: 0.9, 1: 0.96}, 1),
        ({4: 1.0, 2: 0.9, 1: 1.0}, 2),
        ({1: 1.0}, 1),
    ],
)
def test_the_fewest_threads_that_are_about_as_fast(seconds: dict[int, float], threads: int) -> None:
    assert fewest_threads(seconds.__getitem__, max(seconds)) == threads


def test_an_engine_opens_the_shipped_model() -> None:
    with open_engine(threads=1) as engine:
        assert "1 thread" in engine.backend.description
        assert engine.session().steps == engine.backend.manifest.default_steps


# --- against torch ---


@pytest.mark.parametrize("steps", [1, 2, 8])
def test_onnx_runtime_paints_what_torch_paints(steps: int) -> None:
    pytest.importorskip("torch")
    ort, eager = open_once("ort"), open_once("eager")
    jobs = [job(index, steps, seed=5) for index in range(2)]
    for found, wanted in zip(ort.generate(jobs), eager.generate(jobs), strict=True):
        assert np.abs(found.astype(int) - wanted).max() <= 1
        assert wanted[SIZE // 2 :].std() > 5  # it paints something
