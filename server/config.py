"""ServerConfig: every knob of the server.

Flags go before the environment (LIPWIRE_*), that before a TOML file, and that before defaults.
"""

from __future__ import annotations

import ipaddress
import os
import re
import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from lipwire.engine.errors import ConfigError
from lipwire.engine.units.bank_file import KEY_CHARS

PREFIX = "LIPWIRE_"
WYOMING = re.compile(
    r"tcp://(127(?:\.\d{1,3}){3}|localhost|\[::1\]):(\d{1,5})/([A-Za-z0-9][\w.-]{0,63})", re.ASCII
)
NODE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
JWT_SECRET_BYTES = 32  # RFC 7518 section 3.2: an HS256 key is at least as long as its hash
Place = Literal["top-left", "top-right", "bottom-left", "bottom-right"]
# One or many, in the environment separated by commas.
Names = Annotated[tuple[str, ...], NoDecode]


class ServerConfig(BaseSettings):
    """Settings of one server process; `load_config` turns bad values into one line."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, frozen=True, extra="forbid")

    # --- where it listens ---
    host: str = Field(default="127.0.0.1", description="address to listen on")
    port: int = Field(default=8080, ge=0, le=65535, description="TCP port; 0 takes any free one")
    tls_cert: Path | None = Field(default=None, description="certificate chain, PEM")
    tls_key: Path | None = Field(default=None, description="its private key, PEM")
    trusted_proxies: Names = Field(
        default=(), description="addresses whose X-Forwarded-For and -Proto are believed"
    )
    # Behind a proxy that spreads calls over several servers (deploy/haproxy.cfg).
    node: str | None = Field(
        default=None, description="this server's name, for addresses such as /n/NODE/whip"
    )
    agent_port: int | None = Field(
        default=None, ge=0, le=65535, description="TCP port of HAProxy's agent check"
    )
    log_level: Literal["critical", "error", "warning", "info", "debug"] = "warning"
    log_format: Literal["text", "json"] = "text"
    otel: bool = Field(
        default=False, description="send traces by OTLP, to where OTEL_* variables say"
    )

    # Its clients have no tokens: others than this machine cannot be let in.
    wyoming: str | None = Field(
        default=None, description="tcp://127.0.0.1:10700/NAME: Wyoming clients speak into NAME"
    )

    # --- the model ---
    bundle: Path | None = Field(
        default=None, description="model folder or hf:owner/name; none: the one that ships"
    )
    threads: int | None = Field(default=None, ge=1, le=256, description="CPU threads of the model")
    backend: str = Field(default="ort", description="the model's runtime; auto: the fastest here")
    devices: Names = Field(
        default=(), description="where the model runs, e.g. cuda:0,cuda:1; none: the runtime's own"
    )
    tracker: Literal["litert", "mediapipe"] = Field(
        default="litert", description="what runs MediaPipe's face nets; mediapipe: an extra"
    )

    # Otherwise a device that is too slow makes pictures late and lets others pass.
    ladder: bool = Field(default=True, description="lower the quality under overload, by rungs")

    # --- who may do what ---
    token: SecretStr | None = Field(default=None, description="bearer token that may do all")
    jwt_secret: SecretStr | None = Field(default=None, description="HS256 key of JSON Web Tokens")
    jwt_public_key: Path | None = Field(default=None, description="EdDSA public key of them, PEM")
    # A token that leaks is of use for so long.
    jwt_ttl_max_s: float = Field(default=600, gt=0, le=86_400)
    allowed_origins: Names = Field(
        default=(), description="other origins whose pages may use the API; * for all"
    )

    # --- the person's own mouths ---
    bank_key: SecretStr | None = Field(
        default=None, description="passphrase that encrypts banks which leave, and opens others"
    )

    # --- limits ---
    # One 640x480 session takes about one core; on two cores a third would starve them all.
    max_sessions: int = Field(default=2, ge=1, le=1000, description="calls at the same time")
    # Viewers share encodes: one more costs 0.4 % of a core and its socket (`lipwire bench
    # viewers`), and 1.5 Mbit/s of the network, which is what ends first.
    max_viewers: int = Field(default=16, ge=0, le=1000, description="WHEP viewers of a session")
    max_upload_mb: float = Field(default=64, gt=0, le=4096, description="largest voice file")
    max_text_chars: int = Field(default=2000, ge=1, le=100_000, description="longest text to speak")
    # Those beyond 1920x1088 as well are refused before a decoder allocates anything for them.
    max_pixels: int | None = Field(
        default=None,
        ge=256,
        description="larger incoming pictures are scaled down to it; measured at the start",
    )
    # H.264 with a fast preset takes 0.8 of VP8's time at 1 dB less, and Chromium was seen to show
    # it later once pictures are painted (docs/media.md). A peer without the first gets the other.
    video_codec: Literal["h264", "vp8"] = Field(default="vp8", description="codec tried first")
    # A talking head at 640x480 shows blocks around the mouth below 1 Mbit/s; above 2.5 Mbit/s VP8
    # costs more of a core than it gives back.
    start_kbps: int = Field(default=1500, ge=100, le=20_000, description="video to begin with")
    max_kbps: int = Field(default=2500, ge=100, le=20_000, description="video at most")
    # Requests that change something, per address. Less: a browser that trickles candidates one by
    # one is stopped; more: a stranger can keep the event loop busy with offers.
    rate_per_s: float = Field(default=5, gt=0, le=100_000)
    rate_burst: int = Field(default=40, ge=1, le=100_000)
    # How long a named session that lost its publisher waits for it. Shorter: a client that restarts
    # loses its viewers; longer: the place stays taken.
    name_grace_s: float = Field(
        default=30, ge=0, le=3600, description="a lost publisher may take its name over again"
    )
    # Voice that may wait to be played; beyond it the sources wait. Memory: 0.1 MB a second.
    speech_backlog_max_s: float = Field(default=120, ge=1, le=3600)

    # --- media over UDP ---
    ice_host: str | None = Field(
        default=None, description="the one address offered for media (UDP); none: decided by `host`"
    )
    ice_announce: str | None = Field(
        default=None, description="the address that others see us at, where NAT maps it to ours"
    )
    ice_ports: str | None = Field(default=None, description="UDP ports, e.g. 50000-50100")
    ice_private: bool | None = Field(
        default=None,
        description="accept candidates of private networks; none: only when bound to loopback",
    )
    # A peer that has not connected by then is dropped: browsers give up or connect in 1 to 3 s.
    connect_timeout_s: float = Field(default=10, gt=0, le=120)
    # A peer that answers nothing for so long is gone. Shorter: a tunnel or a lift ends the call;
    # longer: its place stays taken. See `lipwire.server.rtc.ice` for what is added to it.
    dead_after_s: float = Field(default=7, ge=2, le=120)
    stun_urls: Names = Field(default=(), description="e.g. stun:stun.example.org:3478")
    turn_urls: Names = Field(
        default=(), description="e.g. turn:turn.example.org:3478?transport=udp"
    )
    turn_secret: SecretStr | None = Field(
        default=None, description="shared with the TURN server, for credentials that expire"
    )
    turn_username: str | None = Field(default=None, description="instead of a shared secret")
    turn_password: SecretStr | None = None
    turn_ttl_s: int = Field(default=3600, ge=60, le=86_400, description="life of credentials")
    turn_for_server: bool = Field(
        default=False, description="relay our own side too, where no UDP port can be opened"
    )

    # --- synthetic media says so ---
    mark: bool = Field(default=True, description="draw the mark on every picture that leaves")
    mark_text: str = Field(default="AI-generated", min_length=1, max_length=60)
    mark_place: Place = "top-right"

    # --- recordings ---
    record: Path | None = Field(
        default=None, description="folder for recordings; none: nothing is recorded"
    )
    record_max_s: float = Field(default=4 * 3600, gt=0, description="longest recording, seconds")
    record_max_mb: float = Field(default=8000, gt=0, description="largest recording, MB")

    # --- stopping ---
    # How long SIGTERM lets calls go on; with closing, the default stays below the 10 s that init
    # systems wait. Behind a proxy it may be hours: their viewers still reach them.
    drain_s: float = Field(default=5, ge=0, le=86_400)

    @field_validator(
        "trusted_proxies", "allowed_origins", "stun_urls", "turn_urls", "devices", mode="before"
    )
    @classmethod
    def _split(cls, value: Any) -> Any:
        if isinstance(value, str):
            return tuple(part.strip() for part in value.split(",") if part.strip())
        return value

    @field_validator("allowed_origins")
    @classmethod
    def _no_slash(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(part.rstrip("/") for part in value)

    @property
    def loopback(self) -> bool:
        """Whether only this machine can reach the server."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

    @property
    def guarded(self) -> bool:
        """Whether a token is asked for."""
        return bool(self.token or self.jwt_secret or self.jwt_public_key)

    @property
    def bank_secret(self) -> str | None:
        """What banks are encrypted with; None: nothing."""
        return self.bank_key.get_secret_value() if self.bank_key else None

    @property
    def port_range(self) -> range | None:
        """UDP ports for media; None: any."""
        if self.ice_ports is None:
            return None
        first, _, last = self.ice_ports.partition("-")
        return range(int(first), int(last or first) + 1)

    @property
    def private_candidates(self) -> bool:
        """Whether candidates of private networks are accepted."""
        return self.loopback if self.ice_private is None else self.ice_private

    @property
    def picture_pixels(self) -> int:
        """`max_pixels`, or what two usual cores carry where nothing was measured."""
        return self.max_pixels or 1280 * 720

    def check_guarded(self) -> None:
        """Refuse to serve strangers without a token.

        Raises:
            ConfigError: says how to make one.
        """
        if not self.loopback and not self.guarded:
            raise ConfigError(
                f"{self.host} can be reached by others and no token is set: make one with "
                "`lipwire token new` and give it as --token or LIPWIRE_TOKEN"
            )

    def check(self) -> None:
        """Refuse settings that contradict each other.

        Raises:
            ConfigError: names the setting.
        """
        if self.token and len(self.token.get_secret_value()) < 16:
            raise ConfigError("token is shorter than 16 characters: `lipwire token new` makes one")
        if self.jwt_secret and len(self.jwt_secret.get_secret_value()) < JWT_SECRET_BYTES:
            raise ConfigError(f"jwt_secret is shorter than {JWT_SECRET_BYTES} bytes")
        if self.bank_secret and len(self.bank_secret) < KEY_CHARS:
            raise ConfigError(f"bank_key is shorter than {KEY_CHARS} characters")
        at = WYOMING.fullmatch(self.wyoming or "")
        if self.wyoming is not None and (at is None or int(at[2]) > 65_535):
            raise ConfigError(
                f"wyoming is {self.wyoming!r}, must be like tcp://127.0.0.1:10700/studio, on a "
                "loopback address, with the name of a session"
            )
        if self.node is not None and not NODE.fullmatch(self.node):
            raise ConfigError(
                f"node is {self.node!r}, must be 1 to 63 letters, digits, '.', '-', '_'"
            )
        if bool(self.tls_cert) != bool(self.tls_key):
            raise ConfigError("tls_cert and tls_key belong together; only one is given")
        for path in (self.tls_cert, self.tls_key, self.jwt_public_key):
            if path is not None and not path.is_file():
                raise ConfigError(f"{path}: no such file")
        if self.record is not None and not (
            self.record.is_dir() and os.access(self.record, os.W_OK | os.X_OK)
        ):
            raise ConfigError(f"record: {self.record} is no folder that can be written to")
        if self.turn_urls and not (self.turn_secret or (self.turn_username and self.turn_password)):
            raise ConfigError(
                "turn_urls need credentials: turn_secret, or turn_username and turn_password"
            )
        try:
            ports = self.port_range
        except ValueError:
            ports = range(0)
        if ports is not None and not (ports and ports.start > 0 and ports.stop <= 65_536):
            raise ConfigError(f"ice_ports is {self.ice_ports!r}, must be like 50000-50100")
        for name in ("ice_host", "ice_announce"):
            value = getattr(self, name)
            try:
                ipaddress.ip_address(value or "0.0.0.0")
            except ValueError:
                raise ConfigError(f"{name} is {value!r}, must be an IP address") from None


def load_config(file: Path | None = None, **flags: Any) -> ServerConfig:
    """Settings from flags, the environment and a file; a flag that is None counts as not given.

    Args:
        file: TOML, names as in `ServerConfig`.
        **flags: go before all else.

    Raises:
        ConfigError: a value is of the wrong kind or out of range, or two contradict each other;
            one line names it.
    """
    values = {name: value for name, value in flags.items() if value is not None}
    if file is not None:
        for name, value in _read_file(file).items():
            if PREFIX + name.upper() not in os.environ:
                values.setdefault(name, value)
    try:
        settings = ServerConfig(**values)
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(str(part) for part in first["loc"])
        raise ConfigError(f"{name} is {first['input']!r}: {first['msg'].lower()}") from error
    settings.check()
    return settings


def _read_file(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text())
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read as TOML ({error})") from error
