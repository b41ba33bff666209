"""From a frame to a crop and back, with fading and losing the face."""

from __future__ import annotations

import numpy as np
import pytest
from fakes import FakeTracker, ScriptedTracker, TalkingTracker, face_mesh, picture

from lipwire.engine.config import EngineConfig
from lipwire.engine.face.alignment import transform
from lipwire.engine.media.planes import paint_image
from lipwire.engine.session.aligned import Aligned, composite
from lipwire.engine.session.face_pipeline import DOUBT_S, GLANCE_FRAMES, FacePipeline
from lipwire.engine.types import U8, Face, JobSpec, Outcome

CONFIG = EngineConfig()
TWO = JobSpec(references=2)


def pipeline(
    tracker: FakeTracker | None = None,
    config: EngineConfig = CONFIG,
    spec: JobSpec = JobSpec(),  # noqa: B008
) -> FacePipeline:
    return FacePipeline(tracker or FakeTracker(), config, spec)


def find(faces: FacePipeline, image: U8, time_s: float = 0.0) -> Aligned:
    found = faces.find(image, time_s)
    assert isinstance(found, Aligned)
    return found


def test_the_face_is_cut_out_upright() -> None:
    image = picture()
    found = find(pipeline(FakeTracker((0.4, 0.6), 0.5)), image)
    assert found.image is image
    assert found.crop.shape == (128, 128, 3)
    assert found.crop.dtype == np.uint8
    chin = transform(found.face.landmarks[[152]], found.alignment.matrix)[0]
    assert abs(chin[0] - 64) < 3
    assert 95 < chin[1] < 122


@pytest.mark.parametrize("shape", [(47, 300), (300, 47), (16, 16), (4097, 60), (60, 4097), (0, 0)])
def test_unsuitable_pictures_are_not_even_tracked(shape: tuple[int, int]) -> None:
    tracker = FakeTracker()
    image = np.zeros((*shape, 3), np.uint8)
    assert pipeline(tracker).find(image, 0.0) is Outcome.UNSUITABLE
    assert tracker.calls == 0


@pytest.mark.parametrize("shape", [(48, 48), (48, 4096)])
def test_the_limits_themselves_are_suitable(shape: tuple[int, int]) -> None:
    config = EngineConfig(min_face_px=8)
    image = np.zeros((*shape, 3), np.uint8)
    assert isinstance(pipeline(config=config).find(image, 0.0), Aligned)


def test_small_and_turned_faces_are_unusable() -> None:
    image = picture(240, 320)
    assert pipeline(FakeTracker(width=0.26)).find(image, 0.0) is Outcome.FACE_UNUSABLE  # 62 px
    assert isinstance(pipeline(FakeTracker(width=0.28)).find(image, 0.0), Aligned)

    class Turned(FakeTracker):
        def track(self, image: U8) -> Face | None:
            landmarks = face_mesh((160, 120), 100)
            landmarks[4] = landmarks[234] + (10, 0)
            return Face(landmarks, 1.0, told=True)

    assert pipeline(Turned()).find(image, 0.0) is Outcome.FACE_UNUSABLE


def test_no_face_is_said() -> None:
    assert pipeline(ScriptedTracker({0})).find(picture(), 0.0) is Outcome.NO_FACE


def test_a_face_that_returns_is_not_smoothed_from_afar() -> None:
    tracker = ScriptedTracker({2})
    faces = pipeline(tracker)
    image = np.full((240, 320, 3), 90, np.uint8)  # he looks the same everywhere
    for index in range(2):
        find(faces, image, index / 25)
    assert faces.find(image, 2 / 25) is Outcome.NO_FACE
    tracker.centre = (0.3, 0.4)
    assert faces.find(image, 3 / 25) is Outcome.NO_FACE  # seen once, which may be a mistake
    back = find(faces, image, 4 / 25)
    fresh = find(pipeline(FakeTracker((0.3, 0.4))), image)
    assert np.array_equal(back.alignment.matrix, fresh.alignment.matrix)


