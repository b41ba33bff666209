"""A caller that speaks real WebRTC, a server beside the test, and sounds to send."""

from __future__ import annotations

import asyncio
import contextlib
import io
import threading
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

import aioice.ice
import aiortc.rtcicetransport
import av
import httpx
import numpy as np
import pytest
import uvicorn
import websockets
from aiortc import (
    MediaStreamTrack,
    RTCBundlePolicy,
    RTCConfiguration,
    RTCPeerConnection,
    RTCSessionDescription,
)
from aiortc.mediastreams import MediaStreamError
from fakes import FakeBackend, picture

from lipwire.engine import Engine
from lipwire.engine.types import I16, U8, LipJob
from lipwire.server.api.app import create_app
from lipwire.server.api.listener import SOCKETS
from lipwire.server.config import ServerConfig
from lipwire.server.rtc.patch import REPLACED

RATE_HZ = 48_000


def tone(seconds: float, hz: float = 440.0, rate_hz: int = RATE_HZ, level: float = 0.3) -> I16:
    """A vowel-like buzz, int16[N]: a fundamental and its harmonics, loud enough for any VAD."""
    t = np.arange(int(seconds * rate_hz)) / rate_hz
    wave = sum(np.sin(2 * np.pi * hz * k * t) / k for k in (1, 2, 3, 4))
    return np.asarray(wave * level * 16_000, np.int16)


def loudness(samples: I16) -> float:
    """Root mean square."""
    return float(np.sqrt(np.mean(samples.astype(np.float64) ** 2))) if len(samples) else 0.0


def strongest_hz(samples: I16, rate_hz: int = RATE_HZ) -> float:
    """The frequency with the most energy."""
    spectrum = np.abs(np.fft.rfft(samples * np.hanning(len(samples))))
    return float(np.argmax(spectrum) * rate_hz / len(samples))


def sound_file(
    samples: I16, rate_hz: int = RATE_HZ, kind: str = "wav", layout: str = "mono"
) -> bytes:
    """A sound file in memory; more than one channel repeats the same sound."""
    codecs = {
        "wav": "pcm_s16le",
        "ogg": "libopus",
        "mp3": "mp3",
        "webm": "libopus",
        "flac": "flac",
        "adts": "aac",
    }
    out = io.BytesIO()
    with av.open(out, "w", format=kind) as container:
        stream: Any = container.add_stream(codecs[kind], rate=rate_hz, layout=layout)
        channels = len(stream.layout.channels)
        data = np.repeat(samples, channels)[None]
        frame = av.AudioFrame.from_ndarray(data, format="s16", layout=layout)
        frame.sample_rate = rate_hz
        fit = av.AudioResampler(
            stream.format.name, layout, rate_hz, stream.codec_context.frame_size
        )
        for piece in [*fit.resample(frame), *fit.resample(None), None]:
            container.mux(stream.encode(piece))
    return out.getvalue()


class StripedBackend(FakeBackend):
    """Paints broad stripes: a flat colour would be matched to the face and hardly be seen."""

    def _paint(self, job: LipJob) -> U8:
        painted = super()._paint(job)
        rows = np.arange(len(painted)) // 12 % 2 * 255
        half = len(painted) // 2
        painted[half:] = rows[half:, None, None]
        return painted


class Camera(MediaStreamTrack):
    """A client's camera: the same picture at a steady rate.

    Args:
        image: uint8[H, W, 3].
        fps: frames a second.
    """

    kind = "video"

    def __init__(self, image: U8 | None = None, fps: int = 25) -> None:
        super().__init__()
        self.image = picture() if image is None else image
        self._fps, self._sent = fps, 0
        self._began_s = 0.0

    async def recv(self) -> av.VideoFrame:
        """The next picture, in time."""
        if self.readyState != "live":
            raise MediaStreamError
        self._began_s = self._began_s or time.monotonic()
        await asyncio.sleep(max(0, self._began_s + self._sent / self._fps - time.monotonic()))
        frame = av.VideoFrame.from_ndarray(self.image, format="rgb24")
        frame.pts, frame.time_base = self._sent, Fraction(1, self._fps)
        self._sent += 1
        return frame


class Microphone(MediaStreamTrack):
    """A client's microphone: a sound, over and over, as it is played.

    Args:
        samples: int16[N] at 48 kHz.
    """

    kind = "audio"

    def __init__(self, samples: I16) -> None:
        super().__init__()
        self.samples, self._sent = samples, 0
        self._began_s = 0.0

    async def recv(self) -> av.AudioFrame:
        """The next 20 ms, in time."""
        if self.readyState != "live":
            raise MediaStreamError
        self._began_s = self._began_s or time.monotonic()
        await asyncio.sleep(max(0, self._began_s + self._sent / RATE_HZ - time.monotonic()))
        piece = np.take(self.samples, range(self._sent, self._sent + 960), mode="wrap")
        frame = av.AudioFrame.from_ndarray(piece[None], format="s16", layout="mono")
        frame.sample_rate, frame.pts, frame.time_base = RATE_HZ, self._sent, Fraction(1, RATE_HZ)
        self._sent += 960
        return frame


