"""A server in a process of its own, whose model paints stripes: for clients' tests.

The server replaces parts of aiortc, and a client has them as they are. `Served` starts this file as
a program.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any


class Served:
    """A server that can be killed and started again at its address.

    Args:
        **settings: of the server.
    """

    def __init__(self, **settings: Any) -> None:
        self.settings, self.url = settings, ""
        self.start()

    def start(self) -> None:
        """Start it, at the port that it had before."""
        command = [sys.executable, __file__, json.dumps(self.settings)]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        line = self._process.stdout.readline()  # "lipwire is ready: open http://..."
        self.url = line.split()[-1]
        self.settings["port"] = int(self.url.rpartition(":")[2])

    def stop(self) -> None:
        """Ask it to end, as those do who upgrade it."""
        self._process.terminate()

    def wait(self) -> int:
        """Its exit code, when it has ended by itself."""
        self._process.communicate(timeout=30)
        return self._process.returncode

    def kill(self) -> None:
        """End it without a word to anybody."""
        if self._process.poll() is None:
            self._process.kill()
            self._process.communicate()


def main() -> None:
    """Serve until the process is killed."""
    import cv2
    import uvicorn
    from calls import StripedBackend
    from fakes import FakeTracker

    from lipwire.engine import Engine
    from lipwire.server.api import wyoming
    from lipwire.server.api.app import create_app
    from lipwire.server.api.listener import SOCKETS, Server, listen, listen_for_agent, page_url
    from lipwire.server.config import ServerConfig

    settings = ServerConfig(**{"ladder": False, "port": 0, "drain_s": 0, **json.loads(sys.argv[1])})
    cv2.setNumThreads(1)
    with (
        Engine(StripedBackend(), FakeTracker) as engine,
        listen(settings) as listener,
        listen_for_agent(settings) as agent,
    ):
        app = create_app(settings, engine, wyoming.listen(settings), agent)
        config = uvicorn.Config(app, log_level="error", **SOCKETS)
        url = page_url(settings, listener.getsockname()[1])

        async def end_calls(patience_s: float) -> None:
            await app.state.sessions.drain(patience_s)

        Server(config, url, end_calls, settings.drain_s).run(sockets=[listener])


if __name__ == "__main__":
    sys.path.insert(1, str(Path(__file__).parents[1]))
    main()
