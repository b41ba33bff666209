"""Never a mouth on a mask or beside a face: what is no mouth passes through."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import cv2
import numpy as np
import pytest
import skimage
from clips import portrait

from lipwire.benchmarks.rig.scenes import Pose, cover, scene
from lipwire.engine.config import EngineConfig
from lipwire.engine.face.alignment import alignment_from, fit_similarity, transform
from lipwire.engine.face.articulation import raw_codes
from lipwire.engine.face.tracker import MeshTracker
from lipwire.engine.media.planes import paint_image
from lipwire.engine.session.face_pipeline import FacePipeline
from lipwire.engine.types import F32, U8, JobSpec, Outcome
from lipwire.engine.units.reshape import reshape
from lipwire.engine.units.unit import to_small_crop

# Lower face up to the bridge of the nose, as a surgical mask covers it; the same below the nose.
MASK = [234, 93, 132, 58, 172, 136, 150, 149, 176, 148, 152, 377, 400, 378, 379, 365, 397, 288,
        361, 323, 454, 346, 347, 348, 349, 350, 277, 6, 47, 120, 119, 118, 117]  # fmt: skip
BEARD = [93, 132, 58, 172, 136, 150, 149, 176, 148, 152, 377, 400, 378, 379, 365, 397, 288,
         361, 323, 426, 2, 206]  # fmt: skip
LIPS = [61, 146, 91, 181, 84, 17, 314, 405, 321, 375, 291, 409, 270, 269, 267, 0, 37, 39, 40, 185]


def skin(image: U8, points: F32) -> tuple[int, ...]:
    x, y = points[[50, 280]].astype(int).T
    return tuple(int(level) for level in np.median(image[y, x], axis=0))


def masked(colour: tuple[int, int, int] | None, grain: float = 0.0) -> Callable[[U8, F32], U8]:
    """A mask of a colour, or of the skin's, with folds and perhaps a weave."""

    def draw(image: U8, points: F32) -> U8:
        image, tone = image.copy(), colour or skin(image, points)
        cv2.fillPoly(image, [points[MASK].astype(np.int32)], tone, cv2.LINE_AA)
        for share in (0.25, 0.5, 0.75):
            ends = [
                points[a] * (1 - share) + points[b] * share
                for a, b in ((234, 172), (6, 152), (454, 397))
            ]
            cv2.polylines(
                image,
                [np.array(ends, np.int32)],
                False,
                tuple(int(0.8 * level) for level in tone),
                2,
                cv2.LINE_AA,
            )
        if grain:
            cloth = np.zeros(image.shape[:2], np.uint8)
            cv2.fillPoly(cloth, [points[MASK].astype(np.int32)], 1)
            noise = np.random.default_rng(0).normal(0, grain, image.shape)
            image = np.clip(image + noise * cloth[..., None], 0, 255).astype(np.uint8)
        return image

    return draw


def glasses(image: U8, points: F32, fill: int = 3) -> U8:
    image = image.copy()
    for a, b in ((33, 133), (362, 263)):
        middle = (points[a] + points[b]) / 2
        radius = 0.8 * float(np.hypot(*(points[a] - points[b])))
        cv2.circle(image, middle.astype(int).tolist(), int(radius), (20, 20, 20), fill, cv2.LINE_AA)
    cv2.line(
        image,
        points[133].astype(int).tolist(),
        points[362].astype(int).tolist(),
        (20, 20, 20),
        3,
        cv2.LINE_AA,
    )
    return image


def bearded(image: U8, points: F32) -> U8:
    hair = np.zeros(image.shape[:2], np.uint8)
    cv2.fillPoly(hair, [points[BEARD].astype(np.int32)], 1)
    cv2.fillPoly(hair, [points[LIPS].astype(np.int32)], 0)
    strands = np.random.default_rng(0).normal(45, 25, image.shape[:2]).clip(0, 255)[..., None]
    return np.where(hair[..., None], strands * (1.0, 0.85, 0.75), image).astype(np.uint8)


@pytest.fixture
def mesh(built_tracker: MeshTracker) -> MeshTracker:
    """One that has seen nothing yet."""
    built_tracker.forget()
    return built_tracker


