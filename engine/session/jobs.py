"""JobFactory: the work on a session's frames, for the threads of an engine.

    begin (listen, track, align) -> LipJob -> a backend -> complete (composite), or fail
`begin` and `complete` do the heavy work; a session's frames are begun one after the other.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass

from lipwire.engine.audio.mel import PAPER_FPS
from lipwire.engine.config import EngineConfig
from lipwire.engine.log_limit import LogLimiter
from lipwire.engine.overload.controller import QualityController
from lipwire.engine.overload.levels import FrameAction
from lipwire.engine.session.aligned import Aligned, composite, move, paste
from lipwire.engine.session.conditioning import AudioConditioner, Conditioning, Listen
from lipwire.engine.session.frame_queue import FrameQueue, FrameState, ShownFrame
from lipwire.engine.session.lazy_face_pipeline import LazyFacePipeline
from lipwire.engine.types import U8, LipJob, Outcome, Patch
from lipwire.engine.units.selection import AHEAD, ChosenUnit
from lipwire.engine.units.steady import SIDE, SteadyCodes

log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Plan:
    """What is done for a frame; `JobFactory._choose` may change it."""

    conditioning: Conditioning
    action: FrameAction
    steps: int  # of its job
    shown: bool = False  # it has a mouth already: one of the person's own, or its own one, moved


class JobFactory:
    """Begins a session's frames and takes back what was painted for them.

    Args:
        name: of the session, in jobs and logs.
        config: seed, delays.
        epoch: the caller's time at which the session's clock started.
        lock: the session's; guards all of what follows but the face pipeline.
        frame_queue: the session's frames.
        conditioner: says what their mouths say.
        face_pipeline: finds their faces.
        ladder: says how much is done for each that a model generates.
        articulation: tells the codes that a voice asks for; None: all are generated.
    """

    def __init__(
        self,
        name: str,
        config: EngineConfig,
        *,
        epoch: float,
        lock: threading.Lock,
        frame_queue: FrameQueue,
        conditioner: AudioConditioner,
        face_pipeline: LazyFacePipeline,
        ladder: QualityController,
        articulation: Listen | None = None,
    ) -> None:
        self._name, self._config, self._epoch, self._lock = name, config, epoch, lock
        self._frame_queue, self._quality = frame_queue, ladder
        self._conditioner, self._face_pipeline = conditioner, face_pipeline
        self._articulation = articulation
        self._taken_s: float | None = None  # the camera's time of the last frame that was begun
        self.working = threading.Lock()
        """held while the face pipeline is at work; taken before the session's"""
        self._mouth: tuple[int, U8] | None = None  # what was generated last, and for which frame
        # The last frame that was given out; -1: none whose mouth may be held.
        self._begun = -1
        self._own = False  # whether the last frame that was begun had the person's own mouths
        self._steady = SteadyCodes()
        self._faults = LogLimiter(log, "session %s: %d frames failed so far", name)

    @property
    def earliest_deadline_s(self) -> float | None:
        """The caller's time by which the next unbegun frame should be ready; None without one."""
        with self._lock:
            waiting = self._frame_queue.waiting
            return None if waiting is None else self._deadline_s(waiting)

    @property
    def _speaks(self) -> bool:
        """Whether the person's own mouths can say what is heard."""
        return self._articulation is not None and self._face_pipeline.speaks

    def needs_device(self, now: float) -> bool:
        """Whether the next frame may become a job, rather than show an own mouth or pass.

        Frames that need none are begun however busy the devices are: a bank fills in frames that
        pass, and then speaks without them.
        """
        if self._speaks:
            return False
        with self._lock:
            waiting = self._frame_queue.waiting
            return waiting is not None and self._quality.generates(waiting.index, now)

    @property
    def steps(self) -> int:
        """DDIM steps of the next job: those asked for, or fewer where there is no time for them."""
        return self._quality.rung.steps

    @property
    def moves(self) -> bool:
        """Whether a frame that no device has time for can be given its own mouth, moved."""
        return self._articulation is not None

    def begin(self, now: float, busy: bool = False) -> LipJob | None:
        """Begin the waiting frame: listen, track, align. None if it passes, or none waits."""
        with self._lock:
            if (state := self._frame_queue.take()) is None:
                return None
        state.stamp("begun")
        period_s = self._period_s(state.frame.time_s)
        found: Aligned | Outcome
        try:
            with self.working:
                if self._frame_queue.ended:
                    return None
                plan = self._listen(state, period_s, now, busy)
                state.stamp("listened")
                found = self._look(state, plan, now)
        except Exception as error:
            self._complain(error, "tracking", state)
            found = Outcome.FAULT
        state.stamp("aligned")
        if isinstance(found, Outcome):
            self._pass(state, found, now)
            return None
        held = self._settle(state, plan, found, now)
        if plan.shown:
            self._paste(state, state.unit, now)
        elif held is not None:
            self._paint(state, held, now, Outcome.HELD)
        if plan.action is FrameAction.HOLD or (plan.shown and plan.action is not FrameAction.PROBE):
            return None
        return LipJob(
            session=self._name,
            index=state.index,
            crop=found.crop,
            references=found.references,
            mel=plan.conditioning.mel,
            seed=self._config.seed,
            steps=plan.steps,
            deadline_s=self._deadline_s(state),
            reach=found.reach,
            reference_codes=found.reference_codes,
            start=found.start,
            trace=state.frame.trace,
        )

    def _deadline_s(self, state: FrameState) -> float:
        """The caller's time by which a frame is to be painted."""
        return state.pushed_s + self._config.longest_delay_s + self._epoch

    def _period_s(self, taken_s: float) -> float:
        """From one picture to the next, by the camera's times."""
        gap_s = 0.0 if self._taken_s is None else taken_s - self._taken_s
        self._taken_s = taken_s
        return gap_s if 0.01 < gap_s < 0.1 else 1 / PAPER_FPS

    def _listen(self, state: FrameState, period_s: float, now: float, busy: bool) -> _Plan:
        """What the mouth is to say, and how much is done for it."""
        with self._lock:
            own = self._speaks
            conditioning = self._conditioner.condition(
                state.playout_s,
                self._face_pipeline.spec.mel_columns,
                0.0 if own else self._quality.stands_s,
                AHEAD if own else SIDE * int(self.moves),
                period_s,
            )
            self._own = own
            action = FrameAction.PASS
            if conditioning.strength > 0:
                # The person's own mouths cost no device any time, so the ladder is not asked.
                action = FrameAction.GENERATE if own else self._quality.action(state.index, now)
            if busy and action in (FrameAction.GENERATE, FrameAction.PROBE) and not own:
                self._quality.record_miss(state.index, now)
                action = FrameAction.PASS
            return _Plan(conditioning, action, self.steps)

    def _look(self, state: FrameState, plan: _Plan, now: float) -> Aligned | Outcome:
        """The frame's face and the mouth it is given, or why its original goes out."""
        passes, speaks = plan.action is FrameAction.PASS, plan.conditioning.strength > 0
        found = self._face_pipeline.look(state.frame, repaint=not passes or (speaks and self.moves))
        if isinstance(found, Aligned) and self._articulation is not None:
            found = self._choose(state, plan, found, self._articulation, now)
        if isinstance(found, Outcome):
            return found
        if found is None or (plan.action is FrameAction.PASS and not plan.shown):
            return Outcome.OVERLOADED if speaks else Outcome.SILENT
        return found

    def _choose(
        self, state: FrameState, plan: _Plan, found: Aligned, articulation: Listen, now: float
    ) -> Aligned:
        """Give the frame one of the person's own mouths, or its own one, moved, where that serves.

        Where a model generates it after all, the nearest of the own mouths begins it.
        """
        conditioning, chosen = plan.conditioning, None
        heard = articulation([conditioning.mel, *conditioning.ahead], found.reach)
        codes = self._steady.steady(heard, state.playout_s)
        found = self._face_pipeline.asked(found, codes[0])
        if self._face_pipeline.knows:
            chosen = self._face_pipeline.choose_unit(found, codes)
        if self._own and chosen is not None and chosen.alike:
            state.unit = chosen
        elif self._own:
            with self._lock:
                self._own = False
                plan.action = self._quality.action(state.index, now, spare=True)
            if chosen is not None and chosen.near and plan.action is not FrameAction.GENERATE:
                state.unit = chosen
        if state.unit is None and plan.action is FrameAction.GENERATE and chosen is not None:
            found = self._face_pipeline.begin_at(found, chosen)
        passes = plan.action in (FrameAction.PASS, FrameAction.PROBE)
        plan.shown = state.unit is not None or (passes and found.wanted is not None)
        return found

    def _pass(self, state: FrameState, why: Outcome, now: float) -> None:
        """Let a frame go without a mouth of its own."""
        with self._lock:
            if why in (Outcome.NO_FACE, Outcome.FACE_UNUSABLE, Outcome.OCCLUDED):
                self._conditioner.lose()
            time_s = now - self._epoch
            if why is not Outcome.OVERLOADED or not self._hold(state, time_s):
                state.pass_through(why, time_s)

    def _settle(self, state: FrameState, plan: _Plan, found: Aligned, now: float) -> U8 | None:
        """Note what becomes of a frame whose face was found; the mouth it holds, if there."""
        time_s = now - self._epoch
        with self._lock:
            state.aligned, state.strength = found, plan.conditioning.strength
            state.cut_s = plan.conditioning.cut_s
            if self._conditioner.cut_s != state.cut_s:  # interrupted meanwhile
                self.cut_short()
            if (
                plan.action is FrameAction.PROBE
                and not plan.shown
                and not self._hold(state, time_s)
            ):
                state.pass_through(Outcome.OVERLOADED, time_s)
            if plan.shown:
                self._begun = -1  # a mouth that is held would be an older one
            elif plan.action is not FrameAction.HOLD:
                self._begun = state.index
            elif self._begun < 0 or state.index - self._begun > 1:  # no mouth to hold
                state.pass_through(Outcome.OVERLOADED, time_s)
            else:
                state.after = self._begun
                if self._mouth is not None and self._mouth[0] == state.after:
                    return self._mouth[1]
            return None

    def complete(
        self, job: LipJob, generated: U8, now: float, took_s: float | None = None, mates: int = 1
    ) -> None:
        """Give back what a backend painted for `job`; late results are dropped.

        Args:
            job: given out by `begin`.
            generated: uint8[S, S, 3].
            now: the caller's time.
            took_s: what its batch took; None: unknown.
            mates: jobs in that batch.
        """
        with self._lock:
            state = self._frame_queue.find(job.index)
            awaited = state is not None and state.picture is None
            spent_s = now - (job.deadline_s - self._config.longest_delay_s)
            self._quality.record_generated(
                job.index, job.steps, spent_s, now, took_s=took_s, mates=mates, shown=awaited
            )
            self._mouth = job.index, generated
            followers = self._frame_queue.followers(job.index)
        if state is not None and awaited:
            self._paint(state, generated, now, Outcome.GENERATED)
        for follower in followers:
            self._paint(follower, generated, now, Outcome.HELD)

    def _paint(self, state: FrameState, generated: U8, now: float, outcome: Outcome) -> None:
        """Put a generated mouth into its frame."""
        self._composite(
            state, lambda aligned, strength: composite(aligned, generated, strength), now, outcome
        )

    def _paste(self, state: FrameState, unit: ChosenUnit | None, now: float) -> None:
        """Put one of the person's own mouths into a frame; None: its own, moved."""
        for point in ("generating", "generated", "compositing"):  # nothing had to be generated
            state.stamp(point)
        if unit is None:
            self._composite(state, move, now, Outcome.PASTED)
            return
        self._composite(
            state, lambda aligned, strength: paste(aligned, unit, strength), now, Outcome.PASTED
        )
        if unit.alike:  # otherwise it stands in for what the network has no time for
            with self._lock:
                self._quality.spared(now)

    def _composite(
        self,
        state: FrameState,
        make: Callable[[Aligned, float], Patch],
        now: float,
        outcome: Outcome,
    ) -> None:
        if state.aligned is None or state.picture is not None:
            return
        try:
            strength = state.strength
            patch = make(state.aligned, strength)
            picture = ShownFrame.painted(state.frame, patch)
        except Exception as error:
            self._complain(error, "compositing", state)
            with self._lock:
                state.pass_through(Outcome.FAULT, now - self._epoch)
            return
        with self._lock:
            if state.picture is None:
                if state.strength != strength:  # interrupted meanwhile
                    patch = patch.times(state.strength / strength)
                    picture = ShownFrame.painted(state.frame, patch)
                self._frame_queue.show(state, picture, outcome, now - self._epoch)

    def fail(self, job: LipJob, now: float, why: Outcome = Outcome.FAULT) -> None:
        """Nobody could paint the job: its original goes out."""
        with self._lock:
            time_s = now - self._epoch
            if (state := self._frame_queue.find(job.index)) is not None:
                self.give_up(state, why, time_s)
            for follower in self._frame_queue.followers(job.index):
                follower.pass_through(why, time_s)
            if self._begun == job.index:
                self._begun = -1  # nobody needs to wait for it

    def _complain(self, error: Exception, doing: str, state: FrameState) -> None:
        self._faults.record(error, "session %s: %s frame %d failed", self._name, doing, state.index)

    # --- lock held ---

    def cut_short(self) -> None:
        """The voice was interrupted: mouths that are begun or painted ahead go with it."""
        if (
            self._conditioner.silence == "original"
            and (cut_s := self._conditioner.cut_s) is not None
        ):
            for state in self._frame_queue:
                state.cut_short(cut_s)

    def give_up(self, state: FrameState, outcome: Outcome, time_s: float) -> None:
        """There was no time for a frame: its original goes out, and the ladder hears of it."""
        late = outcome in (Outcome.OVERLOADED, Outcome.LATE) and state.picture is None
        # Whether one that nobody has begun would have been painted is known by the voice alone.
        if late and (state.aligned is not None or self._conditioner.speaks(state.playout_s)):
            # Fewer steps would not have helped a frame that takes none.
            if not self._own:
                self._quality.record_miss(state.index, time_s + self._epoch)
            # The mouth of a moment ago is less wrong than the one that says something else.
            if not self._config.offline and self._frame_queue.hold(state, time_s):
                return
        state.pass_through(outcome, time_s)

    def _hold(self, state: FrameState, time_s: float) -> bool:
        """Show the mouth of a moment ago; where it has gone, the next one fades in."""
        if self._frame_queue.hold(state, time_s):
            return True
        self._conditioner.lose()
        return False
