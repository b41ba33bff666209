"""Files that we write say that they are synthetic: in the picture, and in signed metadata."""

from __future__ import annotations

import logging
import stat
from datetime import UTC, datetime
from pathlib import Path

import av
import numpy as np
import pytest
from cryptography import x509
from fakes import FakeBackend, FakeTracker, voiced
from files import portrait_frames, write_sound, write_video

import lipwire.server.dub.dub
import lipwire.server.media.provenance
from lipwire.engine import Engine
from lipwire.engine.errors import ConfigError, MediaError
from lipwire.engine.types import U8
from lipwire.server.dub.dub import dub
from lipwire.server.media.provenance import (
    Credentials,
    default_folder,
    open_credentials,
    read_credentials,
)
from lipwire.server.media.watermark import Watermark


@pytest.fixture
def inputs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path, Path]:
    """A clip, a voice and a place, with a model that needs no time."""
    monkeypatch.setattr(
        lipwire.server.dub.dub, "open_engine", lambda *_, **__: Engine(FakeBackend(), FakeTracker)
    )
    clip = write_video(tmp_path / "clip.mp4", portrait_frames(10, 240, 320))
    return clip, write_sound(tmp_path / "voice.wav", voiced(0.5)), tmp_path / "out.mp4"


def first_picture(path: Path) -> U8:
    with av.open(str(path)) as container:
        frame = next(container.decode(video=0))
        return np.asarray(frame.to_ndarray(format="rgb24"))


def codes(path: Path) -> set[str]:
    results = read_credentials(path)["validation_results"]["activeManifest"]
    return {entry["code"] for kind in ("success", "failure") for entry in results.get(kind, [])}


def test_a_dubbed_file_is_marked_and_signed(inputs: tuple[Path, Path, Path]) -> None:
    clip, voice, out = inputs
    summary = dub(clip, voice, out)
    assert summary.warnings == []
    change = np.abs(first_picture(out).astype(int) - first_picture(clip)).mean(2)
    assert change[4:22, 240:315].mean() > 30  # the words, top right
    assert change[:40, :160].mean() < 4

    store = read_credentials(out)
    manifest = store["manifests"][store["active_manifest"]]
    assert manifest["title"] == "out.mp4"
    (action,) = next(a for a in manifest["assertions"] if "actions" in a["label"])["data"][
        "actions"
    ]
    assert action["digitalSourceType"].endswith("/compositeWithTrainedAlgorithmicMedia")
    assert summary.model in action["description"]
    assert {"claimSignature.validated", "assertion.bmffHash.match"} <= codes(out)
    (problem,) = store["validation_status"]  # it is nobody's certificate but ours
    assert problem["code"] == "signingCredential.untrusted"


def test_a_file_that_was_changed_is_found_out(inputs: tuple[Path, Path, Path]) -> None:
    clip, voice, out = inputs
    dub(clip, voice, out)
    data = bytearray(out.read_bytes())
    data[data.index(b"mdat") + 600] ^= 1
    out.write_bytes(data)
    assert "assertion.bmffHash.mismatch" in codes(out)


def test_both_are_left_out_only_when_asked_and_that_is_logged(
    inputs: tuple[Path, Path, Path], caplog: pytest.LogCaptureFixture
) -> None:
    clip, voice, out = inputs
    with caplog.at_level(logging.WARNING):
        dub(clip, voice, out, mark=None, credentials=False)
    assert "without mark and Content Credentials" in caplog.text
    assert np.abs(first_picture(out).astype(int) - first_picture(clip))[:40].mean() < 4
    with pytest.raises(MediaError, match="no Content Credentials"):
        read_credentials(out)


def test_another_text_and_place(inputs: tuple[Path, Path, Path]) -> None:
    clip, voice, out = inputs
    dub(clip, voice, out, mark=Watermark("KI", "bottom-left"))
    change = np.abs(first_picture(out).astype(int) - first_picture(clip)).mean(2)
    assert change[215:236, 5:25].mean() > 20 > change[:30].mean()


def test_what_is_finished_is_kept_even_unsigned(
    inputs: tuple[Path, Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = Credentials("not a chain", "not a key")
    monkeypatch.setattr(lipwire.server.dub.dub, "open_credentials", lambda: broken)
    clip, voice, out = inputs
    summary = dub(clip, voice, out)
    (warning,) = summary.warnings
    assert "Content Credentials cannot be added" in warning and "\n" not in warning
    assert summary.frames == 10 and first_picture(out).shape == (240, 320, 3)
    assert sorted(p.name for p in out.parent.iterdir()) == ["clip.mp4", "out.mp4", "voice.wav"]


def test_the_chain_is_made_once_and_its_key_is_for_its_user_alone(tmp_path: Path) -> None:
    folder = tmp_path / "a" / "b"
    made = open_credentials(folder)
    assert open_credentials(folder) == made
    assert stat.S_IMODE((folder / "key.pem").stat().st_mode) == 0o600
    lower, upper = x509.load_pem_x509_certificates(made.chain.encode())
    lower.verify_directly_issued_by(upper)
    assert lower.not_valid_after_utc > datetime.now(UTC) + lipwire.server.media.provenance.RENEW


def test_a_chain_that_is_about_to_end_is_renewed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        lipwire.server.media.provenance, "LIFE", lipwire.server.media.provenance.RENEW / 2
    )
    made = open_credentials(tmp_path)
    monkeypatch.undo()
    assert open_credentials(tmp_path).chain != made.chain


def test_a_place_that_cannot_hold_it_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(ConfigError, match="LIPWIRE_HOME, or go without"):
        open_credentials(tmp_path / "file")
    (tmp_path / "chain.pem").write_text("nonsense")
    (tmp_path / "key.pem").write_text("nonsense")
    with pytest.raises(ConfigError, match="cannot be kept here"):
        open_credentials(tmp_path)


def test_where_the_chain_lies(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("LIPWIRE_HOME", str(tmp_path))
    assert default_folder() == tmp_path / "content-credentials"
    monkeypatch.delenv("LIPWIRE_HOME")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    assert default_folder() == tmp_path / "lipwire" / "content-credentials"
