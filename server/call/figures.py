"""What a call says of itself: to its publisher, to dashboards, in the list of sessions."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import Any

from lipwire.engine import Engine, Outcome, Session
from lipwire.engine.trace import POINTS, SOUND_POINTS, VOICE_POINTS, Trace
from lipwire.engine.types import SessionStats
from lipwire.server.call.avatar import FilePublisher
from lipwire.server.call.broadcast import Broadcaster
from lipwire.server.call.events import EventBus
from lipwire.server.call.face_choice import face_figures
from lipwire.server.call.ingest import Ingest
from lipwire.server.call.speech_queue import SpeechQueue
from lipwire.server.config import ServerConfig
from lipwire.server.rtc.connection import PeerConnection, reception, refusals
from lipwire.server.rtc.decoders import DECODED_PIXELS
from lipwire.server.rtc.sdp import Purpose


class CallFigures:
    """What is read of a `Call`."""

    name: str
    settings: ServerConfig
    session: Session
    public: bool
    publisher: PeerConnection | FilePublisher
    links: dict[str, tuple[Purpose, PeerConnection]]
    voice: SpeechQueue
    ingest: Ingest
    broadcaster: Broadcaster
    events: EventBus
    _engine: Engine
    _traffic: list[int]

    @property
    def lasted_s(self) -> float:
        """How long it has run."""
        return self.session.time_s(self._engine.clock())

    def stats(self) -> SessionStats:
        """The engine's own figures."""
        return self.session.stats(self._engine.clock())

    def traffic(self) -> tuple[int, int]:
        """Bytes that the call's links have received and sent so far."""
        running = [
            link.traffic() for link in (self.publisher, *(k for _, k in self.links.values()))
        ]
        received, sent = (
            total + sum(column)
            for total, column in zip(self._traffic, zip(*running, strict=True), strict=True)
        )
        return received, sent

    def disclosure(self) -> dict[str, Any]:
        """What everybody who is shown the result should be told (EU AI Act, article 50)."""
        return {
            "ai_generated": True,
            "mark": self.settings.mark_text if self.settings.mark else None,
        }

    def figures(self) -> dict[str, Any]:
        """What the call is doing, for people and dashboards; milliseconds, seconds, counts."""
        stats = self.stats()
        return {
            "seconds": round(self.lasted_s, 2),
            "fps": round(stats.fps, 1),
            "delay_p50_ms": round(stats.delay_p50_s * 1000, 1),
            "delay_p95_ms": round(stats.delay_p95_s * 1000, 1),
            "frames_in": stats.frames_in,
            "frames_out": stats.frames_out,
            "frames_skipped": self.ingest.skipped,
            "pasted": stats.pasted,
            "generated": stats.generated,
            "held": stats.held,
            "passed_through": {
                reason.value: count
                for reason, count in sorted(stats.outcomes.items())
                if reason not in (Outcome.PASTED, Outcome.GENERATED, Outcome.HELD)
            },
            "speaking": stats.speaking,
            "backlog_s": round(stats.speech_backlog_s, 2),
            "voice_drift_ppm": round(stats.speech_drift_ppm),
            "original_drift_ppm": round(stats.original_drift_ppm),
            "steps": stats.steps,
            "rung": stats.rung,
            "rung_reason": stats.rung_reason,
            "rung_changes": sum(stats.rung_changes.values()),
            **self.session.sound,
            "silence": self.session.silence,
            "face": face_figures(stats.face),
            "bank": asdict(stats.bank) | {"mib": round(stats.bank.mib, 1)},
            "viewers": sum(purpose is Purpose.WATCH for purpose, _ in self.links.values()),
            "av_offset_ms": round(self.broadcaster.av_offset_s * 1000, 1),
            "renditions": self.broadcaster.renditions["video"].figures(),
            "recording": self.events.figures(),
            "reception": reception(self.publisher.pc),
            "pictures": self._pictures(),
            **self.disclosure(),
        }

    def _pictures(self) -> dict[str, Any]:
        """Of what sizes they come, and why they are refused."""
        refused, size = refusals(self.publisher.pc)
        limit = max(self.settings.picture_pixels, DECODED_PIXELS)
        told = "1920x1088" if limit == DECODED_PIXELS else f"{limit} pixels"
        return {
            "size": _by(self.ingest.size),
            "scaled_to": _by(self.ingest.scaled_to),
            "refused": refused,
            "reason": size and f"pictures of {_by(size)} pixels are larger than {told}",
        }

    def listed(self) -> dict[str, Any]:
        """What the list of sessions says of it."""
        purposes = [purpose for purpose, _ in self.links.values()]
        return {
            "id": self.name,
            "named": self.public,
            "live": self.publisher.connected,
            "seconds": round(self.lasted_s, 2),
            "viewers": purposes.count(Purpose.WATCH),
            "voice": Purpose.VOICE in purposes,
        }

    def traced(self, since_s: float) -> dict[str, Any]:
        """When each picture and block of sound that left after `since_s` passed each point.

        With the pieces of the new voice that came last; `since_s` is on the engine's clock.
        """
        pictures = [
            [t.pts, t.outcome, *(t.at_s.get(point) for point in POINTS)]
            for t in self.broadcaster.traces
            if t.at_s["popped"] > since_s
        ]
        blocks = [t for t in self.broadcaster.sounds if t.at_s["popped"] > since_s]
        return {
            "columns": ["pts", "outcome", *POINTS],
            "pictures": pictures,
            "voice": _table(VOICE_POINTS, self.voice.traces),
            "sound": _table(SOUND_POINTS, blocks),
        }


def _by(size: tuple[int, int] | None) -> str | None:
    return None if size is None else f"{size[0]}x{size[1]}"


def _table(points: Sequence[str], traces: Iterable[Trace]) -> dict[str, Any]:
    """Of sound: its place at 48 kHz on the session's clock, and when it passed each point."""
    rows = [[t.pts, *(t.at_s.get(point) for point in points)] for t in traces]
    return {"columns": ["place", *points], "rows": rows}
