"""Which addresses media may travel by: what we offer, and what we accept from an offer."""

from __future__ import annotations

import ipaddress

import aioice.ice

from server.config import ServerConfig

# A browser on a desk with VPNs offers about ten. Each candidate costs checks on the event loop and
# packets to an address that the caller chose.
MAX_CANDIDATES = 32

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


def _usable(line: str) -> bool:
    """Whether a candidate line (RFC 8839 section 5.1) names a UDP address we may send to."""
    parts = line.split()
    if len(parts) < 8 or parts[2].lower() != "udp":
        return False
    try:
        address = ipaddress.ip_address(parts[4])
    except ValueError:
        return False  # a .local name: asking the network for it costs a second of set-up
    return not (address.is_multicast or address.is_unspecified)


def filter_candidates(sdp: str) -> str:
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
            if kept >= MAX_CANDIDATES or not _usable(line):
                continue
            kept += 1
        sections[-1].append(line)
    for section in sections[1:]:
        if any(line.startswith("a=candidate:") for line in section):
            section.append("a=end-of-candidates")
    return "\r\n".join(line for section in sections for line in section) + "\r\n"
