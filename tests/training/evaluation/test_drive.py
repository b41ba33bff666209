"""Faces driven by voices for an evaluation: what the model is told, and what it is not."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from fakes import FakeBackend

from lipwire.engine.audio.mel import SILENCE
from lipwire.engine.face.pitch_compensation import stretch
from lipwire.training.data.dataset import ClipData, load_clips
from lipwire.training.evaluation.drive import Measure, lengths_of, reach_elsewhere

FRAMES = 10
QUIET = np.full((FRAMES, 80, 16), SILENCE, np.float32)


@pytest.fixture
def backend() -> FakeBackend:
    return FakeBackend(references=2, reach_px=5.0, mel={"columns": 16})


@pytest.fixture
def measure(backend: FakeBackend) -> Iterator[Measure]:
    measure = Measure(backend)
    yield measure
    measure.close()


@pytest.fixture(scope="module")
def clip(shards: Path) -> ClipData:
    return load_clips(shards, "val")[0]


def test_a_reconstruction_is_told_of_the_first_frame_alone(
    measure: Measure, backend: FakeBackend, clip: ClipData
) -> None:
    measure.reconstruction(clip, QUIET, 2)
    assert len(backend.jobs) == FRAMES
    for job in backend.jobs:
        assert np.array_equal(job.crop, clip.crops[0]), "the other frames hold the answer"
        assert all(np.array_equal(reference, clip.crops[0]) for reference in job.references)
        assert job.reach is None


def test_a_dubbed_clip_is_told_of_the_past_alone(
    measure: Measure, backend: FakeBackend, clip: ClipData
) -> None:
    measure.cross(clip, QUIET, 2)
    jobs, half = list(backend.jobs), FRAMES // 2
    for job, crop, length in zip(jobs, clip.crops, lengths_of(clip), strict=False):
        assert np.array_equal(job.crop, stretch(np.asarray(crop), length)), "as the call sees it"
    crops, landmarks = np.array(clip.crops), np.array(clip.landmarks)
    crops[half:], landmarks[half:] = 255 - crops[half:], landmarks[half:] * 1.01
    backend.batches.clear()
    measure.cross(replace(clip, crops=crops, landmarks=landmarks), QUIET, 2)
    for job, before in zip(backend.jobs[:half], jobs[:half], strict=True):
        assert np.array_equal(job.references, before.references), "the future has changed them"
        assert job.reach is not None and np.array_equal(job.reach, before.reach)


def test_settled_references_are_the_same_for_every_frame(
    measure: Measure, backend: FakeBackend, clip: ClipData
) -> None:
    measure.cross(clip, QUIET, 2, settled=True)
    last = backend.jobs[-1].references
    assert all(np.array_equal(job.references, last) for job in backend.jobs)
    assert any(not np.array_equal(crop, clip.crops[0]) for crop in last), "both are the first frame"


def test_the_reach_is_read_from_other_frames_than_those_it_judges(shards: Path) -> None:
    clip = load_clips(shards, "val")[0]
    frames = 100
    wave = np.abs(np.sin(np.arange(frames) * 1.3)).astype(np.float32)
    codes = np.repeat((wave * np.where(np.arange(frames) < 50, 4, 12))[:, None], 7, axis=1)
    clip = replace(clip, codes=codes)
    told = reach_elsewhere([clip], 0, frames, 6.0)
    assert told.shape == (100, 7)
    assert (told[:50, 0] > 1.2).all(), "the first half is told what the second, wide one shows"
    assert (told[50:, 0] < 0.8).all()
    stranger = replace(clip, speaker="stranger", codes=codes * 9)
    assert np.array_equal(reach_elsewhere([clip, stranger], 0, frames, 6.0), told)
    wider = replace(clip, codes=codes * 3)
    assert (reach_elsewhere([clip, wider], 0, frames, 6.0) > told + 0.1)[:, 0].all()