@pytest.fixture(scope="module")
def bare() -> list[tuple[U8, F32]]:
    """The portrait, swaying, and where its face is."""
    tracker, found = MeshTracker(still=True), []
    for index in range(14):
        image = scene(
            Pose(180 + 2 * (index % 5), 150, 130, roll_deg=index % 3), (300, 360), seed=index
        )
        face = tracker.track(image)
        assert face is not None
        found.append((image, face.landmarks))
    tracker.close()
    return found


def outcomes(pictures: Iterable[U8], mesh: MeshTracker) -> list[str]:
    """What becomes of each picture, as a session looks at it."""
    pipeline = FacePipeline(mesh, EngineConfig(), JobSpec())
    found = [pipeline.find(image, index / 25) for index, image in enumerate(pictures)]
    return [each.value if isinstance(each, Outcome) else "painted" for each in found]


HIDDEN: dict[str, Callable[[U8, F32], U8]] = {
    "surgical": masked((120, 170, 205)),
    "white": masked((235, 238, 240)),
    "black": masked((25, 25, 28)),
    "red": masked((170, 40, 50)),
    "skin-coloured": masked(None),
    "woven": masked((90, 110, 120), grain=5),
    "hand": lambda image, points: cover(image, points, "hand"),
    "microphone": lambda image, points: cover(image, points, "microphone"),
    "microphone in dim light": lambda image, points: (
        cover(image, points, "microphone") * 0.5
    ).astype(np.uint8),
    "blurred hand": lambda image, points: cv2.GaussianBlur(
        cover(image, points, "hand"), (0, 0), 1.5
    ).astype(np.uint8),
}
BARE: dict[str, Callable[[U8, F32], U8]] = {
    "nothing": lambda image, _: image,
    "glasses": glasses,
    "sunglasses": lambda image, points: glasses(image, points, -1),
    "beard": bearded,
    "dim light": lambda image, _: (image * 0.4).astype(np.uint8),
    "red light": lambda image, _: (image * (1.0, 0.7, 0.7)).astype(np.uint8),
    "black and white": lambda image, _: cv2.cvtColor(
        cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB
    ).astype(np.uint8),
}


@pytest.mark.parametrize("what", sorted(HIDDEN))
def test_a_cover_from_the_first_picture_on_is_never_painted(
    what: str, bare: list[tuple[U8, F32]], mesh: MeshTracker
) -> None:
    assert "painted" not in outcomes((HIDDEN[what](*each) for each in bare[:8]), mesh)


@pytest.mark.parametrize("what", ["surgical", "skin-coloured", "hand"])
def test_a_cover_that_comes_is_passed_through(
    what: str, bare: list[tuple[U8, F32]], mesh: MeshTracker
) -> None:
    pictures = [image for image, _ in bare[:8]] + [HIDDEN[what](*each) for each in bare[8:]]
    found = outcomes(pictures, mesh)
    assert found[1:8] == ["painted"] * 7 and "painted" not in found[11:]


@pytest.mark.parametrize("what", sorted(BARE))
def test_a_bare_mouth_is_painted(what: str, bare: list[tuple[U8, F32]], mesh: MeshTracker) -> None:
    found = outcomes((BARE[what](*each) for each in bare[:8]), mesh)
    assert found.count("painted") >= 7


def test_glasses_that_are_put_on_are_no_cover(
    bare: list[tuple[U8, F32]], mesh: MeshTracker
) -> None:
    pictures = [image for image, _ in bare[:8]] + [glasses(*each) for each in bare[8:]]
    assert "occluded" not in outcomes(pictures, mesh)


@pytest.mark.parametrize("opening", [0.6, 1.0])
def test_the_first_wide_mouth_after_shut_ones_is_no_cover(
    opening: float, mesh: MeshTracker
) -> None:
    shut, wide = portrait(0.0, 320), portrait(opening, 320)
    found = outcomes([*[shut] * 10, *[wide] * 3, *[shut] * 2, wide], mesh)
    assert "occluded" not in found and found.count("painted") >= 14


@pytest.mark.parametrize("turn", [1, 2, 3])
def test_a_lying_or_upside_down_head_has_its_mouth_or_none(
    turn: int, bare: list[tuple[U8, F32]], mesh: MeshTracker
) -> None:
    """What is painted lies on the lips of the picture that was turned."""
    pipeline, painted = FacePipeline(mesh, EngineConfig(), JobSpec()), 0
    for index, (image, points) in enumerate(bare):
        found = pipeline.find(np.ascontiguousarray(np.rot90(image, turn)), index / 25)
        if isinstance(found, Outcome):
            continue
        painted += 1
        x, y = found.face.landmarks[LIPS].mean(0)
        height, width = image.shape[:2]
        back = {1: (width - y, x), 2: (width - x, height - y), 3: (y, height - x)}[turn]
        assert np.hypot(*(np.array(back) - points[LIPS].mean(0))) < 30
    assert turn != 2 or painted >= 12


