"""The paper's network against numbers computed with the published implementation."""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from goldens import fill_golden, load_golden, relative_error
from numpy.typing import NDArray

from lipwire.engine.errors import ConfigError
from lipwire.engine.model.ddim import NoiseSchedule, ddim_sample
from lipwire.engine.nets.blocks import timestep_embedding
from lipwire.engine.nets.diff2lip import (
    Diff2LipConfig,
    Diff2LipUNet,
    network_input,
    replace_lower_half,
)

TOLERANCE = 1e-4  # relative, float32 on a CPU against float32 on another

TINY = Diff2LipConfig(
    image_size=32,
    model_channels=32,
    num_res_blocks=1,
    attention_resolutions=(2,),
    channel_mult=(1, 2),
    num_head_channels=32,
)


def config_of(described: dict[str, Any]) -> Diff2LipConfig:
    return Diff2LipConfig(**{f.name: described[f.name] for f in fields(Diff2LipConfig)})


class Golden:
    """The golden network with its inputs as tensors."""

    def __init__(self, shared_dir: Path) -> None:
        described, self.arrays = load_golden(shared_dir, "diff2lip_tiny")
        self.shapes: dict[str, list[int]] = described["state_dict"]
        self.net = Diff2LipUNet(config_of(described))
        fill_golden(self.net)
        tensors = {k: torch.from_numpy(self.arrays[k]) for k in ("face", "ref", "noise", "mel")}
        self.face, self.ref, self.mel = tensors["face"], tensors["ref"], tensors["mel"]
        self.noise = tensors["noise"].expand_as(self.face)
        self.condition = replace_lower_half(self.face, self.noise)

    @torch.no_grad()
    def sample(self, clip: bool) -> NDArray[np.float32]:
        style = self.net.audio_style(self.mel)
        schedule = NoiseSchedule.linear()

        def denoise(x_t: torch.Tensor, t: int) -> torch.Tensor:
            x = network_input(x_t, self.condition, self.ref)
            out: torch.Tensor = self.net(x, torch.full((len(x),), t), style)
            return out[:, :3]

        steps = schedule.timesteps(25)
        x0 = ddim_sample(denoise, self.noise, steps, schedule, prediction="epsilon", clip=clip)
        return x0.numpy()


@pytest.fixture(scope="module")
def golden(shared_dir: Path) -> Golden:
    return Golden(shared_dir)


def shapes_of(net: torch.nn.Module) -> dict[str, list[int]]:
    return {key: list(tensor.shape) for key, tensor in net.state_dict().items()}


def test_golden_keys_and_shapes(golden: Golden) -> None:
    assert shapes_of(golden.net) == golden.shapes


def test_golden_audio_style(golden: Golden) -> None:
    with torch.no_grad():
        style = golden.net.audio_style(golden.mel)
    assert relative_error(style, golden.arrays["audio_style"]) < TOLERANCE


def test_golden_forward(golden: Golden) -> None:
    with torch.no_grad():
        x = network_input(golden.noise, golden.condition, golden.ref)
        out = golden.net(x, torch.full((2,), 640), golden.net.audio_style(golden.mel))
    assert relative_error(out, golden.arrays["forward_t640"]) < TOLERANCE


def test_golden_trajectory_clipped_and_composited(golden: Golden) -> None:
    sample = golden.sample(clip=True)
    assert relative_error(sample, golden.arrays["ddim_sample"]) < TOLERANCE
    composited = replace_lower_half(golden.face, torch.from_numpy(sample))
    assert relative_error(composited, golden.arrays["composited"]) < TOLERANCE


def test_golden_trajectory_unclipped(golden: Golden) -> None:
    sample = golden.sample(clip=False)
    assert relative_error(sample, golden.arrays["ddim_sample_unclipped"]) < TOLERANCE


def test_golden_timesteps(golden: Golden) -> None:
    steps = NoiseSchedule.linear().timesteps(25)
    assert list(reversed(steps)) == golden.arrays["timesteps"].tolist()


def test_official_keys_and_shapes(shared_dir: Path) -> None:
    described = json.loads((shared_dir / "goldens" / "diff2lip_official.json").read_text())
    assert config_of(described) == Diff2LipConfig.official()
    with torch.device("meta"):
        net = Diff2LipUNet(Diff2LipConfig.official())
    assert shapes_of(net) == described["state_dict"]


def test_official_size_and_cost() -> None:
    from torch.utils.flop_counter import FlopCounterMode

    with torch.device("meta"):
        net = Diff2LipUNet(Diff2LipConfig.official())
        x, t, style = torch.empty(1, 9, 128, 128), torch.empty(1), torch.empty(1, 512)
        with FlopCounterMode(display=False) as counter:
            out = net(x, t, style)
    assert out.shape == (1, 6, 128, 128)
    assert sum(p.numel() for p in net.parameters()) == pytest.approx(101.7e6, rel=1e-3)
    # Attention at the wrong resolutions keeps the output's shape but not the cost.
    assert counter.get_total_flops() == pytest.approx(157e9, rel=5e-3)


