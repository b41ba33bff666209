from __future__ import annotations

from math import exp

import torch
from torch import Tensor

from lipwire.engine.nets.graphs import example_inputs
from lipwire.engine.nets.lite import CODE_NAMES, GATE_START, LiteNet
from lipwire.export.lite import DEFAULT_STEPS
from lipwire.export.write import count_gflop


def test_a_frame_costs_at_most_eight_tenths_of_a_gflop() -> None:
    net = LiteNet().eval()
    gflop = count_gflop(net, DEFAULT_STEPS)
    parameters = sum(p.numel() for p in net.parameters()) / 1e6
    print(f"\nlite: {gflop:.3f} GFLOP a frame at {DEFAULT_STEPS} steps, {parameters:.2f} M weights")
    assert gflop <= 0.8
    assert parameters <= 4


def test_an_untrained_network_repeats_its_references() -> None:
    net = LiteNet().eval()
    inputs = example_inputs(net, 2)
    count = net.config.references
    assert inputs["references"].shape == (2, 3 * count, 128, 128)
    with torch.no_grad():
        context = encode(net, inputs["visible"], inputs)
        x0 = -net.denoiser(  # at pure noise
            inputs["x_t"], inputs["t"], torch.ones(2), inputs["references"], *context
        )
    lower = torch.stack(inputs["references"].chunk(count, dim=1))[:, :, :, 64:]
    open_gate = exp(GATE_START)  # of each reference, against 1 of the painting, which is black
    torch.testing.assert_close(x0, open_gate / (1 + count * open_gate) * lower.sum(0))


def encode(net: LiteNet, visible: Tensor, inputs: dict[str, Tensor]) -> tuple[Tensor, ...]:
    """What `LiteNet.encode` makes of a crop whose upper half is `visible`."""
    crop = torch.cat([visible, torch.zeros_like(visible)], dim=2)
    return net.encode(crop, inputs["references"], inputs["mel"])


def test_the_hidden_half_of_the_crop_is_not_looked_at() -> None:
    torch.manual_seed(0)
    net = LiteNet().eval()
    inputs = example_inputs(net, 1)
    crop = torch.cat([inputs["visible"], torch.randn_like(inputs["visible"])], dim=2)
    with torch.no_grad():
        found = net.encode(crop, inputs["references"], inputs["mel"])
        blank = encode(net, inputs["visible"], inputs)
        other = encode(net, inputs["visible"] + 0.1, inputs)
    assert all(torch.equal(a, b) for a, b in zip(found, blank, strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(found, other, strict=True))


def test_voice_gain_scales_the_code() -> None:
    net = LiteNet().eval()
    mel = example_inputs(net, 2)["mel"]
    with torch.no_grad():
        before = net.voice(mel)
        net.voice.gain.fill_(2.0)
        torch.testing.assert_close(net.voice(mel), 2 * before)
    assert before.shape == (2, len(CODE_NAMES))
