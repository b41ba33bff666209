"""What the synthesisers say of when each sound is made, against the sound itself."""

from __future__ import annotations

import numpy as np
import pytest

from engine.errors import ConfigError
from engine.media import as_float
from engine.types import SPEECH_RATE_HZ
from training import texts
from training.synthesis import Espeak, Utterance, flite_say
from training.visemes import visemes_of


def _loudness(said: Utterance, start_s: float, end_s: float) -> float:
    part = as_float(said.speech)[int(start_s * SPEECH_RATE_HZ) : int(end_s * SPEECH_RATE_HZ)]
    return float(np.sqrt(np.mean(np.square(part))))


def test_phones_follow_each_other_to_the_end(espeak: Espeak) -> None:
    said = espeak.say("Papa bought a bed.", "en-us")
    names = [ipa for ipa, _, _ in said.phones]
    assert names[:4] == ["p", "ɑː", "p", "ə"]
    for (_, _, end_s), (_, start_s, _) in zip(said.phones, said.phones[1:], strict=False):
        assert start_s == end_s
    assert said.phones[-1][2] == pytest.approx(len(said.speech) / SPEECH_RATE_HZ, abs=0.01)


def test_a_stops_closure_belongs_to_the_stop(espeak: Espeak) -> None:
    said = espeak.say("Papa papa papa.", "en-us")
    stops = [(a, b) for ipa, a, b in said.phones if ipa == "p"][1:]
    vowels = [(a, b) for ipa, a, b in said.phones if ipa.startswith("ɑ")]
    assert min(b - a for a, b in stops) > 0.05
    # The 20 ms after a stop's start are silent, the middle of a vowel is loud.
    assert max(_loudness(said, a + 0.005, a + 0.025) for a, _ in stops) < 0.01
    assert min(_loudness(said, (a + b) / 2 - 0.01, (a + b) / 2 + 0.01) for a, b in vowels) > 0.05


def test_pauses_are_silent_and_sounds_are_not(espeak: Espeak) -> None:
    said = espeak.say("One, two, three.", "en-us")
    pauses = [(a, b) for ipa, a, b in said.phones if not ipa]
    assert sum(b - a for a, b in pauses) > 0.2
    assert max(_loudness(said, a + 0.02, b) for a, b in pauses if b - a > 0.05) < 0.01


def test_voices_differ(espeak: Espeak) -> None:
    a, b = (espeak.say("Hello there.", v).speech for v in ("en-us", "en-us+f3"))
    assert len(a) != len(b) or not np.array_equal(a, b)
    slow, quick = (len(espeak.say("Hello there.", rate=r).speech) for r in (120, 240))
    assert slow > 1.4 * quick
    with pytest.raises(ConfigError, match="no voice 'klingon-x'"):
        espeak.say("Hello", "klingon-x")


@pytest.mark.parametrize("language", texts.LANGUAGES)
def test_every_language_speaks_in_sounds_that_we_know(espeak: Espeak, language: str) -> None:
    rng = np.random.default_rng(0)
    found = set()
    for _ in range(3):
        said = espeak.say(texts.sentence(language, rng), language, rate=300)
        found |= {viseme for ipa, _, _ in said.phones for viseme in visemes_of(ipa)}
    assert len(found) >= 7


def test_flite_gives_times_too() -> None:
    try:
        said = flite_say("Papa bought a bed.", "slt")
    except ConfigError as error:
        pytest.skip(str(error))
    assert [ipa for ipa, _, _ in said.phones][:4] == ["", "p", "ɑ", "p"]
    assert said.phones[-1][2] == pytest.approx(len(said.speech) / SPEECH_RATE_HZ, abs=0.03)
    with pytest.raises(ConfigError, match="no voice 'hal'"):
        flite_say("Hello", "hal")
