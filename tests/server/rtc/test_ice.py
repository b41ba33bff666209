"""Addresses offered and accepted."""

from __future__ import annotations

import aioice.ice
import pytest

from lipwire.server.config import load_config
from lipwire.server.rtc.ice import (
    MAX_CANDIDATES,
    filter_candidates,
    host_addresses,
    ice_servers,
    link_headers,
    offer_addresses,
    own_servers,
    turn_credentials,
    usable,
)

EXPECTED = "nhzsPBjSH38MZfcCVbxElPDP+i8="
HEAD = "v=0\r\no=- 1 1 IN IP4 0.0.0.0\r\ns=-\r\nt=0 0\r\nm=video 9 UDP/TLS/RTP/SAVPF 96\r\n"


def candidate(host: str, port: int = 5000, transport: str = "udp") -> str:
    return f"a=candidate:1 1 {transport} 2122260223 {host} {port} typ host\r\n"


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("127.0.0.1", ["127.0.0.1"]),
        ("localhost", ["127.0.0.1"]),
        ("0.0.0.0", None),
        ("::", None),
        ("192.0.2.7", ["192.0.2.7"]),
        ("example.org", None),
    ],
)
def test_addresses_follow_the_listening_address(host: str, expected: list[str] | None) -> None:
    assert host_addresses(load_config(host=host)) == expected


def test_one_address_can_be_chosen() -> None:
    assert host_addresses(load_config(host="0.0.0.0", ice_host="192.0.2.9")) == ["192.0.2.9"]


def test_offered_addresses_replace_those_of_the_interfaces() -> None:
    offer_addresses(None)  # whatever a server of another test has asked for
    original = aioice.ice.get_host_addresses(True, True)
    offer_addresses(["127.0.0.1", "::1"])
    assert aioice.ice.get_host_addresses(True, False) == ["127.0.0.1"]
    assert aioice.ice.get_host_addresses(True, True) == ["127.0.0.1", "::1"]
    offer_addresses(None)
    assert aioice.ice.get_host_addresses(True, True) == original


def test_only_candidates_that_can_be_reached_stay_and_they_end() -> None:
    offer = HEAD + "".join(
        [
            candidate("10.1.1.1"),
            candidate("a1b2.local"),
            candidate("10.1.1.2", 9, "tcp"),
            candidate("224.0.0.1"),
            candidate("fd00::5"),
            "a=candidate:nonsense\r\n",
        ]
    )
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


@pytest.mark.parametrize(
    ("host", "open_to_all"),
    [
        ("10.1.1.1", False),
        ("192.168.1.1", False),
        ("127.0.0.1", False),
        ("169.254.1.1", False),
        ("fd00::5", False),
        ("fe80::1", False),
        ("::1", False),
        ("8.8.8.8", True),
        ("2606:4700::1", True),
    ],
)
def test_private_networks_are_left_out_where_strangers_come(host: str, open_to_all: bool) -> None:
    line = candidate(host).strip()
    assert usable(line) and usable(line, private=False) is open_to_all
    assert load_config(host="0.0.0.0").private_candidates is False
    assert load_config(host="0.0.0.0", ice_private=True).private_candidates is True
    assert load_config().private_candidates is True


@pytest.mark.parametrize(
    "line",
    [
        "a=candidate:1 2 udp 1 10.1.1.1 5 typ host",
        "a=candidate:1 1 udp 1 10.1.1.1 0 typ host",
        "a=candidate:1 1 udp 1 10.1.1.1 99999 typ host",
        "a=candidate:1 1 udp 1 10.1.1.1 x typ host",
        "a=candidate:1 1 udp 1 0.0.0.0 5 typ host",
        "a=candidate:1 1 udp 1 a.local 5 typ host",
    ],
)
def test_candidates_that_lead_nowhere(line: str) -> None:
    assert not usable(line)


def test_credentials_expire_and_match_what_coturn_computes() -> None:
    # printf '1790003600:abc' | openssl dgst -sha1 -hmac secret -binary | base64
    name, password = turn_credentials("secret", 3600, 1_790_000_000.9, "abc")
    assert name == "1790003600:abc"
    assert password == EXPECTED


def test_servers_are_told_to_clients_and_used_by_us_only_on_request() -> None:
    settings = load_config(
        stun_urls="stun:stun.example:3478",
        turn_urls="turn:turn.example, turns:turn.example",
        turn_secret="secret",
    )
    stun, turn, turns = ice_servers(settings, "abc", 1_790_000_000.0)
    assert stun == {"urls": "stun:stun.example:3478"}
    assert turn["username"] == "1790003600:abc" and turn["credential"] == EXPECTED
    assert turns["urls"] == "turns:turn.example"
    assert [s.urls for s in own_servers(settings, "abc")] == ["stun:stun.example:3478"]
    relayed = load_config(
        turn_urls="turn:turn.example", turn_username="u", turn_password="p", turn_for_server=True
    )
    (own,) = own_servers(relayed, "abc")
    assert (own.urls, own.username, own.credential) == ("turn:turn.example", "u", "p")
    assert link_headers(relayed, "abc") == [
        '<turn:turn.example>; rel="ice-server"; username="u"; credential="p"; '
        'credential-type="password"'
    ]
    assert ice_servers(load_config(), "abc") == [] == own_servers(load_config(), "abc")
