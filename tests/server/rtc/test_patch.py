"""Two real peers on loopback, through a relay that loses packets; and what aiortc must still be."""

from __future__ import annotations

import asyncio
import contextlib
import struct
import threading
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from typing import Any

import aiortc
import aiortc.rtcpeerconnection
import av
import numpy as np
import pytest
from aiortc import (
    MediaStreamTrack,
    RTCBundlePolicy,
    RTCConfiguration,
    RTCPeerConnection,
    RTCSessionDescription,
)
from aiortc.mediastreams import MediaStreamError
from aiortc.rtp import RtcpByePacket, RtcpPsfbPacket, RtcpRtpfbPacket, RtpPacket, pack_remb_fci
from calls import Camera, Microphone, tone, until
from fakes import picture

from lipwire.benchmarks.rig.network import Impairment, NetworkEmulator, without_candidates
from lipwire.engine.errors import ConfigError
from lipwire.server.config import ServerConfig
from lipwire.server.rtc import ice, patch, receiver
from lipwire.server.rtc.patch import StrictRtcp, StrictRtp, order_codecs
from lipwire.server.rtc.receiver import NewestTrack, Receiver
from lipwire.server.rtc.rtcp import ntp_seconds, to_ntp
from lipwire.server.rtc.sender import Sender

SETTINGS = ServerConfig(max_pixels=1280 * 720)


@pytest.fixture(autouse=True)
def installed() -> None:
    patch.apply(SETTINGS)
    ice.offer_addresses(["127.0.0.1"])


@dataclass
class Link:
    """A sending and a receiving peer."""

    sending: RTCPeerConnection
    receiving: RTCPeerConnection
    tracks: dict[str, MediaStreamTrack] = field(default_factory=dict)
    frames: dict[str, list[tuple[float, Any]]] = field(
        default_factory=lambda: {"audio": [], "video": []}
    )
    tasks: list[asyncio.Task[None]] = field(default_factory=list)

    def sender(self, kind: str) -> Any:
        return next(s for s in self.sending.getSenders() if s.kind == kind)

    def receiver(self, kind: str) -> Any:
        return next(
            t.receiver for t in self.receiving.getTransceivers() if t.receiver.track.kind == kind
        )

    def gaps(self, kind: str) -> list[float]:
        times = [at_s for at_s, _ in self.frames[kind]]
        return [b - a for a, b in zip(times, times[1:], strict=False)]

    async def read(self, track: MediaStreamTrack) -> None:
        with contextlib.suppress(MediaStreamError):
            while True:
                frame = await track.recv()
                self.frames[track.kind].append((time.monotonic(), frame))


@contextlib.asynccontextmanager
async def link(
    *tracks: MediaStreamTrack, relay: NetworkEmulator | None = None, read: bool = True
) -> AsyncIterator[Link]:
    """One peer sends tracks to another, perhaps through a relay."""
    config = RTCConfiguration(iceServers=[], bundlePolicy=RTCBundlePolicy.MAX_BUNDLE)
    made = Link(RTCPeerConnection(config), RTCPeerConnection(config))
    for track in tracks:
        made.sending.addTransceiver(track, "sendonly")

    @made.receiving.on("track")
    def on_track(track: MediaStreamTrack) -> None:
        made.tracks[track.kind] = track
        if read:
            made.tasks.append(asyncio.create_task(made.read(track)))

    await made.sending.setLocalDescription(await made.sending.createOffer())
    offer, answer = made.sending.localDescription.sdp, ""
    if relay is not None:
        offer = without_candidates(offer)
    await made.receiving.setRemoteDescription(RTCSessionDescription(offer, "offer"))
    await made.receiving.setLocalDescription(await made.receiving.createAnswer())
    answer = made.receiving.localDescription.sdp
    if relay is not None:
        answer = relay.reroute(answer)
    await made.sending.setRemoteDescription(RTCSessionDescription(answer, "answer"))
    try:
        yield made
    finally:
        await asyncio.gather(made.sending.close(), made.receiving.close())
        await asyncio.gather(*made.tasks)


