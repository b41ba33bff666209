"""Faces as cameras, codecs, lamps and trackers show them.

Each effect takes and gives uint8[T, S, S, 3], one clip: what is drawn is drawn once for all its
frames (a camera does not change between two of them), except what flickers by nature. `degrade`
draws a chain of them for the frames of a sample and their reference together.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

import cv2
import numpy as np

from lipwire.engine.face.alignment import CROP_SIZE
from lipwire.engine.types import F32, U8


def _bytes(frames: F32) -> U8:
    return np.clip(np.rint(frames), 0, 255).astype(np.uint8)


def camera_noise(frames: U8, rng: np.random.Generator, shot: float, read: float) -> U8:
    """Photon noise that grows with the square root of the light, and an even floor.

    Args:
        frames: uint8[T, S, S, 3].
        rng: draws every pixel of every frame anew.
        shot: standard deviation at white, levels.
        read: standard deviation at black, levels.
    """
    light = frames.astype(np.float32)
    spread = np.sqrt(read**2 + shot**2 * light / 255)
    # Sensors are noisier in brightness than in colour once the codec has averaged the latter.
    grain = 0.8 * rng.standard_normal((*frames.shape[:3], 1), np.float32)
    grain = grain + 0.6 * rng.standard_normal(frames.shape, np.float32)
    return _bytes(light + spread * grain)


def jpeg(frames: U8, quality: int) -> U8:
    """Blocks and smeared colours, each frame on its own as in motion JPEG; quality 1 to 100."""
    options = [cv2.IMWRITE_JPEG_QUALITY, quality]
    out = [cv2.imdecode(cv2.imencode(".jpg", f[..., ::-1], options)[1], 1) for f in frames]
    return np.ascontiguousarray(np.stack(out)[..., ::-1], np.uint8)


def h264(frames: U8, crf: int) -> U8:
    """The frames through a real H.264 encoder, so that later ones are predicted from earlier.

    Args:
        frames: uint8[T, S, S, 3], S even.
        crf: 18 is good, 40 poor.
    """
    import av

    encoder = av.CodecContext.create("libx264", "w")
    encoder.height, encoder.width = frames.shape[1:3]
    encoder.pix_fmt, encoder.framerate = "yuv420p", Fraction(25)
    encoder.options = {"crf": str(crf), "preset": "ultrafast", "tune": "zerolatency"}
    decoder = av.CodecContext.create("h264", "r")
    packets = [p for f in frames for p in encoder.encode(av.VideoFrame.from_ndarray(f, "rgb24"))]
    packets += encoder.encode(None)
    found = [f for p in packets for f in decoder.decode(p)] + decoder.decode(None)
    return np.stack([f.to_ndarray(format="rgb24") for f in found])


def defocus(frames: U8, sigma_px: float) -> U8:
    """Out of focus."""
    return np.stack([np.asarray(cv2.GaussianBlur(f, (0, 0), sigma_px), np.uint8) for f in frames])


def motion_blur(frames: U8, length_px: float, angle_deg: float) -> U8:
    """Smeared along a line: a head that turns while the shutter is open."""
    size = int(np.ceil(length_px)) | 1
    kernel = np.zeros((size, size), np.float32)
    middle = size // 2
    reach = length_px / 2 * np.array([np.cos(np.radians(angle_deg)), np.sin(np.radians(angle_deg))])
    ends = [[round(16 * (middle + s * r)) for r in reach.tolist()] for s in (-1, 1)]
    cv2.line(kernel, ends[0], ends[1], (1.0,), 1, cv2.LINE_AA, 4)
    kernel /= max(float(kernel.sum()), 1e-6)
    blurred = [cv2.filter2D(f, -1, kernel, borderType=cv2.BORDER_REPLICATE) for f in frames]
    return np.asarray(np.stack(blurred), np.uint8)


def low_resolution(frames: U8, share: float) -> U8:
    """Taken with `share` of the pixels a side and enlarged again."""
    size = frames.shape[1]
    small = max(8, round(size * share))
    shrunk = [cv2.resize(f, (small, small), interpolation=cv2.INTER_AREA) for f in frames]
    grown = [cv2.resize(f, (size, size), interpolation=cv2.INTER_LINEAR) for f in shrunk]
    return np.asarray(np.stack(grown), np.uint8)


@dataclass(frozen=True, slots=True)
class Light:
    """A lamp, a white balance and a tone curve."""

    gain: float = 1.0
    gamma: float = 1.0
    tint: tuple[float, float, float] = (1.0, 1.0, 1.0)
    slope: tuple[float, float] = (0.0, 0.0)
    """relative change of brightness from the middle to the right and to the lower edge"""
    vignette: float = 0.0
    """relative loss of light in the corners"""
    colour: float = 1.0
    """how much of the colours is left: 0 is grey"""

    @classmethod
    def draw(cls, rng: np.random.Generator) -> Light:
        """A room that one may be called from."""
        return cls(
            # Dim rooms as often as bright ones: with 0.6 at least, mouths in them came out tinted.
            gain=float(np.exp(rng.uniform(np.log(0.3), np.log(1.35)))),
            gamma=rng.uniform(0.75, 1.35),
            tint=tuple(rng.uniform(0.82, 1.18, 3)),
            slope=tuple(rng.uniform(-0.35, 0.35, 2)),
            vignette=rng.uniform(0, 0.35),
            colour=rng.uniform(0.2, 1.2),
        )


def lit(frames: U8, light: Light) -> U8:
    """The frames in another light."""
    size = frames.shape[1]
    axis = np.linspace(-1, 1, size, dtype=np.float32)
    field: F32 = 1 + light.slope[0] * axis[None, :] + light.slope[1] * axis[:, None]
    field = field * (1 - light.vignette * (axis[None, :] ** 2 + axis[:, None] ** 2) / 2)
    factor = light.gain * field[..., None] * np.asarray(light.tint, np.float32)
    curve: F32 = ((np.arange(256) / 255) ** light.gamma * 255).astype(np.float32)
    bright: F32 = np.asarray(curve[frames] * factor, np.float32)
    if light.colour != 1.0:
        grey = bright.mean(axis=-1, keepdims=True)
        bright = grey + np.float32(light.colour) * (bright - grey)
    return _bytes(bright)


def occlusion(size: int, rng: np.random.Generator, frames: int = 1) -> tuple[U8, F32]:
    """A hand, a microphone or a cup before the lower face, drifting a little.

    Args:
        size: side of the crop.
        rng: draws it.
        frames: T.

    Returns:
        Its picture, uint8[T, S, S, 3], and how much it covers, f32[T, S, S] in 0..1, soft-edged.
    """
    y, x = np.mgrid[0:size, 0:size].astype(np.float32) / size
    skin = rng.random() < 0.6
    colour = rng.uniform((120, 70, 50), (240, 190, 165)) if skin else rng.uniform(10, 120, 3)
    # It comes in from below or the side: fingers are several capsules, a microphone is one.
    start = np.array([rng.uniform(-0.1, 1.1), rng.uniform(0.85, 1.15)])
    tip = np.array([rng.uniform(0.25, 0.75), rng.uniform(0.5, 0.8)])
    count = int(rng.integers(2, 5)) if skin else 1
    width = rng.uniform(0.03, 0.06) if skin else rng.uniform(0.06, 0.14)
    drift = rng.uniform(-0.01, 0.01, 2)
    shade = cv2.resize(rng.uniform(0.8, 1.15, (4, 4)).astype(np.float32), (size, size))
    pictures, covers = [], []
    for frame in range(frames):
        cover = np.zeros((size, size), np.float32)
        for finger in range(count):
            offset = (finger - (count - 1) / 2) * np.array([1.9 * width, 0.3 * width])
            a, b = start + offset + frame * drift, tip + offset + frame * drift
            along = b - a
            t = ((x - a[0]) * along[0] + (y - a[1]) * along[1]) / (along @ along)
            t = np.clip(t, 0, 1)
            far = np.hypot(x - a[0] - t * along[0], y - a[1] - t * along[1])
            cover = np.maximum(cover, np.clip((width - far) / 0.015 + 0.5, 0, 1))
        covers.append(cover)
        pictures.append(_bytes(np.asarray(shade[..., None] * colour, np.float32)))
    return np.stack(pictures), np.stack(covers).astype(np.float32)


def covered(frames: U8, picture: U8, cover: F32) -> U8:
    """Something held before the face."""
    face = frames.astype(np.float32)
    return _bytes(face + cover[..., None] * (picture.astype(np.float32) - face))


@dataclass(frozen=True, slots=True)
class Jitter:
    """A similarity about the crop's middle: where a tracker is a little wrong."""

    x_px: float = 0.0
    y_px: float = 0.0
    roll_deg: float = 0.0
    scale: float = 1.0
    lean: float = 0.0
    """pixels to the right a pixel further down: a head tilted out of the picture's plane"""
    squeeze: float = 1.0
    """width over height: a head turned or nodding"""

    @classmethod
    def draw(cls, rng: np.random.Generator, strength: float = 1.0) -> Jitter:
        """Within what trackers differ by; strength 1 is a pixel and a half."""
        x, y, roll, zoom = rng.standard_normal(4) * strength
        return cls(1.5 * x, 1.5 * y, 1.5 * roll, float(np.exp(0.015 * zoom)))

    @classmethod
    def posed(cls, rng: np.random.Generator) -> Jitter:
        """A head tilted, turned and nodding by some 15 degrees, as a flat picture can be."""
        return cls(
            roll_deg=rng.uniform(-8, 8),
            lean=rng.uniform(-0.15, 0.15),
            squeeze=float(np.exp(rng.uniform(-0.12, 0.12))),
        )

    def plus(self, other: Jitter) -> Jitter:
        """Both errors, to first order."""
        return Jitter(
            self.x_px + other.x_px,
            self.y_px + other.y_px,
            self.roll_deg + other.roll_deg,
            self.scale * other.scale,
            self.lean + other.lean,
            self.squeeze * other.squeeze,
        )

    def matrix(self, size: int) -> F32:
        """f32[2, 3], old crop pixels -> new ones."""
        middle = (size - 1) / 2
        turn = cv2.getRotationMatrix2D((middle, middle), self.roll_deg, self.scale)
        matrix = np.asarray(turn, np.float32)
        wide = np.sqrt(self.squeeze)
        pose = np.array([[wide, self.lean], [0, 1 / wide]], np.float32)
        # about the middle, as the turn
        matrix[:, 2] = pose @ (matrix[:, 2] - middle) + middle
        matrix[:, :2] = pose @ matrix[:, :2]
        matrix[:, 2] += (self.x_px, self.y_px)
        return matrix


