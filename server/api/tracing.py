"""OpenTelemetry, off unless `otel` is set: a span a session, now and then one of a picture in it.

Where spans go is said by the SDK's own variables (OTEL_EXPORTER_OTLP_ENDPOINT and the like).
"""

from __future__ import annotations

import asyncio
import os
import time
from typing import TYPE_CHECKING

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from lipwire.engine import ConfigError
from lipwire.engine.trace import Trace
from lipwire.server import __version__
from lipwire.server.call.call import Call
from lipwire.server.config import ServerConfig

if TYPE_CHECKING:
    from opentelemetry.sdk.trace.export import SpanExporter
    from opentelemetry.trace import Span

# How often a picture of each session is told of. More often: the collector stores hardly anything
# else; less often: a short session has none.
PICTURE_EVERY_S = 5.0


def make_exporter() -> SpanExporter:
    """OTLP over HTTP.

    Raises:
        ConfigError: the extra is not installed.
    """
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    except ImportError as error:
        raise ConfigError(
            f"otel needs more packages: pip install 'lipwire[otel]' ({error})"
        ) from None
    return OTLPSpanExporter()


class Tracing:
    """The spans of one server.

    Raises:
        ConfigError: the extra is not installed.
    """

    def __init__(self, settings: ServerConfig) -> None:
        exporter = make_exporter()
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor

        service = os.environ.get("OTEL_SERVICE_NAME", "lipwire")
        facts = {"service.name": service, "service.version": __version__}
        if settings.node is not None:
            facts["service.instance.id"] = settings.node
        self._provider = TracerProvider(resource=Resource.create(facts))
        self._provider.add_span_processor(BatchSpanProcessor(exporter))
        self._tracer = self._provider.get_tracer("lipwire", __version__)
        self._spans: dict[Call, Span] = {}
        # From the engine's clock to that of everybody.
        self._epoch_ns = time.time_ns() - time.monotonic_ns()

    def begin(self, call: Call) -> None:
        """A session begins; its parent is that of the request, by its `traceparent`."""
        name = call.name if call.public else call.name[:6]
        self._spans[call] = self._tracer.start_span(
            "session", attributes={"lipwire.session": name, "lipwire.named": call.named}
        )

    def end(self, call: Call) -> None:
        """It is over; its figures go with it."""
        if (span := self._spans.pop(call, None)) is None:
            return
        stats = call.stats()
        for outcome, count in stats.outcomes.items():
            span.set_attribute(f"lipwire.pictures.{outcome.value}", count)
        span.set_attribute("lipwire.delay_p95_ms", round(stats.delay_p95_s * 1000, 1))
        span.set_attribute("lipwire.rung_changes", sum(stats.rung_changes.values()))
        span.set_attribute("lipwire.ending", call.publisher.ending or "over")
        span.end()

    async def sample_pictures(self) -> None:
        """Tell of a picture of each session, for ever."""
        while True:
            await asyncio.sleep(PICTURE_EVERY_S)
            for call, span in list(self._spans.items()):
                if call.broadcaster.traces:
                    self._picture(call.broadcaster.traces[-1], span)

    def _picture(self, trace: Trace, parent: Span) -> None:
        from opentelemetry.trace import set_span_in_context

        at_ns = {point: self._epoch_ns + round(at * 1e9) for point, at in trace.at_s.items()}
        context = set_span_in_context(parent)
        span = self._tracer.start_span(
            "picture",
            context,
            attributes={"lipwire.outcome": trace.outcome or ""},
            start_time=min(at_ns.values()),
        )
        for point, at in at_ns.items():
            span.add_event(point, timestamp=at)
        span.end(max(at_ns.values()))

    async def close(self) -> None:
        """Send what has not been sent."""
        await asyncio.to_thread(self._provider.shutdown)


class TraceContext:
    """ASGI middleware: what a request begins belongs to the trace that its `traceparent` names."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        from opentelemetry import context, propagate

        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        token = context.attach(propagate.extract(Headers(scope=scope)))
        try:
            await self._app(scope, receive, send)
        finally:
            context.detach(token)
