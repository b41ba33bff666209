"""A session's new voice: files, samples, text, subtitles, and the socket for PCM."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

from fastapi import APIRouter, Depends, HTTPException, Request, Response, WebSocket
from fastapi.responses import JSONResponse

from lipwire.engine import MediaError
from lipwire.server.api.access import Live, bearer_subprotocol, require
from lipwire.server.api.auth import Forbidden, Right, Unauthorised
from lipwire.server.api.schemas import (
    ANY_FILE,
    WRITES,
    SampleBody,
    SayBody,
    Shown,
    Spoken,
    SubtitleBody,
    refusals,
)
from lipwire.server.api.speech_socket import SpeechSocket, read_query, refuse
from lipwire.server.call import speech_queue
from lipwire.server.call.call import TooManySources
from lipwire.server.call.sessions import NoSuchSession

router = APIRouter()
SPEAK = [Depends(require(Right.SPEAK))]


@contextlib.asynccontextmanager
async def received(request: Request, max_mb: float) -> AsyncIterator[Path]:
    """A request's body as a file, for as long as it is needed.

    Raises:
        HTTPException: 413, it is too large.
        MediaError: there is none.
    """
    async with speech_queue.scratch_file() as file:
        size = 0
        async for piece in request.stream():
            size += len(piece)
            if size > max_mb * 1_000_000:
                raise HTTPException(413, f"larger than {max_mb:g} MB")
            await asyncio.to_thread(file.write, piece)
        await asyncio.to_thread(file.flush)
        if not size:
            raise MediaError("the body is empty; send the file's bytes")
        yield Path(file.name)


@router.post(
    "/api/sessions/{name}/speech",
    dependencies=SPEAK,
    response_model_exclude_none=True,
    responses=refusals(*WRITES, 413, 415, 422),
    openapi_extra=ANY_FILE,
)
async def upload(sessions: Live, name: str, request: Request) -> Spoken:
    """Speak a sound file, sent as the body; answers when all of it is scheduled."""
    call = sessions.get(name)
    with call.source():
        async with received(request, sessions.settings.max_upload_mb) as path:
            notes: list[str] = []
            seconds = await speech_queue.speak_file(call.voice, path, note=notes.append)
            return Spoken(seconds=seconds, notes=notes or None)


@router.post(
    "/api/sessions/{name}/sample",
    dependencies=SPEAK,
    response_model_exclude_none=True,
    responses=refusals(*WRITES, 413, 422),
)
async def sample(sessions: Live, name: str, body: SampleBody) -> Spoken:
    """Speak one of the voices that ship with lipwire."""
    call = sessions.get(name)
    voices = speech_queue.sample_voices()
    if body.name not in voices:
        raise HTTPException(404, f"no sample {body.name!r}; there are {sorted(voices)}")
    with call.source():
        return Spoken(seconds=await speech_queue.speak_file(call.voice, voices[body.name]))


@router.post(
    "/api/sessions/{name}/say",
    dependencies=SPEAK,
    response_model_exclude_none=True,
    responses=refusals(*WRITES, 413, 422, 501),
)
async def say(sessions: Live, name: str, body: SayBody) -> Spoken:
    """Speak text through espeak-ng, where the server has it."""
    call = sessions.get(name)
    if len(body.text) > sessions.settings.max_text_chars:
        raise HTTPException(
            413, f"the text is longer than {sessions.settings.max_text_chars} characters"
        )
    with call.source():
        return Spoken(seconds=await speech_queue.speak_text(call.voice, body.text, body.language))


@router.post(
    "/api/sessions/{name}/subtitles", dependencies=SPEAK, responses=refusals(*WRITES, 413, 422)
)
async def subtitle(sessions: Live, name: str, body: SubtitleBody) -> Shown:
    """Show text while the voice that was scheduled since the last subtitle is heard."""
    events = sessions.get(name).events
    return Shown(in_s=events.subtitle(body.text, body.language, body.duration_s))


@router.post(
    "/api/sessions/{name}/interrupt",
    status_code=204,
    dependencies=SPEAK,
    responses=refusals(*WRITES),
)
async def interrupt(sessions: Live, name: str) -> Response:
    """Drop the voice that has not been heard."""
    sessions.get(name).interrupt()
    return Response(status_code=204)


@router.websocket("/api/sessions/{name}/speech")
async def speech_socket(sessions: Live, socket: WebSocket, name: str) -> None:
    """16-bit PCM in, at `?rate=`, perhaps `&channels=2`, `&live=true`, or `?format=auto`; see
    `lipwire.server.api.speech_socket`."""
    try:
        require(Right.SPEAK)(socket)
        call = sessions.get(name)
    except (NoSuchSession, Unauthorised, Forbidden) as error:
        status = {NoSuchSession: 404, Unauthorised: 401}.get(type(error), 403)
        await socket.send_denial_response(JSONResponse({"error": str(error)}, status))
        return
    try:
        declared = read_query(socket.query_params)
    except MediaError as error:
        await refuse(socket, str(error))
        return
    try:
        with call.source():
            await socket.accept(bearer_subprotocol(socket))
            await SpeechSocket(socket, call, declared).run()
    except TooManySources as error:
        await refuse(socket, str(error))
