"""What `bench relip` makes of what a page and a server noted."""

from __future__ import annotations

import shutil

import pytest

from lipwire.benchmarks.live import relip
from lipwire.engine.errors import ConfigError, LipwireError

TRACES = {"columns": ["pts", "received", "sent"], "pictures": [[1, 5.0, 5.07], [2, None, 6.0]]}


def test_what_relip_adds_is_set_beside_the_servers_own_part() -> None:
    found = {
        "drawn": {"1": 900.0, "2": 1000.0, "3": 1040.0, "4": 1080.0},
        "bare": {"1": 930.0, "2": 1040.0, "3": 1080.0},
        "relip": {"1": 990.0, "2": 1115.0, "3": 1155.0, "4": 1190.0},
    }
    back = {"relip": 1.0, "viewer": 4.0}
    figures = relip._result(found, 1000.0, TRACES, back, ["bench"])["figures"]
    assert figures["pictures"]["value"] == 2  # the first is of before, the last was not seen bare
    assert figures["relip_added_p50_ms"]["value"] == 75
    assert figures["server_p50_ms"]["value"] == pytest.approx(70)
    assert figures["beyond_the_server_p50_ms"]["ok"]
    assert figures["relip_back_s"]["ok"] and not figures["viewer_back_s"]["ok"]
    assert figures["same_name"]["ok"]


def test_pictures_that_nobody_saw_and_a_missing_browser_are_said(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    nothing = {"drawn": {"2": 1000.0}, "bare": {}, "relip": {}}
    with pytest.raises(LipwireError, match="too busy"):
        relip._result(nothing, 0.0, TRACES, {}, [])
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(ConfigError, match="needs Chromium"):
        relip.run(seconds=3)