class Numbered(Camera):
    """A camera whose pictures are all different, and that may fail on purpose."""

    def __init__(self, size: tuple[int, int] = (120, 160)) -> None:
        super().__init__(picture(*size))
        self.failing = 0

    async def recv(self) -> av.VideoFrame:
        if self.failing:
            self.failing -= 1
            raise RuntimeError("no picture today")
        self.image = np.roll(self.image, 3, 1)
        return await super().recv()


# --- aiortc is what it was ---


@pytest.mark.parametrize("version", ["1.15.0", "1.17.0", "2.0"])
def test_another_aiortc_is_refused(version: str) -> None:
    with pytest.raises(ConfigError, match=r"aiortc 1\.16\.x"):
        patch.check_version(version)


def test_a_name_that_is_gone_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(aiortc.rtcpeerconnection, "RemoteStreamTrack")
    with pytest.raises(ConfigError, match="RemoteStreamTrack"):
        patch.check_version()


async def test_the_private_parts_that_we_replace_are_there() -> None:
    async with link(Camera(), Microphone(tone(0.1))) as made:
        for part in ("jitter_buffer", "nack_generator", "decoder_queue", "decoder_error"):
            assert hasattr(made.receiver("video"), f"_RTCRtpReceiver__{part}")
        for part in ("encoder", "rtp_timestamp", "lsr", "lsr_time"):
            assert hasattr(made.sender("video"), f"_RTCRtpSender__{part}")
        assert isinstance(made.receiver("video"), Receiver)
        assert isinstance(made.sender("audio"), Sender)
        assert isinstance(made.tracks["video"], NewestTrack)
        await until(lambda: len(made.frames["video"]) > 2, "pictures")
        assert made.sender("video")._source.target_bitrate == SETTINGS.start_kbps * 1000


@pytest.mark.parametrize("first", ["h264", "vp8"])
def test_the_codec_asked_for_comes_first_with_its_repeats(first: str) -> None:
    ordered = order_codecs(aiortc.codecs.CODECS["video"], first)
    assert ordered[0].name.lower() == first
    assert ordered[1].parameters["apt"] == ordered[0].payloadType
    assert len(ordered) == len(aiortc.codecs.CODECS["video"])


# --- bounds ---


async def test_a_track_that_nobody_reads_keeps_the_newest_only() -> None:
    async with link(Numbered(), Microphone(tone(1.0)), read=False) as made:
        await until(lambda: made.tracks["video"]._queue.dropped > 20, "20 dropped")  # type: ignore[attr-defined]
        assert made.tracks["video"]._queue.qsize() <= receiver.UNREAD_PICTURES  # type: ignore[attr-defined]
        assert made.tracks["audio"]._queue.qsize() <= receiver.UNREAD_BLOCKS  # type: ignore[attr-defined]
        frame: Any = await made.tracks["video"].recv()
        assert frame.pts / 90_000 > 0.5  # a new one


