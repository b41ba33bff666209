"""What operators watch: Prometheus metrics of one server, in a registry of its own.

Counts that live in sessions are read when somebody asks, and kept when a session ends; only times
are noted as they happen.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter as Tally
from collections.abc import Iterator

from prometheus_client import (
    CollectorRegistry,
    Counter,
    GCCollector,
    Histogram,
    PlatformCollector,
    ProcessCollector,
    generate_latest,
)
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily, Metric
from prometheus_client.registry import Collector

from lipwire.engine import Engine, Outcome
from lipwire.engine.overload.levels import RUNGS
from lipwire.server import __version__
from lipwire.server.call.call import Call
from lipwire.server.call.sessions import Sessions
from lipwire.server.rtc.connection import Ending, at_viewer, reception, refusals
from lipwire.server.rtc.sdp import Purpose

# A stage should take a few milliseconds; beyond the last bucket a call is unbearable anyway.
STAGE_BUCKETS_S = (0.001, 0.002, 0.005, 0.01, 0.02, 0.03, 0.04, 0.06, 0.08, 0.1, 0.15, 0.25, 0.5, 1)
LAG_BUCKETS_S = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1, 2.5)
# What a person waits for is bad from a second on; uploads are answered when they are heard.
HTTP_BUCKETS_S = (0.005, 0.025, 0.1, 0.5, 2, 10)
SESSION_BUCKETS_S = (10, 60, 300, 900, 3600, 4 * 3600)
LINKS = {Purpose.INGEST: "publish", Purpose.VOICE: "voice", Purpose.WATCH: "watch"}
CHANGES, LINKS_ENDED = "changes of rung", "links ended"
# A stall shows by what of it lies behind the next waking. Rarer: stalls of 50 ms go unseen; more
# often: the measuring is a load itself (now 0.3 % of a core).
LAG_EVERY_S = 0.01


class Metrics(Collector):
    """Everything counted; `render` gives it away."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        for collector in (ProcessCollector, PlatformCollector, GCCollector):
            collector(registry=self.registry)
        self._engine: Engine | None = None
        self._sessions: Sessions | None = None
        self._over = 0  # sessions
        self._ended: Tally[tuple[str, str]] = Tally()  # counts of sessions that are over
        self._stages = Histogram(
            "lipwire_stage_seconds",
            "Time a picture spends: decode, convert (to RGB), prepare (track and align; track "
            "alone), queue (for a device), generate, composite, pace (until its time has come), "
            "encode (once for all who share it, waiting for a thread included).",
            ["stage"],
            buckets=STAGE_BUCKETS_S,
            registry=self.registry,
        )
        self._delay = Histogram(
            "lipwire_picture_delay_seconds",
            "All that a picture spends between decode and encode.",
            buckets=STAGE_BUCKETS_S,
            registry=self.registry,
        )
        self._requests = Histogram(
            "lipwire_http_request_seconds",
            "Requests that routes have answered, and how long each took.",
            ["method", "route", "status"],
            buckets=HTTP_BUCKETS_S,
            registry=self.registry,
        )
        self._lasted = Histogram(
            "lipwire_session_seconds",
            "How long sessions lasted that have ended.",
            buckets=SESSION_BUCKETS_S,
            registry=self.registry,
        )
        self._refusals = Counter(
            "lipwire_refusals", "Requests refused, by cause.", ["cause"], registry=self.registry
        )
        self._lag = Histogram(
            "lipwire_loop_lag_seconds",
            "How much later than asked for the event loop wakes up.",
            buckets=LAG_BUCKETS_S,
            registry=self.registry,
        )
        self.registry.register(self)

    def observe(self, stage: str, seconds: float) -> None:
        """Note how long a stage took; from any thread."""
        if stage == "picture":
            self._delay.observe(seconds)
        else:
            self._stages.labels(stage).observe(seconds)

    def answered(self, method: str, route: str, status: int, seconds: float) -> None:
        """Note a request that a route has answered."""
        self._requests.labels(method, route, str(status)).observe(seconds)

    def refused(self, cause: str) -> None:
        """Count a request that was refused."""
        self._refusals.labels(cause).inc()

    def watch(self, sessions: Sessions, engine: Engine) -> None:
        """Read these sessions and their engine from now on."""
        self._sessions, self._engine = sessions, engine

    def keep(self, call: Call) -> None:
        """Remember the counts of a session that has ended."""
        self._ended.update(_counts(call))
        self._lasted.observe(call.lasted_s)
        self._over += 1

    async def measure_loop_lag(self) -> None:
        """Sleep and look how late we wake, for ever."""
        while True:
            asked = time.monotonic() + LAG_EVERY_S
            await asyncio.sleep(LAG_EVERY_S)
            self._lag.observe(max(time.monotonic() - asked, 0.0))

    def render(self) -> bytes:
        """The text format that Prometheus scrapes."""
        return generate_latest(self.registry)

    def collect(self) -> Iterator[Metric]:
        """What lies in the sessions; called by the registry."""
        peers = self._sessions.peers if self._sessions is not None else []
        totals = self._ended.copy()
        for call in peers:
            totals.update(_counts(call))
        about = (
            "Frames that left, by what became of them; `skipped` ones were replaced by newer ones"
        )
        outcomes = [*(o.value for o in Outcome), "skipped"]
        about += " before any work."
        yield _counter("lipwire_frames", about, "outcome", totals, outcomes)
        yield _counter("lipwire_media_bytes", "Bytes over UDP.", "direction", totals, ["in", "out"])
        about = "Key pictures that came and were not decoded."
        yield _counter("lipwire_pictures_refused", about, "reason", totals, ["size"])

        changes = CounterMetricFamily(
            "lipwire_overload_changes",
            "Changes of rung on overload ladders.",
            labels=["from", "to"],
        )
        for before in RUNGS:
            for after in RUNGS:
                if count := totals[CHANGES, f"{before} {after}"]:
                    changes.add_metric([before, after], count)
        yield changes

        yield GaugeMetricFamily("lipwire_sessions", "Sessions that run.", len(peers))
        yield CounterMetricFamily(
            "lipwire_sessions_started", "Sessions that have begun.", self._over + len(peers)
        )
        ended = CounterMetricFamily(
            "lipwire_links_ended", "Links that are over, by why.", labels=["purpose", "reason"]
        )
        for purpose in LINKS.values():
            for reason in Ending:
                ended.add_metric([purpose, reason], totals[LINKS_ENDED, f"{purpose} {reason}"])
        yield ended
        about = "Packets of publishers' pictures that were missing: lost for good, or recovered."
        fates = ["lost", "recovered"]
        yield _counter("lipwire_publisher_packets", about, "fate", totals, fates)
        viewers = [at_viewer(link.pc) for p in peers for _, link in p.links.values()]
        yield GaugeMetricFamily(
            "lipwire_viewer_round_trip_seconds",
            "To the viewer who is farthest away, and back.",
            max((round_trip_s for round_trip_s, _ in viewers), default=0.0),
        )
        yield GaugeMetricFamily(
            "lipwire_viewer_loss_ratio",
            "Packets lost lately on the way to the viewer who loses most, as a share.",
            max((lost for _, lost in viewers), default=0.0),
        )
        if self._sessions is not None and self._engine is not None:
            yield from _server(self._sessions, self._engine)
        with contextlib.suppress(RuntimeError):  # nobody asks from the event loop
            yield GaugeMetricFamily(
                "lipwire_tasks", "Tasks of the event loop.", len(asyncio.all_tasks())
            )
        links = GaugeMetricFamily("lipwire_links", "Links beside publishers'.", labels=["purpose"])
        for purpose in ("voice", "watch"):
            kinds = [kind for call in peers for kind, _ in call.links.values()]
            links.add_metric([purpose], kinds.count(purpose))  # type: ignore[arg-type]
        yield links
        depth = GaugeMetricFamily(
            "lipwire_queue_depth", "What waits, in the session where most does.", labels=["queue"]
        )
        stats = [call.stats() for call in peers]
        rungs = GaugeMetricFamily(
            "lipwire_overload_sessions", "Sessions by their rung of the ladder.", labels=["rung"]
        )
        for rung in RUNGS:
            rungs.add_metric([rung], sum(s.rung == rung for s in stats))
        yield rungs
        flight = [s.frames_in - s.frames_out for s in stats]
        depth.add_metric(["engine"], max(flight, default=0))
        depth.add_metric(["viewers"], max((p.broadcaster.depth for p in peers), default=0))
        yield depth
        backlog_s = max((s.speech_backlog_s for s in stats), default=0.0)
        yield GaugeMetricFamily(
            "lipwire_speech_backlog_seconds", "Voice that waits, where most does.", backlog_s
        )
        yield GaugeMetricFamily(
            "lipwire_renditions",
            "Encodes of pictures that run; viewers share them.",
            sum(len(p.broadcaster.renditions["video"].running) for p in peers),
        )
        yield GaugeMetricFamily(
            "lipwire_recordings",
            "Sessions that are recorded.",
            sum(p.events.recorded for p in peers),
        )
        offset_s = max((p.broadcaster.av_offset_s for p in peers), key=abs, default=0.0)
        yield GaugeMetricFamily(
            "lipwire_av_offset_seconds",
            "Sound ahead of the picture as they leave, in the session where it is worst.",
            offset_s,
        )


