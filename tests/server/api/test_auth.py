"""Tokens, rights and rates."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from lipwire.engine import ConfigError
from lipwire.server.api import auth
from lipwire.server.api.auth import ALL, Authenticator, Forbidden, Right, Unauthorised, make_jwt
from lipwire.server.config import ServerConfig

SECRET = "s" * 64
NOW_S = 1_790_000_000.0
TOKEN = "a-token-that-is-long-enough"


def authenticator(**settings: Any) -> Authenticator:
    return Authenticator(ServerConfig(**settings), clock=lambda: NOW_S)


def bearer(secret: str = SECRET, algorithm: str = "HS256", **claims: Any) -> str:
    content = {"scope": "watch", "iat": int(NOW_S), "exp": int(NOW_S) + 300, **claims}
    wanted = {name: value for name, value in content.items() if value is not None}
    return "Bearer " + jwt.encode(wanted, secret, algorithm)


def test_without_keys_the_gate_is_open() -> None:
    assert authenticator().open and authenticator().admit(None, Right.PUBLISH) is ALL


def test_the_servers_own_token_may_do_all() -> None:
    guarded = authenticator(token=TOKEN)
    for right in Right:
        assert guarded.admit(f"bearer  {TOKEN} ", right, "any") is ALL
    for wrong in (None, "", TOKEN, f"Basic {TOKEN}", "Bearer", f"Bearer {TOKEN}x", "Bearer é"):
        with pytest.raises(Unauthorised):
            guarded.admit(wrong, Right.WATCH)


def test_a_jwt_is_for_what_it_says() -> None:
    guarded = authenticator(jwt_secret=SECRET)
    scoped = bearer(scope="watch speak", session="abc")
    assert guarded.admit(scoped, Right.WATCH, "abc").session == "abc"
    for right, session in ((Right.WATCH, "abd"), (Right.WATCH, None), (Right.CONTROL, "abc")):
        with pytest.raises(Forbidden):
            guarded.admit(scoped, right, session)
    assert not guarded.admit(bearer(scope="publish"), Right.PUBLISH).consent
    assert guarded.admit(bearer(scope="publish", consent=True), Right.PUBLISH).consent
    assert not guarded.admit(bearer(scope="publish", consent="yes"), Right.PUBLISH).consent
    with pytest.raises(Forbidden):  # rights that do not exist give none
        guarded.admit(bearer(scope="admin *"), Right.WATCH)


@pytest.mark.parametrize(
    ("claims", "named"),
    [
        ({"exp": None}, "exp"),
        ({"iat": None}, "iat"),
        ({"exp": int(NOW_S) - 6}, "expired"),
        ({"exp": int(NOW_S) + 601}, "lives for more than 600 s"),
        ({"iat": int(NOW_S) + 60}, "future"),
        ({"nbf": int(NOW_S) + 60}, "future"),
        ({"exp": float("inf")}, "lives|numbers|not"),
        ({"exp": "soon"}, "numbers|integer"),
        ({"scope": None}, "not text"),
        ({"scope": ["watch"]}, "not text"),
        ({"session": 7}, "text"),
    ],
)
def test_claims_that_do_not_count(claims: dict[str, Any], named: str) -> None:
    with pytest.raises(Unauthorised, match=named):
        authenticator(jwt_secret=SECRET).admit(bearer(**claims), Right.WATCH)


def test_a_ten_minute_token_counts() -> None:
    token = bearer(exp=int(NOW_S) + 600)
    assert Right.WATCH in authenticator(jwt_secret=SECRET).admit(token, Right.WATCH).rights
    made = make_jwt(SECRET, frozenset({Right.WATCH}), 600, NOW_S, session="abc", consent=True)
    grant = authenticator(jwt_secret=SECRET).admit(f"Bearer {made}", Right.WATCH, "abc")
    assert grant.rights == {Right.WATCH} and grant.session == "abc" and grant.consent


def test_signatures_are_checked_with_their_own_algorithm(tmp_path: Path) -> None:
    private = Ed25519PrivateKey.generate()
    pem = private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    key = tmp_path / "public.pem"
    key.write_bytes(pem)
    both = authenticator(jwt_secret=SECRET, jwt_public_key=key)
    claims = {"scope": "watch", "iat": int(NOW_S), "exp": int(NOW_S) + 60}
    signed = "Bearer " + jwt.encode(claims, private, "EdDSA")
    for token in (signed, bearer()):
        assert both.admit(token, Right.WATCH).rights == {Right.WATCH}
    other = "Bearer " + jwt.encode(claims, Ed25519PrivateKey.generate(), "EdDSA")
    # "alg": "none", another secret, and the public key as a secret.
    unsigned = "Bearer " + jwt.encode(claims, None, "none")
    for forged in (
        other,
        unsigned,
        bearer("t" * 64),
        bearer(SECRET, "HS512"),
        signed[:-4] + "AAAA",
    ):
        with pytest.raises(Unauthorised, match="does not count"):
            both.admit(forged, Right.WATCH)
    with pytest.raises(Unauthorised):
        authenticator(jwt_public_key=key).admit(bearer(), Right.WATCH)


def test_keys_that_cannot_be_used(tmp_path: Path) -> None:
    key = tmp_path / "key.pem"
    key.write_text("not a key")
    with pytest.raises(ConfigError, match="not a public key"):
        authenticator(jwt_public_key=key)
    other = generate_private_key(SECP256R1()).public_key()
    key.write_bytes(other.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    with pytest.raises(ConfigError, match="not an Ed25519 key"):
        authenticator(jwt_public_key=key)


def test_rates_are_kept_for_each_address() -> None:
    now = 0.0
    limit = auth.RateLimit(per_s=2, burst=3, clock=lambda: now)
    assert [limit.take("192.0.2.1") for _ in range(3)] == [0, 0, 0]
    assert limit.take("192.0.2.1") == pytest.approx(0.5)
    assert limit.take("192.0.2.2") == 0
    now = 0.5
    assert limit.take("192.0.2.1") == 0 and limit.take("192.0.2.1") > 0
    now = 1000.0
    assert [limit.take("192.0.2.1") > 0 for _ in range(4)] == [False, False, False, True]


def test_a_whole_ipv6_network_is_one_address_and_memory_is_bounded() -> None:
    limit = auth.RateLimit(per_s=0.001, burst=1)
    assert limit.take("2001:db8::1") == 0 and limit.take("2001:db8::2") > 0
    assert limit.take("2001:db8:0:1::1") == 0
    for number in range(auth.MAX_ADDRESSES + 50):
        limit.take(f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}")
    assert len(limit._buckets) == auth.MAX_ADDRESSES


def test_a_token_of_any_length_is_not_read() -> None:
    with pytest.raises(Unauthorised, match="too long"):
        authenticator(token=TOKEN, jwt_secret=SECRET).admit("Bearer " + "a." * 3000, Right.WATCH)
