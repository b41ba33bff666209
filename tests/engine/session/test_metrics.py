"""SessionMetrics: what a session counts."""

from __future__ import annotations

import pytest
from fakes import ScriptedTracker
from sessions import DELAY_S, make, run

from lipwire.engine.types import Outcome


def test_statistics() -> None:
    session = make(tracker=lambda: ScriptedTracker({3}))
    out = run(session, 50, start_s=5.0)
    assert len(out) == 50
    stats = session.stats(out[-1].playout_s)
    assert (stats.frames_in, stats.frames_out) == (50, 50)
    assert stats.outcomes == {Outcome.GENERATED: 48, Outcome.NO_FACE: 2}
    assert stats.generated == 48
    assert stats.fps == pytest.approx(25, rel=0.1)
    assert DELAY_S <= stats.delay_p50_s <= 0.08
    assert stats.delay_p95_s >= stats.delay_p50_s
    assert stats.speaking is False
    assert stats.steps == 2
    assert session.stats(60.0).fps == 0.0