def _server(sessions: Sessions, engine: Engine) -> Iterator[Metric]:
    """What it runs, how much it takes, and its devices."""
    settings, manifest = sessions.settings, engine.backend.manifest
    facts = {
        "version": __version__,
        "model": f"{manifest.name} {manifest.version}",
        "runtime": engine.backend.description,
        "node": settings.node or "",
    }
    yield InfoMetricFamily("lipwire_build", "What runs here.", facts)
    yield GaugeMetricFamily("lipwire_sessions_max", "Sessions at most.", settings.max_sessions)
    yield GaugeMetricFamily(
        "lipwire_draining", "1: the server is about to stop.", float(sessions.draining)
    )
    devices = engine.devices()
    for name, text, values in (
        ("jobs", "Mouths that a device has generated.", [d.jobs for d in devices]),
        ("batches", "Batches that they came in.", [d.batches for d in devices]),
        ("busy_seconds", "Time that a device spent on them.", [d.busy_s for d in devices]),
        ("faults", "Batches on which a device failed.", [d.faults for d in devices]),
    ):
        family = CounterMetricFamily(f"lipwire_device_{name}", text, labels=["device"])
        for device, value in zip(devices, values, strict=True):
            family.add_metric([device.name], value)
        yield family
    live = GaugeMetricFamily("lipwire_device_live", "1: it takes jobs.", labels=["device"])
    for device in devices:
        live.add_metric([device.name], float(device.state == "live"))
    yield live


def _counts(call: Call) -> dict[tuple[str, str], int]:
    """What one session has counted so far, by metric and label."""
    received, sent = call.traffic()
    stats = call.stats()
    counts = {("lipwire_frames", outcome.value): count for outcome, count in stats.outcomes.items()}
    for (before, after), count in stats.rung_changes.items():
        counts[CHANGES, f"{before} {after}"] = count
    counts["lipwire_frames", "skipped"] = call.ingest.skipped
    counts["lipwire_pictures_refused", "size"] = refusals(call.publisher.pc)[0]
    for (purpose, ending), count in call.endings.items():
        counts[LINKS_ENDED, f"{LINKS[purpose]} {ending}"] = count
    for fate in ("lost", "recovered"):
        packets = reception(call.publisher.pc).get(fate, 0)
        counts["lipwire_publisher_packets", fate] = int(packets)
    counts["lipwire_media_bytes", "in"] = received
    counts["lipwire_media_bytes", "out"] = sent
    return counts


def _counter(
    name: str, text: str, label: str, totals: Tally[tuple[str, str]], values: list[str]
) -> CounterMetricFamily:
    family = CounterMetricFamily(name, text, labels=[label])
    for value in values:
        family.add_metric([value], totals[name, value])
    return family
