"""The evaluation SyncNet and its front end against the published ones' numbers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from fakes import face_mesh
from goldens import fill_golden, load_golden, relative_error

from lipwire.engine.errors import CheckpointError
from lipwire.training.evaluation.sync import (
    EvaluationSyncNet,
    face_crops,
    load_syncnet,
    mfcc,
    score_film,
    sync_scores,
)


@pytest.fixture(scope="module")
def net() -> EvaluationSyncNet:
    made = EvaluationSyncNet()
    fill_golden(made)
    return made


def test_the_network_is_the_published_one(net: EvaluationSyncNet, shared_dir: Path) -> None:
    described, arrays = load_golden(shared_dir, "syncnet_eval")
    assert {k: list(v.shape) for k, v in net.state_dict().items()} == described["state_dict"]
    with torch.no_grad():
        faces = net.embed_faces(torch.from_numpy(arrays["lip"]).float())
        sounds = net.embed_audio(torch.from_numpy(arrays["mfcc"]))
    assert relative_error(faces, arrays["lip_embedding"]) < 1e-4
    assert relative_error(sounds, arrays["audio_embedding"]) < 1e-4


def test_scores_are_the_published_ones(shared_dir: Path) -> None:
    described, arrays = load_golden(shared_dir, "syncnet_eval")
    track = (arrays[name].astype(np.float32) for name in ("track_lip", "track_audio"))
    found, wanted = sync_scores(*track), described["statistics"]
    assert found.offset == wanted["offset"]
    assert found.confidence == pytest.approx(wanted["confidence"], rel=1e-4)
    assert found.distance == pytest.approx(wanted["min_distance"], rel=1e-4)


def test_sound_that_comes_late_has_to_move_back() -> None:
    track = np.random.default_rng(0).standard_normal((80, 1024)).astype(np.float32)
    scores = sync_scores(track[:60], np.concatenate([track[:4] * 0, track])[:60])
    assert scores.offset == -4
    assert scores.confidence > 30 > scores.distance


# python_speech_features 0.6, mfcc(x, 16000), rows 0 and 7 of the wave below.
PUBLISHED = np.array([
    [20.0949, 2.8126, 0.5246, 34.459, -25.3804, -47.7569, 5.2042, -30.2175, -48.0814, 11.7368,
     -1.7939, -17.6516, 26.8858],
    [20.0968, 5.146, -4.3636, 33.585, -22.3839, -45.916, 5.5325, -29.5379, -45.964, 13.7961,
     -0.7969, -15.7711, 29.336],
])  # fmt: skip


def test_mfcc_is_what_the_network_was_trained_on() -> None:
    n = np.arange(4000)
    wave = (8000 * np.sin(n * 0.13) + 2000 * np.sin(n * 1.1)).astype(np.int16)
    found = mfcc(wave)
    assert found.shape == (24, 13), "25 ms windows every 10 ms, the last one filled up"
    assert np.allclose(found[[0, 7]], PUBLISHED, atol=1e-3)
    assert np.isfinite(mfcc(np.zeros(300, np.int16))).all()


def test_the_crop_is_padded_as_the_pipelines_is() -> None:
    landmarks = face_mesh((120.0, 130.0), 80.0)
    low, high = landmarks.min(0), landmarks.max(0)
    half, (cx, cy) = float((high - low).max()) / 2, (low + high) / 2
    image = np.zeros((240, 240, 3), np.uint8)
    x, y = round(cx), round(cy)
    image[y - 1 : y + 2, x - 1 : x + 2] = 255
    crop = face_crops([image] * 3, [landmarks] * 3)[1]
    assert crop.shape == (224, 224, 3)
    rows, columns = np.nonzero(crop[..., 0] > 128)
    scale = 224 / (2.8 * half)
    assert columns.mean() == pytest.approx(112, abs=scale), "centred from left to right"
    assert rows.mean() == pytest.approx(half * scale, abs=scale), "the padding is all below"


def test_a_film_is_scored_window_by_window(net: EvaluationSyncNet) -> None:
    rng = np.random.default_rng(0)
    crops = [rng.integers(0, 255, (224, 224, 3), np.uint8) for _ in range(9)]
    sound = rng.integers(-9000, 9000, 9 * 640).astype(np.int16)
    found = score_film(net, crops, sound)
    assert np.isfinite([found.confidence, found.distance]).all()
    assert found == pytest.approx(score_film(net, crops, sound, batch=1), rel=1e-4)
    assert np.isnan(score_film(net, crops[:5], sound).confidence)


def test_a_checkpoint_loads_under_its_published_names(
    net: EvaluationSyncNet, tmp_path: Path
) -> None:
    torch.save(net.state_dict(), tmp_path / "syncnet_v2.model")
    loaded = load_syncnet(tmp_path / "syncnet_v2.model")
    assert all(torch.equal(v, loaded.state_dict()[k]) for k, v in net.state_dict().items())
    torch.save({"netfcaud.0.weight": torch.ones(1)}, tmp_path / "other.pt")
    with pytest.raises(CheckpointError, match="is missing"):
        load_syncnet(tmp_path / "other.pt")
    with pytest.raises(CheckpointError, match="no such checkpoint"):
        load_syncnet(tmp_path / "none.pt")
