"""Which addresses media travels by: what we offer, what we accept, and when a peer is dead.

`install` puts our `IceConnection` in the place of aioice's for every later peer connection of the
process; aiortc has no other door.
"""

from __future__ import annotations

import asyncio
import base64
import functools
import hashlib
import hmac
import ipaddress
import logging
import random
import socket
import time
from dataclasses import dataclass
from typing import Any

import aioice.ice
import aioice.turn
import aiortc.rtcicetransport
from aioice import Candidate, Connection, stun
from aioice.candidate import candidate_foundation, candidate_priority
from aioice.ice import StunProtocol
from aiortc import RTCIceServer

from lipwire.server.config import ServerConfig

log = logging.getLogger(__name__)

# A browser on a desk with VPNs offers about ten. Each candidate costs checks on the event loop and
# packets to an address that the caller chose.
MAX_CANDIDATES = 32
# Consent is asked for this often (RFC 7675 section 5.1 says 5 s, which would take half a minute to
# notice a peer that vanished). Shorter: packets for nothing.
CONSENT_S = 1.5
STUN_TIMEOUT_S = 2.0  # of each server that is asked for our address; answers take milliseconds
# Packets that wait for DTLS to take them: a second of 10 Mbit/s. The event loop stood still for
# that long when there are more.
MAX_QUEUED = 1024

_all_addresses = aioice.ice.get_host_addresses


def host_addresses(settings: ServerConfig) -> list[str] | None:
    """Addresses to offer as host candidates; None leaves the choice to the interfaces.

    A server bound to a loopback address offers that address, so nothing leaves the machine.
    """
    if settings.ice_host is not None:
        return [settings.ice_host]
    if settings.loopback:
        return ["127.0.0.1" if settings.host == "localhost" else settings.host]
    try:
        address = ipaddress.ip_address(settings.host)
    except ValueError:
        return None
    return None if address.is_unspecified else [settings.host]


def offer_addresses(addresses: list[str] | None) -> None:
    """Make every later peer connection of this process offer exactly these addresses.

    aioice has no setting for it and always leaves 127.0.0.1 out, so its look-up is replaced.
    None puts the original back.
    """

    def fixed(use_ipv4: bool, use_ipv6: bool) -> list[str]:
        wanted = {4: use_ipv4, 6: use_ipv6}
        return [a for a in addresses or () if wanted[ipaddress.ip_address(a).version]]

    aioice.ice.get_host_addresses = _all_addresses if addresses is None else fixed


@dataclass(frozen=True, slots=True)
class IceRules:
    """What `IceConnection` needs to know."""

    ports: range | None = None  # UDP ports to bind; None takes any
    announce: str | None = None  # address to offer in place of the bound one of the same IP version
    dead_after_s: float = 7.0  # silence after which a peer is gone


def apply(settings: ServerConfig) -> None:
    """Use our addresses, ports and timers in every peer connection made from now on."""
    offer_addresses(host_addresses(settings))
    rules = IceRules(settings.port_range, settings.ice_announce, settings.dead_after_s)
    replaced: Any = aiortc.rtcicetransport
    replaced.Connection = functools.partial(IceConnection, rules)


