"""The heart: frames and speech in, frames and speech out. No threads, no sockets, no sleeping.

Callers pass `now`, seconds on any clock that only moves forward; the session's own clock starts
at 0 when it is made. All that is here is cheap and may be called from any thread; the heavy work is
done by workers, through `jobs`.

    push_video -> newest-frame slot -> jobs.begin -> LipJob -> a backend -> jobs.complete
        -> pop_video, in order, at its time
    push_speech -> scheduled on the clock -> pop_audio
Whatever goes wrong on the way, the original frame goes out instead, counted by its reason.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
from typing import Literal

import numpy as np

from lipwire.engine.audio.mel import LOOKAHEAD_S
from lipwire.engine.audio.mixer import Mixer
from lipwire.engine.audio.source_timeline import SourceTimeline
from lipwire.engine.audio.timeline import PLAYED_KEPT_S, SpeechTimeline
from lipwire.engine.config import EngineConfig
from lipwire.engine.errors import BankError, ConfigError, MediaError, SessionClosed
from lipwire.engine.face.policy import Choice
from lipwire.engine.face.tracker import FaceTracker
from lipwire.engine.overload.controller import QualityController
from lipwire.engine.overload.levels import Change
from lipwire.engine.overload.load_tracker import LoadTracker
from lipwire.engine.session.conditioning import AudioConditioner, Listen
from lipwire.engine.session.frame_queue import ABANDONED_S, FrameQueue
from lipwire.engine.session.jobs import JobFactory
from lipwire.engine.session.lazy_face_pipeline import LazyFacePipeline
from lipwire.engine.session.metrics import SessionMetrics
from lipwire.engine.session.playout_delay import PlayoutDelay
from lipwire.engine.trace import UNTRACED, Trace
from lipwire.engine.types import (
    I16,
    PLAYOUT_RATE_HZ,
    AudioChunk,
    JobSpec,
    Outcome,
    OutputFrame,
    SessionStats,
    VideoFrame,
)
from lipwire.engine.units.enrolled import Consent, EnrolledBank

AUDIO_BLOCK = PLAYOUT_RATE_HZ // 50  # 20 ms: exactly one Opus frame


class Session:
    """One person, one new voice.

    Args:
        name: identifies the session in jobs and logs.
        make_tracker: makes this session's face tracker; called by the worker, at the first frame.
        config: delays, fades, limits.
        steps: DDIM steps of each job.
        steps_offered: what `set_steps` accepts; None accepts any.
        spec: what the model asks of a job.
        now: the time at which the session's clock starts.
        wake: called after a frame was pushed, to wake the worker.
        load: of the devices that paint its frames.
        articulation: tells the codes that a voice asks for; None: every mouth is generated.
        bank: mouths to begin with, see `enrol`.

    Raises:
        ConfigError: a bank for a session that generates every mouth.
    """

    def __init__(
        self,
        name: str,
        make_tracker: Callable[[], FaceTracker],
        config: EngineConfig | None = None,
        *,
        steps: int = 2,
        steps_offered: tuple[int, ...] | None = None,
        spec: JobSpec | None = None,
        now: float = 0.0,
        wake: Callable[[], None] | None = None,
        load: LoadTracker | None = None,
        articulation: Listen | None = None,
        bank: EnrolledBank | None = None,
    ) -> None:
        self.name = name
        self.config = config or EngineConfig()
        self.steps = self.config.steps or steps
        self._steps_offered, self._wake = steps_offered, wake
        self._quality = QualityController(
            name,
            self.steps,
            steps_offered,
            delay_s=self.config.longest_delay_s,
            patience_s=self.config.patience_s,
            load=load,
            fixed=self.config.offline or not self.config.ladder,
        )
        self._face_pipeline = LazyFacePipeline(make_tracker, self.config, spec or JobSpec())
        self._epoch = now
        self._lock = threading.Lock()  # guards the queues; never held while working
        self._speech = SpeechTimeline(self.config, LOOKAHEAD_S)
        # Off-line the original's place is given with it, and much may be pushed ahead.
        self._original = (
            SourceTimeline(0.0, PLAYED_KEPT_S + self.config.speech_backlog_max_s, paced=False)
            if self.config.offline
            else SourceTimeline(self.config.delay_s)
        )
        self._mixer = Mixer(self._speech, self._original, self.config)
        self._conditioner = AudioConditioner(self._speech, self.config)
        self._frame_queue = FrameQueue()
        self._playout_delay = PlayoutDelay(self.config.delay_s, self.config.longest_delay_s)
        self._metrics = SessionMetrics()
        self.jobs = JobFactory(
            name,
            self.config,
            epoch=now,
            lock=self._lock,
            frame_queue=self._frame_queue,
            conditioner=self._conditioner,
            face_pipeline=self._face_pipeline,
            ladder=self._quality,
            articulation=articulation,
        )
        self.closed = False
        self._chooses = bool(spec and spec.codes and articulation and self.config.own_mouths)
        if bank is not None:
            self.enrol(bank)

    def time_s(self, now: float) -> float:
        """The session's time at the caller's time `now`."""
        return now - self._epoch

    # --- in ---

    def push_video(self, frame: VideoFrame, now: float) -> None:
        """Take a frame that has just been decoded; cheap.

        Live, a frame that no worker has begun when the next one comes goes out as it is.

        Raises:
            MediaError: not uint8[H, W, 3].
            SessionClosed: the session has ended.
        """
        image = frame.image
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
            raise MediaError(
                f"a frame must be uint8[H, W, 3]; got {image.dtype}{list(image.shape)}"
            )
        with self._lock:
            self._check_open()
            time_s = self.time_s(now)
            delay_s = 0.0 if self.config.offline else self._playout_delay.now_s
            if not self.config.offline:
                self._quality.pushed(now)
                while (overtaken := self._frame_queue.take()) is not None:
                    self.jobs.give_up(overtaken, Outcome.OVERLOADED, time_s)
                gone = self._frame_queue.abandon(time_s - self._longest_s - ABANDONED_S)
                self._metrics.record_abandoned(Outcome.LATE, gone)
            self._frame_queue.push(frame, time_s, time_s + delay_s)
        if self._wake is not None:
            self._wake()  # not under the lock: the worker asks for it while it holds its own

    def learn(self, frame: VideoFrame) -> None:
        """Look at a frame of a film before it is dubbed, for the person's own mouths in it.

        Off-line only; nothing of the frame comes out. When all have been seen call `learned`, and
        push the film from its beginning.

        Raises:
            ConfigError: the session is live, where the past alone is known.
        """
        if not self.config.offline:
            raise ConfigError("a live session cannot be shown a film beforehand")
        with self.jobs.working:
            self._face_pipeline.learn(frame)

    def learned(self) -> None:
        """The film has been seen and begins again."""
        with self.jobs.working:
            self._face_pipeline.learned()

    def enrol(self, bank: EnrolledBank) -> None:
        """Show these mouths as soon as the face is known as that of their person; cheap.

        Another person's face goes on without them; `stats().bank.enrolled` says what became of it.

        Raises:
            ConfigError: this session generates every mouth.
        """
        if not self._chooses:
            raise ConfigError("this session shows no own mouths; it has no use for a bank")
        self._face_pipeline.enrol(bank)

    def enrolled(self, consent: Consent) -> EnrolledBank:
        """The person's own mouths that this session knows, to begin another with.

        Args:
            consent: of that person, who has asked for it.

        Raises:
            BankError: too few of them have been seen.
        """
        with self.jobs.working:
            found = self._face_pipeline.enrolled(consent)
        if found is None:
            lacking = "too few of the person's own mouths have been seen"
            raise BankError(f"{lacking}: half a second of speech is needed")
        return found

    def push_speech(
        self, samples: I16, rate_hz: int, now: float, live: bool = False, trace: Trace | None = None
    ) -> float:
        """Take more of the new voice, as fast as it comes; returns seconds until it is heard.

        Args:
            samples: int16[N] mono.
            rate_hz: 8000 to 192000.
            now: the caller's time.
            live: it comes as it is spoken and should be heard soon: when it has fallen behind, its
                pauses are shortened.
            trace: told what is done with it, and where it is heard.

        Raises:
            MediaError: not mono int16, or an odd rate.
            BacklogFull: too much waits already; nothing of this was taken.
            SessionClosed: the session has ended.
        """
        with self._lock:
            self._check_open()
            time_s = self.time_s(now)
            trace = trace or UNTRACED
            start_s = self._speech.push(samples, rate_hz, time_s, live, trace)
            trace.pts = round(start_s * PLAYOUT_RATE_HZ)
            return start_s - time_s

    def flush_speech(self) -> None:
        """The utterance is complete: nothing of it waits for more."""
        with self._lock:
            self._speech.flush()

    def interrupt_speech(self, now: float) -> None:
        """Drop what has not been played; the mouth closes with it."""
        with self._lock:
            time_s = self.time_s(now)
            self._speech.interrupt(time_s)
            self._conditioner.interrupt(time_s)
            self.jobs.cut_short()

    @property
    def wants_original(self) -> bool:
        """Whether the original voice can be heard at all, or is listened to."""
        return self._mixer.wants_original or self._face_pipeline.by_lips

    @property
    def sound(self) -> dict[str, float | bool | None]:
        """What `set_sound` has set."""
        return self._mixer.settings

    def push_original(self, samples: I16, rate_hz: int, now: float) -> None:
        """Take the original voice, to be heard underneath at `original_level`."""
        with self._lock:
            if self.closed:
                return
            self._face_pipeline.hear(samples, rate_hz, self.time_s(now))
            if self._mixer.wants_original:
                self._original.push(samples, rate_hz, self.time_s(now))

    def choose_face(self, choice: Choice) -> None:
        """Follow another face, or choose otherwise among several; from the next picture on."""
        self._face_pipeline.choose(choice)

    def set_sound(
        self,
        *,
        original_level: float | None = None,
        ducking: bool | None = None,
        loudness_lufs: float | Literal["off"] | None = None,
    ) -> None:
        """Change what is heard from now on; see `Mixer.change`."""
        with self._lock:
            self._mixer.change(original_level, ducking, loudness_lufs)

    @property
    def silence(self) -> Literal["original", "generate"]:
        """What `set_silence` has set."""
        return self._conditioner.silence

    def set_silence(self, silence: Literal["original", "generate"]) -> None:
        """What is shown while the new voice is silent, from the next picture on.

        Raises:
            ConfigError: neither of the two.
        """
        self._conditioner.silence = replace(self.config, silence=silence).silence

    def set_steps(self, steps: int) -> None:
        """DDIM steps of the jobs from now on.

        Raises:
            ConfigError: the model does not offer them.
        """
        if self._steps_offered is not None and steps not in self._steps_offered:
            raise ConfigError(f"steps is {steps}, must be one of {list(self._steps_offered)}")
        self.steps = steps
        with self._lock:
            self._quality.set_top(steps, self._steps_offered)

    def rung_changes(self, since: int = 0) -> list[Change]:
        """The overload ladder's changes after that of this number, as far as they are kept."""
        with self._lock:
            return self._quality.since(since)

    # --- out ---

    def pop_video(self, now: float) -> OutputFrame | None:
        """The next frame that is due, or None; late ones are replaced by their originals."""
        with self._lock:
            head, time_s = self._frame_queue.head, self.time_s(now)
            if head is None:
                return None
            if head.picture is None:
                overdue = time_s > head.pushed_s + self._longest_s
                if not overdue or self.config.offline:
                    return None
                self.jobs.give_up(head, Outcome.LATE, time_s)
            elif time_s < head.playout_s and not self.config.offline:
                return None
            self._frame_queue.leave()
            if head.patched or head.outcome is Outcome.LATE:
                self._playout_delay.record(head.ready_s - head.pushed_s)
            self._metrics.record(head.outcome, time_s - head.pushed_s, time_s)
            return head.output()

    def next_due(self) -> float | None:
        """The caller's time at which the head of the line must go out; None if there is none.

        A frame that is still being painted is given its patience here, but may be ready before.
        """
        with self._lock:
            head = self._frame_queue.head
            if head is None:
                return None
            due_s = head.pushed_s + self._longest_s
            return (due_s if head.picture is None else head.playout_s) + self._epoch

    def pop_audio(self, now: float) -> AudioChunk | None:
        """The next 20 ms of sound if its time has come: the new voice over the original."""
        with self._lock:
            if self._mixer.place > self.time_s(now) * PLAYOUT_RATE_HZ:
                return None
            return self._mixer.read(AUDIO_BLOCK)

    def read_audio(self, samples: int) -> AudioChunk:
        """The next `samples` of sound, due or not: for offline work."""
        with self._lock:
            return self._mixer.read(samples)

    def stats(self, now: float) -> SessionStats:
        """A snapshot."""
        with self._lock:
            time_s = self.time_s(now)
            stats = self._metrics.stats(
                time_s,
                frames_in=self._frame_queue.pushed,
                speech_backlog_s=self._speech.backlog_s(time_s),
                speaking=self._speech.speaking(time_s + self.config.delay_s),
                steps=self.jobs.steps,
            )
            return replace(
                stats,
                rung=self._quality.rung.name,
                rung_reason=self._quality.reason,
                rung_changes=dict(self._quality.transitions),
                speech_drift_ppm=self._speech.drift * 1e6,
                original_drift_ppm=self._original.drift * 1e6,
                face=self._face_pipeline.sighting,
                bank=self._face_pipeline.coverage,
            )

    def close(self) -> None:
        """End the session: nothing more goes in; frames in flight can still be popped."""
        with self._lock:
            self.closed = True
            self._frame_queue.end()
        with self.jobs.working:
            self._face_pipeline.close()

    @property
    def _longest_s(self) -> float:
        """How long after it came a frame is waited for."""
        return self.config.longest_delay_s + self.config.patience_s

    def _check_open(self) -> None:
        if self.closed:
            raise SessionClosed(f"session {self.name} has ended")
