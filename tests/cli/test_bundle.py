"""`lipwire export diff2lip` and `lipwire bundle`, on a network of the paper's kind."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fakes import FakeTracker, video_frame, voiced
from goldens import golden_tensor, load_golden, relative_error
from typer.testing import CliRunner

import lipwire.export.diff2lip
from lipwire.cli.main import app
from lipwire.engine.backends.ort import OrtBackend
from lipwire.engine.config import EngineConfig
from lipwire.engine.model.bundle import MANIFEST, open_bundle, sha256
from lipwire.engine.nets.diff2lip import Diff2LipConfig, Diff2LipUNet
from lipwire.engine.runtime.engine import Engine
from lipwire.engine.types import Outcome

SIZE = 64


def call(*arguments: object) -> Any:
    return CliRunner().invoke(app, [str(a) for a in arguments])


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `c.pt`, filled by the goldens' rule, and its bundle `b`."""
    folder = tmp_path_factory.mktemp("diff2lip")
    # The golden's own widths, so that its numbers can be asked for where they are.
    net = Diff2LipUNet(Diff2LipConfig(SIZE, 32, 1, (2, 4), (1, 2, 2), 32))
    state = {
        k: torch.from_numpy(golden_tensor(k, tuple(v.shape))) for k, v in net.state_dict().items()
    }
    torch.save(state, folder / "c.pt")
    offered = lipwire.export.diff2lip.STEPS_OFFERED
    lipwire.export.diff2lip.STEPS_OFFERED = (
        1,
        2,
    )  # every one of them is held against torch, slowly
    try:
        options = "--image-size", SIZE, "--head-channels", 32, "--version", "3"
        result = call("export", "diff2lip", folder / "c.pt", "-o", folder / "b", *options)
    finally:
        lipwire.export.diff2lip.STEPS_OFFERED = offered
    assert result.exit_code == 0, result.output
    assert "parity   sample, 25 steps: relative error" in result.stdout
    return folder


def inputs(folder: Path, **changes: Any) -> Path:
    rng = np.random.default_rng(0)
    pictures = (2, 3, SIZE, SIZE)
    values = {
        "face": rng.uniform(-1, 1, pictures),
        "ref": rng.uniform(-1, 1, pictures),
        "noise": rng.standard_normal((1, 3, SIZE, SIZE)),
        "mel": rng.uniform(-4, 4, (2, 80, 16)),
        **changes,
    }
    path = folder / "in.npz"
    np.savez(path, **{k: v for k, v in values.items() if v is not None})
    return path


def test_the_golden_through_checkpoint_bundle_and_runtime(
    made: Path, tmp_path: Path, shared_dir: Path
) -> None:
    _, golden = load_golden(shared_dir, "diff2lip_tiny")
    source, out = shared_dir / "goldens" / "diff2lip_tiny.npz", tmp_path / "out.npz"
    result = call("bundle", "run", made / "b", source, "-o", out, "--forward", 640)
    assert result.exit_code == 0, result.output
    with np.load(out) as found:
        assert relative_error(found["sample"], golden["ddim_sample"]) < 1e-4
        assert relative_error(found["composited"], golden["composited"]) < 1e-4
        assert relative_error(found["forward_t640"], golden["forward_t640"]) < 1e-4
    assert call("bundle", "run", made / "b", source, "-o", out, "--no-clip").exit_code == 0
    with np.load(out) as found:
        assert relative_error(found["sample"], golden["ddim_sample_unclipped"]) < 1e-4


