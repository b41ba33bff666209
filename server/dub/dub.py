"""A video and a voice -> the same face speaking the voice, as a file.

    decode -> listen, track, cut out -> paint -> composite -> encode

Each is a thread with a short queue behind it, so that an hour needs no more memory than a minute.
The session's clock is the video's own: a frame is pushed at its time since the first one, and
everything goes through each thread in order, so the result does not depend on how fast they are.
"""

from __future__ import annotations

import itertools
import logging
import math
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal

import numpy as np

from lipwire.engine import Engine, open_engine
from lipwire.engine.backends.cpu import usable_cores
from lipwire.engine.config import EngineConfig
from lipwire.engine.errors import MediaError
from lipwire.engine.media.files import probe_video, read_frames
from lipwire.engine.media.sound import stream_speech
from lipwire.engine.session.session import Session
from lipwire.engine.types import (
    I16,
    PLAYOUT_RATE_HZ,
    U8,
    Enrolled,
    LipJob,
    Outcome,
    OutputFrame,
    VideoFrame,
)
from lipwire.engine.units.enrolled import EnrolledBank
from lipwire.server import __version__
from lipwire.server.dub.pipe import Pipe, PipeThread
from lipwire.server.dub.soundtrack import BACKLOG_S, Soundtrack, original_sound
from lipwire.server.media.mp4 import Mp4Writer, check_out
from lipwire.server.media.provenance import open_credentials
from lipwire.server.media.watermark import Watermark

log = logging.getLogger(__name__)

Progress = Callable[[int, int], None]  # Is told frames done and frames expected (0 = unknown).
Written = tuple[OutputFrame, int] | I16  # A picture with its time, or sound.

FEW_CORES = 2
QUEUE_BYTES = 128 << 20  # decoded pictures that may wait on either side
DEFAULT_MARK = Watermark()
STILL_FPS = 25  # of a single picture that is held
LEARNED_AHEAD = 4  # frames that are decoded while one is looked at
SILENCE_PEAK = 64  # of int16: below it nobody hears anything


@dataclass(frozen=True, slots=True)
class DubSummary:
    """What became of a file."""

    output: str
    model: str  # name and version
    steps: int
    width: int
    height: int  # as written: even
    fps: float
    frames: int
    pasted: int  # frames that show one of the person's own mouths from another moment of the film
    generated: int
    passed_through: dict[str, int]  # frames shown as they were, by reason
    video_s: float
    speech_s: float  # of the voice that is heard
    elapsed_s: float  # from the call to the finished file, loading the model included
    real_time_factor: float  # elapsed_s / video_s: below 1 is faster than the video plays
    warnings: list[str]

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True, slots=True)
class _Begun:
    """A picture that a session has begun."""

    frame: VideoFrame
    now: float  # on the session's clock
    job: LipJob | None  # None: it passes through
    mouth: U8 | None = None  # set when it is painted; None with a job: that failed


def _decode(video: Path, held: int, frames: Pipe[VideoFrame], warn: Callable[[str], None]) -> None:
    """The decoding thread; what breaks after the first frame only ends the video there."""
    begun = False
    try:
        with closing(read_frames(video, warn, exact=False)) as source:
            for frame in _hold(source, held) if held else source:
                if not frames.put(frame):
                    return
                begun = True
    except Exception as error:
        if not begun:
            frames.end(error)
        warn(f"video: reading stopped ({error})")
    frames.end()


def _hold(frames: Iterator[VideoFrame], count: int) -> Iterator[VideoFrame]:
    """The first frame so often, at STILL_FPS."""
    frame = next(frames)
    step = max(1, round(1 / (frame.time_base * STILL_FPS)))
    for index in range(count):
        yield replace(frame, pts=frame.pts + index * step)


