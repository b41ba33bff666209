"""A bad network on the loopback interface: a UDP relay that loses, delays and reorders packets.

    async with Relay(loss=0.02) as relay:
        answer = relay.reroute(answer)      # the caller now reaches the server through the relay
        offer = without_candidates(offer)   # and the server knows of no other way back

It needs no privileges and no kernel modules, unlike `tc netem`, and is the same on any system.
"""

from __future__ import annotations

import asyncio
import random
import re
from dataclasses import dataclass, field
from typing import Any

Address = tuple[str, int]

_CANDIDATE = re.compile(r"^(a=candidate:\S+ \d+ udp \d+ )(\S+) (\d+)( .*)$", re.I | re.M)


@dataclass
class Impairment:
    """What happens to packets, in each direction.

    Losses come singly (`loss`) and in bursts: in each packet a burst begins with the chance that
    makes `burst_loss` of all packets part of one, and lasts `burst` packets.
    """

    loss: float = 0.0
    burst_loss: float = 0.0
    burst: int = 5
    delay_s: float = 0.0
    jitter_s: float = 0.0
    seed: int = 1
    dropped: int = 0
    passed: int = 0
    _left: int = 0
    _random: random.Random = field(init=False)

    def __post_init__(self) -> None:
        self._random = random.Random(self.seed)

    def lose(self) -> bool:
        """Whether the next packet is lost."""
        if self._left == 0 and self._random.random() < self.burst_loss / self.burst:
            self._left = self.burst
        if self._left > 0:
            self._left -= 1
            lost = True
        else:
            lost = self._random.random() < self.loss
        self.dropped += lost
        self.passed += not lost
        return lost

    def wait_s(self) -> float:
        """How long the next packet takes."""
        return self.delay_s + self._random.uniform(0, self.jitter_s)


class _Side(asyncio.DatagramProtocol):
    def __init__(self, relay: NetworkEmulator, to_server: bool) -> None:
        self._relay, self._to_server = relay, to_server

    def datagram_received(self, data: bytes, address: Any) -> None:
        self._relay.carry(data, address, self._to_server)


class NetworkEmulator:
    """Between one caller and the server; each way has its own weather."""

    def __init__(self, up: Impairment | None = None, down: Impairment | None = None) -> None:
        self.up, self.down = up or Impairment(), down or Impairment()
        self._caller: Address | None = None
        self._server: Address | None = None

    async def __aenter__(self) -> NetworkEmulator:
        self._loop = asyncio.get_running_loop()
        self._front, _ = await self._loop.create_datagram_endpoint(
            lambda: _Side(self, True), local_addr=("127.0.0.1", 0)
        )
        self._back, _ = await self._loop.create_datagram_endpoint(
            lambda: _Side(self, False), local_addr=("127.0.0.1", 0)
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        self._front.close()
        self._back.close()

    def reroute(self, answer: str) -> str:
        """The server's SDP with the relay's address in place of its own."""
        port = self._front.get_extra_info("sockname")[1]

        def replace(match: re.Match[str]) -> str:
            self._server = match[2], int(match[3])
            return f"{match[1]}127.0.0.1 {port}{match[4]}"

        return _CANDIDATE.sub(replace, answer)

    def carry(self, data: bytes, address: Address, to_server: bool) -> None:
        """Pass a packet on, unless the weather takes it."""
        if to_server:
            self._caller = address
        weather = self.up if to_server else self.down
        if weather.lose():
            return
        if wait_s := weather.wait_s():
            self._loop.call_later(wait_s, self._send, data, to_server)
        else:
            self._send(data, to_server)

    def _send(self, data: bytes, to_server: bool) -> None:
        transport, target = (self._back, self._server) if to_server else (self._front, self._caller)
        if target is not None and not transport.is_closing():
            transport.sendto(data, target)


def without_candidates(offer: str) -> str:
    """The caller's SDP without its addresses: the server learns them from the checks it gets."""
    lines = offer.splitlines()
    kept = [x for x in lines if not x.startswith(("a=candidate:", "a=end-of-candidates"))]
    return "\r\n".join(kept) + "\r\n"
