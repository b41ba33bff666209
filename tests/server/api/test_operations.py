"""What operators see: health, metrics, logs, and a stop that lets calls finish."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import httpx
import pytest
from calls import Caller, Running, until
from fakes import voiced
from prometheus_client.parser import text_string_to_metric_families

from lipwire.engine import Engine
from lipwire.server.api.app import HELPERS
from lipwire.server.config import ServerConfig
from lipwire.server.ops import logs

REPO = Path(__file__).resolve().parents[3]
Samples = dict[tuple[str, str], float]


async def samples(client: httpx.AsyncClient) -> Samples:
    """Every sample by name and its one label's value."""
    answer = await client.get("/metrics")
    assert answer.status_code == 200 and answer.headers["content-type"].startswith("text/plain")
    return {
        (s.name, next(iter(s.labels.values()), "")): s.value
        for family in text_string_to_metric_families(answer.text)
        for s in family.samples
    }


async def call(client: httpx.AsyncClient, caller: Caller) -> str:
    """Begin a call; returns its id."""
    offer = {"sdp": await caller.offer(), "consent": True}
    body = (await client.post("/api/sessions", json=offer)).json()
    assert body["ai_generated"] is True
    await caller.accept(body["sdp"])
    await until(lambda: bool(caller.pictures), "a picture comes back", 30)
    return str(body["id"])


async def test_helper_threads_are_there_from_the_start(client: httpx.AsyncClient) -> None:
    """A pool that fills later looks like a leak to whoever counts threads."""
    assert (await client.get("/healthz")).status_code == 200
    helpers = [t for t in threading.enumerate() if t.name.startswith("helper_")]
    assert len(helpers) >= HELPERS


async def test_what_happens_is_counted(client: httpx.AsyncClient) -> None:
    before = await samples(client)
    assert before["lipwire_sessions", ""] == 0
    async with Caller() as caller:
        name = await call(client, caller)
        voice = voiced(2.0, 24_000).astype("<i2").tobytes()
        sound = (
            b"RIFF"
            + (36 + len(voice)).to_bytes(4, "little")
            + b"WAVEfmt "
            + bytes.fromhex("10000000 0100 0100 c05d0000 80bb0000 0200 1000")
            + b"data"
            + len(voice).to_bytes(4, "little")
            + voice
        )
        answer = await client.post(f"/api/sessions/{name}/speech", content=sound)
        assert answer.status_code == 200, answer.text
        await until(lambda: len(caller.pictures) > 40, "pictures", 30)
        now = await samples(client)
        assert now["lipwire_sessions", ""] == 1
        stages = "decode", "convert", "prepare", "generate", "composite", "encode"
        for stage in stages:
            assert now["lipwire_stage_seconds_count", stage] > 0, stage
        assert now["lipwire_picture_delay_seconds_count", ""] > 20
        assert now["lipwire_device_jobs_total", "device"] > 0
        assert now["lipwire_device_busy_seconds_total", "device"] > 0
        assert now["lipwire_sessions_max", ""] == 2 and now["lipwire_draining", ""] == 0
        assert now["process_resident_memory_bytes", ""] > 1e7
        assert now["lipwire_frames_total", "silent"] + now["lipwire_frames_total", "generated"] > 20
        assert now["lipwire_media_bytes_total", "in"] > 5_000
        assert now["lipwire_media_bytes_total", "out"] > 5_000
        assert abs(now["lipwire_av_offset_seconds", ""]) < 10
        assert now["lipwire_loop_lag_seconds_count", ""] > 3
        assert ("lipwire_queue_depth", "engine") in now
        await client.delete(f"/api/sessions/{name}")
    later = await samples(client)
    assert later["lipwire_sessions", ""] == 0 and later["lipwire_sessions_started_total", ""] == 1
    assert later["lipwire_session_seconds_count", ""] == 1
    text = (await client.get("/metrics")).text
    assert 'lipwire_links_ended_total{purpose="publish",reason="closed"} 1.0' in text
    assert 'method="DELETE",route="/api/sessions/{name}",status="204"} 1.0' in text
    assert 'lipwire_build_info{model="' in text
    for sample in (("lipwire_frames_total", "silent"), ("lipwire_media_bytes_total", "out")):
        assert later[sample] >= now[sample]  # counts outlive their sessions


async def test_refusals_are_counted_by_cause(client: httpx.AsyncClient) -> None:
    await client.post("/api/sessions", json={"sdp": "hello", "consent": True})
    await client.get("/whep/never-was")
    await client.get("/api/info", headers={"Origin": "https://elsewhere.example"})
    found = await samples(client)
    for cause in ("offer", "unknown", "origin"):
        assert found["lipwire_refusals_total", cause] == 1, cause


async def test_health_and_readiness(server: Running, client: httpx.AsyncClient) -> None:
    assert (await client.get("/healthz")).json() == {"status": "ok"}
    answer = await client.get("/readyz")
    assert answer.status_code == 200 and answer.json() == {
        "status": "ready",
        "room": 2,
        "weight": 100,
    }
    server.app.state.sessions.draining = True
    answer = await client.get("/readyz")
    assert answer.status_code == 503 and answer.json()["status"] == "draining"
    assert (await client.get("/healthz")).status_code == 200
    async with Caller() as caller:
        offer = {"sdp": await caller.offer(), "consent": True}
        refused = await client.post("/api/sessions", json=offer)
        assert refused.status_code == 503 and "about to stop" in refused.json()["error"]


