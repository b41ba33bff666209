"""An engine that paints stripes, and a server around it."""

from servers import backend, client, engine, server, tracker, untouched_aiortc

__all__ = ["backend", "client", "engine", "server", "tracker", "untouched_aiortc"]
