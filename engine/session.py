"""The heart: frames and speech in, frames and speech out. No threads, no sockets, no sleeping.

Callers pass `now`, seconds on any clock that only moves forward; the session's own clock starts
at 0 when it is made. `push_*`, `pop_*` and `stats` are cheap and may be called from any thread;
`next_job` and `complete` do the heavy work and belong to one worker at a time.

    push_video -> newest-frame slot -> next_job (track, align, listen) -> LipJob
    LipJob -> a backend -> complete (composite) -> pop_video, in order, at its time
    push_speech -> scheduled on the clock -> pop_audio
Whatever goes wrong on the way, the original frame goes out instead, counted by its reason.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from engine.bundle import Manifest
from engine.choice import Choice, Policy
from engine.clock import PLAYED_KEPT_S, OriginalTimeline, SpeechTimeline
from engine.config import EngineConfig
from engine.errors import ConfigError, MediaError, SessionClosed
from engine.fade import Fade, left_after
from engine.lips import Envelope
from engine.load import Load
from engine.mel import LOOKAHEAD_S, SILENCE
from engine.mixer import Mixer
from engine.overload import Ladder
from engine.painter import Aligned, Painter
from engine.planes import paint_image, paint_planes
from engine.rungs import Change, Turn
from engine.tally import Tally
from engine.trace import Trace
from engine.tracker import FaceTracker
from engine.types import (
    I16,
    PLAYOUT_RATE_HZ,
    U8,
    AudioChunk,
    JobSpec,
    LipJob,
    Outcome,
    OutputFrame,
    Patch,
    Planes,
    SessionStats,
    Sighting,
    VideoFrame,
)

log = logging.getLogger(__name__)

AUDIO_BLOCK = PLAYOUT_RATE_HZ // 50  # 20 ms: exactly one Opus frame
FAULTS_A_LINE = 250  # a fault in every frame must not fill the disk
# A live frame that nobody has fetched so long after its last moment is dropped, so that a stalled
# reader costs bounded memory. Shorter: a reader that hiccups misses frames.
ABANDONED_S = 1.0
MAX_FLIGHT = 512  # and never more than this, whatever the frame rate


@dataclass(slots=True)
class _Pending:
    """A frame on its way through."""

    frame: VideoFrame
    index: int
    pushed_s: float
    playout_s: float
    aligned: Aligned | None = None  # set by next_job
    strength: float = 1.0  # set by next_job
    cut_s: float | None = None  # of the interruption that its strength takes into account
    patch: Patch | None = None  # set with image, if a mouth was painted
    after: int | None = None  # the frame whose mouth it waits for
    image: U8 | None = None  # set when the frame is ready to go out
    planes: Planes | None = None  # set with image
    box: tuple[int, int, int, int] | None = None  # set with image
    outcome: Outcome = Outcome.FAULT  # set with image
    ready_s: float = 0.0  # set with image


def _mark(trace: Trace | None, point: str) -> None:
    if trace is not None:
        trace.mark(point)


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
        load: Load | None = None,
    ) -> None:
        self.name = name
        self.config = config or EngineConfig()
        self.steps = self.config.steps or steps
        self._steps_offered, self._wake = steps_offered, wake
        self._ladder = Ladder(
            name,
            self.steps,
            steps_offered,
            delay_s=self.config.delay_s,
            patience_s=self.config.patience_s,
            load=load,
            fixed=self.config.offline or not self.config.ladder,
        )
        self._make_tracker, self._spec = make_tracker, spec or JobSpec()
        self._painter: Painter | None = None  # made by the worker that first needs it
        self._choices: list[Choice] = []  # until the worker takes them
        self._heard = Envelope()  # of the original voice
        self._by_lips = False
        self._sighting = Sighting()
        self._epoch = now
        self._lock = threading.Lock()  # guards the queues; never held while working
        self._work = threading.Lock()  # held while the painter is in use, so that close can wait
        self._speech = SpeechTimeline(self.config, LOOKAHEAD_S)
        # Off-line the original's place is given with it, and much may be pushed ahead.
        self._original = (
            OriginalTimeline(0.0, PLAYED_KEPT_S + self.config.speech_backlog_max_s, paced=False)
            if self.config.offline
            else OriginalTimeline(self.config.delay_s)
        )
        self._mixer = Mixer(self._speech, self._original, self.config)
        self.silence = self.config.silence
        self._shown, self._voiced = Fade(self.config.fade_s), Fade(self.config.fade_s)
        self._flight: deque[_Pending] = deque()  # every frame not yet popped, in order
        self._waiting: deque[_Pending] = deque()  # those of them that no worker has begun
        self._cut_s: float | None = None  # when the voice was last interrupted
        self._next_index = 0
        self._tally = Tally()
        # Of the last frame that was given out; -1: none whose mouth may be held.
        self._job_index = -1
        self._mouth: tuple[int, U8] | None = None  # what was generated last, and for which frame
        self._faults = 0
        self.closed = False

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
            delay_s = 0.0 if self.config.offline else self.config.delay_s
            pending = _Pending(frame, self._next_index, time_s, time_s + delay_s)
            self._next_index += 1
            if not self.config.offline:
                self._ladder.pushed(now)
                while self._waiting:
                    self._give_up(self._waiting.popleft(), Outcome.OVERLOADED, time_s)
                self._drop_abandoned(time_s)
            self._waiting.append(pending)
            self._flight.append(pending)
        if self._wake is not None:
            self._wake()  # not under the lock: the worker asks for it while it holds its own

    def push_speech(self, samples: I16, rate_hz: int, now: float, live: bool = False) -> float:
        """Take more of the new voice, as fast as it comes; returns seconds until it is heard.

        Args:
            samples: int16[N] mono.
            rate_hz: 8000 to 192000.
            now: the caller's time.
            live: it comes as it is spoken and should be heard soon: when it has fallen behind, its
                pauses are shortened.

        Raises:
            MediaError: not mono int16, or an odd rate.
            BacklogFull: too much waits already; nothing of this was taken.
            SessionClosed: the session has ended.
        """
        with self._lock:
            self._check_open()
            time_s = self.time_s(now)
            return self._speech.push(samples, rate_hz, time_s, live) - time_s

    def flush_speech(self) -> None:
        """The utterance is complete: nothing of it waits for more."""
        with self._lock:
            self._speech.flush()

    def interrupt_speech(self, now: float) -> None:
        """Drop what has not been played; the mouth closes with it."""
        with self._lock:
            time_s = self.time_s(now)
            self._speech.interrupt(time_s)
            self._shown.cut(time_s)
            self._voiced.cut(time_s)
            self._cut_s = time_s
            self._cut_short()

    @property
    def wants_original(self) -> bool:
        """Whether the original voice can be heard at all, or is listened to."""
        return self._mixer.wants_original or self._by_lips

    @property
    def sound(self) -> dict[str, float | bool | None]:
        """What `set_sound` has set."""
        return self._mixer.settings

    def push_original(self, samples: I16, rate_hz: int, now: float) -> None:
        """Take the original voice, to be heard underneath at `original_level`."""
        with self._lock:
            if self.closed:
                return
            if self._by_lips:
                self._heard.hear(samples, rate_hz, self.time_s(now))
            if self._mixer.wants_original:
                self._original.push(samples, rate_hz, self.time_s(now))

    def choose_face(self, choice: Choice) -> None:
        """Follow another face, or choose otherwise among several; from the next picture on."""
        with self._lock:
            self._choices.append(choice)
            self._by_lips = choice.policy is Policy.LIPS  # whoever points at a face ends that

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

    def set_silence(self, silence: Literal["original", "generate"]) -> None:
        """What is shown while the new voice is silent, from the next picture on.

        Raises:
            ConfigError: neither of the two.
        """
        self.silence = replace(self.config, silence=silence).silence

    def set_steps(self, steps: int) -> None:
        """DDIM steps of the jobs from now on.

        Raises:
            ConfigError: the model does not offer them.
        """
        if self._steps_offered is not None and steps not in self._steps_offered:
            raise ConfigError(f"steps is {steps}, must be one of {list(self._steps_offered)}")
        self.steps = steps
        with self._lock:
            self._ladder.set_top(steps, self._steps_offered)

    @property
    def job_steps(self) -> int:
        """DDIM steps of the next job: those asked for, or fewer where there is no time for them."""
        return self._ladder.rung.steps

    def rung_changes(self, since: int = 0) -> list[Change]:
        """The overload ladder's changes after that of this number, as far as they are kept."""
        with self._lock:
            return self._ladder.since(since)

    def adopt(self, manifest: Manifest) -> None:
        """Go on with another model; jobs that were given out before are still for the old one.

        Steps that it does not offer become its default.
        """
        with self._work:  # waits for a frame that is being tracked
            self._steps_offered, self._spec = manifest.steps_offered, manifest.job_spec
            self._job_index = -1  # its mouth fits no frame of the new one
            if self.steps not in manifest.steps_offered:
                self.steps = manifest.default_steps
            with self._lock:
                self._ladder.set_top(self.steps, self._steps_offered)
            if self._painter is not None:
                self._painter.adopt(self._spec)

    # --- work ---

    @property
    def earliest_deadline_s(self) -> float | None:
        """The caller's time by which the next unbegun frame should be ready; None without one."""
        with self._lock:
            return self._waiting[0].playout_s + self._epoch if self._waiting else None

    def next_job(self, now: float) -> LipJob | None:
        """Begin the waiting frame: listen, track, align. None if it passes, or none waits."""
        with self._lock:
            if self.closed or not self._waiting:
                return None
            pending = self._waiting.popleft()
            time_s = self.time_s(now)
        trace = pending.frame.trace
        _mark(trace, "begun")
        found: Aligned | Outcome
        strength, cut_s, turn, steps = 0.0, None, Turn.PAINT, self.steps
        try:
            with self._work:  # all of a job is for one model
                if self.closed:
                    return None
                with self._lock:
                    mel = self._speech.mel_window(
                        pending.playout_s, self._spec.mel_columns, self._ladder.stands_s
                    )
                    shown = self._speech.speaking(pending.playout_s)
                    # The window reaches so far ahead, where a sound may begin already.
                    voiced = shown or self._speech.speaking(pending.playout_s + LOOKAHEAD_S)
                    strength = self._shown.toward(
                        shown or self.silence == "generate", pending.playout_s
                    )
                    gate = self._voiced.toward(voiced, pending.playout_s)
                    cut_s = self._cut_s
                    if strength > 0:
                        turn, steps = self._ladder.turn(pending.index, now), self.job_steps
                _mark(trace, "listened")
                if self._painter is None:
                    self._painter = Painter(
                        self._make_tracker(), self.config, self._spec, self._heard
                    )
                with self._lock:
                    choices, self._choices = self._choices, []
                for choice in choices:
                    self._painter.tracking.choose(choice)
                if self.silence == "generate" and gate < 1:
                    # Shut, whatever noise there is where nobody speaks.
                    mel = np.float32(SILENCE) + np.float32(gate) * (mel - np.float32(SILENCE))
                if strength > 0 and turn is not Turn.PASS:
                    # Smoothed by the camera's time: arrival jitters.
                    found = self._painter.find(pending.frame.image, pending.frame.time_s, trace)
                else:
                    self._painter.glance(pending.frame.image, pending.frame.time_s)
                    found = Outcome.OVERLOADED if strength > 0 else Outcome.SILENT
                self._sighting = self._painter.tracking.sighting
        except Exception:
            self._complain("tracking", pending.index)
            found = Outcome.FAULT
        _mark(trace, "aligned")
        with self._lock:
            if found in (Outcome.NO_FACE, Outcome.FACE_UNUSABLE, Outcome.OCCLUDED):
                self._shown.reset()
            if isinstance(found, Outcome):
                self._pass_through(pending, found, time_s)
                return None
            pending.aligned, pending.strength, pending.cut_s = found, strength, cut_s
            if self._cut_s != cut_s:  # interrupted meanwhile
                self._cut_short()
            if turn is Turn.PROBE:
                self._pass_through(pending, Outcome.OVERLOADED, time_s)
            if turn is not Turn.HOLD:
                self._job_index = pending.index
            elif self._job_index < 0 or pending.index - self._job_index > 1:  # no mouth to hold
                self._pass_through(pending, Outcome.OVERLOADED, time_s)
            else:
                pending.after = self._job_index
            mouth = self._mouth
        if turn is Turn.HOLD:
            if mouth is not None and mouth[0] == pending.after:
                self._paint(pending, mouth[1], now, Outcome.HELD)
            return None
        return LipJob(
            session=self.name,
            index=pending.index,
            crop=found.crop,
            references=found.references,
            mel=mel,
            seed=self.config.seed,
            steps=steps,
            deadline_s=pending.playout_s + self._epoch,
            reach=found.reach,
            trace=trace,
        )

    def complete(
        self,
        job: LipJob,
        generated: U8,
        now: float,
        took_s: float | None = None,
        mates: int = 1,
    ) -> None:
        """Give back what a backend painted for `job`; late results are dropped.

        Args:
            job: given out by `next_job`.
            generated: uint8[S, S, 3].
            now: the caller's time.
            took_s: what its batch took; None: unknown.
            mates: jobs in that batch.
        """
        pending = self._find(job.index)
        awaited = pending is not None and pending.image is None
        with self._lock:
            spent_s = now - (job.deadline_s - self.config.delay_s)
            self._ladder.painted(
                job.index, job.steps, spent_s, now, took_s=took_s, mates=mates, shown=awaited
            )
            self._mouth = job.index, generated
            followers = [p for p in self._flight if p.after == job.index]
        if pending is not None and awaited:
            self._paint(pending, generated, now, Outcome.GENERATED)
        for follower in followers:
            self._paint(follower, generated, now, Outcome.HELD)

    def _paint(self, pending: _Pending, generated: U8, now: float, outcome: Outcome) -> None:
        """Put a generated mouth into its frame."""
        if pending.aligned is None or pending.image is not None:
            return
        try:
            strength = pending.strength
            patch = Painter.paint(pending.aligned, generated, strength)
            painted = _painted(pending.frame, patch)
        except Exception:
            self._complain("compositing", pending.index)
            with self._lock:
                self._pass_through(pending, Outcome.FAULT, self.time_s(now))
            return
        with self._lock:
            if pending.image is None:
                if pending.strength != strength:  # interrupted meanwhile
                    patch = patch.times(pending.strength / strength)
                    painted = _painted(pending.frame, patch)
                pending.image, pending.planes = painted
                pending.patch, pending.box = patch, patch.box
                pending.outcome = outcome
                pending.ready_s = self.time_s(now)
                _mark(pending.frame.trace, "composited")
                if self._flight and self._flight[0] is pending:
                    _mark(pending.frame.trace, "headed")

    def fail(self, job: LipJob, now: float, why: Outcome = Outcome.FAULT) -> None:
        """Nobody could paint the job: its original goes out."""
        pending = self._find(job.index)
        with self._lock:
            if pending is not None:
                self._give_up(pending, why, self.time_s(now))
            for follower in [p for p in self._flight if p.after == job.index]:
                self._pass_through(follower, why, self.time_s(now))
            if self._job_index == job.index:
                self._job_index = -1  # nobody needs to wait for it

    # --- out ---

    def pop_video(self, now: float) -> OutputFrame | None:
        """The next frame that is due, or None; late ones are replaced by their originals."""
        with self._lock:
            if not self._flight:
                return None
            head, time_s = self._flight[0], self.time_s(now)
            offline = self.config.offline
            if head.image is None:
                overdue = time_s > head.playout_s + self.config.patience_s
                if not overdue or offline:
                    return None
                if self._waiting and self._waiting[0] is head:
                    self._waiting.popleft()
                self._give_up(head, Outcome.LATE, time_s)
            elif time_s < head.playout_s and not offline:
                return None
            self._flight.popleft()
            assert head.image is not None
            if (trace := head.frame.trace) is not None:
                trace.outcome = head.outcome
                trace.mark("popped")
            if self._flight and self._flight[0].image is not None:
                _mark(self._flight[0].frame.trace, "headed")
            self._tally.left(head.outcome, time_s - head.pushed_s, time_s)
            return OutputFrame(
                index=head.index,
                image=head.image,
                pts=head.frame.pts,
                time_base=head.frame.time_base,
                playout_s=head.playout_s,
                outcome=head.outcome,
                latency_s=head.ready_s - head.pushed_s,
                planes=head.planes,
                box=head.box,
                trace=trace,
            )

    def next_due(self) -> float | None:
        """The caller's time at which the head of the line must go out; None if there is none.

        A frame that is still being painted is given its patience here, but may be ready before.
        """
        with self._lock:
            if not self._flight:
                return None
            head = self._flight[0]
            wait_s = 0.0 if head.image is not None else self.config.patience_s
            return head.playout_s + wait_s + self._epoch

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
            stats = self._tally.stats(
                time_s,
                frames_in=self._next_index,
                speech_backlog_s=self._speech.backlog_s(time_s),
                speaking=self._speech.speaking(time_s + self.config.delay_s),
                steps=self.job_steps,
            )
            return replace(
                stats,
                rung=self._ladder.rung.name,
                rung_reason=self._ladder.reason,
                rung_changes=dict(self._ladder.transitions),
                speech_drift_ppm=self._speech.drift * 1e6,
                original_drift_ppm=self._original.drift * 1e6,
                face=self._sighting,
            )

    def close(self) -> None:
        """End the session: nothing more goes in; frames in flight can still be popped."""
        with self._lock:
            self.closed = True
            for pending in self._flight:
                if pending.image is None:
                    self._pass_through(pending, Outcome.LATE, pending.playout_s)
            self._waiting.clear()
        with self._work:
            painter, self._painter = self._painter, None
            if painter is not None:
                painter.close()

    # --- inside, lock held ---

    def _check_open(self) -> None:
        if self.closed:
            raise SessionClosed(f"session {self.name} has ended")

    def _drop_abandoned(self, time_s: float) -> None:
        """Nobody pops: keep memory bounded; video drops the oldest."""
        last_s = time_s - self.config.patience_s - ABANDONED_S
        while self._flight and (
            self._flight[0].playout_s < last_s or len(self._flight) >= MAX_FLIGHT
        ):
            self._flight.popleft()
            self._tally.abandoned(Outcome.LATE)

    def _find(self, index: int) -> _Pending | None:
        with self._lock:
            return next((p for p in self._flight if p.index == index), None)

    def _complain(self, doing: str, index: int) -> None:
        """Log the exception at hand: in full the first time, and then a line now and again."""
        self._faults += 1
        if self._faults == 1:
            log.exception("session %s: %s frame %d failed", self.name, doing, index)
        elif self._faults % FAULTS_A_LINE == 0:
            log.error("session %s: %d frames failed so far", self.name, self._faults)

    def _cut_short(self) -> None:
        """The voice was interrupted: mouths that are begun or painted ahead go with it."""
        if self.silence != "original" or self._cut_s is None:
            return
        for pending in self._flight:
            left = left_after(pending.playout_s - self._cut_s)
            if left == 1 or pending.aligned is None or pending.cut_s == self._cut_s:
                continue
            pending.strength *= left
            pending.cut_s = self._cut_s
            if left == 0:
                if pending.patch is not None:
                    pending.image = pending.patch = pending.box = None
                self._pass_through(pending, Outcome.SILENT, self._cut_s)
            elif pending.patch is not None:
                pending.patch = pending.patch.times(left)
                pending.image, pending.planes = _painted(pending.frame, pending.patch)

    def _give_up(self, pending: _Pending, outcome: Outcome, time_s: float) -> None:
        """There was no time for a frame: its original goes out, and the ladder hears of it."""
        late = outcome in (Outcome.OVERLOADED, Outcome.LATE) and pending.image is None
        # Whether one that nobody has begun would have been painted is known by the voice alone.
        if late and (
            pending.aligned is not None
            or self.silence == "generate"
            or self._speech.speaking(pending.playout_s)
        ):
            self._ladder.missed(pending.index, time_s + self._epoch)
        self._pass_through(pending, outcome, time_s)

    def _pass_through(self, pending: _Pending, outcome: Outcome, time_s: float) -> None:
        if pending.image is None:
            pending.image, pending.outcome = pending.frame.image, outcome
            pending.planes = pending.frame.planes
            pending.ready_s = time_s


def _painted(frame: VideoFrame, patch: Patch) -> tuple[U8, Planes | None]:
    """A frame with a mouth in it, as picture and in its planes."""
    planes = frame.planes
    return (
        paint_image(frame.image, patch),
        None if planes is None else paint_planes(planes, patch),
    )
