"""A server that sends pictures back as they come: what remains is the bench and the codecs.

Run as `python -m lipwire.benchmarks.rig.echo PORT`; as much of lipwire's HTTP as
`benchmarks/rig/latency_client.py` uses.
"""

from __future__ import annotations

import sys
import uuid
from typing import Any

import uvicorn
from aiortc import RTCConfiguration, RTCPeerConnection, RTCSessionDescription
from fastapi import FastAPI, Request

from lipwire.server.config import ServerConfig
from lipwire.server.rtc import ice, patch


def make_app() -> FastAPI:
    """The echo."""
    ice.offer_addresses(["127.0.0.1"])
    patch.apply(ServerConfig())
    app, calls = FastAPI(), dict[str, RTCPeerConnection]()

    @app.get("/api/info")
    async def info() -> dict[str, Any]:
        return {"sessions": len(calls)}

    @app.post("/api/sessions")
    async def begin(request: Request) -> dict[str, str]:
        offer = await request.json()
        pc = RTCPeerConnection(RTCConfiguration(iceServers=[]))

        @pc.on("track")
        def on_track(track: Any) -> None:
            if track.kind == "video":
                pc.addTrack(track)

        await pc.setRemoteDescription(RTCSessionDescription(offer["sdp"], "offer"))
        await pc.setLocalDescription(await pc.createAnswer())
        name = uuid.uuid4().hex
        calls[name] = pc
        return {"id": name, "sdp": pc.localDescription.sdp, "type": "answer"}

    @app.delete("/api/sessions/{name}")
    async def end(name: str) -> dict[str, str]:
        await calls.pop(name).close()
        return {}

    return app


def main() -> None:
    """Serve."""
    uvicorn.run(make_app(), host="127.0.0.1", port=int(sys.argv[1]), log_level="error")


if __name__ == "__main__":
    main()
