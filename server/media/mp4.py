"""Mp4Writer: pictures and sound -> a file that appears only when it is whole."""

from __future__ import annotations

import errno
import os
import secrets
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

from lipwire.engine.errors import ConfigError, MediaError
from lipwire.engine.media.colour import LIMITED_RANGE, to_yuv
from lipwire.engine.media.files import VideoInfo
from lipwire.engine.media.planes import even, frame_of
from lipwire.engine.types import I16, PLAYOUT_RATE_HZ, U8, Planes
from lipwire.server.media.watermark import Watermark

SUFFIXES = (".mp4", ".m4v", ".mov")
CRF = 18  # lower: larger files for nothing one sees; higher: skin turns to blocks
PRESET = "veryfast"  # slower ones take the core that paints mouths
AUDIO_BIT_RATE = 128_000
NAME_BYTES = 255  # of a file's name, on every usual file system
AUDIO_BLOCK = 1024  # samples of one AAC frame: writing in these leaves nothing in between


def check_out(out: Path, *inputs: Path) -> None:
    """Refuse a place that cannot or must not be written, before any work is done.

    Raises:
        ConfigError: names what is wrong with it.
    """
    if (size := len(os.fsencode(out.name))) > NAME_BYTES:
        raise ConfigError(f"the name of the output has {size} bytes; {NAME_BYTES} are the most")
    if out.suffix.lower() not in SUFFIXES:
        raise ConfigError(f"{out}: the output must end in one of {', '.join(SUFFIXES)}")
    if out.is_dir():
        raise ConfigError(f"{out}: is a folder; name a file")
    if not out.parent.is_dir():
        raise ConfigError(f"{out.parent}: no such folder")
    if not os.access(out.parent, os.W_OK):
        raise ConfigError(f"{out.parent}: may not be written to")
    for path in inputs:
        if out.exists() and path.exists() and out.samefile(path):
            raise ConfigError(f"{out}: is an input too; choose another output")


class Mp4Writer:
    """H.264 and AAC in an MP4, written beside `out` and renamed when `finish` has run.

    Leaving the `with` block without `finish` removes what was written. Used by one thread.

    Args:
        out: the file.
        info: size, rate, pixel shape and colours of the pictures.
        time_base: of the pictures' times; kept, so that a variable frame rate stays what it is.
        comment: goes into the file's metadata.
        mark: drawn on every picture.

    Raises:
        MediaError: the file cannot be made, or the encoder refuses the size.
    """

    def __init__(
        self,
        out: Path,
        info: VideoInfo,
        time_base: Fraction,
        comment: str,
        mark: Watermark | None = None,
    ) -> None:
        import av

        self._out, self._info, self._time_base, self._mark = out, info, time_base, mark
        self._partial = out.with_name(f".{out.stem[:32]}.{secrets.token_hex(4)}{out.suffix}")
        self._samples = 0
        try:
            # faststart puts the index in front, so that browsers play before all is loaded.
            self._container: Any = av.open(
                f"file:{self._partial}", "w", format="mp4", options={"movflags": "+faststart"}
            )
        except (av.FFmpegError, OSError) as error:
            raise self._cannot(error) from error
        try:
            self._container.metadata["comment"] = comment
            self._video = self._add_video()
            self._audio = self._container.add_stream(
                "aac", rate=PLAYOUT_RATE_HZ, layout="mono", bit_rate=AUDIO_BIT_RATE
            )
            self._container.start_encoding()
        except (av.FFmpegError, OSError, ValueError) as error:
            self._discard()
            raise self._cannot(error) from error

    def _add_video(self) -> Any:
        info = self._info
        rate = info.rate.limit_denominator(1001)
        stream = self._container.add_stream(
            "libx264", rate=rate, options={"crf": str(CRF), "preset": PRESET}
        )
        stream.width, stream.height = info.width + info.width % 2, info.height + info.height % 2
        stream.pix_fmt = "yuv420p"
        codec = stream.codec_context
        codec.time_base = self._time_base
        codec.sample_aspect_ratio = info.pixel_aspect
        codec.color_range = LIMITED_RANGE
        codec.colorspace = info.colour.matrix
        codec.color_primaries = info.colour.primaries
        codec.color_trc = info.colour.transfer
        return stream

    def write_picture(
        self, image: U8, pts: int, duration: int, planes: Planes | None = None
    ) -> None:
        """Add uint8[H, W, 3] at `pts`, both times in the time base; another size is scaled.

        `planes` are the same picture; of the file's size and colours they are written untouched.

        Raises:
            MediaError: the file cannot be written.
        """
        width, height = self._info.width, self._info.height
        resized = image.shape[:2] != (height, width)
        if planes is not None and planes.matrix == self._info.colour.matrix and not resized:
            frame = frame_of(even(planes))
        else:
            if resized:
                import cv2

                image = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)  # type: ignore[assignment]
            frame = to_yuv(image, self._info.colour)
        if self._mark is not None:
            self._mark.draw(frame)
        frame.pts, frame.time_base, frame.duration = pts, self._time_base, duration
        self._encode(self._video, frame)

    def write_sound(self, samples: I16) -> None:
        """Add int16[N] mono at 48 kHz, following what was added before.

        Raises:
            MediaError: the file cannot be written.
        """
        import av

        frame = av.AudioFrame.from_ndarray(samples[None], format="s16", layout="mono")
        frame.sample_rate = PLAYOUT_RATE_HZ
        frame.pts, frame.time_base = self._samples, Fraction(1, PLAYOUT_RATE_HZ)
        self._samples += len(samples)
        self._encode(self._audio, frame)

    def _encode(self, stream: Any, frame: Any) -> None:
        import av

        try:
            self._container.mux(stream.encode(frame))
        except (av.FFmpegError, OSError) as error:
            raise self._cannot(error) from error

    def finish(self, sign: Callable[[Path], None] = lambda path: None) -> None:
        """Write the end and give the file its name.

        Raises:
            MediaError: the file cannot be written; nothing of it is left.
        """
        import av

        self._encode(self._video, None)
        self._encode(self._audio, None)
        try:
            self._container.close()
            sign(self._partial)
            os.replace(self._partial, self._out)
        except (av.FFmpegError, OSError) as error:
            raise self._cannot(error) from error

    def _cannot(self, error: Exception) -> MediaError:
        why = getattr(error, "strerror", None) or str(error)
        if getattr(error, "errno", None) == errno.EINVAL:
            why = f"the encoder refuses {self._info.width}x{self._info.height} at {self._info.rate}"
        return MediaError(f"{self._out}: cannot be written ({why})")

    def _discard(self) -> None:
        import av

        try:
            self._container.close()
        except (av.FFmpegError, OSError):
            pass  # it is thrown away
        self._partial.unlink(missing_ok=True)

    def __enter__(self) -> Mp4Writer:
        return self

    def __exit__(self, *_: object) -> None:
        self._discard()
