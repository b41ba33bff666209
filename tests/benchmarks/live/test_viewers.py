"""The bench of viewers runs and compares like with like."""

from __future__ import annotations

import pytest
from calls import keep_aiortc

from lipwire.benchmarks.live import viewers


def test_viewers_get_the_same_and_share_the_cost(monkeypatch: pytest.MonkeyPatch) -> None:
    keep_aiortc(monkeypatch)
    monkeypatch.setattr(viewers, "WARM_S", 0.2)
    figures = viewers.run(viewers=(1, 2), seconds=0.6, codec="H264")["figures"]
    for kind in ("shared", "alone"):
        for count in (1, 2):
            row = figures[f"{count} viewers, {kind}"]
            assert row["cpu_share"] > 0 and row["kbps_each"] > 100
        assert f"each further viewer, {kind}: share of a core" in figures
    assert set(figures["alone / shared"]) == {"1", "2"}
