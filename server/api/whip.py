"""WHIP (RFC 9725) and WHEP (draft-ietf-wish-whep) as thin routes over `signaling`.

    POST /whip?consent=true            begin a session: picture and original voice in
    POST /whip/live/{name}             the same under a name, which is the session's id
    POST /whip/{id}/voice              be its new voice
    POST /whep/{id}                    watch it
    PATCH, DELETE on each Location     late candidates; the end

All of them answer GET, HEAD and OPTIONS, as the texts ask.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeVar

from fastapi import APIRouter, Depends, HTTPException, Query, Request, Response

from lipwire.engine import EngineConfig
from lipwire.server.api.access import require, sessions_of
from lipwire.server.api.auth import Claims, Right
from lipwire.server.api.schemas import DEFAULT_LUFS, WRITES, refusals
from lipwire.server.call.avatar import FilePublisher
from lipwire.server.call.sessions import ConsentMissing, Sessions, check_match
from lipwire.server.rtc import ice
from lipwire.server.rtc.connection import Ending, PeerConnection
from lipwire.server.rtc.sdp import Offer, OfferRefused, Purpose, read_fragment, read_offer

SDP, FRAGMENT = "application/sdp", "application/trickle-ice-sdpfrag"

TEXT: dict[str, Any] = {"type": "string", "minLength": 1}
# How a route that takes an offer is described, and what it answers with.
TAKES_OFFER = {"requestBody": {"required": True, "content": {SDP: {"schema": TEXT}}}}
CREATED: dict[int | str, dict[str, Any]] = {
    201: {
        "content": {SDP: {"schema": TEXT}},
        "headers": {
            name: {"description": about, "schema": {"type": "string"}}
            for name, about in (
                ("Location", "the new resource, for PATCH and DELETE"),
                ("ETag", "for If-Match"),
                ("Link", 'STUN and TURN servers, `rel="ice-server"`'),
            )
        },
    }
}
# The same for late candidates.
TAKES_FRAGMENT = {
    "requestBody": {"required": True, "content": {FRAGMENT: {"schema": TEXT}}},
    "parameters": [
        {
            "name": "If-Match",
            "in": "header",
            "required": True,
            "description": "the ETag that POST gave",
            "schema": {"type": "string"},
        }
    ],
}
TRICKLED = refusals(*WRITES, 412, 413, 415, 422, 428)

router = APIRouter()
Route = TypeVar("Route", bound=Callable[..., Any])


async def _body(request: Request, kind: str) -> str:
    given = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if given != kind:
        raise HTTPException(415, f"Content-Type is {given or 'missing'}, must be {kind}")
    try:
        return (await request.body()).decode()
    except UnicodeDecodeError:
        raise HTTPException(400, "the body is not UTF-8") from None


async def _offer(request: Request, purpose: Purpose, config: EngineConfig | None = None) -> Offer:
    private = sessions_of(request).settings.private_candidates
    return read_offer(await _body(request, SDP), purpose, config=config, private=private)


def _created(request: Request, location: str, etag: str, answer: str) -> Response:
    response = Response(answer, 201, {"Location": location, "ETag": etag}, SDP)
    for value in ice.link_headers(sessions_of(request).settings, etag.strip('"')[:6]):
        response.headers.append("Link", value)
    return response


# --- routes of one kind ---


def _takes_offer(
    path: str, *refused: int, right: Right | None = None, shown: bool = True
) -> Callable[[Route], Route]:
    return router.post(
        path,
        status_code=201,
        response_class=Response,
        dependencies=[Depends(require(right))] if right else [],
        responses={**CREATED, **refusals(*refused)},
        openapi_extra=TAKES_OFFER,
        include_in_schema=shown,
    )


def _takes_candidates(path: str, right: Right) -> Callable[[Route], Route]:
    return router.patch(
        path,
        status_code=204,
        dependencies=[Depends(require(right))],
        responses=TRICKLED,
        openapi_extra=TAKES_FRAGMENT,
    )


def _ends(path: str, right: Right) -> Callable[[Route], Route]:
    return router.delete(
        path,
        status_code=200,
        response_class=Response,
        dependencies=[Depends(require(right))],
        responses=refusals(*WRITES),
    )


# --- beginning ---


@dataclass(frozen=True, slots=True)
class Wishes:
    """What a publisher's address asks for."""

    consent: Annotated[bool, Query(description="the person shown has agreed")] = False
    steps: Annotated[int | None, Query(description="diffusion steps a picture")] = None
    original_level: Annotated[float, Query(ge=0, le=1)] = 0.0
    silence: Literal["original", "generate"] = "original"
    ducking: bool = False
    loudness_lufs: Annotated[float, Query(ge=-40, le=-8)] = DEFAULT_LUFS
    record: Annotated[bool, Query(description="keep the result as a file")] = False

    def config(self, sessions: Sessions) -> EngineConfig:
        return EngineConfig(
            steps=self.steps,
            original_level=self.original_level,
            silence=self.silence,
            ducking=self.ducking,
            loudness_lufs=self.loudness_lufs,
            speech_backlog_max_s=sessions.settings.speech_backlog_max_s,
            ladder=sessions.settings.ladder,
        )


