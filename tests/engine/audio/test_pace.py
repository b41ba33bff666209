"""How soon a voice begins: at once where it has come already, else as far ahead as is listened."""

from __future__ import annotations

import numpy as np
import pytest
from fakes import voiced
from timelines import CONFIG, RATES, USUAL_S, ByHand, Call

from lipwire.engine.audio.vad import ONSET_S


@pytest.mark.parametrize("rate_hz", RATES)
def test_what_has_come_already_is_seen_in_the_next_picture_and_heard_soon(rate_hz: int) -> None:
    call, by_hand = Call(), ByHand(6.0)
    samples = voiced(1.5, rate_hz)
    call.until(3.0)
    start_s = call.push(samples, rate_hz)
    begin_s = 3.0 + CONFIG.delay_s + ONSET_S
    assert begin_s <= start_s < begin_s + 0.025  # as much as the resampler of 8 kHz keeps back
    by_hand.place(samples, rate_hz, start_s)
    call.until(5.5)
    first_s = next(s for (s, _), on in zip(call.windows, call.speaking, strict=True) if on)
    assert first_s == pytest.approx(3.04 + CONFIG.delay_s)  # the next picture after it came
    # What was painted before it came had heard silence, and is the original.
    call.windows = [(s, found) for s, found in call.windows if s >= first_s]
    by_hand.check(call)


@pytest.mark.parametrize("every_s", [0.03, 0.1])
def test_a_voice_that_was_fast_once_begins_sooner_the_next_time(every_s: float) -> None:
    """Synthesis in small pieces shows only after a while how fast it comes."""
    call, samples = Call(), voiced(2.0, 16_000)
    leads, holes = [], []
    for begins_s in (1.0, 8.0):
        starts = []
        for number, piece in enumerate(np.split(samples, 20)):
            call.until(begins_s + number * every_s)
            starts.append(call.push(piece, 16_000))
        leads.append(starts[0] - begins_s)
        holes.append(np.diff(starts).max() - 0.1)
    assert max(holes) < 1e-3
    assert leads[0] == pytest.approx(USUAL_S, abs=0.01)
    # As it is spoken, 10 pieces a second: never sooner.
    assert leads[1] == pytest.approx(USUAL_S - (0.1 if every_s < 0.1 else 0), abs=0.01)


def test_large_pieces_of_a_voice_that_is_being_spoken_run_dry_once() -> None:
    call, samples = Call(), voiced(5.0, 16_000)
    holes = []
    for begins_s in (1.0, 11.0, 21.0):
        starts = []
        for number, piece in enumerate(np.split(samples, 10)):
            call.until(begins_s + number * 0.5)
            starts.append(call.push(piece, 16_000))
        holes.append(int((np.diff(starts) > 0.5 + 1e-3).sum()))
    assert holes == [1, 0, 0]


def test_the_next_sentence_is_not_taken_for_one_that_ran_dry() -> None:
    call, leads = Call(), []
    for at_s in (1.0, 1.95, 5.0):  # the second just after the first has ended
        call.until(at_s)
        leads.append(call.push(voiced(0.8), 16_000) - at_s)
        call.speech.flush()
    assert max(leads) < USUAL_S - 0.1


def test_a_voice_called_live_keeps_its_distance() -> None:
    call = Call()
    call.until(2.0)
    start_s = call.speech.push(voiced(1.0), 16_000, 2.0, live=True)
    assert start_s >= 2.0 + USUAL_S