def test_starts_by_predicting_zero_noise() -> None:
    net = Diff2LipUNet(TINY)
    x = torch.randn(2, 9, 32, 32)
    out = net(x, torch.tensor([3, 999]), net.audio_style(torch.randn(2, 80, 16)))
    assert out.shape == (2, 6, 32, 32)
    assert torch.count_nonzero(out) == 0


def test_output_depends_on_image_step_and_audio() -> None:
    net = Diff2LipUNet(TINY)
    fill_golden(net)
    rng = torch.Generator().manual_seed(1)
    x = torch.randn(1, 9, 32, 32, generator=rng)
    quiet, loud = torch.full((1, 80, 16), -4.0), torch.randn(1, 80, 16, generator=rng)
    with torch.no_grad():
        base = net(x, torch.tensor([500]), net.audio_style(quiet))
        for other in (
            net(x, torch.tensor([480]), net.audio_style(quiet)),
            net(x, torch.tensor([500]), net.audio_style(loud)),
            net(x.flip(3), torch.tensor([500]), net.audio_style(quiet)),
        ):
            assert relative_error(other, base.numpy()) > 1e-3


def test_samples_of_a_batch_are_independent() -> None:
    net = Diff2LipUNet(TINY)
    fill_golden(net)
    rng = torch.Generator().manual_seed(2)
    x, mel = torch.randn(3, 9, 32, 32, generator=rng), torch.randn(3, 80, 16, generator=rng)
    t = torch.tensor([0, 40, 960])
    with torch.no_grad():
        whole = net(x, t, net.audio_style(mel))
        alone = [net(x[i : i + 1], t[i : i + 1], net.audio_style(mel[i : i + 1])) for i in range(3)]
    assert relative_error(torch.cat(alone), whole.numpy()) < 1e-5


def test_gradient_reaches_every_parameter() -> None:
    net = Diff2LipUNet(TINY)
    fill_golden(net)
    out = net(torch.randn(1, 9, 32, 32), torch.tensor([7]), net.audio_style(torch.randn(1, 80, 16)))
    out.square().mean().backward()
    assert [name for name, p in net.named_parameters() if p.grad is None] == []


def test_half_precision_stays_half_and_close() -> None:
    net = Diff2LipUNet(TINY)
    fill_golden(net)
    rng = torch.Generator().manual_seed(3)
    x, mel = torch.randn(1, 9, 32, 32, generator=rng), torch.randn(1, 80, 16, generator=rng)
    t = torch.tensor([320])
    with torch.no_grad():
        want = net(x, t, net.audio_style(mel))
        net = net.bfloat16()
        got = net(x.bfloat16(), t, net.audio_style(mel.bfloat16()))
    assert got.dtype == torch.bfloat16
    assert relative_error(got.float(), want.numpy()) < 0.05


def test_timestep_embedding_is_cosines_then_sines() -> None:
    emb = timestep_embedding(torch.tensor([0, 250]), 4)
    angles = np.array([250.0, 250.0 / 100.0])  # 10000^(-i/2): 1, 1/100
    assert np.allclose(emb[0], [1, 1, 0, 0])
    assert np.allclose(emb[1], np.concatenate([np.cos(angles), np.sin(angles)]), atol=1e-5)


def test_network_input_repaints_only_the_lower_half() -> None:
    x_t, condition, ref = (torch.full((1, 3, 4, 4), v) for v in (0.1, 0.2, 0.3))
    x = network_input(x_t, condition, ref)
    assert torch.all(x[:, 0:3, :2] == 0.2) and torch.all(x[:, 0:3, 2:] == 0.1)
    assert torch.all(x[:, 3:6] == 0.2) and torch.all(x[:, 6:9] == 0.3)


def test_wrong_mel_window_is_named() -> None:
    with pytest.raises(ConfigError, match=r"\[B,80,16\], got \[1, 80, 17\]"):
        Diff2LipUNet(TINY).audio_style(torch.zeros(1, 80, 17))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"channel_mult": ()}, "channel_mult"),
        ({"model_channels": 48}, "multiple of 32, got 48"),
        ({"num_res_blocks": 0}, "num_res_blocks"),
        ({"image_size": 33}, "multiple of 2"),
        ({"attention_resolutions": (16,)}, r"\[16\]"),
        ({"num_head_channels": 0}, "divide 64, .* got 0"),
        ({"num_head_channels": 48}, "divide 64, .* got 48"),
        # Without attention levels the middle block still attends.
        ({"num_head_channels": 48, "attention_resolutions": ()}, "divide 64, .* got 48"),
    ],
)
def test_config_rejects(change: dict[str, Any], message: str) -> None:
    values = {f.name: getattr(TINY, f.name) for f in fields(TINY)}
    with pytest.raises(ConfigError, match=message):
        Diff2LipConfig(**{**values, **change})