def location(name: str | None, link: PeerConnection | FilePublisher) -> str:
    """The address of a publisher, by which it alone ends its session."""
    return f"/whip/{link.name}" if name is None else f"/whip/live/{name}/{link.name}"


async def _publish(request: Request, grant: Claims, wishes: Wishes, name: str | None) -> Response:
    sessions = sessions_of(request)
    sessions.check_publish(name)
    offer = await _offer(request, Purpose.INGEST, wishes.config(sessions))
    if not (wishes.consent or grant.consent):
        raise ConsentMissing("the person shown must have agreed: add ?consent=true to the address")
    _, link, answer = await sessions.publish(offer, name, wishes.record)
    return _created(request, location(name, link), link.etag, answer)


@_takes_offer("/whip", 400, 401, 403, 413, 415, 422, 429, 503)
async def publish(
    request: Request,
    grant: Annotated[Claims, Depends(require(Right.PUBLISH))],
    wishes: Annotated[Wishes, Depends()],
) -> Response:
    """Begin a session from an SDP offer; its id is the end of Location.

    Clients that can set an address and a token only state the consent by `?consent=true`, or the
    token carries it.
    """
    return await _publish(request, grant, wishes, None)


# Before the routes of random ids: `live` is nobody's.
@_takes_offer("/whip/live/{name}", 400, 401, 403, 409, 413, 415, 422, 429, 503)
async def publish_named(
    request: Request,
    name: str,
    grant: Annotated[Claims, Depends(require(Right.PUBLISH))],
    wishes: Annotated[Wishes, Depends()],
) -> Response:
    """The same under a name, which is the session's id.

    A session that lost its publisher is taken over: its viewers and its voice stay. 409 while its
    publisher is there.
    """
    return await _publish(request, grant, wishes, name)


@_takes_offer(
    "/whip/live/{name}/voice", *WRITES, 409, 413, 415, 422, right=Right.SPEAK, shown=False
)
@_takes_offer("/whip/{name}/voice", *WRITES, 409, 413, 415, 422, right=Right.SPEAK)
async def voice(request: Request, name: str) -> Response:
    """Be the session's new voice: an offer with one audio section."""
    return await _attach(request, name, Purpose.VOICE, f"/whip/{name}/voice")


@_takes_offer("/whep/live/{name}", *WRITES, 409, 413, 415, 422, 503, right=Right.WATCH, shown=False)
@_takes_offer("/whep/{name}", *WRITES, 409, 413, 415, 422, 503, right=Right.WATCH)
async def watch(request: Request, name: str) -> Response:
    """Watch the session: an offer that receives."""
    return await _attach(request, name, Purpose.WATCH, f"/whep/{name}")


async def _attach(request: Request, name: str, purpose: Purpose, folder: str) -> Response:
    """A further link of a session; its Location lies below `folder`."""
    sessions = sessions_of(request)
    sessions.get(name)  # what is not there is said before the offer is read
    link, answer = await sessions.attach(name, await _offer(request, purpose))
    return _created(request, f"{folder}/{link.name}", link.etag, answer)


# --- late candidates and the end ---


async def _trickle(
    request: Request, purpose: Purpose, name: str, link_name: str | None = None
) -> Response:
    link = sessions_of(request).link(name, purpose, link_name)
    fragment = read_fragment(await _body(request, FRAGMENT))
    check_match(request.headers.get("if-match"), link.etag)
    if link.restarts(fragment):
        raise OfferRefused("ICE restarts are not supported; the session goes on as it is")
    await link.trickle(fragment)
    return Response(status_code=204)


