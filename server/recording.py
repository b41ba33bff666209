"""Recordings: what leaves a session, kept as a file that survives the death of its process.

    archive = Archive(settings, "lite 0.1.0")        # signs what a killed process left behind
    recording = archive.begin("session-name")
    relay.taps.append(recording.put)                 # marked pictures, mixed sound
    recording.finish("the session ended")            # the file gets its name when it is signed

The live path hands frames over and never waits: a thread encodes and writes. What cannot be taken
in time is left out and counted; a disk that is full ends the recording, not the call.

While it grows a file is called NAME.unfinished.mp4: fragmented MP4, playable up to the last whole
fragment at any moment. Signed it becomes NAME.mp4; the subtitles lie beside it as NAME.vtt.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import re
import shutil
import struct
import threading
import time
from collections import deque
from collections.abc import Callable
from datetime import UTC, datetime
from fractions import Fraction
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import av
import numpy as np
from av.video.frame import PictureType
from av.video.reformatter import VideoReformatter

from engine.errors import ConfigError, LipwireError, MediaError
from engine.types import I16, PLAYOUT_RATE_HZ
from server import __version__
from server.provenance import Credentials, open_credentials
from server.rendition import copy_picture
from server.subtitles import Cue, vtt_cue
from server.tracks import VIDEO_TIME_BASE

if TYPE_CHECKING:
    from server.config import ServerConfig

log = logging.getLogger(__name__)

UNFINISHED = ".unfinished"
# Pictures and blocks of sound that may wait for the disk: 1 s and 10 s. More pictures: memory (0.5
# MB each at 640x480); fewer: a disk that hesitates leaves holes.
PICTURES, BLOCKS = 25, 500
FRAGMENT_S = 1.0  # what a kill may cost; shorter: more bytes of index
KEY_EVERY_S = 2.0  # how exactly a player can seek; shorter: larger files
# The encoder must not take the core that paints mouths. Lower CRF: larger files for nothing one
# sees; higher: skin turns to blocks.
CRF, PRESET = "21", "superfast"
AUDIO_BIT_RATE = 128_000
AUDIO_BLOCK = 1024  # samples of one AAC frame
# Free space below which nothing is written any more: the system needs the disk too.
RESERVE_BYTES = 200_000_000
GONE_S = 10.0  # how long the end of a process waits for signatures


class RecordingRefused(LipwireError):
    """This server does not record, or not now; the message says why."""


class Recording:
    """One file from its first picture to its name.

    Args:
        path: the final name, ending in .mp4; must not exist.
        comment: goes into the file's metadata.
        max_s: seconds at most.
        max_bytes: of the file, at most.
        sign: is given the closed file; what it raises is logged and the file kept unsigned.
    """

    def __init__(
        self,
        path: Path,
        comment: str,
        max_s: float,
        max_bytes: float,
        sign: Callable[[Path], None],
    ) -> None:
        self.path, self._comment = path, comment
        self._partial = path.with_name(f"{path.stem}{UNFINISHED}{path.suffix}")
        self._max_s, self._max_bytes, self._sign = max_s, max_bytes, sign
        self._items: deque[Any] = deque()
        self._waiting = {"video": 0, "audio": 0}
        self._change = threading.Condition()
        self._ending = False
        self.ended: str | None = None
        """why it is over; None while it runs"""
        self.closed = threading.Event()
        """set when the file has its name"""
        self.signed = False
        self.dropped = 0
        """pictures and blocks that came faster than they could be written"""
        self.seconds = 0.0
        self.bytes = 0
        # Nothing before the first fragment is lost by making the file here: what is wrong with the
        # place is known to whoever asked.
        try:
            self._lock: IO[bytes] = self._partial.open("xb")
            fcntl.flock(self._lock, fcntl.LOCK_EX)
        except OSError as error:
            raise RecordingRefused(f"the recording cannot be written ({error.strerror})") from error
        self._thread = threading.Thread(target=self._run, name="lipwire-recording", daemon=True)
        self._thread.start()

    # --- from the live path ---

    def put(self, frame: av.VideoFrame | av.AudioFrame) -> None:
        """Take a marked picture or a block of sound on the session's clock; never waits."""
        kind, most = ("video", PICTURES) if isinstance(frame, av.VideoFrame) else ("audio", BLOCKS)
        with self._change:
            if self._ending:
                return
            if self._waiting[kind] >= most:
                self.dropped += 1
                return
            self._waiting[kind] += 1
            self._items.append((kind, frame, frame.pts))  # encoders write their own times into it
            self._change.notify()

    def put_cue(self, cue: Cue) -> None:
        """Take a subtitle that has been heard."""
        with self._change:
            if not self._ending:
                self._items.append(cue)
                self._change.notify()

    def finish(self, reason: str) -> None:
        """End it; what waits is written still. Returns at once."""
        with self._change:
            self._ending = True
            self.ended = self.ended or reason
            self._change.notify()

    def wait(self, seconds: float) -> bool:
        """Wait until the file has its name; False if it takes longer."""
        return self.closed.wait(seconds)

    def figures(self) -> dict[str, Any]:
        """For people."""
        return {
            "state": "recording" if self.ended is None else "ended",
            "file": self.path.name,
            "seconds": round(self.seconds, 1),
            "bytes": self.bytes,
            "dropped": self.dropped,
            "ended": self.ended,
            "signed": self.signed,
        }

    # --- the thread ---

    def _run(self) -> None:
        try:
            with contextlib.closing(_File(self._partial, self._comment)) as file:
                self._write(file)
        except Exception as error:
            why = getattr(error, "strerror", None) or str(error)
            self.finish(f"the recording cannot be written any more ({why})")
            log.error("%s: %s", self.path.name, self.ended)
        try:
            self._close()
        except Exception:
            log.exception("%s: the recording stays unfinished", self.path.name)
        finally:
            with self._change:
                self._items.clear()
            self._lock.close()
            self.closed.set()

    def _write(self, file: _File) -> None:
        next_look_s = 0.0
        while True:
            with self._change:
                self._change.wait_for(lambda: self._items or self._ending)
                if not self._items:
                    return
                item = self._items.popleft()
                if not isinstance(item, Cue):
                    self._waiting[item[0]] -= 1
            match item:
                case Cue():
                    self._write_cue(item, file)
                case "video", frame, pts:
                    file.write_picture(frame, pts)
                case "audio", frame, pts:
                    file.write_sound(frame, pts)
            self.seconds = file.seconds
            if self.seconds >= next_look_s and not self._ending:
                next_look_s = self.seconds + FRAGMENT_S
                self._look()

    def _look(self) -> None:
        """End it where a limit is reached."""
        self.bytes = self._partial.stat().st_size
        if self.seconds >= self._max_s:
            self.finish(f"the recording is {self._max_s:g} s long, the longest allowed")
        elif self.bytes >= self._max_bytes:
            self.finish(f"the recording has {self._max_bytes / 1e6:g} MB, the most allowed")
        elif shutil.disk_usage(self._partial.parent).free < RESERVE_BYTES:
            self.finish("the disk is full")
        if self.ended is not None:
            log.warning("%s: %s", self.path.name, self.ended)

    def _write_cue(self, cue: Cue, written: _File) -> None:
        if written.origin is None:
            return  # heard before the first picture
        path = self.path.with_suffix(".vtt")
        with path.open("a", encoding="utf-8") as file:
            if not file.tell():
                file.write("WEBVTT\n\n")
            file.write(vtt_cue(cue, float(written.origin * VIDEO_TIME_BASE)))

    def _close(self) -> None:
        if not trim(self._partial):
            self._partial.unlink()  # it ended before its first picture
            return
        self.bytes = self._partial.stat().st_size
        try:
            self._sign(self._partial)
            self.signed = True
        except (MediaError, ConfigError) as error:
            log.warning("%s: the recording is not signed: %s", self.path.name, error)
        os.replace(self._partial, self.path)


