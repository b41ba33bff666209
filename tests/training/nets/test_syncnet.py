from __future__ import annotations

from pathlib import Path

import pytest
import torch
from goldens import fill_golden, load_golden, relative_error

from lipwire.engine.errors import CheckpointError
from lipwire.training.nets.syncnet import ColourSyncNet, SmallSyncNet, stack_halves
from lipwire.training.paper.sync_expert import load_expert


def test_the_published_experts_keys_and_shapes(shared_dir: Path) -> None:
    wanted, _ = load_golden(shared_dir, "wav2lip_syncnet")
    ours = {key: list(value.shape) for key, value in ColourSyncNet().state_dict().items()}
    assert ours == wanted


def test_the_published_experts_numbers(shared_dir: Path) -> None:
    _, golden = load_golden(shared_dir, "wav2lip_syncnet")
    expert = ColourSyncNet()
    fill_golden(expert)
    # Back from fifteen blue-first channels in 0..1 to five RGB frames in ±1.
    stacked = torch.from_numpy(golden["face"].astype("float32"))
    halves = (stacked * 2 - 1).view(-1, 5, 3, 48, 96).flip(2)
    mel = torch.from_numpy(golden["mel"])[:, 0]
    with torch.no_grad():
        assert relative_error(expert.embed_audio(mel), golden["audio_embedding"]) < 1e-4
        assert relative_error(expert.embed_faces(halves), golden["face_embedding"]) < 1e-4
        assert relative_error(expert(halves, mel), golden["cosine"]) < 1e-4


def test_stacking_is_frame_after_frame_blue_first() -> None:
    halves = torch.zeros(1, 5, 3, 48, 96)
    halves[0, 1, 0] = 1.0  # red of the second frame
    stacked = stack_halves(halves, (48, 96))
    assert stacked.shape == (1, 15, 48, 96)
    assert stacked.mean((0, 2, 3)).tolist() == [0.5] * 5 + [1.0] + [0.5] * 9


def test_halves_of_any_size_are_fitted() -> None:
    torch.manual_seed(0)
    for expert in (SmallSyncNet().eval(), ColourSyncNet().eval()):
        expert.requires_grad_(False)
        said = expert(torch.rand(2, 5, 3, 64, 128), torch.rand(2, 80, 16))
        assert said.shape == (2,) and 0 <= float(said.min()) and float(said.max()) <= 1


@pytest.mark.parametrize("wrapped", [False, True])
def test_published_checkpoints_load(tmp_path: Path, wrapped: bool) -> None:
    torch.manual_seed(0)
    expert = ColourSyncNet().eval()
    weights = expert.state_dict()
    if wrapped:  # as saved by a trainer on several devices
        weights = {f"module.{key}": value for key, value in weights.items()}
        torch.save({"state_dict": weights, "optimizer": {}, "global_step": 9}, tmp_path / "e.pth")
    else:
        torch.save(weights, tmp_path / "e.pth")
    loaded = load_expert(tmp_path / "e.pth")
    halves, mel = torch.rand(1, 5, 3, 48, 96), torch.rand(1, 80, 16)
    assert torch.equal(loaded(halves, mel), expert(halves, mel))
    assert not any(p.requires_grad for p in loaded.parameters()) and not loaded.training


def test_another_networks_checkpoint_is_named(tmp_path: Path) -> None:
    torch.save({"state_dict": SmallSyncNet().state_dict()}, tmp_path / "e.pth")
    with pytest.raises(CheckpointError, match=r"face_encoder\.0\.conv_block\.0\.weight is missing"):
        load_expert(tmp_path / "e.pth")
