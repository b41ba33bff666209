"""Who may do what: bearer tokens, their rights, and how many requests an address has.

A token is either the server's own, which may do all, or a JSON Web Token (RFC 7519) that expires
soon and says what it is for:

    {"scope": "watch", "session": "0Jx...", "iat": 1790000000, "exp": 1790000300}

`scope` lists rights, `session` (optional) is the one session it is for, `"consent": true`
(optional) carries the consent of the person shown.
"""

from __future__ import annotations

import hmac
import ipaddress
import secrets
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import jwt

from lipwire.engine.errors import ConfigError, LipwireError
from lipwire.server.config import ServerConfig

LEEWAY_S = 5.0  # clocks of two machines differ; more would be life that nobody granted
TOKEN_BYTES = 32
MAX_TOKEN_CHARS = 4096
# Addresses that are remembered; the one longest unheard goes first. Fewer: a crowd resets itself.
MAX_ADDRESSES = 10_000

# Times are checked here, on our clock.
UNCHECKED: Any = {f"verify_{name}": False for name in ("exp", "iat", "nbf", "aud")}
UNCHECKED["require"] = ["exp", "iat"]


class Right(StrEnum):
    """What a token may be for."""

    PUBLISH = "publish"  # begin a session, and end it
    WATCH = "watch"  # see and hear one, and stop doing so
    SPEAK = "speak"  # be a session's new voice
    CONTROL = "control"  # change a session and read its figures
    METRICS = "metrics"  # read the server's


class Unauthorised(LipwireError):
    """No token, or none that counts."""


class Forbidden(LipwireError):
    """A valid token for something else."""


@dataclass(frozen=True, slots=True)
class Claims:
    """What a request may do."""

    rights: frozenset[Right]
    session: str | None = None  # the only session it is for; None: any
    consent: bool = False  # whether the token itself says that the person shown has agreed

    def may(self, right: Right, session: str) -> bool:
        """Whether it is for this."""
        return right in self.rights and self.session in (None, session)


ALL = Claims(frozenset(Right))


class Authenticator:
    """Reads tokens.

    Raises:
        ConfigError: a key cannot be used.
    """

    def __init__(self, settings: ServerConfig, clock: Callable[[], float] = time.time) -> None:
        self._clock, self._ttl_max_s = clock, settings.jwt_ttl_max_s
        self._token = settings.token.get_secret_value().encode() if settings.token else None
        # Each key with the one algorithm it is for: a public key must never be taken as a secret.
        self._keys: list[tuple[Any, str]] = []
        if settings.jwt_secret is not None:
            self._keys.append((settings.jwt_secret.get_secret_value(), "HS256"))
        if settings.jwt_public_key is not None:
            self._keys.append((_read_public_key(settings), "EdDSA"))

    @property
    def open(self) -> bool:
        """Whether nobody is asked for a token: only for servers bound to loopback."""
        return self._token is None and not self._keys

    def admit(self, authorization: str | None, right: Right, session: str | None = None) -> Claims:
        """Let a request pass or not.

        Raises:
            Unauthorised: no token, or none that counts.
            Forbidden: the token is for something else.
        """
        grant = self.identify(authorization)
        if right not in grant.rights:
            raise Forbidden(f"the token is not for this: its scope lacks {right.value!r}")
        if grant.session is not None and grant.session != session:
            raise Forbidden("the token is for another session")
        return grant

    def identify(self, authorization: str | None) -> Claims:
        """What a request's token is for.

        Raises:
            Unauthorised: no token, or none that counts.
        """
        if self.open:
            return ALL
        scheme, _, token = (authorization or "").partition(" ")
        token = token.strip()
        if scheme.lower() != "bearer" or not token:
            raise Unauthorised("this server needs a token: send Authorization: Bearer ...")
        if len(token) > MAX_TOKEN_CHARS:
            raise Unauthorised("the token is too long")
        own = self._token
        if own is not None and hmac.compare_digest(token.encode(errors="replace"), own):
            return ALL
        if token.count(".") != 2 or not self._keys:
            raise Unauthorised("the token is not one of this server's")
        return self._read_jwt(token)

    def _read_jwt(self, token: str) -> Claims:
        problem: Exception | None = None
        for key, algorithm in self._keys:
            try:
                claims = jwt.decode(token, key, algorithms=[algorithm], options=UNCHECKED)
            except jwt.InvalidTokenError as error:
                problem = error
                continue
            return self._grant(claims)
        raise Unauthorised(f"the token does not count: {str(problem).lower()}") from problem

    def _grant(self, claims: dict[str, Any]) -> Claims:
        try:
            issued_s, expires_s = float(claims["iat"]), float(claims["exp"])
            not_before_s = float(claims.get("nbf", issued_s))
        except (TypeError, ValueError):
            raise Unauthorised("the token's iat and exp are not numbers") from None
        now_s = self._clock()
        if not now_s < expires_s + LEEWAY_S:
            raise Unauthorised("the token has expired")
        if not max(issued_s, not_before_s) <= now_s + LEEWAY_S:
            raise Unauthorised("the token is from the future")
        if not expires_s - issued_s <= self._ttl_max_s:
            raise Unauthorised(f"the token lives for more than {self._ttl_max_s:g} s")
        scope, session = claims.get("scope"), claims.get("session")
        if not isinstance(scope, str) or not (session is None or isinstance(session, str)):
            raise Unauthorised("the token's scope or session is not text")
        rights = frozenset(right for right in Right if right.value in scope.split())
        return Claims(rights, session, claims.get("consent") is True)


