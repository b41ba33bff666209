"""Checkpoints from strangers: nothing in them is run, and what is wrong is named."""

from __future__ import annotations

import json
import os
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from goldens import fill_golden
from safetensors.torch import save_file
from torch import Tensor

from lipwire.engine.errors import BundleError, ConfigError
from lipwire.engine.nets.diff2lip import Diff2LipConfig, Diff2LipUNet
from lipwire.engine.nets.wav2lip import Wav2Lip
from lipwire.export.checkpoint import read_checkpoint
from lipwire.export.diff2lip import infer_config, open_diff2lip
from lipwire.export.wav2lip import load_wav2lip

TINY = Diff2LipConfig(32, 32, 1, (2,), (1, 2), 32)


@pytest.fixture(scope="module")
def state() -> dict[str, Tensor]:
    net = Diff2LipUNet(TINY)
    fill_golden(net)
    return dict(net.state_dict())


def load(path: Path) -> Diff2LipUNet:
    return open_diff2lip(path, image_size=32, head_channels=32)[0]


def refused(path: Path) -> str:
    with pytest.raises(BundleError) as caught:
        load(path)
    message = str(caught.value)
    assert "\n" not in message and path.name in message
    return message


def test_the_published_architecture_is_inferred(shared_dir: Path) -> None:
    for name, flags in (("official", {}), ("tiny", {"image_size": 64, "head_channels": 32})):
        described = json.loads((shared_dir / "goldens" / f"diff2lip_{name}.json").read_text())
        shapes = described["state_dict"]
        tensors = {key: torch.empty(shape, device="meta") for key, shape in shapes.items()}
        config = infer_config(tensors, **flags)
        for field in Diff2LipConfig.__dataclass_fields__:
            found = getattr(config, field)
            assert (list(found) if isinstance(found, tuple) else found) == described[field]


@pytest.mark.parametrize(
    "config",
    [
        TINY,
        Diff2LipConfig(128, 32, 2, (4,), (1, 1, 2), 64),
        Diff2LipConfig(128, 64, 3, (1, 2), (1, 2), 64),
        Diff2LipConfig(128, 32, 1, (), (2,), 64),
    ],
)
def test_other_architectures_are_inferred(config: Diff2LipConfig) -> None:
    with torch.device("meta"):
        tensors = dict(Diff2LipUNet(config).state_dict())
    size, head = config.image_size, config.num_head_channels
    assert infer_config(tensors, image_size=size, head_channels=head) == config


@pytest.mark.parametrize(
    "wrap",
    [
        lambda s: s,
        lambda s: {"state_dict": s, "global_step": 7},
        lambda s: {"ema": {f"module.{k}": v for k, v in s.items()}, "model": {}},
        lambda s: {k: v.half() for k, v in s.items()},
    ],
)
def test_the_usual_wrappings(state: dict[str, Tensor], tmp_path: Path, wrap: Any) -> None:
    torch.save(wrap(state), tmp_path / "c.pt")
    net = load(tmp_path / "c.pt")
    assert net.config == TINY
    for name, values in net.state_dict().items():
        torch.testing.assert_close(values, state[name], rtol=1e-3, atol=1e-3)


def test_safetensors(state: dict[str, Tensor], tmp_path: Path) -> None:
    said = {"net_config": json.dumps({"image_size": 32, "num_head_channels": 32}), "note": "hi"}
    save_file(state, tmp_path / "c.safetensors", said)
    assert read_checkpoint(tmp_path / "c.safetensors").about["note"] == "hi"
    assert open_diff2lip(tmp_path / "c.safetensors")[0].config == TINY
    data = (tmp_path / "c.safetensors").read_bytes()
    for cut in (0, 4, 100, len(data) - 1):
        (tmp_path / "d.safetensors").write_bytes(data[:cut])
        assert "not a safetensors file" in refused(tmp_path / "d.safetensors")


class _Evil:
    def __reduce__(self) -> Any:
        return (os.mkdir, ("evil",))


