"""The paper's network from clips to a call in few steps: train, distil, export, dub, a session."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from clips import portrait, write_clip
from fakes import video_frame, voiced
from files import write_sound
from toys import TINY_PAPER
from typer.testing import CliRunner

from lipwire.cli.main import app
from lipwire.engine.backends import load_backend
from lipwire.engine.backends.feeds import noise_image
from lipwire.engine.config import EngineConfig
from lipwire.engine.model.bundle import open_bundle
from lipwire.engine.runtime.open import open_engine
from lipwire.engine.types import LipJob, Outcome
from lipwire.training.config import LossWeights, Preset, TrainConfig
from lipwire.training.data.batch import FiveFrames
from lipwire.training.data.dataset import StoredClips
from lipwire.training.families import Given, open_network
from lipwire.training.loop import train
from lipwire.training.nets.syncnet import SmallSyncNet
from lipwire.training.paper.suite import Judges, make_trainer
from lipwire.training.paper.trajectory import repaint, to_image

SIZE = 32
TINY = TrainConfig(
    steps=3, batch=2, warmup=1, learning_rate=1e-3, checkpoint_every=3, sample_every=3
)


def call(*arguments: object) -> Any:
    found = CliRunner().invoke(app, [str(a) for a in arguments])
    assert found.exit_code == 0, found.output
    return found


@pytest.fixture(scope="module")
def student(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the student of two steps in `students/steps-2`, and its bundle `b`."""
    pytest.importorskip("onnxscript")
    folder = tmp_path_factory.mktemp("few")
    torch.manual_seed(0)
    torch.save(
        {"net_config": {"kind": "small"}, "ema": SmallSyncNet().state_dict()}, folder / "expert.pt"
    )
    preset = Preset("paper", TINY, LossWeights(), TINY_PAPER)
    train(make_trainer(preset, shards, folder / "run", Judges(folder / "expert.pt")))
    logged = json.loads((folder / "run" / "stats.jsonl").read_text().splitlines()[0])
    assert {"simple", "l2", "sync", "gabor", "gan", "critic"} <= set(logged)
    options = "--stage 2 --steps 2 --batch 1".split()
    taught = folder / "run" / "checkpoint.pt"
    call("train", "distill", taught, shards, folder / "students", *options)
    checkpoint = folder / "students" / "steps-2" / "checkpoint.pt"
    call("export", "diff2lip", checkpoint, "-o", folder / "b", "--version", "2")
    return folder


def test_the_bundle_says_what_the_checkpoint_says(student: Path) -> None:
    manifest = open_bundle(student / "b").manifest
    assert (manifest.prediction, manifest.spacing) == ("v", "trailing")
    assert (manifest.steps_offered, manifest.default_steps) == ((2,), 2)
    assert (manifest.crop_size, manifest.framing, manifest.kind) == (SIZE, "box", "diff2lip")


def test_the_engine_paints_what_training_samples(student: Path, shards: Path) -> None:
    opened = open_network(student / "students" / "steps-2" / "checkpoint.pt")
    clip = StoredClips(shards, "val")[0]
    sample = FiveFrames([clip], SIZE, plain=True).at(clip, 3, 20)
    # The engine's noise covers the whole picture, of which the lower half is sampled.
    noise = torch.from_numpy(noise_image(0, SIZE, SIZE)[None, :, SIZE // 2 :].copy())
    given = Given(
        sample.frames[:1, :, : SIZE // 2], sample.references[None], sample.mels[:1], noise
    )
    wanted = to_image(repaint(opened.family, opened.net, given, 2)[0])
    job = LipJob(
        "",
        0,
        to_image(sample.frames[0]),
        to_image(sample.references)[None],
        sample.mels[0].numpy(),
        0,
        2,
        0.0,
    )
    backend = load_backend(open_bundle(student / "b"), "ort", threads=1)
    (painted,) = backend.generate([job])
    backend.close()
    assert np.abs(painted.astype(int) - wanted).max() <= 1
    assert wanted[SIZE // 2 :].std() > 5, "a picture, not a flat colour"


def test_it_dubs_a_film_and_speaks_in_a_session(student: Path, tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "clip.mp4", frames=20)
    voice = write_sound(tmp_path / "voice.wav", voiced(0.8))
    found = call(
        "dub", clip, voice, "-o", tmp_path / "out.mp4", "--bundle", student / "b", "--json"
    )
    summary = json.loads(found.stdout)
    assert summary["model"] == "diff2lip 2" and summary["steps"] == 2
    assert summary["generated"] >= 10, summary

    with open_engine(student / "b", threads=1) as engine:  # as `serve` opens it
        session = engine.session(EngineConfig(offline=True))
        assert session.steps == 2
        session.push_speech(voiced(1.0), 16_000, 0.0)
        outcomes = []
        for index in range(8):
            session.push_video(video_frame(index, image=portrait(0.3)), index / 25)
            engine.work([session], index / 25)
            outcomes.append(session.pop_video(index / 25))
    assert sum(o is not None and o.outcome is Outcome.GENERATED for o in outcomes) >= 4
