"""Speech on the clock: what is heard and what is understood, against sound placed by hand."""

from __future__ import annotations

import numpy as np
import pytest
from fakes import voiced
from hypothesis import given, settings
from hypothesis import strategies as st
from timelines import CONFIG, RATES, ByHand, Call, in_pieces

from lipwire.engine.audio.mel import LOOKAHEAD_S, SILENCE, log_mel, window, window_start_at
from lipwire.engine.audio.sample_timeline import FADE_OUT_S
from lipwire.engine.audio.source_timeline import SourceTimeline
from lipwire.engine.audio.timeline import MOMENT, SpeechTimeline
from lipwire.engine.config import EngineConfig
from lipwire.engine.errors import BacklogFull, MediaError
from lipwire.engine.types import I16, PLAYOUT_RATE_HZ


@pytest.mark.parametrize("rate_hz", RATES)
@pytest.mark.parametrize("seed", [0, 1])
def test_streaming_equals_offline_through_the_whole_path(rate_hz: int, seed: int) -> None:
    call, by_hand = Call(), ByHand(9.0)
    call.until(0.5)
    # A burst in random pieces, faster than real time, flushed.
    first = voiced(1.3, rate_hz)
    start_s = expected_s = None
    for piece in in_pieces(first, seed, 3000):  # the first shorter than what may begin sooner
        begins_s = call.push(piece, rate_hz)
        if start_s is None:
            start_s = expected_s = begins_s
        assert begins_s == pytest.approx(expected_s, abs=1e-4)  # no hole between the pieces
        expected_s = begins_s + len(piece) / rate_hz
    call.speech.flush()
    assert start_s is not None
    by_hand.place(first, rate_hz, start_s)
    # A second utterance right behind it while the first is playing, at another rate.
    call.until(1.0)
    other_hz = RATES[(RATES.index(rate_hz) + 1) % len(RATES)]
    second = voiced(0.7, other_hz, seed=1)
    starts = [call.push(piece, other_hz) for piece in in_pieces(second, seed + 7)]
    assert starts[0] == pytest.approx(start_s + 1.3, abs=1e-3)
    by_hand.place(second, other_hz, starts[0])
    # After a gap, live: 20 ms at a time, as they are spoken; never flushed.
    call.until(5.0)
    third = voiced(2.0, rate_hz, seed=2)
    starts = []
    for index, piece in enumerate(np.split(third, 100)):
        call.until(5.0 + 0.02 * index)
        starts.append(call.push(piece, rate_hz))
    assert np.allclose(np.diff(starts), 0.02, atol=1e-4)
    by_hand.place(third, rate_hz, starts[0])
    call.until(8.5)
    by_hand.check(call)


@pytest.mark.parametrize("rate_hz", RATES)
def test_a_pause_is_followed_by_a_safe_start(rate_hz: int) -> None:
    call = Call()
    for now in (0.0, 3.0, 3.0, 7.77):
        paused = now != call.now or now == 0
        call.until(now)
        start_s = call.push(voiced(0.3, rate_hz), rate_hz)
        if paused:
            ahead_s = CONFIG.delay_s + LOOKAHEAD_S + CONFIG.speech_margin_s
            assert now + ahead_s <= start_s <= now + ahead_s + 0.12


def test_speech_that_follows_at_the_same_moment_as_a_picture_keeps_its_margin() -> None:
    call = Call()
    # A picture was begun at this very moment, and its window ends exactly where it may at most.
    now = 2.28
    call.until(now)
    start_s = call.push(voiced(0.02), 16_000)
    assert start_s >= now + CONFIG.delay_s + LOOKAHEAD_S + CONFIG.speech_margin_s


