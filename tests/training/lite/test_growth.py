"""A painter that takes more than the one that it begins with paints what that one did."""

from __future__ import annotations

from dataclasses import replace

import torch

from lipwire.engine.nets.lite import LiteConfig, LiteNet
from lipwire.training.lite.growth import grown_painter

EARLIER = LiteConfig(widths=(8, 16, 24, 32), embed=32, voice_width=32)
MORE = replace(EARLIER, references=3, told=True)


def noisy(config: LiteConfig) -> LiteNet:
    """An untrained network whose heads are not 0."""
    net = LiteNet(config)
    random = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=random))
    return net.eval()


@torch.no_grad()
def painted(net: LiteNet, pictures: list[torch.Tensor], shown: torch.Tensor | None) -> torch.Tensor:
    random = torch.Generator().manual_seed(1)
    code = torch.randn(2, 7, generator=random)
    x_t, visible = (torch.randn(2, 3, 64, 128, generator=random) for _ in "ab")
    references = torch.cat(pictures, dim=1)
    context = net.encoder(visible, references, code, shown)
    out: torch.Tensor = net.denoiser(
        x_t, torch.full((2,), 499.0), torch.full((2,), 0.9), references, *context
    )
    return out


def test_a_third_reference_that_repeats_the_second_changes_nothing() -> None:
    earlier, net = noisy(EARLIER), LiteNet(MORE)
    net.load_state_dict(grown_painter(earlier.state_dict(), EARLIER.to_dict(), net))
    random = torch.Generator().manual_seed(2)
    closed, wide, other = (torch.randn(2, 3, 128, 128, generator=random) for _ in "abc")
    shown = torch.randn(2, 3, 7, generator=random)
    wanted = painted(earlier, [closed, wide], None)
    found = painted(net.eval(), [closed, wide, wide], shown)
    torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-4)
    assert not torch.allclose(painted(net, [closed, wide, other], shown), wanted, atol=1e-3)


def test_being_told_changes_nothing_at_first_and_something_once_trained() -> None:
    earlier, net = noisy(EARLIER), LiteNet(replace(EARLIER, told=True))
    net.load_state_dict(grown_painter(earlier.state_dict(), EARLIER.to_dict(), net))
    pictures = [torch.rand(2, 3, 128, 128) for _ in "ab"]
    wanted = painted(earlier, pictures, None)
    assert torch.equal(painted(net.eval(), pictures, torch.zeros(2, 2, 7)), wanted)
    assert torch.equal(painted(net, pictures, torch.randn(2, 2, 7)), wanted)
    assert net.encoder.comparison is not None
    with torch.no_grad():
        net.encoder.comparison.embed[-1].weight.add_(0.1)  # type: ignore[operator, union-attr]
    assert not torch.allclose(painted(net, pictures, torch.randn(2, 2, 7)), wanted)


def test_a_network_that_fits_is_left_alone() -> None:
    net = noisy(MORE)
    grown = grown_painter(net.state_dict(), MORE.to_dict(), net)
    assert all(torch.equal(value, grown[name]) for name, value in net.state_dict().items())
    assert LiteConfig.from_dict({k: v for k, v in EARLIER.to_dict().items() if k != "told"}) == (
        EARLIER
    )
