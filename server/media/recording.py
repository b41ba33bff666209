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
import threading
import time
from collections import deque
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import av

from lipwire.engine.errors import ConfigError, LipwireError, MediaError
from lipwire.server import __version__
from lipwire.server.media.fragments import FRAGMENT_S, FragmentedFile, trim
from lipwire.server.media.provenance import Credentials, open_credentials
from lipwire.server.media.subtitles import Cue, vtt_cue
from lipwire.server.rtc.tracks import VIDEO_TIME_BASE

if TYPE_CHECKING:
    from lipwire.server.config import ServerConfig

log = logging.getLogger(__name__)

UNFINISHED = ".unfinished"
# Pictures and blocks of sound that may wait for the disk: 1 s and 10 s. More pictures: memory (0.5
# MB each at 640x480); fewer: a disk that hesitates leaves holes.
PICTURES, BLOCKS = 25, 500
# Free space below which nothing is written any more: the system needs the disk too.
RESERVE_BYTES = 200_000_000
GONE_S = 3.0  # how long the end of a process waits for signatures


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
        self, path: Path, comment: str, max_s: float, max_bytes: float, sign: Callable[[Path], None]
    ) -> None:
        self.path, self._comment = path, comment
        self._partial = path.with_name(f"{path.stem}{UNFINISHED}{path.suffix}")
        self._max_s, self._max_bytes, self._sign = max_s, max_bytes, sign
        self._items: deque[Any] = deque()
        self._waiting = {"video": 0, "audio": 0}
        self._change = threading.Condition()
        self._ending = False
        self.ended: str | None = None  # why it is over; None while it runs
        self.closed = threading.Event()  # set when the file has its name
        self.signed = False
        self.dropped = 0  # pictures and blocks that came faster than they could be written
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
            with contextlib.closing(FragmentedFile(self._partial, self._comment)) as file:
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

    def _write(self, file: FragmentedFile) -> None:
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

    def _write_cue(self, cue: Cue, written: FragmentedFile) -> None:
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


class Archive:
    """The folder of recordings."""

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
            try:
                with path.open("rb") as file:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    adopted += self._adopt(path)
            except BlockingIOError:
                continue  # another server is writing it
            except OSError as error:
                log.warning("%s: stays unfinished (%s)", path.name, error.strerror)
        return adopted

    def _adopt(self, path: Path) -> bool:
        if not trim(path):
            log.warning("%s: holds no picture and is removed", path.name)
            path.unlink()
            return False
        try:
            self._sign(path, _model_of(path))
            log.warning("%s: was left by a killed process; signed now", path.name)
        except (MediaError, ConfigError) as error:
            log.warning("%s: was left unfinished and is not signed: %s", path.name, error)
        os.replace(path, path.with_name(path.name.replace(UNFINISHED, "")))
        return True

    def close(self, seconds: float = GONE_S) -> None:
        """Finish all of them; what takes longer is finished at the next start."""
        until_s = time.monotonic() + seconds
        for recording in self._open:
            recording.finish("the server stops")
        for recording in self._open:
            recording.wait(max(0.0, until_s - time.monotonic()))


def _model_of(path: Path) -> str | None:
    """The model that the file itself names."""
    try:
        with av.open(str(path)) as container:
            found = re.search(r"\(lipwire [^,]+, (.+)\)", container.metadata.get("comment", ""))
    except (av.FFmpegError, OSError):
        return None
    return found[1] if found else None