def _begin(
    frames: Iterator[VideoFrame],
    engine: Engine,
    session: Session,
    track: Soundtrack,
    step_s: float,
    begun: Pipe[_Begun | I16],
) -> None:
    """The thread that listens and looks: all that goes into the session goes in here."""
    first: VideoFrame | None = None
    now = 0.0
    try:
        for frame in frames:
            first = first or frame
            now = float((frame.pts - first.pts) * frame.time_base)
            track.play_to(now)
            track.feed(now)
            session.push_video(frame, now)
            if not begun.put(_Begun(frame, now, engine.begin(session, now))):
                return
        track.play_to(now + step_s, last=True)
        begun.end()
    except BaseException as error:
        begun.end(error)


def _paint(begun: Pipe[_Begun | I16], engine: Engine, painted: Pipe[_Begun | I16]) -> None:
    try:
        for item in begun:
            if isinstance(item, _Begun) and item.job is not None:
                item = replace(item, mouth=engine.paint([item.job])[0])
            if not painted.put(item):
                return
        painted.end()
    except BaseException as error:
        painted.end(error)


def learn_film(video: Path, session: Session, frames: int, progress: Progress | None) -> int:
    """Show the session all of the film, for the person's own mouths in it.

    What cannot be read is told of when the film is dubbed.

    Returns:
        How many frames it has.
    """
    seen = 0
    shown: Pipe[VideoFrame] = Pipe(LEARNED_AHEAD)
    try:
        with PipeThread(shown, _decode, video, 0, shown, lambda what: None):
            for frame in shown:
                session.learn(frame)
                seen += 1
                if progress is not None:
                    progress(seen, 2 * max(frames, seen))
    except MediaError:
        pass
    session.learned()
    return seen


def _encode(writer: Mp4Writer, written: Pipe[Written], step: int) -> None:
    try:
        for item in written:
            if isinstance(item, tuple):
                shown, pts = item
                writer.write_picture(shown.image, pts, step, shown.planes)
            else:
                writer.write_sound(item)
    except BaseException as error:
        written.drop(error)


