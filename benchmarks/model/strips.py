"""`lipwire bench strips`: hard cases before and after, as strips of pictures.

The people are GRID speakers (Cooke et al., 2006, CC BY 4.0) where a corpus has them, and the
portrait that scikit-image carries where not. What makes a case hard is drawn over them, tied to
their landmarks; the case then goes through a live session in virtual time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from lipwire.benchmarks.rig.fixture import FPS, Take, clip, play, portrait, voice
from lipwire.engine import EngineConfig
from lipwire.engine.errors import ConfigError
from lipwire.engine.face.alignment import face_width_px
from lipwire.engine.face.litert import FaceMesh
from lipwire.engine.face.tracker import MeshTracker, TrackerPool
from lipwire.engine.types import F32, U8

FRAMES = 72
COLUMNS = 6
TILE_PX = 210
GRID = "rizkiarm__LipNet__"
FACES = {"plain": "sbia1a", "bearded": "swiz3n", "other": "lwbsza"}  # GRID's names of utterances
EYES = ((33, 133), (362, 263))
# Cheeks below the mouth's corners, chin, upper lip: triangles of landmarks that carry a beard.
BEARD = (
    (172, 136, 57), (136, 150, 57), (150, 149, 43), (149, 176, 106), (176, 148, 182),
    (148, 152, 83), (152, 377, 313), (377, 400, 406), (400, 378, 335), (378, 379, 273),
    (379, 365, 287),
    (365, 397, 287), (57, 150, 43), (43, 149, 106), (106, 176, 182), (182, 148, 83), (83, 152, 18),
    (18, 152, 313), (313, 377, 406), (406, 400, 335), (335, 378, 273), (273, 379, 287),
    (165, 92, 57), (92, 165, 167), (167, 164, 0), (164, 393, 0), (393, 391, 267), (391, 322, 287),
    (58, 172, 57), (288, 397, 287),
)  # fmt: skip


def _over(image: U8, colour: Any, cover: F32) -> U8:
    """Paint `colour` where `cover`, f32[H, W] in 0 to 1."""
    mixed = image + cover[..., None] * (np.asarray(colour, np.float32) - image)
    return np.asarray(np.clip(np.rint(mixed), 0, 255), np.uint8)


def _shape(image: U8, draw: Callable[[Any], None], soft_px: float) -> F32:
    """A soft mask of what `draw` draws with 1."""
    mask = np.zeros(image.shape[:2], np.float32)
    draw(mask)
    return np.asarray(cv2.GaussianBlur(mask, (0, 0), max(soft_px, 0.3)), np.float32)


def _point(place: Any) -> tuple[int, int]:
    return int(round(float(place[0]) * 16)), int(round(float(place[1]) * 16))


def _line(mask: Any, a: Any, b: Any, thick: int, level: float = 1.0) -> None:
    cv2.line(mask, _point(a), _point(b), (level,), thick, cv2.LINE_AA, 4)


def beard(image: U8, points: F32, index: int) -> U8:
    """Short dark hairs that move with the skin they grow on."""
    rng, wide = np.random.default_rng(0), face_width_px(points)
    mask = np.zeros(image.shape[:2], np.float32)
    for corners in BEARD:
        for a, b in rng.uniform(0, 1, (70, 2)):
            a, b = (a, b) if a + b < 1 else (1 - a, 1 - b)
            p, q, r = points[list(corners)]
            root = p + a * (q - p) + b * (r - p)
            tip = root + rng.normal((0, 0.035), 0.012) * wide
            _line(mask, root, tip, 1, float(rng.uniform(0.3, 0.75)))
    return _over(image, (46, 34, 26), np.clip(cv2.GaussianBlur(mask, (0, 0), 0.7) * 1.2, 0, 0.85))


def glasses(image: U8, points: F32, index: int) -> U8:
    """Dark frames, and the soft shadow that they throw on the cheeks."""
    wide = face_width_px(points)
    across = points[263] - points[33]
    down = np.array([-across[1], across[0]]) / np.hypot(*across)
    middles = [points[list(eye)].mean(0) + 0.025 * wide * down for eye in EYES]
    size = (0.15 * wide, 0.115 * wide)
    thick = max(2, round(0.022 * wide))

    rows, columns = np.mgrid[0 : image.shape[0], 0 : image.shape[1]].astype(np.float32)

    def frames(mask: Any) -> None:
        step = across / np.hypot(*across)
        left, right = middles[0] + step * size[0], middles[1] - step * size[0]
        _line(mask, left, right, thick)
        for middle, sign, ear in ((middles[0], -1, 127), (middles[1], 1, 356)):
            edge = middle + sign * step * size[0]
            _line(mask, edge, points[ear], thick)

    rims = _shape(image, frames, 0.5)
    turn = np.array([across, (-across[1], across[0])]) / np.hypot(*across)
    for middle in middles:
        x, y = columns - middle[0], rows - middle[1]
        far = np.hypot(
            (turn[0, 0] * x + turn[0, 1] * y) / size[0], (turn[1, 0] * x + turn[1, 1] * y) / size[1]
        )
        away_px = np.abs(far - 1) * size[1]
        rims = np.maximum(rims, np.clip(thick / 2 + 0.5 - away_px, 0, 1).astype(np.float32))
    low = np.array([[1, 0, 0.02 * wide], [0, 1, 0.12 * wide]], np.float32)
    shadow = cv2.GaussianBlur(cv2.warpAffine(rims, low, rims.shape[::-1]), (0, 0), 0.03 * wide)
    return _over(_over(image, image * 0.45, np.clip(shadow * 1.2, 0, 1)), (28, 24, 26), rims)


def microphone(image: U8, points: F32, index: int) -> U8:
    """A microphone held before the chin, its head below the lower lip."""
    return _microphone(image, points, points[152] + np.array([0.16, -0.04]) * face_width_px(points))


def singer(image: U8, points: F32, index: int) -> U8:
    """A microphone that is raised before the lips, and lowered."""
    wide, mouth = face_width_px(points), points[[13, 14]].mean(0)
    return _microphone(image, points, mouth + np.array([0.02, (1 - _raised(index)) * 0.9]) * wide)


def _raised(index: int) -> float:
    """-1 far below, 1 before the mouth: something comes up, stays, and goes."""
    return float(np.clip(np.sin(np.pi * (index / FRAMES * 1.6 - 0.6)) * 2.2, -1, 1))


def _microphone(image: U8, points: F32, head: Any) -> U8:
    wide = face_width_px(points)
    foot = head + np.array([0.35, 1.3]) * wide
    radius = 0.13 * wide
    disc, thick = round(radius * 16), round(1.1 * radius)
    body = _shape(image, lambda m: _line(m, head, foot, thick), 0.6)
    ball = _shape(
        image, lambda m: cv2.circle(m, _point(head), disc, (1.0,), -1, cv2.LINE_AA, 4), 0.6
    )
    rows, columns = np.mgrid[0 : image.shape[0], 0 : image.shape[1]].astype(np.float32)
    away_px = np.hypot(columns - head[0] + radius / 3, rows - head[1] + radius / 3)
    lit = np.clip(1.2 - away_px / (1.3 * radius), 0.15, 1)
    mesh = 0.75 + 0.25 * np.sin(columns * 1.9) * np.sin(rows * 1.9)
    grey = (60 + 130 * lit * mesh)[..., None] * np.array([1, 1, 1.03])
    return _over(_over(image, (34, 34, 38), body), grey, ball)


def hand(image: U8, points: F32, index: int) -> U8:
    """Four fingers that come up before the mouth, stay, and go."""
    wide = face_width_px(points)
    mouth = points[[13, 14]].mean(0) + np.array([0, (1 - _raised(index)) * 1.1]) * wide
    cheek = image[tuple(np.clip(points[50].astype(int)[::-1], 0, np.array(image.shape[:2]) - 1))]
    out = image

    def limb(out: U8, a: Any, b: Any, thick: float) -> U8:
        cover = _shape(image, lambda m: _line(m, a, b, round(thick)), 0.8)
        depth = cv2.GaussianBlur(cover, (0, 0), 0.25 * thick)[..., None]
        return _over(out, cheek * (0.5 + 0.55 * depth), cover)

    wrist = mouth + np.array([0.75, 0.75]) * wide
    out = limb(out, wrist, mouth + np.array([0.42, 0.22]) * wide, 0.42 * wide)
    for number, length in enumerate((0.5, 0.62, 0.6, 0.46)):
        knuckle = mouth + np.array([0.36 - 0.03 * number, 0.1 * number - 0.02]) * wide
        out = limb(out, knuckle, knuckle - np.array([length, 0.1]) * wide, 0.115 * wide)
    return out


def _spread(values: F32, weight: F32, sigma_px: float) -> F32:
    """Scattered values laid out over a picture, the nearer the more (normalised convolution)."""
    found, known = np.zeros_like(values), np.zeros_like(values)
    for wider in (16, 8, 4, 2, 1):
        near, there = (cv2.GaussianBlur(p, (0, 0), wider * sigma_px) for p in (values, weight))
        share = np.clip(there * wider**2 * sigma_px**2 * 20, 0, 1)
        found += share * (near / np.maximum(there, 1e-9) - found)
        known = np.maximum(known, share)
    return np.asarray(found * known, np.float32)


def profile(image: U8, points: F32, index: int) -> U8:
    """The head turns away by up to 65 degrees and back: every pixel at the depth of its face.

    It has no back: nobody has seen that.
    """
    yaw = np.radians(65) * np.sin(np.pi * index / FRAMES) ** 2
    if yaw == 0:
        return image
    high, wide_px = image.shape[:2]
    # It finds a face for certain where it fills the picture.
    side = round(1.1 * face_width_px(points))
    x0, y0 = (max(round(float(at)) - side, 0) for at in points[5])
    part = np.ascontiguousarray(image[y0 : y0 + 2 * side, x0 : x0 + 2 * side])
    mesh = FaceMesh(0.5, still=True).process(part)
    if mesh is None:
        raise ConfigError(f"no face in picture {index} that should turn")
    mesh += np.array([x0, y0, 0], np.float32)
    wide, fine = face_width_px(points), 3
    middle, behind = float(mesh[[234, 454], 0].mean()), float(mesh[[234, 454], 2].mean())
    chin, brow, radius = float(mesh[152, 1]), float(mesh[10, 1]), 0.68 * wide
    rows, columns = np.mgrid[0:high, 0 : wide_px * fine].astype(np.float32)
    columns = (columns + 0.5) / fine - 0.5
    # How far before the ears each pixel lies: the face as its mesh has it, hair in a round.
    values, weight = np.zeros((2, high, wide_px), np.float32)
    at = np.clip(np.rint(mesh[:, :2]).astype(int), 0, (wide_px - 1, high - 1))
    np.add.at(values, (at[:, 1], at[:, 0]), behind - mesh[:, 2])
    np.add.at(weight, (at[:, 1], at[:, 0]), 1)
    depth = np.asarray(
        cv2.resize(_spread(values, weight, 0.045 * wide), columns.shape[::-1]), np.float32
    )
    aside = columns - middle
    depth *= np.clip((radius - np.abs(aside)) / (0.25 * radius), 0, 1)
    depth *= np.sqrt(np.clip(1 - (np.clip(brow - rows, 0, None) / (0.8 * wide)) ** 2, 0, 1))
    depth *= np.clip((chin + 0.25 * wide - rows) / (0.3 * wide), 0, 1)
    turn = yaw * np.clip((chin + 0.4 * wide - rows) / (0.35 * wide), 0, 1)  # a neck turns less
    head = (np.abs(aside) < radius) & (turn > 0)
    # The room behind the head.
    out = image.astype(np.float32)
    left, right = max(int(middle - 1.15 * radius), 0), min(int(middle + 1.15 * radius), wide_px - 1)
    bare = head[:, fine // 2 :: fine].any(1)
    share = np.linspace(0, 1, right - left)[None, :, None]
    room = (1 - share) * out[bare, left : left + 1] + share * out[bare, right : right + 1]
    out[bare, left:right] = cv2.GaussianBlur(room.astype(np.float32), (0, 0), 4)
    # The head, far pixels first, so that near ones hide them.
    there = aside * np.cos(turn) + depth * np.sin(turn) + middle
    near = (depth * np.cos(turn) - aside * np.sin(turn))[head]
    order = np.argsort(near)
    y = rows[head].astype(int)[order]
    x = np.clip(np.rint(there[head]).astype(int)[order], 0, wide_px - 1)
    colours = np.repeat(image, fine, 1)[head][order]
    turned = np.asarray(np.clip(np.rint(out), 0, 255), np.uint8)
    turned[y, x] = colours
    drawn = np.zeros((high, wide_px), np.uint8)
    drawn[y, x] = 1
    holes = cv2.morphologyEx(drawn, cv2.MORPH_CLOSE, np.ones((1, 5), np.uint8)) - drawn
    return np.asarray(cv2.inpaint(turned, holes, 2, cv2.INPAINT_TELEA), np.uint8)


def dark(image: U8, points: F32, index: int) -> U8:
    """A room with next to no light: a sixth of it, and a sensor's grain."""
    rng = np.random.default_rng(index)
    dim = image * 0.17 + 7 + rng.normal(0, 3.0, image.shape)
    return np.asarray(np.clip(np.rint(dim), 0, 255), np.uint8)


