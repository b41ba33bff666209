"""Which HTTP status each kind of error gets, and the one shape that all of them have."""

from __future__ import annotations

from collections.abc import Callable

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from lipwire.engine import (
    BankError,
    BundleError,
    ConfigError,
    LipwireError,
    MediaError,
    SessionClosed,
)
from lipwire.server.api import auth
from lipwire.server.call import call, sessions, speech_queue
from lipwire.server.media import recording, subtitles
from lipwire.server.rtc import sdp

RETRY_AFTER_S = 5
# Status, and the cause under which refusals are counted. First match counts, so the narrower kinds
# stand before MediaError and LipwireError.
STATUS: tuple[tuple[type[LipwireError], int, str], ...] = (
    (sessions.NoSuchSession, 404, "unknown"),
    (SessionClosed, 404, "unknown"),
    (sessions.ServerFull, 503, "full"),
    (call.TooManyViewers, 503, "viewers"),
    (call.NotLive, 409, "not_live"),
    (call.NameTaken, 409, "name_taken"),
    (sessions.BadName, 400, "name"),
    (call.VoiceTaken, 409, "voice_taken"),
    (call.TooManySources, 429, "sources"),
    (sessions.PreconditionMissing, 428, "precondition"),
    (sessions.PreconditionFailed, 412, "precondition"),
    (auth.Unauthorised, 401, "token"),
    (auth.Forbidden, 403, "scope"),
    (sessions.ConsentMissing, 403, "consent"),
    (recording.RecordingRefused, 403, "recording"),
    (subtitles.TooManySubtitles, 429, "rate"),
    (sdp.TooLarge, 413, "size"),
    (sdp.OfferRefused, 422, "offer"),
    (sdp.OfferError, 400, "offer"),
    (BankError, 422, "bank"),
    (BundleError, 400, "settings"),
    (ConfigError, 400, "settings"),
    (speech_queue.NoSpeech, 501, "no_speech"),
    (speech_queue.NotMedia, 415, "media"),
    (MediaError, 422, "media"),
)
HTTP_CAUSES = {404: "unknown", 405: "method", 413: "size", 415: "type"}


def add_problems(app: FastAPI, refused: Callable[[str], None]) -> None:
    """Answer every error with a `Problem` and a fitting status."""

    def answer(status: int, text: str, cause: str) -> JSONResponse:
        refused(cause)
        headers = {}
        if status in (429, 503) or cause in ("not_live", "name_taken"):
            headers["Retry-After"] = str(RETRY_AFTER_S)
        if status == 401:
            headers["WWW-Authenticate"] = 'Bearer realm="lipwire"'  # RFC 6750 section 3
        return JSONResponse({"error": text}, status, headers)

    @app.exception_handler(LipwireError)
    async def known(request: Request, error: LipwireError) -> JSONResponse:
        for kind, status, cause in STATUS:
            if isinstance(error, kind):
                return answer(status, str(error), cause)
        return answer(500, str(error), "fault")

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"] if part != "body")
        text = f"{place}: {first['msg']}" if place else f"the body: {first['msg']}"
        return answer(400, text, "request")

    @app.exception_handler(HTTPException)
    async def http(request: Request, error: HTTPException) -> JSONResponse:
        status = error.status_code
        return answer(status, str(error.detail), HTTP_CAUSES.get(status, "request"))
