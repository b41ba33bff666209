"""The paper's baseline from its published checkpoint's names and shapes to a picture."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from fakes import FakeTracker, video_frame, voiced
from goldens import fill_golden

from lipwire.engine.backends.ort import OrtBackend
from lipwire.engine.config import EngineConfig
from lipwire.engine.model.bundle import Bundle
from lipwire.engine.nets import build_network
from lipwire.engine.nets.graphs import example_inputs
from lipwire.engine.nets.reference import sample
from lipwire.engine.nets.wav2lip import Wav2Lip
from lipwire.engine.runtime.engine import Engine
from lipwire.engine.types import JobSpec, Outcome
from lipwire.export.graph import relative_error


@pytest.fixture(scope="module")
def net() -> Wav2Lip:
    """In its only size, which the published weights fix; filled by the goldens' rule."""
    made = Wav2Lip()
    fill_golden(made)
    return made


@pytest.fixture
def bundle(wav2lip_bundle: Bundle) -> Bundle:
    return wav2lip_bundle


def test_it_paints_in_one_pass_and_says_so(bundle: Bundle) -> None:
    manifest = bundle.manifest
    assert (manifest.kind, manifest.prediction, manifest.steps_offered) == (
        "wav2lip",
        "image",
        (1,),
    )
    assert manifest.job_spec == JobSpec(96, "box", references=1, mel_columns=16)
    assert set(manifest.files) == {"step.onnx", "weights.safetensors", "MODEL_CARD.md"}
    assert set(manifest.parity) == {"step.onnx", "sample, 1 step"}
    assert 0 < max(manifest.parity.values()) <= 1e-4


def test_onnx_runtime_paints_what_the_network_paints(net: Wav2Lip, bundle: Bundle) -> None:
    inputs = example_inputs(net, 2, seed=5)
    arrays = {name: inputs[name].numpy() for name in ("visible", "references", "mel", "noise")}
    backend = OrtBackend(bundle, threads=1)
    found = backend.sample(arrays, 1)
    backend.close()
    wanted = sample(net, inputs, bundle.manifest, 1).numpy()
    assert relative_error(found, wanted) < 1e-4
    assert wanted.std() > 0.05


def test_the_weights_come_back_out_to_the_last_bit(net: Wav2Lip, bundle: Bundle) -> None:
    rebuilt = build_network(bundle).state_dict()
    assert all(torch.equal(values, rebuilt[name]) for name, values in net.state_dict().items())


def test_it_runs_in_a_session(bundle: Bundle) -> None:
    with Engine(OrtBackend(bundle, threads=1), FakeTracker) as engine:
        session = engine.session(EngineConfig(offline=True))
        session.push_speech(voiced(1.0), 16_000, 0.0)
        out = []
        for index in range(5):
            session.push_video(video_frame(index), index / 25)
            engine.work([session], index / 25)
            out.append(session.pop_video(index / 25))
    generated = [frame for frame in out if frame and frame.outcome is Outcome.GENERATED]
    assert len(generated) >= 4
    for frame in generated:
        original = video_frame(frame.index).image
        assert (frame.image != original).any()
        assert np.array_equal(frame.image[:60], original[:60])
