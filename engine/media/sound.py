"""Sound out of files, through PyAV (loaded on first use), where the files' times have it."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lipwire.engine.errors import MediaError
from lipwire.engine.media.container import OnDamage, choose, decode, ignore, joined, open_part
from lipwire.engine.types import F32, I16, SPEECH_RATE_HZ

# Of sound in files. A few hundred bytes may claim any: FFmpeg's resampler from 1 GHz takes 10 s and
# 1 GiB to make, and one from 1 Hz makes 48,000 samples of each.
LOWEST_RATE_HZ, HIGHEST_RATE_HZ = 2_000, 768_000
# A step of the sound's times that is no jitter. Less: capture devices' jitter is cut and padded;
# more: the lips are seen to be early (ITU-R BT.1359: 45 ms).
HOLE_S = 0.045
# Times that run back by more begin another recording, which follows the one before; by less, what
# was heard already is left out.
RESTART_S = 1.0
# Times that leap by more are another clock (a piece of a live recording), not silence.
LEAP_S = 3600.0
SILENCE_PIECE = 48_000  # samples of a hole handed out at once
# Containers of sound alone whose time 0 is where playing begins. In others (MPEG-TS, MP3), and in
# films, that is where the first stream begins.
FROM_ZERO = {"mov", "matroska", "webm", "avi", "nut", "ogg", "flv", "asf"}


@dataclass(frozen=True, slots=True)
class Sound:
    """A piece of a file's sound."""

    samples: I16  # int16[N] mono
    time_s: float  # of its first sample, on the clock of the file's pictures
    begins_s: float = 0.0  # when players begin the file, on the same clock


def read_speech(path: str | Path, rate_hz: int = SPEECH_RATE_HZ) -> I16:
    """A file's voice as int16[N] mono at `rate_hz`; a truncated file gives its start.

    Raises:
        MediaError: unreadable, without audio, or without a sample that decodes.
    """
    return np.concatenate(list(stream_speech(path, rate_hz)))


def stream_speech(
    path: str | Path, rate_hz: int = SPEECH_RATE_HZ, on_damage: OnDamage = ignore
) -> Generator[I16, None, None]:
    """The pieces of `read_speech` as they are decoded, so that long files need little memory.

    They lie where the file's times have them: it begins with silence where its sound begins late,
    and holes are silent.

    Raises:
        MediaError: unreadable, without audio, or without a sample that decodes.
    """
    origin_s, done = None, 0
    for sound in stream_sound(path, rate_hz, on_damage):
        if origin_s is None:
            origin_s = min(sound.begins_s, sound.time_s)
        hole = round((sound.time_s - origin_s) * rate_hz) - done
        if hole > LEAP_S * rate_hz:
            on_damage(f"sound: its times leap by {hole / rate_hz:.0f} s, which are left out")
            origin_s += hole / rate_hz
        elif hole > 1:  # a sample is rounding
            for start in range(0, hole, SILENCE_PIECE):
                yield np.zeros(min(SILENCE_PIECE, hole - start), np.int16)
            done += hole
        done += len(sound.samples)
        yield sound.samples
    if origin_s is None:
        raise MediaError(f"{path}: its audio stream holds no sound that can be decoded")


def stream_sound(
    path: str | Path, rate_hz: int, on_damage: OnDamage = ignore
) -> Generator[Sound, None, None]:
    """Like `stream_speech`, with the time of each piece: to stay in step with the file's pictures.

    Times only grow: what they give twice is left out, and a recording that begins anew (joined
    files) follows the one before.

    Raises:
        MediaError: unreadable, without audio, or with a rate or channels that no sound has.
    """
    ends_s: float | None = None  # where what was handed out ends
    left_out_s = 0.0
    for part in joined(path):
        with open_part(path, part, on_damage, "sound") as container:
            if container is None:
                continue
            first_s, ahead_s = None, 0.0
            for sound in _sounds(
                container, path, rate_hz, on_damage, ignore if ends_s is not None else on_damage
            ):
                samples, time_s = sound.samples, sound.time_s + ahead_s
                early_s = 0.0 if ends_s is None else ends_s - time_s
                if first_s is None:  # of this part: where it begins late, it does so here too
                    first_s = sound.time_s
                    if early_s > 1 / rate_hz and ends_s is not None:
                        ahead_s = ends_s - min(sound.begins_s, sound.time_s)
                        time_s = sound.time_s + ahead_s
                elif early_s > RESTART_S or (early_s > HOLE_S and sound.time_s <= first_s + HOLE_S):
                    ahead_s += early_s
                    time_s += early_s
                elif early_s > 0.5 / rate_hz:
                    twice = round(early_s * rate_hz)
                    left_out_s += min(twice, len(samples)) / rate_hz
                    samples, time_s = samples[twice:], time_s + twice / rate_hz
                if len(samples):
                    yield Sound(samples, time_s, sound.begins_s)
                    ends_s = time_s + len(samples) / rate_hz
    if left_out_s >= 0.01:
        on_damage(f"sound: {left_out_s:.2f} s that its times give twice are left out")


def _sounds(
    container: Any, path: str | Path, rate_hz: int, on_damage: OnDamage, on_choice: OnDamage
) -> Iterator[Sound]:
    """The sound of one container, where its times have it."""
    import av

    if not container.streams.audio:
        raise MediaError(f"{path}: has no audio stream")
    stream = choose(list(container.streams.audio), path, "sound", on_choice)
    begins_s = (container.start_time or 0) / av.time_base
    if not container.streams.video and FROM_ZERO & set(container.format.name.split(",")):
        begins_s = 0.0
    resampler, shape = None, None
    base_s, done = 0.0, 0  # time of the resampler's first sample, and how many came out since
    for frame in decode(container, stream, on_damage, "sound"):
        if not LOWEST_RATE_HZ <= frame.sample_rate <= HIGHEST_RATE_HZ:
            raise MediaError(f"{path}: {frame.sample_rate} Hz is no sample rate of sound")
        now = (frame.format.name, frame.layout.name, frame.sample_rate)
        time_s = base_s + done / rate_hz if frame.pts is None else float(frame.time)
        # A hole in the times (a lost packet, a pause in a recording) starts afresh; what the
        # resampler holds back, some milliseconds, is not a hole.
        hole = abs(time_s - base_s - done / rate_hz) > HOLE_S
        if shape != now or hole:
            for samples in _flush(resampler, rate_hz, shape):
                yield Sound(samples, base_s + done / rate_hz, begins_s)
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
            yield Sound(samples, base_s + done / rate_hz, begins_s)
            done += len(samples)
    for samples in _flush(resampler, rate_hz, shape):
        yield Sound(samples, base_s + done / rate_hz, begins_s)
        done += len(samples)


def _flush(resampler: Any, rate_hz: int, shape: tuple[str, str, int] | None) -> Iterator[I16]:
    """What a resampler still holds; one that had nothing to change holds nothing."""
    if resampler is not None and shape != ("s16", "mono", rate_hz):
        for piece in resampler.resample(None):
            yield np.ascontiguousarray(piece.to_ndarray()[0], np.int16)


def as_float(samples: I16) -> F32:
    """int16 -> f32 in ±1."""
    return samples.astype(np.float32) / 32768.0
