"""Files of what left: complete, aligned, alive after a kill, and never in the way of a call."""

from __future__ import annotations

import os
import signal
import struct
import subprocess
import sys
import time
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from lipwire.engine import MediaError
from lipwire.engine.types import I16
from lipwire.server.config import ServerConfig
from lipwire.server.media import recording
from lipwire.server.media.provenance import make_credentials, read_credentials
from lipwire.server.media.recording import (
    BLOCKS,
    PICTURES,
    UNFINISHED,
    Archive,
    Recording,
    RecordingRefused,
    trim,
)
from lipwire.server.media.subtitles import Cue

FPS, FLASH_EVERY = 25, 10
ORIGIN_S = 7.3  # the session was young when the recording began


def flash(index: int, width: int = 320, height: int = 240) -> av.VideoFrame:
    """White once in FLASH_EVERY pictures."""
    white = index % FLASH_EVERY == 5
    image = np.full((height, width, 3), 230 if white else 20, np.uint8)
    frame = av.VideoFrame.from_ndarray(image, format="rgb24").reformat(format="yuv420p")
    frame.pts = round((ORIGIN_S + index / FPS) * 90_000)
    frame.time_base = Fraction(1, 90_000)
    return frame


def beep(index: int) -> av.AudioFrame:
    """20 ms, half a picture's time, loud while the picture is white."""
    t = np.arange(960) / 48_000
    loud = index // 2 % FLASH_EVERY == 5
    samples: I16 = np.asarray(loud * 12_000 * np.sin(2 * np.pi * 1000 * t), np.int16)
    frame = av.AudioFrame.from_ndarray(samples[None], format="s16", layout="mono")
    frame.sample_rate, frame.time_base = 48_000, Fraction(1, 48_000)
    frame.pts = round(ORIGIN_S * 48_000) + index * 960
    return frame


def feed(made: Recording, pictures: int, first: int = 0) -> None:
    """Pictures and their sound, as fast as they are taken."""
    for index in range(first, first + pictures):
        while len(made._items) > PICTURES // 2 and made.ended is None:
            time.sleep(0.002)
        made.put(beep(2 * index))
        made.put(beep(2 * index + 1))
        made.put(flash(index))


def played(path: Path) -> tuple[list[float], list[float], int]:
    """When pictures turn white, when sound begins, and how many pictures there are."""
    whites: list[float] = []
    beeps: list[float] = []
    count, quiet_since = 0, 0.0
    with av.open(str(path)) as container:
        for frame in container.decode():
            time_s = float(frame.pts * frame.time_base)  # type: ignore[operator]
            if isinstance(frame, av.VideoFrame):
                count += 1
                if frame.to_ndarray(format="gray").mean() > 128:
                    whites.append(time_s)
            elif isinstance(frame, av.AudioFrame):
                for place in np.flatnonzero(np.abs(frame.to_ndarray()[0]) > 0.1):
                    at_s = time_s + place / 48_000
                    if at_s - quiet_since > 0.1:
                        beeps.append(at_s)
                    quiet_since = at_s
    return whites, beeps, count


