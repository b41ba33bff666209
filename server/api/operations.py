"""Routes for those who run the server: is it alive, does it take calls, what does it count."""

from __future__ import annotations

from fastapi import APIRouter, Depends, Request, Response
from fastapi.responses import JSONResponse
from prometheus_client import CONTENT_TYPE_LATEST

from lipwire.server.api.access import require
from lipwire.server.api.auth import Right
from lipwire.server.api.node import weight
from lipwire.server.api.schemas import refusals

router = APIRouter()


@router.get("/healthz", responses=refusals(403))
async def healthz() -> dict[str, str]:
    """Answers while the event loop runs; one that does not answer should be restarted."""
    return {"status": "ok"}


@router.get(
    "/readyz",
    responses={
        **refusals(403),
        503: {"content": {"application/json": {"schema": {"type": "object"}}}},
    },
)
async def readyz(request: Request) -> JSONResponse:
    """503 when the server is about to stop. A full one is ready: its viewers must reach it."""
    sessions = request.app.state.sessions
    room = max(0, sessions.settings.max_sessions - len(sessions))
    if sessions.draining:
        return JSONResponse({"status": "draining", "room": 0, "weight": 0}, 503)
    return JSONResponse({"status": "ready", "room": room, "weight": weight(sessions)})


@router.get(
    "/metrics",
    dependencies=[Depends(require(Right.METRICS))],
    response_class=Response,
    responses={
        200: {"content": {"text/plain": {"schema": {"type": "string"}}}},
        **refusals(401, 403),
    },
)
async def metrics(request: Request) -> Response:
    """Prometheus text."""
    return Response(request.app.state.metrics.render(), media_type=CONTENT_TYPE_LATEST)
