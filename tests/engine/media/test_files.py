"""lipwire.engine.media.files and lipwire.engine.media.colour: pictures and sound out of files,
whole and broken."""

from __future__ import annotations

import wave
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from fakes import picture, voiced
from files import cut_file, portrait_frames, turn_mp4, write_sound, write_video

from lipwire.engine.errors import MediaError
from lipwire.engine.media import files
from lipwire.engine.media.colour import BT601, BT709, BT2020, Colour, colour_of, to_yuv
from lipwire.engine.media.files import at_rate, probe_video, read_frames
from lipwire.engine.media.sound import read_speech, stream_sound, stream_speech
from lipwire.engine.types import U8, VideoFrame


def difference(found: U8, wanted: U8) -> float:
    """Mean over all pixels."""
    return float(np.abs(found.astype(int) - wanted).mean())


# --- pictures ---


def test_frames_come_in_order_with_their_times(tmp_path: Path) -> None:
    wanted = portrait_frames(12, 120, 160)
    path = write_video(tmp_path / "a.mp4", wanted, rate=Fraction(30000, 1001))
    info = probe_video(path)
    assert (info.width, info.height, info.frames) == (160, 120, 12)
    assert info.rate == Fraction(30000, 1001)
    assert info.duration_s == pytest.approx(12 * 1.001 / 30, abs=2e-3)
    frames = list(read_frames(path))
    assert [f.time_s for f in frames] == pytest.approx(
        [i * 1.001 / 30 for i in range(12)], abs=1e-3
    )
    assert max(difference(f.image, w) for f, w in zip(frames, wanted, strict=True)) < 3.5


