"""The FastAPI application: thin routes over `signaling`, `speech` and `pcm_socket`; start and stop.

The routes are in `whip`, `session_routes`, `voice_routes`, `faces`, `banks` and `operations`.

create_app(settings)            an ASGI application that opens and closes its own engine
serve(settings)                 a whole server: says when it is ready, returns when stopped
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import sys
import threading
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import cv2
import uvicorn
from fastapi import Depends, FastAPI
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.responses import FileResponse, HTMLResponse
from fastapi.staticfiles import StaticFiles

from lipwire.engine import Engine, open_engine
from lipwire.server import __version__
from lipwire.server.api import (
    banks,
    faces,
    node,
    operations,
    session_routes,
    voice_routes,
    whip,
    wyoming,
)
from lipwire.server.api.access import require
from lipwire.server.api.auth import Authenticator, Right
from lipwire.server.api.errors import add_problems
from lipwire.server.api.guard import RequestGuard
from lipwire.server.api.listener import SOCKETS, Server, listen, listen_for_agent, page_url
from lipwire.server.api.metrics import Metrics
from lipwire.server.api.schemas import refusals
from lipwire.server.api.tracing import TraceContext, Tracing
from lipwire.server.call import speech_queue
from lipwire.server.call.call import Call
from lipwire.server.call.sessions import Sessions
from lipwire.server.config import ServerConfig
from lipwire.server.ops import logs, memory
from lipwire.server.rtc import ice, patch, picture_limit

log = logging.getLogger(__name__)

# How long a thread may keep the interpreter to itself while others wait; Python's default is 5 ms.
# A frame's way takes and gives the interpreter back dozens of times, each time behind the event
# loop: on a busy machine it took longer than the time between two frames. Longer: on two cores
# beside Chromium's software rendering 6 % of frames showed a changed mouth at 5 ms, 30 % at this;
# shorter was no better (5 to 25 %).
SWITCH_S = 0.0005
STATIC = Path(__file__).parents[1] / "static"
# Threads for what blocks beside pictures and sound: files, uploads, a codec that ends. Fewer: an
# upload that is slow to check holds up the end of a call; more: each keeps a heap.
HELPERS = 6


class _Api(FastAPI):
    def openapi(self) -> dict[str, Any]:
        """The description without FastAPI's own 422: what does not fit is a 400 (`problems`)."""
        if self.openapi_schema is None:
            document = super().openapi()
            for operations in document["paths"].values():
                for operation in operations.values():
                    if "HTTPValidationError" in str(operation["responses"].get("422")):
                        del operation["responses"]["422"]
            for name in ("HTTPValidationError", "ValidationError"):
                document["components"]["schemas"].pop(name, None)
        return self.openapi_schema or {}