def jittered(frames: U8, jitters: list[Jitter]) -> U8:
    """Each frame, or picture of any channels, moved by its own jitter."""
    size = frames.shape[1]
    border = cv2.BORDER_REPLICATE
    moved = [
        cv2.warpAffine(f, j.matrix(size), (size, size), flags=cv2.INTER_LINEAR, borderMode=border)
        for f, j in zip(frames, jitters, strict=True)
    ]
    return np.asarray(np.stack(moved), frames.dtype)


def jittered_landmarks(landmarks: F32, jitters: list[Jitter], size: int = CROP_SIZE) -> F32:
    """Landmarks f32[T, N, 2] moved as their frames were."""
    moved = [
        points @ j.matrix(size)[:, :2].T + j.matrix(size)[:, 2]
        for points, j in zip(landmarks, jitters, strict=True)
    ]
    return np.stack(moved).astype(np.float32)


@dataclass(frozen=True, slots=True)
class Degraded:
    """A sample as the wild would have delivered it."""

    frames: U8
    """uint8[T, S, S, 3]"""
    references: U8
    """uint8[R, S, S, 3]"""
    landmarks: F32
    """f32[T, N, 2], moved as the frames were"""
    weight: F32
    """f32[T, S, S], 0 where something was held before the face: no mouth is to be painted there"""


