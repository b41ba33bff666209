"""Pictures and sound out of files, through PyAV (loaded on first use).

Damaged files give what can be decoded of them; what was lost is told to `on_damage`.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from lipwire.engine.errors import MediaError
from lipwire.engine.media.colour import Colour, colour_of, exact_upwards, missing_matrix
from lipwire.engine.media.planes import planes_of
from lipwire.engine.types import F32, I16, SPEECH_RATE_HZ, U8, VideoFrame

OnDamage = Callable[[str], None]
"""Is told, in one line, what could not be decoded."""

MAX_PIXELS = 8192 * 4320  # 8K; beyond it one frame in RGB alone is over 100 MB
# Of sound in files. A few hundred bytes may claim any: FFmpeg's resampler from 1 GHz takes 10 s and
# 1 GiB to make, and one from 1 Hz makes 48,000 samples of each.
LOWEST_RATE_HZ, HIGHEST_RATE_HZ = 2_000, 768_000
# What FFmpeg would also open, though it is text, or a list that makes it open other files.
REFUSED_FORMATS = {"tty", "bin", "xbin", "adf", "idf", "hls", "dash", "concat"}


@dataclass(frozen=True, slots=True)
class VideoInfo:
    """What a container says about its first video stream, and its first picture."""

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
    """0 if unknown"""
    pixel_aspect: Fraction = Fraction(1)
    """width of a pixel over its height, as shown"""
    colour: Colour = Colour()


def _open(path: str | Path) -> Any:
    """Open a container, with one-line errors."""
    import av

    if not Path(path).exists():
        raise MediaError(f"{path}: no such file")
    if Path(path).is_dir():
        raise MediaError(f"{path}: is a folder, not a media file")
    try:
        # `file:` keeps a name with a colon a name; the whitelist keeps playlists off the network.
        container = av.open(f"file:{path}", options={"protocol_whitelist": "file"})
    except PermissionError as error:
        raise MediaError(f"{path}: may not be read") from error
    except (av.FFmpegError, ValueError, OSError) as error:
        why = getattr(error, "strerror", None) or str(error)
        raise MediaError(f"{path}: not a media file that can be read ({why})") from error
    names = set(container.format.name.split(","))
    if names & REFUSED_FORMATS:
        container.close()
        raise MediaError(f"{path}: is not a media file but {sorted(names)[0]!r}")
    return container


def _decode(container: Any, stream: Any, on_damage: OnDamage, what: str) -> Iterator[Any]:
    """Every frame of a stream that decodes; damaged packets are left out and counted."""
    import av

    damaged = 0
    packets = container.demux(stream)
    while True:
        try:
            packet = next(packets)
        except StopIteration:
            break
        except (av.FFmpegError, OSError) as error:
            # The demuxer gives up here; what the decoder still holds is worth having.
            on_damage(f"{what}: reading stopped ({getattr(error, 'strerror', None) or error})")
            packet = None
        try:
            yield from packet.decode() if packet else stream.codec_context.decode(None)
        except EOFError:
            pass
        except av.FFmpegError:
            damaged += 1  # the decoder finds its feet again at the next key frame
        if packet is None:
            break
    if damaged:
        on_damage(f"{what}: {damaged} damaged piece{'s' * (damaged > 1)} left out")


def _ignore(_: str) -> None:
    pass


# --- pictures ---


def _video_stream(container: Any, path: str | Path) -> Any:
    """The first video stream that is not the cover picture of a song."""
    import av

    cover = av.stream.Disposition.attached_pic
    streams = [s for s in container.streams.video if not s.disposition & cover]
    if not streams:
        raise MediaError(f"{path}: has no video stream")
    stream = streams[0]
    if stream.codec_context is None:
        raise MediaError(f"{path}: its video is in a format that cannot be decoded")
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
    try:  # Matroska says it in a tag, as 00:00:02.000000000
        hours, minutes, seconds = stream.metadata["DURATION"].split(":")
        return int(hours) * 3600 + int(minutes) * 60 + float(seconds)
    except (KeyError, ValueError):
        return 0.0


def probe_video(path: str | Path) -> VideoInfo:
    """Size, rate, rotation, colours and length of a file's first video stream.

    Raises:
        MediaError: unreadable, without video, or without a single picture that decodes.
    """
    with _open(path) as container:
        stream = _video_stream(container, path)
        frame = next(_decode(container, stream, _ignore, str(path)), None)
        if frame is None:
            raise MediaError(f"{path}: its video stream holds no picture that can be decoded")
        _check_size(frame.width, frame.height, path)
        rate = _rate(stream)
        duration_s = _duration_s(stream) or (container.duration or 0) / 1_000_000
        aspect = Fraction(stream.sample_aspect_ratio or 1)
        width, height = frame.width, frame.height
        if round(frame.rotation / 90) % 2:
            width, height, aspect = height, width, 1 / aspect
        return VideoInfo(
            width=width,
            height=height,
            rate=rate,
            rotation=int(frame.rotation),
            frames=stream.frames or round(duration_s * rate),
            duration_s=duration_s,
            pixel_aspect=aspect,
            colour=colour_of(frame),
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

    shown = (scaler or VideoReformatter()).reformat(
        frame,
        format="rgb24",
        src_colorspace=missing_matrix(frame),
        interpolation=exact_upwards() if exact else None,
    )
    image = np.asarray(shown.to_ndarray(), np.uint8)
    turns = round(frame.rotation / 90) % 4
    return np.ascontiguousarray(np.rot90(image, turns)) if turns else image


def read_frames(
    path: str | Path, on_damage: OnDamage = _ignore
) -> Generator[VideoFrame, None, None]:
    """Every picture of the first video stream, in order, upright.

    What follows a damaged place is decoded again where the stream allows it; pictures without a
    time of their own, and times that run backwards, follow the last by one frame.

    Args:
        path: a file.
        on_damage: hears what was lost.

    Raises:
        MediaError: unreadable, without a video stream, or larger than 8K.
    """
    with _open(path) as container:
        stream = _video_stream(container, path)
        base = stream.time_base or Fraction(1, 90_000)
        step = max(1, round(1 / (base * _rate(stream))))
        first: int | None = None
        last, count = 0, 0
        for frame in _decode(container, stream, on_damage, "video"):
            _check_size(frame.width, frame.height, path)
            pts = frame.pts
            if first is None:
                first = pts = pts or 0
            elif pts is None or pts <= last:
                pts = last + step
            last = pts
            count += 1
            yield VideoFrame(to_rgb(frame, exact=True), pts, base, planes_of(frame))
        if first is None:
            return
        told_s, found_s = _duration_s(stream), float((last + step - first) * base)
        # A few frames are often cut away by an edit list, and durations are rounded.
        if count < stream.frames * 0.98 - 3:
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


# --- sound ---


@dataclass(frozen=True, slots=True)
class Sound:
    """A piece of a file's sound."""

    samples: I16
    """int16[N] mono"""
    time_s: float
    """of its first sample, on the clock of the file's pictures"""


