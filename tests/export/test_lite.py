from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

import export.lite as lite
from engine.bundle import DEFAULT_BUNDLE, open_bundle, update_manifest
from engine.errors import BundleError
from engine.nets.lite import LiteConfig, LiteNet

SMALL = LiteConfig(widths=(8, 16, 24, 32), embed=32, voice_width=32)


def checkpoint(path: Path) -> Path:
    """A run's checkpoint with random weights, so that every path of the graphs is exercised."""
    torch.manual_seed(0)
    net = LiteNet(SMALL)
    for p in net.parameters():
        torch.nn.init.normal_(p, std=0.1)
    torch.save({"ema": net.state_dict(), "net_config": SMALL.to_dict(), "step": 7}, path)
    return path


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a checkpoint `c.pt` and its bundle `b`, version 1.2."""
    folder = tmp_path_factory.mktemp("export")
    lite.export_lite(checkpoint(folder / "c.pt"), folder / "b", version="1.2")
    return folder


def test_export_writes_a_bundle_that_opens_and_matches_torch(exported: Path) -> None:
    manifest = open_bundle(exported / "b").manifest
    assert set(manifest.files) == {"encode.onnx", "denoise.onnx"}
    assert 0 < max(manifest.parity.values()) <= 1e-4
    assert (manifest.version, manifest.training["step"]) == ("1.2", 7)
    assert not list(exported.glob(".export-*")), "nothing is left lying about"


def test_graphs_do_not_name_the_folders_they_were_built_in(exported: Path) -> None:
    here = str(Path(lite.__file__).parent.parent).encode()
    for folder in (exported / "b", DEFAULT_BUNDLE):
        for name in ("encode.onnx", "denoise.onnx"):
            graph = (folder / name).read_bytes()
            assert here not in graph and b"stack_trace" not in graph


def test_parity_sees_a_difference(exported: Path) -> None:
    net = lite.load_checkpoint(exported / "c.pt").net
    with torch.no_grad():
        net.denoiser.paint[-1].bias.add_(0.05)
    errors = lite.parity(net, exported / "b")
    assert errors["denoise.onnx"] > 1e-4 > errors["encode.onnx"]


def test_a_graph_that_differs_fails_the_export(
    exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def copy_graphs(net: LiteNet, folder: Path) -> None:
        for name in ("encode.onnx", "denoise.onnx"):
            shutil.copy(exported / "b" / name, folder)
        with torch.no_grad():
            net.denoiser.paint[-1].bias.add_(0.05)  # torch now says something else than the graph

    monkeypatch.setattr(lite, "export_graphs", copy_graphs)
    with pytest.raises(BundleError, match=r"denoise.onnx differs from torch by .*nothing was"):
        lite.export_lite(exported / "c.pt", tmp_path / "b")
    assert not (tmp_path / "b").exists()


def test_an_older_bundle_is_replaced_and_nothing_else(
    exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def copy_graphs(_: LiteNet, folder: Path) -> None:
        for name in ("encode.onnx", "denoise.onnx"):
            shutil.copy(exported / "b" / name, folder)

    monkeypatch.setattr(lite, "export_graphs", copy_graphs)
    shutil.copytree(exported / "b", tmp_path / "b")
    assert lite.export_lite(exported / "c.pt", tmp_path / "b", version="2").manifest.version == "2"
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "letter.txt").write_text("dear")
    with pytest.raises(BundleError, match="not a bundle"):
        lite.export_lite(exported / "c.pt", tmp_path / "home")
    assert (tmp_path / "home" / "letter.txt").exists()


def test_bad_checkpoints_are_named(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="no such checkpoint"):
        lite.load_checkpoint(tmp_path / "none.pt")
    (tmp_path / "noise.pt").write_bytes(b"noise")
    with pytest.raises(BundleError, match="cannot be read|can be read"):
        lite.load_checkpoint(tmp_path / "noise.pt")
    torch.save({"weights": 1}, tmp_path / "other.pt")
    with pytest.raises(BundleError, match="not a checkpoint of"):
        lite.load_checkpoint(tmp_path / "other.pt")
    state = torch.load(checkpoint(tmp_path / "c.pt"), weights_only=True)
    del state["ema"]["voice.layers.0.weight"]
    torch.save(state, tmp_path / "part.pt")
    with pytest.raises(BundleError, match=r"voice\.layers\.0\.weight"):
        lite.load_checkpoint(tmp_path / "part.pt")


def test_update_manifest_keeps_the_files(exported: Path, tmp_path: Path) -> None:
    shutil.copytree(exported / "b", tmp_path / "b")
    bundle = open_bundle(tmp_path / "b")
    changed = update_manifest(bundle, quality={"r": 0.5})
    assert changed.manifest.quality == {"r": 0.5}
    assert changed.manifest.files == bundle.manifest.files
    assert json.loads((tmp_path / "b" / "manifest.json").read_text())["quality"] == {"r": 0.5}


def test_relative_error() -> None:
    assert lite.relative_error(np.array([3.0, 4.5]), np.array([3.0, 4.0])) == pytest.approx(0.1)
