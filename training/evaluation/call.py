"""Films as a call shows them: the first half is the past, the second half speaks a new voice.

    lipwire evaluate call FILM.. --voice VOICE [--films DIR] [--json FILE]

Three ways are compared, each by the whole engine, at the frame's own resolution, with heard codes:
    generated   every mouth by the network, as where nothing is known of the person
    live        mouths from the past alone: all of the film up to the present picture
    film        the whole film was seen before, as `dub` does it
Figures of the second half, against the film's own:
    realism     distance of a mouth to the nearest real mouth of another moment of the film, in
                features that ImageNet taught, over the same of its real mouths; 1: no telling apart
    sharpness   horizontal gradient in the mouth, of the real one's
    change      difference from one picture to the next in the mouth, mean and 95th percentile
    jerk        mean third difference of the opening
    r, lag      correlation of the opening with the person's, who said the same: with the film's own
                sound as the voice (all other figures are those of VOICE), and the lag where it is
                highest, frames
    movement    spread of the opening, of the person's, with the film's own sound
    lmd         distance of the lips' landmarks from the person's, who said the same, of what the
                first picture's own mouth has (Chen et al., 2018, sec. 4.2)
    pasted      share of spoken pictures that show the person's own mouth
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from lipwire.engine.audio.mel import PAPER_FPS
from lipwire.engine.config import EngineConfig
from lipwire.engine.errors import MediaError
from lipwire.engine.face.alignment import align, alignment_from, fit_similarity, transform
from lipwire.engine.face.articulation import opening_px
from lipwire.engine.face.tracker import MeshTracker
from lipwire.engine.media.files import at_rate, read_frames
from lipwire.engine.media.sound import read_speech
from lipwire.engine.runtime.engine import Engine
from lipwire.engine.types import F32, I16, PLAYOUT_RATE_HZ, U8, Alignment, Outcome, VideoFrame
from lipwire.training.data.dataset import to_planes
from lipwire.training.evaluation.measures import best_lag, correlation, lmd
from lipwire.training.nets.imagenet import MouthFeatures

Way = Literal["generated", "live", "film"]
WAYS: tuple[Way, ...] = ("generated", "live", "film")
CROP = 256  # at which mouths are compared; the features take half of it
APART = round(0.4 * PAPER_FPS)  # frames: nearer ones show the same mouth
LEAST_FRAMES = 50
MOUTH = slice(148, 218), slice(60, 196)  # of the crop: lips, teeth and the skin around them
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


def played(engine: Engine, film: Film, way: Way, voice: I16) -> Spoken:
    """The film's second half, spoken by a voice: pictures and what became of each.

    Args:
        engine: of the model.
        film: whose first half is silent.
        way: what is known of the person.
        voice: int16[N] at 48 kHz, from the second half's beginning on.
    """
    half = len(film.images) // 2
    silence = np.zeros(half * PLAYOUT_RATE_HZ // PAPER_FPS, np.int16)
    config = EngineConfig(offline=True, delay_s=0.0, own_mouths=way != "generated")
    session = engine.session(config)
    frames = [VideoFrame(image, i, Fraction(1, PAPER_FPS)) for i, image in enumerate(film.images)]
    try:
        if way == "film":
            for frame in frames:
                session.learn(frame)
            session.learned()
        session.push_speech(np.concatenate([silence, voice]), PLAYOUT_RATE_HZ, 0.0)
        session.flush_speech()
        shown: list[U8] = []
        outcomes: list[Outcome] = []
        for frame in frames:
            session.push_video(frame, frame.time_s)
            engine.work([session], frame.time_s)
            out = session.pop_video(frame.time_s)
            assert out is not None  # off-line, what was worked on is ready
            shown.append(out.image)
            outcomes.append(out.outcome)
        return Spoken(shown[half:], outcomes[half:])
    finally:
        engine.end(session)


class CallMeasure:
    """Measures films that an engine has spoken.

    Raises:
        ConfigError: the network whose features are compared is not installed.
    """

    def __init__(self) -> None:
        self._features = MouthFeatures.pretrained()
        self._tracker = MeshTracker(still=False)
        self._known: tuple[Film, list[Alignment], F32] | None = None

    def measure(self, film: Film, own: Spoken, other: Spoken) -> Figures:
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
        return Figures(
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


def measure_films(
    engine: Engine,
    films: Sequence[Path],
    voice: I16,
    *,
    folder: Path | None = None,
    told: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """Figures of every way, the medians over films and each film's own.

    Args:
        engine: of the model.
        films: those without a face in their first picture are left out and named.
        voice: int16[N] at 48 kHz, another's.
        folder: for films that show all ways beside each other, with that voice.
        told: hears of each film.

    Raises:
        ConfigError: the features are not installed.
        MediaError: no film could be measured.
    """
    measure = CallMeasure()
    rows: dict[str, dict[str, Any]] = {}
    left_out: dict[str, str] = {}
    try:
        for path in films:
            try:
                film = Film.read(path)
                half_s = len(film.images) // 2 / PAPER_FPS
                own = film.voice[round(half_s * PLAYOUT_RATE_HZ) :]
                found: dict[Way, Spoken] = {}
                figures: dict[str, Figures] = {}
                for way in WAYS:
                    found[way] = played(engine, film, way, voice)
                    figures[way] = measure.measure(film, played(engine, film, way, own), found[way])
            except MediaError as error:
                left_out[path.name] = str(error)
                told(f"{path.name}: left out, {error}")
                continue
            rows[film.name] = {way: asdict(row) for way, row in figures.items()}
            for name, row in figures.items():
                told(f"{film.name[:32]:32} {name:9} {_line(row)}")
            if folder is not None:
                write_film(folder / f"{film.name}.mp4", side_by_side(film, found), voice)
    finally:
        measure.close()
    if not rows:
        raise MediaError(f"none of {len(films)} films could be measured")
    every = {way: [Figures(**row[way]) for row in rows.values()] for way in WAYS}
    middle = {way: medians(figures) for way, figures in every.items()}
    for way, row in middle.items():
        told(f"{'median':32} {way:9} {_line(row)}")
    return {
        "films": len(rows),
        "median": {way: asdict(row) for way, row in middle.items()},
        "each": rows,
        "left_out": left_out,
    }


def _line(row: Figures) -> str:
    return "  ".join(f"{name} {value:.2f}" for name, value in asdict(row).items())


def write_film(path: Path, images: Sequence[U8], sound: I16) -> None:
    """An MP4 of pictures, 25 a second, and sound at 48 kHz."""
    import av

    path.parent.mkdir(parents=True, exist_ok=True)
    height, width = (side // 2 * 2 for side in images[0].shape[:2])
    with av.open(str(path), "w") as file:
        video = file.add_stream("libx264", rate=PAPER_FPS, options={"crf": "14"})
        video.width, video.height, video.pix_fmt = width, height, "yuv420p"
        audio = file.add_stream("aac", rate=PLAYOUT_RATE_HZ, layout="mono")
        for image in images:
            picture = np.ascontiguousarray(image[:height, :width])
            file.mux(video.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        file.mux(video.encode())
        heard = sound[: len(images) * PLAYOUT_RATE_HZ // PAPER_FPS]
        block = av.AudioFrame.from_ndarray(heard[None], format="s16", layout="mono")
        block.rate = PLAYOUT_RATE_HZ
        file.mux(audio.encode(block))
        file.mux(audio.encode())


def side_by_side(film: Film, ways: dict[Way, Spoken]) -> list[U8]:
    """The second half: as it was taken, then each way, beside each other."""
    half = len(film.images) // 2
    columns = [film.images[half:], *(spoken.images for spoken in ways.values())]
    return [np.hstack(pictures) for pictures in zip(*columns, strict=True)]


def medians(rows: Sequence[Figures]) -> Figures:
    """Of each figure over films; NaN where a film has none is left out."""
    values = {name: [asdict(row)[name] for row in rows] for name in asdict(rows[0])}
    found = {name: float(np.nanmedian(column)) for name, column in values.items()}
    return replace(rows[0], **found)  # type: ignore[arg-type]
