"""Link: one connection of a call, from its offer to its loss; `LipwireCall` makes the next one."""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import json
import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import httpx
from aiortc import (
    MediaStreamTrack,
    RTCBundlePolicy,
    RTCConfiguration,
    RTCIceServer,
    RTCPeerConnection,
    RTCSessionDescription,
)
from aiortc.mediastreams import MediaStreamError
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake

from lipwire_client.media import Camera, MediaClock, Picture, Sound, to_picture, to_sound

# Media flows within a tenth of a second on one machine, in 1 to 3 s across the world.
CONNECT_S = 10.0
# Pictures that do not come back for so long, while some are sent, mean that the path is gone.
# Shorter: a hiccup of a mobile network ends the connection; longer: viewers see a still picture.
STALL_S = 3.0
LOOK_S = 0.25

# httpx loads these with its first request, 0.2 s of the first call's start.
for _name in ("httpcore", "anyio._backends._asyncio"):
    with contextlib.suppress(ImportError):
        importlib.import_module(_name)


class CallLost(ConnectionError):
    """The server or the way to it is gone; connecting again may help."""


class Refused(Exception):
    """The server says no.

    Args:
        status: of HTTP.
        reason: its one line.
        retry_after_s: when it is worth asking again; None: as it is, never.
    """

    def __init__(self, status: int, reason: str, retry_after_s: float | None = None) -> None:
        super().__init__(f"{reason} ({status})")
        self.status, self.retry_after_s = status, retry_after_s


@dataclass(frozen=True, slots=True)
class Address:
    """Where the call is and what it asks for."""

    url: str
    name: str
    token: str | None = None
    settings: dict[str, Any] = field(default_factory=dict)
    """fields of `POST /api/sessions/{name}`, such as consent"""
    tls: ssl.SSLContext | None = None
    face: bytes | None = None
    """a clip or a photo, in place of the camera"""

    @property
    def headers(self) -> dict[str, str]:
        """What a request carries."""
        return {"Authorization": f"Bearer {self.token}"} if self.token else {}

    def client(self) -> httpx.AsyncClient:
        """For requests to the server."""
        # Where there is nothing to verify, reading the certificates would cost 0.1 s.
        verify = self.tls if self.tls is not None else self.url.startswith("https")
        return httpx.AsyncClient(
            base_url=self.url, headers=self.headers, timeout=CONNECT_S, verify=verify
        )

    def socket_url(self, rate_hz: int, node: str = "") -> str:
        """Of the voice's WebSocket, on the node whose prefix this is."""
        parts = urlsplit(self.url)
        scheme = "wss" if parts.scheme == "https" else "ws"
        path = f"{parts.path.rstrip('/')}{node}/api/sessions/{self.name}/speech"
        return urlunsplit((scheme, parts.netloc, path, f"rate={rate_hz}", ""))


