"""One encode for many viewers, without any network; and who belongs to which of them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import av
import numpy as np
import pytest
from aiortc import RTCRtpCodecParameters
from aiortc.codecs import depayload
from aiortc.jitterbuffer import JitterFrame
from calls import until
from fakes import picture

from lipwire.server.config import ServerConfig
from lipwire.server.rtc.codecs import GuardedEncoder, make_encoder
from lipwire.server.rtc.decoders import make_decoder
from lipwire.server.rtc.encoding import QUEUED, Renditions, copy_picture
from lipwire.server.rtc.patch import apply
from lipwire.server.rtc.rate_control import CLIMB_S, TRIAL_S, LayerSelector, make_ladder
from lipwire.server.rtc.subscription import SENT, Encoded, Subscription

VP8 = RTCRtpCodecParameters("video/VP8", 90_000, payloadType=97)
H264 = RTCRtpCodecParameters("video/H264", 90_000, payloadType=99)
OPUS = RTCRtpCodecParameters("audio/opus", 48_000, channels=2, payloadType=96)
LADDER = make_ladder(250_000, 2_500_000)


def av_frame(index: int = 0, height: int = 240, width: int = 320) -> av.VideoFrame:
    frame = av.VideoFrame.from_ndarray(picture(height, width), format="rgb24")
    frame = frame.reformat(format="yuv420p")
    frame.pts, frame.time_base = index * 3600, Fraction(1, 90_000)
    return frame


def block(index: int) -> av.AudioFrame:
    samples = np.full((1, 960), 1000, np.int16)
    frame = av.AudioFrame.from_ndarray(samples, format="s16", layout="mono")
    frame.sample_rate, frame.pts, frame.time_base = 48_000, index * 960, Fraction(1, 48_000)
    return frame


def renditions(kind: str = "video", observe: Callable[[str, float], None] | None = None) -> Any:
    apply(ServerConfig())
    return Renditions(kind, ServerConfig(), observe or (lambda stage, seconds: None))


async def take(subscription: Subscription) -> Encoded:
    frame: Encoded = await asyncio.wait_for(subscription.recv(), 20)
    return frame


# --- who gets what ---


def test_the_ladder_has_three_rungs_and_fits_small_limits() -> None:
    assert [(r.floor, r.ceiling, r.shrink) for r in LADDER] == [
        (1_000_000, 2_500_000, 1),
        (500_000, 1_000_000, 1),
        (250_000, 500_000, 2),
    ]
    assert [(r.floor, r.ceiling) for r in make_ladder(100_000, 100_000)] == [(100_000, 100_000)]
    for highest in range(100_000, 3_000_000, 50_000):
        ladder = make_ladder(min(250_000, highest), highest)
        assert 1 <= len(ladder) <= 3 and ladder[0].ceiling == highest
        assert all(r.floor <= r.ceiling for r in ladder)


def test_a_narrow_path_falls_at_once_and_climbs_after_a_trial_that_lasts() -> None:
    place = LayerSelector(LADDER, 1_500_000, 0.0)
    assert place.rung == 0 and not place.settled(0.1)
    assert place.estimate(400_000, 1_500_000, 0.2) and place.rung == 2
    assert place.settled(0.3)
    # What receivers claim is bounded by what they are sent: 1.5 times as much.
    now, climbed = 0.3, None
    while climbed is None:
        now += 0.5
        climbed = now if place.estimate(750_000, 500_000, now) else None
    assert CLIMB_S <= climbed < CLIMB_S + 2 and place.rung == 1
    assert not place.settled(now + 0.1) and place.settled(now + TRIAL_S)


def test_a_climb_that_fails_is_tried_less_and_less_often() -> None:
    place, now = LayerSelector(LADDER, 300_000, 0.0), 0.0
    climbs: list[float] = []
    assert place.rung == 2
    while len(climbs) < 4:
        now += 0.5
        if place.rung == 2:
            if place.estimate(600_000, 400_000, now):
                climbs.append(now)
        else:
            assert place.estimate(300_000, 500_000, now)  # the path breaks down
    waits = np.diff(climbs)
    assert waits[0] >= 2 * CLIMB_S and waits[1] > 1.5 * waits[0] and waits[2] > 1.5 * waits[1]


def test_an_estimate_around_a_border_does_not_flap() -> None:
    place = LayerSelector(LADDER, 1_500_000, 0.0)
    moves = sum(
        place.estimate(1_000_000 + 120_000 * (-1) ** index, 1_000_000, 0.5 * index)
        for index in range(400)
    )
    assert moves == 0 and place.rung == 0


# --- encodes ---


@pytest.mark.parametrize("codec", [VP8, H264], ids=["VP8", "H264"])
def test_what_is_encoded_whole_and_cut_by_each_sender_is_the_picture(
    codec: RTCRtpCodecParameters,
) -> None:
    whole = GuardedEncoder(codec, ServerConfig(), whole=True)
    cutters = [make_encoder(codec) for _ in range(2)]
    decoders = [make_decoder(codec, 1920 * 1080) for _ in range(2)]
    for index in range(4):
        (data,), stamp = whole.encode(av_frame(index))
        frame = Encoded([data], stamp)
        for cutter, decoder in zip(cutters, decoders, strict=True):
            payloads, cut_stamp = cutter.pack(frame.packet())
            assert cut_stamp == index * 3600 and max(map(len, payloads)) <= 1300
            joined = b"".join(depayload(codec, payload) for payload in payloads)
            (shown,) = decoder.decode(JitterFrame(joined, cut_stamp))
            seen = shown.to_ndarray(format="rgb24")  # type: ignore[attr-defined]
            assert np.abs(seen.astype(int) - picture()).mean() < 6


async def test_each_picture_is_encoded_once_for_all_and_a_newcomer_gets_a_key_frame() -> None:
    encodes: list[str] = []
    made = renditions(observe=lambda stage, seconds: encodes.append(stage))
    one, two = made.subscription(lambda: 0.0), made.subscription(lambda: 0.0)
    one.tune(VP8)
    for index in range(3):
        made.put(av_frame(index))
        first = await take(one)
        assert first.key == (index == 0)
    two.tune(VP8)
    assert two.rendition is one.rendition
    key = None
    for index in range(3, 40):
        made.put(av_frame(index))
        shared = await take(one)
        await asyncio.sleep(0.04)
        if shared.key:
            key = shared
            break
    assert key is not None and await take(two) is key  # and nothing from before it
    made.put(av_frame(50))
    assert await take(one) is await take(two)
    assert len(encodes) == index + 2
    made.stop()


async def test_requests_of_many_cost_one_key_frame() -> None:
    made = renditions()
    subscriptions = [made.subscription(lambda: 0.0) for _ in range(4)]
    for subscription in subscriptions:
        subscription.tune(VP8)
    keys = []
    for index in range(30):
        for subscription in subscriptions:
            subscription.ask_key()
        made.put(av_frame(index))
        for subscription in subscriptions:
            keys.append((await take(subscription)).key)
        await asyncio.sleep(0.02)
    assert 1 <= sum(keys) // 4 <= 1 + 30 * 0.5  # by the clock, not by the requests
    assert subscriptions[0].rendition is not None and subscriptions[0].rendition.keys.asked >= 120
    assert sum(keys) // 4 < 25
    made.stop()


async def test_a_viewer_with_a_narrow_path_falls_alone_to_a_smaller_picture() -> None:
    made = renditions()
    wide, narrow = made.subscription(lambda: 0.0), made.subscription(lambda: 0.0)
    for subscription in (wide, narrow):
        subscription.tune(VP8)
    before = wide.target_bitrate
    narrow.estimate(300_000)
    assert narrow.rendition is not wide.rendition
    assert wide.target_bitrate == before and narrow.target_bitrate == 300_000
    assert [f["viewers"] for f in made.figures()] == [1, 1]
    made.put(av_frame(0))
    sizes = []
    for subscription in (wide, narrow):
        frame = await take(subscription)
        assert frame.key
        decoder = make_decoder(VP8, 1920 * 1080)
        (shown,) = decoder.decode(JitterFrame(frame.payloads[0], 0))
        sizes.append((shown.width, shown.height))  # type: ignore[attr-defined]
    assert sizes == [(320, 240), (160, 120)]
    narrow.stop()
    assert len(made.running) == 1  # what nobody watches is not encoded
    made.stop()
    assert not made.running


async def test_codecs_have_encodes_of_their_own_and_do_not_disturb_each_other() -> None:
    made = renditions()
    subscriptions = [made.subscription(lambda: 0.0) for _ in range(4)]
    for subscription, codec in zip(subscriptions, (VP8, H264, VP8, H264), strict=True):
        subscription.tune(codec)
    for subscription in subscriptions[2:]:
        subscription.estimate(300_000)
    assert len(made.running) == 4
    for index in range(20):
        made.put(av_frame(index))
        frames = [await take(subscription) for subscription in subscriptions]
        assert {frame.key for frame in frames} == {index == 0}
        assert {frame.timestamp for frame in frames} == {index * 3600}
    made.stop()


async def test_sound_is_encoded_once_with_its_loudness() -> None:
    made = renditions("audio")
    subscriptions = [made.subscription(lambda: 0.0) for _ in range(3)]
    for subscription in subscriptions:
        subscription.tune(OPUS)
    for index in range(4):
        made.put(block(index))
        frames = [await take(subscription) for subscription in subscriptions]
        assert frames[0] is frames[1] is frames[2] and len(frames[0].payloads) == 1
        assert frames[0].level is not None and -40 < frames[0].level < -20
    subscriptions[0].estimate(100_000)  # means nothing for sound
    assert len(made.running) == 1
    made.stop()


async def test_a_sender_that_is_too_slow_goes_on_with_a_key_frame() -> None:
    made = renditions()
    slow, quick = made.subscription(lambda: 0.0), made.subscription(lambda: 0.0)
    for subscription in (slow, quick):
        subscription.tune(VP8)
    for index in range(SENT["video"] + 1):
        made.put(av_frame(index))
        await take(quick)
    await until(lambda: slow.dropped > 0, "the queue is full")
    assert slow.dropped == SENT["video"] + 1 and slow.depth == 0
    for index in range(20, 60):
        made.put(av_frame(index))
        frame = await take(quick)
        await asyncio.sleep(0.04)
        if frame.key:
            break
    assert await take(slow) is frame and frame.key
    made.stop()


async def test_an_encoder_that_is_too_slow_loses_the_oldest() -> None:
    made = renditions()
    subscription = made.subscription(lambda: 0.0)
    subscription.tune(VP8)
    for index in range(5):  # nobody yields to it
        made.put(av_frame(index))
    assert made.dropped == 5 - QUEUED["video"] and made.depth == QUEUED["video"]
    assert (await take(subscription)).timestamp == 3 * 3600
    made.stop()


async def test_a_fault_costs_a_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    made = renditions()
    subscription = made.subscription(lambda: 0.0)
    subscription.tune(VP8)
    (rendition,) = made.running.values()

    def broken(*_: object) -> Any:
        raise RuntimeError("boom")

    with monkeypatch.context() as patch:
        patch.setattr(rendition, "_work", broken)
        made.put(av_frame(0))
        await until(lambda: rendition.depth == 0, "it is taken")
        await asyncio.sleep(0.05)
    made.put(av_frame(1))
    assert (await take(subscription)).timestamp == 3600
    made.stop()


def test_copies_are_equal_and_apart() -> None:
    frame = av_frame(7, 97, 131)
    copy = copy_picture(frame)
    for there, here in zip(copy.planes, frame.planes, strict=True):
        assert bytes(there) == bytes(here)
    np.frombuffer(memoryview(copy.planes[0]), np.uint8)[:] = 3
    assert bytes(copy.planes[0]) != bytes(frame.planes[0])