def plain(image: U8, points: F32, index: int) -> U8:
    return image


Draw = Callable[[U8, F32, int], U8]
CASES: dict[str, tuple[str, Draw]] = {
    "beard": ("plain", beard),
    "moustache": ("bearded", plain),
    "glasses": ("plain", glasses),
    "microphone": ("bearded", microphone),
    "singer": ("bearded", singer),
    "profile": ("plain", profile),
    "hand": ("plain", hand),
    "dark": ("plain", dark),
    "two": ("plain", plain),
}


def person(name: str, corpus: Path | None) -> list[U8]:
    """FRAMES pictures of one of `FACES`, or of the portrait where no corpus has him."""
    path = None if corpus is None else corpus / "video" / f"{GRID}{FACES[name]}.mpg"
    if path is not None and path.is_file():
        return clip(path, FRAMES)
    return portrait(FRAMES, sway_px=4, grain=1.5)


def case(name: str, corpus: Path | None) -> list[U8]:
    """The pictures of a case before anything is painted."""
    face, draw = CASES[name]
    images = person(face, corpus)
    if name == "two":
        others = person("other", corpus)
        pairs = zip(images, others, strict=True)
        return [np.hstack([one[:, 40:-40], other[:, 40:-40]]) for one, other in pairs]
    if draw is plain:
        return images
    out = []
    with closing(MeshTracker()) as tracker:
        for index, image in enumerate(images):
            face_there = tracker.track(image)
            if face_there is None:
                raise ConfigError(f"no face in picture {index} of {name}")
            out.append(draw(image, face_there.landmarks, index))
    return out