def create_app(
    settings: ServerConfig | None = None,
    engine: Engine | None = None,
    wyoming_listener: socket.socket | None = None,
    agent: socket.socket | None = None,
) -> FastAPI:
    """The application.

    Args:
        settings: of the server.
        engine: used and left open; None opens one from the settings and closes it at the end.
        wyoming_listener: where Wyoming clients come, of the settings' `wyoming`.
        agent: where a proxy asks how many calls it should send.
    """
    settings = settings or ServerConfig()
    settings.check()
    metrics = Metrics()

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        await _fill_helpers()
        patch.apply(settings, metrics.observe)
        ice.apply(settings)
        app.state.engine = engine or await asyncio.to_thread(_open_engine, settings)
        tracing = Tracing(settings) if settings.otel else None

        def keep(call: Call) -> None:
            metrics.keep(call)
            if tracing is not None:
                tracing.end(call)

        begin = None if tracing is None else tracing.begin
        sessions = Sessions(app.state.engine, settings, metrics.observe, begin, keep)
        app.state.sessions = sessions
        metrics.watch(app.state.sessions, app.state.engine)
        if not settings.mark:
            log.warning(
                "the visible mark is off by an explicit setting: say otherwise that the "
                "pictures are AI-generated"
            )
        lag = asyncio.create_task(metrics.measure_loop_lag())
        # Beside everything else: signing what a killed process left may take a while.
        threading.Thread(target=app.state.sessions.archive.adopt, daemon=True).start()
        sampled = None if tracing is None else asyncio.create_task(tracing.sample_pictures())
        asked = agent and await node.serve_weight(app.state.sessions, agent)
        try:
            async with contextlib.AsyncExitStack() as beside:
                if wyoming_listener is not None and settings.wyoming is not None:
                    name = settings.wyoming.rpartition("/")[2]
                    clients = wyoming.listening(app.state.sessions, wyoming_listener, name)
                    await beside.enter_async_context(clients)
                yield
        finally:
            if asked is not None:
                asked.close()
            lag.cancel()
            await sessions.shutdown()
            if tracing is not None and sampled is not None:
                sampled.cancel()
                await tracing.close()
            if engine is None:
                await asyncio.to_thread(app.state.engine.close)

    app = _Api(
        title="lipwire", version=__version__, lifespan=lifespan, docs_url=None, redoc_url=None
    )
    app.state.authenticator, app.state.metrics = Authenticator(settings), metrics
    app.add_middleware(
        RequestGuard, settings=settings, refused=metrics.refused, answered=metrics.answered
    )
    if settings.otel:
        app.add_middleware(TraceContext)
    if settings.node is not None:
        app.add_middleware(node.NodeAddress, node=settings.node, refused=metrics.refused)
    add_problems(app, metrics.refused)
    app.include_router(whip.router, tags=["WHIP and WHEP"])
    app.include_router(operations.router, tags=["operations"])
    app.include_router(faces.router, tags=["faces"])
    app.include_router(banks.router, tags=["own mouths"])
    app.include_router(session_routes.router)
    app.include_router(voice_routes.router)

    @app.get("/", include_in_schema=False)
    async def page() -> FileResponse:
        return FileResponse(STATIC / "index.html", headers={"Cache-Control": "no-cache"})

    @app.get("/view/{name}", include_in_schema=False)
    async def view(name: str) -> FileResponse:
        return FileResponse(STATIC / "view.html", headers={"Cache-Control": "no-cache"})

    @app.get("/docs", include_in_schema=False)
    async def docs() -> HTMLResponse:
        return get_swagger_ui_html(
            openapi_url="/openapi.json",
            title=f"lipwire {__version__}",
            swagger_js_url="/static/swagger/swagger-ui-bundle.js",
            swagger_css_url="/static/swagger/swagger-ui.css",
            swagger_favicon_url="/static/icon.svg",
        )

    @app.get(
        "/api/ice-servers",
        dependencies=[Depends(require(Right.PUBLISH))],
        responses=refusals(401, 403),
    )
    async def ice_servers() -> list[dict[str, Any]]:
        """STUN and TURN servers for a browser's `RTCPeerConnection`; credentials expire."""
        return ice.ice_servers(settings, "page")

    @app.get("/api/info", responses=refusals(403))
    async def info() -> dict[str, Any]:
        """What this server runs and takes."""
        backend, manifest = app.state.engine.backend, app.state.engine.backend.manifest
        return {
            "version": __version__,
            "node": settings.node,
            "model": {
                "name": manifest.name,
                "version": manifest.version,
                "licence": manifest.licence,
                "kind": manifest.kind,
                "parameters": manifest.parameters,
                "gflop_per_frame": manifest.gflop_per_frame,
            },
            "runtime": backend.description,
            "steps_offered": list(manifest.steps_offered),
            "default_steps": manifest.default_steps,
            "voices": list(speech_queue.sample_voices()),
            "text_to_speech": speech_queue.espeak() is not None,
            "max_text_chars": settings.max_text_chars,
            "max_upload_mb": settings.max_upload_mb,
            "sessions": len(app.state.sessions),
            "max_sessions": settings.max_sessions,
            "recording_offered": settings.record is not None,
            "token_needed": not app.state.authenticator.open,
            "mark": settings.mark_text if settings.mark else None,
        }

    # Files of a package: nothing is loaded from another host.
    swagger = StaticFiles(packages=[("fastapi_offline", "static")])
    app.mount("/static/swagger", swagger, name="swagger")
    # In a checkout the client is a link to its package.
    app.mount("/static", StaticFiles(directory=STATIC, follow_symlink=True), name="static")
    return app


async def _fill_helpers() -> None:
    """Give the loop its helper threads, all at once.

    A pool that fills when two things happen to need it together looks like a leak for hours.
    """
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(HELPERS, "helper"))
    all_there = threading.Barrier(HELPERS)
    await asyncio.gather(*(asyncio.to_thread(all_there.wait) for _ in range(HELPERS)))


def _open_engine(settings: ServerConfig) -> Engine:
    return open_engine(
        settings.bundle,
        backend=settings.backend,
        threads=settings.threads,
        devices=settings.devices or None,
        tracker=settings.tracker,
    )


def _with_measured_pictures(settings: ServerConfig) -> ServerConfig:
    """The settings with the largest picture that this machine carries, unless they say one."""
    if settings.max_pixels is not None:
        return settings
    width, height = picture_limit.measured(settings.video_codec)
    return settings.model_copy(update={"max_pixels": width * height})


def serve(settings: ServerConfig) -> None:
    """Run a server until SIGINT or SIGTERM; the latter lets calls go on for `drain_s`.

    Raises:
        ConfigError: the port is taken, or strangers could come in without a token.
        BundleError: the model is incomplete, altered or unknown.
        BackendError: the runtime refuses the model.
    """
    settings.check_guarded()
    logs.set_up(settings)
    memory.bound_heaps()
    with (
        listen(settings) as listener,  # first: a taken port is known at once
        wyoming.listen(settings) or contextlib.nullcontext() as wyoming_listener,
        listen_for_agent(settings) as agent,
        _open_engine(settings) as engine,
    ):
        manifest = engine.backend.manifest
        settings = _with_measured_pictures(settings)
        print(
            f"model {manifest.name} {manifest.version} on {engine.backend.description}; "
            f"pictures of up to {settings.picture_pixels} pixels",
            flush=True,
        )
        sys.setswitchinterval(SWITCH_S)
        cv2.setNumThreads(1)  # its pool would spin on the core that decodes and encodes
        app = create_app(settings, engine, wyoming_listener, agent)
        config = uvicorn.Config(
            app,
            log_config=None,  # ours is set up already
            log_level=settings.log_level,
            **SOCKETS,
            timeout_graceful_shutdown=2,
            ssl_certfile=settings.tls_cert,
            ssl_keyfile=settings.tls_key,
            proxy_headers=bool(settings.trusted_proxies),
            forwarded_allow_ips=",".join(settings.trusted_proxies),
            server_header=False,
        )

        async def end_calls(patience_s: float) -> None:
            await app.state.sessions.drain(patience_s)

        memory.set_aside()
        url = page_url(settings, listener.getsockname()[1])
        Server(config, url, end_calls, settings.drain_s).run(sockets=[listener])
