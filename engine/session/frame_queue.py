"""Flight: the frames of a session that are on their way, in order, and what is shown for each.

    push -> take (a worker begins it) -> show or pass_through -> leave, in order
Not locked, the session is.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

from lipwire.engine.audio.fade import left_after
from lipwire.engine.media.planes import paint_image, paint_planes
from lipwire.engine.session.face_pipeline import Aligned
from lipwire.engine.types import U8, Outcome, OutputFrame, Patch, Planes, VideoFrame
from lipwire.engine.units.unit import Unit

# A live frame that nobody has fetched so long after its last moment is dropped, so that a stalled
# reader costs bounded memory. Shorter: a reader that hiccups misses frames.
ABANDONED_S = 1.0
MAX_FLIGHT = 512  # and never more than this, whatever the frame rate


@dataclass(frozen=True, slots=True)
class Picture:
    """What goes out for a frame: as pixels, and in its planes if it came with them."""

    image: U8
    """uint8[H, W, 3]"""
    planes: Planes | None
    patch: Patch | None = None
    """the mouth in it; None: it is the original"""

    @classmethod
    def painted(cls, frame: VideoFrame, patch: Patch) -> Picture:
        """The frame with a mouth in it."""
        planes = None if frame.planes is None else paint_planes(frame.planes, patch)
        return cls(paint_image(frame.image, patch), planes, patch)


@dataclass(slots=True)
class Passage:
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
    unit: Unit | None = None  # the person's own mouth that is shown in it
    # Set when it is ready to go out:
    picture: Picture | None = None
    outcome: Outcome = Outcome.FAULT
    ready_s: float = 0.0

    def mark(self, point: str) -> None:
        """Note in its trace that it is here."""
        if self.frame.trace is not None:
            self.frame.trace.mark(point)

    def show(self, picture: Picture, outcome: Outcome, time_s: float) -> None:
        """It is ready."""
        self.picture, self.outcome, self.ready_s = picture, outcome, time_s

    def pass_through(self, outcome: Outcome, time_s: float) -> None:
        """Its original goes out, unless something is ready already."""
        if self.picture is None:
            self.show(Picture(self.frame.image, self.frame.planes), outcome, time_s)

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
            self.picture = Picture.painted(self.frame, patch.times(left))

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


class Flight:
    """Every frame that has not left, in order."""

    def __init__(self) -> None:
        self._passages: deque[Passage] = deque()
        self._waiting: deque[Passage] = deque()  # those of them that no worker has begun
        self.pushed = 0
        """frames so far"""
        self.ended = False

    def __len__(self) -> int:
        return len(self._passages)

    def __iter__(self) -> Iterator[Passage]:
        return iter(self._passages)

    @property
    def head(self) -> Passage | None:
        """What leaves next."""
        return self._passages[0] if self._passages else None

    @property
    def waiting(self) -> Passage | None:
        """What is to be begun next."""
        return self._waiting[0] if self._waiting else None

    def push(self, frame: VideoFrame, time_s: float, playout_s: float) -> None:
        """A frame came, to be shown at `playout_s`."""
        passage = Passage(frame, self.pushed, time_s, playout_s)
        self.pushed += 1
        self._passages.append(passage)
        self._waiting.append(passage)

    def take(self) -> Passage | None:
        """Begin the one that has waited longest, or give it up."""
        return self._waiting.popleft() if self._waiting else None

    def find(self, index: int) -> Passage | None:
        """The frame of this number, unless it has left."""
        return next((p for p in self._passages if p.index == index), None)

    def followers(self, index: int) -> list[Passage]:
        """Those that wait for this frame's mouth."""
        return [p for p in self._passages if p.after == index]

    def show(self, passage: Passage, picture: Picture, outcome: Outcome, time_s: float) -> None:
        """A mouth was painted into it."""
        passage.show(picture, outcome, time_s)
        passage.mark("composited")
        if passage is self.head:
            passage.mark("headed")

    def leave(self) -> Passage:
        """The head goes out; it is ready."""
        head = self._passages.popleft()
        if head is self.waiting:
            self._waiting.popleft()
        if head.frame.trace is not None:
            head.frame.trace.outcome = head.outcome
        head.mark("popped")
        if self.head is not None and self.head.picture is not None:
            self.head.mark("headed")
        return head

    def abandon(self, last_s: float) -> int:
        """Drop the oldest, due before `last_s` or too many for one more; how many they were.

        Nobody pops: memory stays bounded. None of them waits to be begun.
        """
        before = len(self._passages)
        while self._passages and (
            self._passages[0].playout_s < last_s or len(self._passages) >= MAX_FLIGHT
        ):
            self._passages.popleft()
        return before - len(self._passages)

    def end(self) -> None:
        """Nothing more is begun; what is not ready passes through."""
        self.ended = True
        self._waiting.clear()
        for passage in self._passages:
            passage.pass_through(Outcome.LATE, passage.playout_s)
