"""`lipwire enroll`, `lipwire bank` and `lipwire dub --bank`: as people type them."""

from __future__ import annotations

from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fakes import FakeBackend, make_manifest, voiced
from files import write_sound, write_video
from mouths import CENTRE, STATS, TALK, Listener, MouthTracker, enrolled, mouth, speaking
from typer.testing import CliRunner

import lipwire.server.dub.dub
import lipwire.server.dub.enroll
from lipwire.cli.main import app
from lipwire.engine import Engine, read_bank, write_bank
from lipwire.engine.types import U8, Face
from lipwire.server import __version__

KEY = "a passphrase of some length"
WORDS = "My calls may begin with these mouths."


class FilmTracker(MouthTracker):
    """Implements `lipwire.engine.face.tracker.FaceTracker`: says `TALK`, frame by frame."""

    def __init__(self) -> None:
        super().__init__()
        self._frames = count()

    def track(self, image: U8) -> Face | None:
        """It is always there."""
        return Face(mouth(TALK[next(self._frames) % len(TALK)]), 1.0)


@pytest.fixture(autouse=True)
def fake_model(monkeypatch: pytest.MonkeyPatch) -> None:
    def opened(bundle: object, **options: object) -> Engine:
        backend = FakeBackend()
        codes = {"mean": list(STATS.mean), "spread": list(STATS.spread)}
        backend.manifest = make_manifest(reach_px=5.0, codes=codes)
        return Engine(backend, FilmTracker, articulation=None if bundle else Listener())

    for module in (lipwire.server.dub.dub, lipwire.server.dub.enroll):
        monkeypatch.setattr(module, "open_engine", opened)
    monkeypatch.delenv("LIPWIRE_BANK_KEY", raising=False)


@pytest.fixture
def film(tmp_path: Path) -> Path:
    return write_video(tmp_path / "film.mp4", [speaking(opening) for opening in TALK])


def run(*arguments: object) -> Any:
    return CliRunner().invoke(app, [str(a) for a in arguments])


@pytest.mark.parametrize("key", [None, KEY])
def test_a_film_becomes_a_file_that_says_who_agreed_to_what(
    film: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: str | None
) -> None:
    if key:
        monkeypatch.setenv("LIPWIRE_BANK_KEY", key)
    out = tmp_path / "Eileen.bank"
    made = run("enroll", film, "-o", out, "--consent", WORDS)
    assert made.exit_code == 0, made.output
    assert ("not encrypted" in made.stdout) is (key is None)
    assert out.stat().st_mode & 0o777 == 0o600
    assert {path.name for path in tmp_path.iterdir()} == {"film.mp4", "Eileen.bank"}
    bank = read_bank(out.read_bytes(), key)
    assert len(bank.units) == len(TALK)
    shown = run("bank", "show", out)
    assert shown.exit_code == 0
    for said in ("Eileen", WORDS, bank.consent.date, f"lipwire {__version__}", str(len(TALK))):
        assert said in shown.stdout
    if key:
        for wrong, cause in ((KEY + "!", "another key"), ("short", "16 characters")):
            monkeypatch.setenv("LIPWIRE_BANK_KEY", wrong)
            refused = run("bank", "show", out)
            assert refused.exit_code == 2 and cause in refused.stderr
        monkeypatch.delenv("LIPWIRE_BANK_KEY")
        assert "LIPWIRE_BANK_KEY" in run("bank", "show", out).stderr
    assert run("bank", "delete", out).exit_code == 0  # for which no key is needed
    assert not out.exists()


def test_what_cannot_be_done_is_one_line_and_code_2(film: Path, tmp_path: Path) -> None:
    bank, still = tmp_path / "a.bank", write_video(tmp_path / "s.mp4", [speaking(0.0)] * 8)
    bank.write_bytes(write_bank(enrolled())[:-9])
    for arguments, cause in (
        (("enroll", film, "-o", bank, "--consent", " "), "consent: say"),
        (("enroll", still, "-o", bank, "--consent", WORDS), "too few"),
        (("enroll", film, "-o", bank, "--consent", WORDS, "--bundle", "wav2lip"), "no use for"),
        (("enroll", film, "-o", tmp_path / "no/a.bank", "--consent", WORDS), "cannot be written"),
        (("bank", "show", bank), "truncated"),
        (("bank", "show", tmp_path / "none.bank"), "cannot be read"),
        (("bank", "delete", film), "left alone"),
        (("dub", film, film, "-o", tmp_path / "o.mp4", "--bank", bank), "truncated"),
    ):
        result = run(*arguments)
        assert result.exit_code == 2 and cause in result.stderr, (arguments, result.output)
        assert result.stderr.count("\n") == 1
    assert film.exists()


@pytest.mark.parametrize("own", [True, False])
def test_dub_takes_a_bank_and_says_when_it_is_another_s(tmp_path: Path, own: bool) -> None:
    images = [np.array(speaking(0.0)) for _ in range(60)]
    x, y = (round(v) for v in CENTRE)
    for image in images if not own else []:
        image[y - 34 : y - 14, x - 46 : x + 46] = 20  # dark glasses
    film = write_video(tmp_path / "film.mp4", images)
    voice, bank = write_sound(tmp_path / "voice.wav", voiced(1.0)), tmp_path / "a.bank"
    bank.write_bytes(write_bank(enrolled()))
    out = tmp_path / "out.mp4"
    made = run("dub", film, voice, "-o", out, "--no-credentials", "--bank", bank)
    assert made.exit_code == 0, made.output
    assert ("note     bank: not used" in made.stdout) is not own
    assert out.exists()
