"""Voices keep their time: joined files, holes, late beginnings, several streams, odd clocks."""

from __future__ import annotations

import struct
import wave
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import httpx
import numpy as np
import pytest
from calling import calling
from calls import Running, strongest_hz, until
from files import portrait_frames, write_sound, write_video

from lipwire.engine.media.files import read_frames
from lipwire.engine.media.sound import read_speech, stream_sound, stream_speech
from lipwire.engine.types import I16
from lipwire.server.dub.soundtrack import original_sound

RATE_HZ = 48_000
MELODY = (400, 800, 1200, 600)
NOTE_S = 0.25
CODECS = {
    "wav": "pcm_s16le",
    "w64": "pcm_s16le",
    "caf": "pcm_s16le",
    "aiff": "pcm_s16be",
    "au": "pcm_s16be",
    "flac": "flac",
    "ogg": "libopus",
    "mp3": "mp3",
    "aac": "aac",
    "m4a": "aac",
    "mp4": "aac",
    "mov": "aac",
    "mkv": "libopus",
    "webm": "libopus",
    "ts": "aac",
    "mka": "flac",
    "flv": "aac",
    "wma": "wmav2",
    "nut": "pcm_s16le",
}


def melody(notes: tuple[int, ...] = MELODY, level: float = 0.3) -> I16:
    """Tones of NOTE_S each, int16[N] at 48 kHz; 0 is silence."""
    time_s = np.arange(round(NOTE_S * RATE_HZ)) / RATE_HZ
    return np.concatenate(
        [(level * 32767 * np.sin(2 * np.pi * hz * time_s)).astype(np.int16) for hz in notes]
    )


def heard(samples: I16) -> list[int]:
    """The note in the middle of every NOTE_S, to the next 100 Hz; 0 is silence."""
    notes = []
    for start in np.arange(0, len(samples) - RATE_HZ * NOTE_S * 0.7, RATE_HZ * NOTE_S):
        middle = samples[round(start + 0.3 * NOTE_S * RATE_HZ) :][: round(0.4 * NOTE_S * RATE_HZ)]
        loud = np.abs(middle.astype(int)).mean() > 500
        notes.append(round(strongest_hz(middle) / 100) * 100 if loud else 0)
    return notes


def write_at(path: Path, *voices: I16, begins_s: float = 0.0, **marks: Any) -> Path:
    """A file of sound alone, a stream for each voice, whose times begin late.

    Args:
        path: its suffix chooses container and codec.
        *voices: int16[N] at 48 kHz.
        begins_s: time of the first sample.
        **marks: `default`, the number of the stream that is marked so; `language`, of each.
    """
    kind, rate_hz = path.suffix[1:], 44_100 if path.suffix in (".flv", ".mp3") else RATE_HZ
    with av.open(
        str(path), "w", format={"m4a": "mp4", "mka": "matroska", "wma": "asf"}.get(kind)
    ) as container:
        streams: list[Any] = []
        for number in range(len(voices)):
            streams.append(container.add_stream(CODECS[kind], rate=rate_hz, layout="mono"))
            streams[-1].bit_rate = 96_000
            if "default" in marks:
                marked = number == marks["default"]
                streams[-1].disposition = av.stream.Disposition.default if marked else 0
            if "language" in marks:
                streams[-1].metadata["language"] = marks["language"][number]
        for stream, samples in zip(streams, voices, strict=True):
            count = round(len(samples) * rate_hz / RATE_HZ)
            at = np.arange(count) * RATE_HZ / rate_hz
            spread = np.interp(at, np.arange(len(samples)), samples).astype(np.int16)
            for start in range(0, count, 1000):
                frame = av.AudioFrame.from_ndarray(
                    spread[start : start + 1000][None], "s16", "mono"
                )
                frame.sample_rate, frame.time_base = rate_hz, Fraction(1, rate_hz)
                frame.pts = start + round(begins_s * rate_hz)
                container.mux(stream.encode(frame))
            container.mux(stream.encode(None))
    return path


def retimed(path: Path, out: Path, time: Callable[[float], float | None]) -> Path:
    """The same packets at other times; None leaves one out."""
    with av.open(str(path)) as source, av.open(str(out), "w") as target:
        stream = target.add_stream_from_template(source.streams.audio[0])
        for packet in source.demux(audio=0):
            if packet.dts is None or packet.time_base is None:
                continue
            at = time(float(packet.pts * packet.time_base))
            if at is None:
                continue
            packet.pts = packet.dts = round(at / packet.time_base)
            packet.stream = stream
            target.mux(packet)
    return out


