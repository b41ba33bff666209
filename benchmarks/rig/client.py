"""What callers share: a face as a track, a connection that offers it, a voice by WebSocket."""

from __future__ import annotations

import asyncio
import time
from abc import abstractmethod
from collections.abc import AsyncIterator, Callable
from fractions import Fraction
from typing import Any

import av
import httpx
import numpy as np
import websockets
from aiortc import (
    RTCBundlePolicy,
    RTCConfiguration,
    RTCPeerConnection,
    RTCRtpCodecParameters,
    RTCSessionDescription,
)
from aiortc.mediastreams import MediaStreamError, MediaStreamTrack
from av.packet import Packet

from lipwire.benchmarks.rig.network import NetworkEmulator, without_candidates
from lipwire.engine.types import I16, U8

SPEECH_RATE_HZ = 24_000  # what most TTS services send
BURST_S = 0.5
AHEAD_S = 4.0  # how far the voice is sent ahead of real time, as TTS services do
VIDEO_CODECS = {
    "VP8": RTCRtpCodecParameters("video/VP8", 90_000, payloadType=97),
    "H264": RTCRtpCodecParameters("video/H264", 90_000, payloadType=99),
}


# --- pictures ---


class PacedTrack(MediaStreamTrack):
    """A camera that keeps time; what it shows, `show` says.

    Args:
        fps: frames a second.
        phase_s: how much later than it is asked for the first picture comes.
        skew: how much faster the camera's clock is than ours, as a share.
    """

    kind = "video"

    def __init__(self, fps: int, phase_s: float = 0.0, skew: float = 0.0) -> None:
        super().__init__()
        self._fps, self._phase_s, self._skew = fps, phase_s, skew
        self._begun_s = 0.0
        self.sent_s: list[float] = []  # when each was handed over

    async def recv(self) -> Any:
        """The next picture, when it is due."""
        number = len(self.sent_s)
        self._begun_s = self._begun_s or time.monotonic() + self._phase_s
        due_s = self._begun_s + number / self._fps / (1 + self._skew)
        await asyncio.sleep(max(0.0, due_s - time.monotonic()))
        shown = self.show(number)
        shown.pts, shown.time_base = number * 90_000 // self._fps, Fraction(1, 90_000)
        self.sent_s.append(time.monotonic())
        return shown

    @abstractmethod
    def show(self, number: int) -> av.VideoFrame | Packet[Any]:
        """The picture of this number, raw or encoded; its time is set by the caller."""


def there_and_back(number: int, count: int) -> int:
    """Which of `count` pictures is shown: forwards, then backwards, so that no loop jumps."""
    place = number % (2 * count)
    return place if place < count else 2 * count - 1 - place


def video_frame(image: U8) -> av.VideoFrame:
    """An image, uint8[H, W, 3], as an encoder takes it."""
    return av.VideoFrame.from_ndarray(image, format="rgb24").reformat(format="yuv420p")


class FaceTrack(PacedTrack):
    """The pictures of a file, over and over."""

    def __init__(self, images: list[U8], fps: int, skew: float = 0.0) -> None:
        super().__init__(fps, skew=skew)
        self._frames = [video_frame(image) for image in images]

    def show(self, number: int) -> av.VideoFrame:
        """One of the file's."""
        return self._frames[there_and_back(number, len(self._frames))]


# --- connections ---


def new_peer(on_receiver: Callable[[Any], object] | None = None) -> RTCPeerConnection:
    """A connection with all media in one bundle; the receiver of each track is handed over."""
    pc = RTCPeerConnection(RTCConfiguration(iceServers=[], bundlePolicy=RTCBundlePolicy.MAX_BUNDLE))

    @pc.on("track")
    def on_track(track: MediaStreamTrack) -> None:
        if on_receiver is not None:
            on_receiver(next(t.receiver for t in pc.getTransceivers() if t.receiver.track is track))

    return pc


def caller_of(camera: MediaStreamTrack, on_receiver: Callable[[Any], object]) -> RTCPeerConnection:
    """A connection that shows a camera, and takes picture and sound."""
    pc = new_peer(on_receiver)
    pc.addTrack(camera)
    pc.addTransceiver("audio", direction="recvonly")
    return pc


async def offer_of(pc: RTCPeerConnection) -> str:
    """The connection's offer, with its candidates."""
    await pc.setLocalDescription(await pc.createOffer())
    sdp: str = pc.localDescription.sdp
    return sdp


async def begin(
    pc: RTCPeerConnection,
    http: httpx.AsyncClient,
    offer: str,
    relay: NetworkEmulator | None = None,
    **wishes: object,
) -> str:
    """Begin a session at a lipwire server, by way of a relay if there is one; its name."""
    sdp = offer if relay is None else without_candidates(offer)
    body = {"sdp": sdp, "type": "offer", "consent": True, **wishes}
    reply = await http.post("/api/sessions", json=body)
    reply.raise_for_status()
    answer = reply.json()
    sdp = answer["sdp"] if relay is None else relay.reroute(answer["sdp"])
    await pc.setRemoteDescription(RTCSessionDescription(sdp, "answer"))
    return str(answer["id"])


async def frames_of(track: MediaStreamTrack) -> AsyncIterator[Any]:
    """What a track brings, to its end."""
    while True:
        try:
            frame = await track.recv()
        except MediaStreamError:
            return
        yield frame


async def cancel(tasks: list[asyncio.Task[None]]) -> None:
    """End tasks, whatever became of them."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


# --- the voice ---


def speech_url(url: object, session: str, rate_hz: int = SPEECH_RATE_HZ) -> str:
    """The WebSocket of a session's voice."""
    socket = str(url).rstrip("/").replace("http", "ws", 1)
    return f"{socket}/api/sessions/{session}/speech?rate={rate_hz}"


async def speak(
    url: str,
    samples: I16,
    rate_hz: int = SPEECH_RATE_HZ,
    *,
    burst_s: float = BURST_S,
    ahead_s: float = AHEAD_S,
    skew: float = 0.0,
    sent: Callable[[], None] = lambda: None,
) -> None:
    """Send a voice over the WebSocket in bursts, for ever, by a clock of its own.

    Args:
        url: of the socket.
        samples: int16[N], over and over.
        rate_hz: theirs.
        burst_s: sound in each message.
        ahead_s: how far ahead of real time it is sent, as TTS services do.
        skew: how much faster its clock is than ours, as a share.
        sent: called as each message is handed over.
    """
    start, sent_s, place = time.monotonic(), 0.0, 0
    burst = int(burst_s * rate_hz)
    async with websockets.connect(url) as socket:
        while True:
            piece = np.take(samples, range(place, place + burst), mode="wrap")
            sent()
            await socket.send(piece.astype("<i2").tobytes())
            place, sent_s = (place + burst) % len(samples), sent_s + burst_s
            due_s = start + (sent_s - ahead_s) / (1 + skew)
            await asyncio.sleep(max(0.0, due_s - time.monotonic()))
