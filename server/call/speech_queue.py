"""Where the new voice comes from: files, samples, text, streams of PCM; and how it gets in.

Everything ends in one `Voice` per call, which holds sources back while enough voice waits, and
drops what is on its way when the voice is interrupted.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import shutil
import subprocess
import tempfile
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import IO

import numpy as np

from lipwire.engine import PLAYOUT_RATE_HZ, BacklogFull, LipwireError, MediaError, Session
from lipwire.engine.media.sound import stream_speech
from lipwire.engine.trace import UNTRACED, Trace
from lipwire.engine.types import I16

VOICES = Path(__file__).parents[1] / "static" / "voices"
CHUNK_S = 0.5  # pushed at once: small against the backlog, large against the cost of a push
TRACES = 1500  # pieces whose traces are kept: half a minute of a voice that comes by 20 ms
RETRY_S = 0.1  # how soon a full backlog is tried again
# What may be uploaded, by FFmpeg's names. Play lists (hls, concat, dash) are not among them: they
# make FFmpeg open other files and addresses.
FORMATS = (
    "wav,w64,aiff,au,caf,flac,mp3,ogg,aac,ac3,amr,matroska,webm,mov,mp4,m4a,asf,avi,mpegts,mpeg,flv"
)


class NotMedia(MediaError):
    """An upload that is no sound or video file at all."""


class NoSpeech(LipwireError):
    """This machine cannot speak text."""


class SpeechQueue:
    """The way into one session's speech, for all its sources."""

    def __init__(self, session: Session, clock: Callable[[], float]) -> None:
        self._session, self._clock = session, clock
        self._turn = asyncio.Lock()  # whole utterances follow each other
        self._interrupted = 0  # how often; what was under way before is dropped
        self._busy = 0  # sources other than the live track that are pushing
        self._until_s = 0.0  # the engine's time at which all that was pushed has been heard
        self._live_heard = False  # whether what waits to be heard came from the live track
        self.traces: deque[Trace] = deque(maxlen=TRACES)
        """of the pieces that were pushed last, where they came with one"""
        self._span: tuple[float, float] | None = None  # of what was scheduled since `take_span`
        self.on_text: Callable[[str, str | None, float, float], None] | None = None
        """told of text that is spoken: its language, when it is heard (engine's clock), seconds"""

    async def push(self, samples: I16, rate_hz: int, trace: Trace = UNTRACED) -> bool:
        """Schedule more voice, waiting while too much waits; False if an interruption dropped it.

        Args:
            samples: int16[N] mono, any length.
            rate_hz: their rate.
            trace: told what is done with the first of them.

        Raises:
            MediaError: a rate that cannot be used.
            SessionClosed: the call is over.
        """
        era, size = self._interrupted, max(1, int(CHUNK_S * rate_hz))
        self._busy += 1
        try:
            for start in range(0, len(samples), size):
                while era == self._interrupted:
                    try:
                        piece = samples[start : start + size]
                        heard_s = self._push(piece, rate_hz, trace=UNTRACED if start else trace)
                    except BacklogFull:
                        await asyncio.sleep(RETRY_S)
                    else:
                        self._live_heard = False
                        first_s = heard_s if self._span is None else self._span[0]
                        self._span = first_s, self._until_s
                        break
                else:
                    return False
                await asyncio.sleep(0)  # a long burst must not hold up the pictures
            return era == self._interrupted
        finally:
            self._busy -= 1

    @property
    def unheard_s(self) -> float:
        """How long what was pushed goes on being heard."""
        return max(0.0, self._until_s - self._clock())

    def push_live(self, samples: I16, rate_hz: int, trace: Trace = UNTRACED) -> None:
        """Schedule a piece of a voice that comes as it is spoken; never waits.

        It is left out while another source speaks.
        """
        if self._busy or (not self._live_heard and self._until_s > self._clock()):
            return
        with contextlib.suppress(BacklogFull):  # minutes behind: a stream can only lose sound here
            self._push(samples, rate_hz, live=True, trace=trace)
            self._live_heard = True

    def _push(
        self, samples: I16, rate_hz: int, live: bool = False, trace: Trace = UNTRACED
    ) -> float:
        """When the first of them is heard, on the engine's clock."""
        now = self._clock()
        start_s = now + self._session.push_speech(samples, rate_hz, now, live, trace)
        trace.stamp("pushed", now)
        if trace.kept:
            self.traces.append(trace)
        self._until_s = start_s + len(samples) / rate_hz
        return start_s

    def take_span(self) -> tuple[float, float] | None:
        """From when to when, on the engine's clock, what was pushed since the last call is heard.

        None where nothing was. The live track does not count: it never ends.
        """
        span, self._span = self._span, None
        return span

    async def speak(
        self,
        pieces: AsyncIterator[I16],
        rate_hz: int,
        begins: Callable[[float], None] | None = None,
    ) -> float:
        """Schedule one whole utterance after those that came before; returns its seconds.

        Args:
            pieces: int16[N] each, as they are decoded.
            rate_hz: their rate.
            begins: told when the utterance will be heard, once that is known (engine's clock).
        """
        async with self._turn:
            count, era = 0, self._interrupted
            self.take_span()
            async for piece in pieces:
                if era != self._interrupted or not await self.push(piece, rate_hz):
                    break
                if begins is not None and not count and (span := self.take_span()) is not None:
                    begins(span[0])
                count += len(piece)
            else:
                self.flush()
            return count / rate_hz

    def flush(self) -> None:
        """The utterance is complete."""
        self._session.flush_speech()

    def interrupt(self) -> None:
        """Drop what has not been heard, and what is still on its way here."""
        self._interrupted += 1
        self._until_s, self._span = self._clock(), None
        self._session.interrupt_speech(self._until_s)