def join(out: Path, *paths: Path) -> Path:
    """Byte after byte, as `cat` does."""
    out.write_bytes(b"".join(path.read_bytes() for path in paths))
    return out


def speech(path: Path) -> tuple[list[int], list[str]]:
    """What is heard of a voice, and what is noted."""
    notes: list[str] = []
    return heard(np.concatenate(list(stream_speech(path, RATE_HZ, notes.append)))), notes


# --- joined files (C21, C88) ---


@pytest.mark.parametrize("kind", sorted(set(CODECS) - {"nut"}))
def test_joined_files_are_all_heard(tmp_path: Path, kind: str) -> None:
    first = write_at(tmp_path / f"a.{kind}", melody())
    second = write_at(tmp_path / f"b.{kind}", melody(MELODY[::-1]))
    whole = join(tmp_path / f"c.{kind}", first, second, first)
    notes: list[str] = []
    pieces = [read_speech(path, RATE_HZ) for path in (first, second, first)]
    found = np.concatenate(list(stream_speech(whole, RATE_HZ, notes.append)))
    # What codecs add at a beginning and an end is heard at every joint.
    assert len(found) == pytest.approx(sum(map(len, pieces)), abs=0.2 * RATE_HZ)
    for hz in MELODY:
        assert 5 <= sum(
            strongest_hz(found[at : at + 2400]) == pytest.approx(hz, abs=30)
            for at in range(0, len(found) - 2400, 2400)
        )
    assert notes == []


@pytest.mark.parametrize(
    "sizes", [(0, 0), (0xFFFFFFFF, 0xFFFFFFFF), (36, 0), (2_000_000_036, 2_000_000_000)]
)
def test_joined_waves_whose_headers_are_those_of_a_stream(
    tmp_path: Path, sizes: tuple[int, int]
) -> None:
    path = tmp_path / "a.wav"
    with wave.open(str(path), "w") as file:
        file.setparams((1, 2, RATE_HZ, 0, "NONE", ""))
        file.writeframes(melody().tobytes())
    data = bytearray(path.read_bytes())
    data[4:8], data[40:44] = (struct.pack("<I", size) for size in sizes)
    path.write_bytes(data)
    found, notes = speech(join(tmp_path / "b.wav", path, path))
    assert (found, notes) == ([*MELODY, *MELODY], [])


def test_what_is_joined_and_broken_is_noted(tmp_path: Path) -> None:
    first = write_at(tmp_path / "a.m4a", melody())
    broken = tmp_path / "b.m4a"
    broken.write_bytes(first.read_bytes()[:32])
    found, notes = speech(join(tmp_path / "c.m4a", first, broken))
    assert found == list(MELODY)
    assert len(notes) == 1 and "joined" in notes[0]


def test_joined_films_go_on_with_their_sound(tmp_path: Path) -> None:
    films = [
        write_video(tmp_path / f"{name}.mp4", portrait_frames(25, 64, 64), sound=melody(notes))
        for name, notes in (("a", MELODY), ("b", MELODY[::-1]))
    ]
    whole, notes = join(tmp_path / "c.mp4", *films), list[str]()
    times = [frame.time_s for frame in read_frames(whole, notes.append)]
    assert times == pytest.approx(np.arange(50) / 25)
    found = np.concatenate([s.samples for s in original_sound(whole, True, notes.append)])
    assert heard(found[:RATE_HZ])[:4] == list(MELODY)
    assert heard(found[-RATE_HZ:]) == list(MELODY[::-1])
    assert notes == []


# --- holes, late beginnings, other clocks (C11, C23) ---


@pytest.mark.parametrize("kind", ["mkv", "mka", "webm", "mp4", "m4a", "mov", "ts", "flv"])
def test_a_hole_is_silence(tmp_path: Path, kind: str) -> None:
    path = write_at(tmp_path / f"a.{kind}", melody())
    holed = retimed(path, tmp_path / f"b.{kind}", lambda s: None if 0.25 <= s % 1.4 < 0.75 else s)
    assert speech(holed) == ([400, 0, 0, 600], [])


