"""Sessions over JSON: begun from an offer or a file, listed, changed, ended; their figures."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request, Response

from lipwire.engine import EngineConfig
from lipwire.server.api import whip
from lipwire.server.api.access import Live, identify, require
from lipwire.server.api.auth import Claims, Right
from lipwire.server.api.schemas import (
    ANY_FILE,
    READS,
    WRITES,
    AnswerBody,
    ChangeBody,
    Listed,
    OfferBody,
    Opened,
    refusals,
)
from lipwire.server.api.voice_routes import received
from lipwire.server.call.avatar import read_clip
from lipwire.server.call.sessions import ConsentMissing, Sessions
from lipwire.server.rtc.sdp import Purpose, read_offer

router = APIRouter()
CONTROL = [Depends(require(Right.CONTROL))]


async def _begin(
    sessions: Sessions, body: OfferBody, response: Response, grant: Claims, name: str | None
) -> AnswerBody:
    sessions.check_publish(name)
    settings = sessions.settings
    config = EngineConfig(
        steps=body.steps,
        original_level=body.original_level,
        silence=body.silence,
        ducking=body.ducking,
        loudness_lufs=body.loudness_lufs,
        speech_backlog_max_s=settings.speech_backlog_max_s,
        ladder=settings.ladder,
    )
    private = settings.private_candidates
    offer = read_offer(body.sdp, Purpose.CALL, body.type, config, private)
    if not (body.consent or grant.consent):
        raise ConsentMissing('the person shown must have agreed: send "consent": true')
    opened, link, sdp = await sessions.publish(offer, name, body.record)
    response.headers["Location"] = whip.location(name, link)
    return AnswerBody(id=opened, node=settings.node, sdp=sdp)


@router.post(
    "/api/sessions", status_code=201, responses=refusals(400, 401, 403, 413, 422, 429, 503)
)
async def open_session(
    sessions: Live,
    body: OfferBody,
    response: Response,
    grant: Annotated[Claims, Depends(require(Right.PUBLISH))],
) -> AnswerBody:
    """Begin a call from an SDP offer; 503 with Retry-After when there is no room."""
    return await _begin(sessions, body, response, grant, None)


@router.post(
    "/api/sessions/{name}",
    status_code=201,
    responses=refusals(400, 401, 403, 409, 413, 422, 429, 503),
)
async def open_named_session(
    name: str,
    sessions: Live,
    body: OfferBody,
    response: Response,
    grant: Annotated[Claims, Depends(require(Right.PUBLISH))],
) -> AnswerBody:
    """The same under a name, by which others watch and voice it.

    A session that lost its publisher is taken over: its viewers and its voice stay.
    """
    return await _begin(sessions, body, response, grant, name)


@router.put(
    "/api/sessions/{name}",
    status_code=201,
    responses=refusals(400, 401, 403, 409, 413, 422, 429, 503),
    openapi_extra=ANY_FILE,
)
async def open_avatar(
    name: str,
    sessions: Live,
    request: Request,
    response: Response,
    grant: Annotated[Claims, Depends(require(Right.PUBLISH))],
    wishes: Annotated[whip.Wishes, Depends()],
) -> Opened:
    """Begin a session whose face is a clip or a photo, sent as the body.

    It ends when nobody has watched or voiced it for `name_grace_s`.
    """
    sessions.check_publish(name)
    if not (wishes.consent or grant.consent):
        raise ConsentMissing("the person shown must have agreed: add ?consent=true")
    settings, config = sessions.settings, wishes.config(sessions)
    async with received(request, settings.max_upload_mb) as path:
        find = request.app.state.engine.find_faces
        clip = await asyncio.to_thread(read_clip, path, settings.picture_pixels, find, config)
    opened, publisher, _ = await sessions.publish(clip, name, wishes.record)
    response.headers["Location"] = whip.location(opened, publisher)
    return Opened(id=opened, node=settings.node)


@router.get("/api/sessions", responses=refusals(401, 403))
async def list_sessions(sessions: Live, request: Request) -> list[Listed]:
    """The sessions of this server that the token may see.

    Named ones for the right to watch; random ids and names of 32 characters or more, which are
    secrets, for the right to control.
    """
    grant, settings = identify(request), sessions.settings
    return [
        Listed(node=settings.node, **call.listed())
        for call in sessions.peers
        if grant.may(Right.CONTROL, call.name)
        or (call.public and grant.may(Right.WATCH, call.name))
    ]


@router.delete(
    "/api/sessions/{name}", status_code=204, dependencies=CONTROL, responses=refusals(*WRITES)
)
async def close_session(sessions: Live, name: str) -> Response:
    """End a call."""
    await sessions.close(name)
    return Response(status_code=204)


@router.patch("/api/sessions/{name}", dependencies=CONTROL, responses=refusals(*WRITES, 413, 422))
async def change_session(sessions: Live, name: str, body: ChangeBody) -> dict[str, Any]:
    """Change steps, sound, what is shown in silence, or recording; gives the figures."""
    call = sessions.get(name)
    if body.steps is not None:
        call.session.set_steps(body.steps)
    call.session.set_sound(
        original_level=body.original_level, ducking=body.ducking, loudness_lufs=body.loudness_lufs
    )
    if body.silence is not None:
        call.session.set_silence(body.silence)
    if body.record is not None:
        call.events.record(body.record)
    return call.figures()


@router.get("/api/sessions/{name}/stats", dependencies=CONTROL, responses=refusals(*READS))
async def stats(sessions: Live, name: str) -> dict[str, Any]:
    """The figures that the data channel also carries."""
    return sessions.get(name).figures()


@router.get("/api/sessions/{name}/trace", dependencies=CONTROL, responses=refusals(400, *READS))
async def trace(sessions: Live, name: str, since_s: float = 0.0) -> dict[str, Any]:
    """Where the delay of each of the last pictures came from; those that left after `since_s`.

    Times are this machine's monotonic clock; null where a picture did not pass.
    """
    return sessions.get(name).traced(since_s)
