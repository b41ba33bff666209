"""Pictures as players show them: mirrored, turned, interlaced, transparent, single; long names."""

from __future__ import annotations

import os
import struct
import subprocess
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any

import av
import cv2
import imageio_ffmpeg
import numpy as np
import pytest
from fakes import FakeBackend, FakeTracker, voiced
from files import portrait_frames, write_sound, write_video
from typer.testing import CliRunner

import lipwire.server.dub.dub
from lipwire.cli.main import app
from lipwire.engine import ConfigError, Engine, MediaError
from lipwire.engine.media.files import probe_video, read_frames
from lipwire.engine.types import U8
from lipwire.server.dub.dub import dub as disclosing_dub

FFMPEG = imageio_ffmpeg.get_ffmpeg_exe()
dub = partial(disclosing_dub, mark=None, credentials=False)
ONE = 1 << 16


@pytest.fixture(autouse=True)
def fake_model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        lipwire.server.dub.dub, "open_engine", lambda *_, **__: Engine(FakeBackend(), FakeTracker)
    )


@pytest.fixture
def voice(tmp_path: Path) -> Path:
    return write_sound(tmp_path / "voice.wav", voiced(0.6))


def as_ffmpeg_shows(path: Path, height: int, width: int) -> U8:
    """The first picture by FFmpeg's own program, which turns and mirrors by itself."""
    out = "-frames:v 1 -f rawvideo -pix_fmt rgb24 -".split()
    command = [FFMPEG, "-loglevel", "error", "-i", str(path), *out]
    raw = subprocess.run(command, capture_output=True, check=True).stdout
    return np.frombuffer(raw, np.uint8).reshape(height, width, 3)


def noted(path: Path) -> tuple[list[Any], list[str]]:
    notes: list[str] = []
    return list(read_frames(path, notes.append)), notes


# --- every orientation of the display matrix (C02) ---


@pytest.mark.parametrize("flip", [0, 1])
@pytest.mark.parametrize("swap", [0, 1])
@pytest.mark.parametrize("turn", [0, 1])
@pytest.mark.parametrize("size", [(96, 128), (97, 129)])
def test_all_eight_orientations(tmp_path: Path, swap: int, flip: int, turn: int, size: Any) -> None:
    codec = "libx264" if size == (96, 128) else "mpeg4"
    frames = portrait_frames(3, *size)
    path = write_video(tmp_path / "a.mp4", frames, codec=codec)
    data = bytearray(path.read_bytes())
    place = data.index(b"tkhd") + 4 + 40
    first, second = (-ONE if turn else ONE), (-ONE if flip else ONE)
    a, b, c, d = (0, first, second, 0) if swap else (first, 0, 0, second)
    data[place : place + 36] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)
    path.write_bytes(data)
    info, (found, notes) = probe_video(path), noted(path)
    assert (info.height, info.width) == (size[::-1] if swap else size) and notes == []
    wanted = as_ffmpeg_shows(path, info.height, info.width)
    assert np.abs(found[0].image.astype(int) - wanted).mean() < 3
    if found[0].planes is not None:
        grey = cv2.cvtColor(wanted, cv2.COLOR_RGB2GRAY)
        assert np.corrcoef(found[0].planes.y.ravel(), grey.ravel())[0, 1] > 0.99


# --- fields (C07) ---


def interlaced(path: Path) -> Path:
    """A bar that moves 8 pixels a field, woven."""
    fields = []
    for index in range(20):
        field = np.full((96, 128, 3), 40, np.uint8)
        field[:, 4 * index : 4 * index + 20] = 220
        fields.append(field)
    woven = []
    for top, bottom in zip(fields[::2], fields[1::2], strict=True):
        whole = top.copy()
        whole[1::2] = bottom[1::2]
        woven.append(whole)
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream(
            "libx264", rate=25, options={"crf": "4", "x264-params": "tff=1"}
        )
        stream.height, stream.width, stream.pix_fmt = 96, 128, "yuv420p"
        stream.codec_context.flags |= av.codec.context.Flags.interlaced_dct
        for index, image in enumerate(woven):
            frame = av.VideoFrame.from_ndarray(image, "rgb24").reformat(
                format="yuv420p", interpolation="BILINEAR"
            )
            frame.pts, frame.time_base = index, Fraction(1, 25)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def combing(image: U8) -> float:
    """How much more neighbouring lines differ than every second one."""
    grey = image[..., 1].astype(float)
    return float(np.abs(grey[1:] - grey[:-1]).mean() - np.abs(grey[2:] - grey[:-2]).mean())


def test_fields_are_put_into_whole_pictures(tmp_path: Path) -> None:
    path = interlaced(tmp_path / "a.mp4")
    with av.open(str(path)) as container:
        woven = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    found, notes = noted(path)
    assert [frame.time_s for frame in found] == pytest.approx(np.arange(10) / 25)
    assert max(combing(image) for image in woven) > 5
    assert max(combing(frame.image) for frame in found) < 1
    assert len(notes) == 1 and "interlaced" in notes[0]


