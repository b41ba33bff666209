"""What is heard: levels, ducking, in any pieces."""

from __future__ import annotations

import numpy as np
import pytest
from fakes import voiced
from hypothesis import given, settings
from hypothesis import strategies as st
from sessions import DELAY_S, make

from lipwire.engine.audio.loudness import CEILING
from lipwire.engine.audio.mel import LOOKAHEAD_S
from lipwire.engine.audio.mixer import Mixer
from lipwire.engine.audio.source_timeline import SourceTimeline
from lipwire.engine.audio.timeline import SpeechTimeline
from lipwire.engine.config import EngineConfig
from lipwire.engine.errors import ConfigError
from lipwire.engine.types import I16

LOUD = np.full(48_000 * 4, 8_000, np.int16)


def scene(config: EngineConfig) -> tuple[Mixer, float]:
    """Four seconds of a constant original, a second of voice over it; where the voice begins."""
    speech = SpeechTimeline(config, LOOKAHEAD_S)
    original = SourceTimeline(0.0, 10.0)
    original.push(LOUD, 48_000, 0.0)
    start_s = speech.push(voiced(1.0, 48_000), 48_000, 0.5)
    speech.flush()
    return Mixer(speech, original, config), start_s


def pieces(mixer: Mixer, sizes: list[int]) -> I16:
    out = [mixer.read(size) for size in sizes]
    assert [chunk.start for chunk in out] == np.cumsum([0, *sizes[:-1]]).tolist()
    return np.concatenate([chunk.samples for chunk in out])


def test_the_original_gives_way_to_the_voice_smoothly_and_comes_back() -> None:
    config = EngineConfig(original_level=0.1, ducking=True)
    mixer, start_s = scene(config)
    heard = pieces(mixer, [960] * 180).astype(float)
    silent = SpeechTimeline(config, LOOKAHEAD_S)
    silent.push(voiced(1.0, 48_000), 48_000, 0.5)
    under = heard - silent.read(0, len(heard))
    at = lambda time_s: under[round(time_s * 48_000)]  # noqa: E731
    assert at(start_s - 0.3) == pytest.approx(8_000, abs=2)  # in full before
    assert at(start_s + 0.05) < 2_500 and at(start_s + 0.5) == pytest.approx(800, rel=0.02)
    assert at(start_s + 1.0) == pytest.approx(800, rel=0.02)
    assert at(start_s + 1.5) > 2_000 and at(start_s + 2.2) > 7_000
    assert np.abs(np.diff(under)).max() < 8_000 * 0.9 / (0.05 * 48_000) * 1.5  # no click


def test_without_ducking_the_level_stays() -> None:
    mixer, start_s = scene(EngineConfig(original_level=0.25))
    heard = pieces(mixer, [960] * 180)
    assert np.all(heard[: round(start_s * 48_000) - 100] == 2_000)
    assert np.all(heard[-48_000:] == 2_000)


def test_alone_the_voice_leaves_as_it_came() -> None:
    mixer, _ = scene(EngineConfig())
    loud = SpeechTimeline(EngineConfig(), LOOKAHEAD_S)
    loud.push(voiced(1.0, 48_000), 48_000, 0.5)
    assert np.array_equal(pieces(mixer, [960] * 100), loud.read(0, 96_000))


@settings(max_examples=25, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 9_000), min_size=1, max_size=40),
    ducking=st.booleans(),
    loudness=st.sampled_from([None, -14.0]),
    level=st.sampled_from([0.0, 0.3, 1.0]),
)
def test_in_any_pieces_the_same(
    sizes: list[int], ducking: bool, loudness: float | None, level: float
) -> None:
    config = EngineConfig(ducking=ducking, loudness_lufs=loudness, original_level=level)
    total = sum(sizes)
    by_blocks = pieces(scene(config)[0], [960] * (-(-total // 960)))[:total]
    by_pieces = pieces(scene(config)[0], sizes)
    assert np.abs(by_blocks.astype(int) - by_pieces).max(initial=0) <= 1
    if ducking or loudness is not None or level:
        assert np.abs(by_pieces.astype(int)).max(initial=0) <= np.ceil(CEILING * 32_768)


def test_what_is_changed_while_it_runs_glides() -> None:
    mixer, _ = scene(EngineConfig())
    mixer.read(960)
    mixer.change(original_level=0.5)
    heard = pieces_from(mixer, 24_000)
    assert np.abs(np.diff(heard.astype(int))).max() < 60
    assert heard[-9_600] >= 3_900
    mixer.change(original_level=0.0, loudness_lufs=-20.0)
    assert mixer.settings == {"original_level": 0.0, "ducking": False, "loudness_lufs": -20.0}
    assert abs(int(pieces_from(mixer, 12_000)[0]) - 4_000) < 100


def pieces_from(mixer: Mixer, count: int) -> I16:
    return mixer.read(count).samples


# --- as a session is heard ---


def test_the_original_voice_is_heard_at_its_level() -> None:
    session = make(EngineConfig(original_level=0.25))
    for index in range(50):
        session.push_original(np.full(960, 8000, np.int16), 48_000, 0.02 * index)
    voice = np.full(24_000, 1000, np.int16)
    start = round(session.push_speech(voice, 48_000, 0.0) * 48_000)
    heard = session.read_audio(48_000).samples
    assert not heard[: round(DELAY_S * 48_000)].any()
    assert np.all(heard[round(DELAY_S * 48_000) : start] == 2000)
    assert np.all(heard[start : start + 20_000] == 3000)


def test_the_original_is_not_heard_unless_asked_for() -> None:
    session = make()
    session.push_original(np.full(960, 8000, np.int16), 48_000, 0.0)
    assert not session.read_audio(9600).samples.any()
    session.set_sound(original_level=1.0)
    session.push_original(np.full(48_000, 8000, np.int16), 48_000, 0.3)
    heard = session.read_audio(48_000).samples  # it rises without a click
    assert heard.max() == 8000 and np.abs(np.diff(heard[12_000:].astype(int))).max() < 250
    for wrong in ({"original_level": 7.0}, {"loudness_lufs": 3.0}):
        with pytest.raises(ConfigError):
            session.set_sound(**wrong)


def test_a_loud_mix_is_limited_and_not_clipped() -> None:
    session = make(EngineConfig(original_level=1.0))
    for index in range(20):
        session.push_original(np.full(960, 30_000, np.int16), 48_000, 0.02 * index)
    session.push_speech(np.full(4_800, 30_000, np.int16), 48_000, 0.0)
    heard = session.read_audio(24_000).samples
    assert 29_000 < heard.max() <= np.ceil(CEILING * 32768)
    assert heard.min() >= 0


def test_off_line_the_original_lies_under_its_own_pictures() -> None:
    session = make(EngineConfig(offline=True, original_level=0.5))
    for index in range(100):  # all of it before anything is read
        session.push_original(np.full(4_800, 100 * index, np.int16), 48_000, 0.1 * index)
    heard = session.read_audio(480_000).samples.reshape(100, 4_800)
    assert np.array_equal(heard[:, 2_400], 50 * np.arange(100))
