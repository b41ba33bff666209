"""What `lipwire.training.evaluation.call` measures of a film that an engine has spoken."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from lipwire.engine.audio.mel import PAPER_FPS
from lipwire.engine.errors import MediaError
from lipwire.engine.face.alignment import align, alignment_from, fit_similarity, transform
from lipwire.engine.face.articulation import opening_px
from lipwire.engine.face.tracker import MeshTracker
from lipwire.engine.media.files import at_rate, read_frames
from lipwire.engine.media.sound import read_speech
from lipwire.engine.types import F32, I16, PLAYOUT_RATE_HZ, U8, Alignment, Outcome
from lipwire.training.data.dataset import to_planes
from lipwire.training.evaluation.closures import Closures, count_closures
from lipwire.training.evaluation.measures import best_lag, correlation, lmd
from lipwire.training.nets.imagenet import MouthFeatures

CROP = 256  # at which mouths are compared; the features take half of it
APART = round(0.4 * PAPER_FPS)  # frames: nearer ones show the same mouth
LEAST_FRAMES = 50
MOUTH = slice(148, 218), slice(60, 196)  # of the crop: lips, teeth and the skin around them
# Of the opening, px of the 128 px crop, added to a film's own spread: that of a person who hardly
# speaks in it must not be nothing. 0.15 of what openings of all people have.
LEAST_SPREAD_PX = 0.5
SPOKEN = (Outcome.PASTED, Outcome.GENERATED, Outcome.HELD)


@dataclass(frozen=True, slots=True)
class Figures:
    """Of one film and one way; see the module."""

    realism: float
    sharpness: float
    change: float
    change_p95: float
    jerk: float
    r: float
    lag: int
    movement: float
    lmd: float
    pasted: float


class Measured(NamedTuple):
    """What is measured of one film and one way."""

    figures: Figures
    closures: Closures
    """of the person's second half, with the film's own sound as the voice"""


@dataclass(frozen=True, slots=True)
class Film:
    """A film with one face, at 25 pictures a second."""

    name: str
    images: list[U8]
    voice: I16
    """its own sound at 48 kHz, int16[N]"""

    @classmethod
    def read(cls, path: Path, most: int = 500) -> Film:
        """Of a film the first `most` pictures.

        Raises:
            MediaError: it cannot be read, has no sound, or is shorter than two seconds.
        """
        images = [np.ascontiguousarray(i) for i in at_rate(read_frames(path), PAPER_FPS)][:most]
        if len(images) < LEAST_FRAMES:
            raise MediaError(f"{path}: {len(images)} pictures, {LEAST_FRAMES} are needed")
        return cls(path.stem, images, read_speech(path, PLAYOUT_RATE_HZ))


@dataclass(frozen=True, slots=True)
class Spoken:
    """A film's second half as an engine showed it."""

    images: list[U8]
    outcomes: list[Outcome]


