"""FrameQueue: the frames of a session that are on their way, in order, and what is shown for each.

    push -> take (a worker begins it) -> show or pass_through -> leave, in order
Not locked, the session is.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from lipwire.engine.audio.fade import left_after
from lipwire.engine.compositing.harmonize import weighted
from lipwire.engine.media.planes import paint_image, paint_planes
from lipwire.engine.session.aligned import Aligned
from lipwire.engine.trace import UNTRACED, Trace
from lipwire.engine.types import U8, Outcome, OutputFrame, Patch, Planes, VideoFrame
from lipwire.engine.units.selection import ChosenUnit

# A live frame that nobody has fetched so long after its last moment is dropped, so that a stalled
# reader costs bounded memory. Shorter: a reader that hiccups misses frames.
ABANDONED_S = 1.0
MAX_FLIGHT = 512  # and never more than this, whatever the frame rate
# A frame that nobody has time for shows the mouth of one at most so many before it: 0.2 s at 25
# fps. Fewer: on a busy machine the original mouth flashes up; more: the mouth freezes.
HOLD_FRAMES = 5
# Over so many more it fades into the original. Fewer: the mouth flips; more: it lingers, wrong.
FADE_FRAMES = 4
# And only if the face has changed by no more than this, mean levels: a nod changes 4, a cut 40.
# Lower: quick heads are not held; higher: a mouth lies on what is no face any more.
HOLD_LEVELS = 10.0


@dataclass(frozen=True, slots=True)
class ShownFrame:
    """What goes out for a frame: as pixels, and in its planes if it came with them."""

    image: U8  # uint8[H, W, 3]
    planes: Planes | None
    patch: Patch | None = None  # the mouth in it; None: it is the original

    @classmethod
    def painted(cls, frame: VideoFrame, patch: Patch) -> ShownFrame:
        """The frame with a mouth in it."""
        planes = None if frame.planes is None else paint_planes(frame.planes, patch)
        return cls(paint_image(frame.image, patch), planes, patch)


@dataclass(slots=True)
class FrameState:
    """One frame's way through."""

    frame: VideoFrame
    index: int
    pushed_s: float
    playout_s: float
    # Set by the worker that begins it:
    aligned: Aligned | None = None
    strength: float = 1.0
    cut_s: float | None = None  # of the interruption that its strength takes into account
    after: int | None = None  # the frame whose mouth it waits for
    unit: ChosenUnit | None = None  # the person's own mouth that is shown in it
    # Set when it is ready to go out:
    picture: ShownFrame | None = None
    outcome: Outcome = Outcome.FAULT
    ready_s: float = 0.0

    @property
    def patched(self) -> bool:
        """Whether it goes out with a mouth put in."""
        return self.picture is not None and self.picture.patch is not None

    @property
    def trace(self) -> Trace:
        """The frame's."""
        return self.frame.trace or UNTRACED

    def stamp(self, point: str) -> None:
        """Note in its trace that it is here."""
        self.trace.stamp(point)

    def show(self, picture: ShownFrame, outcome: Outcome, time_s: float) -> None:
        self.picture, self.outcome, self.ready_s = picture, outcome, time_s

    def pass_through(self, outcome: Outcome, time_s: float) -> None:
        """Its original goes out, unless something is ready already."""
        if self.picture is None:
            self.show(ShownFrame(self.frame.image, self.frame.planes), outcome, time_s)

    def cut_short(self, cut_s: float) -> None:
        """The voice was interrupted: the mouth that is begun or painted ahead goes with it."""
        left = left_after(self.playout_s - cut_s)
        if left == 1 or self.aligned is None or self.cut_s == cut_s:
            return
        self.strength *= left
        self.cut_s = cut_s
        patch = None if self.picture is None else self.picture.patch
        if left == 0:
            if patch is not None:
                self.picture = None
            self.pass_through(Outcome.SILENT, cut_s)
        elif patch is not None:
            self.picture = ShownFrame.painted(self.frame, patch.times(left))

    def output(self) -> OutputFrame:
        """It leaves."""
        picture = self.picture
        assert picture is not None
        return OutputFrame(
            index=self.index,
            image=picture.image,
            pts=self.frame.pts,
            time_base=self.frame.time_base,
            playout_s=self.playout_s,
            outcome=self.outcome,
            latency_s=self.ready_s - self.pushed_s,
            planes=picture.planes,
            box=None if picture.patch is None else picture.patch.box,
            trace=self.frame.trace,
        )


