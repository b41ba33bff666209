"""Which HTTP status each kind of error gets, and the one shape that all of them have."""

from __future__ import annotations

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from engine import BundleError, ConfigError, LipwireError, MediaError, SessionClosed
from server import speech
from server.signaling import ConsentMissing, NoSuchSession, OfferError, ServerFull

RETRY_AFTER_S = 5
# First match counts, so the narrower kinds stand before MediaError and LipwireError.
STATUS: tuple[tuple[type[LipwireError], int], ...] = (
    (NoSuchSession, 404),
    (SessionClosed, 404),
    (ServerFull, 503),
    (ConsentMissing, 403),
    (OfferError, 400),
    (BundleError, 400),
    (ConfigError, 400),
    (speech.NoSpeech, 501),
    (speech.NotMedia, 415),
    (MediaError, 422),
)


def add_problems(app: FastAPI) -> None:
    """Every error is `{"error": "one line that names the cause"}` with a fitting status."""

    def answer(status: int, cause: str) -> JSONResponse:
        headers = {"Retry-After": str(RETRY_AFTER_S)} if status == 503 else None
        return JSONResponse({"error": cause}, status, headers)

    @app.exception_handler(LipwireError)
    async def known(request: Request, error: LipwireError) -> JSONResponse:
        status = next((code for kind, code in STATUS if isinstance(error, kind)), 500)
        return answer(status, str(error))

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"] if part != "body")
        return answer(400, f"{place}: {first['msg']}" if place else f"the body: {first['msg']}")

    @app.exception_handler(HTTPException)
    async def http(request: Request, error: HTTPException) -> JSONResponse:
        return answer(error.status_code, str(error.detail))
