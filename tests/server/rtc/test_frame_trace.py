"""Pictures keep their traces, and a call says where its delay comes from."""

from __future__ import annotations

import gc
from itertools import pairwise

import av
import httpx
import pytest
from calls import Caller, Camera, Running, keep_aiortc, until
from fakes import FakeBackend, FakeTracker

from lipwire.engine import Engine
from lipwire.engine.trace import POINTS, SOUND_POINTS, UNTRACED, VOICE_POINTS, Trace
from lipwire.server.rtc.frame_trace import hang, trace_of


def test_a_frame_keeps_its_trace_when_another_that_held_it_is_gone() -> None:
    trace = Trace(lambda: 0.0)
    frames = [av.VideoFrame(16, 16, "yuv420p") for _ in range(2)]
    for frame in frames:
        hang(frame, trace)
    del frames[0], frame
    frames.append(av.VideoFrame(16, 16, "yuv420p"))
    gc.collect()
    assert trace_of(frames[0]) is trace and trace_of(frames[1]) is UNTRACED
    assert trace_of(object()) is UNTRACED


async def test_a_call_gives_the_traces_of_its_last_pictures(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    keep_aiortc(monkeypatch)
    with Engine(FakeBackend(), FakeTracker) as engine, Running(engine) as server:
        async with httpx.AsyncClient(base_url=server.url) as http, Caller(Camera()) as caller:
            body = {"sdp": await caller.offer(), "type": "offer", "consent": True}
            answer = (await http.post("/api/sessions", json=body)).json()
            await caller.accept(answer["sdp"])
            await until(lambda: len(caller.pictures) > 5, "pictures")
            found = (await http.get(f"/api/sessions/{answer['id']}/trace")).json()
            metrics = (await http.get("/metrics")).text
    rows = [dict(zip(found["columns"], row, strict=True)) for row in found["pictures"]]
    assert found["columns"] == ["pts", "outcome", *POINTS] and len(rows) > 5
    assert [row["pts"] for row in rows] == sorted(row["pts"] for row in rows)
    for row in rows[:-3]:  # the last ones are on their way
        times = [row[point] for point in ("received", "decoded", "pushed", "popped", "drawn")]
        assert times == sorted(times)
        assert row["outcome"] != "generated"  # nobody spoke
    assert any(row["sent"] is not None for row in rows)
    blocks = [
        dict(zip(found["sound"]["columns"], row, strict=True)) for row in found["sound"]["rows"]
    ]
    assert found["sound"]["columns"] == ["place", *SOUND_POINTS] and len(blocks) > 5
    for block, following in pairwise(blocks):  # the first had no encoder, the last are on their way
        times = [block[point] for point in SOUND_POINTS if block[point] is not None]
        assert times == sorted(times) and len(times) >= 2
        assert following["place"] - block["place"] >= 960
    assert any(block["sent"] is not None for block in blocks)
    assert found["voice"] == {"columns": ["place", *VOICE_POINTS], "rows": []}  # nobody spoke
    assert 'lipwire_stage_seconds_count{stage="convert"}' in metrics
