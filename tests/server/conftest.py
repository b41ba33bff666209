"""An engine that paints stripes, and a server around it."""

from browsers import chromium
from servers import backend, call, client, engine, server, tracker, untouched_aiortc

__all__ = [
    "backend",
    "call",
    "chromium",
    "client",
    "engine",
    "server",
    "tracker",
    "untouched_aiortc",
]
