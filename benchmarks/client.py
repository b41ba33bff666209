"""A WebRTC peer in a process of its own: sends a face and listens to what comes back.

Run by the benchmarks as `python -m benchmarks.client URL --video FILE --speech FILE --seconds N`;
prints one JSON object.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import time
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import httpx
import numpy as np
import websockets
from aiortc import RTCConfiguration, RTCPeerConnection, RTCSessionDescription
from aiortc.mediastreams import MediaStreamError, MediaStreamTrack

from engine.media import at_rate, read_frames, read_speech
from engine.types import I16, U8
from server import ice, mediaplane
from server.config import ServerConfig

SPEECH_RATE_HZ = 24_000  # what most TTS services send
BURST_S = 0.5
AHEAD_S = 4.0  # how far the voice is sent ahead of real time, as TTS services do


class FaceTrack(MediaStreamTrack):
    """The pictures of a file, over and over, at a constant rate.

    Args:
        images: uint8[H, W, 3] each.
        fps: frames a second.
        skew: how much faster the camera's clock is than ours, as a share.
    """

    kind = "video"

    def __init__(self, images: list[U8], fps: int, skew: float = 0.0) -> None:
        super().__init__()
        self._frames = [av.VideoFrame.from_ndarray(i, format="rgb24").reformat(format="yuv420p")
                        for i in images]  # fmt: skip
        self._fps, self._index, self._start, self._skew = fps, 0, 0.0, skew

    async def recv(self) -> av.VideoFrame:
        """The next picture, when it is due."""
        if self._index == 0:
            self._start = time.monotonic()
        due = self._start + self._index / self._fps / (1 + self._skew)
        await asyncio.sleep(max(0.0, due - time.monotonic()))
        # Forwards, then backwards, so that the loop has no jump.
        count = len(self._frames)
        place = self._index % (2 * count)
        frame = self._frames[place if place < count else 2 * count - 1 - place]
        frame.pts, frame.time_base = self._index * 90_000 // self._fps, Fraction(1, 90_000)
        self._index += 1
        return frame


async def receive(track: MediaStreamTrack, arrivals: list[float]) -> None:
    """Note when each frame of a track comes, until it ends."""
    try:
        while True:
            await track.recv()
            arrivals.append(time.monotonic())
    except MediaStreamError:
        return


async def speak(
    url: str,
    samples: I16,
    rate_hz: int = SPEECH_RATE_HZ,
    *,
    burst_s: float = BURST_S,
    ahead_s: float = AHEAD_S,
    skew: float = 0.0,
) -> None:
    """Send a voice over the WebSocket in bursts, for ever, by a clock of its own.

    Args:
        url: of the socket.
        samples: int16[N], over and over.
        rate_hz: theirs.
        burst_s: sound in each message.
        ahead_s: how far ahead of real time it is sent, as TTS services do.
        skew: how much faster its clock is than ours, as a share.
    """
    start, sent_s, place = time.monotonic(), 0.0, 0
    burst = int(burst_s * rate_hz)
    async with websockets.connect(url) as socket:
        while True:
            piece = np.take(samples, range(place, place + burst), mode="wrap")
            await socket.send(piece.astype("<i2").tobytes())
            place, sent_s = (place + burst) % len(samples), sent_s + burst_s
            due_s = start + (sent_s - ahead_s) / (1 + skew)
            await asyncio.sleep(max(0.0, due_s - time.monotonic()))


async def call(
    url: str, video: Path, speech: Path, seconds: float, size: tuple[int, int], fps: int
) -> dict[str, Any]:
    """One call of `seconds`; what was received and what the server says about it.

    Args:
        url: of the server.
        video: a clip with a face.
        speech: a voice.
        seconds: how long, after the first picture has come back.
        size: width and height to send, pixels.
        fps: frames a second to send.
    """
    import cv2

    # Loopback only: the benchmark's traffic must not leave the machine.
    ice.offer_addresses(["127.0.0.1"])
    mediaplane.install(ServerConfig())  # aiortc's own H.264 encoder would take the server's core
    clip = itertools.islice(at_rate(read_frames(video), fps), 150)
    images = [cv2.resize(image, size, interpolation=cv2.INTER_AREA) for image in clip]
    voice = read_speech(speech, SPEECH_RATE_HZ)
    pictures: list[float] = []
    sounds: list[float] = []
    peer = RTCPeerConnection(RTCConfiguration(iceServers=[]))
    peer.addTrack(FaceTrack([np.asarray(i) for i in images], fps))
    peer.addTransceiver("audio", direction="recvonly")
    tasks = set()

    @peer.on("track")
    def on_track(track: MediaStreamTrack) -> None:
        arrivals = pictures if track.kind == "video" else sounds
        tasks.add(asyncio.create_task(receive(track, arrivals)))

    await peer.setLocalDescription(await peer.createOffer())
    begun = time.monotonic()
    async with httpx.AsyncClient(base_url=url, timeout=30) as http:
        reply = await http.post("/api/sessions", json={
            "sdp": peer.localDescription.sdp, "type": "offer", "consent": True})  # fmt: skip
        reply.raise_for_status()
        session = reply.json()
        await peer.setRemoteDescription(RTCSessionDescription(session["sdp"], session["type"]))
        socket = url.replace("http", "ws", 1) + (
            f"/api/sessions/{session['id']}/speech?rate={SPEECH_RATE_HZ}")  # fmt: skip
        tasks.add(asyncio.create_task(speak(socket, voice)))
        while not pictures and time.monotonic() < begun + 30:
            await asyncio.sleep(0.01)
        if not pictures:
            raise RuntimeError("no picture came back within 30 s")
        connect_s = pictures[0] - begun
        await asyncio.sleep(3)  # the voice's first seconds and the encoders' settling
        before, opened = await _stats(http, session["id"]), time.monotonic()
        await asyncio.sleep(seconds)
        after, ended = await _stats(http, session["id"]), time.monotonic()
        await http.delete(f"/api/sessions/{session['id']}")
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    await peer.close()
    got = np.array([t for t in pictures if opened <= t <= ended])
    heard = np.array([t for t in sounds if opened <= t <= ended])
    gaps = np.diff(got) if len(got) > 1 else np.array([0.0])
    return {
        "connect_s": connect_s,
        "seconds": ended - opened,
        "pictures_received_per_s": len(got) / (ended - opened),
        "sound_blocks_received_per_s": len(heard) / (ended - opened),
        "picture_gap_p50_s": float(np.percentile(gaps, 50)),
        "picture_gap_p99_s": float(np.percentile(gaps, 99)),
        "picture_gap_max_s": float(gaps.max()),
        "before": before,
        "after": after,
    }


async def _stats(http: httpx.AsyncClient, session: str) -> dict[str, Any]:
    reply = await http.get(f"/api/sessions/{session}/stats")
    reply.raise_for_status()
    stats: dict[str, Any] = reply.json()
    return stats


def main() -> None:
    """Parse, call, print JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("url")
    parser.add_argument("--video", type=Path, required=True)
    parser.add_argument("--speech", type=Path, required=True)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--width", type=int, default=640)
    parser.add_argument("--height", type=int, default=480)
    parser.add_argument("--fps", type=int, default=25)
    a = parser.parse_args()
    size = (a.width, a.height)
    print(json.dumps(asyncio.run(call(a.url, a.video, a.speech, a.seconds, size, a.fps))))


if __name__ == "__main__":
    main()
