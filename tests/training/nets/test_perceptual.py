from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from lipwire.engine.errors import CheckpointError
from lipwire.training.nets.perceptual import (
    MEAN,
    SPREAD,
    VGG_WIDTHS,
    GaborFeatures,
    Perceptual,
    VggFeatures,
    load_perceptual,
)


@pytest.fixture(scope="module")
def vgg() -> dict[str, Tensor]:
    """VGG-16's state dict as torchvision saves it, random, its classifier cut short."""
    random = torch.Generator().manual_seed(0)
    weights: dict[str, Tensor] = {}
    index, channels = 0, 3
    for widths in VGG_WIDTHS:
        for width in widths:
            shape = (width, channels, 3, 3)
            scale = (2 / (9 * channels)) ** 0.5
            weights[f"features.{index}.weight"] = scale * torch.randn(shape, generator=random)
            weights[f"features.{index}.bias"] = torch.zeros(width)
            index, channels = index + 2, width
        index += 1  # the pooling
    weights["classifier.0.weight"] = torch.zeros(2, 2)
    return weights


def linear(**only: Tensor) -> dict[str, Tensor]:
    """LPIPS's linear weights: zero but for what is given."""
    names = [f"lin{i}" for i in range(5)]
    return {
        f"{name}.model.1.weight": only.get(name, torch.zeros(1, widths[-1], 1, 1))
        for name, widths in zip(names, VGG_WIDTHS, strict=True)
    }


def test_layers_are_numbered_as_torchvisions(vgg: dict[str, Tensor]) -> None:
    assert [int(k.split(".")[1]) for k in vgg if k.endswith("weight")][:-1] == [
        0,
        2,
        5,
        7,
        10,
        12,
        14,
        17,
        19,
        21,
        24,
        26,
        28,
    ]
    ours = {f"features.{k}" for k in VggFeatures().features.state_dict()}
    assert ours == {k for k in vgg if k.startswith("features")}


def test_one_channel_of_lpips_by_hand(vgg: dict[str, Tensor], tmp_path: Path) -> None:
    """With one linear weight, LPIPS is that channel's squared difference, normalised."""
    one = torch.zeros(1, 64, 1, 1)
    one[0, 7] = 2.0
    torch.save(vgg, tmp_path / "vgg.pth")
    torch.save(linear(lin0=one), tmp_path / "lin.pth")
    measure = load_perceptual((tmp_path / "vgg.pth", tmp_path / "lin.pth"))
    assert measure.name == "lpips-vgg"
    a, b = torch.rand(2, 1, 3, 32, 32) * 2 - 1

    def channel(x: Tensor) -> Tensor:
        h = (x - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(SPREAD).view(3, 1, 1)
        for index in (0, 2):
            weight, bias = vgg[f"features.{index}.weight"], vgg[f"features.{index}.bias"]
            h = F.relu(F.conv2d(h, weight, bias, padding=1))
        return h[:, 7] / h.norm(dim=1)

    wanted = 2.0 * ((channel(a) - channel(b)) ** 2).mean()
    torch.testing.assert_close(measure(a, b), wanted[None], rtol=1e-4, atol=1e-7)


def test_without_linear_weights_it_says_vgg(vgg: dict[str, Tensor], tmp_path: Path) -> None:
    torch.save({"state_dict": vgg}, tmp_path / "vgg.pth")
    measure = load_perceptual((tmp_path / "vgg.pth",))
    assert measure.name == "vgg"
    x = torch.rand(1, 3, 32, 32)
    assert float(measure(x, x)) == 0.0 and float(measure(x, 1 - x)) > 0
    assert not any(p.requires_grad for p in measure.parameters())


def test_files_that_do_not_fit_are_named(vgg: dict[str, Tensor], tmp_path: Path) -> None:
    torch.save({k: v for k, v in vgg.items() if k != "features.5.weight"}, tmp_path / "a.pth")
    with pytest.raises(CheckpointError, match=r"5\.weight is missing"):
        load_perceptual((tmp_path / "a.pth",))
    torch.save(linear(), tmp_path / "lin.pth")
    with pytest.raises(CheckpointError, match=r"no features\.N\.weight"):
        load_perceptual((tmp_path / "lin.pth",))
    torch.save({**vgg, **linear(lin2=torch.zeros(1, 9, 1, 1))}, tmp_path / "b.pth")
    with pytest.raises(CheckpointError, match=r"lin2\.model\.1\.weight is \[1, 9, 1, 1\]"):
        load_perceptual((tmp_path / "b.pth",))


# --- the fallback ---


def grating(wavelength_px: float, vertical: bool = True, shift_px: float = 0.0) -> Tensor:
    x = torch.arange(64.0)
    wave = 0.5 * torch.sin(2 * torch.pi * (x + shift_px) / wavelength_px)
    plane = wave.expand(64, 64) if vertical else wave[:, None].expand(64, 64)
    return plane.expand(1, 3, 64, 64)


def test_the_bank_answers_to_its_own_orientation_and_scale() -> None:
    bank = GaborFeatures()
    energies = [octave[0, 12:18, 2:-2, 2:-2].mean((1, 2)) for octave in bank.features(grating(4.0))]
    assert int(energies[0].argmax()) == 0, "a vertical grating varies along x: angle 0"
    across = bank.features(grating(4.0, vertical=False))[0][0, 12:18].mean((1, 2))
    assert int(across.argmax()) == 3, "and a horizontal one along y: 90 degrees of 6 x 30"
    assert float(energies[0].max()) > 2 * float(energies[0].median())


def test_the_bank_is_blind_to_brightness_but_for_colour_by_region() -> None:
    bank = GaborFeatures()
    flat = bank.features(torch.full((1, 3, 64, 64), 0.7))[0][:, :18]
    assert float(flat.abs().max()) < 0.02


def test_blur_is_far_and_a_small_shift_is_near() -> None:
    """Unlike pixels, which would rather have a blurred mouth than a sharp one a pixel away."""
    torch.manual_seed(0)
    sharp = F.interpolate(torch.rand(1, 3, 24, 24) * 2 - 1, size=(96, 96), mode="nearest")
    shifted = sharp.roll(1, dims=3)
    blurred = F.avg_pool2d(sharp, 9, 1, 4, count_include_pad=False)
    bank = GaborFeatures()
    assert float(((shifted - sharp) ** 2).mean()) > 0.5 * float(((blurred - sharp) ** 2).mean())
    assert float(bank(shifted, sharp)) < 0.5 * float(bank(blurred, sharp))


def test_it_is_its_own_name_and_needs_no_file() -> None:
    measure = load_perceptual()
    x = torch.rand(2, 3, 32, 32)
    assert measure.name == "gabor" and measure(x, x).tolist() == [0.0, 0.0]
    assert measure(x, x.flip(0)).shape == (2,) and not list(measure.parameters())


@pytest.mark.parametrize("measure", [VggFeatures, GaborFeatures])
def test_mixed_precision_leaves_distances_alone(measure: type[Perceptual]) -> None:
    torch.manual_seed(0)
    distance = measure()
    a = torch.rand(1, 3, 32, 32) * 2 - 1
    b = a + 1e-3 * torch.randn_like(a)
    with torch.no_grad():
        wanted = distance(a, b)
        with torch.autocast("cpu", torch.bfloat16):
            found = distance(a, b)
            assert torch.conv2d(a, a).dtype == torch.bfloat16, "it is on"
    assert found.dtype == torch.float32 and torch.equal(found, wanted)