def degrade(frames: U8, references: U8, landmarks: F32, rng: np.random.Generator) -> Degraded:
    """One draw of everything, for consecutive frames and the references of one sample.

    Frames and references share the camera and, mostly, the light: what differs between them would
    otherwise have to be guessed. Geometry and occlusion are each one's own. A third of the draws
    changes nothing.

    Args:
        frames: uint8[T, S, S, 3].
        references: uint8[R, S, S, 3] of the same person.
        landmarks: f32[T, N, 2] of the frames, crop pixels.
        rng: draws it all.
    """
    count, size = len(frames), frames.shape[1]
    weight = np.ones(frames.shape[:3], np.float32)
    if rng.random() < 1 / 3:
        return Degraded(frames, references, landmarks, weight)
    both = np.concatenate([frames, references])
    if rng.random() < 0.5:
        # A tracker's error has a part that lasts and one that changes from frame to frame.
        pose = Jitter.posed(rng) if rng.random() < 0.4 else Jitter()  # of frames and references
        lasting = Jitter.draw(rng)
        jitters = []
        for number in range(len(both)):
            base = lasting if number < count else Jitter.draw(rng)
            jitters.append(base.plus(Jitter.draw(rng, 0.15)).plus(pose))
        both = jittered(both, jitters)
        landmarks = jittered_landmarks(landmarks, jitters[:count], size)
    if rng.random() < 0.1:
        picture, cover = occlusion(size, rng, count)
        both = np.concatenate([covered(both[:count], picture, cover), both[count:]])
        weight = (1 - cover).astype(np.float32)
    if rng.random() < 0.6:
        light = Light.draw(rng)
        both = lit(both, light)
    kind = rng.random()
    if kind < 0.15:
        both = defocus(both, rng.uniform(0.4, 1.6))
    elif kind < 0.25:
        both = motion_blur(both, rng.uniform(1.5, 6), rng.uniform(0, 180))
    elif kind < 0.45:
        both = low_resolution(both, rng.uniform(0.35, 0.9))
    if rng.random() < 0.35:
        both = camera_noise(both, rng, rng.uniform(0, 8), rng.uniform(0, 4))
    kind = rng.random()
    if kind < 0.25:
        both = jpeg(both, int(rng.integers(25, 90)))
    elif kind < 0.35:
        parts = [part for part in (both[:count], both[count:]) if len(part)]
        both = np.concatenate([h264(part, int(rng.integers(22, 38))) for part in parts])
    return Degraded(both[:count], both[count:], landmarks, weight)
