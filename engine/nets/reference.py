"""Sampling in plain torch, as the paper writes it: what every compiled graph is compared with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from lipwire.engine.errors import ConfigError
from lipwire.engine.model.bundle import Manifest
from lipwire.engine.model.ddim import NoiseSchedule, ddim_sample
from lipwire.engine.nets.diff2lip import Diff2LipUNet, network_input, replace_lower_half
from lipwire.engine.nets.graphs import Wav2LipStep
from lipwire.engine.nets.lite import LiteNet
from lipwire.engine.nets.wav2lip import Wav2Lip

SCHEDULE = NoiseSchedule.linear()


@torch.no_grad()
def sample(
    net: nn.Module,
    inputs: Mapping[str, Tensor],
    manifest: Manifest,
    steps: int,
    *,
    clip: bool = True,
    entered: bool = False,
) -> Tensor:
    """Sample a batch.

    Args:
        net: as `lipwire.engine.nets.build_network` makes it.
        inputs: visible, references, mel, noise and, of a net that takes them, reach and shown as
            in `lipwire.engine.nets.graphs`, on the net's device.
        manifest: says which steps are visited and what the network predicts.
        steps: DDIM steps.
        clip: keep the clean-image estimate in ±1 at every step.
        entered: `noise` is a picture with the noise of the first of
            `lipwire.engine.model.ddim.NoiseSchedule.entry_timesteps`.

    Returns:
        f32[B, 3, H, S] in ±1, as high as the noise.

    Raises:
        ConfigError: a network of no known kind.
    """
    visible, references, mel, noise = (
        inputs[name] for name in ("visible", "references", "mel", "noise")
    )
    if isinstance(net, Wav2Lip):
        painted: Tensor = Wav2LipStep(net)(visible, references, mel)[0]
        return painted
    if isinstance(net, LiteNet):
        code = net.voice(mel, inputs.get("reach"))
        context = net.encoder(visible, references, code, inputs.get("shown"))

        def denoise(x_t: Tensor, t: int) -> Tensor:
            sigma = (1 - SCHEDULE.alpha_bar(t)) ** 0.5
            level, spread = (torch.full_like(mel[:, 0, 0], value) for value in (t, sigma))
            v: Tensor = net.denoiser(x_t, level, spread, references, *context)
            return v
    elif isinstance(net, Diff2LipUNet):
        style = net.audio_style(mel)
        whole = torch.cat([visible, torch.zeros_like(visible)], dim=2)
        condition = replace_lower_half(whole, noise)

        def denoise(x_t: Tensor, t: int) -> Tensor:
            x = network_input(x_t, condition, references)
            out: Tensor = net(x, torch.full_like(mel[:, 0, 0], t), style)
            return out[:, :3]
    else:
        raise ConfigError(f"no way is known to sample from a {type(net).__name__}")
    choose = SCHEDULE.entry_timesteps if entered else SCHEDULE.timesteps
    how: dict[str, Any] = {"prediction": manifest.prediction, "clip": clip}
    spacing: Any = manifest.spacing
    return ddim_sample(denoise, noise, choose(steps, spacing), SCHEDULE, **how)
