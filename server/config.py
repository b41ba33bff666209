"""ServerConfig: every knob of the server; flags > environment (LIPWIRE_*) > defaults."""

from __future__ import annotations

import ipaddress
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from engine.errors import ConfigError


class ServerConfig(BaseSettings):
    """Settings of one server process; `load_config` turns bad values into one line."""

    model_config = SettingsConfigDict(env_prefix="LIPWIRE_", frozen=True)

    host: str = Field(default="127.0.0.1", description="address to listen on")
    port: int = Field(default=8080, ge=0, le=65535, description="TCP port; 0 takes any free one")
    bundle: Path | None = Field(default=None, description="model folder; none: the one that ships")
    threads: int | None = Field(default=None, ge=1, le=256, description="CPU threads of the model")
    # One 640x480 session takes about one core; on two cores a third would starve them all.
    max_sessions: int = Field(default=2, ge=1, le=1000, description="calls at the same time")
    log_level: Literal["critical", "error", "warning", "info", "debug"] = "warning"
    max_upload_mb: float = Field(default=64, gt=0, le=4096, description="largest voice file")
    max_text_chars: int = Field(default=2000, ge=1, le=100_000, description="longest text to speak")
    # Pictures beyond it are refused before a decoder allocates anything for them.
    max_pixels: int = Field(default=1920 * 1088, ge=256, description="largest incoming picture")
    # H.264 with a fast preset costs a third of VP8, but Chromium was seen to show it later once
    # pictures are painted (docs/media.md). A peer that lacks the first gets the other.
    video_codec: Literal["h264", "vp8"] = Field(default="vp8", description="codec tried first")
    # A talking head at 640x480 shows blocks around the mouth below 1 Mbit/s; above 2.5 Mbit/s VP8
    # costs more of a core than it gives back.
    start_kbps: int = Field(default=1500, ge=100, le=20_000, description="video to begin with")
    max_kbps: int = Field(default=2500, ge=100, le=20_000, description="video at most")
    # A peer that has not connected by then is dropped: browsers give up or connect in 1 to 3 s.
    connect_timeout_s: float = Field(default=10, gt=0, le=120)
    # Voice that may wait to be played; beyond it the sources wait. Memory: 0.1 MB a second.
    speech_backlog_max_s: float = Field(default=120, ge=1, le=3600)
    ice_host: str | None = Field(
        default=None, description="the one address offered for media (UDP); none: decided by `host`"
    )

    @property
    def loopback(self) -> bool:
        """Whether only this machine can reach the server."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False


def load_config(**flags: Any) -> ServerConfig:
    """Settings from flags and the environment; a flag that is None counts as not given.

    Raises:
        ConfigError: a value is of the wrong kind or out of range; one line names it.
    """
    try:
        return ServerConfig(**{name: value for name, value in flags.items() if value is not None})
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(str(part) for part in first["loc"])
        raise ConfigError(f"{name} is {first['input']!r}: {first['msg'].lower()}") from error
