"""The pyramid voice: one window says what the whole recording does; earlier voices still load."""

from __future__ import annotations

import pytest
import torch

from lipwire.engine.errors import ConfigError
from lipwire.engine.nets import make_network
from lipwire.engine.nets.lite import LiteConfig, LiteNet, Voice
from lipwire.engine.nets.voice import TAPS, PyramidVoice, columns_of


@pytest.mark.parametrize("taps", [TAPS, (3, 3), (2, 3, 5)])
def test_a_window_says_what_the_recording_says_there(taps: tuple[int, ...]) -> None:
    """Training is dense over recordings, use is one window after the other: streaming = offline."""
    torch.manual_seed(0)
    voice = PyramidVoice(32, taps, 7).eval()
    columns = columns_of(taps)
    mel = torch.rand(2, 80, columns + 30) * 8 - 4
    with torch.no_grad():
        said = voice.along(mel)
        assert said.codes.shape[1] == said.taught.shape[1] == 16
        for moment in range(16):
            window = mel[:, :, 2 * moment : 2 * moment + columns]
            torch.testing.assert_close(voice.spoken(window), said.codes[:, moment])


def test_the_shipped_sizes_hear_a_second_of_past() -> None:
    assert columns_of(TAPS) == 96  # 173 ms ahead of the picture and 1 s back, at 80 a second


def test_a_bundle_says_which_voice_it_has() -> None:
    assert isinstance(LiteNet(LiteConfig()).voice, Voice), "as bundles from before say nothing"
    settings = LiteConfig(mel_columns=16, voice_width=32, voice_taps=(3, 3)).to_dict()
    net = make_network("lite", settings | {"voice_taps": [3, 3]})  # as JSON has it
    assert isinstance(net, LiteNet) and isinstance(net.voice, PyramidVoice)
    assert net.voice.lips is None, "nor that it tells shut lips"
    told = make_network("lite", settings | {"voice_taps": [3, 3], "voice_lips": True})
    assert isinstance(told, LiteNet) and isinstance(told.voice, PyramidVoice)
    assert told.voice.lips is not None
    with pytest.raises(ConfigError, match="reach 16 mel columns, not 24"):
        make_network("lite", settings | {"mel_columns": 24})


def test_lips_are_drawn_together_by_their_chance_and_codes_follow() -> None:
    torch.manual_seed(0)
    mel = torch.rand(1, 80, 16) * 8 - 4
    plain = PyramidVoice(32, (3, 3), 7).eval()
    voice = PyramidVoice(32, (3, 3), 7, lips=True).eval()
    voice.load_state_dict(plain.state_dict(), strict=False)
    assert voice.lips is not None
    with torch.no_grad():
        mouth = plain.spoken(mel)
        torch.testing.assert_close(voice.spoken(mel), mouth)  # until it is trained
        voice.lips.follow.copy_(torch.tensor([1.0, 0.9, 0, 0.5, 0, 0, 0]))
        voice.lips.out.weight.zero_()
        for odds, share in ((-9.0, 0.0), (-0.8473, 0.5), (9.0, 1.0)):  # a chance of 0.3 between
            voice.lips.out.bias.fill_(odds)
            for shut in (mouth[0, 0] - 0.4, mouth[0, 0] + 0.4):
                voice.lips.shut.copy_(shut)
                lowered = max(0.0, float(mouth[0, 0] - shut)) * share  # never opened by it
                wanted = mouth - lowered * voice.lips.follow
                torch.testing.assert_close(voice.spoken(mel), wanted, atol=1e-3, rtol=0)
        voice.gain.fill_(2.0)
        still, once, twice = (voice(mel, torch.full((1, 7), reach)) for reach in (0.0, 1.0, 2.0))
    torch.testing.assert_close(twice - still, 2 * (once - still))  # as units' costs assume
