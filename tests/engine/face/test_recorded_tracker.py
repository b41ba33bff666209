"""What was found in a picture is not looked for again, as far as it is kept."""

from __future__ import annotations

import numpy as np
import pytest
from fakes import FakeTracker, picture

from lipwire.engine.face import recorded_tracker
from lipwire.engine.face.recorded_tracker import RecordedTracker


def test_a_picture_is_looked_at_once() -> None:
    tracker, image = FakeTracker(), picture(96, 128)
    film = RecordedTracker(tracker)
    first = []
    for time_s in (0.0, 0.04):
        film.at(time_s, keep=True)
        first.append((film.track(image), film.detect(image)))
    calls = tracker.calls
    tracker.centre = (0.3, 0.3)  # whoever looks now sees something else
    for time_s, (face, boxes) in zip((0.0, 0.04), first, strict=True):
        film.at(time_s, keep=False)
        assert film.track(image) is face
        assert np.array_equal(film.detect(image), boxes)
    assert tracker.calls == calls
    film.at(0.08, keep=False)
    assert film.track(image) is not first[0][0]
    assert tracker.calls == calls + 1


def test_a_picture_without_a_face_is_remembered_too() -> None:
    class Blind(FakeTracker):
        def track(self, image: np.ndarray) -> None:
            super().track(image)

    tracker = Blind()
    film = RecordedTracker(tracker)
    for _ in range(2):
        film.at(0.0, keep=True)
        assert film.track(picture(96, 128)) is None
    assert tracker.calls == 1


def test_a_long_film_is_tracked_again_where_it_is_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recorded_tracker, "KEPT_FACES", 1)
    tracker = FakeTracker()
    film = RecordedTracker(tracker)
    for time_s in (0.0, 0.04, 0.0, 0.04):
        film.at(time_s, keep=True)
        film.track(picture(96, 128))
    assert tracker.calls == 3
    film.close()
    assert tracker.closed
