"""A server and a caller on two machines, so to speak: `unshare -rn python tests/netns.py`.

Two network namespaces with a cable between them. Each side also has an address that the other
cannot reach, as machines with a VPN do. Prints one JSON object. With `client URL` it is the caller.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import httpx
from calls import Caller

from lipwire.benchmarks.rig.server import start_server

SERVER, CLIENT = "10.9.0.1", "10.9.0.2"  # on the cable
LONELY = "10.8.0.1", "10.7.0.2"  # of the server and the caller, that the other has no way to
TOKEN = {"Authorization": "Bearer " + "0123456789abcdef" * 2}
PATIENCE_S = 60.0


def sh(command: str) -> None:
    """Run a command of iproute2."""
    subprocess.run(command.split(), check=True)


def wait_for(what: Any, seconds: float = PATIENCE_S) -> float:
    """The seconds until something is true.

    Raises:
        TimeoutError: it never was.
    """
    begun = time.monotonic()
    while not what():
        if time.monotonic() > begun + seconds:
            raise TimeoutError
        time.sleep(0.05)
    return time.monotonic() - begun


def other_namespace() -> subprocess.Popen[bytes]:
    """A process in a network namespace of its own, joined to ours by a cable."""
    holder = subprocess.Popen(["unshare", "-n", "sleep", "300"])
    own = os.readlink("/proc/self/ns/net")
    wait_for(lambda: os.readlink(f"/proc/{holder.pid}/ns/net") != own)
    sh("ip link set lo up")
    sh(f"ip link add here type veth peer name there netns {holder.pid}")
    sh(f"ip address add {SERVER}/24 dev here")
    sh(f"ip address add {LONELY[0]}/32 dev lo")
    sh("ip link set here up")
    inside = f"nsenter --net -t {holder.pid} "
    sh(inside + "ip link set lo up")
    sh(inside + f"ip address add {CLIENT}/24 dev there")
    sh(inside + f"ip address add {LONELY[1]}/32 dev lo")
    sh(inside + "ip link set there up")
    return holder


async def call(url: str) -> None:
    """Call, say so, and go on until killed."""
    async with Caller() as caller, httpx.AsyncClient(base_url=url, headers=TOKEN) as http:
        offer = await caller.offer()
        body = {"sdp": offer, "consent": True}
        reply = await http.post("/api/sessions", json=body, timeout=30)
        reply.raise_for_status()
        await caller.accept(reply.json()["sdp"])
        while len(caller.pictures) < 10:
            await asyncio.sleep(0.05)
        seen = {"offered": _addresses(offer), "answered": _addresses(reply.json()["sdp"])}
        print(json.dumps(seen), flush=True)
        await asyncio.sleep(300)


def _addresses(sdp: str) -> list[str]:
    return sorted(set(re.findall(r"a=candidate:\S+ 1 udp \S+ (\S+)", sdp)))


def sessions() -> int:
    """How many the server has, asked over loopback."""
    return int(httpx.get("http://127.0.0.1:8080/api/info", timeout=30).json()["sessions"])


def main() -> None:
    """Be both, or the caller."""
    if sys.argv[1:2] == ["client"]:
        asyncio.run(call(sys.argv[2]))
        return
    holder = other_namespace()
    token = TOKEN["Authorization"].split()[1]
    server, _ = start_server(8080, None, host="0.0.0.0", token=token, dead_after_s=2)
    inside = ["nsenter", "--net", "-t", str(holder.pid), sys.executable, str(Path(__file__))]
    client = subprocess.Popen([*inside, "client", f"http://{SERVER}:8080"], stdout=subprocess.PIPE)
    try:
        assert client.stdout is not None
        found = json.loads(client.stdout.readline())
        found["sessions"] = sessions()
        sh("ip link set here down")
        found["gone_s"] = wait_for(lambda: sessions() == 0)
        server.terminate()
        found["exit_code"] = server.wait(PATIENCE_S)
        print(json.dumps(found))
    finally:
        for process in (client, server, holder):
            process.kill()


if __name__ == "__main__":
    main()