def _model_threads() -> int | None:
    """How many the model gets where nobody says it; None: as many as make it faster.

    With two cores one of them is busy with all the rest: a second thread of the model would only
    wait for it.
    """
    return 1 if usable_cores() <= FEW_CORES else None


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
    mark: Watermark | None = DEFAULT_MARK,
    credentials: bool = True,
    bank: EnrolledBank | None = None,
) -> DubSummary:
    """Give the face in `video` the voice in `speech`; the video's length governs.

    The output has the video's size (an odd side grows by a pixel, see
    `lipwire.engine.media.colour.to_yuv`), frame times and colours. Where the voice ends early,
    silence and the original mouth follow; a longer voice is cut. A single picture is held as long
    as the voice. A damaged input gives a file of what could be decoded, and a warning.

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
        threads: CPU threads of the model; None decides by the machine.
        progress: is told how far it is.
        mark: drawn on every picture; None leaves it out, and the log says so.
        credentials: sign the file (C2PA) as the user whose chain this machine keeps.
        bank: the person's own mouths from elsewhere, beside those of the film.

    Raises:
        MediaError: an input cannot be used, or OUT cannot be written.
        ConfigError: a setting, or OUT, makes no sense.
        BundleError: the model cannot be used, or offers no such number of steps.
    """
    began = time.monotonic()
    how = {"offline": True, "delay_s": 0.0, "speech_backlog_max_s": BACKLOG_S, "silence": silence}
    sound = {"original_level": original_level, "ducking": ducking, "loudness_lufs": loudness_lufs}
    config = EngineConfig(steps=steps, **how, **sound)  # type: ignore[arg-type]
    check_out(out, video, speech)
    signer = open_credentials() if credentials else None  # what is wrong with it is known at once
    if mark is None or signer is None:
        asked = (("mark", mark), ("Content Credentials", signer))
        missing = [name for name, there in asked if there is None]
        log.warning("%s: written without %s, as asked", out, " and ".join(missing))
    info = probe_video(video)
    warnings: list[str] = []
    outcomes: Counter[Outcome] = Counter()
    with ExitStack() as stack:
        voice = stack.enter_context(
            closing(stream_speech(speech, PLAYOUT_RATE_HZ, warnings.append))
        )
        held = 0
        if info.still:
            voice_s = sum(map(len, stream_speech(speech, PLAYOUT_RATE_HZ))) / PLAYOUT_RATE_HZ
            held = max(1, math.ceil(voice_s * STILL_FPS))
            info = replace(info, frames=held, rate=Fraction(STILL_FPS), duration_s=voice_s)
            warnings.append(f"video: is a single picture; held for {voice_s:.2f} s of the voice")
        first_sound = next(voice)  # a file without sound is refused before the model is loaded
        original = stack.enter_context(
            closing(original_sound(video, original_level > 0 or ducking, warnings.append))
        )
        engine = stack.enter_context(
            open_engine(bundle, threads=threads or _model_threads(), batch_sizes=(1,))
        )
        session = engine.session(config, name=video.name, bank=bank)
        stack.callback(engine.end, session)

        looked_at = learn_film(video, session, info.frames, progress) if engine.chooses else 0
        if bank is not None and session.stats(0.0).bank.enrolled is not Enrolled.USED:
            warnings.append("bank: not used, the film shows another person's face")
        waiting = int(np.clip(QUEUE_BYTES // (3 * info.width * info.height), 1, 16))
        frames: Pipe[VideoFrame] = Pipe(waiting)
        stack.enter_context(PipeThread(frames, _decode, video, held, frames, warnings.append))
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
        # Pictures and the blocks of sound between them, about two for each.
        begun: Pipe[_Begun | I16] = Pipe(waiting)
        painted: Pipe[_Begun | I16] = Pipe(waiting)
        written: Pipe[Written] = Pipe(4 * waiting)
        track = Soundtrack(
            session, itertools.chain([first_sound], voice), original, origin.time_s, begun.put
        )
        step_s = float(step * base)
        given = itertools.chain([origin], source)
        beginner = PipeThread(begun, _begin, given, engine, session, track, step_s, begun)
        stack.enter_context(beginner)
        stack.enter_context(PipeThread(painted, _paint, begun, engine, painted))
        encoder = stack.enter_context(PipeThread(written, _encode, writer, written, step))
        now, resized, done = 0.0, False, 0
        for item in painted:
            if not isinstance(item, _Begun):
                written.put(item)
                continue
            now = item.now
            if item.job is not None:
                engine.finish(session, item.job, item.mouth, now)
            shown = session.pop_video(now)
            assert shown is not None  # off-line, a frame that was worked on is ready
            outcomes[shown.outcome] += 1
            written.put((shown, shown.pts - start))
            resized = resized or shown.image.shape[:2] != (info.height, info.width)
            done += 1
            if progress is not None:
                progress(looked_at + done, looked_at + info.frames)
        video_s = now + step_s
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
        if track.was_cut:
            warnings.append(f"speech: longer than the video, cut at {video_s:.2f} s")
        if track.peak < SILENCE_PEAK:
            warnings.append("speech: is silent")
        steps = session.steps
    generated = outcomes.pop(Outcome.GENERATED, 0)
    pasted = outcomes.pop(Outcome.PASTED, 0)
    elapsed_s = time.monotonic() - began
    return DubSummary(
        output=str(out),
        model=model,
        steps=steps,
        width=info.width + info.width % 2,
        height=info.height + info.height % 2,
        fps=round(float(info.rate), 3),
        frames=generated + pasted + outcomes.total(),
        pasted=pasted,
        generated=generated,
        passed_through={outcome.value: count for outcome, count in sorted(outcomes.items())},
        video_s=round(video_s, 3),
        speech_s=round(track.speech_s, 3),
        elapsed_s=round(elapsed_s, 3),
        real_time_factor=round(elapsed_s / video_s, 3),
        warnings=warnings,
    )