def masked(image: U8, seed: int) -> U8:
    """Other eyes and another nose in the middle of uint8[480, 640, 3]."""
    cells = np.random.default_rng(seed).integers(0, 255, (5, 6, 3), np.uint8)
    shown = image.copy()
    shown[180:260, 260:380] = np.repeat(np.repeat(cells, 16, 0), 20, 1)
    return shown


def look_away(frames: int) -> tuple[FacePipeline, U8, U8, list[Aligned | Outcome]]:
    """Somebody is lost and comes back looking otherwise: who sees it, his picture, his first crop
    and what became of the pictures since."""
    faces = pipeline(ScriptedTracker({3}, width=0.25), spec=TWO)
    him, away = masked(picture(480, 640), 1), masked(picture(480, 640), 2)
    first = [find(faces, him, index / 25) for index in range(3)][0].crop
    assert faces.find(away, 3 / 25) is Outcome.NO_FACE
    return faces, him, first, [faces.find(away, (4 + index) / 25) for index in range(frames)]


def test_who_comes_back_turned_away_keeps_his_references() -> None:
    faces, him, first, said = look_away(4)
    assert said == [Outcome.NO_FACE] * 4
    assert np.array_equal(find(faces, him, 8 / 25).references[0], first)


def test_who_still_looks_otherwise_after_a_while_is_somebody_else() -> None:
    _, _, first, said = look_away(30)
    doubted = [isinstance(found, Outcome) for found in said].index(False)
    assert DOUBT_S * 25 <= doubted <= DOUBT_S * 25 + 3
    last = said[-1]
    assert isinstance(last, Aligned)
    assert not any(np.array_equal(reference, first) for reference in last.references)


def test_a_shaking_face_gives_a_steady_crop() -> None:
    rng = np.random.default_rng(0)

    class Shaking(FakeTracker):
        def track(self, image: U8) -> Face | None:
            shake = rng.normal(0, 0.7, 2)
            return Face(face_mesh((160 + shake[0], 120 + shake[1]), 96), 1.0, told=True)

    faces = pipeline(Shaking())
    image = picture()
    places = [find(faces, image, i / 25).alignment.matrix[:, 2] for i in range(100)]
    raw = [find(pipeline(Shaking()), image).alignment.matrix[:, 2] for _ in range(100)]
    assert np.std(places[30:], axis=0).max() < 0.6 * np.std(raw, axis=0).min()


def test_painting_shows_the_generated_mouth_and_nothing_else() -> None:
    found = find(pipeline(), picture())
    generated = found.crop.copy()
    generated[64:] = (200, 30, 30)
    out = paint_image(found.image, composite(found, generated, 1.0))
    changed = (out != found.image).any(2)
    rows, cols = np.nonzero(changed)
    there = transform(np.stack([cols, rows], 1), found.alignment.matrix)
    assert changed.sum() > 500
    assert there[:, 1].min() >= 63.9
    assert there[:, 0].min() > 0
    assert there[:, 0].max() < 127
    assert not composite(found, generated, 0.0).change.any()


def test_a_box_is_cut_out_as_it_lies_and_averaged_over_five_frames() -> None:
    tracker = FakeTracker((0.5, 0.5), 0.4)
    faces = pipeline(tracker, spec=JobSpec(96, "box"))
    image = picture()
    found = find(faces, image)
    assert found.crop.shape == (96, 96, 3)
    inside = transform(found.face.landmarks, found.alignment.matrix)
    np.testing.assert_allclose(inside.min(0), -0.5 + 0.5 * np.diag(found.alignment.matrix), atol=1)
    np.testing.assert_allclose(inside.max(0), 95.5, atol=1.5)
    assert found.alignment.matrix[0, 1] == found.alignment.matrix[1, 0] == 0  # never turned
    for _ in range(4):
        find(faces, image)
    tracker.centre = (0.6, 0.5)  # a jump of 32 px
    moved = [find(faces, image).alignment.matrix[0, 2] for _ in range(6)]
    steps = np.diff([found.alignment.matrix[0, 2], *moved])
    np.testing.assert_allclose(steps[:5], steps[0], rtol=0.02)  # a fifth of the way each
    assert steps[5] == pytest.approx(0, abs=1e-3)
    faces.lose()
    fresh = find(pipeline(FakeTracker((0.6, 0.5), 0.4), spec=JobSpec(96, "box")), image)
    assert np.array_equal(find(faces, image).alignment.matrix, fresh.alignment.matrix)


