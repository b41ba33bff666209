"""Films as a call shows them: figures of films whose figures are known."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from clips import portrait
from fakes import FakeBackend, FakeTracker, voiced
from files import write_sound, write_video

from lipwire.engine import Engine, MediaError
from lipwire.engine.media.files import probe_video
from lipwire.engine.types import U8, Outcome
from lipwire.training.evaluation.call import WAYS, measure_films, played, side_by_side, write_film
from lipwire.training.evaluation.call_measure import CallMeasure, Film, Spoken
from lipwire.training.nets.syncnet import make_expert

FRAMES = 56


@pytest.fixture(scope="module")
def film() -> Film:
    """The portrait, speaking as a child would draw it."""
    openings = 0.3 + 0.3 * np.sin(np.arange(FRAMES) * 0.7)
    grain = np.random.default_rng(0)
    images = [
        np.clip(portrait(float(o)) + grain.normal(0, 4, (256, 256, 3)), 0, 255).astype(np.uint8)
        for o in openings
    ]
    return Film("portrait", images, voiced(FRAMES / 25, 48_000))


def spoken(images: list[U8], outcome: Outcome = Outcome.PASTED) -> Spoken:
    return Spoken(images, [outcome] * len(images))


@pytest.fixture(scope="module")
def measure() -> CallMeasure:
    return CallMeasure()


def test_a_film_as_it_was_taken_is_real(film: Film, measure: CallMeasure) -> None:
    real = spoken(film.images[FRAMES // 2 :])
    found = measure.measure(film, real, real).figures
    assert found.realism == pytest.approx(1, abs=0.1)
    assert found.sharpness == pytest.approx(1, abs=0.02)
    assert found.change == pytest.approx(1, abs=0.02)
    assert (found.r, found.lag) == (pytest.approx(1, abs=0.02), 0)
    assert found.movement == pytest.approx(1, abs=0.05) and found.lmd == pytest.approx(0, abs=0.05)
    assert found.pasted == 1


def test_soft_mouths_are_found_out(film: Film, measure: CallMeasure) -> None:
    second = film.images[FRAMES // 2 :]
    soft = [np.asarray(cv2.GaussianBlur(image, (0, 0), 2.5), np.uint8) for image in second]
    found = measure.measure(film, spoken(second), spoken(soft, Outcome.GENERATED)).figures
    assert found.sharpness < 0.8 and found.realism > 1.1 and found.pasted == 0


def test_a_mouth_that_stands_still_moves_less(film: Film, measure: CallMeasure) -> None:
    second = film.images[FRAMES // 2 :]
    still = spoken([second[0]] * len(second))
    found = measure.measure(film, still, still).figures
    assert found.change < 0.8 and found.jerk < 0.3 and found.movement < 0.4


def test_the_second_half_speaks_and_the_first_is_listened_to(film: Film) -> None:
    engine = Engine(FakeBackend(), FakeTracker)
    found = played(engine, film, "live", voiced(1.2, 48_000))
    engine.close()
    assert len(found.images) == FRAMES // 2
    assert Outcome.GENERATED in found.outcomes
    assert len(side_by_side(film, {"live": found})) == FRAMES // 2


def test_closures_of_a_film_are_all_shown_by_itself_and_none_by_a_still_mouth(
    film: Film, measure: CallMeasure
) -> None:
    second = film.images[FRAMES // 2 :]
    real, still = spoken(second), spoken([second[0]] * len(second))
    there, shown, said, right = measure.measure(film, real, real).closures
    assert there > 0 and there == shown == said == right
    none = measure.measure(film, still, real).closures
    assert none.there == there and none.said == 0


def test_a_film_is_measured_every_way_and_judged_by_an_expert(film: Film, tmp_path: Path) -> None:
    path = tmp_path / "portrait.mp4"
    write_film(path, film.images, film.voice)
    expert, voice = make_expert("small").eval(), voiced(1.2, 48_000)
    with Engine(FakeBackend(), FakeTracker) as engine:
        report = measure_films(engine, [path], voice, expert=expert)
    names = [name for way in ("real", *WAYS) for name in (way, f"{way}, VOICE")]
    assert list(report["in_step"]) == list(report["each"]["portrait"]["in_step"]) == names
    assert 0 < report["in_step"]["real"]["likely"][0] < 1
    assert set(report["closures"]) == set(report["median"]) == set(WAYS)
    assert report["closures"]["live"]["of_closures"] > 0
    assert report["each"]["portrait"]["live"]["closures"]["there"] > 0


def test_what_cannot_be_measured_is_named(tmp_path: Path) -> None:
    blank = [np.full((120, 160, 3), 90, np.uint8)] * 10
    short = write_video(tmp_path / "short.mp4", blank)
    engine = Engine(FakeBackend(), FakeTracker)
    told: list[str] = []
    with pytest.raises(MediaError, match="none of 1 films"):
        measure_films(engine, [short], voiced(1.0, 48_000), told=told.append)
    engine.close()
    assert "50 are needed" in told[0]


def test_films_are_written_with_their_sound(tmp_path: Path) -> None:
    write_sound(tmp_path / "voice.wav", voiced(1.0))
    images = [np.full((64, 97, 3), i, np.uint8) for i in range(25)]
    write_film(tmp_path / "films" / "one.mp4", images, voiced(1.0, 48_000))
    info = probe_video(tmp_path / "films" / "one.mp4")
    assert (info.width, info.height) == (96, 64)
