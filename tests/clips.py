"""Clips that the tests make: a portrait whose mouth is painted open and shut, with a voice."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import skimage

RATE_HZ = 16_000


def portrait(opening: float, size: int = 256) -> np.ndarray:
    """The astronaut portrait with a mouth painted over her own, open by 0..1; uint8[S, S, 3]."""
    image = skimage.data.astronaut()[:512, :512].copy()
    middle, tall = (223, 148), round(11 * opening)
    for size_px, colour in (
        ((34, 16), (206, 160, 140)),  # skin
        ((23, 5 + tall), (176, 90, 90)),  # lips
        ((18, max(tall, 1)), (60, 20, 25)),  # what lies between them
    ):
        cv2.ellipse(image, middle, size_px, 0, 0, 360, colour, -1, cv2.LINE_AA)
    crop = image[20 : 20 + 300, 70 : 70 + 300]
    return cv2.resize(crop, (size, size), interpolation=cv2.INTER_AREA)


def write_clip(
    path: Path,
    frames: int = 30,
    *,
    sound: bool = True,
    blank: bool = False,
    pictures: Sequence[np.ndarray] | None = None,
    late_s: float = 0.0,
    size: int = 256,
) -> Path:
    """A talking clip at 25 fps: the mouth opens with the loudness of a buzzing voice.

    Args:
        path: to write.
        frames: its length.
        sound: with a voice.
        blank: black pictures.
        pictures: these instead, uint8[S, S, 3] each.
        late_s: the sound stream begins so much after the picture.
        size: S, pixels.
    """
    rng = np.random.default_rng(len(path.name))
    frames = frames if pictures is None else len(pictures)
    opening = 0.5 + 0.5 * np.sin(np.arange(frames) / 2.5 + rng.uniform(0, 6))
    with av.open(str(path), "w") as container:
        video = container.add_stream("libx264", rate=25)
        video.width = video.height = size
        video.pix_fmt = "yuv420p"
        audio = container.add_stream("aac", rate=RATE_HZ, layout="mono") if sound else None
        for index in range(frames):
            if pictures is not None:
                image = pictures[index]
            else:
                image = (
                    np.zeros((size, size, 3), np.uint8) if blank else portrait(opening[index], size)
                )
            for packet in video.encode(av.VideoFrame.from_ndarray(image, format="rgb24")):
                container.mux(packet)
        for packet in video.encode(None):
            container.mux(packet)
        if audio is not None:
            late = round(late_s * RATE_HZ)
            time = np.arange(frames * RATE_HZ // 25 - late) / RATE_HZ + late_s
            loud = np.interp(time, np.arange(frames) / 25, opening)
            wave = loud * np.sign(np.sin(2 * np.pi * 120 * time)) * 6000
            frame = av.AudioFrame.from_ndarray(wave.astype(np.int16)[None], "s16", "mono")
            frame.sample_rate, frame.pts, frame.time_base = RATE_HZ, 0, Fraction(1, RATE_HZ)
            fifo = av.AudioFifo()
            fifo.write(frame)
            for piece in fifo.read_many(1024, partial=True):
                piece.pts += late
                for packet in audio.encode(piece):
                    container.mux(packet)
            for packet in audio.encode(None):
                container.mux(packet)
    return path