def sample_voices() -> dict[str, Path]:
    """The voices that ship with lipwire, by name."""
    return {path.stem: path for path in sorted(VOICES.glob("*.ogg"))}


def check_upload(path: Path) -> None:
    """Refuse a file that is not a sound or video file of a known kind.

    Raises:
        NotMedia: it is not.
        MediaError: it is, but holds no sound.
    """
    import av

    try:
        with av.open(str(path), options={"format_whitelist": FORMATS}) as container:
            if not container.streams.audio:
                raise MediaError("the file has no audio stream")
    except (av.FFmpegError, ValueError, OSError) as error:
        if isinstance(error, MediaError):
            raise
        raise NotMedia("the file is not a sound or video file that can be read") from error


def _pieces(path: Path, note: Callable[[str], None] = lambda _: None) -> Iterator[I16]:
    """The sound of a checked file, in pieces of about CHUNK_S; at least one sample.

    Raises:
        MediaError: without a path in it: callers do not know ours.
    """
    waiting: list[I16] = []
    total = 0
    try:
        for piece in stream_speech(path, PLAYOUT_RATE_HZ, note):
            waiting.append(piece)
            total += len(piece)
            if sum(map(len, waiting)) >= CHUNK_S * PLAYOUT_RATE_HZ:
                yield np.concatenate(waiting)
                waiting = []
    except MediaError as error:
        raise MediaError(str(error).replace(f"{path}: ", "the file ")) from error
    if waiting:
        yield np.concatenate(waiting)
    if not total:
        raise MediaError("the file's audio stream holds no sound that can be decoded")


async def read_pieces(
    path: Path, note: Callable[[str], None] = lambda _: None
) -> AsyncIterator[I16]:
    """A file's sound at 48 kHz, decoded beside the event loop as it is asked for."""
    pieces = _pieces(path, note)
    while True:
        piece = await asyncio.to_thread(next, pieces, None)
        if piece is None:
            return
        yield piece


@contextlib.asynccontextmanager
async def scratch_file() -> AsyncIterator[IO[bytes]]:
    """A file for an upload, made and deleted beside the event loop; so should it be written."""
    file = await asyncio.to_thread(lambda: tempfile.NamedTemporaryFile(prefix="lipwire-"))
    try:
        yield file
    finally:
        await asyncio.to_thread(file.close)


async def speak_file(
    voice: SpeechQueue,
    path: Path,
    begins: Callable[[float], None] | None = None,
    note: Callable[[str], None] = lambda _: None,
) -> float:
    """Let a call's voice speak a file; returns the seconds scheduled.

    Raises:
        NotMedia: not a sound or video file.
        MediaError: without sound.
    """
    await asyncio.to_thread(check_upload, path)
    return await voice.speak(read_pieces(path, note), PLAYOUT_RATE_HZ, begins)


def espeak() -> str | None:
    """The text-to-speech program of this machine."""
    return shutil.which("espeak-ng")


def synthesise(text: str, path: Path, language: str = "en-us") -> None:
    """Speak text into a WAV file.

    Raises:
        NoSpeech: espeak-ng is not installed or does not run.
        MediaError: a language that it does not have, or nothing to say.
    """
    program = espeak()
    if program is None:
        raise NoSpeech("text needs espeak-ng, which is not installed on the server")
    if not re.fullmatch(r"[a-z]{2,3}(-[a-z0-9]{2,8}){0,3}", language):
        raise MediaError(f"{language!r} is not a language code such as 'de' or 'en-us'")
    if not text.strip():
        raise MediaError("there is no text to say")
    command = [program, "-v", language, "-s", "150", "-b", "1", "-w", str(path), "--stdin"]
    try:
        done = subprocess.run(
            command, input=text.encode(), capture_output=True, timeout=30, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise NoSpeech(f"espeak-ng failed ({error})") from error
    if done.returncode or not path.is_file():
        cause = done.stderr.decode(errors="replace").strip().splitlines()
        raise MediaError(f"espeak-ng cannot say it ({cause[-1] if cause else 'no message'})")


async def speak_text(voice: SpeechQueue, text: str, language: str = "en-us") -> float:
    """Let a call's voice speak text, which is its own subtitle; returns the seconds scheduled."""
    with tempfile.TemporaryDirectory(prefix="lipwire-") as folder:
        path = Path(folder) / "speech.wav"
        await asyncio.to_thread(synthesise, text, path, language)
        seconds = await asyncio.to_thread(_seconds, path)

        def begins(heard_s: float) -> None:
            if voice.on_text is not None:
                voice.on_text(text, language, heard_s, seconds)

        spoken_s = await speak_file(voice, path, begins)
        voice.take_span()  # it has its subtitle
        return spoken_s


def _seconds(path: Path) -> float:
    """How long a sound file is."""
    import av

    with av.open(str(path)) as container:
        return float((container.duration or 0) / av.time_base)
