"""OpenTelemetry: a span a session, below the one that the caller names."""

from __future__ import annotations

import httpx
import pytest
from calls import Caller, Running, until

from lipwire.engine import ConfigError, Engine
from lipwire.server.api import tracing
from lipwire.server.config import ServerConfig

memory = pytest.importorskip("opentelemetry.sdk.trace.export.in_memory_span_exporter")
TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


async def test_a_session_is_a_span_and_some_pictures_are_in_it(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    exporter = memory.InMemorySpanExporter()
    monkeypatch.setattr(tracing, "make_exporter", lambda: exporter)
    monkeypatch.setattr(tracing, "PICTURE_EVERY_S", 0.2)
    with Running(engine, otel=True, node="a") as server:
        async with httpx.AsyncClient(base_url=server.url, timeout=20) as http, Caller() as caller:
            answer = await http.post(
                "/api/sessions/studio",
                json={"sdp": await caller.offer(), "consent": True},
                headers={"traceparent": f"00-{TRACE}-{PARENT}-01"},
            )
            await caller.accept(answer.json()["sdp"])
            await until(lambda: len(caller.pictures) > 30, "pictures")
            assert (await http.delete("/api/sessions/studio")).status_code == 204
    spans = exporter.get_finished_spans()  # all were sent when the server stopped
    (session,) = [span for span in spans if span.name == "session"]
    assert f"{session.context.trace_id:x}".zfill(32) == TRACE
    assert session.parent is not None and f"{session.parent.span_id:x}" == PARENT
    assert session.attributes is not None
    assert session.attributes["lipwire.session"] == "studio"
    assert session.attributes["lipwire.ending"] == "closed"
    assert sum(v for k, v in session.attributes.items() if "lipwire.pictures." in k) > 20
    assert session.resource.attributes["service.instance.id"] == "a"
    pictures = [span for span in spans if span.name == "picture"]
    assert pictures
    for span in pictures:
        assert span.parent is not None and span.parent.span_id == session.context.span_id
        assert session.start_time <= span.start_time < span.end_time <= session.end_time
        assert {"decoded", "popped"} <= {event.name for event in span.events}


def test_without_its_packages_one_line_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(
        __import__("sys").modules, "opentelemetry.exporter.otlp.proto.http.trace_exporter", None
    )
    with pytest.raises(ConfigError, match=r"lipwire\[otel\]"):
        tracing.Tracing(ServerConfig(otel=True))
