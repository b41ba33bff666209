"""How a caller reaches a server that it knows nothing of: WHIP and WHEP, or JSON to `/offer`."""

from __future__ import annotations

import asyncio
import ipaddress
import os
import time
from dataclasses import dataclass
from typing import Any
from urllib.parse import urljoin, urlsplit

import httpx
from aiortc import RTCPeerConnection, RTCSessionDescription

from lipwire.benchmarks.rig.client import new_peer, offer_of
from lipwire.engine.errors import ConfigError, LipwireError
from lipwire.server.rtc import ice

PUBLISHED_S = 10.0  # after which a WHEP address that still refuses is wrong
TOKEN = "LIPWIRE_TOKEN"  # of the environment: a bearer token, in no record and no list of processes
CALL = "{call}"  # in an address: the number of the call


@dataclass(frozen=True)
class Doors:
    """Where a server is called; `{call}` in an address is the number of the call."""

    offer: str | None = None
    """takes {"sdp", "type"} as JSON and answers so; picture and sound go both ways on it"""
    whip: str | None = None  # takes what is published (RFC 9725)
    whep: str | None = None  # gives it back (draft-ietf-wish-whep)

    def __post_init__(self) -> None:
        pair = [url for url in (self.whip, self.whep) if url is not None]
        if bool(self.offer) == bool(pair) or len(pair) == 1:
            raise ConfigError("another server needs --offer, or --whip and --whep together")
        for url in (self.offer, *pair):
            if url and urlsplit(url).scheme not in ("http", "https"):
                raise ConfigError(f"{url!r} is no address that begins with http:// or https://")

    def of(self, call: int) -> tuple[str | None, str | None, str | None]:
        """The addresses of one call."""
        urls = (self.offer, self.whip, self.whep)
        offer, whip, whep = (url and url.replace(CALL, str(call)) for url in urls)
        return offer, whip, whep

    @property
    def near(self) -> bool:
        """Whether all of it is on this machine."""
        hosts = {urlsplit(url).hostname for url in (self.offer, self.whip, self.whep) if url}
        return all(host == "localhost" or _loopback(host or "") for host in hosts)


def _loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


class Line:
    """One call's connections to a server."""

    def __init__(self, http: httpx.AsyncClient, doors: Doors, call: int = 0) -> None:
        self._http, self._urls = http, doors.of(call)
        token = os.environ.get(TOKEN)
        self._headers = {"Authorization": f"Bearer {token}"} if token else {}
        if doors.near:
            ice.offer_addresses(["127.0.0.1"])
        self._connections: list[RTCPeerConnection] = []
        self._resources: list[str] = []

    async def open(self, camera: Any, voice: Any, on_track: Any) -> None:
        """Publish camera and voice; whatever comes back is given to `on_track(receiver)`."""
        offer, whip, whep = self._urls
        if offer is not None:
            pc = self._made(on_track)
            pc.addTrack(camera)
            pc.addTrack(voice)
            await self._json(pc, offer)
            return
        assert whip is not None and whep is not None
        out, back = self._made(on_track), self._made(on_track)
        out.addTransceiver(camera, "sendonly")
        out.addTransceiver(voice, "sendonly")
        back.addTransceiver("video", "recvonly")
        back.addTransceiver("audio", "recvonly")
        await self._sdp(out, whip)
        begun_s = time.monotonic()
        while True:  # what is published may take a while to be there
            try:
                await self._sdp(back, whep)
                return
            except LipwireError:
                if time.monotonic() > begun_s + PUBLISHED_S:
                    raise
                await asyncio.sleep(0.2)

    def _made(self, on_track: Any) -> RTCPeerConnection:
        pc = new_peer(on_track)
        self._connections.append(pc)
        return pc

    async def _json(self, pc: RTCPeerConnection, url: str) -> None:
        reply = await self._post(url, json={"sdp": await offer_of(pc), "type": "offer"})
        try:
            answer = reply.json()
            sdp = answer["sdp"]
        except (ValueError, KeyError, TypeError):  # a full LiveTalking says so with status 200
            raise LipwireError(f"{url}: no answer in what it sent: {reply.text[:120]!r}") from None
        await self._accept(pc, url, sdp)

    async def _sdp(self, pc: RTCPeerConnection, url: str) -> None:
        if pc.signalingState == "stable":  # not yet offered
            await offer_of(pc)
        headers = {"Content-Type": "application/sdp"}
        reply = await self._post(url, content=pc.localDescription.sdp, headers=headers)
        if "location" in reply.headers:
            self._resources.append(urljoin(str(reply.url), reply.headers["location"]))
        await self._accept(pc, url, reply.text)

    async def _post(self, url: str, headers: Any = None, **body: Any) -> httpx.Response:
        try:
            reply = await self._http.post(url, headers={**self._headers, **(headers or {})}, **body)
        except httpx.HTTPError as error:
            raise LipwireError(f"{url}: {error or type(error).__name__}") from None
        if not reply.is_success:
            raise LipwireError(f"{url}: {reply.status_code} {reply.text[:120]!r}")
        return reply

    @staticmethod
    async def _accept(pc: RTCPeerConnection, url: str, sdp: str) -> None:
        try:
            await pc.setRemoteDescription(RTCSessionDescription(sdp, "answer"))
        except Exception as error:  # aiortc's parser raises several kinds
            raise LipwireError(f"{url}: its answer cannot be used ({error})") from None

    async def close(self) -> None:
        """Hang up, as WHIP and WHEP ask for."""
        for url in self._resources:
            try:
                await self._http.delete(url, headers=self._headers)
            except httpx.HTTPError:
                continue  # it may be gone
        for pc in self._connections:
            await pc.close()
