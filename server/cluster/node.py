"""Node: an ordinary `lipwire serve` in a process and at a port of its own, as a Ray Serve replica.

Ray starts, watches and drains it; what peers say to it comes from the Director, over HTTP.
"""

from __future__ import annotations

import asyncio
import logging
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from typing import IO, Any

import httpx

from lipwire.server.cluster.directory import SILENT_S, TELL_S, State

log = logging.getLogger("ray.serve")

APP = "lipwire"
# On Linux the server ends with its replica, whatever that died of: Ray ends a worker's children
# only where the worker itself can (1, 9: PR_SET_PDEATHSIG, SIGKILL).
MORTAL = """import ctypes, runpy, sys
if sys.platform == "linux":
    ctypes.CDLL(None).prctl(1, 9)
runpy.run_module("lipwire", run_name="__main__", alter_sys=True)"""


class Node:
    """One server."""

    def __init__(self, environment: Mapping[str, str], drain_s: float) -> None:
        import ray
        from ray import serve

        if os.nice(0) > 0:
            log.warning(
                "this node has niceness %d: start Ray with RAY_worker_niceness=0", os.nice(0)
            )
        self._name = serve.get_replica_context().replica_id.unique_id
        self._drain_s = drain_s
        token = environment.get("LIPWIRE_TOKEN")
        self._process = subprocess.Popen(
            [sys.executable, "-c", MORTAL, "serve"],
            env={**os.environ, **environment, "LIPWIRE_NODE": self._name},
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,  # Ctrl-C is for those who started the cluster
        )
        assert self._process.stdout is not None
        self._url = _when_ready(self._process.stdout)
        if environment["LIPWIRE_HOST"] not in ("127.0.0.1", "localhost"):
            port = self._url.rpartition(":")[2]
            self._url = f"http://{ray.util.get_node_ip_address()}:{port}"
        self._http = httpx.AsyncClient(
            base_url=self._url,
            timeout=SILENT_S,
            trust_env=False,
            headers={"Authorization": f"Bearer {token}"} if token else None,
        )
        self._state, self._seen_s = State(self._name, self._url), time.monotonic()
        self._directors: Any = None
        self._stopping = False
        loop = asyncio.get_running_loop()
        self._telling, self._ending = loop.create_task(self._tell()), loop.create_task(self._end())

    async def _look(self) -> None:
        try:
            self._state = await look(self._http, self._name)
            self._seen_s = time.monotonic()
        except (httpx.HTTPError, ValueError, KeyError, TypeError) as error:
            log.warning("node %s does not answer: %r", self._name, error)
            self._state = State(self._name, self._url)

    async def _tell(self) -> None:
        """Say to every Director what this node is, for as long as there is a server."""
        while True:
            await self._look()
            await self._say("hear", self._state)
            await asyncio.sleep(TELL_S)

    async def _say(self, what: str, to_hear: object) -> None:
        from ray import serve

        try:
            self._directors = self._directors or await asyncio.to_thread(serve.get_app_handle, APP)
            await self._directors.broadcast(what, to_hear).results_async(
                timeout_s=TELL_S, return_exceptions=True
            )
        except Exception as error:  # it is being started, or is no more
            log.debug("no Director hears node %s: %r", self._name, error)

    async def _end(self) -> None:
        """When the server has ended, Directors forget this node and Ray puts another in its place.

        Ray knows at once of a replica that is gone; one that says that it is ill it asks three
        times.
        """
        await asyncio.to_thread(self._process.wait)
        self._telling.cancel()
        await self._say("lose", self._name)
        if not self._stopping:
            log.error("the server of node %s ended with %s", self._name, self._process.returncode)
            os._exit(1)

    async def check_health(self) -> None:
        """Raise where Ray shall put another node in place of this one."""
        if time.monotonic() > self._seen_s + 2 * SILENT_S:
            raise RuntimeError("the server does not answer")

    async def record_autoscaling_stats(self) -> dict[str, float]:
        """How full it is, 0 to 1."""
        return {"load": 1 - self._state.weight / 100}

    async def __del__(self) -> None:
        """Let its calls go on until they end or `drain_s` is over; it still tells of them."""
        self._stopping = True
        self._process.terminate()
        await asyncio.wait([self._ending], timeout=self._drain_s + 10)
        self._process.kill()
        await self._ending


async def look(server: httpx.AsyncClient, node: str) -> State:
    """What a server is now.

    Raises:
        httpx.HTTPError: it does not answer.
        ValueError, KeyError, TypeError: or not like one of ours.
    """
    # In this order a call that begins between the two counts twice for a moment, and not never.
    listed = (await server.get("/api/sessions")).json()
    ready = (await server.get("/readyz")).json()
    sessions = tuple(each["id"] for each in listed)
    url = str(server.base_url).rstrip("/")
    draining = ready["status"] == "draining"
    return State(node, url, sessions, ready["room"], ready["weight"], draining)


def _when_ready(out: IO[str]) -> str:
    """The server's address, once it listens."""
    for line in out:
        if line.startswith("lipwire is ready"):
            return line.split()[-1]
    raise RuntimeError("the server did not start")
