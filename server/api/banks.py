"""A person's own mouths from before the call, and for the next one.

POST /api/sessions/{id}/bank?consent=true    a bank file as the body: begin with these mouths
GET  /api/sessions/{id}/bank?consent=true    the mouths that the session knows, as a file
"""

from __future__ import annotations

import asyncio
from typing import Annotated, Any

from fastapi import APIRouter, Depends, HTTPException, Query, Request, Response

from lipwire.engine import BankError, read_bank, write_bank
from lipwire.engine.types import Enrolled
from lipwire.server.api.access import require
from lipwire.server.api.auth import Right
from lipwire.server.api.schemas import ANY_FILE, READS, WRITES, refusals
from lipwire.server.call.sessions import ConsentMissing, Sessions
from lipwire.server.media.banks import consent_now

router = APIRouter()
# The publisher's own: a token that only controls or watches a session takes no mouths out of it.
OWNER = [Depends(require(Right.PUBLISH))]
STATED = "The person shown agreed in the call that pictures of their mouth are kept in this file."
Text = Annotated[str, Query(max_length=500)]


def _agreed(consent: bool) -> None:
    if not consent:
        raise ConsentMissing(
            "the person whose mouths these are must have agreed: send consent=true"
        )


@router.post(
    "/api/sessions/{name}/bank",
    status_code=202,
    dependencies=OWNER,
    responses=refusals(*WRITES, 413, 422),
    openapi_extra=ANY_FILE,
)
async def give_bank(name: str, request: Request, consent: bool = False) -> dict[str, Any]:
    """Begin with the mouths in a bank file, sent as the body.

    They are shown once the face is known as that of their person; `bank.enrolled` of the figures
    and an event of the data channel say what became of it.
    """
    sessions: Sessions = request.app.state.sessions
    call = sessions.get(name)
    _agreed(consent)
    data = await request.body()  # as large as the guard lets it be
    bank = await asyncio.to_thread(read_bank, data, sessions.settings.bank_secret)
    call.session.enrol(bank)
    return {"units": len(bank.units), "enrolled": Enrolled.WAITING}


@router.get(
    "/api/sessions/{name}/bank",
    dependencies=OWNER,
    response_class=Response,
    responses={200: {"content": {"application/octet-stream": {}}}, **refusals(400, *READS, 409)},
)
async def take_bank(
    name: str, request: Request, consent: bool = False, person: Text = "", statement: Text = STATED
) -> Response:
    """The person's own mouths that the session knows, as a bank file with this consent in it.

    409 until half a second of their speech has been seen.
    """
    sessions: Sessions = request.app.state.sessions
    call = sessions.get(name)
    _agreed(consent)
    agreed = consent_now(person, statement)

    def made() -> bytes:
        try:
            return write_bank(call.session.enrolled(agreed), sessions.settings.bank_secret)
        except BankError as error:
            raise HTTPException(409, str(error)) from error

    headers = {
        "Content-Disposition": 'attachment; filename="person.bank"',
        "Cache-Control": "no-store",
    }
    return Response(await asyncio.to_thread(made), 200, headers, "application/octet-stream")
