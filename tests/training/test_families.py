from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from goldens import fill_golden, load_golden, relative_error
from toys import TINY_LITE, TINY_PAPER

from lipwire.engine.errors import CheckpointError
from lipwire.training.checkpoint import save_checkpoint
from lipwire.training.families import (
    Family,
    Given,
    LiteFamily,
    PaperFamily,
    alpha_bars,
    estimates,
    family_named,
    open_network,
    visited_timesteps,
)
from lipwire.training.paper.trajectory import repaint, trajectory

FAMILIES: list[tuple[Family, dict[str, Any]]] = [
    (PaperFamily(), TINY_PAPER),
    (LiteFamily(), TINY_LITE),
]


def test_the_papers_family_samples_what_the_published_code_does(shared_dir: Path) -> None:
    described, golden = load_golden(shared_dir, "diff2lip_tiny")
    family = PaperFamily()
    net = family.build(
        {
            "image_size": 64,
            "model_channels": 32,
            "num_res_blocks": 1,
            "attention_resolutions": (2, 4),
            "channel_mult": (1, 2, 2),
            "num_head_channels": 32,
        }
    )
    fill_golden(net)
    face, noise = torch.from_numpy(golden["face"]), torch.from_numpy(golden["noise"])
    given = Given(
        face[:, :, :32],
        torch.from_numpy(golden["ref"]),
        torch.from_numpy(golden["mel"]),
        noise[:, :, 32:].expand(2, -1, -1, -1),
    )
    assert described
    assert relative_error(repaint(family, net, given, 25), golden["composited"]) < 1e-4


@pytest.mark.parametrize(("family", "config"), FAMILIES)
def test_a_network_is_rebuilt_from_its_checkpoint(
    family: Family, config: dict[str, Any], tmp_path: Path
) -> None:
    torch.manual_seed(0)
    net = family.build(config)
    assert family.size(net) == 32 and family_named(family.name) == family
    state = {"family": family.name, "net_config": family.config(net), "ema": net.state_dict()}
    save_checkpoint(state, tmp_path / "c.pt")
    opened = open_network(tmp_path / "c.pt")
    assert opened.family == family
    for a, b in zip(net.parameters(), opened.net.parameters(), strict=True):
        assert torch.equal(a, b)
    del state["ema"]["audio_encoder_to_style.3.bias" if family.name == "paper" else "voice.gain"]
    save_checkpoint(state, tmp_path / "c.pt")
    with pytest.raises(CheckpointError, match="is missing"):
        open_network(tmp_path / "c.pt")


def test_checkpoints_of_neither_network_are_refused(tmp_path: Path) -> None:
    save_checkpoint({"a": torch.zeros(1)}, tmp_path / "c.pt")
    with pytest.raises(CheckpointError, match="neither"):
        open_network(tmp_path / "c.pt")


def test_a_published_checkpoint_is_the_papers_full_size(tmp_path: Path) -> None:
    """Recognised by its names: a smaller one is told what differs first."""
    net = PaperFamily().build(TINY_PAPER)
    save_checkpoint(net.state_dict(), tmp_path / "c.pt")
    with pytest.raises(CheckpointError, match=r"time_embed\.0\.weight is \[128, 32\] .*\[512, 128"):
        open_network(tmp_path / "c.pt")


def test_estimates_undo_the_noise() -> None:
    random = torch.Generator().manual_seed(0)
    x0, eps = torch.randn(2, 3, 3, 4, 8, generator=random)
    t = torch.tensor([10, 400, 900])
    ab = alpha_bars(t)
    x_t = ab.sqrt() * x0 + (1 - ab).sqrt() * eps
    for out, prediction in ((eps, "epsilon"), (ab.sqrt() * eps - (1 - ab).sqrt() * x0, "v")):
        found_eps, found_x0 = estimates(out, x_t, t, prediction)  # type: ignore[arg-type]
        torch.testing.assert_close(found_eps, eps, rtol=1e-3, atol=1e-3)
        torch.testing.assert_close(found_x0, x0, rtol=1e-3, atol=1e-3)


def test_levels_are_those_that_sampling_visits() -> None:
    levels = visited_timesteps(8)
    values, counts = np.unique(levels, return_counts=True)
    assert values.tolist() == [124, 249, 374, 499, 624, 749, 874, 999]
    assert counts[-1] == 4, "every step count begins at pure noise"
    assert PaperFamily().levels.tolist() == list(range(1000))
    assert LiteFamily().levels.tolist() == levels.tolist()


def test_half_precision_stops_before_the_estimate() -> None:
    torch.manual_seed(0)
    net = PaperFamily().build(TINY_PAPER)
    given = (torch.rand(1, 9, 32, 32), torch.tensor([999]), torch.rand(1, 128))
    with torch.no_grad():
        net.out[2].weight.normal_(std=0.1)
        with torch.autocast("cpu", torch.bfloat16):
            inner = net.input_blocks[0](given[0], given[2])
            out = net(*given)
    assert inner.dtype == torch.bfloat16 and out.dtype == torch.float32
    assert not torch.equal(out, out.bfloat16().float()), "nor was it rounded on the way"


@pytest.mark.parametrize(("family", "config"), FAMILIES)
def test_a_trajectory_starts_at_the_noise_and_keeps_the_visible_half(
    family: Family, config: dict[str, Any]
) -> None:
    torch.manual_seed(0)
    net = family.build(config).eval()
    given = Given(
        torch.rand(2, 3, 16, 32),
        torch.rand(2, 3, 32, 32),
        torch.rand(2, 80, 16),
        torch.randn(1, 3, 16, 32).expand(2, -1, -1, -1),
    )
    moments = trajectory(family, net, given, 4)
    first = 750 if family.spacing == "leading" else 999
    assert [m.t for m in moments][0] == first and len(moments) == 4
    assert torch.equal(moments[0].x_t, given.fill)
    assert all(float(m.x0.abs().max()) <= 1 for m in moments)
    with torch.no_grad():
        assert torch.equal(repaint(family, net, given, 4)[:, :, :16], given.visible)
