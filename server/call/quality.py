"""What is told of the overload ladder (`engine/overload/controller.py`): to people, and in the log.

{"type": "quality", "rung": "half", "before": "full", "steps": 1, "asked": 2,
 "reason": "pictures came too late", "changes": 3}
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

from lipwire.engine import Session
from lipwire.engine.overload.levels import FULL_RUNG, Change

log = logging.getLogger(__name__)


class QualityWatch:
    """Of one session: each of its changes is told once."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._told = 0

    def news(self) -> Iterator[dict[str, Any]]:
        """Events for the changes since the last call, logged in passing."""
        for change in self._session.rung_changes(self._told):
            self._told = change.number
            event = self._event(change)
            fields = {name: value for name, value in event.items() if name != "type"}
            before, after = change.before, change.after
            steps = f"{after.steps} of {self._session.steps} steps"
            said = f"quality {before.name} -> {after.name}, {steps}: {change.reason}"
            log.warning(said, extra={"fields": fields})
            yield event

    def state(self) -> dict[str, Any] | None:
        """The event for whoever comes later; None while there is nothing to say."""
        changes = self._session.rung_changes()
        if not changes or changes[-1].after.name == FULL_RUNG:
            return None
        return self._event(changes[-1])

    def _event(self, change: Change) -> dict[str, Any]:
        return {
            "type": "quality",
            "rung": change.after.name,
            "before": change.before.name,
            "steps": change.after.steps,
            "asked": self._session.steps,
            "reason": str(change.reason),
            "changes": change.number,
        }
