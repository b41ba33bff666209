"""Jobs become the arrays that graphs take, and painted halves pictures."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from fakes import make_manifest, picture

from lipwire.engine.backends.feeds import Feeds, check_arrays, check_jobs, feed_shapes, noise_image
from lipwire.engine.errors import BackendError, BundleError
from lipwire.engine.model.ddim import NoiseSchedule
from lipwire.engine.types import LipJob

MANIFEST = make_manifest(crop_size=16, references=2, mel={"columns": 20})


def job(index: int = 0, seed: int = 0) -> LipJob:
    rng = np.random.default_rng(index)
    references = np.stack([picture(16, 16, index + 10 + i) for i in range(2)])
    mel = rng.uniform(-4, 4, (80, 20)).astype(np.float32)
    return LipJob("test", index, picture(16, 16, index), references, mel, seed, 2, 0.0)


def test_jobs_are_written_as_planes_in_plus_minus_one() -> None:
    feeds = Feeds(MANIFEST, 4, 8)
    jobs = [job(0), job(1, seed=5)]
    feeds.load_jobs(jobs)
    for slot, one in enumerate(jobs):
        wanted = one.crop[:8].transpose(2, 0, 1) / 127.5 - 1
        np.testing.assert_allclose(feeds.arrays["visible"][slot], wanted, atol=1e-6)
        for number in range(2):
            wanted = one.references[number].transpose(2, 0, 1) / 127.5 - 1
            part = feeds.arrays["references"][slot, 3 * number : 3 * number + 3]
            np.testing.assert_allclose(part, wanted, atol=1e-6)
        assert np.array_equal(feeds.arrays["mel"][slot], one.mel)
        assert np.array_equal(feeds.arrays["noise"][slot], noise_image(one.seed, 8, 16))


def test_a_slot_takes_the_noise_of_its_new_session() -> None:
    feeds = Feeds(MANIFEST, 1, 16)
    for seed in (1, 2, 1):
        feeds.load_jobs([job(seed=seed)])
        assert np.array_equal(feeds.arrays["noise"][0], noise_image(seed, 16, 16))
    raw = {name: np.ones(shape, np.float32) for name, shape in feed_shapes(MANIFEST, 1, 16).items()}
    feeds.load_arrays(raw)
    feeds.load_jobs([job(seed=1)])
    assert np.array_equal(feeds.arrays["noise"][0], noise_image(1, 16, 16))


def test_a_job_that_begins_at_a_unit_brings_its_picture_with_noise() -> None:
    told = replace(MANIFEST, reference_codes=True, spacing="trailing")
    feeds = Feeds(told, 2, 8)
    start = picture(8, 16, 5)
    codes = np.arange(14, dtype=np.float32).reshape(2, 7)
    jobs = [replace(job(0), steps=1, start=start, reference_codes=codes), replace(job(1), steps=1)]
    feeds.load_jobs(jobs)
    assert feeds.entered.tolist() == [True, False]
    level = NoiseSchedule.linear().alpha_bar(249)
    plane = start.transpose(2, 0, 1) / 127.5 - 1
    wanted = level**0.5 * plane + (1 - level) ** 0.5 * noise_image(0, 8, 16)
    np.testing.assert_allclose(feeds.arrays["noise"][0], wanted, atol=1e-5)
    assert np.array_equal(feeds.arrays["noise"][1], noise_image(0, 8, 16))
    assert np.array_equal(feeds.arrays["shown"], [codes, np.zeros((2, 7))])
    feeds.load_jobs(jobs[::-1])  # the slot's noise comes back
    assert np.array_equal(feeds.arrays["noise"][0], noise_image(0, 8, 16))
    for wrong, message in ((start[:4], "start is .4, 16, 3., .* takes .8, 16, 3."),):
        with pytest.raises(BackendError, match=message):
            check_jobs(replace(told, steps_offered=(1, 2)), [replace(jobs[0], start=wrong)])
    with pytest.raises(BackendError, match="takes none"):
        check_jobs(replace(MANIFEST, steps_offered=(1, 2)), [replace(job(0), start=start)])


@pytest.mark.parametrize("rows", [8, 16])
def test_pictures_take_the_last_rows_and_keep_the_upper_half(rows: int) -> None:
    feeds, one = Feeds(MANIFEST, 1, rows), job()
    sample = np.random.default_rng(0).uniform(-1.3, 1.3, (1, 3, rows, 16)).astype(np.float32)
    (out,) = feeds.pictures([one], sample)
    assert np.array_equal(out[:8], one.crop[:8])
    wanted = np.clip(np.rint((sample[0, :, -8:] + 1) * 127.5), 0, 255).transpose(1, 2, 0)
    assert np.abs(out[8:] - wanted).max() <= 1


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_picture_that_is_no_number_is_an_error(value: float) -> None:
    sample = np.zeros((1, 3, 16, 16), np.float32)
    sample[0, 1, 12, 3] = value
    with pytest.raises(BackendError, match="painted NaN or infinity"):
        Feeds(MANIFEST, 1, 16).pictures([job()], sample)


def test_jobs_of_another_shape_are_named() -> None:
    assert check_jobs(MANIFEST, [job(), job(1)]) == 2
    good = job()
    for wrong, message in (
        (replace(good, mel=good.mel[:, :1]), r"mel is \[80, 1\], model fake takes \[80, 20\]"),
        (replace(good, references=good.references[:1]), r"references is \[1, 16, 16, 3\]"),
        (replace(good, crop=good.crop[:8]), r"crop is \[8, 16, 3\]"),
        (replace(good, steps=4), "same number of steps"),
    ):
        with pytest.raises(BackendError, match=message):
            check_jobs(MANIFEST, [good, wrong])
    with pytest.raises(BundleError, match="not 3"):
        check_jobs(MANIFEST, [replace(good, steps=3)])


def test_raw_arrays_of_another_shape_are_named() -> None:
    raw = {name: np.zeros(shape, np.float32) for name, shape in feed_shapes(MANIFEST, 3, 8).items()}
    assert check_arrays(MANIFEST, raw, 8) == 3
    with pytest.raises(BackendError, match=r"noise is \[3, 3, 8, 16\], .* takes \[3, 3, 16, 16\]"):
        check_arrays(MANIFEST, raw, 16)
    del raw["visible"]
    with pytest.raises(BackendError, match="needs visible"):
        check_arrays(MANIFEST, raw, 8)
