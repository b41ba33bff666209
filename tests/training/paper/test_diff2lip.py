from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import pytest
import torch
from torch import Tensor, nn
from toys import TINY_LITE, TINY_PAPER, five_frames

from lipwire.training.config import LossWeights, TrainConfig
from lipwire.training.data.batch import NoisedClips, Slot, in_fives
from lipwire.training.families import SCHEDULE, Family, Given, LiteFamily, PaperFamily
from lipwire.training.losses import critic_loss
from lipwire.training.nets.patchgan import SequencePatchGan
from lipwire.training.nets.perceptual import GaborFeatures
from lipwire.training.nets.syncnet import SmallSyncNet
from lipwire.training.paper.diff2lip import ClipObjective, Critic, given_of, noised

CONFIG = TrainConfig(batch=2)
NONE = LossWeights(l2=0, sync=0, perceptual=0, gan=0)
FAMILIES: list[tuple[Family, dict[str, Any]]] = [
    (PaperFamily(), TINY_PAPER),
    (LiteFamily(), TINY_LITE),
]


class Perfect(PaperFamily):
    """Answers as if it knew: every noise but for a constant error."""

    error = 0.1

    def condition(self, net: Any, given: Given) -> Any:
        return None

    def denoise(self, net: Any, x_t: Tensor, t: Tensor, condition: Any) -> Tensor:
        return net.answer + self.error


def objective(weights: LossWeights, family: Family, net: nn.Module) -> ClipObjective:
    torch.manual_seed(0)
    return ClipObjective(
        family, net, five_frames(), CONFIG, weights, SmallSyncNet(), GaborFeatures()
    )


def test_one_level_and_one_noise_for_all_five() -> None:
    """Paper, 3.2.1."""
    batch = NoisedClips(five_frames(), 2, 0).draw(0, Slot())
    hidden, noise, t, x_t = noised(batch)
    assert hidden.shape == noise.shape == x_t.shape == (10, 3, 16, 32)
    assert t.tolist() == [int(batch.t[0])] * 5 + [int(batch.t[1])] * 5
    assert torch.equal(noise[0], noise[4]) and not torch.equal(noise[4], noise[5])
    level = SCHEDULE.alpha_bar(int(batch.t[1]))
    torch.testing.assert_close(x_t[7], level**0.5 * hidden[7] + (1 - level) ** 0.5 * noise[7])
    given = given_of(batch)
    assert torch.equal(given.references[0], given.references[4])
    frames = in_fives(torch.cat([given.visible, hidden], dim=2))
    assert torch.equal(frames, batch.clip.frames), "halves make the frame again"


def test_simple_and_l2_of_a_known_error_by_hand() -> None:
    """An error e in eps is s / a e in x0 (eq. 2)."""
    net = nn.Linear(1, 1)
    found = objective(LossWeights(sync=0, perceptual=0, gan=0), Perfect(), net)
    batch = found.source.draw(0, Slot())
    net.answer = noised(batch)[1]  # type: ignore[assignment]
    priced = found(batch)
    levels = [SCHEDULE.alpha_bar(int(t)) for t in batch.t]
    l2 = sum(0.1**2 * (1 - a) / a for a in levels) / 2
    assert float(priced.parts["simple"]) == pytest.approx(0.01, rel=1e-3)
    assert float(priced.parts["l2"]) == pytest.approx(l2, rel=1e-2)
    assert float(priced.total) == pytest.approx(0.01 + l2, rel=1e-2)


def test_the_total_is_the_weighted_sum() -> None:
    weights = LossWeights(l2=2.0, sync=0.3, perceptual=0.7, gan=0.9)
    family = PaperFamily()
    found = objective(weights, family, family.build(TINY_PAPER))
    priced = found(found.source.draw(0, Slot()))
    p = {name: float(value.detach()) for name, value in priced.parts.items()}
    wanted = p["simple"] + 2 * p["l2"] + 0.3 * p["sync"] + 0.7 * p["gabor"] + 0.9 * p["gan"]
    assert p["total"] == float(priced.total.detach()) == pytest.approx(wanted)


def test_a_loss_without_weight_is_not_computed() -> None:
    family = PaperFamily()
    found = objective(NONE, family, family.build(TINY_PAPER))
    priced = found(found.source.draw(0, Slot()))
    assert set(priced.parts) == {"total", "simple"}
    assert found.critic is None and priced.fake is None


@pytest.mark.parametrize(("family", "config"), FAMILIES)
def test_gradients_reach_the_whole_network_and_none_of_its_judges(
    family: Family, config: dict[str, Any]
) -> None:
    torch.manual_seed(1)
    net = family.build(config)
    with torch.no_grad():
        for value in net.parameters():  # zero layers stop gradients
            value.add_(0.02 * torch.randn_like(value))
    found = objective(LossWeights(), family, net)
    found.train()
    assert found.expert is not None and not found.expert.training and found.net.training
    priced = found(found.source.draw(0, Slot()))
    priced.total.backward()
    assert all(p.grad is not None and bool(torch.isfinite(p.grad).all()) for p in net.parameters())
    audio = net.audio_encoder if isinstance(family, PaperFamily) else net.voice
    assert any(float(p.grad.abs().max()) > 0 for p in audio.parameters())
    assert all(p.grad is None for p in found.expert.parameters())
    assert found.critic is not None
    assert all(p.grad is None for p in found.critic.parameters())
    # And the critic's step trains nobody else.
    before = [p.grad.clone() for p in net.parameters()]
    assert priced.fake is not None and priced.real is not None
    found.critic(priced.fake, priced.real).total.backward()
    assert all(torch.equal(a, p.grad) for a, p in zip(before, net.parameters(), strict=True))
    assert any(p.grad is not None for p in found.critic.parameters())


def test_the_critic_is_no_part_of_what_the_denoisers_optimiser_gets() -> None:
    family = PaperFamily()
    found = objective(LossWeights(), family, family.build(TINY_PAPER))
    trained = {id(p) for p in found.parameters() if p.requires_grad}
    assert trained == {id(p) for p in found.net.parameters()}


def test_r1_is_added_with_its_weight() -> None:
    torch.manual_seed(0)
    net = SequencePatchGan(width=4, layers=2)
    fake, real = torch.rand(2, 2, 5, 3, 32, 32)
    plain, damped = Critic(net, "log", 0.0)(fake, real), Critic(net, "log", 10.0)(fake, real)
    torch.testing.assert_close(plain.total, critic_loss(net(real), net(fake), "log"))
    torch.testing.assert_close(damped.total, plain.total + 10 * damped.parts["r1"])
    assert float(damped.parts["r1"].detach()) > 0
    damped.total.backward()


@pytest.mark.parametrize(("family", "config"), FAMILIES)
def test_a_sheet_shows_x_t_above_x0(family: Family, config: dict[str, Any], tmp_path: Path) -> None:
    found = objective(NONE, family, family.build(config))
    found.report(found.net.eval(), tmp_path, 5)
    sheet = cv2.imread(str(tmp_path / "samples-000005.png")).astype(float)
    assert sheet.shape == (2 * 4 * 32, 9 * 32, 3)
    hidden = sheet[16:32, 32:64]
    assert hidden.std() > 50, "the first x_t is noise"
    assert sheet[:16, -32:].std() < 5, "the visible half is not"
    assert sheet[32:64, :32].std() != sheet[:32, :32].std(), "the real frame below the reference"