async def test_a_stuck_decoder_does_not_hold_up_the_event_loop(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stuck, free = threading.Event(), threading.Event()

    class Stuck:
        def decode(self, frame: object) -> list[object]:
            stuck.set()
            free.wait(5)
            return []

    monkeypatch.setattr(aiortc.rtcrtpreceiver, "get_decoder", lambda codec: Stuck())
    async with link(Camera()) as made:
        await until(stuck.is_set, "the decoder is stuck")
        closing = asyncio.create_task(made.receiving.close())
        ticks = 0
        for _ in range(10):
            await asyncio.sleep(0.01)
            ticks += 1
        assert not closing.done() and ticks == 10
        free.set()
        await asyncio.wait_for(closing, 5)


async def test_endless_new_sources_are_not_remembered() -> None:
    async with link(Camera()) as made:
        await until(lambda: len(made.frames["video"]) > 2, "pictures")
        target = made.receiver("video")
        kind = next(iter(target._codecs))
        router = target.transport._rtp_router
        for ssrc in range(1000):
            packet = RtpPacket(payload_type=kind, ssrc=ssrc, payload=b"\x10abc")
            assert router.route_rtp(packet) in (target, None)
            await target._handle_rtp_packet(packet, arrival_time_ms=0)
        assert len(target._ssrcs) <= receiver.MAX_SSRCS
        assert len(router.ssrc_table) <= receiver.MAX_SSRCS + 2


# --- loss ---


@pytest.mark.parametrize("codec", ["h264", "vp8"])
async def test_two_percent_loss_does_not_freeze_the_picture(codec: str) -> None:
    patch.apply(SETTINGS.model_copy(update={"video_codec": codec}))
    relay = (
        NetworkEmulator()
    )  # fair until they are connected: lost handshakes are repeated after seconds
    async with relay, link(Numbered((240, 320)), Microphone(tone(1.0)), relay=relay) as made:
        await until(lambda: len(made.frames["video"]) > 10, "pictures", 30)
        relay.up, relay.down = Impairment(loss=0.02, burst_loss=0.01), Impairment(loss=0.02, seed=2)
        for _ in range(300):  # at least 3 s, until enough was lost to tell
            await asyncio.sleep(0.02)
            if relay.up.dropped > 12 and made.receiver("video").counts.frames > 100:
                break
        counts = made.receiver("video").counts
        assert relay.up.dropped > 5
        assert counts.gap_wait_max_s <= 0.3  # 120 ms, and what a loaded machine adds
        assert made.receiver("video").nacks > 0 or counts.lost == 0
        # The longest freeze is measured by `lipwire bench loss`; seconds mean aiortc's buffer.
        assert max(made.gaps("video")) < 2.0 and made.gaps("audio")
        assert made.receiver("video").faults == made.receiver("audio").faults == 0


async def test_lost_sound_is_concealed_and_its_time_kept() -> None:
    relay = NetworkEmulator()
    async with relay, link(Microphone(tone(1.0)), relay=relay) as made:
        await until(lambda: len(made.frames["audio"]) > 10, "sound", 30)
        relay.up = Impairment(loss=0.1, seed=5)
        await until(lambda: made.receiver("audio").counts.lost > 3, "losses", 30)
        stamps = [frame.pts for _, frame in made.frames["audio"]]
        steps = np.diff(stamps)
        assert len(steps) > 10 and (steps == 960).mean() > 0.95


# --- senders ---


async def test_faults_of_track_and_encoder_do_not_end_the_sender() -> None:
    camera = Numbered()
    async with link(camera) as made:
        await until(lambda: len(made.frames["video"]) > 3, "pictures")
        camera.failing = 5
        await until(lambda: made.sender("video").faults >= 5, "five faults")
        seen = len(made.frames["video"])
        await until(lambda: len(made.frames["video"]) > seen + 5, "pictures again")

        def broken(*_: object) -> None:
            raise MemoryError

        made.sender("video")._source._inner.encode = broken
        await until(lambda: made.sender("video")._source.failures == 1, "an encoder's fault")
        seen = len(made.frames["video"])
        await until(lambda: len(made.frames["video"]) > seen + 5, "pictures after it")


async def test_a_storm_of_requests_costs_few_key_frames_and_repeats() -> None:
    async with link(Numbered()) as made:
        await until(lambda: len(made.frames["video"]) > 3, "pictures")
        sender = made.sender("video")
        began_s, before = time.monotonic(), sender._keys.sent
        everything = RtcpRtpfbPacket(fmt=1, ssrc=1, media_ssrc=sender._ssrc)
        for _ in range(40):
            await sender._handle_rtcp_packet(RtcpPsfbPacket(1, 1, sender._ssrc))
            everything.lost = 2 * list(range(3000))  # as many as a datagram can name
            await sender._handle_rtcp_packet(everything)
            await asyncio.sleep(0.01)
        took_s = time.monotonic() - began_s
        assert sender._keys.sent - before <= took_s / 0.25 + 1
        assert sender._repeats.refused > 0 and sender._keys.asked >= 40


async def test_estimates_reach_the_encoder() -> None:
    async with link(Numbered()) as made:
        sender = made.sender("video")
        await until(lambda: sender._source is not None, "an encoder")
        fci = pack_remb_fci(400_000, [sender._ssrc])
        await sender._handle_rtcp_packet(RtcpPsfbPacket(15, 1, 0, fci))
        assert abs(sender._source.target_bitrate - 400_000) < 1000


class ClockedCamera(Numbered):
    """A camera that says where its clock is."""

    def media_time_s(self) -> float:
        return time.monotonic() - self._began_s


class ClockedMicrophone(Microphone):
    """A microphone that says where its clock is."""

    def media_time_s(self) -> float:
        return time.monotonic() - self._began_s


async def test_reports_map_both_tracks_to_the_time_they_were_due() -> None:
    camera, microphone = ClockedCamera(), ClockedMicrophone(tone(1.0))
    async with link(camera, microphone) as made:

        def maps() -> list[Any]:
            return [made.receiver(kind)._clock_map for kind in ("audio", "video")]

        await until(lambda: all(m is not None and m.rtp is not None for m in maps()), "reports", 20)
        before = [m.rtp for m in maps()]
        encode = made.sender("video")._source._inner.encode

        def slow(*args: Any) -> Any:
            time.sleep(0.03)
            return encode(*args)

        made.sender("video")._source._inner.encode = slow  # must not move the map
        await until(
            lambda: all(m.rtp != old for m, old in zip(maps(), before, strict=True)), "more", 20
        )
        for kind, track in (("audio", microphone), ("video", camera)):
            origin = made.sender(kind)._origin  # the RTP time of the track's zero
            due_s = made.receiver(kind)._clock_map.seconds(origin)
            assert abs(due_s - ntp_seconds(to_ntp(track._began_s))) < 0.001
            wall_s = made.receiver(kind).wall_clock_s(made.frames[kind][-1][1].pts)
            assert abs(wall_s - ntp_seconds(to_ntp(made.frames[kind][-1][0]))) < 5.0


# --- hostile packets ---


@pytest.mark.parametrize(
    "data", [b"", b"\x80", bytes(12), b"\x90" + bytes(11), bytes([0xA0, 96]) + bytes(10) + b"\xff"]
)
def test_rtp_that_is_none_fails_in_one_way(data: bytes) -> None:
    extensions = aiortc.rtp.HeaderExtensionsMap()
    with contextlib.suppress(ValueError):
        StrictRtp.parse(data, extensions)


def test_a_header_extension_of_an_odd_length_is_refused() -> None:
    parameters = aiortc.RTCRtpParameters(
        headerExtensions=[
            aiortc.RTCRtpHeaderExtensionParameters(
                id=3, uri="http://www.webrtc.org/experiments/rtp-hdrext/abs-send-time"
            )
        ]
    )
    extensions = aiortc.rtp.HeaderExtensionsMap()
    extensions.configure(parameters)
    data = bytes([0x90, 96]) + bytes(10) + b"\xbe\xde\0\1\x30\0\0\0"
    with pytest.raises(struct.error):  # in aiortc; it would end the transport of the call
        RtpPacket.parse(data, extensions)
    with pytest.raises(ValueError, match="not an RTP packet"):
        StrictRtp.parse(data, extensions)


def test_an_estimate_that_lists_less_than_it_counts_is_refused() -> None:
    fci = bytearray(pack_remb_fci(1_000_000, [1]))
    fci[4] = 200
    with pytest.raises(ValueError, match="not an RTCP packet"):
        StrictRtcp.parse(bytes(RtcpPsfbPacket(15, 1, 0, bytes(fci))))
    assert len(StrictRtcp.parse(bytes(RtcpByePacket([1])))) == 1


@pytest.fixture
def no_threads_left() -> Iterator[None]:
    before = {t.name for t in threading.enumerate() if "decoder" in t.name}
    yield
    after = {t.name for t in threading.enumerate() if "decoder" in t.name}
    assert after <= before


@pytest.mark.usefixtures("no_threads_left")
async def test_a_sender_that_says_goodbye_ends_the_track() -> None:
    async with link(Camera()) as made:
        await until(lambda: len(made.frames["video"]) > 2, "pictures")
        await made.sending.close()
        await asyncio.wait_for(asyncio.gather(*made.tasks), 10)
