"""Addresses offered and accepted."""

from __future__ import annotations

import aioice.ice
import pytest

from server.config import load_config
from server.ice import MAX_CANDIDATES, filter_candidates, host_addresses, offer_addresses

HEAD = "v=0\r\no=- 1 1 IN IP4 0.0.0.0\r\ns=-\r\nt=0 0\r\nm=video 9 UDP/TLS/RTP/SAVPF 96\r\n"


def candidate(host: str, port: int = 5000, transport: str = "udp") -> str:
    return f"a=candidate:1 1 {transport} 2122260223 {host} {port} typ host\r\n"


@pytest.mark.parametrize(
    ("host", "expected"),
    [("127.0.0.1", ["127.0.0.1"]), ("localhost", ["127.0.0.1"]), ("0.0.0.0", None),
     ("::", None), ("192.0.2.7", ["192.0.2.7"]), ("example.org", None)],
)  # fmt: skip
def test_addresses_follow_the_listening_address(host: str, expected: list[str] | None) -> None:
    assert host_addresses(load_config(host=host)) == expected


def test_one_address_can_be_chosen() -> None:
    assert host_addresses(load_config(host="0.0.0.0", ice_host="192.0.2.9")) == ["192.0.2.9"]


def test_offered_addresses_replace_those_of_the_interfaces() -> None:
    original = aioice.ice.get_host_addresses(True, True)
    offer_addresses(["127.0.0.1", "::1"])
    assert aioice.ice.get_host_addresses(True, False) == ["127.0.0.1"]
    assert aioice.ice.get_host_addresses(True, True) == ["127.0.0.1", "::1"]
    offer_addresses(None)
    assert aioice.ice.get_host_addresses(True, True) == original


def test_only_candidates_that_can_be_reached_stay_and_they_end() -> None:
    offer = HEAD + "".join(
        [candidate("10.1.1.1"), candidate("a1b2.local"), candidate("10.1.1.2", 9, "tcp"),
         candidate("224.0.0.1"), candidate("fd00::5"), "a=candidate:nonsense\r\n"]
    )  # fmt: skip
    lines = filter_candidates(offer).split("\r\n")
    kept = [line.split()[4] for line in lines if line.startswith("a=candidate:")]
    assert kept == ["10.1.1.1", "fd00::5"]
    assert lines.count("a=end-of-candidates") == 1


def test_without_any_candidate_more_may_come() -> None:
    # The peer's own checks still reach us; an end to nothing would fail the call at once.
    assert "end-of-candidates" not in filter_candidates(HEAD + candidate("a1b2.local"))


def test_thousands_of_candidates_are_cut() -> None:
    offer = HEAD + "".join(candidate("10.1.1.1", port) for port in range(1, 3000))
    assert filter_candidates(offer).count("a=candidate:") == MAX_CANDIDATES
