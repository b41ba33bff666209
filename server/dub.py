"""A video and a voice -> the same face speaking the voice, as a file.

    decoding thread -> frames -> session on virtual time -> pictures and sound -> encoding thread

The session's clock is the video's own: a frame is pushed at its time since the first one, so the
mouth does not depend on how fast the machine is. Both queues are short: an hour needs no more
memory than a minute.
"""

from __future__ import annotations

import itertools
import logging
import time
from collections import Counter
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from engine import open_engine
from engine.config import EngineConfig
from engine.errors import MediaError
from engine.media import Sound, probe_video, read_frames, stream_sound, stream_speech
from engine.session import Session
from engine.types import I16, PLAYOUT_RATE_HZ, Outcome, OutputFrame, VideoFrame
from server import __version__
from server.mark import Mark
from server.mp4 import AUDIO_BLOCK, Mp4Writer, check_out
from server.pipe import Pipe, PipeThread
from server.provenance import open_credentials

log = logging.getLogger(__name__)

Progress = Callable[[int, int], None]
"""Is told frames done and frames expected (0 = unknown)."""
Written = tuple[OutputFrame, int] | I16
"""A picture with its time, or sound."""

# Voice is pushed this far ahead of the picture. Less than the model's look-ahead and what a
# resampler holds back: mel windows end in silence; more: memory for nothing.
AHEAD_S = 1.5
PIECE = PLAYOUT_RATE_HZ // 2  # a codec's longer pieces are cut, so that AHEAD_S bounds what waits
BACKLOG_S = 10.0  # never reached: at most AHEAD_S and one piece wait
QUEUE_BYTES = 128 << 20  # decoded pictures that may wait on either side
CUT_S = 0.1  # a voice longer by less is only its codec's padding
DEFAULT_MARK = Mark()
SILENCE_PEAK = 64  # of int16: below it nobody hears anything


@dataclass(frozen=True, slots=True)
class DubSummary:
    """What became of a file."""

    output: str
    model: str
    """name and version"""
    steps: int
    width: int
    height: int
    """as written: even"""
    fps: float
    frames: int
    generated: int
    passed_through: dict[str, int]
    """frames shown as they were, by reason"""
    video_s: float
    speech_s: float
    """of the voice that is heard"""
    elapsed_s: float
    """from the call to the finished file, loading the model included"""
    real_time_factor: float
    """elapsed_s / video_s: below 1 is faster than the video plays"""
    warnings: list[str]

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


class _Voices:
    """Gives a session the new and the original voice as far ahead as they are needed.

    Args:
        session: off-line.
        speech: the new voice at 48 kHz.
        original: the video's own at 48 kHz.
        origin_s: time of the first picture in the video.
        out: takes what is heard.
    """

    def __init__(
        self,
        session: Session,
        speech: Iterator[I16],
        original: Iterator[Sound],
        origin_s: float,
        out: Pipe[Written],
    ) -> None:
        self._session, self._speech, self._original = session, _cut(speech), original
        self._origin_s, self._out = origin_s, out
        self._held: Sound | None = None  # original voice that is not needed yet
        self._pushed = 0  # samples of the new voice
        self._heard = 0  # samples written
        self._ended = False
        self.peak = 0

    def play_to(self, time_s: float, last: bool = False) -> None:
        """Write what is heard before `time_s`, in whole blocks unless it is the `last`."""
        stop = round(time_s * PLAYOUT_RATE_HZ)
        while stop - self._heard >= (1 if last else AUDIO_BLOCK):
            self.feed(self._heard / PLAYOUT_RATE_HZ)
            block = self._session.read_audio(min(AUDIO_BLOCK, stop - self._heard)).samples
            self._out.put(block)
            self._heard += len(block)

    def feed(self, time_s: float) -> None:
        """Push what a picture shown at `time_s` may need."""
        while not self._ended and self._pushed < (time_s + AHEAD_S) * PLAYOUT_RATE_HZ:
            samples = next(self._speech, None)
            if samples is None:
                self._ended = True
                self._session.flush_speech()
                break
            self._session.push_speech(samples, PLAYOUT_RATE_HZ, time_s)
            self._pushed += len(samples)
            self.peak = max(self.peak, int(np.abs(samples.astype(np.int32)).max(initial=0)))
        while True:
            self._held = self._held or next(self._original, None)
            if self._held is None or self._held.time_s - self._origin_s > time_s + AHEAD_S:
                return
            start_s, samples = self._held.time_s - self._origin_s, self._held.samples
            self._held = None
            before = max(0, round(-start_s * PLAYOUT_RATE_HZ))  # heard before the first picture
            if before < len(samples):
                self._session.push_original(samples[before:], PLAYOUT_RATE_HZ, max(start_s, 0.0))

    @property
    def speech_s(self) -> float:
        """Voice that was heard."""
        return min(self._pushed, self._heard) / PLAYOUT_RATE_HZ

    @property
    def was_cut(self) -> bool:
        """Whether more voice was there than was heard."""
        more = self._pushed - self._heard > CUT_S * PLAYOUT_RATE_HZ
        return more or (not self._ended and next(self._speech, None) is not None)


