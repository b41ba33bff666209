from __future__ import annotations

import torch

from training.losses import code_loss, cosine_of_codes, l2_loss, simple_loss, split_v


def test_simple_and_l2_are_mean_squares_by_hand() -> None:
    found = torch.tensor([[[[1.0, 3.0]]]])
    wanted = torch.tensor([[[[0.0, 1.0]]]])
    assert simple_loss(found, wanted).item() == 2.5  # (1 + 4) / 2
    assert l2_loss(found, wanted, torch.tensor([[[[2.0, 0.0]]]])).item() == 1.0  # (2 * 1 + 0) / 2


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
