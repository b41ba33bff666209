"""What a sync expert says of a film: lags that are known, films too short, several together."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from lipwire.engine.audio.mel import SILENCE
from lipwire.engine.types import F32, U8
from lipwire.training.evaluation.in_step import SHIFT, over_films, pairs_of, verdict
from lipwire.training.nets.syncnet import SmallSyncNet, make_expert

FRAMES = 60
RATE_HZ, SAMPLES = 16_000, 640  # of a frame


class Clock(SmallSyncNet):
    """Vectors at the angle that a picture's level or a sound's loudness says."""

    def embed_faces(self, halves: Tensor) -> Tensor:
        return _at(halves[:, 0].mean((1, 2, 3)) / 2 + 0.5)

    def embed_audio(self, mel: Tensor) -> Tensor:
        told = (mel[:, :, 2].mean(1) - SILENCE) / 8  # 25 ms in; 0.55 of the level, less 0.04
        return _at((told + 0.04) / 0.55)


def _at(share: Tensor) -> Tensor:
    return torch.stack([torch.cos(3 * share), torch.sin(3 * share)], 1)


@pytest.fixture
def levels() -> F32:
    """Of each frame, 0 to 1, unlike those around it."""
    return np.random.default_rng(0).uniform(0.1, 0.9, FRAMES).astype(np.float32)


def film(levels: F32, late: int = 0) -> tuple[list[U8], F32]:
    """Crops and sound, the crops late by so many frames."""
    noise = np.random.default_rng(1).normal(0, 1, (FRAMES, SAMPLES))
    loud = 10.0 ** (4 * (levels - 1))  # log-mel then rises with the level
    sound = (noise * loud[:, None]).astype(np.float32).ravel() * np.float32(0.2)
    shown = np.roll(levels, late)
    return [np.full((128, 128, 3), round(255 * float(level)), np.uint8) for level in shown], sound


@pytest.mark.parametrize("late", [0, 4, -3])
def test_the_lag_of_a_film_is_found(levels: F32, late: int) -> None:
    found = verdict(pairs_of(Clock().eval(), *film(levels, late)))
    assert abs(found.lag - late) <= 1
    assert found.confidence > 0.05 and 0 <= found.distance < 2 and 0 < found.likely < 1


def test_mouths_that_stand_still_are_in_step_with_nothing(levels: F32) -> None:
    crops, sound = film(levels)
    moving, still = (
        verdict(pairs_of(Clock().eval(), shown, sound)) for shown in (crops, crops[:1] * FRAMES)
    )
    assert still.confidence < moving.confidence / 2


def test_what_is_too_short_has_no_figures(levels: F32) -> None:
    crops, sound = film(levels)
    for shown, heard in ((crops[:4], sound), (crops[:8], sound), (crops, sound[:100])):
        assert np.isnan(verdict(pairs_of(make_expert("small").eval(), shown, heard)).distance)


def test_sizes_of_crops_are_brought_to_the_experts(levels: F32) -> None:
    crops, sound = film(levels)
    large = [np.asarray(np.kron(crop, np.ones((2, 2, 1))), np.uint8) for crop in crops]
    expert = make_expert("small").eval()
    for a, b in zip(pairs_of(expert, crops, sound), pairs_of(expert, large, sound), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4)


def test_films_count_by_their_pairs(levels: F32) -> None:
    one = pairs_of(Clock().eval(), *film(levels))
    assert one.counts[SHIFT] == one.counts.max()
    told = over_films([{"real": one}, {"real": one}])["real"]
    alone = verdict(one)
    assert told["lag"] == alone.lag
    assert told["confidence"] == [round(alone.confidence, 3)] * 3, "both films are the same"
