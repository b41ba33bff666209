"""Pictures out of files, through PyAV (loaded on first use).

Damaged files give what can be decoded of them; what was lost is told to `on_damage`.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from lipwire.engine.errors import MediaError
from lipwire.engine.media.colour import Colour, colour_of, exact_upwards, missing_matrix
from lipwire.engine.media.container import (
    OnDamage,
    choose,
    decode,
    ignore,
    joined,
    open_media,
    open_part,
)
from lipwire.engine.media.fields import progressive
from lipwire.engine.media.orientation import Orientation, orientation_of
from lipwire.engine.media.planes import planes_of
from lipwire.engine.types import U8, VideoFrame

MAX_PIXELS = 8192 * 4320  # 8K; beyond it one frame in RGB alone is over 100 MB


@dataclass(frozen=True, slots=True)
class VideoInfo:
    """What a container says about its first video stream, and its first picture."""

    width: int  # pixels, as shown
    height: int
    rate: Fraction  # frames per second, the average when they vary
    orientation: Orientation  # how the picture is turned and mirrored to be shown
    frames: int  # as the container counts or as duration and rate imply; 0 if unknown
    duration_s: float  # 0 if unknown
    pixel_aspect: Fraction = Fraction(1)  # width of a pixel over its height, as shown
    colour: Colour = Colour()
    still: bool = False  # it is a single picture: a photograph, or the cover of a song


def _video_stream(container: Any, path: str | Path, on_damage: OnDamage = ignore) -> Any:
    """The video stream that is shown; the cover picture of a song is none."""
    import av

    cover = av.stream.Disposition.attached_pic
    streams = [s for s in container.streams.video if not s.disposition & cover]
    if not streams:
        raise MediaError(f"{path}: has no video stream")
    stream = choose(streams, path, "video", on_damage)
    _check_size(stream.codec_context.width, stream.codec_context.height, path)
    stream.thread_type = "AUTO"
    return stream


def _check_size(width: int, height: int, path: str | Path) -> None:
    if width * height > MAX_PIXELS:
        raise MediaError(f"{path}: {width}x{height} is larger than 8K ({MAX_PIXELS} pixels)")


def _rate(stream: Any) -> Fraction:
    return Fraction(stream.average_rate or stream.guessed_rate or 25)


def _duration_s(stream: Any) -> float:
    """Declared length of a stream, 0 if unknown."""
    if stream.duration and stream.time_base:
        return float(stream.duration * stream.time_base)
    try:  # Matroska says in a tag when it ends, as 00:00:02.000000000
        hours, minutes, seconds = stream.metadata["DURATION"].split(":")
        ends_s = int(hours) * 3600 + int(minutes) * 60 + float(seconds)
        return ends_s - float((stream.start_time or 0) * stream.time_base)
    except (KeyError, ValueError):
        return 0.0


def probe_video(path: str | Path) -> VideoInfo:
    """Size, rate, orientation, colours and length of a file's first video stream.

    Raises:
        MediaError: unreadable, without video, or without a single picture that decodes.
    """
    with open_media(path) as container:
        stream = _video_stream(container, path)
        frames = decode(container, stream, ignore, str(path))
        frame = next(frames, None)
        if frame is None:
            raise MediaError(f"{path}: its video stream holds no picture that can be decoded")
        _check_size(frame.width, frame.height, path)
        rate = _rate(stream)
        duration_s = _duration_s(stream) or (container.duration or 0) / 1_000_000
        aspect = Fraction(stream.sample_aspect_ratio or 1)
        width, height = frame.width, frame.height
        lies = orientation_of(frame)
        if lies.swap:
            width, height, aspect = height, width, 1 / aspect
        return VideoInfo(
            width=width,
            height=height,
            rate=rate,
            orientation=lies,
            frames=stream.frames or round(duration_s * rate),
            duration_s=duration_s,
            pixel_aspect=aspect,
            colour=colour_of(frame),
            still=stream.frames <= 1 and duration_s * rate < 2 and next(frames, None) is None,
        )


def to_rgb(frame: Any, exact: bool = False, scaler: Any = None) -> U8:
    """An av.VideoFrame as uint8[H, W, 3] RGB, turned the way it is to be shown.

    Args:
        frame: decoded.
        exact: spend 2 to 3 ms at 640x480 on true colours; otherwise they are a level darker.
        scaler: an av.video.reformatter.VideoReformatter for all frames of one stream, one at a
            time; None makes one. A frame's own would live, with its threads, as long as the frame.
    """
    from av.video.reformatter import VideoReformatter

    clear = has_alpha(frame)
    shown = (scaler or VideoReformatter()).reformat(
        frame,
        format="rgba" if clear else "rgb24",
        src_colorspace=missing_matrix(frame),
        interpolation=exact_upwards() if exact else None,
    )
    image = np.asarray(shown.to_ndarray(), np.uint8)
    if clear:  # what it hides may be anything, and shows as players show nothing: black
        opaque = image[..., 3:].astype(np.uint16)
        image = ((image[..., :3] * opaque + 127) // 255).astype(np.uint8)
    return np.ascontiguousarray(orientation_of(frame).apply(image))


def has_alpha(frame: Any) -> bool:
    """Whether an av.VideoFrame may be transparent."""
    return frame.format.has_palette or any(part.is_alpha for part in frame.format.components)


def _transparent(frame: Any) -> bool:
    """Whether some of an av.VideoFrame is."""
    return has_alpha(frame) and bool((frame.to_ndarray(format="rgba")[..., 3] < 255).any())


def read_frames(
    path: str | Path, on_damage: OnDamage = ignore, exact: bool = True
) -> Generator[VideoFrame, None, None]:
    """Every picture of the first video stream, in order, upright.

    What follows a damaged place is decoded again where the stream allows it; pictures without a
    time of their own, and times that run backwards, follow the last by one frame.

    Args:
        path: the file.
        on_damage: is told what is wrong with it.
        exact: true colours for every picture (see `to_rgb`); otherwise only for those without
            planes, whose own colours are in nothing else.

    Raises:
        MediaError: unreadable, without a video stream, or larger than 8K.
    """
    from av.video.reformatter import VideoReformatter

    scaler = VideoReformatter()
    base: Fraction | None = None
    last, step, told = -1, 1, False
    for part in joined(path):
        with open_part(path, part, on_damage, "video") as container:
            if container is None:
                continue
            stream = _video_stream(container, path, ignore if base else on_damage)
            own = stream.time_base or Fraction(1, 90_000)
            ahead: int | None = None if base else 0  # of the times that this part tells
            base = base or own
            for frame, time in _pictures(container, stream, own, path, on_damage):
                if not told and _transparent(frame):
                    told = True
                    on_damage("video: its transparency is lost; what is transparent is black")
                pts = round(time * own / base)
                if ahead is None:
                    ahead = max(0, last + step - pts)
                last = pts + ahead
                planes = planes_of(frame)
                image = to_rgb(frame, exact or planes is None, scaler)
                yield VideoFrame(image, last, base, planes)
            step = max(1, round(1 / (base * _rate(stream))))


def _pictures(
    container: Any, stream: Any, base: Fraction, path: str | Path, on_damage: OnDamage
) -> Iterator[tuple[Any, int]]:
    """The av.VideoFrames of a stream with times, in units of `base`, that only grow."""
    step = max(1, round(1 / (base * _rate(stream))))
    first: int | None = None
    last, count = 0, 0
    for frame in progressive(decode(container, stream, on_damage, "video"), on_damage):
        _check_size(frame.width, frame.height, path)
        pts = frame.pts
        if pts is not None and frame.time_base != base:  # a filter's
            pts = round(pts * frame.time_base / base)
        if first is None:
            first = pts = pts or 0
        elif pts is None or pts <= last:
            pts = last + step
        last = pts
        count += 1
        yield frame, pts
    if first is None:
        return
    # AVI counts frames that only repeat the one before, or stand for what begins late.
    counted = container.format.name != "avi"
    told_s = _duration_s(stream)
    found_s = float((last + step - (first if counted else 0)) * base)
    # A few frames are often cut away by an edit list, and durations are rounded.
    if counted and count < stream.frames * 0.98 - 3:
        on_damage(f"video: only {count} of {stream.frames} pictures could be decoded")
    elif found_s < told_s * 0.98 - 0.25:
        on_damage(f"video: ends after {found_s:.2f} of {told_s:.2f} s")


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
