"""A cluster in virtual time: what is enough, what is not, and what more of it mends."""

from __future__ import annotations

from pathlib import Path

import pytest

from lipwire.benchmarks.model.fleet import Audience, Fleet, Simulation, drain, run


def row(**changed: float) -> dict[str, float]:
    """Of 20 nodes of four places."""
    return Simulation(Fleet(**{"nodes": 20, "places": 4, **changed})).run()  # type: ignore[arg-type]


def test_calls_of_a_node_that_vanished_come_back_in_what_noticing_and_placing_take() -> None:
    found = row()
    assert found["lost_calls"] >= 1
    # A stalled connection, its machine's time-out, three requests, the first picture.
    assert 3.25 + 1.5 < found["lost_back_p95_s"] < 3.5 + 1.5 + 1.5
    assert found["placed_p95_s"] < 0.2 and found["director_busy_share"] < 0.5


def test_without_room_they_wait_for_a_host() -> None:
    found = row(use=1.0, spare=0.0, surge=0.0)
    assert found["lost_back_p95_s"] > 60 and found["most_nodes"] >= 20


def test_room_that_is_kept_free_is_there_for_a_surge() -> None:
    tight, roomy = (row(use=0.95, spare=spare) for spare in (0.0, 0.5))
    assert tight["surge_placed_p95_s"] > 10 > 1 > roomy["surge_placed_p95_s"]
    assert roomy["most_nodes"] > tight["most_nodes"]


def test_a_director_that_is_too_busy_places_late_and_a_second_one_helps_with_voices_alone() -> None:
    slow = {"surge": 0.0, "voice_hz": 60.0, "message_s": 0.0004}
    one, two = row(**slow), row(**slow, directors=2)
    assert one["director_busy_share"] > 1 > two["director_busy_share"]
    assert one["placed_p95_s"] > 10 > two["placed_p95_s"]
    heard = [row(hear_s=0.06, voice_hz=0.0, directors=count) for count in (1, 2)]
    assert min(each["director_busy_share"] for each in heard) > 1  # each hears every node


def test_an_upgrade_takes_as_long_as_calls_and_cuts_those_that_are_longer() -> None:
    fleet = Fleet(nodes=100, call_s=600.0)
    short, long = (drain(fleet, drain_s) for drain_s in (60.0, 36_000.0))
    assert short["calls_cut_share"] > 0.8 and long["calls_cut_share"] == 0
    assert short["took_h"] == pytest.approx(10 * (60 + fleet.node_s) / 3600)
    assert long["took_h"] > 10 * 600 / 3600


def test_an_audience_outgrows_its_node_then_a_director_then_sfus() -> None:
    few, many = (Audience().row(viewers, 0.01) for viewers in (100, 10**6))
    assert few["node_alone"] == "yes" and few["sfus"] == 1
    assert many["node_alone"] == "no" and many["sfus"] == 215 and many["network_gbit"] == 1500
    assert (
        few["busy_directors_while_they_come"] < 0.1 < 100 < many["busy_directors_while_they_come"]
    )


def test_the_bench_says_how_far_it_goes_and_draws(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    told: list[str] = []
    found = run(
        nodes=(2, 20), places=4, viewers=(10,), plot=tmp_path / "a.svg", progress=told.append
    )
    assert told[-1] == "20 nodes, 4 directors" and len(found["tables"]["an upgrade"]) == 6
    assert found["figures"]["nodes whose calls are placed within 1 s (p95)"]["value"] == 20
    assert (tmp_path / "a.svg").read_text().count("<path") > 20
