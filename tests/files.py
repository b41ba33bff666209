"""Media files that the tests make, with everything in them that real files have wrong."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import skimage

from lipwire.engine.media.colour import exact_downwards
from lipwire.engine.types import I16, U8

# Display matrices of ISO/IEC 14496-12 section 8.3.2 (tkhd), for a picture shown turned clockwise.
_TURNED = {90: (0, 1, -1, 0), 180: (-1, 0, 0, -1), 270: (0, -1, 1, 0)}


def portrait_frames(count: int, height: int = 240, width: int = 320) -> list[U8]:
    """The astronaut portrait, swaying a little; uint8[H, W, 3] each."""
    portrait = skimage.data.astronaut()
    scale = 1.6 * height / 512
    frames = []
    for index in range(count):
        x, y = 6 * np.sin(index / 9), 3 * np.sin(index / 7)
        place = np.array(
            [[scale, 0, width / 2 - 224 * scale + x], [0, scale, height / 2 - 130 * scale + y]]
        )
        frames.append(
            cv2.warpAffine(portrait, place, (width, height), borderMode=cv2.BORDER_REFLECT)
        )
    return frames


def write_video(
    path: Path,
    frames: Iterable[U8],
    *,
    rate: Fraction | int = 25,
    times: Sequence[int] | None = None,
    time_base: Fraction | None = None,
    codec: str = "libx264",
    crf: int = 12,
    tags: dict[str, int] | None = None,
    sound: I16 | None = None,
    sound_hz: int = 48_000,
    sound_at_s: float = 0.0,
    faststart: bool = False,
) -> Path:
    """A video file, in the container that its name says.

    Args:
        path: of the file.
        frames: uint8[H, W, 3], all of one size.
        rate: frames a second.
        times: of the frames in units of `time_base`; None spaces them evenly.
        time_base: of `times`.
        codec: of the pictures.
        crf: quality, for libx264.
        tags: attributes of the codec context, e.g. `colorspace`.
        sound: int16[N] mono, or no sound.
        sound_hz: its rate.
        sound_at_s: when it begins.
        faststart: put the index in front, so that a truncated file can still be read.
    """
    base = time_base or 1 / Fraction(rate)
    options = {"movflags": "faststart"} if faststart else {}
    with av.open(str(path), "w", options=options) as container:
        video: Any = container.add_stream(
            codec, rate=rate, options={"crf": str(crf)} if codec == "libx264" else {}
        )
        audio: Any = None
        if sound is not None:
            name = "libopus" if path.suffix == ".webm" else "aac"
            audio = container.add_stream(name, rate=sound_hz, layout="mono")
        video.gop_size = 12
        for index, image in enumerate(frames):
            if index == 0:
                video.height, video.width = image.shape[:2]
                video.codec_context.time_base = base
                for name, value in (tags or {}).items():
                    setattr(video.codec_context, name, value)
            picture = av.VideoFrame.from_ndarray(image, format="rgb24")
            matrix = {6: 5}.get((tags or {}).get("colorspace", 0), (tags or {}).get("colorspace"))
            picture = picture.reformat(
                format=video.pix_fmt,
                dst_colorspace=matrix,
                dst_color_range=(tags or {}).get("color_range"),
                interpolation=exact_downwards(),
            )
            picture.pts, picture.time_base = (times[index] if times else index), base
            container.mux(video.encode(picture))
        container.mux(video.encode(None))
        if audio is not None:
            _encode_sound(container, audio, sound, sound_hz, sound_at_s)
    return path


def write_sound(
    path: Path, samples: I16, rate_hz: int = 16_000, *, layout: str = "mono", codec: str = ""
) -> Path:
    """A sound file; in more than one channel the first speaks and the others are silent."""
    codecs = {".wav": "pcm_s16le", ".ogg": "libopus", ".mp3": "mp3", ".flac": "flac", ".m4a": "aac"}
    with av.open(str(path), "w") as container:
        audio: Any = container.add_stream(codec or codecs[path.suffix], rate=rate_hz, layout=layout)
        _encode_sound(container, audio, samples, rate_hz, 0.0)
    return path


def _encode_sound(
    container: Any, audio: Any, samples: I16 | None, rate_hz: int, at_s: float
) -> None:
    assert samples is not None
    channels = len(audio.layout.channels)
    spread = np.zeros((len(samples), channels), np.int16)
    spread[:, 0] = samples
    for start in range(0, len(samples), 1000):
        piece = spread[start : start + 1000].reshape(1, -1)
        frame = av.AudioFrame.from_ndarray(piece, format="s16", layout=audio.layout.name)
        frame.sample_rate, frame.time_base = rate_hz, Fraction(1, rate_hz)
        frame.pts = start + round(at_s * rate_hz)
        container.mux(audio.encode(frame))
    container.mux(audio.encode(None))


def turn_mp4(path: Path, degrees: int) -> Path:
    """Tell an MP4's players to show it turned clockwise, as telephones do."""
    data = bytearray(path.read_bytes())
    matrix = data.index(b"tkhd") + 4 + 40  # version 0: 40 bytes of other fields come before
    a, b, c, d = (value << 16 for value in _TURNED[degrees])
    data[matrix : matrix + 36] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)
    path.write_bytes(data)
    return path


def cut_file(path: Path, share: float) -> Path:
    """Keep only the first share of a file's bytes."""
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    return path
