"""A server that sends pictures back as they come: what remains is the bench and the codecs.

Run as `python -m lipwire.benchmarks.rig.echo PORT [DELAY_S]`; as much of lipwire's HTTP as
`benchmarks/rig/latency_client.py` uses, and `/offer`, `/whip` and `/whep` for callers that know
nothing of it, where picture and sound come back so much later.
"""

from __future__ import annotations

import asyncio
import sys
import time
import uuid
from typing import Any

import uvicorn
from aiortc import RTCConfiguration, RTCPeerConnection, RTCSessionDescription
from aiortc.mediastreams import MediaStreamError, MediaStreamTrack
from fastapi import FastAPI, Request, Response

from lipwire.server.config import ServerConfig
from lipwire.server.rtc import ice, patch


class DelayedTrack(MediaStreamTrack):
    """A track's frames, each so long after it came."""

    def __init__(self, source: MediaStreamTrack, delay_s: float) -> None:
        super().__init__()
        self.kind = source.kind
        self._source, self._delay_s = source, delay_s
        self._later: asyncio.Queue[tuple[float, Any]] = asyncio.Queue()
        self._reading = asyncio.ensure_future(self._read())

    async def _read(self) -> None:
        try:
            while True:
                frame = await self._source.recv()
                self._later.put_nowait((time.monotonic() + self._delay_s, frame))
        except MediaStreamError:
            self._later.put_nowait((0.0, None))

    async def recv(self) -> Any:
        """The next one, when it is due."""
        due_s, frame = await self._later.get()
        if frame is None:
            raise MediaStreamError
        if (left_s := due_s - time.monotonic()) > 0:
            await asyncio.sleep(left_s)
        return frame

    def stop(self) -> None:
        self._reading.cancel()
        super().stop()


def make_app(delay_s: float = 0.0) -> FastAPI:
    ice.offer_addresses(["127.0.0.1"])
    patch.apply(ServerConfig())
    app, calls = FastAPI(), dict[str, RTCPeerConnection]()
    published: dict[str, MediaStreamTrack] = {}

    async def answered(pc: RTCPeerConnection, sdp: str) -> str:
        await pc.setRemoteDescription(RTCSessionDescription(sdp, "offer"))
        await pc.setLocalDescription(await pc.createAnswer())
        calls[name := uuid.uuid4().hex] = pc
        return name

    @app.get("/api/info")
    async def info() -> dict[str, Any]:
        return {"sessions": len(calls)}

    @app.post("/api/sessions")
    async def begin(request: Request) -> dict[str, str]:
        pc = RTCPeerConnection(RTCConfiguration(iceServers=[]))

        @pc.on("track")
        def on_track(track: Any) -> None:
            if track.kind == "video":
                pc.addTrack(track)

        name = await answered(pc, (await request.json())["sdp"])
        return {"id": name, "sdp": pc.localDescription.sdp, "type": "answer"}

    @app.post("/offer")
    async def offer(request: Request) -> dict[str, str]:
        pc = RTCPeerConnection(RTCConfiguration(iceServers=[]))
        pc.on("track", lambda track: pc.addTrack(DelayedTrack(track, delay_s)) and None)
        await answered(pc, (await request.json())["sdp"])
        return {"sdp": pc.localDescription.sdp, "type": "answer"}

    @app.post("/whip")
    async def whip(request: Request) -> Response:
        pc = RTCPeerConnection(RTCConfiguration(iceServers=[]))
        pc.on("track", lambda track: published.update({track.kind: track}))
        name = await answered(pc, (await request.body()).decode())
        return _created(pc, name)

    @app.post("/whep")
    async def whep(request: Request) -> Response:
        if len(published) < 2:
            return Response("nothing is published", 409)
        pc = RTCPeerConnection(RTCConfiguration(iceServers=[]))
        for track in published.values():
            pc.addTrack(DelayedTrack(track, delay_s))
        published.clear()
        name = await answered(pc, (await request.body()).decode())
        return _created(pc, name)

    def _created(pc: RTCPeerConnection, name: str) -> Response:
        return Response(
            pc.localDescription.sdp, 201, {"Location": f"/api/sessions/{name}"}, "application/sdp"
        )

    @app.delete("/api/sessions/{name}")
    async def end(name: str) -> dict[str, str]:
        await calls.pop(name).close()
        return {}

    return app


def main() -> None:
    app = make_app(float(sys.argv[2]) if len(sys.argv) > 2 else 0.0)
    uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[1]), log_level="error")


if __name__ == "__main__":
    main()