@dataclass
class Caller:
    """The other end of a call: a real aiortc peer that keeps what it receives."""

    camera: Camera = field(default_factory=Camera)
    original: Microphone | None = None
    voice: Microphone | None = None
    messages: list[str] = field(default_factory=list)
    pictures: list[U8] = field(default_factory=list)
    picture_times_s: list[float] = field(default_factory=list)
    """RTP time of each picture"""
    sound: list[I16] = field(default_factory=list)
    sound_times_s: list[float] = field(default_factory=list)

    async def __aenter__(self) -> Caller:
        """Prepare the peer; the event loop must be running."""
        self.pc = RTCPeerConnection(
            RTCConfiguration(iceServers=[], bundlePolicy=RTCBundlePolicy.MAX_BUNDLE)
        )
        self._tasks: list[asyncio.Task[None]] = []
        self.pc.addTrack(self.camera)
        self.pc.addTransceiver(self.original or "audio", "sendrecv")
        self.pc.addTransceiver(self.voice or "audio", "sendonly")
        self.channel = self.pc.createDataChannel("lipwire")
        self.channel.on("message", self.messages.append)
        self.pc.on(
            "track", lambda track: self._tasks.append(asyncio.create_task(self._take(track)))
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        """Hang up."""
        await self.pc.close()
        await asyncio.gather(*self._tasks)

    async def offer(self) -> str:
        """Our SDP."""
        await self.pc.setLocalDescription(await self.pc.createOffer())
        return self.pc.localDescription.sdp

    async def accept(self, answer: str) -> None:
        """The server's SDP."""
        await self.pc.setRemoteDescription(RTCSessionDescription(answer, "answer"))

    async def _take(self, track: MediaStreamTrack) -> None:
        with contextlib.suppress(MediaStreamError):
            while True:
                frame: Any = await track.recv()
                if track.kind == "video":
                    self.pictures.append(frame.to_ndarray(format="rgb24"))
                    self.picture_times_s.append(float(frame.pts * frame.time_base))
                    del self.pictures[:-200], self.picture_times_s[:-200]
                else:
                    self.sound.append(frame.to_ndarray().reshape(-1, 2)[:, 0].copy())
                    self.sound_times_s.append(float(frame.pts * frame.time_base))

    def heard(self, last_s: float | None = None) -> I16:
        """What was heard, int16[N] at 48 kHz."""
        pieces = self.sound if last_s is None else self.sound[-int(last_s * 50) :]
        return np.concatenate(pieces) if pieces else np.zeros(0, np.int16)


class HttpCall:
    """A connected call and the address of its session."""

    def __init__(self, caller: Caller, client: httpx.AsyncClient, name: str) -> None:
        self.caller, self.client, self.name = caller, client, name
        self.path = f"/api/sessions/{name}"

    async def stats(self) -> dict[str, Any]:
        """The session's figures."""
        answer = await self.client.get(self.path + "/stats")
        assert answer.status_code == 200
        return dict(answer.json())

    def socket(self, rate: str = "?rate=24000", **options: Any) -> Any:
        """The PCM WebSocket."""
        base = str(self.client.base_url).rstrip("/").replace("http", "ws")
        return websockets.connect(base + self.path + "/speech" + rate, **options)


@contextlib.asynccontextmanager
async def http_call(client: httpx.AsyncClient) -> AsyncIterator[HttpCall]:
    """A call by `/api/sessions`, from its first picture on."""
    async with Caller() as caller:
        offer = {"sdp": await caller.offer(), "type": "offer", "consent": True}
        answer = await client.post("/api/sessions", json=offer)
        assert answer.status_code == 201, answer.text
        body = answer.json()
        assert body["type"] == "answer" and len(body["id"]) >= 22
        await caller.accept(body["sdp"])
        await until(lambda: bool(caller.pictures), "a picture comes back")
        yield HttpCall(caller, client, body["id"])


def error_of(answer: httpx.Response, status: int) -> str:
    """The one line of an error."""
    assert answer.status_code == status, (answer.status_code, answer.text)
    body = answer.json()
    assert list(body) == ["error"] and "\n" not in body["error"]
    return str(body["error"])


async def until(condition: Callable[[], bool], what: str, seconds: float = 30.0) -> None:
    """Wait for something that happens beside us."""
    for _ in range(int(seconds / 0.02)):
        if condition():
            return
        await asyncio.sleep(0.02)
    raise AssertionError(f"within {seconds:g} s: {what}")


def keep_aiortc(patch: pytest.MonkeyPatch) -> None:
    """Let a patch put back whatever a server replaces in aiortc and aioice from now on."""
    patch.setattr(aioice.ice, "get_host_addresses", aioice.ice.get_host_addresses)
    replaced: Any = aiortc.rtcicetransport
    patch.setattr(replaced, "Connection", replaced.Connection)
    for module, name in REPLACED:
        patch.setattr(module, name, getattr(module, name))


class Running:
    """A server on a loopback port of its own, in a thread with its own event loop.

    Args:
        engine: does the work; left open.
        **settings: of the server. The overload ladder is off: tests wait for painted pictures on
            machines that are busy with other tests.
    """

    def __init__(self, engine: Engine, **settings: Any) -> None:
        self.app = create_app(ServerConfig(**{"ladder": False, **settings}), engine)
        config = uvicorn.Config(self.app, host="127.0.0.1", port=0, log_level="error", **SOCKETS)
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run, name="server")
        self.url = ""

    def __enter__(self) -> Running:
        """Start and wait until it answers."""
        self._thread.start()
        for _ in range(500):
            if self._server.started:
                break
            time.sleep(0.01)
        self.url = f"http://127.0.0.1:{self._server.servers[0].sockets[0].getsockname()[1]}"
        return self

    def __exit__(self, *_: object) -> None:
        """Stop."""
        self.stop()

    def stop(self) -> None:
        """Stop as a signal would, and wait for it."""
        self._server.should_exit = True
        self._thread.join(20)
        assert not self._thread.is_alive()
