"""When the voice speaks: speech against silence, in any pieces, with onset and hangover."""

from __future__ import annotations

import numpy as np
import pytest
from fakes import voiced
from hypothesis import given, settings
from hypothesis import strategies as st

from lipwire.engine.audio.vad import FRAME, HANGOVER_S, ONSET_S, VoiceActivity
from lipwire.engine.types import I16, SPEECH_RATE_HZ

FRAME_S = FRAME / SPEECH_RATE_HZ


def silence(seconds: float) -> I16:
    return np.zeros(round(seconds * SPEECH_RATE_HZ), np.int16)


def flags(vad: VoiceActivity, seconds: float) -> list[bool]:
    """What it says at every hundredth of a second."""
    return [vad.speaking(i / 100) for i in range(round(seconds * 100))]


def test_speech_speaks_and_silence_does_not() -> None:
    vad = VoiceActivity()
    vad.append(np.concatenate([silence(1), voiced(2.0), silence(1)]))
    assert all(vad.speaking(t) for t in np.arange(1.0, 3.0, 0.01))
    assert not any(vad.speaking(t) for t in np.arange(0, 1 - ONSET_S - 2 * FRAME_S, 0.01))
    # The detector itself lingers a little after the sound.
    assert not any(vad.speaking(t) for t in np.arange(3 + HANGOVER_S + 0.2, 4, 0.01))


def test_the_mouth_opens_before_the_sound_and_closes_after_it() -> None:
    vad = VoiceActivity()
    vad.append(np.concatenate([silence(1), voiced(1.0), silence(1)]))
    said = flags(vad, 3)
    first, last = said.index(True) / 100, (len(said) - said[::-1].index(True)) / 100
    assert 1 - ONSET_S - FRAME_S <= first <= 1 - ONSET_S + 2 * FRAME_S
    assert 2 + HANGOVER_S - FRAME_S <= last <= 2 + HANGOVER_S + 0.2


def test_pauses_inside_a_sentence_do_not_flicker() -> None:
    vad = VoiceActivity()
    word = voiced(0.4)
    vad.append(np.concatenate([word, silence(0.25), word, silence(0.25), word]))
    assert all(flags(vad, 1.7))


@pytest.mark.parametrize("level", [0, 20, 60])
def test_faint_noise_is_silence(level: int) -> None:
    vad = VoiceActivity()
    rng = np.random.default_rng(0)
    vad.append(np.asarray(rng.uniform(-level, level, 2 * SPEECH_RATE_HZ), np.int16))
    assert not any(flags(vad, 2))


def test_what_has_not_been_heard_is_silence() -> None:
    vad = VoiceActivity()
    assert not vad.speaking(0.0)
    assert not vad.speaking(100.0)
    vad.append(voiced(1.0))
    assert not vad.speaking(1 + HANGOVER_S + 2 * FRAME_S)
    assert not vad.speaking(-5.0)


SCENE = np.concatenate([silence(0.3), voiced(0.7), silence(0.6), voiced(0.3, seed=1)])
WHOLE = VoiceActivity()
WHOLE.append(SCENE)
SAID = flags(WHOLE, 2.2)


@settings(max_examples=40, deadline=None)
@given(cuts=st.lists(st.integers(0, len(SCENE)), max_size=80))
def test_any_pieces_give_the_same_flags(cuts: list[int]) -> None:
    vad = VoiceActivity()
    for piece in np.split(SCENE, sorted(cuts)):
        vad.append(piece)
    assert flags(vad, 2.2) == SAID


@settings(max_examples=40, deadline=None)
@given(count=st.integers(0, 40_000))
def test_silence_given_as_a_number_is_silence_given_as_samples(count: int) -> None:
    one, other = VoiceActivity(), VoiceActivity()
    for vad in (one, other):
        vad.append(voiced(0.31))
    one.append_silence(count)
    other.append(np.zeros(count, np.int16))
    for vad in (one, other):
        vad.append(voiced(0.3))
    seconds = count / SPEECH_RATE_HZ + 1
    assert flags(one, seconds) == flags(other, seconds)