class IceConnection(Connection):
    """aioice's connection with a port range, bounded lists, and a quick eye for dead peers."""

    def __init__(self, rules: IceRules, **options: Any) -> None:
        super().__init__(**options)
        self._rules = rules
        self._heard_s = 0.0  # when the peer last proved that it is there

    async def get_component_candidates(
        self, component: int, addresses: list[str], timeout: int = 5
    ) -> list[Candidate]:
        """Our candidates: host ones from the port range, then what STUN and TURN servers give.

        Raises:
            ConnectionError: no port of the range is free.
        """
        hosts = [p for a in addresses if (p := await self._bind(component, a)) is not None]
        if addresses and not hosts and self._rules.ports is not None:
            raise ConnectionError("every UDP port for media is in use")
        self._protocols += hosts
        asked = [self._reflexive(p) for p in hosts if self.stun_server is not None]
        relayed = super().get_component_candidates(component, [], timeout)
        reflexive, relays = await asyncio.gather(asyncio.gather(*asked), relayed)
        return [*(p.local_candidate for p in hosts), *filter(None, reflexive), *relays]

    async def _bind(self, component: int, address: str) -> StunProtocol | None:
        loop = asyncio.get_running_loop()
        ports = list(self._rules.ports or [0])
        random.shuffle(ports)
        for port in ports:
            try:
                transport, protocol = await loop.create_datagram_endpoint(
                    lambda: StunProtocol(self), local_addr=(address, port)
                )
            except OSError as error:
                failure = error
                continue
            transport.get_extra_info("socket").setsockopt(
                socket.SOL_SOCKET, socket.SO_RCVBUF, aioice.turn.UDP_SOCKET_BUFFER_SIZE
            )
            host, bound = transport.get_extra_info("sockname")[:2]
            announce = self._rules.announce
            if announce and _version(announce) == _version(host):
                host = announce
            protocol.local_candidate = Candidate(
                foundation=candidate_foundation("host", "udp", host),
                component=component,
                transport="udp",
                priority=candidate_priority(component, "host"),
                host=host,
                port=bound,
                type="host",
            )
            return protocol
        log.warning("no UDP port for media on %s: %s", address, failure)
        return None

    async def _reflexive(self, protocol: StunProtocol) -> Candidate | None:
        assert self.stun_server is not None
        if _version(protocol.local_candidate.host) != 4:
            return None  # aioice looks servers up by IPv4 only
        try:
            async with asyncio.timeout(STUN_TIMEOUT_S):
                found, _ = await aioice.ice.server_reflexive_candidate(protocol, self.stun_server)
        except (OSError, TimeoutError, stun.TransactionError) as error:
            log.warning("%s does not tell our address: %r", self.stun_server[0], error)
            return None
        return found

    def check_incoming(
        self, message: stun.Message, addr: tuple[str, int], protocol: StunProtocol
    ) -> None:
        """Take a peer's check, unless it would make it a hundred addresses."""
        known = any((c._network_host, c.port) == addr for c in self._remote_candidates)
        if known or len(self._remote_candidates) < 2 * MAX_CANDIDATES:
            super().check_incoming(message, addr, protocol)

    def data_received(self, data: bytes, component: int) -> None:
        """Queue a packet of media; one too many is lost, as the network might have lost it."""
        self._heard_s = time.monotonic()
        if self._queue.qsize() < MAX_QUEUED:
            super().data_received(data, component)

    async def query_consent(self) -> None:
        """Ask for consent to send (RFC 7675) and close when the peer is silent for too long.

        A peer is noticed as dead within `dead_after_s`, one interval and one time-out: 9.5 s with
        the defaults. Media counts as a sign of life, so that a link that loses our requests is
        not cut; without consent it is cut after 30 s, as the RFC demands.
        """
        assert self.remote_password is not None
        key = self.remote_password.encode()
        consented_s = self._heard_s = time.monotonic()
        while True:
            await asyncio.sleep(CONSENT_S * random.uniform(0.8, 1.2))
            for pair in list(self._nominated.values()):
                request = self.build_request(pair, nominate=False)
                try:
                    await pair.protocol.request(
                        request, pair.remote_addr, integrity_key=key, retransmissions=0
                    )
                    consented_s = self._heard_s = time.monotonic()
                except stun.TransactionError:
                    pass  # lost, or later than half a second
            now = time.monotonic()
            if now - self._heard_s > self._rules.dead_after_s or now - consented_s > 30.0:
                self._query_consent_task = None
                await self.close()
                return


def _version(address: str) -> int:
    return ipaddress.ip_address(address).version


# --- what we accept ---


