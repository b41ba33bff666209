"""A WHIP or WHEP client on aiortc, for the tests of everything that is published and watched."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

import httpx
import numpy as np
from aiortc import RTCBundlePolicy, RTCConfiguration, RTCPeerConnection, RTCSessionDescription
from aiortc.mediastreams import MediaStreamError
from calls import Camera, Microphone, tone

from lipwire.engine.types import I16, U8

IS_SDP = {"Content-Type": "application/sdp"}


class Client:
    """A WHIP or WHEP client on aiortc: its peer connection, and what it received."""

    def __init__(self, http: httpx.AsyncClient) -> None:
        self.http = http
        self.pc = RTCPeerConnection(
            RTCConfiguration(iceServers=[], bundlePolicy=RTCBundlePolicy.MAX_BUNDLE)
        )
        self.pictures: list[U8] = []
        self.sound: list[I16] = []
        self.location = self.etag = self.answer = ""
        self._tasks: list[asyncio.Task[None]] = []
        self.pc.on("track", lambda t: self._tasks.append(asyncio.create_task(self._take(t))))

    async def __aenter__(self) -> Client:
        """For symmetry."""
        return self

    async def __aexit__(self, *_: object) -> None:
        """Hang up without a word."""
        await self.pc.close()
        for task in self._tasks:  # a track whose connection never came has no end
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _take(self, track: Any) -> None:
        with contextlib.suppress(MediaStreamError):
            while True:
                frame = await track.recv()
                if track.kind == "video":
                    self.pictures.append(frame.to_ndarray(format="rgb24"))
                    del self.pictures[:-50]
                else:
                    self.sound.append(frame.to_ndarray().reshape(-1, 2)[:, 0].copy())

    def heard(self, last_s: float) -> I16:
        """What was heard lately, int16[N] at 48 kHz."""
        pieces = self.sound[-int(last_s * 50) :]
        return np.concatenate(pieces) if pieces else np.zeros(0, np.int16)

    def publish(self, camera: Camera | None = None, sound: I16 | None = None) -> Client:
        """Offer to send a picture and a voice."""
        self.pc.addTransceiver(camera or Camera(), "sendonly")
        self.pc.addTransceiver(Microphone(tone(1.0, 300) if sound is None else sound), "sendonly")
        return self

    def speak(self, hz: float) -> Client:
        """Offer to send a voice."""
        self.pc.addTransceiver(Microphone(tone(1.0, hz)), "sendonly")
        return self

    def watch(self) -> Client:
        """Offer to receive."""
        self.pc.addTransceiver("video", "recvonly")
        self.pc.addTransceiver("audio", "recvonly")
        return self

    async def offer(self) -> str:
        """Our SDP, with every candidate."""
        await self.pc.setLocalDescription(await self.pc.createOffer())
        return self.pc.localDescription.sdp

    async def post(self, path: str, sdp: str | None = None) -> httpx.Response:
        """POST the offer, and take the answer if there is one."""
        answer = await self.http.post(path, content=sdp or await self.offer(), headers=IS_SDP)
        if answer.status_code == 201:
            self.location, self.etag = answer.headers["location"], answer.headers["etag"]
            self.answer = answer.text
            await self.pc.setRemoteDescription(RTCSessionDescription(answer.text, "answer"))
        return answer

    @property
    def session(self) -> str:
        """The id in Location."""
        return self.location.split("/")[2]


async def watching(publisher: Client) -> Client:
    """Another client that watches and sees."""
    viewer = Client(publisher.http).watch()
    answer = None
    for _ in range(50):  # 409 until the server, too, knows that the publisher is connected
        answer = await viewer.post(f"/whep/{publisher.session}")
        if answer.status_code != 409:
            break
        await asyncio.sleep(0.1)
    assert answer is not None and answer.status_code == 201, answer.text if answer else ""
    return viewer
