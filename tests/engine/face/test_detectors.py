"""Detectors that all calls share: nothing of one picture is seen in the next."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest

from lipwire.benchmarks.rig.scenes import Pose, scene
from lipwire.engine.face.detectors import Detectors
from lipwire.engine.face.tracker import TrackerPool

PICTURES = [
    scene([Pose(170, 230, 120), Pose(480, 240, 90)]),
    scene([]),
    scene([Pose(400, 250, 150)]),
    scene([Pose(200, 200, 60)], shape=(360, 480)),
]


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Every pair that is built while a test runs."""
    pairs: list[Any] = []
    build = Detectors._make
    monkeypatch.setattr(Detectors, "_make", lambda self: (pairs.append(build(self)), pairs[-1])[1])
    return pairs


def test_what_is_found_does_not_depend_on_what_came_before(made: list[Any]) -> None:
    mixed = Detectors()
    alone = []
    for picture in PICTURES:
        one = Detectors()
        alone.append(one.find(picture))
        one.close()
    assert [len(boxes) for boxes in alone] == [2, 0, 1, 1]
    for k in (0, 1, 2, 3, 1, 0, 3, 2, 2, 0):
        np.testing.assert_array_equal(mixed.find(PICTURES[k]), alone[k])
    mixed.close()
    assert len(made) == len(PICTURES) + 1


def test_two_threads_have_a_pair_each_and_two_calls_share_one(made: list[Any]) -> None:
    pool = TrackerPool()
    first, second = pool(), pool()
    for tracker in (first, second, first, second):
        assert len(tracker.detect(PICTURES[2])) == 1
    assert len(made) == 1
    detectors = pool._detectors
    with detectors._pair() as held:
        other = threading.Thread(target=detectors.find, args=(PICTURES[0],))
        other.start()
        other.join(30)
        assert len(made) == 2, "it waited for nobody"
        assert held is made[0]
        pool.close()
        second.close()
    for pair in made:  # the idle one at once, the other as it came back
        with pytest.raises(ValueError):
            pair[0].process(PICTURES[0])
    first.close()
