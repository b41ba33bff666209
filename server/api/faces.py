"""Which face of several is dubbed: the route, and what the data channel says about it.

POST /api/sessions/{id}/face    {"policy": "lips"} | {"next": true} | {"index": 1} |
                                {"position": [0.7, 0.4]}
data channel                    {"type": "face", ...the same}
"""

from __future__ import annotations

from typing import Any, Literal

from fastapi import APIRouter, Depends, Request
from pydantic import Field

from lipwire.engine.face.policy import Choice, Policy
from lipwire.engine.types import Sighting
from lipwire.server.api.access import require
from lipwire.server.api.auth import Right
from lipwire.server.api.schemas import WRITES, Body, refusals

router = APIRouter()


class FaceBody(Body):
    """Who should be dubbed: one of the four."""

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


@router.post(
    "/api/sessions/{name}/face",
    dependencies=[Depends(require(Right.CONTROL))],
    responses=refusals(*WRITES),
)
async def choose_face(name: str, body: FaceBody, request: Request) -> dict[str, Any]:
    """Dub another face, or choose otherwise; gives what was known before the next picture."""
    call = request.app.state.sessions.get(name)
    call.session.choose_face(body.choice())
    return {"face": face_figures(call.stats().face)}


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