def check_aligned(path: Path) -> int:
    """Sound and picture within a frame, all through; returns how many pictures there are."""
    whites, beeps, count = played(path)
    # The last of either may lie beyond the other track's end.
    pairs = list(zip(whites, beeps, strict=False))
    assert len(pairs) >= count // FLASH_EVERY - 1 and abs(len(whites) - len(beeps)) <= 1
    assert max(abs(white - sound) for white, sound in pairs) < 1 / FPS
    return count


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture(autouse=True)
def own_chain(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIPWIRE_HOME", str(home))


def archive(folder: Path, **settings: Any) -> Archive:
    return Archive(ServerConfig(record=folder, **settings), "fake 1.0")


def test_a_recording_is_complete_aligned_and_signed(tmp_path: Path) -> None:
    made = archive(tmp_path).begin("abc/def-ghijkl")
    feed(made, 120)
    made.put_cue(Cue(ORIGIN_S + 1.0, 1.5, "Hello <there>", "en"))
    made.finish("over")
    assert made.wait(30)
    assert made.signed and made.ended == "over" and made.dropped == 0
    assert made.path.name.endswith("-abcdef-g.mp4") and not list(tmp_path.glob(f"*{UNFINISHED}*"))
    assert check_aligned(made.path) == 120
    store = read_credentials(made.path)
    assert store["validation_state"] in ("Valid", "Trusted")
    vtt = made.path.with_suffix(".vtt").read_text()
    assert vtt.startswith("WEBVTT\n\n00:00:01.000 --> 00:00:02.500\n") and "&lt;there&gt;" in vtt
    with av.open(str(made.path)) as container:
        assert "AI-generated" in container.metadata["comment"]
        keys = [float(p.pts * p.time_base) for p in container.demux(video=0) if p.is_keyframe]  # type: ignore[operator]
    assert np.diff(keys).max() <= 2.05  # seconds that a player seeks by
    assert made.figures()["state"] == "ended" and made.figures()["bytes"] > 1000


KILLED = """
import os, sys, time
sys.path.insert(0, {tests!r})
import test_recording as t
from pathlib import Path
made = t.archive(Path({folder!r})).begin("killed")
index = 0
while True:
    t.feed(made, 1, index)
    index += 1
    print(index, flush=True)
"""


def test_a_killed_process_leaves_a_file_that_plays_and_is_signed_later(
    tmp_path: Path, home: Path
) -> None:
    here = Path(__file__).parent
    code = KILLED.format(tests=str(here), folder=str(tmp_path))
    paths = os.pathsep.join([str(here.parents[2]), str(here.parents[1]), str(here)])
    environment = {**os.environ, "PYTHONPATH": paths, "LIPWIRE_HOME": str(home)}
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, env=environment
    )
    assert process.stdout is not None
    given = 0
    for line in process.stdout:
        given = int(line)
        if given >= 150:
            break
    (unfinished,) = tmp_path.glob(f"*{UNFINISHED}.mp4")
    keeper = archive(tmp_path)
    assert keeper.adopt() == 0 and unfinished.exists()  # somebody is writing it
    process.send_signal(signal.SIGKILL)
    process.wait(20)
    process.stdout.close()
    count = check_aligned(unfinished)  # as it lies there
    assert count >= given - PICTURES - 2 * FPS  # what waited, and less than two fragments
    with unfinished.open("ab") as file:  # as if the kill had come in the middle of a write
        file.write(struct.pack(">I4s", 5000, b"moof") + bytes(100))
    assert keeper.adopt() == 1
    (path,) = tmp_path.glob("*.mp4")
    assert UNFINISHED not in path.name and check_aligned(path) == count
    text = str(read_credentials(path))
    assert "fake 1.0" in text


def test_what_holds_no_picture_is_removed(tmp_path: Path) -> None:
    made = archive(tmp_path).begin("nothing")
    for index in range(20):
        made.put(beep(index))
    made.finish("over")
    assert made.wait(20) and not list(tmp_path.iterdir())
    (tmp_path / f"x{UNFINISHED}.mp4").write_bytes(b"\0\0\0\x08free\0\0")
    assert archive(tmp_path).adopt() == 0 and not list(tmp_path.iterdir())


def test_a_file_that_cannot_be_signed_is_kept_and_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    chain = make_credentials()
    broken = Archive(
        ServerConfig(record=tmp_path), "fake 1.0", type(chain)(chain.chain, "no key at all")
    )
    made = broken.begin("unsigned")
    feed(made, 30)
    made.finish("over")
    assert made.wait(20) and not made.signed and "not signed" in caplog.text
    assert check_aligned(made.path) == 30
    with pytest.raises(MediaError):
        read_credentials(made.path)


