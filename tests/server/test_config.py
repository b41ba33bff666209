"""Settings: flags before environment before defaults, and one line for what is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from lipwire.engine import ConfigError
from lipwire.server.config import load_config


def test_defaults_need_no_configuration() -> None:
    settings = load_config()
    assert (settings.host, settings.port, settings.bundle) == ("127.0.0.1", 8080, None)
    assert settings.loopback


def test_flags_go_before_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIPWIRE_PORT", "9000")
    monkeypatch.setenv("LIPWIRE_MAX_SESSIONS", "5")
    settings = load_config(port=9001, max_sessions=None)
    assert (settings.port, settings.max_sessions) == (9001, 5)


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        ({"port": 70_000}, "port is 70000"),
        ({"max_sessions": 0}, "max_sessions"),
        ({"log_level": "loud"}, "log_level is 'loud'"),
        ({"threads": "many"}, "threads"),
    ],
)
def test_a_bad_value_is_one_line_that_names_it(flags: dict[str, object], named: str) -> None:
    with pytest.raises(ConfigError, match=named) as caught:
        load_config(**flags)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("host", "loopback"),
    [
        ("127.0.0.1", True),
        ("localhost", True),
        ("::1", True),
        ("0.0.0.0", False),
        ("192.0.2.7", False),
        ("example.org", False),
    ],
)
def test_loopback(host: str, loopback: bool) -> None:
    assert load_config(host=host).loopback is loopback


def test_a_file_stands_behind_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "lipwire.toml"
    file.write_text(
        'port = 9000\nmax_sessions = 7\nlog_level = "info"\nallowed_origins = ["http://b/"]\n'
    )
    monkeypatch.setenv("LIPWIRE_MAX_SESSIONS", "5")
    settings = load_config(file, log_level="debug")
    assert (settings.port, settings.max_sessions, settings.log_level) == (9000, 5, "debug")
    assert settings.allowed_origins == ("http://b",)
    for text, named in (("port = ", "TOML"), ("colour = 1", "colour"), ("port = 'x'", "port")):
        file.write_text(text)
        with pytest.raises(ConfigError, match=named):
            load_config(file)
    with pytest.raises(ConfigError, match="no-such.toml"):
        load_config(tmp_path / "no-such.toml")


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        ({"token": "short"}, "lipwire token new"),
        ({"jwt_secret": "s" * 31}, "32 bytes"),
        ({"tls_cert": "server/api/app.py"}, "belong together"),
        ({"tls_cert": "no-such", "tls_key": "no-such"}, "no such file"),
        ({"turn_urls": "turn:t.example"}, "need credentials"),
        ({"ice_ports": "5"}, None),
        ({"ice_ports": "9-5"}, "like 50000-50100"),
        ({"ice_ports": "0-5"}, "like 50000"),
        ({"ice_ports": "a-b"}, "like 50000"),
        ({"ice_ports": "5-70000"}, "like 50000"),
        ({"ice_host": "localhost"}, "IP address"),
        ({"ice_announce": "media.example"}, "IP address"),
        ({"mark_place": "middle"}, "mark_place"),
        ({"node": "a/b"}, "node is 'a/b'"),
        ({"max_pixels": 1}, "max_pixels"),
        ({"drain_s": -1}, "drain_s"),
    ],
)
def test_settings_that_do_not_fit_together(flags: dict[str, str], named: str | None) -> None:
    if named is None:
        assert load_config(**flags).port_range == range(5, 6)
        return
    with pytest.raises(ConfigError, match=named) as caught:
        load_config(**flags)
    assert "\n" not in str(caught.value)


def test_secrets_do_not_show() -> None:
    settings = load_config(token="a-token-that-is-long-enough", jwt_secret="s" * 32)
    assert "long-enough" not in repr(settings) and "sss" not in repr(settings)
    assert settings.guarded and not load_config().guarded


def test_only_loopback_goes_without_a_token() -> None:
    for host in ("127.0.0.1", "::1", "localhost"):
        load_config(host=host).check_guarded()
    with pytest.raises(ConfigError, match="lipwire token new"):
        load_config(host="0.0.0.0").check_guarded()
    load_config(host="0.0.0.0", token="a-token-that-is-long-enough").check_guarded()


def test_pictures_up_to_720_lines_are_taken_by_default() -> None:
    assert load_config().picture_pixels == 1280 * 720
