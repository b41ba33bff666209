from __future__ import annotations

from math import exp, log, log1p

import pytest
import torch
from torch import Tensor, nn

from lipwire.training.losses import (
    agreement_loss,
    code_loss,
    cosine_of_codes,
    critic_loss,
    frozen_call,
    generator_loss,
    l2_loss,
    perceptual_loss,
    r1_penalty,
    simple_loss,
    split_v,
    sync_loss,
)
from lipwire.training.nets.patchgan import SequencePatchGan
from lipwire.training.nets.perceptual import GaborFeatures, Perceptual
from lipwire.training.nets.syncnet import ColourSyncNet, SmallSyncNet


def untouched(module: nn.Module) -> bool:
    """No gradient has reached its weights."""
    return all(p.grad is None for p in module.parameters())


def reached(tensor: Tensor) -> bool:
    """A gradient that is not zero has reached it."""
    return tensor.grad is not None and float(tensor.grad.abs().max()) > 0


# --- simple and L2 (eq. 3, 5) ---


def test_simple_and_l2_are_mean_squares_by_hand() -> None:
    found = torch.tensor([[[[1.0, 3.0]]]])
    wanted = torch.tensor([[[[0.0, 1.0]]]])
    assert simple_loss(found, wanted).item() == 2.5  # (1 + 4) / 2
    assert l2_loss(found, wanted, torch.tensor([[[[2.0, 0.0]]]])).item() == 1.0  # (2 * 1 + 0) / 2


@pytest.mark.parametrize("loss", [simple_loss, l2_loss])
def test_their_gradient_reaches_the_estimate_alone(loss: object) -> None:
    found, wanted = torch.rand(2, 1, 3, 2, 4).requires_grad_(), torch.rand(2, 1, 3, 2, 4)
    assert callable(loss)
    loss(found[0], wanted[0]).backward()
    assert found.grad is not None
    # d/dx mean (x - y)^2 = 2 (x - y) / n
    torch.testing.assert_close(found.grad[0], 2 * (found[0] - wanted[0]).detach() / 24)
    assert float(found.grad[1].abs().max()) == 0 and wanted.grad is None


# --- sync (eq. 6) ---


def test_agreement_is_cross_entropy_by_hand() -> None:
    said = torch.tensor([0.5, 0.25])
    assert agreement_loss(said, True).item() == pytest.approx(-(log(0.5) + log(0.25)) / 2)
    assert agreement_loss(said, False).item() == pytest.approx(-(log(0.5) + log(0.75)) / 2)


def test_a_sure_expert_makes_nothing_infinite() -> None:
    said = torch.tensor([0.0, 1.0], requires_grad=True)
    both = agreement_loss(said, True) + agreement_loss(said, False)
    both.backward()
    assert torch.isfinite(both) and said.grad is not None and torch.isfinite(said.grad).all()


def test_sync_is_the_experts_opinion_of_the_estimates() -> None:
    """An expert that answers (mean of the mouths + mean of the sound + 2) / 4."""

    class Mean(SmallSyncNet):
        def forward(self, halves: Tensor, mel: Tensor) -> Tensor:
            return (halves.mean((1, 2, 3, 4)) + mel.mean((1, 2)) + 2) / 4

    x0 = torch.full((1, 5, 3, 2, 4), -0.5)
    assert sync_loss(Mean(), x0, torch.full((1, 80, 16), 0.5)).item() == pytest.approx(log(2))


@pytest.mark.parametrize("kind", [SmallSyncNet, ColourSyncNet])
def test_sync_reaches_all_five_estimates_and_not_the_expert(
    kind: type[SmallSyncNet] | type[ColourSyncNet],
) -> None:
    torch.manual_seed(0)
    expert = kind().eval()
    x0 = torch.rand(2, 5, 3, 16, 32).requires_grad_()
    sync_loss(expert, x0, torch.rand(2, 80, 16)).backward()
    assert untouched(expert)
    assert x0.grad is not None
    assert (x0.grad.abs().amax((2, 3, 4)) > 0).all(), "each of the five has its share"


# --- perceptual (eq. 7) ---


def test_perceptual_is_the_mean_of_the_measure() -> None:
    class Brightness(Perceptual):
        def forward(self, found: Tensor, wanted: Tensor) -> Tensor:
            return (found.mean((1, 2, 3)) - wanted.mean((1, 2, 3))) ** 2

    found = torch.stack([torch.full((3, 2, 2), 1.0), torch.full((3, 2, 2), 3.0)])
    assert perceptual_loss(Brightness(), found, torch.zeros(2, 3, 2, 2)).item() == 5.0


def test_perceptual_reaches_the_estimate_and_not_the_target() -> None:
    torch.manual_seed(0)
    found, wanted = torch.rand(1, 3, 32, 32).requires_grad_(), torch.rand(1, 3, 32, 32)
    perceptual_loss(GaborFeatures(), found, wanted).backward()
    assert reached(found) and wanted.grad is None


