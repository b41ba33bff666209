"""MediaPipe's face nets run by LiteRT: two detectors and the mesh, without MediaPipe's runtime.

What the nets expect and give (sizes, ranges, anchors, thresholds, how a region follows from a face)
are the facts of MediaPipe's graphs `face_detection_*` and `face_landmark_front_cpu`, 0.10.21.
The nets are BlazeFace (Bazarevsky et al., 2019) and the mesh of Kartynnik et al. (2019).
"""

from __future__ import annotations

import math
import threading
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np

from lipwire.engine.errors import BundleError
from lipwire.engine.face import mediapipe_nets
from lipwire.engine.face.quiet import quiet_stderr
from lipwire.engine.types import F32, U8

MESH_SIDE_PX = 192
LANDMARKS = 468
# Times the box around a face that the mesh is shown: it was trained on faces with so much around.
MARGIN = 1.5
# Boxes that share more than this of what they cover are of one face.
SAME_FACE_IOU = 0.3
EYES = (33, 263)  # their outer corners, which tell how a head is rolled
# The detectors find a head that is upside down, and put its eyes on its chin. Where the mesh is not
# very sure of a face (logits), it looks the other way up as well, which must be so much surer. Of
# 372 bare faces upside down, of 78 films, it is by 12 and more, of 390 upright ones never; of 160
# with a mask or a hand by 7 at most. Lower: mouths on masks; higher: mouths on foreheads.
DOUBTFUL, SURER = 20.0, 10.0


class Net:
    """One net on one thread, for one caller at a time; it keeps nothing from call to call.

    Raises:
        BundleError: its file is missing or altered.
    """

    def __init__(self, file: str) -> None:
        from ai_edge_litert.interpreter import Interpreter

        path = mediapipe_nets.find(file)
        if path is None:
            raise BundleError(
                f"the face net {file} is missing or altered: "
                "python -m lipwire.engine.face.mediapipe_nets"
            )
        with quiet_stderr():  # it says that it has begun
            self._interpreter: Any = Interpreter(model_path=str(path), num_threads=1)
            self._interpreter.allocate_tensors()
        self._input = self._interpreter.get_input_details()[0]["index"]
        self._outputs = [each["index"] for each in self._interpreter.get_output_details()]

    def __call__(self, values: F32) -> list[F32]:
        """f32[1, S, S, 3] -> all outputs."""
        self._interpreter.set_tensor(self._input, values)
        self._interpreter.invoke()
        return [self._interpreter.get_tensor(index) for index in self._outputs]


_idle: dict[str, list[Net]] = defaultdict(list)  # in this process
_lending = threading.Lock()


@contextmanager
def lent(file: str) -> Iterator[Net]:
    """A net for one picture: there are as many of each as threads that look, however many calls."""
    with _lending:
        net = _idle[file].pop() if _idle[file] else None
    net = net or Net(file)
    yield net  # one that has failed is not used again
    with _lending:
        _idle[file].append(net)


@dataclass(frozen=True, slots=True)
class Detections:
    """Faces in pixels, the surest first."""

    boxes: F32
    """f32[N, 4] (x0, y0, x1, y1)"""
    eyes: F32
    """f32[N, 2, 2]: x, y of the eye on the left of the picture, and of the other"""


@dataclass(frozen=True, slots=True)
class Kind:
    """A detector: its file and what its graph says of it."""

    file: str
    side_px: int
    least: float
    """below this chance nothing is a face"""
    grid: tuple[tuple[int, int], ...]
    """stride in pixels and anchors a cell, layer by layer"""


# Faces within two metres of a camera, and smaller ones too.
NEAR = Kind("face_detection_short_range.tflite", 128, 0.5, ((8, 2), (16, 6)))
FAR = Kind("face_detection_full_range_sparse.tflite", 192, 0.6, ((4, 1),))
MESH = "face_landmark.tflite"