@pytest.mark.parametrize("degrees", [90, 180, 270])
def test_rotated_video_is_read_upright(tmp_path: Path, degrees: int) -> None:
    path = write_video(tmp_path / "a.mp4", portrait_frames(3, 120, 160))
    flat = [f.image for f in read_frames(path)]
    turn_mp4(path, degrees)
    turned = [f.image for f in read_frames(path)]
    for before, after in zip(flat, turned, strict=True):
        assert np.array_equal(after, np.rot90(before, -degrees // 90))  # clockwise
    info = probe_video(path)
    assert (info.height, info.width) == turned[0].shape[:2]
    assert info.orientation.swap == (degrees != 180)


def test_pixel_shape_turns_with_the_picture(tmp_path: Path) -> None:
    tags: dict[str, Any] = {"sample_aspect_ratio": Fraction(4, 3)}
    path = write_video(tmp_path / "a.mp4", portrait_frames(2, 120, 160), tags=tags)
    assert probe_video(path).pixel_aspect == Fraction(4, 3)
    assert probe_video(turn_mp4(path, 90)).pixel_aspect == Fraction(3, 4)


def test_variable_frame_rate_keeps_its_times(tmp_path: Path) -> None:
    times = [0, 40, 55, 200, 230, 1000]
    path = write_video(
        tmp_path / "a.mkv", portrait_frames(6, 64, 64), times=times, time_base=Fraction(1, 1000)
    )
    assert [round(1000 * f.time_s) for f in read_frames(path)] == times


@pytest.mark.parametrize(
    ("matrix", "full"), [(BT709, 1), (BT709, 2), (BT601, 1), (BT601, 2), (BT2020, 1)]
)
def test_tagged_colours_are_understood(tmp_path: Path, matrix: int, full: int) -> None:
    tags = {"colorspace": matrix, "color_range": full}
    wanted = picture(64, 96) // 2 + np.array([90, 20, 0], np.uint8)
    path = write_video(tmp_path / "a.mp4", [wanted] * 2, tags=tags, crf=1)
    assert probe_video(path).colour.matrix == matrix
    assert difference(next(iter(read_frames(path))).image, wanted) < 2.5


@pytest.mark.parametrize(("height", "matrix"), [(96, BT601), (720, BT709)])
def test_untagged_colours_are_guessed_as_players_do(height: int, matrix: int) -> None:
    wanted = np.full((height, 64, 3), (200, 60, 30), np.uint8)
    frame = to_yuv(wanted, Colour(matrix))
    frame.colorspace = 2
    assert colour_of(frame).matrix == matrix
    assert difference(files.to_rgb(frame), wanted) < 2


@pytest.mark.parametrize("matrix", [BT601, BT709, BT2020])
@pytest.mark.parametrize("shape", [(48, 64), (47, 64), (48, 63), (1, 1)])
def test_to_yuv_and_back(matrix: int, shape: tuple[int, int]) -> None:
    wanted = np.full((*shape, 3), (200, 60, 30), np.uint8)
    frame = to_yuv(wanted, Colour(matrix))
    height, width = shape[0] + shape[0] % 2, shape[1] + shape[1] % 2
    assert (frame.format.name, frame.height, frame.width) == ("yuv420p", height, width)
    back = files.to_rgb(frame)
    assert np.abs(back.astype(int) - (200, 60, 30)).max() <= 3


def test_passing_through_rgb_changes_nothing() -> None:
    before = to_yuv(portrait_frames(1, 96, 128)[0], Colour())
    after = to_yuv(files.to_rgb(before, exact=True), Colour())
    luma, chroma = np.split(after.to_ndarray().astype(int) - before.to_ndarray(), [96])
    assert abs(luma.mean()) < 0.05 and np.abs(luma).mean() < 0.1
    assert abs(chroma.mean()) < 0.1 and np.abs(chroma).mean() < 0.3


@pytest.mark.parametrize("pixels", ["yuv420p", "yuv444p"])
def test_quick_colours_are_for_pictures_that_have_planes(tmp_path: Path, pixels: str) -> None:
    wanted = portrait_frames(2, 96, 128)
    tags: dict[str, Any] = {"pix_fmt": pixels}
    path = write_video(tmp_path / "a.mp4", wanted, tags=tags)
    true, quick = list(read_frames(path)), list(read_frames(path, exact=False))
    for before, after in zip(true, quick, strict=True):
        assert difference(after.image, before.image) < 2  # planes keep the colours of what shows
        if pixels == "yuv420p":
            assert before.planes is not None and after.planes is not None
            assert np.array_equal(before.planes.y, after.planes.y)
        else:
            assert after.planes is None and np.array_equal(after.image, before.image)


def test_frames_without_times_follow_the_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_video(tmp_path / "a.mkv", portrait_frames(5, 64, 64))
    decode = files.decode

    def broken(*args: Any) -> Any:
        for frame, pts in zip(decode(*args), (100, None, 90, 300, 300), strict=True):
            frame.pts = pts
            yield frame

    monkeypatch.setattr(files, "decode", broken)
    assert [f.pts for f in read_frames(path)] == [100, 140, 180, 300, 340]


def test_a_truncated_file_gives_its_start_and_says_so(tmp_path: Path) -> None:
    said: list[str] = []
    path = write_video(tmp_path / "a.mp4", portrait_frames(40, 64, 64), faststart=True)
    count = len(list(read_frames(cut_file(path, 0.6), said.append)))
    assert 5 < count < 40
    assert f"video: only {count} of 40 pictures could be decoded" in said


def test_a_truncated_matroska_file_says_so_too(tmp_path: Path) -> None:
    said: list[str] = []
    path = write_video(tmp_path / "a.mkv", portrait_frames(40, 64, 64))
    count = len(list(read_frames(cut_file(path, 0.6), said.append)))
    assert 5 < count < 40
    assert said == [f"video: ends after {count / 25:.2f} of 1.60 s"]


def test_damage_in_the_middle_is_passed_over(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (40, 64, 64, 3), np.uint8)
    path = write_video(tmp_path / "a.mp4", noise)
    data = bytearray(path.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 4000] = bytes(4000)
    path.write_bytes(data)
    said: list[str] = []
    frames = list(read_frames(path, said.append))
    assert frames[-1].time_s == pytest.approx(39 / 25)
    assert len(frames) < 40
    assert any("damaged" in line for line in said)


def test_a_whole_file_says_nothing(tmp_path: Path) -> None:
    said: list[str] = []
    for name in ("a.mp4", "a.mkv", "a.webm"):
        codec = "libvpx" if name.endswith("webm") else "libx264"
        sound = voiced(0.8, 48_000)
        path = write_video(tmp_path / name, portrait_frames(20, 64, 64), sound=sound, codec=codec)
        assert len(list(read_frames(path, said.append))) == 20
        assert sum(map(len, stream_speech(path, 16_000, said.append))) == pytest.approx(
            0.8 * 16_000, abs=1100
        )
    assert said == []


def header_only(path: Path) -> Path:
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream("libx264", rate=25)
        stream.width = stream.height = 64
        container.start_encoding()
    return path


def text(path: Path) -> Path:
    path.write_text("no media here\n" * 50)
    return path


def index_cut_off(path: Path) -> Path:
    return cut_file(write_video(path, portrait_frames(10, 64, 64)), 0.7)


def song_with_cover(path: Path) -> Path:
    with av.open(str(path), "w") as container:
        audio: Any = container.add_stream("mp3", rate=16_000, layout="mono")
        cover: Any = container.add_stream("mjpeg", rate=25)
        cover.width, cover.height, cover.pix_fmt = 64, 64, "yuvj420p"
        cover.disposition = av.stream.Disposition.attached_pic
        container.start_encoding()
        image = av.VideoFrame.from_ndarray(picture(64, 64), format="rgb24")
        container.mux([*cover.encode(image), *cover.encode(None)])
        frame = av.AudioFrame.from_ndarray(voiced(0.5)[None], "s16", "mono")
        frame.sample_rate = 16_000
        for piece in (*av.AudioResampler("s16p", "mono", 16_000, 576).resample(frame), None):
            container.mux(audio.encode(piece))
    return path


@pytest.mark.parametrize(
    ("name", "make", "message"),
    [
        ("none.mp4", lambda path: path, "no such file"),
        ("folder.mp4", lambda path: path.mkdir() or path, "is a folder"),
        ("empty.mp4", lambda path: path.touch() or path, "not a media file"),
        ("text.mp4", text, "not a media file"),
        ("notes.txt", text, "not a media file"),
        ("list.m3u8", text, "not a media file"),
        ("index.mp4", index_cut_off, "not a media file that can be read"),
        ("sound.wav", lambda path: write_sound(path, voiced(0.2)), "has no video stream"),
        ("cover.mp3", song_with_cover, "has no video stream"),
        ("header.avi", header_only, "holds no picture that can be decoded"),
    ],
)
def test_what_is_no_video_is_refused_in_one_line(
    tmp_path: Path, name: str, make: Callable[[Path], Path], message: str
) -> None:
    path = make(tmp_path / name)
    with pytest.raises(MediaError, match=message) as caught:
        probe_video(path)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)


def test_a_playlist_cannot_make_us_open_other_files(tmp_path: Path) -> None:
    write_video(tmp_path / "secret.ts", portrait_frames(5, 64, 64))
    playlist = tmp_path / "list.m3u8"
    playlist.write_text(
        "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:0.2,\nsecret.ts\n#EXT-X-ENDLIST\n"
    )
    with pytest.raises(MediaError, match="not a media file"):
        probe_video(playlist)
    with pytest.raises(MediaError, match="not a media file"):
        read_speech(playlist)


def test_larger_than_8k_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_video(tmp_path / "a.mp4", portrait_frames(1, 64, 64))
    monkeypatch.setattr(files, "MAX_PIXELS", 64 * 64 - 1)
    with pytest.raises(MediaError, match="64x64 is larger than 8K"):
        probe_video(path)
    with pytest.raises(MediaError, match="64x64 is larger than 8K"):
        next(iter(read_frames(path)))


def test_a_name_with_a_colon_is_a_name(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", portrait_frames(2, 64, 64))
    assert len(list(read_frames(path.rename(tmp_path / "tcp:b %03d.mp4")))) == 2


def test_at_rate_shows_the_newest_picture_not_after_each_time() -> None:
    def frame(ms: int) -> VideoFrame:
        return VideoFrame(np.full((1, 1, 3), ms // 10, np.uint8), ms, Fraction(1, 1000))

    shown = at_rate([frame(ms) for ms in (500, 540, 700, 780, 800)], 25)
    assert [10 * int(image[0, 0, 0]) for image in shown] == [
        500,
        540,
        540,
        540,
        540,
        700,
        700,
        780,
        800,
    ]
    assert list(at_rate([], 25)) == []


# --- sound ---


@pytest.mark.parametrize(
    ("name", "rate_hz", "layout"),
    [
        ("a.wav", 16_000, "mono"),  # nothing to convert
        ("a.wav", 8_000, "mono"),
        ("a.wav", 44_100, "stereo"),
        ("a.wav", 48_000, "5.1"),
        ("a.flac", 16_000, "mono"),
        ("a.ogg", 48_000, "stereo"),
        ("a.mp3", 22_050, "mono"),
        ("a.m4a", 44_100, "stereo"),
    ],
)
@pytest.mark.parametrize("wanted_hz", [16_000, 48_000])
def test_any_sound_becomes_mono_at_the_rate_wanted(
    tmp_path: Path, name: str, rate_hz: int, layout: str, wanted_hz: int
) -> None:
    tone = (8000 * np.sin(2 * np.pi * 440 * np.arange(rate_hz) / rate_hz)).astype(np.int16)
    path = write_sound(tmp_path / name, tone, rate_hz, layout=layout)
    samples = read_speech(path, wanted_hz)
    assert samples.dtype == np.int16 and samples.ndim == 1
    assert len(samples) == pytest.approx(wanted_hz, abs=0.08 * wanted_hz)  # codecs pad
    spectrum = np.abs(np.fft.rfft(samples * np.hanning(len(samples))))
    assert np.argmax(spectrum) * wanted_hz / len(samples) == pytest.approx(440, abs=3)


@pytest.mark.parametrize("rate_hz", [2, 1_073_789_824])
def test_rates_that_no_sound_has_are_refused_before_they_cost_anything(
    tmp_path: Path, rate_hz: int
) -> None:
    """A resampler from 1 GHz takes 10 s and 1 GiB to make; from 2 Hz it makes 24,000 of one."""
    path = tmp_path / "a.wav"
    with wave.open(str(path), "wb") as out:
        out.setnchannels(1)
        out.setsampwidth(2)
        out.setframerate(rate_hz)
        out.writeframes(bytes(40))
    with pytest.raises(MediaError, match=f"{rate_hz} Hz is no sample rate"):
        list(stream_speech(path))


@pytest.mark.parametrize("channels", [17, 129, 257])
def test_more_channels_than_have_a_place_are_refused(tmp_path: Path, channels: int) -> None:
    path = tmp_path / "a.wav"
    with wave.open(str(path), "wb") as out:
        out.setparams((channels, 2, 48_000, 0, "NONE", ""))
        out.writeframes(bytes(2 * channels * 10))
    with pytest.raises(MediaError, match=f"sound of {channels} channels cannot be mixed"):
        list(stream_speech(path))


def test_speech_comes_in_pieces(tmp_path: Path) -> None:
    path = write_sound(tmp_path / "a.wav", voiced(3.0))
    pieces = list(stream_speech(path, 48_000))
    assert len(pieces) > 10
    assert np.array_equal(np.concatenate(pieces), read_speech(path, 48_000))


def test_a_truncated_sound_gives_its_start(tmp_path: Path) -> None:
    path = cut_file(write_sound(tmp_path / "a.wav", voiced(2.0)), 0.5)
    assert len(read_speech(path)) == pytest.approx(16_000, abs=100)


def test_sound_keeps_its_place_beside_the_pictures(tmp_path: Path) -> None:
    path = write_video(
        tmp_path / "a.mkv", portrait_frames(30, 64, 64), sound=voiced(0.6, 48_000), sound_at_s=0.5
    )
    sounds = list(stream_sound(path, 16_000))
    # libavcodec's AAC encoder begins with 1024 samples of its own.
    assert sounds[0].time_s == pytest.approx(0.5, abs=0.03)
    for before, after in zip(sounds, sounds[1:], strict=False):
        assert after.time_s == pytest.approx(
            before.time_s + len(before.samples) / 16_000, abs=0.003
        )


def wave_header(path: Path) -> Path:
    with wave.open(str(path), "w") as file:
        file.setparams((1, 2, 16_000, 0, "NONE", ""))
    return path


@pytest.mark.parametrize(
    ("name", "make", "message"),
    [
        ("none.wav", lambda path: path, "no such file"),
        ("text.wav", text, "not a media file"),
        ("mute.mp4", lambda path: write_video(path, portrait_frames(2, 64, 64)), "no audio stream"),
        ("empty.wav", wave_header, "holds no sound"),
    ],
)
def test_what_is_no_sound_is_refused_in_one_line(
    tmp_path: Path, name: str, make: Callable[[Path], Path], message: str
) -> None:
    path = make(tmp_path / name)
    with pytest.raises(MediaError, match=message) as caught:
        read_speech(path)
    assert str(caught.value).startswith(str(path))