def test_run_writes_what_it_was_asked_for(made: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.npz"
    source = inputs(tmp_path)
    assert call("bundle", "run", made / "b", source, "-o", out, "--steps", 2).exit_code == 0
    with np.load(out) as found, np.load(source) as given:
        assert set(found.files) == {"sample", "composited"}
        assert np.array_equal(found["composited"][:, :, :32], given["face"][:, :, :32].astype("f4"))
        assert np.array_equal(found["composited"][:, :, 32:], found["sample"][:, :, 32:])
    assert list(tmp_path.glob(".*")) == []
    silent = inputs(tmp_path, noise=None)  # with the bundle's own noise
    assert call("bundle", "run", made / "b", silent, "-o", out, "--steps", 1).exit_code == 0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"face": None}, "'face' is missing"),
        ({"face": np.zeros((2, 3, 32, 32))}, "face is [2, 3, 32, 32], must be [B, 3, 64, 64]"),
        ({"mel": np.zeros((2, 80, 15))}, "mel is [2, 80, 15]"),
        ({"mel": np.full((2, 80, 16), np.nan)}, "mel holds NaN"),
        ({"ref": np.zeros((1, 3, 64, 64))}, "references is [1, 3, 64, 64]"),
        ({"noise": np.zeros((3, 3, 64, 64))}, "noise is [3, 3, 64, 64]"),
        ({"face": np.array(["x"])}, "must be numbers"),
    ],
)
def test_arrays_that_do_not_fit_are_named(
    made: Path, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    source = inputs(tmp_path, **changes)
    result = call("bundle", "run", made / "b", source, "-o", tmp_path / "o.npz", "--steps", 1)
    assert result.exit_code == 2
    assert message in result.output.replace("\n", " ")
    assert not (tmp_path / "o.npz").exists()


def test_files_that_are_no_arrays_and_steps_that_are_not_offered(
    made: Path, tmp_path: Path
) -> None:
    (tmp_path / "noise.npz").write_bytes(b"noise")
    np.savez(tmp_path / "object.npz", face=np.array([object()], dtype=object))
    for name, wrong in (
        ("none.npz", "no such file"),
        ("noise.npz", "not an .npz"),
        ("object.npz", "not an .npz"),
    ):
        result = call("bundle", "run", made / "b", tmp_path / name, "-o", tmp_path / "o.npz")
        assert result.exit_code == 2 and wrong in result.output
    result = call("bundle", "run", made / "b", inputs(tmp_path), "-o", tmp_path / "o", "--steps", 3)
    assert result.exit_code == 2 and "offers [1, 2, 25] steps, not 3" in result.output


def test_inspect_and_verify(made: Path) -> None:
    shown = call("bundle", "inspect", made / "b").stdout
    assert "diff2lip 3 (diff2lip)" in shown and "64 px box" in shown and "step.onnx" in shown
    listed = json.loads(call("bundle", "inspect", made / "b", "--json").stdout)
    assert listed["network"]["num_head_channels"] == 32 and listed["framing"] == "box"
    result = call("bundle", "verify", made / "b")
    assert result.exit_code == 0, result.output
    assert "checksums right" in result.stdout and "runs     ONNX Runtime" in result.stdout
    assert "network can be rebuilt" in result.stdout
    assert "lite" in call("bundle", "inspect").stdout


def test_what_a_runtime_makes_of_a_bundle_is_made_ahead(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tmp_path.chmod(0o700)
    monkeypatch.setenv("LIPWIRE_CACHE", str(tmp_path))
    result = call("bundle", "build", made / "b", "--device", "cpu")
    assert result.exit_code == 0, result.output
    lines = dict(line.split(maxsplit=1) for line in result.stdout.splitlines())
    assert lines["ort"].startswith("ONNX Runtime ") and "batches of 1, 2" in lines["ort"]
    assert lines["kept"] == str(tmp_path) and "openvino" in lines
    assert len(list((tmp_path / "graphs").glob("*.onnx"))) == 2, "and it is there"
    result = call("bundle", "build", made / "b", "--device", "cuda:7")
    assert result.exit_code == 2
    assert "no runtime opens it on cuda:7" in " ".join(result.output.split())
    monkeypatch.setenv("LIPWIRE_CACHE", "")
    assert call("bundle", "build", made / "b").exit_code == 2, "there is nowhere to keep it"


def test_verify_names_what_is_wrong(made: Path, tmp_path: Path) -> None:
    shutil.copytree(made / "b", tmp_path / "b")
    weights = tmp_path / "b" / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-4])
    assert "checksum differs" in call("bundle", "verify", tmp_path / "b").output.replace("\n", " ")
    manifest = open_bundle(made / "b").manifest
    sealed = replace(manifest, files={**manifest.files, weights.name: sha256(weights)})
    (tmp_path / "b" / MANIFEST).write_text(sealed.to_json())
    result = call("bundle", "verify", tmp_path / "b")
    assert result.exit_code == 2
    assert "weights.safetensors: cannot be read" in result.output.replace("\n", " ")


def test_weights_leave_as_safetensors(made: Path, tmp_path: Path) -> None:
    out = tmp_path / "w.safetensors"
    assert call("export", "weights", made / "b", "-o", out).exit_code == 0
    # No flags: the file says what shapes cannot.
    net, _ = lipwire.export.diff2lip.open_diff2lip(out)
    state = torch.load(made / "c.pt", weights_only=True)
    assert all(torch.equal(values, state[name]) for name, values in net.state_dict().items())


def test_the_papers_network_runs_in_a_session_in_its_own_framing(made: Path) -> None:
    with Engine(OrtBackend(open_bundle(made / "b"), threads=1), FakeTracker) as engine:
        session = engine.session(EngineConfig(offline=True, steps=1))
        session.push_speech(voiced(1.0), 16_000, 0.0)
        out = []
        for index in range(5):
            session.push_video(video_frame(index), index / 25)
            engine.work([session], index / 25)
            out.append(session.pop_video(index / 25))
        session.set_steps(2)  # from one bundle, while it runs
        session.push_video(video_frame(5), 0.2)
        engine.work([session], 0.2)
        out.append(session.pop_video(0.2))
    generated = [frame for frame in out if frame and frame.outcome is Outcome.GENERATED]
    assert len(generated) >= 4
    for frame in generated:
        original = video_frame(frame.index).image
        assert (frame.image != original).any()
        assert np.array_equal(frame.image[:60], original[:60])