def read_speech(path: str | Path, rate_hz: int = SPEECH_RATE_HZ) -> I16:
    """A file's first audio stream as int16[N] mono at `rate_hz`; a truncated file gives its start.

    Raises:
        MediaError: unreadable, without audio, or without a sample that decodes.
    """
    return np.concatenate(list(stream_speech(path, rate_hz)))


def stream_speech(
    path: str | Path, rate_hz: int = SPEECH_RATE_HZ, on_damage: OnDamage = _ignore
) -> Generator[I16, None, None]:
    """The pieces of `read_speech` as they are decoded, so that long files need little memory.

    Args:
        path: a file.
        rate_hz: of the samples wanted.
        on_damage: hears what was lost.

    Raises:
        MediaError: unreadable, without audio, or without a sample that decodes.
    """
    heard = False
    for sound in stream_sound(path, rate_hz, on_damage):
        heard = True
        yield sound.samples
    if not heard:
        raise MediaError(f"{path}: its audio stream holds no sound that can be decoded")


def stream_sound(
    path: str | Path, rate_hz: int, on_damage: OnDamage = _ignore
) -> Generator[Sound, None, None]:
    """Like `stream_speech`, with the time of each piece: to stay in step with the file's pictures.

    Args:
        path: a file.
        rate_hz: of the samples wanted.
        on_damage: hears what was lost.

    Raises:
        MediaError: unreadable, without audio, or with a rate or channels that no sound has.
    """
    import av

    with _open(path) as container:
        if not container.streams.audio:
            raise MediaError(f"{path}: has no audio stream")
        stream = container.streams.audio[0]
        if stream.codec_context is None:
            raise MediaError(f"{path}: its sound is in a format that cannot be decoded")
        resampler, shape = None, None
        base_s, done = 0.0, 0  # time of the resampler's first sample, and how many came out since
        for frame in _decode(container, stream, on_damage, "sound"):
            if not LOWEST_RATE_HZ <= frame.sample_rate <= HIGHEST_RATE_HZ:
                raise MediaError(f"{path}: {frame.sample_rate} Hz is no sample rate of sound")
            now = (frame.format.name, frame.layout.name, frame.sample_rate)
            time_s = base_s + done / rate_hz if frame.pts is None else float(frame.time)
            # A hole in the times (a lost packet, a pause in a recording) starts afresh; what the
            # resampler holds back, some milliseconds, is not a hole.
            hole = abs(time_s - base_s - done / rate_hz) > 0.1
            if shape != now or hole:
                for samples in _flush(resampler, rate_hz, shape):
                    yield Sound(samples, base_s + done / rate_hz)
                    done += len(samples)
                resampler = av.AudioResampler(format="s16", layout="mono", rate=rate_hz)
                shape, base_s, done = now, time_s, 0
            try:
                pieces = resampler.resample(frame)  # type: ignore[union-attr]
            except av.FFmpegError as error:  # 17 channels and more: none knows where they belong
                raise MediaError(
                    f"{path}: sound of {frame.layout.name} cannot be mixed into one"
                ) from error
            for piece in pieces:
                samples = np.ascontiguousarray(piece.to_ndarray()[0], np.int16)
                yield Sound(samples, base_s + done / rate_hz)
                done += len(samples)
        for samples in _flush(resampler, rate_hz, shape):
            yield Sound(samples, base_s + done / rate_hz)
            done += len(samples)


def _flush(resampler: Any, rate_hz: int, shape: tuple[str, str, int] | None) -> Iterator[I16]:
    """What a resampler still holds; one that had nothing to change holds nothing."""
    if resampler is not None and shape != ("s16", "mono", rate_hz):
        for piece in resampler.resample(None):
            yield np.ascontiguousarray(piece.to_ndarray()[0], np.int16)


def as_float(samples: I16) -> F32:
    """int16 -> f32 in ±1."""
    return samples.astype(np.float32) / 32768.0