def test_a_mouth_painted_in_a_box_goes_back_into_the_lower_half() -> None:
    found = find(pipeline(FakeTracker(), spec=JobSpec(64, "box")), picture())
    generated = found.crop.copy()
    generated[32:] = (200, 30, 30)
    out = paint_image(found.image, composite(found, generated, 1.0))
    rows, cols = np.nonzero((out != found.image).any(2))
    there = transform(np.stack([cols, rows], 1), found.alignment.matrix)
    assert len(rows) > 300
    assert there[:, 1].min() >= 31.4


def test_closing_closes_the_tracker() -> None:
    tracker = FakeTracker()
    pipeline(tracker).close()
    assert tracker.closed


# --- references ---


def test_a_single_reference_is_the_frame_itself() -> None:
    faces = pipeline()
    for index in range(3):
        found = find(faces, picture(seed=index), index / 25)
        assert np.array_equal(found.references, found.crop[None])


def test_references_are_the_most_closed_mouth_and_then_the_widest() -> None:
    tracker = TalkingTracker()
    faces = pipeline(tracker, spec=TWO)
    crops = []
    for index, tracker.opening in enumerate((0.05, 0.0, 0.1, 0.06)):
        found = find(faces, picture(seed=index), index / 25)
        crops.append(found.crop)
    assert found.references.shape == (2, 128, 128, 3)
    assert np.array_equal(found.references[0], crops[1])
    assert np.array_equal(found.references[1], crops[2])


def test_a_face_that_was_lost_leaves_no_references_behind() -> None:
    tracker = TalkingTracker()
    faces = pipeline(tracker, spec=TWO)
    find(faces, picture(seed=0))
    faces.lose()
    tracker.opening = 0.05
    found = find(faces, picture(seed=1), 1 / 25)
    assert np.array_equal(found.references, np.stack([found.crop] * 2))


def test_a_mouth_seen_at_a_glance_is_a_reference_when_the_voice_begins() -> None:
    tracker = TalkingTracker()
    faces = pipeline(tracker, spec=TWO)
    for index in range(2 * GLANCE_FRAMES + 1):  # the first, and then every fifth
        faces.glance(picture(seed=index), index / 25)
    assert tracker.calls == 3
    tracker.opening = 0.1
    found = find(faces, picture(seed=99), 12 / 25)
    shut = find(pipeline(TalkingTracker(), spec=TWO), picture(seed=0)).crop
    assert np.array_equal(found.references, np.stack([shut, found.crop]))


# --- reach ---


def test_the_reach_is_learned_while_looking_and_forgotten_with_the_face() -> None:
    spec = JobSpec(references=2, reach_px=5.0)
    tracker = TalkingTracker()
    faces = pipeline(tracker, spec=spec)
    first = find(faces, picture())
    assert first.reach is not None and first.reach.tolist() == [1.0] * 7
    for index in range(1, 60):
        tracker.opening = (0.0, 0.12, 0.06)[index % 3]
        last = find(faces, picture(), index / 25)
    assert last.reach is not None and last.reach[0] > 1.2
    faces.lose()
    again = find(faces, picture(), 3.0)
    assert again.reach is not None and again.reach.tolist() == [1.0] * 7


def test_a_model_that_takes_no_reach_is_told_none() -> None:
    assert find(pipeline(spec=TWO), picture()).reach is None