def test_progressive_films_are_left_alone(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", portrait_frames(10, 64, 64))
    assert noted(path)[1] == []


# --- transparency (C06) ---


@pytest.mark.parametrize(
    ("name", "codec", "pixels"),
    [
        ("a.webm", "libvpx-vp9", "yuva420p"),
        ("a.webm", "libvpx", "yuva420p"),
        ("a.mov", "prores_ks", "yuva444p10le"),
        ("a.mkv", "ffv1", "bgra"),
        ("a.mov", "png", "rgba"),
    ],
)
def test_what_is_transparent_is_black_and_noted(
    tmp_path: Path, name: str, codec: str, pixels: str
) -> None:
    path, image = tmp_path / name, np.full((96, 128, 4), 180, np.uint8)
    image[..., 3] = 255
    image[:, :40, 3] = 0
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream(codec, rate=25)
        stream.height, stream.width, stream.pix_fmt = 96, 128, pixels
        if "vpx" in codec:
            stream.options = {"auto-alt-ref": "0"}
        for index in range(5):
            frame = av.VideoFrame.from_ndarray(image, "rgba").reformat(format=pixels)
            frame.pts, frame.time_base = index, Fraction(1, 25)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    found, notes = noted(path)
    assert len(found) == 5 and len(notes) == 1 and "transparency" in notes[0]
    shown = found[-1].image
    assert shown[:, :32].max() < 12 and abs(int(shown[:, 48:].mean()) - 180) < 8


def test_an_opaque_film_with_an_alpha_plane_is_not_noted(tmp_path: Path) -> None:
    path = tmp_path / "a.mkv"
    write_video(path, portrait_frames(3, 64, 64), codec="ffv1")
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream("ffv1", rate=25)
        stream.height, stream.width, stream.pix_fmt = 64, 64, "bgra"
        frame = av.VideoFrame.from_ndarray(np.full((64, 64, 4), 255, np.uint8), "bgra")
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    assert noted(path)[1] == []


# --- single pictures (C16, C17) ---


@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.bmp", "a.webp", "one.mp4", "one.mkv"])
def test_a_single_picture_is_held_as_long_as_the_voice(
    tmp_path: Path, voice: Path, name: str
) -> None:
    path, image = tmp_path / name, portrait_frames(1, 120, 160)[0]
    if name.startswith("one"):
        write_video(path, [image])
    else:
        cv2.imwrite(str(path), image[..., ::-1])
    summary = dub(path, voice, tmp_path / "out.mp4")
    assert (summary.frames, summary.fps, summary.speech_s) == (15, 25.0, 0.6)
    assert summary.warnings == ["video: is a single picture; held for 0.60 s of the voice"]
    found, _ = noted(tmp_path / "out.mp4")
    assert [frame.time_s for frame in found] == pytest.approx(np.arange(15) / 25)


def test_a_song_with_a_cover_is_no_film(tmp_path: Path, voice: Path) -> None:
    path, cover = tmp_path / "song.m4a", tmp_path / "cover.jpg"
    cv2.imwrite(str(cover), portrait_frames(1, 64, 64)[0])
    both = "-map 0 -map 1 -c:a aac -c:v copy -disposition:v attached_pic".split()
    command = [FFMPEG, "-loglevel", "error", "-i", str(voice), "-i", str(cover), *both, str(path)]
    subprocess.run(command, check=True)
    with pytest.raises(MediaError, match="no video stream"):
        dub(path, voice, tmp_path / "out.mp4")


@pytest.mark.parametrize("frames", [2, 5])
def test_a_short_film_is_none(tmp_path: Path, voice: Path, frames: int) -> None:
    path = write_video(tmp_path / "a.mp4", portrait_frames(frames, 120, 160))
    assert dub(path, voice, tmp_path / "out.mp4").frames == frames


# --- no false notes of damage (C11) ---


@pytest.mark.parametrize("kind", ["mkv", "mp4", "mov", "webm", "ts", "avi"])
def test_a_picture_that_begins_late_is_not_cut(tmp_path: Path, kind: str) -> None:
    codec = "libvpx" if kind == "webm" else "libx264"
    path = write_video(
        tmp_path / f"a.{kind}",
        portrait_frames(25, 64, 64),
        codec=codec,
        times=[40 * k + 520 for k in range(25)],
        time_base=Fraction(1, 1000),
        sound=voiced(1.5, 48_000),
    )
    assert noted(path)[1] == []


# --- names (C14) ---


def test_names_as_long_as_the_file_system_takes(tmp_path: Path, voice: Path) -> None:
    film = write_video(tmp_path / ("f" * 251 + ".mp4"), portrait_frames(3, 120, 160))
    for name in ("o" * 251 + ".mp4", "ü" * 125 + ".mp4", "frame%03d.mp4", "a:b.mp4", "-dash.mp4"):
        assert dub(film, voice, tmp_path / name).frames == 3
        assert (tmp_path / name).is_file()
    before = sorted(os.listdir(tmp_path))
    for name in ("o" * 252 + ".mp4", "ü" * 126 + ".mp4"):
        with pytest.raises(ConfigError, match="255 are the most"):
            dub(film, voice, tmp_path / name)
    with pytest.raises(MediaError, match="too long"):
        dub(tmp_path / ("x" * 300), voice, tmp_path / "out.mp4")
    assert sorted(os.listdir(tmp_path)) == before


@pytest.mark.parametrize("arguments", [["-dash.mp4", "v.wav"], ["a.mp4", "-v.wav"]])
def test_a_name_that_begins_with_a_dash_is_told_how(arguments: list[str]) -> None:
    result = CliRunner().invoke(app, ["dub", *arguments, "-o", "out.mp4"])
    assert result.exit_code == 2 and "goes behind --" in result.output
    result = CliRunner().invoke(app, ["dub", "--no-such", "a.mp4", "v.wav", "-o", "out.mp4"])
    assert result.exit_code == 2 and "goes behind --" not in result.output