@pytest.mark.parametrize("side", ["bottom", "left", "right"])
@pytest.mark.parametrize("beyond_px", [-25, -12, 0, 10, 35])
def test_lips_at_the_border_are_painted_where_they_are_or_not_at_all(
    side: str, beyond_px: int, bare: list[tuple[U8, F32]], mesh: MeshTracker
) -> None:
    """The picture ends so far beyond the lips; below zero it ends in them, and at -25 in half."""
    pipeline, painted = FacePipeline(mesh, EngineConfig(), JobSpec()), 0
    for index, (image, points) in enumerate(bare[:8]):
        lips = points[LIPS]
        (x0, _), (x1, y1) = lips.min(0).astype(int), lips.max(0).astype(int)
        begin = max(0, x0 - beyond_px) if side == "left" else 0
        cut = {
            "bottom": image[: y1 + beyond_px],
            "left": image[:, begin:],
            "right": image[:, : x1 + beyond_px],
        }[side]
        found = pipeline.find(np.ascontiguousarray(cut), index / 25)
        if not isinstance(found, Outcome):
            painted += 1
            assert np.abs(found.face.landmarks[LIPS] - (lips - (begin, 0))).mean() < 4
    assert painted >= 7 if beyond_px >= 0 else beyond_px > -25 or not painted


@pytest.mark.parametrize("other_px", [70.0, 100.0])
def test_a_second_person_who_comes_beside_gets_no_mouth_of_the_first(
    other_px: float, mesh: MeshTracker
) -> None:
    """The other comes from the border until both touch, and goes again."""
    pipeline, alone = FacePipeline(mesh, EngineConfig(), JobSpec()), MeshTracker(still=True)
    ways = [*range(620, 320, -30), *range(320, 620, 30)]
    painted = 0
    for index, x in enumerate(ways):
        first = Pose(170 + index % 3, 170, 140.0)
        expected = alone.track(scene(first, (320, 600), seed=index))
        found = pipeline.find(
            scene([first, Pose(float(x), 160, other_px)], (320, 600), seed=index), index / 25
        )
        if not isinstance(found, Outcome):
            painted += 1
            assert expected is not None
            lips, wanted = found.face.landmarks[LIPS], expected.landmarks[LIPS]
            assert np.hypot(*(lips.mean(0) - wanted.mean(0))) < 8
    alone.close()
    assert painted >= len(ways) - 2


@pytest.mark.parametrize("seen", ["at once", "half shut", "on its head"])
def test_no_teeth_are_left_in_silence_where_lips_have_never_met(
    mesh: MeshTracker, seen: str
) -> None:
    """A photograph of a smile, which holds no other mouth."""
    image = np.ascontiguousarray(skimage.data.astronaut())
    face = mesh.track(image)
    assert face is not None
    points = face.landmarks[:, :2].astype(np.float32)
    if seen == "on its head":
        image = np.ascontiguousarray(np.rot90(image, 2))
        points = 511 - points
    place = alignment_from(fit_similarity(points, 128), 128)
    shut = raw_codes(transform(points, to_small_crop(place))[None])[0]
    shut[:2] = 0
    strength = 0.5 if seen == "half shut" else 1.0  # on its way to silence
    shown = paint_image(image, reshape(image, None, place, points, shut, strength))
    mouth = np.zeros(image.shape[:2], np.uint8)
    cv2.fillPoly(mouth, [points[LIPS].astype(np.int32)], 1)

    def teeth(picture: U8) -> int:
        """Pixels within the lips of the photograph that are bright and hardly red."""
        red, green, _ = np.moveaxis(picture.astype(int), 2, 0)
        return int(((red > 150) & (red - green < 30) & (mouth > 0)).sum())

    assert teeth(image) > 100
    assert teeth(shown) < (0.75 if strength < 1 else 0.25) * teeth(image)
    assert (shown[:64] == image[:64]).all()