def _cut(pieces: Iterator[I16]) -> Iterator[I16]:
    """The same samples in pieces of at most PIECE."""
    for piece in pieces:
        for start in range(0, len(piece), PIECE):
            yield piece[start : start + PIECE]


def _original(
    video: Path, wanted: bool, warn: Callable[[str], None]
) -> Generator[Sound, None, None]:
    """The video's own sound, if it is wanted."""
    if not wanted:
        return
    try:
        yield from stream_sound(video, PLAYOUT_RATE_HZ, lambda line: warn(f"original {line}"))
    except MediaError as error:
        warn(f"the original voice is not heard: {error}")


def _decode(video: Path, frames: Pipe[VideoFrame], warn: Callable[[str], None]) -> None:
    """The decoding thread; what breaks after the first frame only ends the video there."""
    begun = False
    try:
        with closing(read_frames(video, warn)) as source:
            for frame in source:
                if not frames.put(frame):
                    return
                begun = True
    except Exception as error:
        if not begun:
            frames.end(error)
        warn(f"video: reading stopped ({error})")
    frames.end()


def _encode(writer: Mp4Writer, written: Pipe[Written], step: int) -> None:
    """The encoding thread."""
    try:
        for item in written:
            if isinstance(item, tuple):
                shown, pts = item
                writer.write_picture(shown.image, pts, step, shown.planes)
            else:
                writer.write_sound(item)
    except BaseException as error:
        written.drop(error)