def usable(line: str, private: bool = True) -> bool:
    """Whether a candidate line (RFC 8839 section 5.1) names a UDP address we may send to.

    Args:
        line: `a=candidate:...`.
        private: take addresses of private networks too. Refusing them loses no call: a peer that
            can reach us is found by the checks that it sends.
    """
    parts = line.split()
    # Component 2 would be RTCP on a port of its own, which we never use.
    if len(parts) < 8 or parts[1] != "1" or parts[2].lower() != "udp":
        return False
    try:
        address = ipaddress.ip_address(parts[4])
        port = int(parts[5])
    except ValueError:
        return False  # a .local name: asking the network for it costs a second of set-up
    if address.is_multicast or address.is_unspecified or not 0 < port < 65_536:
        return False
    return private or address.is_global


def filter_candidates(sdp: str, private: bool = True, end: bool = True) -> str:
    """The offer with only usable candidates, at most MAX_CANDIDATES, and an end to them.

    Browsers leave `a=end-of-candidates` out although the offer is all they will send; without it
    aioice never gives up. Where no candidate remains it must stay out: the peer can then still be
    found by the checks that it sends us.
    """
    lines = [line for line in sdp.splitlines() if line != "a=end-of-candidates"]
    sections: list[list[str]] = [[]]
    kept = 0
    for line in lines:
        if line.startswith("m="):
            sections.append([])
        if line.startswith("a=candidate:"):
            if kept >= MAX_CANDIDATES or not usable(line, private):
                continue
            kept += 1
        sections[-1].append(line)
    for section in sections[1:]:
        if end and any(line.startswith("a=candidate:") for line in section):
            section.append("a=end-of-candidates")
    return "\r\n".join(line for section in sections for line in section) + "\r\n"


# --- STUN and TURN ---


def turn_credentials(secret: str, ttl_s: int, now_s: float, user: str) -> tuple[str, str]:
    """User name and password that expire, as TURN servers with a shared secret take them.

    The "REST API for access to TURN services" (draft-uberti-behave-turn-rest-00): the name is
    `expiry:user`, the password its HMAC-SHA1 in base64. coturn: `use-auth-secret`.

    Args:
        secret: shared with the TURN server.
        ttl_s: life, seconds.
        now_s: Unix time.
        user: any name for the TURN server's log; must not be a secret.
    """
    name = f"{int(now_s) + ttl_s}:{user}"
    digest = hmac.new(secret.encode(), name.encode(), hashlib.sha1).digest()
    return name, base64.b64encode(digest).decode()


def ice_servers(settings: ServerConfig, user: str, now_s: float | None = None) -> list[Any]:
    """STUN and TURN servers for a client, as `RTCPeerConnection` takes them in a browser."""
    servers: list[dict[str, Any]] = [{"urls": url} for url in settings.stun_urls]
    if settings.turn_urls:
        name, password = settings.turn_username, settings.turn_password
        credential = password.get_secret_value() if password else ""
        if settings.turn_secret is not None:
            secret = settings.turn_secret.get_secret_value()
            now_s = time.time() if now_s is None else now_s
            name, credential = turn_credentials(secret, settings.turn_ttl_s, now_s, user)
        for url in settings.turn_urls:
            servers.append({"urls": url, "username": name, "credential": credential})
    return servers


def link_headers(settings: ServerConfig, user: str) -> list[str]:
    """The same servers as `Link` header values (RFC 9725 section 4.6)."""
    values = []
    for server in ice_servers(settings, user):
        value = f'<{server["urls"]}>; rel="ice-server"'
        if "username" in server:
            value += (
                f'; username="{server["username"]}"; credential="{server["credential"]}"'
                '; credential-type="password"'
            )
        values.append(value)
    return values


def own_servers(settings: ServerConfig, user: str) -> list[RTCIceServer]:
    """The servers that our own side uses; none unless configured: no public one is asked."""
    return [
        RTCIceServer(**server)
        for server in ice_servers(settings, user)
        if settings.turn_for_server or not server["urls"].startswith("turn")
    ]
