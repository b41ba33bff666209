"""Another server judged from outside: what was sent and what came back give the delays between."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lipwire.benchmarks.live import foreign
from lipwire.benchmarks.live.foreign import Visit, delays, digest, is_smooth, judge, load
from lipwire.benchmarks.rig.clicks import PATTERN_S, click_levels, click_times, clicking, clicks
from lipwire.benchmarks.rig.foreign_client import Microphone
from lipwire.benchmarks.rig.scenes import made_clip
from lipwire.benchmarks.rig.signalling import Doors, Line
from lipwire.benchmarks.rig.voices import sample_voice
from lipwire.engine.errors import ConfigError, LipwireError

SECONDS = 20


def notes(picture_s: float, sound_s: float, seed: int = 0, **changes: Any) -> dict[str, Any]:
    """A server that delays by so much, within a millisecond; its camera began at 100 s."""
    rng = np.random.default_rng(seed)
    sent = [[n, 100 + n / 25] for n in range(25 * SECONDS)]
    back = [[at_s + picture_s + rng.uniform(-1e-3, 1e-3), n, 7 + n / 25] for n, at_s in sent]
    clicked = [100 + at_s for at_s in click_times(SECONDS)]
    heard = [at_s + sound_s + rng.uniform(-1e-3, 1e-3) for at_s in clicked]
    return {
        "called_s": 99.5,
        "since_s": 102.0,
        "until_s": 116.0,
        "sent": sent,
        "back": back,
        "clicks_sent": clicked,
        "clicks_heard": heard,
        "offsets": {"video": [picture_s] * 9, "audio": [sound_s] * 9},
        **changes,
    }


def values(noted: dict[str, Any]) -> dict[str, Any]:
    return {name: one["value"] for name, one in digest(noted, 25)["figures"].items()}


@pytest.mark.parametrize(
    ("picture_s", "sound_s"), [(0.0, 0.01), (0.061, 0.33), (0.9, 0.9), (3.3, 2.7), (6.1, 5.9)]
)
def test_a_known_delay_is_found_to_two_milliseconds(picture_s: float, sound_s: float) -> None:
    noted = notes(picture_s + 0.005, sound_s)
    for row in noted["back"]:  # what was still on its way when the call ended
        row[0] = min(row[0], 130.0)
    found = values(noted)
    assert found["picture_delay_p50_ms"] == pytest.approx((picture_s + 0.005) * 1e3, abs=2)
    assert found["sound_delay_p50_ms"] == pytest.approx(sound_s * 1e3, abs=2)
    apart_ms = (picture_s + 0.005 - sound_s) * 1e3
    assert found["picture_after_sound_ms"] == pytest.approx(apart_ms, abs=2)
    assert found["av_offset_ms"] == pytest.approx(apart_ms, abs=2)
    assert found["pictures_back_share"] == 1


def test_clicks_that_are_lost_or_false_change_no_delay() -> None:
    sent = click_times(SECONDS)
    heard = [at_s + 1.234 for k, at_s in enumerate(sent) if k % 3] + [3.0, 9.9]
    found = delays(sent, sorted(heard))
    assert float(np.median(found)) == pytest.approx(1.234)
    assert not len(delays(sent, [])) and not len(delays([], heard))
    assert not len(delays(sent, [0.1, 0.2, 0.31]))  # nothing that several agree on


def test_the_distances_of_clicks_repeat_late() -> None:
    times = np.array(click_times(4 * PATTERN_S))
    for shift_s in np.arange(0.1, PATTERN_S - 0.05, 0.01):
        same = (np.abs(times[:, None] + shift_s - times[None]) < foreign.SAME_CLICK_S).any(1)
        assert same.mean() < 0.8, f"{shift_s} s"


def test_smooth_is_said_of_what_comes_back() -> None:
    assert values(notes(0.1, 0.1))["smooth"] == "yes"
    every_other = notes(0.1, 0.1)
    every_other["back"] = every_other["back"][::2]
    found = values(every_other)
    assert found["smooth"] == "no" and found["pictures_back_share"] == pytest.approx(0.5, abs=0.01)
    uneven = notes(0.1, 0.1)
    for row in uneven["back"][::20]:
        row[0] += 0.09
    assert values(uneven)["smooth"] == "no" and values(uneven)["pacing_error_p99_ms"] > 40
    frozen = notes(0.1, 0.1)
    frozen["back"] = [row for row in frozen["back"] if not 105 < row[0] < 106.2]
    assert values(frozen)["freezes_over_500_ms"] == 1
    assert values(frozen)["freeze_max_ms"] > 1200


def test_a_picture_that_comes_twice_or_cannot_be_read_is_not_another() -> None:
    noted = notes(0.1, 0.1)
    noted["back"] = sorted(noted["back"] + [[a + 0.02, n, d] for a, n, d in noted["back"]])
    noted["back"].append([117.0, None, 300.0])
    found = values(noted)
    assert found["pictures_per_s"] == pytest.approx(25, abs=0.5)
    assert found["pictures_without_number"] == 1 and found["picture_delay_p50_ms"] < 102


def test_a_server_that_draws_its_own_pictures_is_judged_by_their_pacing() -> None:
    noted = notes(0.1, 0.1, clicks_heard=[], offsets={"video": [], "audio": []})
    noted["back"] = [[at_s, None, due_s] for at_s, _, due_s in noted["back"]]
    found = values(noted)
    assert found["smooth"] == "yes" and found["pictures_per_s"] == pytest.approx(25, abs=0.5)
    for name in (
        "pictures_back_share",
        "picture_delay_p50_ms",
        "sound_delay_p50_ms",
        "clicks_heard_share",
        "picture_after_sound_ms",
        "av_offset_ms",
    ):
        assert found[name] is None
    nothing = values(notes(0.1, 0.1, back=[], clicks_heard=[], offsets={}))
    assert nothing["smooth"] == "no" and nothing["first_picture_s"] is None


def test_a_call_that_is_only_counted_is_smooth_or_not() -> None:
    assert is_smooth({"pictures_share": 0.96, "pacing_ms": [1.0] * 99})
    assert not is_smooth({"pictures_share": 0.94, "pacing_ms": [1.0] * 99})
    assert not is_smooth({"pictures_share": 1.0, "pacing_ms": [1.0] * 90 + [50.0] * 9})
    assert not is_smooth({"pictures_share": 1.0, "pacing_ms": []})


async def test_clicks_lie_in_the_sound_where_they_are_said_to(monkeypatch: Any) -> None:
    sound = clicking(np.zeros(480, np.int16), 5.0)
    levels = click_levels(sound.astype(np.float64))
    found = clicks(levels, np.arange(len(levels)) * 0.005)
    assert np.allclose(found, click_times(5.0), atol=0.006)
    microphone = Microphone(sound)
    first, second = await microphone.recv(), await microphone.recv()
    assert (first.pts, second.pts) == (0, 960)
    assert microphone.handed_s(0.03) == pytest.approx(microphone.sent_s[1] + 0.01)
    assert microphone.handed_s(0.05) is None


@pytest.mark.parametrize(
    ("doors", "message"),
    [
        ({}, "--offer, or --whip and --whep"),
        ({"whip": "http://x"}, "together"),
        ({"offer": "http://x", "whip": "http://x", "whep": "http://x"}, "--offer, or"),
        ({"offer": "ftp://x"}, "no address"),
    ],
)
def test_addresses_that_are_none_are_refused(doors: dict[str, str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Doors(**doors)


def test_each_call_has_an_address_of_its_own() -> None:
    doors = Doors(whip="http://localhost:1/whip/c{call}", whep="http://127.0.0.1:1/whep/c{call}")
    assert doors.of(3) == (None, "http://localhost:1/whip/c3", "http://127.0.0.1:1/whep/c3")
    assert doors.near and not Doors(offer="http://example.org/offer").near


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made_clip(tmp_path_factory.mktemp("foreign") / "clip.mp4", seconds=1)


@pytest.fixture(scope="module")
def peer() -> Iterator[str]:
    with foreign.peer(0.3) as url:
        yield url


def test_a_peer_is_judged_from_outside(clip: Path, peer: str) -> None:
    plan = Visit(str(clip), str(sample_voice()), f"{peer}/offer", seconds=2, settle_s=0.1)
    found = judge(plan, lambda what: None)
    figures = {name: one["value"] for name, one in found["figures"].items()}
    assert figures["picture_delay_p50_ms"] >= 300  # it cannot be less, however busy we are
    assert figures["pictures_back_share"] > 0 and figures["first_picture_s"] > 0
    assert found["input"]["offer"] == f"{peer}/offer" and "token" not in found["input"]


def test_calls_to_a_pair_of_doors_are_counted(clip: Path, peer: str) -> None:
    plan = Visit(
        str(clip),
        str(sample_voice()),
        whip=f"{peer}/whip",
        whep=f"{peer}/whep",
        seconds=1,
        settle_s=0.1,
    )
    row = load(plan)["row"]
    assert row["sessions"] == 1 and 0 < row["pictures_share"] <= 1


@pytest.mark.parametrize(("path", "message"), [("/none", "404"), ("/api/info", "405")])
def test_a_server_that_refuses_is_quoted_in_one_line(
    clip: Path, peer: str, path: str, message: str
) -> None:
    plan = Visit(str(clip), str(sample_voice()), f"{peer}{path}", seconds=1)
    with pytest.raises(LipwireError, match=message) as caught:
        judge(plan, lambda what: None)
    assert "\n" not in str(caught.value)


async def test_an_answer_without_sdp_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """LiveTalking says with status 200 that it is full."""
    import httpx

    said = {"code": -1, "msg": "reach max session"}
    transport = httpx.MockTransport(lambda request: httpx.Response(200, json=said))
    monkeypatch.setenv("LIPWIRE_TOKEN", "secret")
    async with httpx.AsyncClient(transport=transport) as http:
        line = Line(http, Doors(offer="http://127.0.0.1:9/offer"))
        with pytest.raises(LipwireError, match="reach max session"):
            await line.open(
                Microphone(np.zeros(0, np.int16)),
                Microphone(np.zeros(0, np.int16)),
                lambda receiver: None,
            )
        await line.close()
    assert asdict(Doors(offer="http://x")) == {"offer": "http://x", "whip": None, "whep": None}
