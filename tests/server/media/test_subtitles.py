"""Text at the time of its voice: scheduling, limits, interruption, WebVTT."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import numpy as np
import pytest
from calls import tone, until
from fakes import voiced

from lipwire.engine import Engine, MediaError, Session
from lipwire.server.call import speech_queue
from lipwire.server.call.speech_queue import SpeechQueue
from lipwire.server.media.subtitles import (
    BURST,
    LINE,
    MAX_WAITING,
    Cue,
    Subtitles,
    TooManySubtitles,
    check_text,
    split_text,
    vtt_cue,
)


class Stage:
    """Subtitles on a clock that the test moves."""

    def __init__(self) -> None:
        self.now, self.told, self.cleared = 100.0, list[Cue](), 0
        self.subtitles = Subtitles(lambda: self.now, self.told.append, self._clear)

    def _clear(self) -> None:
        self.cleared += 1


@pytest.fixture
async def session(engine: Engine) -> AsyncIterator[Session]:
    made = engine.session()
    yield made
    engine.end(made)


async def test_a_subtitle_waits_for_its_voice_and_lasts_as_long() -> None:
    stage = Stage()
    run = asyncio.create_task(stage.subtitles.run())
    assert stage.subtitles.add("Good evening.", "en", (104.0, 106.5)) == 4.0
    assert stage.subtitles.add("First.", None, (100.02, 101.0)) == pytest.approx(0.02)
    stage.now = 100.02
    await until(lambda: len(stage.told) == 1, "the one that is due")
    await asyncio.sleep(0.05)
    assert [cue.text for cue in stage.told] == ["First."]
    stage.now = 104.0
    stage.subtitles.add("later", None, (110.0, 111.0))  # wakes it
    await until(lambda: len(stage.told) == 2, "the next")
    assert stage.told[1] == Cue(104.0, 2.5, "Good evening.", "en")
    assert stage.told[1].event() == {
        "type": "subtitle",
        "text": "Good evening.",
        "language": "en",
        "duration_s": 2.5,
    }
    run.cancel()


async def test_text_without_a_voice_follows_what_is_there_at_reading_speed() -> None:
    stage = Stage()
    assert stage.subtitles.add("x" * 30) == 0
    assert stage.subtitles.add("y" * 15, duration_s=3.0) == 2.0
    assert stage.subtitles.add("z") == 5.0
    assert stage.subtitles.add("late", span=(90.0, 95.0)) == 5.5  # was heard long ago


async def test_an_interruption_drops_what_is_unheard_and_clears_what_is_shown() -> None:
    stage = Stage()
    run = asyncio.create_task(stage.subtitles.run())
    stage.subtitles.add("heard", span=(100.0, 103.0))
    stage.subtitles.add("never", span=(103.0, 104.0))
    await until(lambda: len(stage.told) == 1, "the first")
    stage.now = 101.0
    stage.subtitles.interrupt()
    assert stage.cleared == 1
    stage.now = 200.0
    stage.subtitles.interrupt()  # nothing is shown any more
    await asyncio.sleep(0.05)
    assert len(stage.told) == 1 and stage.cleared == 1
    run.cancel()


async def test_too_many_are_refused_until_they_slow_down() -> None:
    stage = Stage()
    for index in range(BURST):
        stage.subtitles.add(str(index))
    with pytest.raises(TooManySubtitles, match="a second"):
        stage.subtitles.add("one more")
    for index in range(MAX_WAITING - BURST):
        stage.now += 0.2
        stage.subtitles.add(str(index), span=(1000, 1001))
    stage.now += 10
    with pytest.raises(TooManySubtitles, match="wait"):
        stage.subtitles.add("one more")
    stage.subtitles.add_spoken("Also left out. " * 30, "en", 1.0, 20.0)  # and no exception


@pytest.mark.parametrize(
    ("text", "language", "duration_s", "named"),
    [
        ("", None, None, "no text"),
        (" \x00\n ", None, None, "no text"),
        ("x" * 501, None, None, "501"),
        ("hi", "a b", None, "language"),
        ("hi", "d", None, "language"),
        ("hi", "de", 0.1, "duration_s"),
        ("hi", "de", float("nan"), "duration_s"),
        ("hi", "de", float("inf"), "duration_s"),
    ],
)
async def test_what_cannot_be_shown_is_refused(
    text: str, language: str | None, duration_s: float | None, named: str
) -> None:
    with pytest.raises(MediaError, match=named):
        Stage().subtitles.add(text, language, None, duration_s)


def test_text_is_cleaned() -> None:
    assert check_text("  one\r\n\r\n\ntwo\x07\u2028 ", "en-US") == "one\ntwo"


def test_long_text_is_cut_between_sentences_and_words() -> None:
    text = "First sentence. " + "word " * 40 + "end! " + "長" * 200
    pieces = split_text(text)
    assert pieces[0] == "First sentence." and max(map(len, pieces)) <= LINE
    assert "".join(pieces).replace(" ", "") == text.replace(" ", "")
    assert split_text("  ") == []


def test_webvtt_escapes_what_would_be_markup() -> None:
    cue = Cue(3725.5, 1.25, "a < b & c --> d\nsecond", "de")
    assert vtt_cue(cue, 0.5) == (
        "01:02:05.000 --> 01:02:06.250\n<lang de>a &lt; b &amp; c --&gt; d\nsecond</lang>\n\n"
    )
    assert vtt_cue(Cue(1.0, 1.0, "x", None), 5.0).startswith("00:00:00.000")


# --- with a voice ---


async def test_the_span_is_what_was_pushed_since_the_last_subtitle(
    engine: Engine, session: Session
) -> None:
    voice = SpeechQueue(session, engine.clock)
    assert voice.take_span() is None
    await voice.push(tone(1.0, rate_hz=24_000), 24_000)
    await voice.push(tone(1.0, rate_hz=24_000), 24_000)
    span = voice.take_span()
    assert span is not None and span[0] > engine.clock() and span[1] - span[0] > 1.9
    await voice.push(tone(0.5, rate_hz=24_000), 24_000)
    following = voice.take_span()
    assert following is not None and abs(following[0] - span[1]) < 0.05
    assert voice.take_span() is None
    await voice.push(tone(0.5, rate_hz=24_000), 24_000)
    voice.interrupt()
    assert voice.take_span() is None  # that voice will not be heard
    voice.push_live(tone(0.02), 48_000)
    assert voice.take_span() is None


async def test_spoken_text_is_its_own_subtitle(
    engine: Engine, session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    def synthesise(text: str, path: Path, language: str) -> None:
        import wave

        with wave.open(str(path), "wb") as file:
            file.setparams((1, 2, 24_000, 0, "NONE", ""))
            file.writeframes(voiced(4.0, 24_000).tobytes())

    monkeypatch.setattr(speech_queue, "synthesise", synthesise)
    told: list[Cue] = []
    voice = SpeechQueue(session, engine.clock)
    subtitles = Subtitles(engine.clock, told.append)
    voice.on_text = subtitles.add_spoken
    run = asyncio.create_task(subtitles.run())
    before_s = engine.clock()
    seconds = await speech_queue.speak_text(voice, "One sentence. Another one.", "en")
    assert seconds == pytest.approx(4.0, abs=0.1)
    assert voice.take_span() is None
    await until(lambda: len(told) == 2, "both")
    assert [cue.text for cue in told] == ["One sentence.", "Another one."]
    assert told[0].start_s > before_s
    assert np.isclose(told[0].end_s, told[1].start_s)
    assert np.isclose(told[1].end_s - told[0].start_s, 4.0, atol=0.05)
    run.cancel()
