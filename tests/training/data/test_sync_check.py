from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from lipwire.engine.errors import ConfigError
from lipwire.training.data.sync_check import (
    MouthModel,
    Step,
    find_lag,
    find_lags,
    fit_model,
    published_model,
    sound_features,
)


@dataclass(frozen=True)
class Talk:
    codes: np.ndarray
    mel: np.ndarray
    key: str = "a"
    speaker: str = "someone"
    split: str = "train"


def _talk(seed: int, frames: int, lag: int = 0, noise: float = 1.0) -> Talk:
    """Mouths that follow the loudness of two bands under noise; the sound `lag` frames late."""
    rng = np.random.default_rng(seed)
    count = frames + 60
    loud = cv2.GaussianBlur(rng.standard_normal((2, count)), (0, 0), sigmaX=1.2, sigmaY=1e-3)
    loud = (loud / loud.std()).astype(np.float32)
    mel = np.zeros((80, round(count * 3.2)), np.float32)
    at = np.arange(mel.shape[1]) / 3.2
    for band, row in ((8, 0), (30, 1)):
        mel[band : band + 8] = np.interp(at, np.arange(count), loud[row])
    mel += 0.3 * rng.standard_normal(mel.shape)
    begin = round((30 - lag) * 3.2)
    mix = np.random.default_rng(99).standard_normal((2, 7))
    codes = loud[:, 30 : 30 + frames].T @ mix + noise * rng.standard_normal((frames, 7))
    return Talk(codes.astype(np.float32), mel[:, begin : begin + round(frames * 3.2)])


@pytest.fixture(scope="module")
def model() -> MouthModel:
    return fit_model([_talk(seed, 250) for seed in range(20)])


@pytest.mark.parametrize("lag", [-12, -3, 0, 2, 9])
def test_a_known_lag_is_found_with_confidence(model: MouthModel, lag: int) -> None:
    step = find_lag(model, _talk(100 + lag, 120, lag))
    assert step.lag == lag and step.sure and step.off == (abs(lag) > 1)


def test_a_voice_over_is_not_sure(model: MouthModel) -> None:
    verdicts = [
        find_lag(model, replace(_talk(seed, 120), mel=_talk(seed + 500, 120).mel))
        for seed in range(200, 210)
    ]
    assert sum(step.sure for step in verdicts) <= 1


def test_short_clips_are_never_sure(model: MouthModel) -> None:
    assert not find_lag(model, _talk(1, 30, 5)).sure


def test_silence_and_stillness_are_not_sure(model: MouthModel) -> None:
    talk = _talk(1, 100)
    for still in (replace(talk, mel=talk.mel * 0 - 4), replace(talk, codes=talk.codes * 0)):
        step = find_lag(model, still)
        assert np.isfinite(step.confidence) and not step.sure


def test_features_outside_the_sound_are_marked(model: MouthModel) -> None:
    features, heard = sound_features(_talk(1, 50).mel, -10, 70)
    assert features.shape == (70, 260) and heard.sum() == 50
    assert not heard[:10].any() and not heard[-10:].any()


def test_a_second_pass_learns_from_the_clips_themselves(monkeypatch: pytest.MonkeyPatch) -> None:
    # These mouths are unlike any real one, so the published model understands nothing of them.
    clips = [
        replace(_talk(n, 150, 6 if n == 3 else 0), key=str(n), speaker=str(n % 7))
        for n in range(21)
    ]
    monkeypatch.setattr("lipwire.training.data.sync_check.REFIT_FRAMES", 1000)
    sources = [clips[:8], clips[8:9], clips[9:]]
    steps = find_lags(sources, iter)

    def backwards(function: Any, tasks: Any) -> Any:
        return [function(task) for task in reversed(tasks)]

    assert find_lags(sources, iter, backwards) == steps == find_lags([clips], iter)
    assert steps["3"].lag == 6 and steps["3"].off
    assert all(steps[c.key].lag == 0 and steps[c.key].sure for c in clips if c.key != "3")


def test_nothing_to_fit_to() -> None:
    with pytest.raises(ConfigError, match="no clip"):
        fit_model([])


def test_step_is_off_only_when_sure_and_far() -> None:
    step = Step(2, 0.95, 0.3, 100)
    assert step.off and not replace(step, lag=1).off and not replace(step, confidence=0.5).off
    assert not replace(step, frames=40).sure and not replace(step, fit=0.05).sure


def test_the_published_model_recovers_shifts_of_real_clips(shared_dir: Path) -> None:
    """Held-out speakers: their sound moved by known amounts is found where it was moved to."""
    from lipwire.engine.face.articulation import clip_codes
    from lipwire.engine.face.tracker import MeshTracker
    from lipwire.training.data.clip import Rules, prepare_clip
    from lipwire.training.data.layouts import Clip

    names = [
        "OpenTalker__video-retalking__2",
        "tencent-ailab__V-Express__gt",
        "Hangz-nju-cuhk__Talking-Face_PC-AVS__00067",
    ]
    right = 0
    for name in names:
        (path,) = (shared_dir / "corpus" / "video").glob(f"{name}.*")
        tracker = MeshTracker()
        try:
            found = prepare_clip(Clip(str(path), "?", "val", name), Rules(cuts="longest"), tracker)
        finally:
            tracker.close()
        codes, mel = clip_codes(found["landmarks.npy"].astype(np.float32)), found["mel.npy"]
        for lag in (0, 5, 10):
            # The picture's first frames left out: what sounds is late by as many.
            step = find_lag(published_model(), Talk(codes[lag:], mel))
            right += abs(step.lag - lag) <= 2
    assert right >= 7
