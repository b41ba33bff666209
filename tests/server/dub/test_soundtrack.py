"""What is heard in a dubbed file: the new voice in its place, the original underneath."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from calls import loudness
from dubs import HEIGHT, WIDTH, dub
from fakes import voiced
from files import cut_file, portrait_frames, write_sound, write_video

from lipwire.engine.media.sound import read_speech


def test_the_sound_is_the_voice_in_its_place(clip: Path, tmp_path: Path) -> None:
    sound = np.concatenate([np.zeros(8000, np.int16), voiced(0.5)])
    speech = write_sound(tmp_path / "voice.wav", sound)
    dub(clip, speech, tmp_path / "out.mp4")
    heard = read_speech(tmp_path / "out.mp4")
    assert len(heard) == pytest.approx(16_000, abs=64)
    assert loudness(heard[:7500]) < 30
    match = np.correlate(heard.astype(float), sound[8000:12_000].astype(float), "valid")
    assert int(np.argmax(match)) == pytest.approx(8000, abs=80)  # 5 ms
    likeness = np.corrcoef(heard[8000:15_500], sound[8000:15_500])[0, 1]
    assert likeness > 0.95


def test_a_longer_voice_is_cut_at_the_videos_end(clip: Path, tmp_path: Path) -> None:
    for seconds in (1.5, 5.0):  # what was pushed ahead already, and more than that
        speech = write_sound(tmp_path / "voice.wav", voiced(seconds))
        summary = dub(clip, speech, tmp_path / "out.mp4")
        assert summary.warnings == ["speech: longer than the video, cut at 1.00 s"]
        assert (summary.video_s, summary.speech_s) == (1.0, 1.0)
        assert len(read_speech(tmp_path / "out.mp4")) == pytest.approx(16_000, abs=64)


def test_the_original_voice_stays_underneath(tmp_path: Path) -> None:
    tone = (8000 * np.sin(2 * np.pi * 440 * np.arange(24_000) / 48_000)).astype(np.int16)
    clip = write_video(
        tmp_path / "clip.mkv", portrait_frames(25, HEIGHT, WIDTH), sound=tone, sound_at_s=0.4
    )
    silent = write_sound(tmp_path / "silent.wav", np.zeros(1600, np.int16))
    assert dub(clip, silent, tmp_path / "mute.mp4").warnings == ["speech: is silent"]
    assert loudness(read_speech(tmp_path / "mute.mp4")) < 10
    dub(clip, silent, tmp_path / "out.mp4", original_level=0.5)
    heard = read_speech(tmp_path / "out.mp4")
    assert loudness(heard[: int(0.36 * 16_000)]) < 30
    assert loudness(heard[int(0.44 * 16_000) : int(0.86 * 16_000)]) == pytest.approx(2828, rel=0.1)


def test_no_original_voice_is_said(clip: Path, voice: Path, tmp_path: Path) -> None:
    summary = dub(clip, voice, tmp_path / "out.mp4", original_level=0.5)
    assert len(summary.warnings) == 1
    assert "has no audio stream" in summary.warnings[0]


def test_a_silent_voice_changes_nothing(clip: Path, tmp_path: Path) -> None:
    speech = write_sound(tmp_path / "voice.wav", np.zeros(16_000, np.int16))
    summary = dub(clip, speech, tmp_path / "out.mp4")
    assert summary.passed_through == {"silent": 25}
    assert summary.warnings == ["speech: is silent"]


@pytest.mark.parametrize(("rate_hz", "layout"), [(8_000, "mono"), (44_100, "stereo")])
def test_telephone_and_stereo_voices_are_understood(
    clip: Path, tmp_path: Path, rate_hz: int, layout: str
) -> None:
    speech = write_sound(tmp_path / "v.wav", voiced(1.0, rate_hz), rate_hz, layout=layout)
    assert dub(clip, speech, tmp_path / "out.mp4").generated > 20


def test_a_truncated_voice_speaks_as_far_as_it_goes(
    clip: Path, voice: Path, tmp_path: Path
) -> None:
    summary = dub(clip, cut_file(voice, 0.5), tmp_path / "out.mp4")
    assert summary.speech_s == pytest.approx(0.5, abs=0.01)
