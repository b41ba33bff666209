"""One session's output, marked and for several viewers, without any network."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from aiortc import RTCRtpCodecParameters
from aiortc.jitterbuffer import JitterFrame
from aiortc.mediastreams import MediaStreamError
from calls import until
from fakes import video_frame

from lipwire.engine import Engine, Session
from lipwire.server.call.broadcast import Broadcaster
from lipwire.server.config import ServerConfig
from lipwire.server.media.watermark import Watermark
from lipwire.server.rtc.decoders import make_decoder

VP8 = RTCRtpCodecParameters("video/VP8", 90_000, payloadType=97)
OPUS = RTCRtpCodecParameters("audio/opus", 48_000, channels=2, payloadType=96)


class Broken(Watermark):
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


async def test_viewers_get_the_same_encode_and_leave_alone(
    engine: Engine, session: Session
) -> None:
    with ThreadPoolExecutor(1) as pool:
        broadcaster = Broadcaster(session, engine.clock, pool, ServerConfig(), Watermark())
        tapped: list[object] = []
        broadcaster.taps.append(tapped.append)
        (one, one_sound), (two, _) = broadcaster.subscribe(), broadcaster.subscribe()
        for subscription in (one, two):
            subscription.tune(VP8)
        one_sound.tune(OPUS)
        pumps = [
            asyncio.create_task(work())
            for work in (broadcaster.run_pictures, broadcaster.run_sound)
        ]
        feeding = asyncio.create_task(feed(engine, session, 15))
        frames = await asyncio.gather(*(asyncio.wait_for(t.recv(), 20) for t in (one, two)))
        assert frames[0] is frames[1] and frames[0].key  # encoded once
        decoder = make_decoder(VP8, 1920 * 1080)
        (picture,) = decoder.decode(JitterFrame(frames[0].payloads[0], 0))
        assert picture.to_ndarray().max() > 225  # type: ignore[attr-defined]  # the mark's letters
        sound = await asyncio.wait_for(one_sound.recv(), 20)
        assert len(sound.payloads) == 1 and abs(one.media_time_s() - two.media_time_s()) < 10
        assert len(broadcaster.renditions["video"].running) == 1
        two.stop()
        with pytest.raises(MediaStreamError):
            await two.recv()
        await asyncio.wait_for(one.recv(), 20)
        broadcaster.stop()
        assert not broadcaster.renditions["video"].running  # nobody is left: nothing is encoded
        await asyncio.wait_for(asyncio.gather(*pumps), 20)
        with pytest.raises(MediaStreamError):
            await one.recv()
        await feeding
        assert len(tapped) >= 3


async def test_a_picture_that_cannot_be_marked_does_not_leave(
    engine: Engine, session: Session
) -> None:
    with ThreadPoolExecutor(1) as pool:
        mark = Broken()
        broadcaster = Broadcaster(session, engine.clock, pool, ServerConfig(), mark)
        track, _ = broadcaster.subscribe()
        track.tune(VP8)
        pump = asyncio.create_task(broadcaster.run_pictures())
        receive = asyncio.create_task(track.recv())
        await feed(engine, session, 3)
        await until(lambda: mark.failed > 0, "a failure")
        await feed(engine, session, 10)
        await asyncio.wait_for(receive, 20)  # and the pump went on
        assert mark.failed == 3
        broadcaster.stop()
        await asyncio.wait_for(pump, 20)
