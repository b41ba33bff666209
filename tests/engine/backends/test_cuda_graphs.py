"""The two graphs of every network against sampling as the paper writes it, all in torch."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from fakes import make_manifest
from goldens import fill_golden, relative_error
from torch import Tensor, nn

from lipwire.engine.errors import ConfigError
from lipwire.engine.model.ddim import trajectory
from lipwire.engine.nets import make_network
from lipwire.engine.nets.diff2lip import Diff2LipConfig, Diff2LipUNet
from lipwire.engine.nets.graphs import STEP, example_inputs, graphs
from lipwire.engine.nets.lite import LiteConfig, LiteNet
from lipwire.engine.nets.reference import SCHEDULE, sample
from lipwire.engine.nets.wav2lip import Wav2Lip

TINY = Diff2LipConfig(32, 32, 1, (2,), (1, 2), 32)
SMALL = LiteConfig(size=64, widths=(8, 16, 24, 32), embed=32, voice_width=32)


def lite() -> LiteNet:
    torch.manual_seed(0)
    net = LiteNet(SMALL)
    for values in net.parameters():
        nn.init.normal_(values, std=0.12)
    return net.eval()


def diff2lip() -> Diff2LipUNet:
    net = Diff2LipUNet(TINY)
    fill_golden(net)
    return net


@torch.no_grad()
def through_graphs(
    net: nn.Module, inputs: dict[str, Tensor], prediction: str, spacing: str, clip: bool
) -> Tensor:
    """Four steps as a runtime takes them."""
    encode, step = graphs(net)
    feeds = dict(inputs)
    feeds |= dict(
        zip(encode.outputs, encode.module(*(feeds[n] for n in encode.inputs)), strict=True)
    )
    feeds["x_t"] = feeds["noise"]
    for t, numbers in trajectory(
        SCHEDULE,
        4,
        spacing,
        prediction=prediction,
        clip=clip,  # type: ignore[arg-type]
    ):
        feeds["t"] = torch.full((2,), float(t))
        feeds["coefficients"] = torch.tensor([numbers]).repeat(2, 1)
        feeds["x_t"] = step.module(*(feeds[name] for name in step.inputs))[0]
    return feeds["x_t"]


@pytest.mark.parametrize("clip", [True, False])
@pytest.mark.parametrize(
    ("make", "prediction", "spacing"), [(lite, "v", "trailing"), (diff2lip, "epsilon", "leading")]
)
def test_the_graphs_sample_what_the_reference_samples(
    make: Callable[[], nn.Module], prediction: str, spacing: str, clip: bool
) -> None:
    net, manifest = make(), make_manifest(prediction=prediction, spacing=spacing)
    inputs = example_inputs(net, 2)
    wanted = sample(net, inputs, manifest, 4, clip=clip)
    found = through_graphs(net, inputs, prediction, spacing, clip)
    assert relative_error(found, wanted.numpy()) < 1e-4
    assert wanted.std() > 0.1


@pytest.mark.parametrize("make", [lite, diff2lip, Wav2Lip])
def test_graphs_name_what_goes_in_and_out(make: Callable[[], nn.Module]) -> None:
    net = make()
    for graph in graphs(net, batch=3):
        assert all(len(values) == 3 for values in graph.inputs.values())
        with torch.no_grad():
            out = graph.module(*graph.inputs.values())
        assert len(out) == len(graph.outputs)
        if graph.name == STEP:
            assert graph.outputs == ("x_prev", "raw")
            assert out[0].shape == example_inputs(net, 3)["noise"].shape


def test_wav2lip_sees_no_lower_half_and_speaks_rgb() -> None:
    net = Wav2Lip()
    seen: list[Tensor] = []
    net.register_forward_pre_hook(lambda _, given: seen.extend(given))
    net.eval()
    inputs = example_inputs(net, 1)
    (step,) = graphs(net, batch=1)
    with torch.no_grad():
        painted, raw = step.module(*step.inputs.values())
    mel, face = seen[-2:]
    assert mel.shape == (1, 1, 80, 16) and face.shape == (1, 6, 96, 96)
    assert torch.count_nonzero(face[:, :3, 48:]) == 0
    torch.testing.assert_close(face[:, 0, :48], (inputs["visible"][:, 2] + 1) / 2)  # blue first
    torch.testing.assert_close(face[:, 3:], (inputs["references"].flip(1) + 1) / 2)
    torch.testing.assert_close((painted[:, 0] + 1) / 2, raw[:, 2])


def test_networks_of_no_known_kind() -> None:
    with pytest.raises(ConfigError, match="no network of kind 'gan'"):
        make_network("gan", {})
    with pytest.raises(ConfigError, match="settings of a lite network are wrong"):
        make_network("lite", {"depth": 3})
    with pytest.raises(ConfigError, match="settings of a diff2lip network are wrong"):
        make_network("diff2lip", {"image_size": "large"})
    with pytest.raises(ConfigError, match="no graphs are known of a Linear"):
        net = nn.Linear(1, 1)
        net.config = SMALL  # type: ignore[assignment]
        graphs(net)
