"""Which face of several is dubbed: the route, and what the data channel says about it.

POST /api/sessions/{id}/face    {"policy": "lips"} | {"next": true} | {"index": 1} |
                                {"position": [0.7, 0.4]}
data channel                    {"type": "face", ...the same}
"""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Depends, Request

from lipwire.server.api.access import require
from lipwire.server.api.auth import Right
from lipwire.server.api.schemas import WRITES, refusals
from lipwire.server.call.face_choice import FaceBody, face_figures

router = APIRouter()


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