@cache
def _anchors(kind: Kind) -> F32:
    """f32[N, 2]: the middles of the cells that boxes are told from, shares of the input."""
    layers = []
    for stride, each in kind.grid:
        count = kind.side_px // stride
        y, x = np.mgrid[:count, :count]
        middles = (np.stack([x, y], -1).reshape(-1, 2) + 0.5) / count
        layers.append(middles.repeat(each, axis=0))
    return np.concatenate(layers).astype(np.float32)


def detect(kind: Kind, image: U8, min_confidence: float) -> Detections:
    """Faces in uint8[H, W, 3]; what is less likely than `min_confidence` is none."""
    height, width = image.shape[:2]
    side, square = kind.side_px, max(height, width)
    middle = np.array([width / 2, height / 2], np.float32)
    patch = _patch(image, middle, square, 0.0, side, replicate=False)
    with lent(kind.file) as net:
        boxes, scores = net(np.asarray(patch / np.float32(127.5) - 1, np.float32)[None])
    chance = 1 / (1 + np.exp(-np.clip(scores.reshape(-1), -80, 80)))
    likely = np.flatnonzero(chance >= max(min_confidence, kind.least))
    # x, y, width, height of the box, then x, y of six points, eyes first; as distances from the
    # cell's middle in pixels of the input.
    told, anchors = boxes[0, likely] / side, _anchors(kind)[likely]
    points = told[:, 4:8].reshape(-1, 2, 2) + anchors[:, None]
    middles, half = told[:, :2] + anchors, told[:, 2:4] / 2
    corners = np.stack([middles - half, middles + half], 1)
    spans = np.concatenate([corners, points], 1)  # f32[N, 4, 2]
    good = (half >= 0).all(1)
    merged = _merge(spans[good], chance[likely][good]) * square + (middle - square / 2)
    return Detections(
        np.asarray(merged[:, :2].reshape(-1, 4), np.float32), np.asarray(merged[:, 2:], np.float32)
    )


def _merge(spans: F32, chance: F32) -> F32:
    """Weighted non-maximum suppression: boxes of one face become their mean, weighted by chance.

    Args:
        spans: f32[N, 4, 2], both corners of a box and two points.
        chance: f32[N], 0 to 1.

    Returns:
        f32[M, 4, 2], the likeliest first.
    """
    kept = []
    left = np.argsort(-chance, kind="stable")
    while len(left):
        overlap = _iou(spans[left[0], :2], spans[left, :2])
        same = left[overlap > SAME_FACE_IOU]
        if not len(same):  # a box without area: not even the same as itself
            same = left[:1]
        kept.append(np.average(spans[same], axis=0, weights=chance[same]))
        left = np.setdiff1d(left, same, assume_unique=True)
        left = left[np.argsort(-chance[left], kind="stable")]
    return np.array(kept, np.float32).reshape(-1, 4, 2)


def _iou(one: F32, others: F32) -> F32:
    """Intersection over union of f32[2, 2] and f32[N, 2, 2], two corners each: f32[N]."""
    inner = np.minimum(one[1], others[:, 1]) - np.maximum(one[0], others[:, 0])
    both = np.clip(inner, 0, None).prod(1)
    area = (one[1] - one[0]).prod() + (others[:, 1] - others[:, 0]).prod(1) - both
    return np.asarray(both / np.maximum(area, 1e-12), np.float32)


@dataclass(frozen=True, slots=True)
class _Region:
    """The turned square that the mesh is shown, pixels and radians."""

    middle: F32
    side_px: float
    roll: float

    @property
    def usable(self) -> bool:
        return self.side_px >= 1 and math.isfinite(self.side_px + self.roll)


def _region(box: F32, left: F32, right: F32) -> _Region:
    """Around a box, f32[4], upright when the line from `left` to `right`, f32[2], is level."""
    roll = math.atan2(float(right[1] - left[1]), float(right[0] - left[0]))
    return _Region((box[:2] + box[2:]) / 2, MARGIN * float((box[2:] - box[:2]).max()), roll)