def dub(
    video: Path,
    speech: Path,
    out: Path,
    *,
    steps: int | None = None,
    bundle: Path | None = None,
    silence: Literal["original", "generate"] = "original",
    original_level: float = 0.0,
    ducking: bool = False,
    loudness_lufs: float | None = None,
    threads: int | None = None,
    progress: Progress | None = None,
    mark: Mark | None = DEFAULT_MARK,
    credentials: bool = True,
) -> DubSummary:
    """Give the face in `video` the voice in `speech`; the video's length governs.

    The output has the video's size (an odd side grows by a pixel, see `engine.colour.to_yuv`),
    frame times and colours. Where the voice ends early, silence and the original mouth follow; a
    longer voice is cut. A damaged input gives a file of what could be decoded, and a warning.

    Args:
        video: any container that PyAV opens.
        speech: a sound file, or a video whose sound is wanted.
        out: an MP4; it appears when it is whole and replaces what was there.
        steps: DDIM steps; None takes the model's default.
        bundle: the model; None takes the one that ships with lipwire.
        silence: while the voice is silent, show the person's own mouth or generate one.
        original_level: loudness of the video's own sound underneath, 0 to 1.
        ducking: the video's own sound in full while the voice is silent.
        loudness_lufs: what the voice is brought to (BS.1770); None leaves it as it is.
        threads: CPU threads of the model.
        progress: is told how far it is.
        mark: drawn on every picture; None leaves it out, and the log says so.
        credentials: sign the file (C2PA) as the user whose chain this machine keeps.

    Raises:
        MediaError: an input cannot be used, or OUT cannot be written.
        ConfigError: a setting, or OUT, makes no sense.
        BundleError: the model cannot be used, or offers no such number of steps.
    """
    began = time.monotonic()
    config = EngineConfig(
        offline=True, delay_s=0.0, speech_backlog_max_s=BACKLOG_S, steps=steps, silence=silence,
        original_level=original_level, ducking=ducking, loudness_lufs=loudness_lufs,
    )  # fmt: skip
    check_out(out, video, speech)
    signer = open_credentials() if credentials else None  # what is wrong with it is known at once
    if mark is None or signer is None:
        missing = [name for name, there in (("mark", mark), ("Content Credentials", signer))
                   if there is None]  # fmt: skip
        log.warning("%s: written without %s, as asked", out, " and ".join(missing))
    info = probe_video(video)
    warnings: list[str] = []
    outcomes: Counter[Outcome] = Counter()
    with ExitStack() as stack:
        voice = stack.enter_context(
            closing(stream_speech(speech, PLAYOUT_RATE_HZ, warnings.append))
        )
        first_sound = next(voice)  # a file without sound is refused before the model is loaded
        original = stack.enter_context(
            closing(_original(video, original_level > 0 or ducking, warnings.append))
        )
        engine = stack.enter_context(open_engine(bundle, threads=threads))
        session = engine.session(config, name=video.name)
        stack.callback(engine.end, session)

        waiting = int(np.clip(QUEUE_BYTES // (3 * info.width * info.height), 1, 16))
        frames: Pipe[VideoFrame] = Pipe(waiting)
        stack.enter_context(PipeThread(frames, _decode, video, frames, warnings.append))
        source = iter(frames)
        origin = next(source)  # probe_video has seen it
        base, start = origin.time_base, origin.pts
        step = max(1, round(1 / (base * info.rate)))  # how long the last picture is shown

        manifest = engine.backend.manifest
        model = f"{manifest.name} {manifest.version}"
        comment = (
            f"The lip movement in this video is AI-generated (lipwire {__version__}, {model})."
        )
        writer = stack.enter_context(Mp4Writer(out, info, base, comment, mark))
        # Pictures and the blocks of sound between them.
        written: Pipe[Written] = Pipe(4 * waiting)
        encoder = stack.enter_context(PipeThread(written, _encode, writer, written, step))
        voices = _Voices(
            session, itertools.chain([first_sound], voice), original, origin.time_s, written
        )
        now, resized = 0.0, False
        for done, frame in enumerate(itertools.chain([origin], source), 1):
            now = float((frame.pts - start) * base)
            voices.play_to(now)
            voices.feed(now)
            session.push_video(frame, now)
            engine.work([session], now)
            shown = session.pop_video(now)
            assert shown is not None  # off-line, a frame that was worked on is ready
            outcomes[shown.outcome] += 1
            written.put((shown, shown.pts - start))
            resized = resized or shown.image.shape[:2] != (info.height, info.width)
            if progress is not None:
                progress(done, info.frames)
        video_s = now + float(step * base)
        voices.play_to(video_s, last=True)
        encoder.join()

        def sign(path: Path) -> None:
            if signer is None:
                return
            try:
                signer.sign(path, out.name, model)
            except MediaError as error:  # what is finished is not thrown away
                warnings.append(str(error))

        writer.finish(sign)
        if resized:
            warnings.append(f"video: changes its size; all is scaled to {info.width}x{info.height}")
        if voices.was_cut:
            warnings.append(f"speech: longer than the video, cut at {video_s:.2f} s")
        if voices.peak < SILENCE_PEAK:
            warnings.append("speech: is silent")
        steps = session.steps
    generated = outcomes.pop(Outcome.GENERATED, 0)
    elapsed_s = time.monotonic() - began
    return DubSummary(
        output=str(out),
        model=model,
        steps=steps,
        width=info.width + info.width % 2,
        height=info.height + info.height % 2,
        fps=round(float(info.rate), 3),
        frames=generated + outcomes.total(),
        generated=generated,
        passed_through={outcome.value: count for outcome, count in sorted(outcomes.items())},
        video_s=round(video_s, 3),
        speech_s=round(voices.speech_s, 3),
        elapsed_s=round(elapsed_s, 3),
        real_time_factor=round(elapsed_s / video_s, 3),
        warnings=warnings,
    )