def strip(take: Take, picks: Sequence[int]) -> U8:
    """Input above, output below, what became of each picture under it; uint8[H, W, 3]."""
    shown = {out.index: out for out in take.shown}
    faces = [mouth.aligned.face.landmarks for mouth in take.painted]
    height, width = take.images[0].shape[:2]
    box = (0, 0, width, height)
    if faces and width < 2 * height - 200:  # a single person: come nearer
        middle, wide = np.median(faces, 0).mean(0), 0.95 * face_width_px(np.median(faces, 0))
        far = np.minimum(middle + wide, (width, height)).astype(int)
        box = (*np.maximum(middle - wide, 0).astype(int), *far)
    columns = []
    for index in picks:
        if index not in shown:
            continue
        out = shown[index]
        tiles = []
        for image in (take.images[index], out.image):
            part = image[box[1] : box[3], box[0] : box[2]]
            high = round(TILE_PX * part.shape[0] / part.shape[1])
            tiles.append(cv2.resize(part, (TILE_PX, high), interpolation=cv2.INTER_CUBIC))
        label = np.full((20, TILE_PX, 3), 255, np.uint8)
        font, grey = cv2.FONT_HERSHEY_SIMPLEX, (40, 40, 40)
        cv2.putText(label, out.outcome.value, (4, 14), font, 0.42, grey, 1, cv2.LINE_AA)
        column, sides = np.vstack([*tiles, label]), ((0, 0), (1, 1), (0, 0))
        columns.append(np.pad(column, sides, constant_values=255))
    return np.hstack(columns)


def run(
    out: Path,
    *,
    only: Sequence[str] | None = None,
    corpus: Path | None = None,
    bundle: Path | None = None,
    progress: Callable[[str], None] = lambda text: None,
) -> list[Path]:
    """Write a JPEG for each case; returns their paths."""
    from lipwire.engine import open_engine

    unknown = [name for name in only or () if name not in CASES]
    if unknown:
        raise ConfigError(f"{unknown[0]!r} is no case; there are {', '.join(CASES)}")
    out.mkdir(parents=True, exist_ok=True)
    written = []
    with open_engine(bundle) as engine, closing(TrackerPool()) as pool:
        for name in only or CASES:
            progress(name)
            # The voice is there from the start; it is heard, and seen, a third of a second later.
            images, speech = case(name, corpus), voice(FRAMES / FPS)
            take = play(engine.backend, pool, images, speech, EngineConfig(silence="generate"))
            picks = np.linspace(6, FRAMES - 6, COLUMNS).round().astype(int)
            path = out / f"{name}.jpg"
            picture = strip(take, [int(p) for p in picks])
            cv2.imwrite(str(path), picture[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 88])
            written.append(path)
    return written