@settings(max_examples=30, deadline=None)
@given(cut=st.integers(0, 2 * SPEECH_RATE_HZ))
def test_speech_taken_back_is_not_spoken(cut: int) -> None:
    vad = VoiceActivity()
    vad.append(voiced(2.0))
    vad.truncate(cut)
    vad.append(silence(2))
    cut_s = cut / SPEECH_RATE_HZ
    assert not any(vad.speaking(t) for t in np.arange(cut_s + HANGOVER_S + 0.2, cut_s + 1.9, 0.05))
    # Where speech stood is not forgotten, and the timeline has not shifted.
    if cut_s > 0.1:
        assert vad.speaking(cut_s - 0.05)
    vad.append(voiced(0.5))
    assert vad.speaking(cut_s + 2.2)
    assert not vad.speaking(cut_s + 2.0 - ONSET_S - 3 * FRAME_S)


def test_forgetting_leaps_ahead_on_the_same_timeline() -> None:
    vad = VoiceActivity(seconds=10)
    vad.append(voiced(1.0))
    start = 1000 * SPEECH_RATE_HZ + 123  # not a whole frame
    vad.forget(start)
    vad.append(silence(1)[123:])
    vad.append(voiced(1.0))
    assert not vad.speaking(1000.5)
    assert vad.speaking(1001.5)
    assert not vad.speaking(1001.0 - ONSET_S - 3 * FRAME_S)
    vad.forget(0)  # nothing to do: it is long gone
    assert vad.speaking(1001.5)


def test_taking_back_more_than_is_kept_leaves_silence() -> None:
    vad = VoiceActivity(seconds=1)
    vad.append(voiced(3.0))
    vad.truncate(0)
    assert not any(flags(vad, 2 - HANGOVER_S))


def key_tones() -> I16:
    """A telephone number, dialled: pairs of tones for 120 ms each."""
    time_s = np.arange(2 * 16_000) / 16_000
    sound = np.zeros(len(time_s))
    for key, (low, high) in enumerate([(697, 1209), (770, 1336), (852, 1477), (941, 1336)] * 2):
        on = slice(int(0.25 * key * 16_000), int((0.25 * key + 0.12) * 16_000))
        sound[on] = np.sin(2 * np.pi * low * time_s[on]) + np.sin(2 * np.pi * high * time_s[on])
    return np.asarray(4_000 * sound, np.int16)


def hum() -> I16:
    time_s = np.arange(2 * 16_000) / 16_000
    tones = sum(np.sin(2 * np.pi * hz * time_s) / (hz / 50) for hz in (50, 100, 150))
    return np.asarray(3_000 * tones, np.int16)


def click() -> I16:
    sound = np.zeros(16_000, np.int16)
    sound[8_000:8_160] = np.random.default_rng(0).normal(0, 9_000, 160).astype(np.int16)
    return sound


def noise(colour: float) -> I16:
    """Two seconds of noise, some 20 dB below speech, its spectrum falling by 3 dB * colour."""
    rng = np.random.default_rng(0)
    spectrum = np.fft.rfft(rng.normal(size=32_000)) / (np.fft.rfftfreq(32_000) + 0.01) ** colour
    sound = np.fft.irfft(spectrum)
    return np.asarray(1_000 * sound / sound.std(), np.int16)


@pytest.mark.parametrize("colour", [0.0, 0.5, 1.0])
def test_noise_that_begins_after_speech_is_none(colour: float) -> None:
    """webrtcvad alone takes all three for speech."""
    vad = VoiceActivity()
    vad.append(np.concatenate([voiced(1.0), noise(colour)]))
    assert all(vad.speaking(t) for t in np.arange(0.0, 1.0, 0.02))
    assert not any(vad.speaking(t) for t in np.arange(1.4, 3.0, 0.02))


@pytest.mark.parametrize("sound", [key_tones(), hum(), click()], ids=["keys", "hum", "click"])
def test_what_is_no_voice_does_not_open_the_mouth(sound: I16) -> None:
    vad = VoiceActivity()
    vad.append(sound)
    assert not any(vad.speaking(t) for t in np.arange(0.0, len(sound) / 16_000, 0.02))


def test_a_voice_is_heard_over_hum() -> None:
    vad = VoiceActivity()
    vad.append(np.asarray(hum() // 4 + voiced(2.0), np.int16))
    assert all(vad.speaking(t) for t in np.arange(0.1, 1.9, 0.02))


def test_nothing_lingers_after_a_cut() -> None:
    vad = VoiceActivity()
    vad.append(voiced(2.0))
    vad.truncate(16_000)
    assert vad.speaking(0.9) and not vad.speaking(1.0)
    vad.append(voiced(1.0))
    assert vad.speaking(1.1)
