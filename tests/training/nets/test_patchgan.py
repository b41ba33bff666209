from __future__ import annotations

import torch

from lipwire.training.nets.patchgan import SequencePatchGan


def patch_px(layers: int, size: int) -> int:
    """Pixels that one logit in the middle depends on, by its gradient."""
    torch.manual_seed(0)
    critic = SequencePatchGan(width=4, layers=layers)
    frames = torch.rand(1, 5, 3, size, size, requires_grad=True)
    logits = critic(frames)
    logits[0, logits.shape[1] // 2 + int(logits.shape[1] ** 0.5) // 2].backward()
    assert frames.grad is not None
    return int((frames.grad.abs().amax((0, 1, 2, 3)) > 0).sum())


def test_a_logit_sees_a_patch() -> None:
    """Isola et al., 2017, appendix 6.1.2: 70 px with three halvings, 34 with two."""
    assert patch_px(3, 256) == 70
    assert patch_px(2, 128) == 34


def test_it_sees_every_frame_and_their_order() -> None:
    torch.manual_seed(0)
    critic = SequencePatchGan(width=8, layers=2)
    frames = torch.rand(1, 5, 3, 64, 64)
    assert critic(frames).shape == (1, 14 * 14)
    assert not torch.allclose(critic(frames), critic(frames.flip(1)))
    for index in range(5):
        changed = frames.clone()
        changed[:, index] += 0.5
        assert not torch.allclose(critic(frames), critic(changed))


def test_samples_do_not_depend_on_each_other() -> None:
    torch.manual_seed(0)
    critic = SequencePatchGan(width=8, layers=2)
    frames = torch.rand(3, 5, 3, 32, 32)
    torch.testing.assert_close(critic(frames)[1:2], critic(frames[1:2]))