# --- sequence GAN (eq. 8, 9) ---


def test_gan_losses_by_hand() -> None:
    real, fake = torch.tensor([[2.0, -1.0]]), torch.tensor([[0.5, -3.0]])

    def softplus(x: float) -> float:
        return log1p(exp(x))

    wanted = (softplus(-2.0) + softplus(1.0)) / 2 + (softplus(0.5) + softplus(-3.0)) / 2
    assert critic_loss(real, fake, "log").item() == pytest.approx(wanted)
    # hinge: (max(0, 1 - 2) + max(0, 1 + 1)) / 2 + (max(0, 1.5) + max(0, -2)) / 2
    assert critic_loss(real, fake, "hinge").item() == 1.75

    class Given(nn.Module):
        def forward(self, frames: Tensor) -> Tensor:
            return frames

    assert generator_loss(Given(), fake, "log").item() == pytest.approx(
        (softplus(-0.5) + softplus(3.0)) / 2
    )
    assert generator_loss(Given(), fake, "hinge").item() == 1.25


@pytest.mark.parametrize("form", ["log", "hinge"])
def test_the_denoisers_step_does_not_train_the_critic_nor_the_critics_the_denoiser(
    form: str,
) -> None:
    assert form in ("log", "hinge")
    torch.manual_seed(0)
    critic = SequencePatchGan(width=4, layers=2)
    x0 = torch.rand(1, 5, 3, 32, 32).requires_grad_()
    generator_loss(critic, x0, form).backward()  # type: ignore[arg-type]
    assert reached(x0) and untouched(critic)
    assert all(p.requires_grad for p in critic.parameters()), "it can still be trained"
    x0.grad = None
    real = torch.rand(1, 5, 3, 32, 32)
    critic_loss(critic(real), critic(x0.detach()), form).backward()  # type: ignore[arg-type]
    assert x0.grad is None
    # (Of the last bias the hinge's two halves cancel.)
    assert all(reached(p) for p in list(critic.parameters())[:-1])


def test_r1_is_the_squared_slope_by_hand() -> None:
    """Logits 3 a and 5 b of (a, b): their mean's slope is (1.5, 2.5)."""
    real = torch.tensor([[1.0, 2.0]], requires_grad=True)
    scale = torch.tensor([3.0, 5.0], requires_grad=True)
    penalty = r1_penalty(real * scale, real)
    assert penalty.item() == pytest.approx((1.5**2 + 2.5**2) / 2)
    penalty.backward()
    assert scale.grad is not None and scale.grad.tolist() == pytest.approx([0.75, 1.25])


def test_a_frozen_call_is_the_call() -> None:
    torch.manual_seed(0)
    layer, x = nn.Linear(3, 2), torch.rand(1, 3, requires_grad=True)
    assert torch.equal(frozen_call(layer, x), layer(x))
    frozen_call(layer, x).sum().backward()
    assert reached(x) and untouched(layer)


# --- the lite model's ---


def test_split_v_inverts_the_forward_process() -> None:
    random = torch.Generator().manual_seed(0)
    x0, eps = torch.randn(2, 4, 3, 8, 8, generator=random)
    ab = torch.tensor([0.01, 0.3, 0.7, 0.99])
    a, s = ab.sqrt().view(-1, 1, 1, 1), (1 - ab).sqrt().view(-1, 1, 1, 1)
    found_eps, found_x0 = split_v(a * eps - s * x0, a * x0 + s * eps, ab)
    torch.testing.assert_close(found_eps, eps)
    torch.testing.assert_close(found_x0, x0)


def test_the_papers_weights_make_simple_plus_l2_a_plain_loss_on_v() -> None:
    random = torch.Generator().manual_seed(1)
    x0, eps, v = torch.randn(3, 2, 3, 4, 4, generator=random)
    ab = torch.tensor([0.2, 0.2])
    a, s = ab.sqrt().view(-1, 1, 1, 1), (1 - ab).sqrt().view(-1, 1, 1, 1)
    found_eps, found_x0 = split_v(v, a * x0 + s * eps, ab)
    both = simple_loss(found_eps, eps) + l2_loss(found_x0, x0)
    torch.testing.assert_close(both, ((v - (a * eps - s * x0)) ** 2).mean())


def test_code_loss_is_quadratic_near_and_linear_far() -> None:
    zero = torch.zeros(1, 1)
    assert abs(code_loss(torch.full((1, 1), 0.1), zero).item() - 0.5 * 0.1**2 / 0.5) < 1e-6
    near, far = (code_loss(torch.full((1, 1), x), zero).item() for x in (10.0, 11.0))
    assert abs(far - near - 1.0) < 1e-6


def test_correlation_of_codes() -> None:
    t = torch.tensor([[0.0, 1.0], [1.0, 0.0], [2.0, 3.0]])
    assert torch.allclose(cosine_of_codes(2 * t + 5, t), torch.ones(2))
    assert torch.allclose(cosine_of_codes(-t, t), -torch.ones(2))