def test_a_full_disk_ends_the_recording_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Full(recording.FragmentedFile):
        """The device that is always full."""

        def __init__(self, path: Path, comment: str) -> None:
            super().__init__(Path("/dev/full"), comment)

    monkeypatch.setattr(recording, "FragmentedFile", Full)
    made = archive(tmp_path).begin("full")
    feed(made, 60)
    assert made.wait(20)
    assert made.ended is not None and "No space left" in made.ended
    made.put(flash(99))  # and the live path goes on without it
    monkeypatch.setattr(recording, "RESERVE_BYTES", 1 << 60)
    with pytest.raises(RecordingRefused, match="full"):
        archive(tmp_path).begin("again")


def test_little_space_and_limits_end_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for settings, named in (({"record_max_s": 2.0}, "2 s long"), ({"record_max_mb": 0.002}, "MB")):
        made = archive(tmp_path, **settings).begin("limited")
        feed(made, 120)
        assert made.wait(20) and made.ended is not None and named in made.ended
        assert 20 <= check_aligned(made.path) < 120
    made = archive(tmp_path).begin("space")
    monkeypatch.setattr(recording, "RESERVE_BYTES", 1 << 60)
    feed(made, 60)
    assert made.wait(20) and made.ended == "the disk is full"


def test_a_slow_disk_costs_pictures_and_no_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = recording.FragmentedFile.write_picture
    gate: list[bool] = []

    def slow(self: Any, frame: av.VideoFrame, pts: int) -> None:
        while not gate:
            time.sleep(0.01)
        write(self, frame, pts)

    monkeypatch.setattr(recording.FragmentedFile, "write_picture", slow)
    made = archive(tmp_path).begin("slow")
    for index in range(100):
        made.put(beep(2 * index))
        made.put(beep(2 * index + 1))
        made.put(flash(index))
    assert 100 - PICTURES - 1 <= made.dropped <= 100 - PICTURES and len(made._items) < BLOCKS
    gate.append(True)
    feed(made, 50, first=100)  # it goes on
    made.finish("over")
    assert made.wait(20)
    whites, beeps, count = played(made.path)
    assert 50 + PICTURES <= count <= 150 - made.dropped
    assert beeps[-1] == pytest.approx(whites[-1], abs=1 / FPS)  # together again after the hole


def test_pictures_of_another_size_are_scaled_and_gaps_in_the_sound_are_silence(
    tmp_path: Path,
) -> None:
    made = archive(tmp_path).begin("sizes")
    feed(made, 25)
    for index in range(25, 50):
        made.put(flash(index, 160, 120))  # and no sound
        time.sleep(0.005)
    feed(made, 25, first=50)
    made.finish("over")
    assert made.wait(20)
    whites, beeps, count = played(made.path)
    assert count == 75 and beeps[-1] == pytest.approx(whites[-1], abs=1 / FPS)


def test_a_server_without_a_folder_does_not_record(tmp_path: Path) -> None:
    with pytest.raises(RecordingRefused, match="--record"):
        Archive(ServerConfig(), "fake 1.0").begin("x")
    assert Archive(ServerConfig(), "fake 1.0").adopt() == 0


def test_trimming_keeps_whole_fragments(tmp_path: Path) -> None:
    def box(kind: bytes, size: int) -> bytes:
        return struct.pack(">I4s", size, kind) + bytes(size - 8)

    path = tmp_path / "x.mp4"
    head, whole = box(b"ftyp", 24) + box(b"moov", 80), box(b"moof", 40) + box(b"mdat", 60)
    for tail in (b"", box(b"moof", 40), box(b"moof", 40) + box(b"mdat", 60)[:30], b"\0\0\0"):
        path.write_bytes(head + whole + whole + tail)
        assert trim(path) and path.read_bytes() == head + whole + whole
    path.write_bytes(head)
    assert not trim(path)
    for junk in (b"", b"\0" * 64, b"junk" * 20, b"\0\0\0\x01mdat" + b"\xff" * 8):
        path.write_bytes(junk)
        assert not trim(path)
