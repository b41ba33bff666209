from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from lipwire.engine.errors import CheckpointError
from lipwire.training.checkpoint import fit_weights, load_checkpoint, save_checkpoint, weights_of


def test_what_was_saved_is_loaded(tmp_path: Path) -> None:
    save_checkpoint({"step": 3, "net": {"a": torch.ones(2)}}, tmp_path / "c.pt")
    state = load_checkpoint(tmp_path / "c.pt")
    assert state["step"] == 3 and state["net"]["a"].tolist() == [1, 1]
    assert [p.name for p in tmp_path.iterdir()] == ["c.pt"]


def test_a_folder_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="No such file.*none was kept"):
        save_checkpoint({}, tmp_path / "none" / "c.pt")
    with pytest.raises(CheckpointError, match="no such checkpoint"):
        load_checkpoint(tmp_path / "c.pt")


def test_code_in_a_checkpoint_is_not_run(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return print, ("run",)

    torch.save({"net": Evil()}, tmp_path / "c.pt")
    with pytest.raises(CheckpointError, match="not a checkpoint that can be read"):
        load_checkpoint(tmp_path / "c.pt")
    torch.save([1], tmp_path / "c.pt")
    with pytest.raises(CheckpointError, match="a list"):
        load_checkpoint(tmp_path / "c.pt")


def test_weights_are_found_in_their_wrappers() -> None:
    a = torch.ones(1)
    for state in ({"ema": {"a": a}, "net": {}}, {"state_dict": {"module.a": a}}, {"a": a, "n": 1}):
        assert list(weights_of(state)) == ["a"]


def test_the_first_tensor_that_differs_is_named() -> None:
    net = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1))
    good = net.state_dict()
    fit_weights(net, good, "x.pt")
    short = {key: value for key, value in good.items() if key != "0.bias"}
    with pytest.raises(CheckpointError, match=r"x\.pt: 0\.bias is missing"):
        fit_weights(net, short, "x.pt")
    bent = {**good, "0.bias": torch.zeros(4), "1.weight": torch.zeros(9)}
    with pytest.raises(CheckpointError, match=r"0\.bias is \[4\] .* \[3\] in the network"):
        fit_weights(net, bent, "x.pt")
    with pytest.raises(CheckpointError, match=r"2\.weight is not in the network"):
        fit_weights(net, {**good, "2.weight": torch.zeros(1)}, "x.pt")


def test_counters_of_batches_may_be_missing() -> None:
    """PyTorch before 0.4.1 did not write them."""
    net = nn.BatchNorm1d(2)
    old = {k: v + 1 for k, v in net.state_dict().items() if k != "num_batches_tracked"}
    fit_weights(net, old, "x.pt")
    assert net.running_mean is not None and net.running_mean.tolist() == [1, 1]
    fit_weights(net, {f"generator.{k}": v for k, v in old.items()}, "x.pt")