@pytest.mark.parametrize("rate_hz", [8_000, 16_000, 44_100, 48_000])
@pytest.mark.parametrize("seed", range(3))
def test_a_jittering_source_plays_without_holes(rate_hz: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    arrivals = np.sort(1.0 + 0.02 * np.arange(500) + rng.uniform(-0.04, 0.04, 500))
    arrivals[0] = 0.96  # the worst: the first as early as can be
    call = Call()
    samples = voiced(10.0, rate_hz)
    starts = []
    for piece, now in zip(np.split(samples, 500), arrivals, strict=True):
        call.until(now)
        starts.append(call.push(piece, rate_hz))
    assert np.allclose(np.diff(starts), 0.02, atol=1e-4)
    by_hand = ByHand(13.0)
    by_hand.place(samples, rate_hz, starts[0])
    call.until(12.5)
    by_hand.check(call)


def test_the_end_of_one_sentence_is_not_cut_by_the_next() -> None:
    call = Call()
    first = voiced(0.5, 16_000)
    call.until(1.0)
    starts = []
    for at_s in (1.0, 1.5):  # while its end is still to be heard
        call.until(at_s)
        starts.append(call.push(first, 16_000))
        call.speech.flush()
    call.until(3.0)
    by_hand = ByHand(3.5)
    for start_s in starts:
        by_hand.place(first, 16_000, start_s)
    heard = call.heard
    assert np.abs(heard.astype(int) - by_hand.heard[: len(heard)]).max() <= 2


def test_a_starved_source_resumes_with_its_margin_and_the_rest_follows() -> None:
    call = Call()
    first_s = call.push(voiced(0.1), 16_000)
    call.until(1.0)
    again_s = call.push(voiced(0.1), 16_000)
    assert again_s > first_s + 0.5
    assert call.push(voiced(0.1), 16_000) == pytest.approx(again_s + 0.1, abs=1e-4)


def test_a_burst_is_as_long_as_it_is_and_the_end_is_heard_without_a_flush() -> None:
    """Also where nobody shows pictures: no resampler may keep the last syllable."""
    for pictures in (True, False):
        call = Call(pictures=pictures)
        samples = voiced(0.5, 8_000)
        by_hand = ByHand(3.0)
        by_hand.place(samples, 8_000, call.push(samples, 8_000))
        call.until(2.0)
        by_hand.check(call)


def test_the_mouth_speaks_with_the_voice() -> None:
    call = Call()
    start_s = call.push(voiced(1.0), 16_000)
    call.until(3.0)
    for (shown_s, _), speaking in zip(call.windows, call.speaking, strict=True):
        if start_s <= shown_s <= start_s + 1.0:
            assert speaking
        if shown_s < start_s - 0.2 or shown_s > start_s + 1.6:
            assert not speaking


def test_asking_whether_it_speaks_changes_nothing() -> None:
    speech = SpeechTimeline(CONFIG, LOOKAHEAD_S)
    first_s = speech.push(voiced(0.1), 16_000, 0.0)
    for now in np.arange(0, 60, 0.5):
        speech.speaking(now)
        speech.backlog_s(now)
    assert speech.push(voiced(0.1), 16_000, 0.0) == pytest.approx(first_s + 0.1, abs=1e-4)


@pytest.mark.parametrize("rate_hz", RATES)
@pytest.mark.parametrize("at_s", [1.0, 1.003, 1.0199, 1.011, 1.75])
def test_an_interruption_is_quick_and_does_not_click(rate_hz: int, at_s: float) -> None:
    call = Call()
    samples = np.asarray(8_000 * np.sin(np.arange(3 * rate_hz) * 2 * np.pi * 200 / rate_hz))
    call.push(samples.astype(np.int16), rate_hz)
    call.until(at_s)
    end_s = call.speech.interrupt(at_s)
    assert at_s <= end_s <= at_s + 0.1
    assert call.speech.backlog_s(at_s) <= 0.1
    call.until(at_s + 2.0)
    heard = call.heard.astype(int)
    assert heard[: round(at_s * 48_000)].any()
    assert not heard[round((at_s + 0.1) * 48_000) :].any()
    steepest = 8_000 * 2 * np.pi * 200 / 48_000
    fade = FADE_OUT_S * 48_000
    around = heard[round((at_s - 0.1) * 48_000) :]  # the tone's own beginning rings a little
    assert np.abs(np.diff(around)).max() <= steepest + 8_000 / fade + 2
    # What is understood stops as well, and later speech plays whole.
    assert np.all(call.windows[-1][1] == SILENCE)
    assert not call.speaking[-1]
    again_s = call.push(voiced(0.5, rate_hz), rate_hz)
    call.until(at_s + 4.0)
    by_hand = ByHand(at_s + 5)
    by_hand.heard[: len(heard)] = heard
    by_hand.place(voiced(0.5, rate_hz), rate_hz, again_s)
    assert np.abs(call.heard.astype(int) - by_hand.heard[: len(call.heard)]).max() <= 2


def test_interrupting_silence_is_nothing() -> None:
    call = Call()
    call.speech.interrupt(0.0)
    call.until(1.0)
    call.speech.interrupt(1.0)
    call.until(2.0)
    assert not call.heard.any()
    assert call.push(voiced(0.1), 16_000) > 2.0


@pytest.mark.parametrize("pictures", [True, False])
def test_an_interruption_during_the_last_moments_does_not_click_either(pictures: bool) -> None:
    """The end of the voice may still be inside the resampler when the cut comes."""
    samples = np.asarray(8_000 * np.sin(np.arange(4_000) * 2 * np.pi * 202 / 8_000), np.int16)
    for left_s in np.arange(0.04, 0.22, 0.004):
        call = Call(pictures=pictures)
        start_s = call.push(samples, 8_000)
        call.until(start_s + 0.5 - left_s)
        end_s = call.speech.interrupt(call.now)
        call.until(2.0)
        heard = call.heard.astype(int)
        assert not heard[round(end_s * 48_000) + 1 :].any()
        cut = heard[round((end_s - 0.05) * 48_000) : round((end_s + 0.05) * 48_000)]
        assert np.abs(np.diff(cut)).max() <= 8_000 * 2 * np.pi * 202 / 48_000 + 20


def test_a_full_backlog_takes_nothing() -> None:
    config = EngineConfig(speech_backlog_max_s=2.0)
    call, other = Call(config), Call(config)
    for each in (call, other):
        each.push(voiced(1.5), 16_000)
    with pytest.raises(BacklogFull, match=r"s of voice would wait, at most 2 s may"):
        call.push(voiced(1.0), 16_000)
    for each in (call, other):
        each.until(1.0)
        assert each.push(voiced(0.5, seed=3), 16_000) > 1.5
        each.until(3.0)
    assert np.array_equal(call.heard, other.heard)
    assert call.speech.backlog_s(3.0) == 0.0


def test_the_backlog_is_what_waits() -> None:
    speech = SpeechTimeline(CONFIG, LOOKAHEAD_S)
    assert speech.backlog_s(0.0) == 0.0
    start_s = speech.push(voiced(2.0), 16_000, 0.0)
    assert speech.backlog_s(1.0) == pytest.approx(start_s + 1.0, abs=1e-3)
    assert speech.backlog_s(10.0) == 0.0


@pytest.mark.parametrize(
    ("samples", "rate_hz", "message"),
    [
        (np.zeros(10, np.float32), 16_000, r"int16\[N\], mono; got float32\[10\]"),
        (np.zeros((10, 2), np.int16), 16_000, r"got int16\[10, 2\]"),
        (np.zeros(10, np.int16), 7_999, "7999 Hz is outside"),
        (np.zeros(10, np.int16), 0, "0 Hz is outside"),
        (np.zeros(10, np.int16), -16_000, "outside"),
        (np.zeros(10, np.int16), 192_001, "192001 Hz is outside"),
    ],
)
def test_sound_that_cannot_be_used_is_refused(samples: I16, rate_hz: int, message: str) -> None:
    speech = SpeechTimeline(CONFIG, LOOKAHEAD_S)
    original = SourceTimeline(0.06)
    for timeline in (speech, original):
        with pytest.raises(MediaError, match=message):
            timeline.push(samples, rate_hz, 0.0)
    assert speech.backlog_s(0.0) == 0.0


def test_an_empty_push_schedules_nothing() -> None:
    speech = SpeechTimeline(CONFIG, LOOKAHEAD_S)
    speech.push(np.zeros(0, np.int16), 16_000, 0.0)
    assert speech.backlog_s(0.0) == 0.0
    first_s = speech.push(voiced(0.1), 16_000, 5.0)
    assert first_s >= 5.0 + CONFIG.delay_s + LOOKAHEAD_S + CONFIG.speech_margin_s


def test_hours_of_silence_cost_no_memory() -> None:
    speech = SpeechTimeline(CONFIG, LOOKAHEAD_S)
    for hour in range(100):
        start_s = speech.push(voiced(0.1, 24_000), 24_000, hour * 3600.0)
        assert 0 < start_s - hour * 3600 < 0.6
    assert speech.nbytes < 4e6
    start = round(start_s * PLAYOUT_RATE_HZ)
    assert speech.read(start, start + 4_800).any()


def test_a_day_long_voice_costs_the_memory_of_seconds() -> None:
    call = Call()
    minute = voiced(10.0)
    for index in range(12):
        call.until(10.0 * index)
        call.push(minute, 16_000)
    assert call.speech.nbytes < 10e6  # two minutes would be 15 MB, in arrays of twice that


def test_what_was_just_played_can_still_be_understood() -> None:
    """A picture that took long is made from the window of its own time."""
    call = Call()
    start_s = call.push(voiced(10.0), 16_000)
    call.until(8.0)
    by_hand = ByHand(12.0)
    by_hand.place(voiced(10.0), 16_000, start_s)
    found = call.speech.mel_window(6.0)
    wanted = window(log_mel(by_hand.understood.astype(np.float32) / 32768), window_start_at(6.0))
    assert np.abs(found - wanted).max() < 1e-4


@settings(max_examples=60, deadline=None)
@given(
    events=st.lists(
        st.tuples(
            st.sampled_from(["wait", "push", "flush", "interrupt", "stats"]),
            st.floats(0, 0.7),
            st.sampled_from(RATES),
        ),
        max_size=25,
    )
)
def test_no_order_of_events_changes_what_was_heard_or_breaks_a_window(
    events: list[tuple[str, float, int]],
) -> None:
    call = Call()
    for name, amount, rate_hz in events:
        if name == "wait":
            call.until(call.now + amount)
        elif name == "push":
            call.push(voiced(round(amount, 2), rate_hz), rate_hz)
        elif name == "flush":
            call.speech.flush()
        elif name == "interrupt":
            call.speech.interrupt(call.now)
        else:
            call.speech.speaking(call.now + 1)
    call.until(call.now + 1.0)
    heard = call.heard
    again = call.speech.read(0, len(heard))
    kept = max(0, len(heard) - 3 * PLAYOUT_RATE_HZ)  # older sound may be forgotten
    assert np.array_equal(heard[kept:], again[kept:])
    assert all(found.shape == (80, 16) for _, found in call.windows)


# --- off-line ---


def test_offline_speech_begins_at_zero_and_has_no_pauses() -> None:
    config = EngineConfig(offline=True)
    speech = SpeechTimeline(config, LOOKAHEAD_S)
    samples = voiced(3.0, 24_000)
    by_hand = ByHand(4.0)
    by_hand.place(samples, 24_000, 0.0)
    mel = log_mel(by_hand.understood.astype(np.float32) / 32768)
    starts: list[float] = []
    pieces = iter(np.split(samples, 6))
    for frame in range(60):  # pushed half a second ahead of the pictures, at their times
        shown_s = frame / 25
        while (len(starts) * 0.5) < min(shown_s + 0.6, 3.0):
            starts.append(speech.push(next(pieces), 24_000, shown_s))
        found = speech.mel_window(shown_s)
        wanted = window(mel, window_start_at(shown_s))
        assert np.abs(found - wanted)[wanted > -2].max(initial=0) < 0.02
    assert np.allclose(starts, np.arange(6) * 0.5, atol=1e-4)
    speech.flush()
    assert np.abs(speech.read(0, 144_000).astype(int) - by_hand.heard[:144_000]).max() <= 2


def test_a_picture_that_stands_hears_a_moment_of_that_time_as_far_as_it_is_known() -> None:
    known, voice = SpeechTimeline(CONFIG, LOOKAHEAD_S), voiced(2.0)
    start_s = known.push(voice, 16_000, 0.0)
    at_s = start_s + 0.5
    for stands_s in (0.04, 0.1):
        later = known.mel_window(at_s + MOMENT * stands_s)
        assert np.array_equal(known.mel_window(at_s, stands_s=stands_s), later)
        assert not np.array_equal(known.mel_window(at_s), later)
    # A voice of which just enough has come is not cut for it.
    late = SpeechTimeline(CONFIG, LOOKAHEAD_S)
    late.push(voice[: round((0.5 + LOOKAHEAD_S + 0.014) * 16_000)], 16_000, 0.0)
    window = late.mel_window(at_s, stands_s=0.2)
    assert np.array_equal(window, known.mel_window(at_s + 0.0125))
    late.push(voice[round((0.5 + LOOKAHEAD_S + 0.014) * 16_000) :], 16_000, 0.2)
    first, stop = round((start_s + 0.1) * 48_000), round((start_s + 1.5) * 48_000)
    assert np.array_equal(late.read(first, stop), known.read(first, stop))


def test_windows_ahead_are_those_that_pictures_will_be_given_then() -> None:
    line = SpeechTimeline(CONFIG, LOOKAHEAD_S)
    start_s = line.push(voiced(1.0), 16_000, 0.0)
    ahead = line.mel_ahead(start_s, 16, 4, 0.04)
    assert len(ahead) == 4
    for k, coming in enumerate(ahead, 1):
        assert (coming == line.mel_window(start_s + k * 0.04, 16)).all()


def test_windows_ahead_end_where_the_voice_is_not_known_and_change_nothing() -> None:
    line, other = SpeechTimeline(CONFIG, LOOKAHEAD_S), SpeechTimeline(CONFIG, LOOKAHEAD_S)
    for one in (line, other):
        one.push(voiced(0.5), 16_000, 0.0)
    assert line.mel_ahead(9.0, 16, 4, 0.04) == ()
    near_s = 0.3
    assert 0 < len(line.mel_ahead(near_s, 16, 40, 0.04)) < 40
    for one in (line, other):
        one.push(voiced(0.5), 16_000, 0.1)
    assert (line.mel_window(0.9, 16) == other.mel_window(0.9, 16)).all()
