"""A churn keeps what it has counted when it is interrupted, and misses what was left behind."""

from __future__ import annotations

import contextlib
import itertools
import types
from collections.abc import Iterator
from typing import Any

import pytest

from lipwire.benchmarks.harness.record import make_record, missed
from lipwire.benchmarks.live import churn as module
from lipwire.benchmarks.live.churn import churn


class Held:
    """A server that gives everything back but threads, of which each round leaves some.

    Args:
        left: threads of each round.
    """

    def __init__(self, left: int) -> None:
        self._left, self.rounds = left, 0

    def look(self, *_: object) -> dict[str, Any]:
        return {
            "fds": 14,
            "kinds": {"socket": 3},
            "threads": 20 + self._left * self.rounds,
            "tasks": 4,
            "sessions": 0,
            "resident_mib": 500.0 + self.rounds,
        }


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Churn a made server; it is interrupted after some rounds."""

    def with_server(left: int, interrupt: float = float("inf")) -> list[str]:
        held, ended = Held(left), []

        @contextlib.contextmanager
        def serving(**_: object) -> Iterator[tuple[str, Any]]:
            try:
                yield "http://127.0.0.1:1", types.SimpleNamespace(pid=1)
            finally:
                ended.append("server")

        def rounds(server: object, count: int) -> Iterator[tuple[int, bool]]:
            for index in itertools.count(1):
                if held.rounds >= interrupt:
                    raise KeyboardInterrupt
                held.rounds += 1
                yield index, index % 3 == 0
                if index == count:
                    return

        monkeypatch.setattr(module, "serving", serving)
        monkeypatch.setattr(module, "_warm", lambda server: None)
        monkeypatch.setattr(module, "_rounds", rounds)
        monkeypatch.setattr(module, "held", held.look)
        monkeypatch.setattr(module, "REST_S", 0.0)
        return ended

    return with_server


def test_what_is_left_behind_is_missed(serve: Any) -> None:
    said: list[str] = []
    ended = serve(left=2)
    made = make_record("churn", "Calls.", churn(sessions=24, at_once=4, progress=said.append))
    assert missed(made) == ["threads as before"] and "incomplete" not in made
    assert made["figures"]["killed"]["value"] == 8
    assert [row["threads"] for row in made["tables"]["while it goes on"]] == [
        22,
        24,
        26,
        28,
        30,
        32,
    ]
    assert any(line.startswith("12 of 24 calls, 4 killed, about ") for line in said)
    assert ended == ["server"]


def test_an_interrupted_one_keeps_what_it_has_counted(serve: Any) -> None:
    ended = serve(left=0, interrupt=4)
    made = make_record("churn", "Calls.", churn(sessions=200, at_once=4))
    assert made["incomplete"] == "interrupted after 16 of 200 calls"
    assert len(made["tables"]["while it goes on"]) == 4
    assert made["figures"]["before: threads"]["value"] == 20
    assert made["figures"]["after"]["value"] is None
    assert not missed(made), "nothing is claimed of what was not measured"
    assert ended == ["server"]