def _read_public_key(settings: ServerConfig) -> Any:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    assert settings.jwt_public_key is not None
    try:
        key = load_pem_public_key(settings.jwt_public_key.read_bytes())
    except (OSError, ValueError) as error:
        raise ConfigError(f"{settings.jwt_public_key}: not a public key in PEM") from error
    if not isinstance(key, Ed25519PublicKey):
        raise ConfigError(f"{settings.jwt_public_key}: not an Ed25519 key")
    return key


def new_token() -> str:
    """A token that cannot be guessed, 256 bits."""
    return secrets.token_urlsafe(TOKEN_BYTES)


def make_jwt(
    secret: str,
    rights: frozenset[Right],
    ttl_s: float,
    now_s: float,
    session: str | None = None,
    consent: bool = False,
) -> str:
    """A signed token, HS256.

    Args:
        secret: the server's `jwt_secret`.
        rights: what it is for.
        ttl_s: life, seconds.
        now_s: Unix time.
        session: the only session it is for.
        consent: the person shown has agreed.
    """
    claims: dict[str, Any] = {
        "scope": " ".join(sorted(rights)),
        "iat": int(now_s),
        "exp": int(now_s + ttl_s),
    }
    if session is not None:
        claims["session"] = session
    if consent:
        claims["consent"] = True
    return jwt.encode(claims, secret, algorithm="HS256")


class RateLimit:
    """A bucket of requests for each address, filled steadily."""

    def __init__(
        self, per_s: float, burst: int, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._per_s, self._burst, self._clock = per_s, burst, clock
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()  # left, at time

    def take(self, address: str) -> float:
        """Take one request; 0 if it was there, else the seconds until it will be."""
        name, now = _neighbourhood(address), self._clock()
        left, at = self._buckets.pop(name, (float(self._burst), now))
        left = min(self._burst, left + (now - at) * self._per_s)
        granted = left >= 1
        self._buckets[name] = (left - granted, now)
        if len(self._buckets) > MAX_ADDRESSES:
            self._buckets.popitem(last=False)
        return 0.0 if granted else (1 - left) / self._per_s


def _neighbourhood(address: str) -> str:
    """An IPv4 address, or the /64 of an IPv6 one: whoever has one of those has them all."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return address
    if parsed.version == 4:
        return address
    return str(ipaddress.ip_network((parsed, 64), strict=False))
