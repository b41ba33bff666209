"""The perceptual loss: 0 for the same mouth, more for more blur; named where it is missing."""

from __future__ import annotations

import sys

import cv2
import numpy as np
import pytest
import torch
from clips import portrait

from lipwire.engine.errors import ConfigError
from lipwire.training.nets.imagenet import MouthFeatures


@pytest.fixture(scope="module")
def measure() -> MouthFeatures:
    pytest.importorskip("efficientnet_lite_pytorch", reason="of the train extra")
    return MouthFeatures.pretrained()


def mouth(blur_px: float = 0.0) -> torch.Tensor:
    """The lower half of a portrait, f32[1, 3, 64, 128] in ±1."""
    image = portrait(0.8, 128)
    if blur_px:
        image = cv2.GaussianBlur(image, (0, 0), blur_px)
    planes = np.ascontiguousarray(image[64:].transpose(2, 0, 1), np.float32) / 127.5 - 1
    return torch.from_numpy(planes)[None]


def test_equal_mouths_are_0_apart_and_blur_grows(measure: MouthFeatures) -> None:
    sharp = mouth()
    assert float(measure(sharp, sharp)) == 0.0
    distances = [float(measure(mouth(blur), sharp)) for blur in (0.5, 1.0, 2.0, 4.0)]
    assert distances == sorted(distances) and distances[0] > 0.01


def test_blur_is_farther_than_a_shift_of_the_same_error(measure: MouthFeatures) -> None:
    sharp, blurred = mouth(), mouth(2.0)
    shifted = sharp.roll(1, dims=3)
    errors = [float((x - sharp).square().mean()) for x in (shifted, blurred)]
    distances = [float(measure(x, sharp)) for x in (shifted, blurred)]
    assert distances[0] / distances[1] < errors[0] / errors[1]


def test_gradients_reach_the_picture_and_no_weight(measure: MouthFeatures) -> None:
    picture = mouth(1.0).requires_grad_(True)
    measure(picture, mouth()).sum().backward()
    assert picture.grad is not None and float(picture.grad.abs().max()) > 0
    assert not any(p.requires_grad for p in measure.parameters())


def test_what_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "efficientnet_lite_pytorch", None)
    with pytest.raises(ConfigError, match=r"pip install 'lipwire\[train\]'"):
        MouthFeatures.pretrained()
