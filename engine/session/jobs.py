"""Jobs: the work on a session's frames, for the threads of an engine.

    begin (listen, track, align) -> LipJob -> a backend -> complete (composite), or fail
`begin` and `complete` do the heavy work; a session's frames are begun one after the other.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from functools import partial

from lipwire.engine.audio.mel import PAPER_FPS
from lipwire.engine.config import EngineConfig
from lipwire.engine.log_limit import Faults
from lipwire.engine.overload.controller import Ladder
from lipwire.engine.overload.levels import Turn
from lipwire.engine.session.conditioning import Cue, Listen, Prompter
from lipwire.engine.session.face_pipeline import Aligned, Painter
from lipwire.engine.session.frame_queue import Flight, Passage, Picture
from lipwire.engine.session.onlooker import Onlooker
from lipwire.engine.types import U8, LipJob, Outcome, Patch
from lipwire.engine.units.selection import AHEAD
from lipwire.engine.units.unit import Unit

log = logging.getLogger(__name__)


class Jobs:
    """Begins a session's frames and takes back what was painted for them.

    Args:
        name: of the session, in jobs and logs.
        config: seed, delays.
        epoch: the caller's time at which the session's clock started.
        lock: the session's; guards all of what follows but the onlooker.
        flight: the session's frames.
        prompter: says what their mouths say.
        onlooker: finds their faces.
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
        flight: Flight,
        prompter: Prompter,
        onlooker: Onlooker,
        ladder: Ladder,
        articulation: Listen | None = None,
    ) -> None:
        self._name, self._config, self._epoch, self._lock = name, config, epoch, lock
        self._flight, self._ladder = flight, ladder
        self._prompter, self._onlooker = prompter, onlooker
        self._articulation = articulation
        self._taken_s: float | None = None  # the camera's time of the last frame that was begun
        self.working = threading.Lock()
        """held while the onlooker is at work; taken before the session's"""
        self._mouth: tuple[int, U8] | None = None  # what was generated last, and for which frame
        # The last frame that was given out; -1: none whose mouth may be held.
        self._begun = -1
        self._faults = Faults(log, "session %s: %d frames failed so far", name)

    @property
    def earliest_deadline_s(self) -> float | None:
        """The caller's time by which the next unbegun frame should be ready; None without one."""
        with self._lock:
            waiting = self._flight.waiting
            return None if waiting is None else waiting.playout_s + self._epoch

    @property
    def steps(self) -> int:
        """DDIM steps of the next job: those asked for, or fewer where there is no time for them."""
        return self._ladder.rung.steps

    def begin(self, now: float) -> LipJob | None:
        """Begin the waiting frame: listen, track, align. None if it passes, or none waits."""
        with self._lock:
            if (passage := self._flight.take()) is None:
                return None
            time_s = now - self._epoch
        passage.mark("begun")
        period_s = self._period_s(passage.frame.time_s)
        try:
            with self.working:
                if self._flight.ended:
                    return None
                with self._lock:
                    # The person's own mouths cost no device any time, so the ladder is not asked.
                    own = self._articulation is not None and self._onlooker.speaks
                    cue = self._prompter.cue(
                        passage.playout_s,
                        self._onlooker.spec.mel_columns,
                        0.0 if own else self._ladder.stands_s,
                        AHEAD if own else 0,
                        period_s,
                    )
                    turn = Turn.PASS
                    if cue.strength > 0:
                        turn = Turn.PAINT if own else self._ladder.turn(passage.index, now)
                    steps = self.steps
                passage.mark("listened")
                found = self._onlooker.look(passage.frame, repaint=turn is not Turn.PASS)
                if own and isinstance(found, Aligned):
                    passage.unit = self._choose(found, cue)
                    if passage.unit is None:
                        with self._lock:
                            turn = self._ladder.turn(passage.index, now)
                if found is None or (turn is Turn.PASS and isinstance(found, Aligned)):
                    found = Outcome.OVERLOADED if cue.strength > 0 else Outcome.SILENT
        except Exception as error:
            self._complain(error, "tracking", passage)
            found = Outcome.FAULT
        passage.mark("aligned")
        with self._lock:
            if found in (Outcome.NO_FACE, Outcome.FACE_UNUSABLE, Outcome.OCCLUDED):
                self._prompter.lose()
            if isinstance(found, Outcome):
                passage.pass_through(found, time_s)
                return None
            passage.aligned, passage.strength, passage.cut_s = found, cue.strength, cue.cut_s
            if self._prompter.cut_s != cue.cut_s:  # interrupted meanwhile
                self.cut_short()
            if passage.unit is not None:
                self._begun = -1  # a mouth that is held would be an older one
            elif turn is Turn.PROBE:
                passage.pass_through(Outcome.OVERLOADED, time_s)
            if passage.unit is not None:
                pass
            elif turn is not Turn.HOLD:
                self._begun = passage.index
            elif self._begun < 0 or passage.index - self._begun > 1:  # no mouth to hold
                passage.pass_through(Outcome.OVERLOADED, time_s)
            else:
                passage.after = self._begun
            mouth = self._mouth
        if passage.unit is not None:
            self._paste(passage, passage.unit, now)
            return None
        if turn is Turn.HOLD:
            if mouth is not None and mouth[0] == passage.after:
                self._paint(passage, mouth[1], now, Outcome.HELD)
            return None
        return LipJob(
            session=self._name,
            index=passage.index,
            crop=found.crop,
            references=found.references,
            mel=cue.mel,
            seed=self._config.seed,
            steps=steps,
            deadline_s=passage.playout_s + self._epoch,
            reach=found.reach,
            trace=passage.frame.trace,
        )

    def _period_s(self, taken_s: float) -> float:
        """From one picture to the next, by the camera's times."""
        gap_s = 0.0 if self._taken_s is None else taken_s - self._taken_s
        self._taken_s = taken_s
        return gap_s if 0.01 < gap_s < 0.1 else 1 / PAPER_FPS

    def _choose(self, found: Aligned, cue: Cue) -> Unit | None:
        """The person's own mouth for what is heard."""
        if self._articulation is None:
            return None
        return self._onlooker.choose_unit(
            found, self._articulation([cue.mel, *cue.ahead], found.reach)
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
            job: given out by `begin`.
            generated: uint8[S, S, 3].
            now: the caller's time.
            took_s: what its batch took; None: unknown.
            mates: jobs in that batch.
        """
        with self._lock:
            passage = self._flight.find(job.index)
            awaited = passage is not None and passage.picture is None
            spent_s = now - (job.deadline_s - self._config.delay_s)
            self._ladder.painted(
                job.index, job.steps, spent_s, now, took_s=took_s, mates=mates, shown=awaited
            )
            self._mouth = job.index, generated
            followers = self._flight.followers(job.index)
        if passage is not None and awaited:
            self._paint(passage, generated, now, Outcome.GENERATED)
        for follower in followers:
            self._paint(follower, generated, now, Outcome.HELD)

    def _paint(self, passage: Passage, generated: U8, now: float, outcome: Outcome) -> None:
        """Put a generated mouth into its frame."""
        self._composite(passage, partial(_generated, generated), now, outcome)

    def _paste(self, passage: Passage, unit: Unit, now: float) -> None:
        """Put one of the person's own mouths into a frame."""
        for point in ("generating", "generated", "compositing"):  # nothing had to be generated
            passage.mark(point)
        self._composite(passage, partial(_pasted, unit), now, Outcome.PASTED)
        with self._lock:
            self._ladder.spared()

    def _composite(
        self,
        passage: Passage,
        make: Callable[[Aligned, float], Patch],
        now: float,
        outcome: Outcome,
    ) -> None:
        if passage.aligned is None or passage.picture is not None:
            return
        try:
            strength = passage.strength
            patch = make(passage.aligned, strength)
            picture = Picture.painted(passage.frame, patch)
        except Exception as error:
            self._complain(error, "compositing", passage)
            with self._lock:
                passage.pass_through(Outcome.FAULT, now - self._epoch)
            return
        with self._lock:
            if passage.picture is None:
                if passage.strength != strength:  # interrupted meanwhile
                    patch = patch.times(passage.strength / strength)
                    picture = Picture.painted(passage.frame, patch)
                self._flight.show(passage, picture, outcome, now - self._epoch)

    def fail(self, job: LipJob, now: float, why: Outcome = Outcome.FAULT) -> None:
        """Nobody could paint the job: its original goes out."""
        with self._lock:
            time_s = now - self._epoch
            if (passage := self._flight.find(job.index)) is not None:
                self.give_up(passage, why, time_s)
            for follower in self._flight.followers(job.index):
                follower.pass_through(why, time_s)
            if self._begun == job.index:
                self._begun = -1  # nobody needs to wait for it

    def _complain(self, error: Exception, doing: str, passage: Passage) -> None:
        self._faults.note(error, "session %s: %s frame %d failed", self._name, doing, passage.index)

    # --- lock held ---

    def cut_short(self) -> None:
        """The voice was interrupted: mouths that are begun or painted ahead go with it."""
        if self._prompter.silence == "original" and (cut_s := self._prompter.cut_s) is not None:
            for passage in self._flight:
                passage.cut_short(cut_s)

    def give_up(self, passage: Passage, outcome: Outcome, time_s: float) -> None:
        """There was no time for a frame: its original goes out, and the ladder hears of it."""
        late = outcome in (Outcome.OVERLOADED, Outcome.LATE) and passage.picture is None
        # Whether one that nobody has begun would have been painted is known by the voice alone.
        if late and (passage.aligned is not None or self._prompter.speaks(passage.playout_s)):
            self._ladder.missed(passage.index, time_s + self._epoch)
        passage.pass_through(outcome, time_s)


def _generated(generated: U8, aligned: Aligned, strength: float) -> Patch:
    return Painter.paint(aligned, generated, strength)


def _pasted(unit: Unit, aligned: Aligned, strength: float) -> Patch:
    return Painter.paste(aligned, unit, strength)
