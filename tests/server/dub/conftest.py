from __future__ import annotations

from pathlib import Path

import pytest
from dubs import HEIGHT, WIDTH
from fakes import FakeBackend, FakeTracker, voiced
from files import portrait_frames, write_sound, write_video

import lipwire.server.dub.dub
import lipwire.server.media.mp4
from lipwire.engine import Engine


@pytest.fixture
def backend() -> FakeBackend:
    return FakeBackend()


@pytest.fixture(autouse=True)
def fake_model(backend: FakeBackend, monkeypatch: pytest.MonkeyPatch) -> None:
    """A flat red mouth on a face that is always there."""

    def opened(bundle: object, **options: object) -> Engine:
        return Engine(backend, FakeTracker)

    monkeypatch.setattr(lipwire.server.dub.dub, "open_engine", opened)
    monkeypatch.setattr(
        lipwire.server.media.mp4, "CRF", 1
    )  # so that what changed can be told from codec noise


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    """One second of the portrait."""
    return write_video(tmp_path / "clip.mp4", portrait_frames(25, HEIGHT, WIDTH))


@pytest.fixture
def voice(tmp_path: Path) -> Path:
    """One second of speech."""
    return write_sound(tmp_path / "voice.wav", voiced(1.0))