# --- logs ---


@pytest.fixture
def fresh_log(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a process that has not served yet; the logging of the tests is put back."""
    root = logging.getLogger()
    for name in ("uvicorn", "uvicorn.access"):  # servers of earlier tests changed them
        for field, value in (("handlers", []), ("level", logging.NOTSET), ("propagate", True)):
            monkeypatch.setattr(logging.getLogger(name), field, value)
    monkeypatch.setattr(root, "handlers", [])
    monkeypatch.setattr(root, "level", root.level)


@pytest.mark.usefixtures("fresh_log")
async def test_json_lines_carry_their_session(capsys: pytest.CaptureFixture[str]) -> None:
    logs.set_up(ServerConfig(log_format="json", log_level="info"))

    async def works(name: str) -> None:
        logs.name_session(name)
        await asyncio.sleep(0)
        try:
            raise ValueError("a\nb")
        except ValueError:
            logging.getLogger("lipwire.server.call.call").exception("two\nlines of %s", "text")

    await asyncio.gather(works("abcdefghijkl"), works("mnopqrstuvwx"))
    logging.getLogger("lipwire.server.api.app").warning("no session")
    one, two, three = map(json.loads, capsys.readouterr().err.splitlines())
    assert (one["session"], two["session"]) == ("abcdef", "mnopqr")  # never the whole id
    assert one["level"] == "error" and one["logger"] == "lipwire.server.call.call"
    assert one["message"] == "two\nlines of text" and "ValueError: a" in one["error"]
    assert one["time"].endswith("Z") and "session" not in three


@pytest.mark.usefixtures("fresh_log")
def test_text_lines_are_for_people(capsys: pytest.CaptureFixture[str]) -> None:
    logs.set_up(ServerConfig(log_level="info"))
    logging.getLogger("lipwire.server.api.app").info("all is well")
    logging.getLogger("aiortc").info("every packet")
    name = "a1B2_c-4" * 4
    logging.getLogger("uvicorn.access").info('"%s %s" %d', "GET", f"/whep/{name}/{name}?x", 200)
    line, access = capsys.readouterr().err.splitlines()
    assert "INFO" in line and line.endswith("lipwire.server.api.app: all is well")
    assert access.endswith('"GET /whep/a1B2_c/a1B2_c?x" 200')  # an id opens its session


# --- stopping (R9) ---


async def test_sigterm_lets_calls_go_on_and_ends_with_success() -> None:
    code = (
        "from lipwire.server.api.app import serve; from lipwire.server.config import "
        "load_config; serve(load_config())"
    )
    environment = {**os.environ, "LIPWIRE_PORT": "0", "LIPWIRE_DRAIN_S": "2"}
    with subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=REPO,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            assert process.stdout is not None
            lines = iter(process.stdout.readline, "")
            ready = await asyncio.to_thread(
                lambda: next(line for line in lines if line.startswith("lipwire is ready"))
            )
            async with (
                httpx.AsyncClient(base_url=ready.split()[-1], timeout=30) as client,
                Caller() as caller,
            ):
                await call(client, caller)
                await until(lambda: bool(caller.messages), "the channel is open", 20)
                assert json.loads(caller.messages[0]) == {
                    "type": "disclosure",
                    "ai_generated": True,
                    "mark": "AI-generated",
                }
                process.send_signal(signal.SIGTERM)
                began_s = asyncio.get_running_loop().time()
                await until(
                    lambda: any('"ending"' in message for message in caller.messages), "a word", 20
                )
                assert (await client.get("/readyz")).status_code == 503
                seen = len(caller.picture_times_s)
                await until(lambda: len(caller.picture_times_s) > seen, "the call goes on")
                await until(lambda: caller.pc.connectionState == "closed", "its end", 20)
            out, errors = await asyncio.to_thread(process.communicate, timeout=20)
        except BaseException:
            process.kill()
            raise
    took_s = asyncio.get_running_loop().time() - began_s
    print(f"R9: drained and ended within {took_s:.1f} s")
    assert process.returncode == 0, errors
    assert "Traceback" not in errors


async def test_a_second_wish_ends_at_once(engine: Engine) -> None:
    from lipwire.server.api.listener import Server

    ended: list[float] = []

    async def end_calls(patience_s: float) -> None:
        ended.append(patience_s)
        await asyncio.sleep(patience_s)

    import uvicorn

    async def app(scope: object, receive: object, send: object) -> None: ...

    server = Server(uvicorn.Config(app, lifespan="off"), "", end_calls, drain_s=60)
    server.servers = []
    server.handle_exit(signal.SIGTERM, None)
    task = asyncio.create_task(server.shutdown([]))
    await until(lambda: ended == [60], "it waits")
    server.handle_exit(signal.SIGTERM, None)
    await asyncio.wait_for(task, 10)
    assert ended == [60, 0]