class CallMeasure:
    """Measures films that an engine has spoken.

    Raises:
        ConfigError: the network whose features are compared is not installed.
    """

    def __init__(self) -> None:
        self._features = MouthFeatures.pretrained()
        self._tracker = MeshTracker(still=False)
        self._known: tuple[Film, list[Alignment], F32] | None = None

    def measure(self, film: Film, own: Spoken, other: Spoken) -> Measured:
        """Figures of one way.

        Args:
            film: as it was taken.
            own: its second half with its own sound as the voice.
            other: the same with another voice.
        """
        half = len(film.images) // 2
        places, real_points = self._places(film)
        real_crops = [align(i, place) for i, place in zip(film.images, places, strict=True)]
        crops = [align(i, place) for i, place in zip(other.images, places[half:], strict=True)]
        points, own_points = (
            self._landmarks(shown.images, places[half:]) for shown in (other, own)
        )
        spoken = np.array([outcome in SPOKEN for outcome in other.outcomes])
        said = np.array([outcome in SPOKEN for outcome in own.outcomes])
        real_opening, opening = opening_px(real_points), opening_px(points)
        own_opening = np.where(said, opening_px(own_points), np.nan)
        own_real = np.where(said, real_opening[half:], np.nan)
        there = np.flatnonzero(spoken)
        real_second = real_crops[half:]
        wrong = lmd(own_points[said], real_points[half:][said])
        still = lmd(real_points[half : half + 1].repeat(said.sum(), 0), real_points[half:][said])
        change, change_p95 = _changes([crops[i] for i in there], there)
        real_change, real_p95 = _changes([real_second[i] for i in there], there)
        figures = Figures(
            realism=self._realism([crops[i] for i in there], there + half, real_crops),
            sharpness=_gradient([crops[i] for i in there])
            / _gradient([real_second[i] for i in there]),
            change=change / real_change,
            change_p95=change_p95 / real_p95,
            jerk=_jerk(opening[there]) / _jerk(real_opening),
            r=correlation(own_opening, own_real),
            lag=best_lag(own_opening, own_real),
            movement=float(np.nanstd(own_opening) / max(np.nanstd(own_real), 1e-6)),
            lmd=wrong / max(still, 1e-6),
            pasted=float(
                np.mean([other.outcomes[i] is Outcome.PASTED for i in there]) if len(there) else 0
            ),
        )
        least = np.percentile(real_opening, 5)
        spread = real_opening.std() + LEAST_SPREAD_PX
        shown, wanted = ((opening - least) / spread for opening in (own_opening, own_real))
        return Measured(figures, count_closures(shown, wanted))

    def second_half(self, film: Film, images: Sequence[U8]) -> list[U8]:
        """The stabilised crops of `images`, which show the film's second half."""
        places, _ = self._places(film)
        return [align(i, p) for i, p in zip(images, places[-len(images) :], strict=True)]

    def _places(self, film: Film) -> tuple[list[Alignment], F32]:
        """Where the crops of a film lie, and its landmarks in them; measured once a film."""
        if self._known is None or self._known[0] is not film:
            self._tracker.forget()
            marks: list[F32] = []
            for image in film.images:
                face = self._tracker.track(image)
                if face is None and not marks:
                    raise MediaError("no face is seen in the film's first picture")
                marks.append(marks[-1] if face is None else face.landmarks)
            places = [alignment_from(fit_similarity(m, CROP), CROP) for m in marks]
            points = [transform(m, p.matrix) / 2 for m, p in zip(marks, places, strict=True)]
            self._known = film, places, np.stack(points).astype(np.float32)
        return self._known[1], self._known[2]

    def _landmarks(self, images: Sequence[U8], places: Sequence[Alignment]) -> F32:
        """f32[T, 468, 2], pixels of the 128 px crop; NaN where no face is found."""
        points = np.full((len(images), 468, 2), np.nan, np.float32)
        self._tracker.forget()
        for index, (image, place) in enumerate(zip(images, places, strict=True)):
            if (face := self._tracker.track(image)) is not None:
                points[index] = transform(face.landmarks, place.matrix) / 2
        return points

    def _realism(self, found: Sequence[U8], times: np.ndarray, real: Sequence[U8]) -> float:  # type: ignore[type-arg]
        known = self._vectors(real)
        index = np.arange(len(real))

        def nearest(vectors: F32, times: np.ndarray) -> float:  # type: ignore[type-arg]
            distances = 6.0 - 2 * vectors @ known.T  # of unit vectors, at three scales
            distances[np.abs(times[:, None] - index[None]) < APART] = np.inf
            return float(distances.min(1).mean())

        return nearest(self._vectors(found), times) / nearest(known[times], times)

    def _vectors(self, crops: Sequence[U8]) -> F32:
        """Features whose dot products are mean cosines over places, summed over scales."""
        import cv2

        rows = []
        for begin in range(0, len(crops), 16):
            part = crops[begin : begin + 16]
            small = [cv2.resize(c, (128, 128), interpolation=cv2.INTER_AREA)[64:] for c in part]
            planes = torch.from_numpy(np.stack([to_planes(np.asarray(s, np.uint8)) for s in small]))
            with torch.no_grad():
                maps = self._features.features(planes)
            rows.append(
                torch.cat([m.flatten(1) / (m.shape[2] * m.shape[3]) ** 0.5 for m in maps], 1)
            )
        return np.asarray(torch.cat(rows).numpy(), np.float32)

    def close(self) -> None:
        """Free the tracker."""
        self._tracker.close()


def _changes(crops: Sequence[U8], times: np.ndarray) -> tuple[float, float]:  # type: ignore[type-arg]
    """Mean and 95th percentile of the difference between neighbours in the mouth, levels."""
    steps = [
        float(np.abs(a[MOUTH].astype(np.int16) - b[MOUTH]).mean())
        for a, b, gap in zip(crops, crops[1:], np.diff(times), strict=False)
        if gap == 1
    ]
    return (float(np.mean(steps)), float(np.percentile(steps, 95))) if steps else (np.nan, np.nan)


def _gradient(crops: Sequence[U8]) -> float:
    return float(
        np.mean([np.abs(np.diff(c[MOUTH].astype(np.int16), axis=1)).mean() for c in crops])
    )


def _jerk(opening: F32) -> float:
    return float(np.nanmean(np.abs(np.diff(opening, n=3)))) if len(opening) > 4 else float("nan")


def medians(rows: Sequence[Figures]) -> Figures:
    """Of each figure over films; NaN where a film has none is left out."""
    values = {name: [asdict(row)[name] for row in rows] for name in asdict(rows[0])}
    found = {name: float(np.nanmedian(column)) for name, column in values.items()}
    return replace(rows[0], **found)  # type: ignore[arg-type]