def _patch(
    image: U8, middle: F32, square_px: float, roll: float, side_px: int, *, replicate: bool
) -> U8:
    """A turned square of uint8[H, W, 3], bilinear: uint8[S, S, 3]."""
    import cv2

    step = square_px / side_px
    cos, sin = step * math.cos(roll), step * math.sin(roll)
    half = side_px / 2
    back = np.array(
        [[cos, -sin, middle[0] - half * (cos - sin)], [sin, cos, middle[1] - half * (sin + cos)]]
    )
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    edge = cv2.BORDER_REPLICATE if replicate else cv2.BORDER_CONSTANT
    cut = cv2.warpAffine(image, back, (side_px, side_px), flags=flags, borderMode=edge)
    return np.asarray(cut, np.uint8)


def _look(image: U8, region: _Region) -> tuple[F32, float]:
    """What the mesh sees there: f32[468, 3] in pixels of its input, and how sure it is (a logit).

    Without an area there is nothing to see.
    """
    if not region.usable:
        return np.zeros((LANDMARKS, 3), np.float32), -math.inf
    patch = _patch(image, region.middle, region.side_px, region.roll, MESH_SIDE_PX, replicate=True)
    with lent(MESH) as net:
        points, presence = net(np.asarray(patch / np.float32(255), np.float32)[None])
    return points.reshape(LANDMARKS, 3), float(presence.reshape(-1)[0])


class FaceMesh:
    """Landmarks of one face, which is detected once and then looked for where it was.

    Args:
        min_confidence: below it a detection or a followed face is dropped.
        still: detect in every picture.
    """

    def __init__(self, min_confidence: float, still: bool) -> None:
        self._min_confidence, self._still = min_confidence, still
        self._region: _Region | None = None
        for file in (NEAR.file, MESH):
            with lent(file):  # loaded now: no frame of a call should wait for it
                pass

    def process(self, image: U8) -> F32 | None:
        """f32[468, 3] of the face in uint8[H, W, 3]: x, y in pixels, z on their scale; or None."""
        region, self._region = self._region, None
        if region is not None:
            points, sure = _look(image, region)
        else:
            found = detect(NEAR, image, self._min_confidence)
            if not len(found.boxes):
                return None
            region = _region(found.boxes[0], *found.eyes[0])
            points, sure = _look(image, region)
            if sure < DOUBTFUL:
                turned = replace(region, roll=region.roll + math.pi)
                others, surer = _look(image, turned)
                if surer > sure + SURER:
                    region, points, sure = turned, others, surer
        if 1 / (1 + math.exp(-sure)) < self._min_confidence:
            return None
        scale = region.side_px / MESH_SIDE_PX
        local = points * np.float32(scale)
        local[:, :2] -= region.side_px / 2
        cos, sin = math.cos(region.roll), math.sin(region.roll)
        turn = np.array([[cos, sin, 0], [-sin, cos, 0], [0, 0, 1]], np.float32)
        marks: F32 = local @ turn
        marks[:, :2] += region.middle
        if not self._still:
            flat = marks[:, :2]
            box = np.concatenate([flat.min(0), flat.max(0)])
            self._region = _region(box, flat[EYES[0]], flat[EYES[1]])
        return marks

    def forget(self) -> None:
        """Detect again in the next picture."""
        self._region = None

    def close(self) -> None:
        """Nothing is held that is not freed with it."""


class Detectors:
    """Both detectors, as MediaPipe's face detection has them."""

    def __init__(self, min_confidence: float) -> None:
        self._min_confidence = min_confidence

    def find(self, image: U8) -> F32:
        """Faces in uint8[H, W, 3]: f32[N, 4] (x0, y0, x1, y1), pixels, brows to chin.

        Those wider than about 7 % of it: by the net for far ones, and where it finds none, by the
        other.
        """
        for kind in (FAR, NEAR):
            if len(boxes := detect(kind, image, self._min_confidence).boxes):
                return boxes
        return np.zeros((0, 4), np.float32)

    def close(self) -> None:
        """Nothing is held that is not freed with it."""
