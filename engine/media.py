"""Pictures and sound out of files, through PyAV (loaded on first use)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from engine.errors import MediaError
from engine.types import F32, I16, SPEECH_RATE_HZ, U8, VideoFrame

MAX_PIXELS = 8192 * 4320  # 8K; beyond it one frame in RGB alone is over 100 MB


@dataclass(frozen=True, slots=True)
class VideoInfo:
    """What a container says about its first video stream."""

    width: int
    """pixels, as shown: after rotation"""
    height: int
    rate: Fraction
    """frames per second, the average when they vary"""
    rotation: int
    """degrees counter-clockwise that the picture is turned to be shown"""
    frames: int
    """as the container counts or as duration and rate imply; 0 if unknown"""
    duration_s: float


def _open(path: str | Path) -> Any:
    """Open a container, with one-line errors."""
    import av

    try:
        return av.open(str(path))
    except FileNotFoundError as error:
        raise MediaError(f"{path}: no such file") from error
    except IsADirectoryError as error:
        raise MediaError(f"{path}: is a folder, not a media file") from error
    except (av.FFmpegError, ValueError, OSError) as error:
        raise MediaError(f"{path}: not a media file that can be read ({error})") from error


def probe_video(path: str | Path) -> VideoInfo:
    """Size, rate, rotation and length of a file's first video stream.

    Raises:
        MediaError: unreadable, without video, or without a single picture that decodes.
    """
    frame = next(iter(read_frames(path)), None)
    if frame is None:
        raise MediaError(f"{path}: its video stream holds no picture that can be decoded")
    with _open(path) as container:
        stream = container.streams.video[0]
        rate = stream.average_rate or stream.guessed_rate or Fraction(25)
        if stream.duration and stream.time_base:
            duration_s = float(stream.duration * stream.time_base)
        else:
            duration_s = (container.duration or 0) / 1_000_000
        frames = stream.frames or round(duration_s * rate)
        height, width = frame.image.shape[:2]
        first = next(container.decode(video=0))
        return VideoInfo(width, height, Fraction(rate), int(first.rotation), frames, duration_s)


def to_rgb(frame: Any) -> U8:
    """An av.VideoFrame as uint8[H, W, 3] RGB, turned the way it is to be shown."""
    image: U8 = frame.to_ndarray(format="rgb24")
    turns = round(frame.rotation / 90) % 4
    return np.ascontiguousarray(np.rot90(image, turns)) if turns else image


def read_frames(path: str | Path) -> Iterator[VideoFrame]:
    """Every picture of the first video stream, in order, upright.

    What follows a damaged place is decoded again where the stream allows it; pictures without a
    time of their own, and times that run backwards, follow the last by one frame.

    Raises:
        MediaError: unreadable, without a video stream, or larger than 8K.
    """
    import av

    with _open(path) as container:
        if not container.streams.video:
            raise MediaError(f"{path}: has no video stream")
        stream = container.streams.video[0]
        stream.thread_type = "AUTO"
        pixels = stream.codec_context.width * stream.codec_context.height
        if pixels > MAX_PIXELS:
            raise MediaError(
                f"{path}: {stream.codec_context.width}x{stream.codec_context.height} is larger "
                f"than 8K ({MAX_PIXELS} pixels)"
            )
        base = stream.time_base or Fraction(1, 90_000)
        step = max(1, round(1 / (base * (stream.average_rate or 25))))
        last: int | None = None
        packets = container.demux(stream)
        while True:
            try:
                packet = next(packets)
                frames = packet.decode()
            except StopIteration:
                return
            except av.InvalidDataError:
                continue  # one damaged packet; the decoder finds its feet at the next key frame
            except av.FFmpegError as error:
                raise MediaError(f"{path}: reading stopped ({error})") from error
            for frame in frames:
                pts = frame.pts
                if pts is None or (last is not None and pts <= last):
                    pts = 0 if last is None else last + step
                last = pts
                yield VideoFrame(to_rgb(frame), pts, base)


def at_rate(frames: Iterable[VideoFrame], fps: int | Fraction) -> Iterator[U8]:
    """Pictures at a constant rate: each output time shows the newest picture not after it.

    Args:
        frames: in order; their first time is output time 0.
        fps: output rate, frames a second.
    """
    shown: VideoFrame | None = None
    origin_s, index = 0.0, 0
    half = 0.5 / float(fps)  # a picture half a frame early is nearer than the one before
    for frame in frames:
        if shown is None:
            origin_s = frame.time_s
        else:
            while origin_s + index / float(fps) + half <= frame.time_s:
                yield shown.image
                index += 1
        shown = frame
    if shown is not None:
        yield shown.image


def read_speech(path: str | Path, rate_hz: int = SPEECH_RATE_HZ) -> I16:
    """A file's first audio stream as int16[N] mono at `rate_hz`; a truncated file gives its start.

    Raises:
        MediaError: unreadable, without audio, or without a sample that decodes.
    """
    pieces = list(stream_speech(path, rate_hz))
    if not sum(map(len, pieces)):
        raise MediaError(f"{path}: its audio stream holds no sound that can be decoded")
    return np.concatenate(pieces)


def stream_speech(path: str | Path, rate_hz: int = SPEECH_RATE_HZ) -> Iterator[I16]:
    """The pieces of `read_speech` as they are decoded, so that long files need little memory."""
    import av

    with _open(path) as container:
        if not container.streams.audio:
            raise MediaError(f"{path}: has no audio stream")
        stream = container.streams.audio[0]
        resampler = av.AudioResampler(format="s16", layout="mono", rate=rate_hz)
        packets = container.demux(stream)
        while True:
            try:
                packet = next(packets)
                frames = packet.decode()
            except StopIteration:
                break
            except av.InvalidDataError:
                continue
            except av.FFmpegError:
                break  # a broken end is a truncated file: what came before it still counts
            for frame in frames:
                for piece in resampler.resample(frame):
                    yield piece.to_ndarray()[0]
        for piece in resampler.resample(None):
            yield piece.to_ndarray()[0]


def as_float(samples: I16) -> F32:
    """int16 -> f32 in ±1."""
    return samples.astype(np.float32) / 32768.0
