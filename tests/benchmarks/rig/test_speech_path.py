"""The voice's way: stages that add up, block for block."""

from __future__ import annotations

from typing import Any

import pytest

from lipwire.benchmarks.rig.client import BURST_S
from lipwire.benchmarks.rig.speech_path import CODEC_LAG_S, STAGES, table, ways
from lipwire.engine.trace import SOUND_POINTS, VOICE_POINTS

RATE_HZ, BLOCK = 48_000, 960
EPOCH_S, START, ORIGIN = 100.0, 4_321, 77_000  # of the session, of the voice, of the caller's pts


def notes(pieces: int = 8, lag_s: float = CODEC_LAG_S / 2) -> dict[str, Any]:
    """A call in which every stage but the wait takes a millisecond, and the wait the rest."""
    voice, sound, sounds, spoken = [], [], [], []
    for n in range(pieces):
        place = START + round(n * BURST_S * RATE_HZ)
        sent_s = EPOCH_S + place / RATE_HZ - 2.0
        spoken.append(sent_s)
        times = {point: sent_s + 0.001 * (k + 1) for k, point in enumerate(VOICE_POINTS)}
        voice.append({"place": place, **times})
    stop = START + round(pieces * BURST_S * RATE_HZ)
    for place in range(0, stop + 10 * BLOCK, BLOCK):
        due_s = EPOCH_S + place / RATE_HZ
        times = {point: due_s + 0.001 * k for k, point in enumerate(SOUND_POINTS)}
        sound.append({"place": place, **times})
        home = times["sent"]
        marks = {
            p: home + 0.001 * (k + 1) for k, p in enumerate(("received", "decoding", "decoded"))
        }
        sounds.append([home + 0.004, place + ORIGIN, marks])
    clicks = []
    for n in range(0, pieces, round(1 / BURST_S)):
        heard = (voice[n]["place"] + ORIGIN) / RATE_HZ + lag_s
        clicks.append([heard, voice[n]["place"] / RATE_HZ + EPOCH_S + 0.03])
    return {
        "voice": voice,
        "sound": sound,
        "sounds": sounds,
        "spoken": spoken,
        "clicks": clicks,
        "since_s": EPOCH_S + 1.0,
        "until_s": EPOCH_S + 3.0,
    }


@pytest.mark.parametrize("lag_s", [-0.004, 0.0, CODEC_LAG_S])
def test_every_block_finds_its_piece_and_its_stages_add_up(lag_s: float) -> None:
    found = ways(notes(lag_s=lag_s))
    assert len(found) == 100  # two seconds
    for way in found:
        assert sum(way.stages_s.values()) == pytest.approx(way.whole_s)
        assert way.after_due_s == pytest.approx(0.008)
        for name, took_s in way.stages_s.items():
            if name != "wait until it is due":
                assert took_s == pytest.approx(0.001)
    # The first block of a piece waits for two seconds, the last half a second more.
    waits_s = [way.stages_s["wait until it is due"] for way in found]
    assert 1.99 < min(waits_s) < 2.02 and 2.47 < max(waits_s) < 2.5


def test_the_table_has_every_stage_and_means_that_add_up() -> None:
    rows = table(ways(notes()))
    assert [row["stage"] for row in rows] == [*STAGES, "mouth to ear"]
    assert sum(row["mean_ms"] for row in rows[:-1]) == pytest.approx(rows[-1]["mean_ms"])
    assert len(STAGES) == len(VOICE_POINTS) + len(SOUND_POINTS) + 4


def test_silence_is_no_voice() -> None:
    noted = notes()
    noted["until_s"] = EPOCH_S + 99
    ends_s = EPOCH_S + START / RATE_HZ + 8 * BURST_S
    last = max(way.whole_s for way in ways(noted))
    assert last < 2.0 + BURST_S + 0.05 and ends_s < noted["until_s"]


def test_without_clicks_or_voice_there_is_no_way() -> None:
    for lacking in ("voice", "sound", "clicks", "sounds"):
        assert ways({**notes(), lacking: []}) == []
    assert table([])[-1]["mean_ms"] is None
