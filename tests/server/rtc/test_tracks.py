"""The outgoing tracks on a clock that the test moves."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction

import av
import numpy as np
import pytest
from aiortc.mediastreams import MediaStreamError
from calls import tone
from fakes import FakeTracker, picture

from lipwire.engine import EngineConfig, OutputFrame, Session, VideoFrame
from lipwire.server.rtc.tracks import (
    AUDIO_BLOCK,
    PictureTrack,
    VoiceTrack,
    to_av,
    to_av_audio,
    to_mono,
)


@pytest.fixture
def session() -> Session:
    return Session("s", FakeTracker, EngineConfig(), now=time.monotonic())


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(1) as made:
        yield made


def push(session: Session, index: int) -> None:
    """Push a picture and let it pass through."""
    now = time.monotonic()
    session.push_video(VideoFrame(picture(48, 64, index), index, Fraction(1, 25)), now)
    session.jobs.begin(now)


async def test_pictures_leave_in_order_at_their_time(
    session: Session, pool: ThreadPoolExecutor
) -> None:
    track = PictureTrack(session, time.monotonic, pool)
    stamps, began_s = [], time.monotonic()
    for index in range(4):
        push(session, index)
        frame = await asyncio.wait_for(track.recv(), 2)
        stamps.append(frame.pts * frame.time_base)
    assert time.monotonic() - began_s > 4 * 0.045  # each waited for its delay of 48 ms
    assert sorted(set(stamps)) == stamps
    assert abs(float(stamps[-1]) - session.time_s(time.monotonic())) < 0.3


async def test_times_never_stand_still(
    session: Session, pool: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    frames = iter([0.5, 0.5, 0.4, 0.6])

    def pop(now: float) -> OutputFrame:
        return OutputFrame(0, picture(48, 64), 0, Fraction(1), next(frames), "silent", 0.0)  # type: ignore[arg-type]

    monkeypatch.setattr(session, "pop_video", pop)
    track = PictureTrack(session, time.monotonic, pool)
    stamps = [(await track.recv()).pts for _ in range(4)]
    assert stamps == [45_000, 45_001, 45_002, 54_000]


async def test_waiting_for_pictures_is_not_a_busy_loop(
    session: Session, pool: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = 0
    pop = session.pop_video

    def counted(now: float) -> OutputFrame | None:
        nonlocal calls
        calls += 1
        return pop(now)

    monkeypatch.setattr(session, "pop_video", counted)
    track = PictureTrack(session, time.monotonic, pool)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(track.recv(), 0.4)
    assert 2 <= calls <= 25


async def test_sound_begins_now_and_goes_on_in_blocks(session: Session) -> None:
    await asyncio.sleep(0.3)  # the time a connection takes: its silence must not be sent in a burst
    track = VoiceTrack(session, time.monotonic)
    began_s = time.monotonic()
    frames = [await track.recv() for _ in range(10)]
    assert 0.15 < time.monotonic() - began_s < 1.0
    assert frames[0].pts >= 0.25 * 48_000
    assert [b.pts - a.pts for a, b in zip(frames, frames[1:], strict=False)] == [AUDIO_BLOCK] * 9
    assert all(f.samples == 960 and f.sample_rate == 48_000 for f in frames)


async def test_the_voice_is_in_the_blocks(session: Session) -> None:
    track = VoiceTrack(session, time.monotonic)
    await track.recv()
    wait_s = session.push_speech(tone(0.2), 48_000, time.monotonic())
    frames = [await track.recv() for _ in range(int((wait_s + 0.3) * 50))]
    heard = np.concatenate([f.to_ndarray()[0] for f in frames])
    first = (frames[0].pts + int(np.flatnonzero(heard)[0])) / 48_000
    assert abs(first - (session.time_s(time.monotonic()) - 0.3)) < 0.15
    assert abs(np.count_nonzero(heard) / 48_000 - 0.2) < 0.01


async def test_sound_that_grew_stale_is_skipped(session: Session) -> None:
    track = VoiceTrack(session, time.monotonic)
    first = await track.recv()
    time.sleep(0.9)  # the event loop hangs
    second = await track.recv()
    behind_s = session.time_s(time.monotonic()) - second.pts / 48_000
    assert second.pts > first.pts + AUDIO_BLOCK and behind_s < 0.7


async def test_both_end_when_they_are_stopped(session: Session, pool: ThreadPoolExecutor) -> None:
    for track in (PictureTrack(session, time.monotonic, pool), VoiceTrack(session, time.monotonic)):
        waiting = asyncio.create_task(track.recv())
        await asyncio.sleep(0.01)
        track.stop()
        if isinstance(track, VoiceTrack):
            await asyncio.wait_for(asyncio.wait({waiting}), 2)
            with pytest.raises(MediaStreamError):
                await track.recv()
        else:
            with pytest.raises(MediaStreamError):
                await asyncio.wait_for(waiting, 2)


def test_colours_survive_the_way_to_the_encoder() -> None:
    image = picture(64, 80)
    back = to_av(image).to_ndarray(format="rgb24")
    assert np.abs(back.astype(int) - image).mean() < 3


def test_sound_frames_keep_their_samples() -> None:
    samples = tone(0.02)
    frame = to_av_audio(samples, 4800)
    assert np.array_equal(frame.to_ndarray()[0], samples)
    assert frame.pts == 4800 and frame.time_base == Fraction(1, 48_000)


def test_channels_are_averaged() -> None:
    left, right = np.array([100, -32768], np.int16), np.array([300, -32768], np.int16)
    packed = av.AudioFrame.from_ndarray(np.stack([left, right], 1).reshape(1, -1), "s16", "stereo")
    planar = av.AudioFrame.from_ndarray(np.stack([left, right]), "s16p", "stereo")
    single = av.AudioFrame.from_ndarray(left[None], "s16", "mono")
    assert to_mono(packed).tolist() == to_mono(planar).tolist() == [200, -32768]
    assert to_mono(single).tolist() == left.tolist() and to_mono(single).dtype == np.int16
