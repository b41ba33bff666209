"""Settings: flags before environment before defaults, and one line for what is wrong."""

from __future__ import annotations

import pytest

from engine import ConfigError
from server.config import load_config


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
    [({"port": 70_000}, "port is 70000"), ({"max_sessions": 0}, "max_sessions"),
     ({"log_level": "loud"}, "log_level is 'loud'"), ({"threads": "many"}, "threads")],
)  # fmt: skip
def test_a_bad_value_is_one_line_that_names_it(flags: dict[str, object], named: str) -> None:
    with pytest.raises(ConfigError, match=named) as caught:
        load_config(**flags)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("host", "loopback"),
    [("127.0.0.1", True), ("localhost", True), ("::1", True), ("0.0.0.0", False),
     ("192.0.2.7", False), ("example.org", False)],
)  # fmt: skip
def test_loopback(host: str, loopback: bool) -> None:
    assert load_config(host=host).loopback is loopback
