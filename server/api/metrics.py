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

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from lipwire.engine import Outcome
from lipwire.engine.overload.levels import RUNGS
from lipwire.server.call.call import Call
from lipwire.server.call.sessions import Sessions
from lipwire.server.rtc.connection import refusals

# A stage should take a few milliseconds; beyond the last bucket a call is unbearable anyway.
STAGE_BUCKETS_S = (0.001, 0.002, 0.005, 0.01, 0.02, 0.03, 0.04, 0.06, 0.08, 0.1, 0.15, 0.25, 0.5, 1)
LAG_BUCKETS_S = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1, 2.5)
CHANGES = "changes of rung"
# A stall shows by what of it lies behind the next waking. Rarer: stalls of 50 ms go unseen; more
# often: the measuring is a load itself (now 0.3 % of a core).
LAG_EVERY_S = 0.01


class Metrics(Collector):
    """Everything counted; `render` gives it away."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._sessions: Sessions | None = None
        self._ended: Tally[tuple[str, str]] = Tally()  # counts of sessions that are over
        self._stages = Histogram(
            "lipwire_stage_seconds",
            "Time a picture spends: decode, convert (to RGB), prepare (track and align; track "
            "alone), queue (for a device), generate, composite, pace (until its time has come), "
            "encode (once for all who share it, waiting for a thread included); picture is all of "
            "it between decode and encode.",
            ["stage"],
            buckets=STAGE_BUCKETS_S,
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
        self._stages.labels(stage).observe(seconds)

    def refused(self, cause: str) -> None:
        """Count a request that was refused."""
        self._refusals.labels(cause).inc()

    def watch(self, sessions: Sessions) -> None:
        """Read these sessions from now on."""
        self._sessions = sessions

    def keep(self, call: Call) -> None:
        """Remember the counts of a session that has ended."""
        self._ended.update(_counts(call))

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
        yield _counter("lipwire_frames", "Frames that left, by what became of them; `skipped` "
                       "ones were replaced by newer ones before any work.", "outcome", totals,
                       [*(o.value for o in Outcome), "skipped"])  # fmt: skip
        yield _counter("lipwire_media_bytes", "Bytes over UDP.", "direction", totals, ["in", "out"])
        yield _counter("lipwire_pictures_refused", "Key pictures that came and were not decoded.",
                       "reason", totals, ["size"])  # fmt: skip

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


def _counts(call: Call) -> dict[tuple[str, str], int]:
    """What one session has counted so far, by metric and label."""
    received, sent = call.traffic()
    stats = call.stats()
    counts = {("lipwire_frames", outcome.value): count for outcome, count in stats.outcomes.items()}
    for (before, after), count in stats.rung_changes.items():
        counts[CHANGES, f"{before} {after}"] = count
    counts["lipwire_frames", "skipped"] = call.ingest.skipped
    counts["lipwire_pictures_refused", "size"] = refusals(call.publisher.pc)[0]
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