class Link:
    """One peer connection and one voice socket.

    Args:
        address: where, and with what.
        rate_hz: of the voice.
        on_frame: given each picture and block of sound.
        on_event: given what the server says beside the media.
    """

    def __init__(
        self,
        address: Address,
        rate_hz: int,
        on_frame: Callable[[Picture | Sound], None],
        on_event: Callable[[dict[str, Any]], None],
    ) -> None:
        self._address, self._on_frame, self._on_event = address, on_frame, on_event
        self.rate_hz, self.camera = rate_hz, Camera()
        self.lost = asyncio.Event()
        """set when another link is needed"""
        self.why = ""
        self._tasks: list[asyncio.Task[None]] = []
        self._socket: ClientConnection | None = None
        self._pc: RTCPeerConnection | None = None
        self._location = ""
        self._connected = asyncio.Event()
        self._unseen_s: float | None = None  # when the first was sent of those not come back
        self._sent_s = 0.0

    async def open(self) -> None:
        """Connect; what was begun is to be closed by `close` whatever happens.

        Raises:
            Refused: the server says no.
            CallLost: it does not answer, or no media can pass.
        """
        try:
            async with asyncio.timeout(CONNECT_S), self._address.client() as http:
                await self._offer(http)
                await asyncio.gather(self._open_socket(), self._connected.wait())
                if self.lost.is_set():
                    raise CallLost(self.why)
        except TimeoutError:
            raise CallLost(f"no connection to {self._address.url} in {CONNECT_S:g} s") from None
        except (httpx.HTTPError, OSError, InvalidHandshake) as error:
            if isinstance(error, CallLost):
                raise
            cause = str(error) or type(error).__name__
            raise CallLost(f"{self._address.url} does not answer ({cause})") from error
        self._unseen_s = None  # what was given before could not come back
        self._tasks.append(asyncio.create_task(self._watch()))

    async def _offer(self, http: httpx.AsyncClient) -> None:
        offered = _checked(await http.get("/api/ice-servers")).json()
        servers = [RTCIceServer(**entry) for entry in offered]
        pc = self._pc = RTCPeerConnection(
            RTCConfiguration(iceServers=servers, bundlePolicy=RTCBundlePolicy.MAX_BUNDLE)
        )
        filmed = self._address.face is None
        if filmed:
            pc.addTransceiver(self.camera, "sendrecv")
        else:
            pc.addTransceiver("video", "recvonly")
        pc.addTransceiver("audio", "recvonly")
        channel = pc.createDataChannel("lipwire")
        channel.on("message", lambda text: self._on_event(json.loads(text)))
        pc.on("track", self._on_track)
        pc.on("connectionstatechange", self._on_state)
        await pc.setLocalDescription(await pc.createOffer())
        sdp = await (self._call(http) if filmed else self._watch_face(http))
        await pc.setRemoteDescription(RTCSessionDescription(sdp, "answer"))

    async def _call(self, http: httpx.AsyncClient) -> str:
        """Begin the session with the camera as its publisher."""
        assert self._pc is not None
        body = {"sdp": self._pc.localDescription.sdp, **self._address.settings}
        answer = await http.post(f"/api/sessions/{self._address.name}", json=body)
        sdp: str = _checked(answer).json()["sdp"]
        self._location = answer.headers["Location"]
        return sdp

    async def _watch_face(self, http: httpx.AsyncClient) -> str:
        """Begin the session with the file, unless it runs, and watch it."""
        assert self._pc is not None
        name = self._address.name
        made = await http.put(
            f"/api/sessions/{name}", params=self._address.settings, content=self._address.face
        )
        if made.status_code != 409:  # after a loss it is there already
            _checked(made)
        self._location = made.headers.get("Location", f"/whip/{name}")
        headers = {"Content-Type": "application/sdp"}
        sdp = self._pc.localDescription.sdp
        return _checked(
            await http.post(f"{self._node}/whep/{name}", content=sdp, headers=headers)
        ).text

    @property
    def _node(self) -> str:
        """What stands before addresses of the server that has the session, behind a proxy."""
        return self._location.partition("/whip/")[0]

    def _on_state(self) -> None:
        state = self._pc.connectionState if self._pc is not None else "closed"
        if state == "connected":
            self._connected.set()
        elif state in ("failed", "closed"):
            self.lose(f"the connection {state}")

    def _on_track(self, track: MediaStreamTrack) -> None:
        self._tasks.append(asyncio.create_task(self._take(track)))

    async def _take(self, track: MediaStreamTrack) -> None:
        assert self._pc is not None
        receiver = next(t.receiver for t in self._pc.getTransceivers() if t.receiver.track is track)
        clock = MediaClock(receiver, track.kind)
        with contextlib.suppress(MediaStreamError):
            while True:
                frame: Any = await track.recv()
                if track.kind == "video":
                    self._unseen_s = None
                    self._on_frame(to_picture(frame, clock))
                else:
                    self._on_frame(to_sound(frame, clock))

    def lose(self, why: str) -> None:
        """Say that it is no more."""
        if not self.lost.is_set():
            self.why = why
            self.lost.set()
            self._connected.set()  # nobody need wait for it any more

    async def _watch(self) -> None:
        """Notice a path that carries nothing back, long before ICE does."""
        while not self.lost.is_set():
            await asyncio.sleep(LOOK_S)
            if self._unseen_s is not None and self._sent_s - self._unseen_s > STALL_S:
                self.lose(f"no picture came back for {STALL_S:g} s")

    # --- what goes in ---

    def send_image(self, rgb: Any, size: tuple[int, int]) -> None:
        """See `LipwireCall.send_image`."""
        self.camera.put(rgb, size)
        self._sent_s = time.monotonic()
        if self._unseen_s is None:
            self._unseen_s = self._sent_s

    async def _open_socket(self) -> None:
        url = self._address.socket_url(self.rate_hz, self._node)
        self._socket = await connect(
            url, additional_headers=self._address.headers, ssl=self._address.tls, max_size=2**20
        )
        self._tasks.append(asyncio.create_task(self._listen(self._socket)))

    async def _listen(self, socket: ClientConnection) -> None:
        with contextlib.suppress(ConnectionClosed):
            async for message in socket:
                if not self.lost.is_set():
                    self._on_event(json.loads(message))
        if socket is self._socket:
            self.lose("the voice's socket closed")

    async def send(self, message: bytes | dict[str, Any]) -> None:
        """Voice, or a command, over the socket.

        Raises:
            CallLost: the link is.
        """
        if self._socket is None:
            raise CallLost("there is no connection")
        try:
            await self._socket.send(message if isinstance(message, bytes) else json.dumps(message))
        except ConnectionClosed as error:
            self.lose("the voice's socket closed")
            raise CallLost(self.why) from error

    async def set_rate(self, rate_hz: int) -> None:
        """The voice's rate from now on: another socket, after all of this one has been taken.

        Raises:
            CallLost: the link is.
        """
        if rate_hz == self.rate_hz:
            return
        old, self._socket, self.rate_hz = self._socket, None, rate_hz
        if old is not None:
            await old.close()
        try:
            await self._open_socket()
        except (OSError, InvalidHandshake) as error:
            self.lose("the voice's socket cannot be opened")
            raise CallLost(f"{self.why} ({error})") from error

    async def close(self, end: bool) -> None:
        """Let go of it.

        Args:
            end: end the session too, for all who watch it.
        """
        self.lose("it was closed")
        if end and self._location:
            with contextlib.suppress(httpx.HTTPError):
                async with self._address.client() as http:
                    await http.delete(self._location)
        for task in self._tasks:
            task.cancel()
        if self._socket is not None:
            await self._socket.close()
        self.camera.stop()
        if self._pc is not None:
            await self._pc.close()
        await asyncio.gather(*self._tasks, return_exceptions=True)


def _checked(answer: httpx.Response) -> httpx.Response:
    """An answer that is no refusal.

    Raises:
        Refused: it is a refusal.
    """
    if answer.is_success:
        return answer
    try:
        reason = str(answer.json()["error"])
    except (ValueError, KeyError, TypeError):
        reason = answer.reason_phrase
    after = answer.headers.get("Retry-After", "")
    raise Refused(answer.status_code, reason, float(after) if after.isdigit() else None)
