"""Made scenes: the portrait that scikit-image carries, moved as we like, covered and left.

Eileen Collins, NASA, public domain.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from itertools import islice
from pathlib import Path

import numpy as np

from lipwire.engine.errors import LipwireError
from lipwire.engine.face.alignment import face_width_px
from lipwire.engine.media.files import read_frames
from lipwire.engine.types import F32, U8

FACE = (224.0, 128.0)  # the middle of her face in the portrait
FACE_PX = 88.0  # its width there, ear to ear


@cache
def portrait() -> U8:
    """uint8[512, 512, 3]. Not to be written to."""
    try:
        from skimage.data import astronaut
    except ImportError:
        raise LipwireError(
            "scikit-image with its portrait is missing: pip install scikit-image"
        ) from None
    return np.asarray(astronaut(), np.uint8)  # type: ignore[no-untyped-call]


@dataclass(frozen=True, slots=True)
class Pose:
    """Where a face lies in its picture."""

    x: float = 320.0
    y: float = 220.0
    width_px: float = 130.0  # ear to ear
    roll_deg: float = 0.0  # clockwise as seen


def scene(
    poses: Pose | list[Pose], shape: tuple[int, int] = (480, 640), noise: float = 2.0, seed: int = 0
) -> U8:
    """Faces on a soft wall, uint8[H, W, 3], with a camera's noise."""
    import cv2

    height, width = shape
    rows, cols = np.mgrid[0:height, 0:width].astype(np.float32)
    wall = 105 + 25 * np.sin(cols / 60) * np.cos(rows / 45)
    image: F32 = np.dstack([wall, wall + 6, wall + 14]).astype(np.float32)
    y, x = np.mgrid[0:512, 0:512].astype(np.float32)
    head = np.hypot((x - FACE[0]) / 95, (y - 130) / 125)
    soft = np.clip((1.12 - head) / 0.12, 0, 1).astype(np.float32)
    for pose in [poses] if isinstance(poses, Pose) else poses:
        scale = pose.width_px / FACE_PX
        matrix = cv2.getRotationMatrix2D(FACE, -pose.roll_deg, scale)
        matrix = matrix + np.array([[0, 0, pose.x - FACE[0]], [0, 0, pose.y - FACE[1]]])
        # What is made smaller is averaged, as a camera does.
        face = portrait().astype(np.float32)
        if scale < 1:
            blurred = cv2.GaussianBlur(face, (0, 0), 0.45 * (1 / scale**2 - 1) ** 0.5 + 1e-3)
            face = np.asarray(blurred, np.float32)
        moved = cv2.warpAffine(face, matrix, (width, height), flags=cv2.INTER_CUBIC)
        over = cv2.warpAffine(soft, matrix, (width, height), flags=cv2.INTER_LINEAR)[..., None]
        image = np.asarray(image * (1 - over) + moved * over, np.float32)
    grain = np.random.default_rng(seed).normal(0, noise, image.shape)
    return np.asarray(np.clip(np.rint(image + grain), 0, 255), np.uint8)


def cover(image: U8, landmarks: F32, what: str, amount: float = 1.0) -> U8:
    """A copy of uint8[H, W, 3] with something before the mouth.

    Args:
        image: the frame.
        landmarks: f32[468, 2], of the bare face.
        what: `hand`, of the person's own skin with fingers and shade, or `microphone`.
        amount: 0 has it just below the chin, 1 before the mouth.
    """
    width_px = face_width_px(landmarks)
    x0, y0 = landmarks[[13, 14]].mean(0)
    rows, cols = np.mgrid[0 : image.shape[0], 0 : image.shape[1]].astype(np.float32)
    across = (cols - x0) / width_px
    down = (rows - y0) / width_px - 0.12 - 0.9 * (1 - amount)
    edge = width_px / 2  # two pixels soft
    if what == "microphone":
        ball = np.clip((0.17 - np.hypot(across, down + 0.08)) * edge + 0.5, 0, 1)
        stick = np.clip((0.07 - np.abs(across)) * edge + 0.5, 0, 1) * (down > 0)
        over = np.maximum(ball, stick)
        colour = np.broadcast_to(
            (35 + 12 * np.sin(cols * 1.3) * np.sin(rows * 1.3))[..., None], image.shape
        )
    else:
        far = np.hypot(across / 0.4, down / 0.32)
        far = np.maximum(far, 0.9 * np.maximum(np.abs(across) / 0.36, np.abs(down) / 0.27))
        over = np.clip((1 - far) * 0.3 * edge + 0.5, 0, 1)
        places = np.clip(landmarks[[50, 280, 151]].astype(int), 0, np.array(image.shape[1::-1]) - 1)
        skin = np.median(image[places[:, 1], places[:, 0]].astype(np.float32), axis=0)
        fingers = 1 - 0.25 * np.exp(-(((np.mod(down, 0.13) - 0.065) / 0.012) ** 2))
        colour = skin * (fingers * (1.02 - 0.25 * np.abs(across) / 0.36))[..., None]
    mixed = image * (1 - over[..., None]) + colour * over[..., None]
    return np.asarray(np.clip(np.rint(mixed), 0, 255), np.uint8)


def talking(frames: int) -> Iterator[U8]:
    """The portrait, swaying, its lower face stretched as by a jaw that opens."""
    import cv2

    rows = np.mgrid[0:480, 0:640][0].astype(np.float32)
    for index in range(frames):
        sway = Pose(320 + 8 * np.sin(index / 20), 220, 150.0, 3 * float(np.sin(index / 25)))
        image = scene(sway, seed=index)
        # From the upper lip on, what is below is drawn down and up again.
        drop_px = 11 * (0.5 + 0.5 * np.sin(index / 2.5))
        below = np.clip((rows - 255) / 12, 0, 1) * np.clip((340 - rows) / 30, 0, 1)
        columns = np.broadcast_to(np.arange(640, dtype=np.float32), rows.shape)
        moved = (rows - drop_px * below).astype(np.float32)
        yield np.asarray(cv2.remap(image, columns, moved, cv2.INTER_LINEAR), np.uint8)


def made_clip(path: Path, seconds: int = 6) -> Path:
    """A talking head, 640x480 at 25 fps: a public-domain portrait that sways, its jaw moved."""
    import av

    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25, options={"crf": "12"})
        stream.width, stream.height, stream.pix_fmt = 640, 480, "yuv420p"
        for image in talking(25 * seconds):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode(None))
    return path


def made_images(count: int | None = None) -> list[U8]:
    """The first pictures of `made_clip`, or all, as a decoder gives them; uint8[480, 640, 3]."""
    with tempfile.TemporaryDirectory() as scratch:
        frames = read_frames(made_clip(Path(scratch) / "clip.mp4"))
        return [frame.image for frame in islice(frames, count)]
