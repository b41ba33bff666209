"""lipwire.server.dub.pipe: order, bounds and ends; and the stages of a film, side by side."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dubs import dub
from fakes import FakeBackend, FakeTracker

from lipwire.engine import Engine
from lipwire.engine.config import EngineConfig
from lipwire.engine.media.files import read_frames
from lipwire.engine.media.sound import read_speech
from lipwire.engine.types import I16, U8, LipJob, Planes
from lipwire.server.dub.pipe import Pipe, PipeThread
from lipwire.server.media.mp4 import Mp4Writer


def fill(pipe: Pipe[int], count: int, put: list[int]) -> None:
    for number in range(count):
        if not pipe.put(number):
            return
        put.append(number)
    pipe.end()


def test_items_arrive_in_order_and_no_more_wait_than_may() -> None:
    pipe: Pipe[int] = Pipe(3)
    put: list[int] = []
    taken = []
    with PipeThread(pipe, fill, pipe, 50, put):
        for item in pipe:
            taken.append(item)
            assert len(put) - len(taken) <= 4  # three wait, one may be just coming
    assert taken == list(range(50))


def test_dropping_wakes_the_side_that_puts() -> None:
    pipe: Pipe[int] = Pipe(1)
    put: list[int] = []
    began = time.monotonic()
    with PipeThread(pipe, fill, pipe, 1000, put):
        assert next(iter(pipe)) == 0
    assert len(put) < 5
    assert time.monotonic() - began < 5
    assert "fill" not in {thread.name for thread in threading.enumerate()}


def test_an_error_reaches_the_side_that_takes_after_what_came_before() -> None:
    pipe: Pipe[int] = Pipe(8)
    pipe.put(1)
    pipe.end(ValueError("broke"))
    items = iter(pipe)
    assert next(items) == 1
    with pytest.raises(ValueError, match="broke"):
        next(items)


def test_an_error_reaches_the_side_that_puts() -> None:
    pipe: Pipe[int] = Pipe(1)

    def fail_at_two() -> None:
        for item in pipe:
            if item == 2:
                pipe.drop(OSError("disk full"))
                return

    with PipeThread(pipe, fail_at_two), pytest.raises(OSError, match="disk full"):
        for number in range(1000):
            pipe.put(number)


def test_join_lets_the_thread_finish_and_raises_what_it_failed_with() -> None:
    pipe: Pipe[int] = Pipe(100)
    taken: list[int] = []

    def slow() -> None:
        for item in pipe:
            time.sleep(0.002)
            taken.append(item)
        pipe.end(ValueError("at the end"))

    with PipeThread(pipe, slow) as thread:
        for number in range(20):
            pipe.put(number)
        with pytest.raises(ValueError, match="at the end"):
            thread.join()
    assert taken == list(range(20))
    with pytest.raises(ValueError, match="at the end"):
        pipe.put(1)


# --- the stages of a film ---


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """Every picture and block of sound in the order in which the writer was given them.

    Files are not compared: of small pictures x264 makes other bits each time.
    """
    given: list[bytes] = []
    picture, sound = Mp4Writer.write_picture, Mp4Writer.write_sound

    def write_picture(self: Mp4Writer, image: U8, pts: int, step: int, planes: Planes) -> None:
        given.append(image.tobytes() + planes.y.tobytes() + str(pts).encode())
        picture(self, image, pts, step, planes)

    def write_sound(self: Mp4Writer, samples: I16) -> None:
        given.append(samples.tobytes())
        sound(self, samples)

    monkeypatch.setattr(Mp4Writer, "write_picture", write_picture)
    monkeypatch.setattr(Mp4Writer, "write_sound", write_sound)
    return given


def heard_colour(job: LipJob) -> tuple[int, int, int]:
    """Differs with the frame, and with what is heard at it."""
    return 40 + 4 * job.index, int(np.abs(job.mel).sum()) % 256, 30


@pytest.mark.parametrize("slow", ["begin", "paint", "finish"])
def test_the_result_does_not_depend_on_which_stage_is_slow(
    clip: Path,
    voice: Path,
    tmp_path: Path,
    backend: FakeBackend,
    written: list[bytes],
    slow: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    backend.colour = heard_colour
    summary = dub(clip, voice, tmp_path / "out.mp4")
    first, method = written.copy(), getattr(Engine, slow)
    written.clear()

    def slowly(*args: Any) -> Any:
        time.sleep(0.005)
        return method(*args)

    monkeypatch.setattr(Engine, slow, slowly)
    backend.closed = False
    assert dub(clip, voice, tmp_path / "out.mp4").generated == summary.generated == 25
    assert written == first


def test_the_result_is_that_of_one_frame_after_the_other(
    clip: Path, voice: Path, tmp_path: Path, backend: FakeBackend, written: list[bytes]
) -> None:
    backend.colour = heard_colour
    dub(clip, voice, tmp_path / "out.mp4")
    backend.closed = False
    with Engine(backend, FakeTracker) as engine:
        session = engine.session(EngineConfig(offline=True, delay_s=0.0))
        session.push_speech(read_speech(voice, 48_000), 48_000, 0.0)
        session.flush_speech()
        for frame in read_frames(clip, exact=False):
            session.push_video(frame, frame.time_s)
            engine.work([session], frame.time_s)
            shown = session.pop_video(frame.time_s)
            assert shown is not None and shown.planes is not None
            alone = shown.image.tobytes() + shown.planes.y.tobytes() + str(shown.pts).encode()
            assert alone in written


def test_the_next_frames_are_begun_while_one_is_painted(
    clip: Path, voice: Path, tmp_path: Path, backend: FakeBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, ahead = threading.Semaphore(0), []
    begin = Engine.begin

    def told(*args: Any) -> Any:
        begun.release()
        return begin(*args)

    def waits(job: LipJob) -> tuple[int, int, int]:
        if not ahead:  # one after the other, this would never come
            ahead.append(all(begun.acquire(timeout=20) for _ in range(3)))
        return (200, 30, 30)

    monkeypatch.setattr(Engine, "begin", told)
    backend.colour = waits
    assert dub(clip, voice, tmp_path / "out.mp4").generated == 25
    assert ahead == [True]
