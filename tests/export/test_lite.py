from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from fakes import FakeTracker, picture

import lipwire.export.lite as lite
import lipwire.export.write as write
from lipwire.engine.backends.eager import EagerBackend
from lipwire.engine.backends.ort import OrtBackend
from lipwire.engine.errors import BackendError, BundleError
from lipwire.engine.model.bundle import DEFAULT_BUNDLE, open_bundle
from lipwire.engine.nets import build_network
from lipwire.engine.nets.graphs import Graph, graphs
from lipwire.engine.nets.lite import LiteConfig, LiteNet, Voice
from lipwire.engine.types import JobSpec, LipJob
from lipwire.export.checkpoint import write_safetensors
from lipwire.export.graph import graph_parity, relative_error
from lipwire.export.model_card import update_manifest
from lipwire.export.precision import to_float16
from lipwire.export.write import Options

SMALL = LiteConfig(size=64, widths=(8, 16, 24, 32), embed=32, voice_width=32, reach_px=5.5)


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
    lite.export_lite(checkpoint(folder / "c.pt"), folder / "b", Options(version="1.2"))
    return folder


def copies(exported: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the exporter take the graphs that are there: writing them takes seconds."""

    def copy(graph: Graph, path: Path) -> None:
        shutil.copy(exported / "b" / path.name, path)

    monkeypatch.setattr(write, "write_graph", copy)


def test_export_writes_a_bundle_that_opens_and_matches_torch(exported: Path) -> None:
    manifest = open_bundle(exported / "b").manifest
    assert set(manifest.files) == {
        "encode.onnx",
        "step.onnx",
        "weights.safetensors",
        "MODEL_CARD.md",
    }
    assert list(manifest.parity) == [
        "encode.onnx",
        "step.onnx",
        "sample, 1 step",
        *(f"sample, {steps} steps" for steps in (2, 4, 8, 25)),
    ]
    assert 0 < max(manifest.parity.values()) <= 1e-4
    assert (manifest.version, manifest.training["step"]) == ("1.2", 7)
    assert (manifest.job_spec, manifest.opset) == (
        JobSpec(64, "stabilised", 2, 24, SMALL.reach_px),
        18,
    )
    assert not list(exported.glob(".export-*")), "nothing is left lying about"


def test_the_network_comes_back_out_of_the_bundle_to_the_last_bit(exported: Path) -> None:
    net = build_network(open_bundle(exported / "b"))
    state = torch.load(exported / "c.pt", weights_only=True)["ema"]
    assert all(torch.equal(values, state[name]) for name, values in net.state_dict().items())
    shared = (exported / "b" / "weights.safetensors").stat().st_size
    assert shared < 0.2 * sum(values.nbytes for values in state.values()), "stored twice"


def test_the_shipped_weights_are_the_checkpoints() -> None:
    bundle = open_bundle()
    weights = Path(lite.__file__).parents[1] / "training" / "weights"
    made, _ = lite.load_lite(weights / "lite-0.6.0.pt", weights / "voice-0.6.1.pt")
    state, net = made.state_dict(), build_network(bundle)
    assert all(torch.equal(values, state[name]) for name, values in net.state_dict().items())
    assert net.config == made.config


def test_a_painter_is_given_a_voice_that_tells_shut_lips() -> None:
    weights = Path(lite.__file__).parents[1] / "training" / "weights"
    plain, _ = lite.load_lite(weights / "lite-0.6.0.pt")
    made, _ = lite.load_lite(weights / "lite-0.6.0.pt", weights / "voice-0.6.1.pt")
    assert made.config.voice_lips and not plain.config.voice_lips
    told = made.state_dict()
    assert any(name.startswith("voice.lips.") for name in told)
    for name, values in plain.state_dict().items():
        assert name.startswith("voice.") or torch.equal(values, told[name]), name


def test_safetensors_out_and_in_again(
    exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = write_safetensors(exported / "b", tmp_path / "w.safetensors")
    net, about = lite.load_lite(out)
    state = torch.load(exported / "c.pt", weights_only=True)["ema"]
    assert all(torch.equal(values, state[name]) for name, values in net.state_dict().items())
    assert about.about["step"] == 7
    copies(exported, monkeypatch)
    again = lite.export_lite(out, tmp_path / "again")
    assert again.manifest.network == open_bundle(exported / "b").manifest.network
    with pytest.raises(BundleError, match="cannot be written"):
        write_safetensors(exported / "b", tmp_path / "no" / "w.safetensors")


def test_graphs_do_not_name_the_folders_they_were_built_in(exported: Path) -> None:
    here = str(Path(lite.__file__).parent.parent).encode()
    for folder in (exported / "b", DEFAULT_BUNDLE):
        for path in folder.glob("*.onnx"):
            graph = path.read_bytes()
            assert here not in graph and b"stack_trace" not in graph


def test_a_graph_that_differs_fails_the_export(
    exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copies(exported, monkeypatch)
    state = torch.load(exported / "c.pt", weights_only=True)
    state["ema"]["denoiser.paint.2.bias"] += 0.05  # torch now says something else than the graph
    torch.save(state, tmp_path / "c.pt")
    with pytest.raises(BundleError, match=r"step.onnx differs from torch by .*nothing was"):
        lite.export_lite(tmp_path / "c.pt", tmp_path / "b")
    assert not (tmp_path / "b").exists()


def test_an_older_bundle_is_replaced_and_nothing_else(
    exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copies(exported, monkeypatch)
    shutil.copytree(exported / "b", tmp_path / "b")
    again = lite.export_lite(exported / "c.pt", tmp_path / "b", Options(version="2"))
    assert again.manifest.version == "2"
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "letter.txt").write_text("dear")
    for place in (tmp_path / "home", tmp_path / "home" / "letter.txt"):
        with pytest.raises(BundleError, match="not a bundle"):
            lite.export_lite(exported / "c.pt", place)
    assert (tmp_path / "home" / "letter.txt").read_text() == "dear"


def test_bad_checkpoints_are_named(exported: Path, tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="no such checkpoint"):
        lite.load_lite(tmp_path / "none.pt")
    torch.save({"weights": torch.zeros(1)}, tmp_path / "other.pt")
    with pytest.raises(BundleError, match="not a checkpoint of `lipwire train`"):
        lite.load_lite(tmp_path / "other.pt")
    state = torch.load(exported / "c.pt", weights_only=True)
    torch.save({**state, "net_config": {"depth": 3}}, tmp_path / "config.pt")
    with pytest.raises(BundleError, match="settings of a lite network are wrong"):
        lite.load_lite(tmp_path / "config.pt")
    del state["ema"]["voice.layers.0.weight"]
    torch.save(state, tmp_path / "part.pt")
    with pytest.raises(BundleError, match=r"voice\.layers\.0\.weight .* is missing"):
        lite.load_lite(tmp_path / "part.pt")


def test_a_painter_speaks_with_another_voice(exported: Path, tmp_path: Path) -> None:
    """It asks for the same mouths, in pixels, whatever units each of the two was trained in."""
    torch.manual_seed(1)
    sizes = replace(SMALL, mel_columns=20, voice_width=16, reach_px=4.0)
    voice, told = Voice(sizes).eval(), torch.rand(2, 7) + 0.5
    state = {"ema": voice.state_dict(), "net_config": sizes.to_dict()}
    torch.save({**state, "code_stats": told}, tmp_path / "voice.pt")
    painter = torch.load(exported / "c.pt", weights_only=True)
    meant = torch.rand(2, 7) + 0.5
    torch.save({**painter, "code_stats": meant}, tmp_path / "painter.pt")

    net, about = lite.load_lite(tmp_path / "painter.pt", tmp_path / "voice.pt")
    assert net.config == sizes and about.about["step"] == 7
    for name, value in painter["ema"].items():
        assert name.startswith("voice.") or torch.equal(net.state_dict()[name], value)
    mel, reach = torch.randn(3, 80, 20), torch.rand(3, 7) + 0.5
    with torch.no_grad():
        wanted = voice(mel, reach) * told[1] + told[0]
        torch.testing.assert_close(net.voice(mel, reach) * meant[1] + meant[0], wanted)

    torch.save(
        {"ema": net.state_dict(), "net_config": sizes.to_dict(), "code_stats": meant},
        tmp_path / "whole.pt",
    )
    again, _ = lite.load_lite(tmp_path / "painter.pt", tmp_path / "whole.pt")
    torch.testing.assert_close(again.state_dict(), net.state_dict())

    with pytest.raises(BundleError, match=r"c\.pt: does not say what its codes mean"):
        lite.load_lite(tmp_path / "painter.pt", exported / "c.pt")
    torch.save({**state, "code_stats": told, "net_config": SMALL.to_dict()}, tmp_path / "odd.pt")
    with pytest.raises(BundleError, match=r"voice\.layers"):
        lite.load_lite(tmp_path / "painter.pt", tmp_path / "odd.pt")


def test_update_manifest_keeps_the_files(exported: Path, tmp_path: Path) -> None:
    shutil.copytree(exported / "b", tmp_path / "b")
    bundle = open_bundle(tmp_path / "b")
    changed = update_manifest(bundle, quality={"r": 0.5})
    assert changed.manifest.quality == {"r": 0.5}
    for name in ("encode.onnx", "step.onnx", "weights.safetensors"):
        assert changed.manifest.files[name] == bundle.manifest.files[name]
    assert json.loads((tmp_path / "b" / "manifest.json").read_text())["quality"] == {"r": 0.5}


def test_relative_error() -> None:
    assert relative_error(np.array([3.0, 4.5]), np.array([3.0, 4.0])) == pytest.approx(0.1)


# --- coarser arithmetic ---


def test_float16_graphs_take_and_give_float32_and_are_close(exported: Path, tmp_path: Path) -> None:
    net = build_network(open_bundle(exported / "b"))
    for graph in graphs(net, batch=2, seed=1):
        path = tmp_path / f"{graph.name}.onnx"
        shutil.copy(exported / "b" / path.name, path)
        to_float16(path)
        assert path.stat().st_size < 0.62 * (exported / "b" / path.name).stat().st_size
        graph.inputs["t"] = torch.full((2,), 997.0)  # which half precision cannot tell from 998
        taken = {k: v for k, v in graph.inputs.items() if k != "t" or graph.name == "step"}
        error = graph_parity(Graph(graph.name, graph.module, taken, graph.outputs), path)
        assert 1e-6 < error < 1e-2


# --- the bundle in the engine ---


def test_a_bundle_of_another_size_paints_in_the_engine_as_torch_does(exported: Path) -> None:
    from fakes import video_frame, voiced

    from lipwire.engine.config import EngineConfig
    from lipwire.engine.runtime.engine import Engine
    from lipwire.engine.types import Outcome

    bundle = open_bundle(exported / "b")
    pictures = []
    for backend in (OrtBackend(bundle, threads=1), EagerBackend(bundle)):
        with Engine(backend, FakeTracker) as engine:
            session = engine.session(EngineConfig(offline=True, steps=4))
            session.push_speech(voiced(1.0), 16_000, 0.0)
            for index in range(6):
                session.push_video(video_frame(index), index / 25)
                engine.work([session], index / 25)
            out = [session.pop_video(index / 25) for index in range(6)]
        assert [frame.outcome for frame in out if frame].count(Outcome.GENERATED) >= 4
        pictures.append([frame.image for frame in out if frame])
    for found, wanted in zip(*pictures, strict=True):
        assert np.abs(found.astype(int) - wanted).max() <= 2


def test_jobs_of_several_sessions_share_a_batch(exported: Path) -> None:
    backend = OrtBackend(open_bundle(exported / "b"), threads=1)
    jobs = [
        LipJob(
            "s",
            i,
            picture(64, 64, i),
            np.stack([picture(64, 64, i + 9 + r) for r in range(2)]),
            np.full((80, SMALL.mel_columns), i - 2.0, np.float32),
            i % 2,
            25,
            0.0,
        )
        for i in range(20)
    ]
    together = backend.generate(jobs)  # more than the largest batch
    for one in (0, 7, 17):
        assert np.abs(together[one].astype(int) - backend.generate([jobs[one]])[0]).max() <= 1
    backend.close()


def test_a_bundle_says_that_it_takes_a_reach_and_paints_by_it(exported: Path) -> None:
    bundle = open_bundle(exported / "b")
    assert bundle.manifest.job_spec.reach_px == SMALL.reach_px
    backends = OrtBackend(bundle, threads=1), EagerBackend(bundle)
    blank = LipJob(
        "s",
        0,
        picture(64, 64, 0),
        np.stack([picture(64, 64, 1)] * 2),
        np.random.default_rng(0).uniform(-4, 4, (80, 24)).astype(np.float32),
        0,
        2,
        0.0,
    )
    jobs = [
        replace(blank, reach=None if reach is None else np.full(7, reach, np.float32))
        for reach in (None, 1.0, 100.0)
    ]  # random weights hardly hear
    found, wanted = (np.stack(backend.generate(jobs)).astype(int) for backend in backends)
    assert np.abs(found - wanted).max() <= 1
    assert np.array_equal(found[0], found[1]), "nothing known is a typical speaker"
    assert (found[2] != found[1]).sum() > 100
    with pytest.raises(BackendError, match=r"reach is \[3\], model .* takes \[7\]"):
        backends[0].generate([replace(blank, reach=np.ones(3, np.float32))])
    for backend in backends:
        backend.close()


def test_a_model_from_before_the_reach_takes_none() -> None:
    settings = SMALL.to_dict()
    del settings["reach_px"]
    config = LiteConfig.from_dict(settings)
    assert config.reach_px == 0
    assert list(graphs(LiteNet(config))[0].inputs) == ["visible", "references", "mel"]
    assert list(graphs(LiteNet(SMALL))[0].inputs) == ["visible", "references", "mel", "reach"]
