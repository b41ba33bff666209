"""TCP that notices a machine which is gone without a word, its cable pulled or its power cut.

By itself it sends what nobody acknowledges again and again for a quarter of an hour, and a
connection that only waits for an answer waits for ever. The far kernel acknowledges, however busy
its processes are, so that a slow server is not taken for one that is gone.
"""

from __future__ import annotations

import socket

# Shorter: a switch that fails over ends voices and requests; longer: who was on that machine waits
# so long before he is placed elsewhere, of the ten seconds that this may take.
VANISHED_S = 3
PROBE_S = 1  # a connection that says nothing is tried so often

# Of `setsockopt`; Linux has them all.
OPTIONS = [(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)] + [
    (socket.IPPROTO_TCP, getattr(socket, name), value)
    for name, value in {
        "TCP_KEEPIDLE": PROBE_S,
        "TCP_KEEPINTVL": PROBE_S,
        "TCP_KEEPCNT": VANISHED_S // PROBE_S,
        "TCP_USER_TIMEOUT": 1000 * VANISHED_S,  # of what was sent, RFC 5482
    }.items()
    if hasattr(socket, name)
]


def watch(connected: socket.socket) -> None:
    """Let it fail when the other machine is gone."""
    for option in OPTIONS:
        connected.setsockopt(*option)