@_takes_candidates("/whip/live/{name}/{link}", Right.PUBLISH)
async def trickle_named_publisher(request: Request, name: str, link: str) -> Response:
    """Late candidates of the publisher of a name."""
    return await _trickle(request, Purpose.INGEST, name, link)


@_takes_candidates("/whip/{name}", Right.PUBLISH)
async def trickle_publisher(request: Request, name: str) -> Response:
    """Late candidates of the publisher."""
    return await _trickle(request, Purpose.INGEST, name)


@_takes_candidates("/whip/{name}/voice/{link}", Right.SPEAK)
async def trickle_voice(request: Request, name: str, link: str) -> Response:
    """Late candidates of the voice."""
    return await _trickle(request, Purpose.VOICE, name, link)


@_takes_candidates("/whep/{name}/{link}", Right.WATCH)
async def trickle_viewer(request: Request, name: str, link: str) -> Response:
    """Late candidates of a viewer."""
    return await _trickle(request, Purpose.WATCH, name, link)


@_ends("/whip/live/{name}/{link}", Right.PUBLISH)
async def unpublish_named(request: Request, name: str, link: str) -> Response:
    """End the session, for its viewers too; 404 for a publisher that was taken over."""
    await sessions_of(request).close(name, link)
    return Response(status_code=200)


@_ends("/whip/{name}", Right.PUBLISH)
async def unpublish(request: Request, name: str) -> Response:
    """End the session, for its viewers too."""
    await sessions_of(request).close(name)
    return Response(status_code=200)


async def _leave(request: Request, purpose: Purpose, name: str, link_name: str) -> Response:
    link = sessions_of(request).link(name, purpose, link_name)
    link.end(Ending.CLOSED)
    await link.wait_closed()
    return Response(status_code=200)


@_ends("/whip/{name}/voice/{link}", Right.SPEAK)
async def hush(request: Request, name: str, link: str) -> Response:
    """End the voice link; the session goes on."""
    return await _leave(request, Purpose.VOICE, name, link)


@_ends("/whep/{name}/{link}", Right.WATCH)
async def unwatch(request: Request, name: str, link: str) -> Response:
    """Stop watching; the session goes on."""
    return await _leave(request, Purpose.WATCH, name, link)


# --- GET, HEAD, OPTIONS: 2xx and empty ---

READS = ["GET", "HEAD", "OPTIONS"]


def _empty(methods: str, accepts: bool = True) -> Response:
    headers = {"Allow": f"{methods}, GET, HEAD, OPTIONS", "Content-Type": SDP}
    if accepts:
        headers["Accept-Post"] = SDP
    else:
        headers["Accept-Patch"] = FRAGMENT
    return Response(status_code=200, headers=headers)


@router.api_route("/whip", methods=READS, include_in_schema=False)
async def whip_endpoint() -> Response:
    """What may be done here."""
    return _empty("POST")


def _add_reads(
    path: str, purpose: Purpose, right: Right, own_link: bool, endpoint: bool, exists: bool = True
) -> None:
    """GET, HEAD and OPTIONS of an address that names a session, which perhaps is yet to begin."""

    async def read(request: Request, name: str, link: str | None = None) -> Response:
        if request.method != "OPTIONS":
            require(right)(request)  # a preflight carries no token (RFC 9725 section 4.7)
            if exists:
                sessions_of(request).link(name, purpose, link if own_link else None)
        return _empty("POST" if endpoint else "PATCH, DELETE", endpoint)

    router.add_api_route(path, read, methods=READS, include_in_schema=False)


_add_reads("/whip/live/{name}", Purpose.INGEST, Right.PUBLISH, False, True, exists=False)
_add_reads("/whep/live/{name}", Purpose.WATCH, Right.WATCH, False, True)
_add_reads("/whip/live/{name}/voice", Purpose.VOICE, Right.SPEAK, False, True)
_add_reads("/whip/live/{name}/{link}", Purpose.INGEST, Right.PUBLISH, True, False)
_add_reads("/whip/{name}", Purpose.INGEST, Right.PUBLISH, False, False)
_add_reads("/whip/{name}/voice", Purpose.VOICE, Right.SPEAK, False, True)
_add_reads("/whip/{name}/voice/{link}", Purpose.VOICE, Right.SPEAK, True, False)
_add_reads("/whep/{name}", Purpose.WATCH, Right.WATCH, False, True)
_add_reads("/whep/{name}/{link}", Purpose.WATCH, Right.WATCH, True, False)