@pytest.mark.parametrize("kind", ["mkv", "mka", "webm", "mp4", "m4a", "mov", "ogg", "flv", "nut"])
@pytest.mark.parametrize("late_s", [0.5, 1.0])
def test_a_late_beginning_is_silence(tmp_path: Path, kind: str, late_s: float) -> None:
    path = write_at(tmp_path / f"a.{kind}", melody(), begins_s=late_s)
    found = read_speech(path, RATE_HZ)
    assert heard(found)[: round(late_s / NOTE_S) + 4] == [0] * round(late_s / NOTE_S) + [*MELODY]
    assert len(found) == pytest.approx((1 + late_s) * RATE_HZ, abs=0.06 * RATE_HZ)


@pytest.mark.parametrize("kind", ["ts", "mp3", "wav", "flac", "aac"])
def test_what_has_no_time_zero_begins_with_its_sound(tmp_path: Path, kind: str) -> None:
    path = write_at(tmp_path / f"a.{kind}", melody(), begins_s=20.0)
    assert speech(path) == (list(MELODY), [])


@pytest.mark.parametrize("kind", ["mp4", "mkv", "ts"])
def test_a_films_sound_that_begins_late_is_a_voice_that_does(tmp_path: Path, kind: str) -> None:
    path = write_video(
        tmp_path / f"a.{kind}", portrait_frames(25, 64, 64), sound=melody(), sound_at_s=0.5
    )
    assert speech(path)[0][:6] == [0, 0, *MELODY]


def test_another_clock_is_no_hour_of_silence(tmp_path: Path) -> None:
    path = write_at(tmp_path / "a.mkv", melody())
    leap = retimed(path, tmp_path / "b.mkv", lambda s: s if s < 0.5 else s + 90_000)
    found, notes = speech(leap)
    assert found == list(MELODY)
    assert len(notes) == 1 and "leap" in notes[0]


def test_times_that_run_back_a_little_leave_out_what_was_heard(tmp_path: Path) -> None:
    first = write_at(tmp_path / "a.ts", melody())
    second = write_at(tmp_path / "b.ts", melody((600, 900, 1500)), begins_s=0.75)
    found, notes = speech(join(tmp_path / "c.ts", first, second))
    assert found[:6] == [*MELODY, 900, 1500]
    assert len(notes) == 1 and "left out" in notes[0]


def test_jitter_of_times_cuts_nothing(tmp_path: Path) -> None:
    path = write_at(tmp_path / "a.mka", melody())
    shaken = retimed(path, tmp_path / "b.mka", lambda s: s + 0.02 * (round(s * 10) % 2))
    notes: list[str] = []
    found = np.concatenate(list(stream_speech(shaken, RATE_HZ, notes.append)))
    assert np.array_equal(found[: len(melody())], read_speech(path, RATE_HZ)[: len(found)])
    assert notes == []


# --- which stream (a second, a default one) ---


@pytest.mark.parametrize("kind", ["mkv", "mp4", "mov"])
@pytest.mark.parametrize("default", [0, 1])
def test_the_default_stream_is_heard_and_said(tmp_path: Path, kind: str, default: int) -> None:
    path = write_at(
        tmp_path / f"a.{kind}",
        melody(),
        melody(MELODY[::-1]),
        default=default,
        language=("eng", "ita"),
    )
    found, notes = speech(path)
    assert found[:4] == list((MELODY, MELODY[::-1])[default])
    assert notes == [
        f"sound: of 2 streams only number {default + 1} ({('eng', 'ita')[default]}) is used"
    ]
    assert heard(np.concatenate([s.samples for s in stream_sound(path, RATE_HZ)]))[:4] == found[:4]


# --- the same for uploads ---


async def test_an_upload_is_heard_whole_and_its_choice_is_said(
    server: Running, client: httpx.AsyncClient, tmp_path: Path
) -> None:
    single = write_sound(tmp_path / "a.wav", melody(), RATE_HZ)
    two = write_at(tmp_path / "b.mkv", melody(), melody(MELODY[::-1]), default=1)
    late = write_at(tmp_path / "c.mkv", melody(), begins_s=0.5)
    async with calling(server.url, name="studio") as made:
        await until(lambda: bool(made.pictures), "a picture comes back")
        for path, seconds, notes in (
            (join(tmp_path / "d.wav", single, single, single), 3.0, None),
            (two, 1.0, ["sound: of 2 streams only number 2 is used"]),
            (late, 1.5, None),
        ):
            told = await client.post("/api/sessions/studio/speech", content=path.read_bytes())
            assert told.status_code == 200, told.text
            assert told.json()["seconds"] == pytest.approx(seconds, abs=0.03)
            assert told.json().get("notes") == notes
