"""Where the voice comes from and how it gets in."""

from __future__ import annotations

import asyncio
import wave
from collections.abc import AsyncIterator
from pathlib import Path

import numpy as np
import pytest
from calls import RATE_HZ, loudness, sound_file, strongest_hz, tone
from fakes import FakeTracker

from lipwire.engine import EngineConfig, MediaError, Session
from lipwire.engine.types import I16
from lipwire.server.call import speech_queue
from lipwire.server.call.speech_queue import (
    NoSpeech,
    NotMedia,
    SpeechQueue,
    read_pieces,
    sample_voices,
    speak_file,
    synthesise,
)


class Clock:
    """Time that moves when told."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def session() -> Session:
    return Session("s", FakeTracker, EngineConfig(speech_backlog_max_s=2.0))


@pytest.fixture
def voice(session: Session, clock: Clock) -> SpeechQueue:
    return SpeechQueue(session, clock)


def played(session: Session, seconds: float) -> I16:
    """What is heard during the next seconds."""
    return session.read_audio(int(seconds * RATE_HZ)).samples


# --- into the session ---


async def test_what_is_pushed_is_heard(voice: SpeechQueue, session: Session) -> None:
    assert await voice.push(tone(1.0), RATE_HZ)
    heard = played(session, 1.6)
    assert loudness(heard) > 1000
    assert abs(strongest_hz(heard) - 440) < 5


async def test_a_full_backlog_holds_the_source_back(
    voice: SpeechQueue, session: Session, clock: Clock
) -> None:
    task = asyncio.create_task(voice.push(tone(3.0), RATE_HZ))
    await asyncio.sleep(0.3)
    assert not task.done()  # two of the three seconds are in
    assert 1.0 < session.stats(clock.now).speech_backlog_s <= 2.0
    clock.now = 1.5  # some of it has been heard
    assert await asyncio.wait_for(task, 2)
    clock.now = 0.0
    assert loudness(played(session, 3.5)[-RATE_HZ // 2 :]) > 1000  # nothing was lost on the way


async def test_an_interruption_drops_what_still_waits_outside(
    voice: SpeechQueue, session: Session, clock: Clock
) -> None:
    task = asyncio.create_task(voice.push(tone(10.0), RATE_HZ))
    await asyncio.sleep(0.2)
    voice.interrupt()
    assert await asyncio.wait_for(task, 2) is False
    assert loudness(played(session, 2.0)[RATE_HZ // 10 :]) == 0
    assert await voice.push(tone(0.2), RATE_HZ)  # and the next one is heard again


async def test_utterances_follow_each_other(
    voice: SpeechQueue, session: Session, clock: Clock
) -> None:
    async def pieces(hz: float) -> AsyncIterator[I16]:
        for _ in range(3):
            yield tone(0.25, hz)
            await asyncio.sleep(0.01)

    seconds = await asyncio.gather(
        voice.speak(pieces(300), RATE_HZ), voice.speak(pieces(700), RATE_HZ)
    )
    assert seconds == [0.75, 0.75]
    heard = played(session, 2.0)
    start = int(np.flatnonzero(heard)[0])
    first, second = (heard[start + i * 36_000 + 2_000 :][:30_000] for i in (0, 1))
    assert abs(strongest_hz(first) - 300) < 5 and abs(strongest_hz(second) - 700) < 5


async def test_a_live_track_stays_out_while_another_source_speaks(
    voice: SpeechQueue, session: Session, clock: Clock
) -> None:
    await voice.push(tone(0.5, 300), RATE_HZ)
    for _ in range(10):
        voice.push_live(tone(0.02, 700), RATE_HZ)
    assert abs(strongest_hz(played(session, 1.0)) - 300) < 5
    clock.now = 1.0  # it has been heard: the track may speak
    voice.push_live(tone(0.5, 700), RATE_HZ)
    assert abs(strongest_hz(played(session, 1.0)) - 700) < 5


async def test_a_live_track_that_lags_loses_its_silences_only(
    voice: SpeechQueue, session: Session, clock: Clock
) -> None:
    voice.push_live(tone(1.5), RATE_HZ)  # a burst after a stall
    before_s = session.stats(clock.now).speech_backlog_s
    for _ in range(20):
        voice.push_live(np.zeros(960, np.int16), RATE_HZ)
    # Of each pause a tenth of a second is kept.
    assert session.stats(clock.now).speech_backlog_s == pytest.approx(before_s + 0.1, abs=0.01)
    voice.push_live(tone(0.02), RATE_HZ)
    assert session.stats(clock.now).speech_backlog_s > before_s


# --- files ---


async def all_of(path: Path) -> I16:
    return np.concatenate([piece async for piece in read_pieces(path)])


@pytest.mark.parametrize(
    ("rate_hz", "kind", "layout"),
    [
        (48_000, "wav", "mono"),
        (8_000, "wav", "mono"),
        (44_100, "wav", "stereo"),
        (48_000, "ogg", "mono"),
        (44_100, "mp3", "stereo"),
    ],
)
async def test_files_of_many_kinds(tmp_path: Path, rate_hz: int, kind: str, layout: str) -> None:
    path = tmp_path / f"voice.{kind}"
    path.write_bytes(sound_file(tone(1.3, rate_hz=rate_hz), rate_hz, kind, layout))
    heard = await all_of(path)
    assert abs(len(heard) / RATE_HZ - 1.3) < 0.08
    assert abs(strongest_hz(heard) - 440) < 5
    assert loudness(heard) > 1000


async def test_a_truncated_file_gives_its_start(tmp_path: Path) -> None:
    whole = sound_file(tone(4.0), kind="ogg")
    path = tmp_path / "cut.ogg"
    path.write_bytes(whole[: len(whole) // 2])
    assert 1.0 < len(await all_of(path)) / RATE_HZ < 3.0


@pytest.mark.parametrize(
    "content",
    [
        b"just some text, no sound",
        b"\x00" * 5000,
        b"#EXTM3U\n#EXTINF:1,\n/etc/hostname\n",
        b"ffconcat version 1.0\nfile /etc/hostname\n",
    ],
    ids=["text", "zeros", "play list", "concat"],
)
async def test_what_is_no_media_file_is_named_so(
    voice: SpeechQueue, tmp_path: Path, content: bytes
) -> None:
    path = tmp_path / "voice.wav"
    path.write_bytes(content)
    with pytest.raises(NotMedia, match="not a sound or video file") as caught:
        await speak_file(voice, path)
    assert str(tmp_path) not in str(caught.value)


async def test_a_file_without_a_sample_is_named_so(voice: SpeechQueue, tmp_path: Path) -> None:
    path = tmp_path / "empty.wav"
    with wave.open(str(path), "wb") as file:
        file.setparams((1, 2, RATE_HZ, 0, "NONE", ""))
    with pytest.raises(MediaError, match="holds no sound") as caught:
        await speak_file(voice, path)
    assert not isinstance(caught.value, NotMedia) and str(tmp_path) not in str(caught.value)


async def test_a_silent_file_is_a_voice_too(voice: SpeechQueue, tmp_path: Path) -> None:
    path = tmp_path / "silent.wav"
    path.write_bytes(sound_file(np.zeros(RATE_HZ, np.int16)))
    assert await speak_file(voice, path) == pytest.approx(1.0)


def test_samples_ship_and_speak() -> None:
    voices = sample_voices()
    assert len(voices) >= 1
    for path in voices.values():
        assert path.stat().st_size < 200_000
        samples = asyncio.run(all_of(path))
        assert 3 < len(samples) / RATE_HZ < 30 and loudness(samples) > 500


# --- text ---


def test_text_needs_espeak(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(speech_queue, "espeak", lambda: None)
    with pytest.raises(NoSpeech, match="not installed"):
        synthesise("hello", tmp_path / "out.wav")


@pytest.fixture
def espeak() -> None:
    if speech_queue.espeak() is None:
        pytest.skip("espeak-ng is not installed: apt-get install espeak-ng")


@pytest.mark.usefixtures("espeak")
@pytest.mark.parametrize("text", ["Good morning.", "--version", "$(touch owned); `id` & | > x"])
async def test_text_is_spoken_and_never_a_command(tmp_path: Path, text: str) -> None:
    path = tmp_path / "out.wav"
    synthesise(text, path, "en-us")
    assert loudness(await all_of(path)) > 300
    assert [p.name for p in tmp_path.iterdir()] == ["out.wav"]


@pytest.mark.usefixtures("espeak")
@pytest.mark.parametrize("language", ["zz", "../../etc/passwd", "-w", ""])
def test_a_language_that_is_none(tmp_path: Path, language: str) -> None:
    with pytest.raises(MediaError):
        synthesise("hello", tmp_path / "out.wav", language)


@pytest.mark.usefixtures("espeak")
def test_nothing_to_say(tmp_path: Path) -> None:
    with pytest.raises(MediaError, match="no text"):
        synthesise("  \n", tmp_path / "out.wav")
