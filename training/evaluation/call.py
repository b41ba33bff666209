"""Films as a call shows them: the first half is the past, the second half speaks a new voice.

    lipwire evaluate call FILM.. --voice VOICE [--expert CHECKPOINT] [--films DIR] [--json FILE]

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
Of all films together, with the film's own sound as the voice:
    closures    share of the lips' closures within speech that are shown within a frame
    false       share of the closures shown that were none
With a sync expert of `train syncnet`, see `lipwire.training.evaluation.in_step`, also of the real
film, and with VOICE, which the real film does not speak:
    confidence, lag, distance, likely
Intervals are 95 % by drawing films again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal

import numpy as np

from lipwire.engine.audio.mel import PAPER_FPS
from lipwire.engine.config import EngineConfig
from lipwire.engine.errors import MediaError
from lipwire.engine.media.sound import as_float
from lipwire.engine.runtime.engine import Engine
from lipwire.engine.types import I16, PLAYOUT_RATE_HZ, SPEECH_RATE_HZ, U8, Outcome, VideoFrame
from lipwire.training.evaluation.call_measure import (
    CallMeasure,
    Figures,
    Film,
    Measured,
    Spoken,
    medians,
)
from lipwire.training.evaluation.closures import shares
from lipwire.training.evaluation.in_step import Pairs, over_films, pairs_of, verdict
from lipwire.training.nets.syncnet import SyncExpert

Way = Literal["generated", "live", "film"]
WAYS: tuple[Way, ...] = ("generated", "live", "film")


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


def measure_films(
    engine: Engine,
    films: Sequence[Path],
    voice: I16,
    *,
    expert: SyncExpert | None = None,
    folder: Path | None = None,
    told: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """Figures of every way, the medians over films and each film's own.

    Args:
        engine: of the model.
        films: those without a face in their first picture are left out and named.
        voice: int16[N] at 48 kHz, another's.
        expert: whether mouths are in step is asked of it.
        folder: for films that show all ways beside each other, with that voice.
        told: hears of each film.

    Raises:
        ConfigError: the features are not installed.
        MediaError: no film could be measured.
    """
    measure = CallMeasure()
    rows: dict[str, dict[str, Any]] = {}
    every: dict[Way, list[Measured]] = {way: [] for way in WAYS}
    judged: list[dict[str, Pairs]] = []
    left_out: dict[str, str] = {}
    try:
        for path in films:
            try:
                film = Film.read(path)
                half = len(film.images) // 2
                own = film.voice[round(half / PAPER_FPS * PLAYOUT_RATE_HZ) :]
                found: dict[Way, Spoken] = {}
                measured: dict[Way, Measured] = {}
                pairs: dict[str, Pairs] = {}
                if expert is not None:
                    real = measure.second_half(film, film.images[half:])
                    pairs = judge(expert, "real", real, real, own, voice)
                for way in WAYS:
                    found[way] = played(engine, film, way, voice)
                    said = played(engine, film, way, own)
                    measured[way] = measure.measure(film, said, found[way])
                    if expert is not None:
                        same, other = (
                            measure.second_half(film, shown.images) for shown in (said, found[way])
                        )
                        pairs |= judge(expert, way, same, other, own, voice)
            except MediaError as error:
                left_out[path.name] = str(error)
                told(f"{path.name}: left out, {error}")
                continue
            for way, of in measured.items():
                every[way].append(of)
                told(f"{film.name[:32]:32} {way:9} {_line(of.figures)}")
            rows[film.name] = {
                way: {**asdict(of.figures), "closures": of.closures._asdict()}
                for way, of in measured.items()
            }
            judged.append(pairs)
            if pairs:
                told_of = {name: verdict(of)._asdict() for name, of in pairs.items()}
                rows[film.name]["in_step"] = told_of
            if folder is not None:
                write_film(folder / f"{film.name}.mp4", side_by_side(film, found), voice)
    finally:
        measure.close()
    if not rows:
        raise MediaError(f"none of {len(films)} films could be measured")
    names = list(rows)
    middle = {way: medians([of.figures for of in found]) for way, found in every.items()}
    closed = {way: shares([of.closures for of in found], names) for way, found in every.items()}
    report: dict[str, Any] = {
        "films": len(rows),
        "median": {way: asdict(row) for way, row in middle.items()},
        "closures": closed,
        "each": rows,
        "left_out": left_out,
    }
    for way, row in middle.items():
        told(f"{'median':32} {way:9} {_line(row)}")
    for way, share in closed.items():
        told(
            f"{'closures':32} {way:9} {share['closures'][0]} of {share['of_closures']} shown, "
            f"{share['false'][0]} of {share['of_shown']} false"
        )
    if expert is not None:
        report["in_step"] = over_films(judged)
        for name, verdicts in report["in_step"].items():
            told(f"{'in step':32} {name}: {verdicts}")
    return report


def judge(
    expert: SyncExpert, name: str, said: Sequence[U8], other: Sequence[U8], own: I16, voice: I16
) -> dict[str, Pairs]:
    """What an expert says of a film's own words and of another's, named `name` and `name, VOICE`.

    Args:
        expert: in evaluation mode.
        name: of the way.
        said: crops with the film's own sound as the voice.
        other: crops with the other voice.
        own: int16[N] at 48 kHz.
        voice: likewise.
    """
    import soxr

    heard = (
        soxr.resample(as_float(sound), PLAYOUT_RATE_HZ, SPEECH_RATE_HZ) for sound in (own, voice)
    )
    labels, crops = (name, f"{name}, VOICE"), (said, other)
    return {
        label: pairs_of(expert, shown, sound)
        for label, shown, sound in zip(labels, crops, heard, strict=True)
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
