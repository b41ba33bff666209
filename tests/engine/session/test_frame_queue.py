"""Flight: frames leave in order, each with what is shown for it, and memory stays bounded."""

from __future__ import annotations

import time
from dataclasses import replace

import numpy as np
import pytest
from fakes import face_mesh
from sessions import DELAY_S, PATIENCE_S, PICTURES, frame, make, pop_all, work

from lipwire.engine.audio.fade import CUT_S
from lipwire.engine.config import EngineConfig
from lipwire.engine.face.alignment import align, alignment_from, fit_similarity
from lipwire.engine.session.aligned import Aligned
from lipwire.engine.session.frame_queue import (
    ABANDONED_S,
    MAX_FLIGHT,
    FrameQueue,
    FrameState,
    ShownFrame,
)
from lipwire.engine.trace import Trace
from lipwire.engine.types import Face, Outcome, Patch

PATCH = Patch(10, 20, np.full((8, 6, 3), 40, np.float32))


def frame_queue(count: int) -> FrameQueue:
    """Frames at 25 fps, shown a tenth of a second after they came."""
    flown = FrameQueue()
    for index in range(count):
        flown.push(frame(index), index / 25, index / 25 + 0.1)
    return flown


def painted(state: FrameState, patch: Patch = PATCH) -> ShownFrame:
    return ShownFrame.painted(state.frame, patch)


def begun(playout_s: float) -> FrameState:
    """A frame whose face was found."""
    image = PICTURES[0]
    mesh = face_mesh((64.0, 48.0), 60.0)
    alignment = alignment_from(fit_similarity(mesh, 128), 128)
    found = Aligned(
        image,
        align(image, alignment),
        np.zeros((1, 128, 128, 3), np.uint8),
        alignment,
        Face(mesh, 1.0),
    )
    return FrameState(frame(0), 0, 0.0, playout_s, aligned=found)


def test_frames_are_begun_and_leave_in_order() -> None:
    flown = frame_queue(3)
    assert (len(flown), flown.pushed) == (3, 3)
    assert [flown.take(), flown.take(), flown.take(), flown.take()] == [*flown, None]
    for index in (2, 0, 1):
        state = flown.find(index)
        assert state is not None
        state.pass_through(Outcome.SILENT, 0.2)
    assert [flown.leave().index for _ in range(3)] == [0, 1, 2]
    assert flown.head is None and flown.waiting is None and flown.find(1) is None


def test_what_leaves_is_not_begun_any_more() -> None:
    flown = frame_queue(2)
    assert flown.head is flown.waiting
    assert flown.head is not None
    flown.head.pass_through(Outcome.LATE, 0.2)
    flown.leave()
    assert flown.waiting is flown.head and flown.head.index == 1


def test_a_mouth_is_shown_in_its_frame_and_nowhere_else() -> None:
    (state,) = flown = frame_queue(1)
    flown.show(state, painted(state), Outcome.GENERATED, 0.05)
    out = flown.leave().output()
    assert (out.outcome, out.latency_s, out.playout_s) == (Outcome.GENERATED, 0.05, 0.1)
    assert out.box == (10, 20, 16, 28)
    differs = (out.image != state.frame.image).any(axis=2)
    assert differs[20:28, 10:16].any()
    differs[20:28, 10:16] = False
    assert not differs.any()


def test_the_original_passes_through_as_it_is_unless_something_is_shown() -> None:
    (state,) = frame_queue(1)
    state.pass_through(Outcome.NO_FACE, 0.03)
    state.pass_through(Outcome.LATE, 0.09)
    out = state.output()
    assert (out.outcome, out.latency_s, out.box) == (Outcome.NO_FACE, 0.03, None)
    assert out.image is state.frame.image


def test_followers_wait_for_one_mouth() -> None:
    flown = frame_queue(4)
    for state in flown:
        state.after = {1: 0, 2: 0, 3: 2}.get(state.index)
    assert [p.index for p in flown.followers(0)] == [1, 2]
    assert flown.followers(1) == []


