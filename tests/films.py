"""Made people in made pictures, for tests of who is followed."""

from __future__ import annotations

from collections.abc import Iterable

from fakes import SceneTracker, picture

from lipwire.engine.config import EngineConfig
from lipwire.engine.face.active_speaker import Envelope
from lipwire.engine.face.selector import FaceSelector
from lipwire.engine.types import U8, Face, Outcome

HERE: U8 = picture(360, 640)
ELSEWHERE: U8 = picture(360, 640, scene=1)
LEFT, MIDDLE, RIGHT = (120.0, 180.0), (320.0, 180.0), (520.0, 180.0)


class Film:
    """Pictures at 25 a second before a `SceneTracker`."""

    def __init__(self, tracker: SceneTracker, envelope: Envelope | None = None) -> None:
        self.tracker = tracker
        self.selector = FaceSelector(tracker, EngineConfig(), envelope)
        self.index = 0

    @property
    def time_s(self) -> float:
        return self.index / 25

    def update(self, image: U8 = HERE) -> Face | Outcome:
        seen = self.selector.update(image, self.time_s)
        self.index += 1
        return seen

    def run(self, frames: int, image: U8 = HERE) -> list[Face | Outcome]:
        return [self.update(image) for _ in range(frames)]


def two() -> SceneTracker:
    return SceneTracker(ann=(LEFT, 100), bob=(RIGHT, 80))


def good(seen: Iterable[Face | Outcome]) -> list[bool]:
    return [isinstance(face, Face) for face in seen]
