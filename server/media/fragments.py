"""Fragmented MP4: a file that plays up to its last whole fragment at any moment of its making."""

from __future__ import annotations

import struct
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.video.frame import PictureType
from av.video.reformatter import VideoReformatter

from lipwire.engine.types import I16, PLAYOUT_RATE_HZ
from lipwire.server.rtc.encoding import copy_picture
from lipwire.server.rtc.tracks import VIDEO_TIME_BASE

KEPT_BLOCKS = 100  # of sound from before the first picture: pictures leave later by 0.3 s at most
FRAGMENT_S = 1.0  # what a kill may cost; shorter: more bytes of index
KEY_EVERY_S = 2.0  # how exactly a player can seek; shorter: larger files
# The encoder must not take the core that paints mouths. Lower CRF: larger files for nothing one
# sees; higher: skin turns to blocks.
CRF, PRESET = "21", "superfast"
AUDIO_BIT_RATE = 128_000
AUDIO_BLOCK = 1024  # samples of one AAC frame


class FragmentedFile:
    """The container. Used by one thread."""

    def __init__(self, path: Path, comment: str) -> None:
        self._path, self._comment = path, comment
        self._container: Any = None
        self.origin: int | None = None
        """session time of the first picture, in VIDEO_TIME_BASE: the file's zero"""
        self._key_due_s = 0.0
        self._scaler = VideoReformatter()  # a frame's own is for one thread only
        self._last_pts = -1
        self._sound = np.zeros(0, np.int16)  # less than one AAC frame
        self._samples = 0  # written
        self._before: list[tuple[av.AudioFrame, int]] = []  # sound from before the first picture
        self.seconds = 0.0

    def _open(self, width: int, height: int) -> None:
        # An index in front that says "see the fragments", each of which is complete by itself.
        # Without edit lists both tracks are shifted by the AAC encoder's delay, together.
        self._container = av.open(
            f"file:{self._path}",
            "w",
            format="mp4",
            options={
                "movflags": "+frag_keyframe+empty_moov+default_base_moof",
                "frag_duration": str(int(FRAGMENT_S * 1e6)),
                "flush_packets": "1",
            },
        )
        self._container.metadata["comment"] = self._comment
        # One thread and no look-ahead: nothing waits inside the encoder when the process dies.
        options = {"crf": CRF, "preset": PRESET, "tune": "zerolatency", "threads": "1"}
        video = self._video = self._container.add_stream("libx264", rate=30, options=options)
        video.width, video.height, video.pix_fmt = width & ~1, height & ~1, "yuv420p"
        video.codec_context.time_base = VIDEO_TIME_BASE
        video.codec_context.gop_size = 100_000  # key frames come by the clock, see below
        self._audio = self._container.add_stream(
            "aac", rate=PLAYOUT_RATE_HZ, layout="mono", bit_rate=AUDIO_BIT_RATE
        )
        self._container.start_encoding()

    def write_picture(self, frame: av.VideoFrame, pts: int) -> None:
        """Add a picture, at its time on the session's clock; one of another size is scaled."""
        if self.origin is None:
            self._open(frame.width, frame.height)
            self.origin = pts
            for block in self._before:
                self.write_sound(*block)
            self._before.clear()
        pts -= self.origin
        if pts <= self._last_pts:
            return
        video = self._video
        if (frame.width, frame.height) == (video.width, video.height):
            frame = copy_picture(frame)  # others encode it, and write into it
        else:
            frame = self._scaler.reformat(frame, video.width, video.height, "yuv420p")
        frame.pts, frame.time_base = pts, VIDEO_TIME_BASE
        now_s = float(pts * VIDEO_TIME_BASE)
        key = now_s >= self._key_due_s
        if key:
            self._key_due_s = now_s + KEY_EVERY_S
        frame.pict_type = PictureType.I if key else PictureType.NONE
        self._last_pts, self.seconds = pts, max(self.seconds, now_s)
        self._container.mux(video.encode(frame))

    def write_sound(self, frame: av.AudioFrame, pts: int) -> None:
        """Add a block of mono sound; what is missing before it is silence."""
        if self.origin is None:
            self._before.append((frame, pts))  # pictures leave later than their sound
            del self._before[:-KEPT_BLOCKS]
            return
        samples: I16 = frame.to_ndarray().reshape(-1).astype(np.int16)
        start = pts - round(self.origin * VIDEO_TIME_BASE * PLAYOUT_RATE_HZ)
        stands = self._samples + len(self._sound)
        if start < stands:
            samples = samples[stands - start :]
        while start > stands:  # in pieces: an hour of silence must not be an hour of memory
            gap = min(start - stands, PLAYOUT_RATE_HZ)
            self._encode_sound(np.zeros(gap, np.int16))
            stands += gap
        self._encode_sound(samples)

    def _encode_sound(self, samples: I16) -> None:
        self._sound = np.concatenate([self._sound, samples])
        while len(self._sound) >= AUDIO_BLOCK:
            block, self._sound = self._sound[:AUDIO_BLOCK], self._sound[AUDIO_BLOCK:]
            frame = av.AudioFrame.from_ndarray(block[None], format="s16", layout="mono")
            frame.sample_rate = PLAYOUT_RATE_HZ
            frame.pts, frame.time_base = self._samples, Fraction(1, PLAYOUT_RATE_HZ)
            self._samples += AUDIO_BLOCK
            self.seconds = max(self.seconds, self._samples / PLAYOUT_RATE_HZ)
            self._container.mux(self._audio.encode(frame))

    def close(self) -> None:
        """Write what waits, and the end."""
        if self._container is None:
            return
        try:
            for stream in (self._video, self._audio):
                self._container.mux(stream.encode(None))
        finally:
            self._container.close()


def trim(path: Path) -> bool:
    """Cut a fragmented MP4 after its last whole fragment; False if it has none.

    A fragment is a `moof` box and the `mdat` box behind it (ISO/IEC 14496-12, section 8.8).
    """
    size, place, whole = path.stat().st_size, 0, 0
    with path.open("r+b") as file:
        while place + 8 <= size:
            file.seek(place)
            length, kind = struct.unpack(">I4s", file.read(8))
            if length == 1:
                length = struct.unpack(">Q", file.read(8).ljust(8, b"\0"))[0]
            if length < 8 or place + length > size:
                break
            place += length
            if kind == b"mdat" or (whole and kind == b"mfra"):
                whole = place
        if whole:
            file.truncate(whole)
    return whole > 0