@pytest.mark.parametrize("ahead_s", [0.0, CUT_S / 2, CUT_S, 1.0])
def test_an_interruption_takes_a_mouth_that_is_shown_later(ahead_s: float) -> None:
    state = begun(2.0 + ahead_s)
    state.show(painted(state), Outcome.GENERATED, 1.5)
    before = state.picture
    for _ in range(2):  # the second time it has been taken into account
        state.cut_short(2.0)
    picture = state.picture
    assert picture is not None
    if ahead_s == 0:
        assert picture is before
    elif ahead_s == CUT_S / 2:
        assert picture.patch is not None
        assert np.allclose(picture.patch.change, 20) and state.strength == pytest.approx(0.5)
    else:
        assert state.outcome is Outcome.SILENT and picture.image is state.frame.image


def test_one_whose_face_was_not_looked_for_is_not_cut_short() -> None:
    state = replace(begun(5.0), aligned=None)
    state.cut_short(2.0)
    assert state.picture is None and state.strength == 1


def test_at_the_end_what_is_not_ready_passes_through() -> None:
    flown = frame_queue(3)
    first, second, third = flown
    flown.take()
    flown.show(first, painted(first), Outcome.GENERATED, 0.05)
    flown.end()
    assert flown.ended and flown.take() is None
    assert [p.outcome for p in flown] == [Outcome.GENERATED, Outcome.LATE, Outcome.LATE]
    assert (second.ready_s, third.ready_s) == (second.playout_s, third.playout_s)


def test_the_trace_says_when_a_frame_was_painted_headed_and_popped() -> None:
    flown, traces = FrameQueue(), [Trace(time.monotonic) for _ in range(2)]
    for index, trace in enumerate(traces):
        flown.push(replace(frame(index), trace=trace), 0.0, 0.1)
    first, second = flown
    flown.show(second, painted(second), Outcome.GENERATED, 0.1)
    assert list(traces[1].at_s) == ["composited"]
    flown.show(first, painted(first), Outcome.HELD, 0.1)
    assert list(traces[0].at_s) == ["composited", "headed"]
    flown.leave()
    assert (list(traces[0].at_s)[-1], traces[0].outcome) == ("popped", "held")
    assert list(traces[1].at_s) == ["composited", "headed"]


def test_the_oldest_are_dropped_when_they_are_overdue_or_too_many() -> None:
    flown = frame_queue(10)
    while flown.take() is not None:
        pass
    assert flown.abandon(4 / 25) == 4
    assert flown.abandon(4 / 25) == 0
    for index in range(MAX_FLIGHT):
        flown.push(frame(index), 9.0, 9.1)
    assert flown.abandon(0.0) == 7  # room for one more
    assert len(flown) == MAX_FLIGHT - 1


def test_memory_is_bounded_when_nobody_pops() -> None:
    session = make()
    for index in range(120):
        session.push_video(frame(index), index / 25)
        work(session, index / 25)
    held = len(session._frame_queue)
    assert held <= (DELAY_S + PATIENCE_S + ABANDONED_S) * 25 + 2
    out = pop_all(session, 30.0)
    assert [f.index for f in out] == list(range(120 - held, 120))
    stats = session.stats(30.0)
    assert stats.frames_out == held
    assert stats.outcomes[Outcome.LATE] == 120 - held


def test_memory_is_bounded_against_a_flood() -> None:
    session = make(EngineConfig(silence="generate", fade_s=0.0, ladder=False))
    for index in range(MAX_FLIGHT + 300):
        session.push_video(frame(index), 0.0)
    assert len(session._frame_queue) == MAX_FLIGHT
    assert work(session, 0.0)
    assert [f.index for f in pop_all(session, 1.0)] == list(range(300, MAX_FLIGHT + 300))


def test_a_long_delay_drops_nothing() -> None:
    session = make(EngineConfig(delay_s=2.0, silence="generate", fade_s=0.0))
    out = []
    for index in range(160):  # 60 fps
        now = index / 60
        session.push_video(frame(index), now)
        work(session, now)
        out += pop_all(session, now)
    out += pop_all(session, 10.0)
    assert [f.index for f in out] == list(range(160))
    assert {f.outcome for f in out} == {Outcome.GENERATED}