class _File:
    """The container. Used by one thread.

    Args:
        path: exists already.
        comment: goes into its metadata.
    """

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
            del self._before[:-BLOCKS]
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


class Archive:
    """The folder of recordings.

    Args:
        settings: the folder and the limits.
        model: name and version of what paints.
        credentials: signs; None takes the user's own, when first needed.
    """

    def __init__(
        self, settings: ServerConfig, model: str, credentials: Credentials | None = None
    ) -> None:
        self._settings, self._model, self._credentials = settings, model, credentials
        self._open: list[Recording] = []
        self.folder = settings.record

    def check(self) -> None:
        """Raise unless a recording may begin.

        Raises:
            RecordingRefused: the server does not record, or its disk is full.
        """
        if self.folder is None:
            raise RecordingRefused("this server does not record: it was started without --record")
        if shutil.disk_usage(self.folder).free < RESERVE_BYTES:
            raise RecordingRefused("the disk for recordings is full")

    def begin(self, session: str) -> Recording:
        """Start a recording.

        Args:
            session: its id; a part of it goes into the file's name.

        Raises:
            RecordingRefused: the server does not record, or the place is full or not writable.
        """
        self.check()
        assert self.folder is not None
        stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%S.%f")[:-3] + "Z"
        path = self.folder / f"{stamp}-{re.sub('[^A-Za-z0-9_-]', '', session)[:8]}.mp4"
        recording = Recording(
            path,
            f"The lip movement in this video is AI-generated (lipwire {__version__}, "
            f"{self._model}).",
            self._settings.record_max_s,
            self._settings.record_max_mb * 1e6,
            self._sign,
        )
        self._open = [r for r in self._open if not r.closed.is_set()] + [recording]
        return recording

    def _sign(self, path: Path, model: str | None = None) -> None:
        self._credentials = self._credentials or open_credentials()
        title = path.name.replace(UNFINISHED, "")
        self._credentials.sign(path, title, model or self._model)

    def adopt(self) -> int:
        """Trim, sign and name what a killed process left here; returns how many files.

        One that cannot be signed gets its name unsigned, and a line in the log that says so.
        """
        adopted = 0
        for path in sorted(self.folder.glob(f"*{UNFINISHED}.mp4")) if self.folder else ():
            with contextlib.suppress(BlockingIOError), path.open("rb") as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # another server may write it
                if not trim(path):
                    log.warning("%s: holds no picture and is removed", path.name)
                    path.unlink()
                    continue
                try:
                    self._sign(path, _model_of(path))
                    log.warning("%s: was left by a killed process; signed now", path.name)
                except (MediaError, ConfigError) as error:
                    log.warning("%s: was left unfinished and is not signed: %s", path.name, error)
                os.replace(path, path.with_name(path.name.replace(UNFINISHED, "")))
                adopted += 1
        return adopted

    def close(self, seconds: float = GONE_S) -> None:
        """Finish all of them; what takes longer is finished at the next start."""
        until_s = time.monotonic() + seconds
        for recording in self._open:
            recording.finish("the server stops")
        for recording in self._open:
            recording.wait(max(0.0, until_s - time.monotonic()))


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


def _model_of(path: Path) -> str | None:
    """The model that the file itself names."""
    try:
        with av.open(str(path)) as container:
            found = re.search(r"\(lipwire [^,]+, (.+)\)", container.metadata.get("comment", ""))
    except (av.FFmpegError, OSError):
        return None
    return found[1] if found else None
