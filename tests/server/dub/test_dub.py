"""lipwire.server.dub.dub: files in, a file out; the broken passes through or is refused, never half
done."""

from __future__ import annotations

import itertools
import os
import threading
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from calls import loudness
from dubs import HEIGHT, WIDTH, difference, dub, images
from fakes import FakeBackend, voiced
from files import cut_file, portrait_frames, turn_mp4, write_sound, write_video

import lipwire.server.dub.dub
from lipwire.engine import BundleError, ConfigError, Engine, LipwireError, MediaError, open_engine
from lipwire.engine.media.files import probe_video, read_frames
from lipwire.engine.media.sound import read_speech
from lipwire.server.media.mp4 import Mp4Writer

# --- what comes out ---


def test_the_file_is_what_it_should_be(clip: Path, voice: Path, tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    out = tmp_path / "out.mp4"
    summary = dub(clip, voice, out, progress=lambda *now: told.append(now))
    assert (summary.frames, summary.generated, summary.passed_through) == (25, 25, {})
    assert (summary.video_s, summary.speech_s, summary.fps) == (1.0, 1.0, 25.0)
    assert (summary.width, summary.height, summary.steps) == (WIDTH, HEIGHT, 2)
    assert (summary.output, summary.model, summary.warnings) == (str(out), "fake 1", [])
    assert summary.real_time_factor == pytest.approx(summary.elapsed_s / 1.0, abs=1e-3)
    assert told == [(i, 25) for i in range(1, 26)]
    with av.open(str(out)) as container:
        video, audio = container.streams.video[0], container.streams.audio[0]
        assert (video.codec_context.name, audio.codec_context.name) == ("h264", "aac")
        assert (video.pix_fmt, audio.rate, audio.layout.name) == ("yuv420p", 48_000, "mono")
        assert (video.average_rate, video.frames) == (25, 25)
        assert float(video.duration * video.time_base) == 1.0
        assert float(audio.duration * audio.time_base) == pytest.approx(1.0, abs=1e-3)
        assert "AI-generated" in container.metadata["comment"]
    assert {path.name for path in tmp_path.iterdir()} == {"clip.mp4", "voice.wav", "out.mp4"}
    assert os.stat(out).st_mode & 0o777 == os.stat(clip).st_mode & 0o777


def test_only_the_mouth_changes(clip: Path, voice: Path, tmp_path: Path) -> None:
    dub(clip, voice, tmp_path / "out.mp4")
    changed = difference(images(tmp_path / "out.mp4")[4:], images(clip)[4:])
    middle = changed[HEIGHT * 11 // 20 : HEIGHT * 13 // 20, WIDTH * 9 // 20 : WIDTH * 11 // 20]
    assert middle.mean() > 20
    assert changed[: HEIGHT * 9 // 20].mean() < 1.8  # codec noise
    assert changed[:, : WIDTH // 4].mean() < 1.8


def test_before_and_after_the_voice_the_mouth_is_the_original(tmp_path: Path) -> None:
    clip = write_video(tmp_path / "clip.mp4", portrait_frames(50, HEIGHT, WIDTH))
    sound = np.concatenate([np.zeros(8000, np.int16), voiced(0.5)])
    speech = write_sound(tmp_path / "voice.wav", sound)
    summary = dub(clip, speech, tmp_path / "out.mp4")
    assert summary.speech_s == 1.0
    assert summary.passed_through.keys() == {"silent"}
    assert 12 < summary.generated < 35
    before, after = images(clip), images(tmp_path / "out.mp4")
    for quiet in (slice(0, 8), slice(42, 50)):
        assert difference(after[quiet], before[quiet]).max() < 11
    assert difference(after[16:24], before[16:24]).max() > 40
    assert loudness(read_speech(tmp_path / "out.mp4")[16_500:]) < 30


def test_a_generated_mouth_may_stay_in_silence(clip: Path, tmp_path: Path) -> None:
    speech = write_sound(tmp_path / "voice.wav", voiced(0.2))
    assert dub(clip, speech, tmp_path / "out.mp4", silence="generate").generated == 25


def test_variable_frame_rate_keeps_its_times(voice: Path, tmp_path: Path) -> None:
    times = [0, 40, 55, 200, 230, *range(3000, 3400, 40)]
    clip = write_video(
        tmp_path / "clip.mkv",
        portrait_frames(15, HEIGHT, WIDTH),
        times=[t + 700 for t in times],  # and it does not begin at 0
        time_base=Fraction(1, 1000),
    )
    summary = dub(clip, voice, tmp_path / "out.mp4")
    found = [round(1000 * frame.time_s) for frame in read_frames(tmp_path / "out.mp4")]
    assert found == times
    assert 5 <= summary.passed_through["silent"] <= 10
    heard = read_speech(tmp_path / "out.mp4")
    assert len(heard) / 16_000 == pytest.approx(summary.video_s, abs=0.022)  # an AAC frame
    assert loudness(heard[:15_000]) > 1000 > 30 > loudness(heard[20_000:])


def test_a_turned_video_comes_out_upright(clip: Path, voice: Path, tmp_path: Path) -> None:
    turn_mp4(clip, 90)
    summary = dub(clip, voice, tmp_path / "out.mp4")
    info = probe_video(tmp_path / "out.mp4")
    assert (info.width, info.height, info.orientation.as_is) == (HEIGHT, WIDTH, True)
    assert (summary.width, summary.height) == (HEIGHT, WIDTH)
    top = slice(0, WIDTH * 9 // 20)
    assert difference(images(tmp_path / "out.mp4"), images(clip))[top].mean() < 1.8


@pytest.mark.parametrize("matrix", [1, 6])
def test_colours_and_pixel_shape_survive(matrix: int, voice: Path, tmp_path: Path) -> None:
    tags = {"colorspace": matrix, "color_range": 2, "sample_aspect_ratio": Fraction(4, 3)}
    red = [np.full((HEIGHT, WIDTH, 3), (200, 60, 30), np.uint8)] * 5
    clip = write_video(tmp_path / "clip.mp4", red, tags=tags)
    silent = write_sound(tmp_path / "silent.wav", np.zeros(1600, np.int16))
    dub(clip, silent, tmp_path / "out.mp4")
    info = probe_video(tmp_path / "out.mp4")
    assert (info.colour.matrix, info.pixel_aspect) == (matrix, Fraction(4, 3))
    assert difference(images(tmp_path / "out.mp4"), red).max() < 4


def test_odd_sides_grow_by_one_pixel(voice: Path, tmp_path: Path) -> None:
    frames = portrait_frames(5, 121, 161)
    clip = write_video(tmp_path / "clip.mkv", frames, codec="ffv1")
    summary = dub(clip, voice, tmp_path / "out.mp4")
    assert (summary.width, summary.height) == (162, 122)
    found = [image[:121, :161] for image in images(tmp_path / "out.mp4")]
    assert difference(found, images(clip))[:50].mean() < 1.8


# --- what is unsuitable or broken passes through ---


@pytest.mark.parametrize("shape", [(16, 16), (64, 4200)])
def test_too_small_and_too_large_pictures_pass_through(
    shape: tuple[int, int], voice: Path, tmp_path: Path
) -> None:
    clip = write_video(tmp_path / "clip.mp4", portrait_frames(5, *shape))
    summary = dub(clip, voice, tmp_path / "out.mp4")
    assert (summary.generated, summary.passed_through) == (0, {"unsuitable": 5})
    assert difference(images(tmp_path / "out.mp4"), images(clip)).mean() < 3


def test_a_model_that_fails_leaves_the_original(
    clip: Path, voice: Path, tmp_path: Path, backend: FakeBackend
) -> None:
    backend.error = RuntimeError("boom")
    summary = dub(clip, voice, tmp_path / "out.mp4")
    assert summary.passed_through == {"fault": 25}
    assert difference(images(tmp_path / "out.mp4"), images(clip)).max() < 11


def test_a_truncated_video_is_finished_as_far_as_it_goes(voice: Path, tmp_path: Path) -> None:
    frames = portrait_frames(40, HEIGHT, WIDTH)
    clip = cut_file(write_video(tmp_path / "clip.mp4", frames, faststart=True), 0.6)
    summary = dub(clip, voice, tmp_path / "out.mp4")
    assert 5 < summary.frames < 40
    assert f"video: only {summary.frames} of 40 pictures could be decoded" in summary.warnings
    assert len(images(tmp_path / "out.mp4")) == summary.frames


def test_a_decoder_that_breaks_ends_the_video_there(
    clip: Path, voice: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def breaks(*args: Any, **how: bool) -> Iterator[Any]:
        for index, frame in enumerate(read_frames(*args, **how)):
            if index == 7:
                raise MemoryError("no more")
            yield frame

    monkeypatch.setattr(lipwire.server.dub.dub, "read_frames", breaks)
    summary = dub(clip, voice, tmp_path / "out.mp4")
    assert (summary.frames, len(images(tmp_path / "out.mp4"))) == (7, 7)
    assert "video: reading stopped (no more)" in summary.warnings


def test_a_picture_of_another_size_is_scaled_and_said(
    clip: Path, voice: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def grows(*args: Any, **how: bool) -> Iterator[Any]:
        for index, frame in enumerate(read_frames(*args, **how)):
            if index > 10:
                object.__setattr__(frame, "image", np.repeat(frame.image, 2, axis=0))
            yield frame

    monkeypatch.setattr(lipwire.server.dub.dub, "read_frames", grows)
    summary = dub(clip, voice, tmp_path / "out.mp4")
    assert summary.frames == 25
    assert summary.warnings == [f"video: changes its size; all is scaled to {WIDTH}x{HEIGHT}"]
    assert {image.shape for image in images(tmp_path / "out.mp4")} == {(HEIGHT, WIDTH, 3)}


# --- what is refused leaves nothing behind ---


def untouched(folder: Path, out: Path) -> None:
    """No temporary file lies about, and what OUT held it still holds."""
    assert out.read_bytes() == b"precious"
    assert not [path.name for path in folder.iterdir() if path.name.startswith(".")]
    threads = {"decode", "begin", "paint", "encode"}
    assert not threads & {thread.name for thread in threading.enumerate()}


@pytest.fixture
def precious(tmp_path: Path) -> Path:
    """An OUT that exists already."""
    out = tmp_path / "out.mp4"
    out.write_bytes(b"precious")
    return out


def test_ctrl_c_removes_what_was_begun(clip: Path, voice: Path, precious: Path) -> None:
    def interrupt(done: int, _: int) -> None:
        if done == 5:
            assert any(p.name.startswith(".out.") for p in precious.parent.iterdir())
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        dub(clip, voice, precious, progress=interrupt)
    untouched(precious.parent, precious)


@pytest.mark.parametrize("method", ["write_picture", "write_sound", "finish"])
def test_a_full_disk_is_an_error_and_leaves_nothing(
    clip: Path, voice: Path, precious: Path, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    def full(self: Mp4Writer, *args: Any, **kwargs: Any) -> None:
        raise MediaError(f"{precious}: cannot be written (No space left on device)")

    monkeypatch.setattr(Mp4Writer, method, full)
    with pytest.raises(MediaError, match="No space left"):
        dub(clip, voice, precious)
    untouched(precious.parent, precious)


@pytest.mark.parametrize("stage", ["begin", "paint", "finish"])
def test_a_stage_that_breaks_is_an_error_and_leaves_nothing(
    clip: Path, voice: Path, precious: Path, monkeypatch: pytest.MonkeyPatch, stage: str
) -> None:
    method, calls = getattr(Engine, stage), itertools.count()

    def breaks(*args: Any) -> Any:
        if next(calls) == 6:
            raise MemoryError("no more")
        return method(*args)

    monkeypatch.setattr(Engine, stage, breaks)
    told: list[int] = []
    with pytest.raises(MemoryError, match="no more"):
        dub(clip, voice, precious, progress=lambda done, _: told.append(done))
    assert told == list(range(1, 7))  # what was begun before is still finished
    untouched(precious.parent, precious)


def test_steps_that_the_model_does_not_offer(clip: Path, voice: Path, precious: Path) -> None:
    with pytest.raises(BundleError, match="3"):
        dub(clip, voice, precious, steps=3)
    untouched(precious.parent, precious)


@pytest.mark.parametrize("name", ["clip.mp4", "voice.wav", "link.mp4"])
def test_an_input_is_never_the_output(clip: Path, voice: Path, tmp_path: Path, name: str) -> None:
    voice = voice.rename(tmp_path / "voice.mp4") if name == "voice.wav" else voice
    (tmp_path / "link.mp4").symlink_to(clip)
    out = voice if name == "voice.wav" else tmp_path / name
    before = clip.read_bytes(), voice.read_bytes()
    with pytest.raises(ConfigError, match="is an input too"):
        dub(clip, voice, out)
    assert (clip.read_bytes(), voice.read_bytes()) == before


@pytest.mark.parametrize(
    ("out", "message"),
    [
        ("out.avi", "must end in one of .mp4"),
        ("none/out.mp4", "no such folder"),
        ("folder.mp4", "is a folder"),
    ],
)
def test_a_place_that_cannot_be_written(
    clip: Path, voice: Path, tmp_path: Path, out: str, message: str
) -> None:
    (tmp_path / "folder.mp4").mkdir()
    with pytest.raises(ConfigError, match=message):
        dub(clip, voice, tmp_path / out)


def corrupt(path: Path) -> Path:
    path.write_bytes(np.random.default_rng(0).bytes(5000))
    return path


@pytest.mark.parametrize(
    ("which", "make", "message"),
    [
        ("video", lambda path: path, "no such file"),
        ("video", corrupt, "not a media file"),
        (
            "video",
            lambda path: write_sound(path.with_suffix(".wav"), voiced(0.2)),
            "no video stream",
        ),
        ("speech", lambda path: path, "no such file"),
        ("speech", corrupt, "not a media file"),
        ("speech", lambda path: write_video(path, portrait_frames(2, 64, 64)), "no audio stream"),
    ],
)
def test_unusable_inputs_are_refused_before_anything_is_written(
    clip: Path, voice: Path, precious: Path, which: str, make: Callable[[Path], Path], message: str
) -> None:
    bad = make(precious.with_name("bad.mp4"))
    inputs = (bad, voice) if which == "video" else (clip, bad)
    with pytest.raises(LipwireError, match=message) as caught:
        dub(*inputs, precious)
    assert str(bad) in str(caught.value) and "\n" not in str(caught.value)
    untouched(precious.parent, precious)


# --- the model that ships ---


def test_the_shipped_model_moves_the_mouth_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lipwire.server.dub.dub, "open_engine", open_engine)
    clip = write_video(tmp_path / "clip.mp4", portrait_frames(40, 240, 320))
    sound = np.concatenate([np.zeros(11_200, np.int16), voiced(0.9)])  # speaks from 0.7 s on
    speech = write_sound(tmp_path / "voice.wav", sound)
    summary = dub(clip, speech, tmp_path / "out.mp4", threads=1)
    assert summary.passed_through.keys() == {"silent"}
    assert summary.generated > 20
    assert summary.model.startswith("lite ")
    before, after = images(clip), images(tmp_path / "out.mp4")
    quiet, speaking = difference(after[:10], before[:10]), difference(after[22:], before[22:])
    # The portrait is scaled by 0.75: her mouth is around (160, 137), her eyes at 92.
    mouth = speaking[125:150, 140:180]
    assert mouth.mean() > 3 * quiet[125:150, 140:180].mean()
    outside = np.ones_like(speaking, bool)
    outside[105:200, 110:210] = False
    assert speaking[outside].mean() < 1.5 * quiet[outside].mean() + 0.2
    assert speaking[outside].max() < quiet[outside].max() + 6
