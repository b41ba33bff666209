"""What `lipwire cluster` asks of Ray; Ray itself is not needed here."""

from __future__ import annotations

import os
from types import SimpleNamespace
from typing import Any

import pytest

from lipwire.engine.errors import ConfigError
from lipwire.server.cluster.app import Wanted, environment, read_range
from lipwire.server.config import ServerConfig

SECRET = "a-secret-that-is-long-enough-for-it"


def wanted(loads: list[float], spare: float = 0.5, target: int = 3) -> int:
    """How many nodes the policy asks for."""
    context: Any = SimpleNamespace(
        aggregated_metrics={"load": dict(enumerate(loads))}, target_num_replicas=target
    )
    return Wanted(spare)(context)[0]


def test_as_many_nodes_as_are_full_and_the_spare_room() -> None:
    assert wanted([]) == 3  # none has told yet: as it is
    assert wanted([0.0, 0.0]) == 1
    assert wanted([0.5]) == 1 and wanted([1.0]) == 2 and wanted([1.0, 0.6]) == 3
    assert wanted([1.0, 1.0], spare=0) == 2 and wanted([0.1, 0.1, 0.1], spare=0) == 1


@pytest.mark.parametrize(("nodes", "read"), [("3", (3, 3)), ("1-8", (1, 8))])
def test_a_number_of_nodes(nodes: str, read: tuple[int, int]) -> None:
    assert read_range(nodes) == read


@pytest.mark.parametrize("nodes", ["", "0", "4-2", "-3", "many", "1-2-3"])
def test_what_is_no_number_of_nodes(nodes: str) -> None:
    with pytest.raises(ConfigError, match="must be like"):
        read_range(nodes)


def test_a_node_has_the_settings_that_were_given(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "LIPWIRE_TOKEN" not in environment(ServerConfig())  # an open server stays open
    given = ServerConfig(jwt_secret=SECRET, devices=("cuda:0", "cuda:1"), mark=False, port=9000)  # type: ignore[arg-type]
    there = environment(given)
    for name in os.environ:
        if name.startswith("LIPWIRE_"):
            monkeypatch.delenv(name)
    for name, value in there.items():
        monkeypatch.setenv(name, value)
    read = ServerConfig()
    assert read.devices == ("cuda:0", "cuda:1") and not read.mark
    assert read.jwt_secret is not None and read.jwt_secret.get_secret_value() == SECRET
    # Its own: a free port, a token by which its replica asks, the Director's word on addresses.
    assert read.port == 0 and read.token is not None and read.trusted_proxies == ("*",)