@pytest.mark.parametrize("protocol", [2, 4])
def test_code_in_a_checkpoint_is_not_run(
    state: dict[str, Tensor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, protocol: int
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({**state, "extra": _Evil()}, "zip.pt", pickle_protocol=2)
    (tmp_path / "plain.pt").write_bytes(pickle.dumps({"a": _Evil()}, protocol=protocol))
    for name in ("zip.pt", "plain.pt"):
        message = refused(tmp_path / name)
        assert "holds code" in message or "not a checkpoint that can be read" in message
    assert "mkdir) besides tensors and is refused" in refused(tmp_path / "zip.pt")
    assert not (tmp_path / "evil").exists()


@pytest.mark.parametrize("share", [0.0, 0.1, 0.9, 0.999])
def test_a_truncated_checkpoint(state: dict[str, Tensor], tmp_path: Path, share: float) -> None:
    path = tmp_path / "c.pt"
    torch.save(state, path)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    assert "not a checkpoint that can be read" in refused(path)


def spoil(state: dict[str, Tensor], path: Path, **changes: Tensor | None) -> Path:
    changed = {k: v for k, v in ({**state, **changes}).items() if v is not None}
    torch.save(changed, path)
    return path


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"out.2.bias": None}, "out.2.bias [6] is missing"),
        ({"out.2.bias": torch.zeros(3)}, "out.2.bias is [3], must be [6]"),
        ({"out.2.bias": torch.full((6,), torch.nan)}, "out.2.bias holds NaN or infinity"),
        ({"out.2.bias": torch.full((6,), -torch.inf)}, "out.2.bias holds NaN or infinity"),
        ({"head.bias": torch.zeros(3)}, "head.bias [3] does not belong to it"),
        ({"time_embed.0.weight": None}, "time_embed.0.weight is missing"),
        ({"time_embed.0.weight": torch.zeros(3)}, "time_embed.0.weight is [3]"),
        ({"time_embed.0.weight": torch.zeros(3, 0)}, "model_channels must be"),
        (
            {"output_blocks.3.0.in_layers.0.weight": None},
            "output_blocks.3.0.in_layers.0.weight [64] is missing",
        ),
    ],
)
def test_what_differs_is_named(
    state: dict[str, Tensor], tmp_path: Path, changes: dict[str, Tensor | None], message: str
) -> None:
    assert message in refused(spoil(state, tmp_path / "c.pt", **changes))


def test_many_differences_are_counted(state: dict[str, Tensor], tmp_path: Path) -> None:
    part = {k: v for k, v in state.items() if not k.startswith("audio_encoder.")}
    torch.save(part, tmp_path / "part.pt")
    missing = len(state) - len(part)
    message = refused(tmp_path / "part.pt")
    assert "audio_encoder.time_embed.0.weight [32, 32] is missing" in message
    assert f"and {missing - 3} more tensors differ" in message


def test_a_head_that_does_not_fit(state: dict[str, Tensor], tmp_path: Path) -> None:
    torch.save(state, tmp_path / "c.pt")
    with pytest.raises(BundleError, match="num_head_channels must divide 64"):
        open_diff2lip(tmp_path / "c.pt", image_size=32, head_channels=48)
    with pytest.raises(ConfigError):
        infer_config(state, image_size=33, head_channels=32)


@pytest.mark.parametrize("values", [[1, 2], torch.zeros(3), {"step": 1}, {}])
def test_other_contents(tmp_path: Path, values: Any) -> None:
    torch.save(values, tmp_path / "c.pt")
    message = refused(tmp_path / "c.pt")
    assert "instead of named tensors" in message or "holds no tensors" in message


def test_another_architectures_checkpoint(state: dict[str, Tensor], tmp_path: Path) -> None:
    torch.save(
        {"state_dict": {f"module.{k}": v for k, v in Wav2Lip().state_dict().items()}},
        tmp_path / "w.pth",
    )
    assert "time_embed.0.weight is missing: not a state dict of Diff2Lip" in refused(
        tmp_path / "w.pth"
    )
    assert isinstance(load_wav2lip(tmp_path / "w.pth"), Wav2Lip)
    torch.save(state, tmp_path / "c.pt")
    with pytest.raises(BundleError, match=r"face_encoder_blocks\.0\.0\..* \[16, 6, 7, 7\] is miss"):
        load_wav2lip(tmp_path / "c.pt")
