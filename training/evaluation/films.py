"""Films in memory: pictures at 25 a second, the face in each, the sound; read, tracked, written."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import islice
from pathlib import Path

import numpy as np

from lipwire.engine.audio.mel import PAPER_FPS
from lipwire.engine.errors import MediaError
from lipwire.engine.face.alignment import alignment_from, fit_similarity, transform
from lipwire.engine.face.tracker import MeshTracker
from lipwire.engine.media.files import at_rate, read_frames
from lipwire.engine.types import F32, I16, SPEECH_RATE_HZ, U8
from lipwire.training.data.clip import Rejected, film_speech
from lipwire.training.data.layouts import VIDEO_SUFFIXES

CRF = 12  # higher: what is measured again from the file is not what was painted
NO_SOUND: I16 = np.zeros(0, np.int16)


@dataclass(slots=True)
class Film:
    """Some seconds of somebody."""

    images: list[U8]
    """uint8[H, W, 3], 25 a second, sides even"""
    faces: list[F32 | None]
    """f32[468, 2] of each picture, its pixels; None where no face was found"""
    speech: I16
    """int16[N] at 16 kHz from the first picture on; empty where there is none"""

    @property
    def found(self) -> list[bool]:
        """Whether there is a face, for each picture."""
        return [face is not None for face in self.faces]

    def mouths(self) -> F32:
        """f32[T, 468, 2] in pixels of the stabilised crop; NaN where no face was found."""
        out = np.full((len(self.faces), 468, 2), np.nan, np.float32)
        for i, points in enumerate(self.faces):
            if points is not None:
                out[i] = transform(points, alignment_from(fit_similarity(points)).matrix)
        return out


def read_film(path: Path, tracker: MeshTracker, limit: int, *, sound: bool = True) -> Film:
    """The first `limit` pictures of a film and its sound.

    Args:
        path: a video.
        tracker: follows the face; forgets whom it followed.
        limit: pictures at most.
        sound: whether there must be some.

    Raises:
        Rejected: missing, unreadable, or silent though sound is wanted.
    """
    try:
        origin_s = next(iter(islice(read_frames(path), 1))).time_s
        images = [_even(image) for image in islice(at_rate(read_frames(path), PAPER_FPS), limit)]
    except StopIteration:
        raise Rejected("unreadable", f"{path}: no picture can be decoded") from None
    except MediaError as error:
        raise Rejected("unreadable" if path.is_file() else "missing file", str(error)) from error
    try:
        speech = film_speech(str(path), origin_s)
    except Rejected:
        if sound:
            raise
        speech = NO_SOUND
    return Film(images, track(images, tracker), speech)


def read_voice(path: Path, tracker: MeshTracker, limit: int) -> Film:
    """What drives a cross generation: a film, or sound alone, whose mouth nobody sees.

    Raises:
        Rejected: missing, unreadable or silent.
    """
    if path.suffix.lower() in VIDEO_SUFFIXES:
        return read_film(path, tracker, limit)
    if not path.is_file():
        raise Rejected("missing file", f"{path}: no such file")
    return Film([], [], film_speech(str(path), 0.0))


def _even(image: U8) -> U8:
    """Without the last row or column where there is an odd number: films are written in 4:2:0."""
    height, width = image.shape[:2]
    return np.ascontiguousarray(image[: height - height % 2, : width - width % 2])


def track(images: Sequence[U8], tracker: MeshTracker) -> list[F32 | None]:
    """The face in each picture of one film."""
    tracker.forget()
    faces: list[F32 | None] = []
    for i, image in enumerate(images):
        if i and image is images[i - 1]:  # a picture that stands is looked at once
            faces.append(faces[-1])
            continue
        face = tracker.track(image)
        faces.append(None if face is None else face.landmarks)
    return faces


def known_faces(faces: Sequence[F32 | None]) -> list[F32]:
    """Those that were found."""
    return [face for face in faces if face is not None]


def write_film(path: Path, images: Sequence[U8], speech: I16) -> None:
    """An MP4 that appears when it is whole: H.264, nearly lossless, and AAC.

    Raises:
        MediaError: it cannot be written.
    """
    import av

    partial = path.with_name(f".{os.getpid()}.partial")
    try:
        with av.open(f"file:{partial}", "w", format="mp4") as container:
            video = container.add_stream(
                "libx264", rate=PAPER_FPS, options={"crf": str(CRF), "preset": "fast"}
            )
            video.height, video.width = images[0].shape[:2]
            video.pix_fmt = "yuv420p"
            sound = container.add_stream("aac", rate=SPEECH_RATE_HZ, layout="mono")
            for image in images:
                frame = av.VideoFrame.from_ndarray(image, format="rgb24")
                container.mux(video.encode(frame))
            container.mux(video.encode(None))
            fifo = av.AudioFifo()
            heard = speech[: len(images) * SPEECH_RATE_HZ // PAPER_FPS]
            whole = av.AudioFrame.from_ndarray(np.ascontiguousarray(heard)[None], "s16", "mono")
            whole.sample_rate, whole.pts = SPEECH_RATE_HZ, 0
            whole.time_base = Fraction(1, SPEECH_RATE_HZ)
            fifo.write(whole)
            for piece in fifo.read_many(1024, partial=True):
                container.mux(sound.encode(piece))
            container.mux(sound.encode(None))
        os.replace(partial, path)
    except (av.FFmpegError, OSError) as error:
        partial.unlink(missing_ok=True)
        raise MediaError(f"{path}: cannot be written ({error})") from error
