"""Which face of several is dubbed: how a call is told, and what it says about it."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from lipwire.engine.face.policy import Choice, Policy
from lipwire.engine.types import Sighting


class FaceBody(BaseModel):
    """Who should be dubbed: one of the four."""

    model_config = ConfigDict(extra="forbid")

    policy: Literal["largest", "central", "lips"] | None = Field(
        default=None,
        description="how a face is chosen; lips: whose lips move with the original voice",
    )
    next: bool = Field(default=False, description="the next face to the right, then the first")
    index: int | None = Field(
        default=None, ge=0, le=63, description="counted from the left, from 0"
    )
    position: tuple[float, float] | None = Field(
        default=None, description="the face nearest to (x, y), shares of the picture"
    )

    def choice(self) -> Choice:
        """For the engine.

        Raises:
            ConfigError: none of them, or several.
        """
        policy = None if self.policy is None else Policy(self.policy)
        return Choice(policy, self.next, self.index, self.position)


def face_figures(seen: Sighting) -> dict[str, Any]:
    """What the tracking knows, for people."""
    return {
        "state": seen.state.value,
        "faces": seen.faces,
        "index": seen.index,
        "box": seen.box,
        "reason": None if seen.reason is None else seen.reason.value,
        "policy": seen.policy,
    }
