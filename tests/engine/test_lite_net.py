from __future__ import annotations

import torch

from engine.nets.graphs import example_inputs
from engine.nets.lite import CODE_NAMES, GATE_START, LiteNet
from export.lite import DEFAULT_STEPS
from export.write import count_gflop


def test_a_frame_costs_at_most_eight_tenths_of_a_gflop() -> None:
    net = LiteNet().eval()
    gflop = count_gflop(net, DEFAULT_STEPS)
    parameters = sum(p.numel() for p in net.parameters()) / 1e6
    print(f"\nlite: {gflop:.3f} GFLOP a frame at {DEFAULT_STEPS} steps, {parameters:.2f} M weights")
    assert gflop <= 0.8
    assert parameters <= 4


def test_an_untrained_network_repeats_the_reference() -> None:
    net = LiteNet().eval()
    inputs = example_inputs(net, 2)
    with torch.no_grad():
        context = net.encode(inputs["references"], inputs["references"], inputs["mel"])
        v = net.denoiser(inputs["x_t"], inputs["t"], torch.ones(2), inputs["references"], *context)
    lower = torch.sigmoid(torch.tensor(GATE_START)) * inputs["references"][:, :, 64:]
    torch.testing.assert_close(-v, lower)  # x0 = -v at pure noise


def test_the_hidden_half_of_the_crop_is_not_looked_at() -> None:
    torch.manual_seed(0)
    net = LiteNet().eval()
    inputs = example_inputs(net, 1)
    crop = inputs["references"].clone()
    other = crop.clone()
    other[:, :, 64:] = 0
    with torch.no_grad():
        a = net.encode(crop, inputs["references"], inputs["mel"])
        b = net.encode(other, inputs["references"], inputs["mel"])
    assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def test_voice_gain_scales_the_code() -> None:
    net = LiteNet().eval()
    mel = example_inputs(net, 2)["mel"]
    with torch.no_grad():
        before = net.voice(mel)
        net.voice.gain.fill_(2.0)
        torch.testing.assert_close(net.voice(mel), 2 * before)
    assert before.shape == (2, len(CODE_NAMES))
