"""One session's output for several viewers, without any network."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction

import numpy as np
import pytest
from aiortc.mediastreams import MediaStreamError
from calls import until
from fakes import video_frame

from engine import Engine, Session
from server.mark import Mark
from server.relay import QUEUED, Relay, RelayTrack, copy_picture
from server.tracks import to_av


class Broken(Mark):
    """A mark that cannot be drawn at first."""

    def __init__(self) -> None:
        super().__init__()
        self.failed = 0

    def draw(self, frame: object) -> None:
        """Fail three times."""
        if self.failed < 3:
            self.failed += 1
            raise RuntimeError("boom")


@pytest.fixture
async def session(engine: Engine) -> AsyncIterator[Session]:
    made = engine.session()
    yield made
    engine.end(made)


async def feed(engine: Engine, session: Session, count: int) -> None:
    for index in range(count):
        session.push_video(video_frame(index), engine.clock())
        await asyncio.sleep(0.04)


async def test_each_viewer_gets_frames_of_its_own_and_leaves_alone(
    engine: Engine, session: Session
) -> None:
    with ThreadPoolExecutor(1) as pool:
        relay = Relay(session, engine.clock, pool, Mark())
        (one, one_sound), (two, _) = relay.subscribe(), relay.subscribe()
        pumps = [asyncio.create_task(work()) for work in (relay.run_pictures, relay.run_sound)]
        feeding = asyncio.create_task(feed(engine, session, 15))
        frames = await asyncio.gather(*(asyncio.wait_for(t.recv(), 20) for t in (one, two)))
        assert frames[0] is not frames[1]  # encoders write into them
        first, second = (frame.to_ndarray() for frame in frames)
        assert first.max() > 225 and first.shape == second.shape  # the letters of the mark
        sound = await asyncio.wait_for(one_sound.recv(), 20)
        assert sound.samples == 960 and abs(one.media_time_s() - two.media_time_s()) < 10
        two.stop()
        with pytest.raises(MediaStreamError):
            await two.recv()
        await asyncio.wait_for(one.recv(), 20)
        relay.stop()
        await asyncio.wait_for(asyncio.gather(*pumps), 20)
        with pytest.raises(MediaStreamError):
            await one.recv()
        await feeding


async def test_a_picture_that_cannot_be_marked_does_not_leave(
    engine: Engine, session: Session
) -> None:
    with ThreadPoolExecutor(1) as pool:
        mark = Broken()
        relay = Relay(session, engine.clock, pool, mark)
        track, _ = relay.subscribe()
        pump = asyncio.create_task(relay.run_pictures())
        receive = asyncio.create_task(track.recv())
        await feed(engine, session, 3)
        await until(lambda: mark.failed > 0, "a failure")
        await feed(engine, session, 10)
        await asyncio.wait_for(receive, 20)  # and the pump went on
        assert mark.failed == 3
        relay.stop()
        await asyncio.wait_for(pump, 20)


async def test_slow_senders_lose_the_oldest_and_new_ones_start_fresh() -> None:
    track = RelayTrack("video", lambda: 0.0, lambda track: None)
    frames = [to_av(np.full((16, 16, 3), level, np.uint8)) for level in range(6)]
    track.put(frames[0])  # before anybody listens
    first = asyncio.create_task(track.recv())
    await asyncio.sleep(0)
    assert not first.done() and track.dropped == 0
    for frame in frames[1:]:
        track.put(frame)
    assert track.depth == QUEUED["video"] and track.dropped == 3
    assert await first is frames[4]


def test_copies_are_equal_and_apart() -> None:
    frame = to_av(np.arange(97 * 131 * 3, dtype=np.uint32).astype(np.uint8).reshape(97, 131, 3))
    frame.pts, frame.time_base = 7, Fraction(1, 90_000)
    copy = copy_picture(frame)
    for there, here in zip(copy.planes, frame.planes, strict=True):
        assert bytes(there) == bytes(here)
    assert copy.pts == 7 and copy.time_base == frame.time_base
    Mark().draw(copy)
    assert bytes(copy.planes[0]) != bytes(frame.planes[0])