class FrameQueue:
    """Every frame that has not left, in order."""

    def __init__(self) -> None:
        self._states: deque[FrameState] = deque()
        self._waiting: deque[FrameState] = deque()  # those of them that no worker has begun
        self._spoken: tuple[int, ShownFrame] | None = None  # the last that may be held
        self.pushed = 0  # frames so far
        self.ended = False

    def __len__(self) -> int:
        return len(self._states)

    def __iter__(self) -> Iterator[FrameState]:
        return iter(self._states)

    @property
    def head(self) -> FrameState | None:
        """What leaves next."""
        return self._states[0] if self._states else None

    @property
    def waiting(self) -> FrameState | None:
        """What is to be begun next."""
        return self._waiting[0] if self._waiting else None

    def push(self, frame: VideoFrame, time_s: float, playout_s: float) -> None:
        """A frame came, to be shown at `playout_s`, and not before those that came before it."""
        playout_s = max(playout_s, self._states[-1].playout_s) if self._states else playout_s
        state = FrameState(frame, self.pushed, time_s, playout_s)
        self.pushed += 1
        self._states.append(state)
        self._waiting.append(state)

    def take(self) -> FrameState | None:
        """Begin the one that has waited longest, or give it up."""
        return self._waiting.popleft() if self._waiting else None

    def find(self, index: int) -> FrameState | None:
        """The frame of this number, unless it has left."""
        return next((p for p in self._states if p.index == index), None)

    def followers(self, index: int) -> list[FrameState]:
        """Those that wait for this frame's mouth."""
        return [p for p in self._states if p.after == index]

    def show(self, state: FrameState, picture: ShownFrame, outcome: Outcome, time_s: float) -> None:
        """A mouth was painted into it."""
        state.show(picture, outcome, time_s)
        if picture.patch is not None and picture.patch.weight is not None:
            self._spoken = state.index, picture
        state.stamp("composited")
        if state is self.head:
            state.stamp("headed")

    def hold(self, state: FrameState, time_s: float) -> bool:
        """Show in a frame the mouth of one shortly before it, in the place that it had there.

        Returns:
            Whether there was one, and the picture is still much the same.
        """
        if self._spoken is None or state.picture is not None:
            return False
        index, shown = self._spoken
        image, patch = state.frame.image, shown.patch
        assert patch is not None and patch.weight is not None
        left = HOLD_FRAMES + FADE_FRAMES + 1 - (state.index - index)
        if state.index <= index or left <= 0 or shown.image.shape != image.shape:
            return False
        x0, y0, x1, y1 = patch.box
        before = shown.image[y0:y1, x0:x1].astype(np.float32)
        now = image[y0:y1, x0:x1].astype(np.float32)
        if float(np.abs(before - patch.change - now).mean()) > HOLD_LEVELS:
            return False
        share = np.float32(min(left / (FADE_FRAMES + 1), 1))
        held = Patch(x0, y0, weighted(before - now, patch.weight * share))
        self.show(state, ShownFrame.painted(state.frame, held), Outcome.HELD, time_s)
        return True

    def leave(self) -> FrameState:
        """The head goes out; it is ready."""
        head = self._states.popleft()
        if head is self.waiting:
            self._waiting.popleft()
        head.trace.outcome = head.outcome
        head.stamp("popped")
        if self.head is not None and self.head.picture is not None:
            self.head.stamp("headed")
        return head

    def abandon(self, last_s: float) -> int:
        """Drop the oldest, come before `last_s` or too many for one more; how many they were.

        Nobody pops: memory stays bounded. None of them waits to be begun.
        """
        before = len(self._states)
        while self._states and (
            self._states[0].pushed_s < last_s or len(self._states) >= MAX_FLIGHT
        ):
            self._states.popleft()
        return before - len(self._states)

    def end(self) -> None:
        """Nothing more is begun; what is not ready passes through."""
        self.ended = True
        self._waiting.clear()
        for state in self._states:
            state.pass_through(Outcome.LATE, state.playout_s)
