"""Changes of quality under overload: to everybody's data channel, the log and the metrics."""

from __future__ import annotations

import json
import logging
from fractions import Fraction

import httpx
import pytest
from calls import Caller, Running, until
from fakes import FakeBackend, FakeTracker, picture
from prometheus_client.parser import text_string_to_metric_families

from lipwire.engine import Engine, EngineConfig, Session, VideoFrame
from lipwire.server.call.quality import QualityWatch
from lipwire.server.config import ServerConfig
from lipwire.server.ops.logs import JsonFormatter

IMAGE = picture(96, 128)


def starve(session: Session, frames: int, first: int = 0) -> None:
    """Frames that nobody paints."""
    for index in range(first, first + frames):
        session.push_video(VideoFrame(IMAGE, index, Fraction(1, 25)), index / 25)


def test_each_change_is_told_once_and_logged(caplog: pytest.LogCaptureFixture) -> None:
    session = Session("s", FakeTracker, EngineConfig(silence="generate"), steps_offered=(1, 2))
    watch = QualityWatch(session)
    assert list(watch.news()) == [] and watch.state() is None
    starve(session, 7)
    (event,) = watch.news()
    assert event == {
        "type": "quality",
        "rung": "one",
        "before": "full",
        "steps": 1,
        "asked": 2,
        "reason": "pictures came too late",
        "changes": 1,
    }
    assert list(watch.news()) == [] and watch.state() == event
    starve(session, 7, first=7)
    assert [event["rung"] for event in watch.news()] == ["half"]
    lines = [json.loads(JsonFormatter().format(record)) for record in caplog.records]
    assert [line["level"] for line in lines] == ["warning", "warning"]
    assert [(line["before"], line["rung"], line["changes"]) for line in lines] == [
        ("full", "one", 1),
        ("one", "half", 2),
    ]
    assert lines[0]["message"] == "quality full -> one, 1 of 2 steps: pictures came too late"
    session.set_steps(1)
    assert watch.state() is not None  # half of one step


async def samples(client: httpx.AsyncClient) -> dict[tuple[str, ...], float]:
    text = (await client.get("/metrics")).text
    return {
        (s.name, *s.labels.values()): s.value
        for family in text_string_to_metric_families(text)
        for s in family.samples
    }


def told(caller: Caller) -> list[dict[str, object]]:
    messages = map(json.loads, caller.messages)
    return [message for message in messages if message["type"] == "quality"]


async def test_a_device_that_slows_down_is_seen_by_everybody(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.WARNING, "lipwire.server.call.quality")
    backend = FakeBackend()
    with Engine(backend, FakeTracker) as engine, Running(engine, ladder=True) as server:
        async with httpx.AsyncClient(base_url=server.url, timeout=30) as client, Caller() as caller:
            offer = {"sdp": await caller.offer(), "consent": True, "silence": "generate"}
            body = (await client.post("/api/sessions", json=offer)).json()
            await caller.accept(body["sdp"])
            await until(lambda: bool(caller.pictures), "a picture comes back", 60)
            before = await samples(client)
            assert sum(before["lipwire_overload_sessions", r] for r in ("full", "one", "half")) == 1
            backend.delay_s = 0.4
            await until(
                lambda: any(event["rung"] == "none" for event in told(caller)), "quality falls", 60
            )
            now = await samples(client)
            assert now["lipwire_overload_sessions", "none"] == 1
            assert now["lipwire_overload_sessions", "full"] == 0
            stats = (await client.get(f"/api/sessions/{body['id']}/stats")).json()
            assert stats["rung"] == "none" and stats["rung_changes"] >= 1
            assert stats["rung_reason"] == "pictures came too late"
            backend.delay_s = 0.0
            await until(
                lambda: any(event["before"] == "none" for event in told(caller)), "it is back", 60
            )
            await client.delete(f"/api/sessions/{body['id']}")
            later = await samples(client)
    down = {k: n for k, n in later.items() if k[0] == "lipwire_overload_changes_total"}
    assert sum(n for key, n in down.items() if key[2] == "none") >= 1  # they outlive the session
    assert down["lipwire_overload_changes_total", "none", "half"] >= 1
    assert any("-> none" in record.getMessage() for record in caplog.records)


async def test_a_server_may_keep_its_steps() -> None:
    assert ServerConfig().ladder and not ServerConfig(ladder=False).ladder
    with Engine(FakeBackend(), FakeTracker) as engine, Running(engine, ladder=False) as server:
        async with httpx.AsyncClient(base_url=server.url, timeout=30) as client, Caller() as caller:
            offer = {"sdp": await caller.offer(), "consent": True}
            body = (await client.post("/api/sessions", json=offer)).json()
            peer = server.app.state.sessions.get(body["id"])
            assert peer.session.config.ladder is False
