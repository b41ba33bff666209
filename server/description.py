"""The API's description as it is: FastAPI knows our routes, but not what is refused, nor SDP.

describe(app)      lets the application's OpenAPI document tell the whole truth
"""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

from fastapi import FastAPI

SDP, FRAGMENT = "application/sdp", "application/trickle-ice-sdpfrag"
WRITES = ("post", "patch", "delete")
PROBLEM = {
    "title": "Problem",
    "description": "Every error has this shape.",
    "type": "object",
    "properties": {"error": {"type": "string", "description": "one line that names the cause"}},
    "required": ["error"],
}
OPEN = ("/healthz", "/readyz", "/api/info")  # no token is asked for
OFFER, TRICKLE = (400, 413, 415, 422), (400, 412, 413, 415, 422, 428)
# What a route refuses besides what all of its kind do.
REFUSALS: dict[tuple[str, str], tuple[int, ...]] = {
    ("post", "/whip"): (*OFFER, 503),
    ("post", "/whip/{name}/voice"): (*OFFER, 409),
    ("post", "/whep/{name}"): (*OFFER, 409, 503),
    ("patch", "/whip/{name}"): TRICKLE,
    ("patch", "/whip/{name}/voice/{link}"): TRICKLE,
    ("patch", "/whep/{name}/{link}"): TRICKLE,
    ("post", "/api/sessions"): (413, 422, 503),
    ("patch", "/api/sessions/{name}"): (413, 422),
    ("post", "/api/sessions/{name}/speech"): (413, 415, 422),
    ("post", "/api/sessions/{name}/sample"): (413, 422),
    ("post", "/api/sessions/{name}/say"): (413, 422, 501),
    ("post", "/api/sessions/{name}/subtitles"): (413, 422),
}
CREATED = {
    "Location": "the new resource, for PATCH and DELETE",
    "ETag": "for If-Match",
    "Link": 'STUN and TURN servers, `rel="ice-server"`',
}
MOVED = "Temporary Redirect: full; another server may have room"


def describe(app: FastAPI) -> None:
    """Complete the application's description whenever it is asked for.

    Args:
        app: with all of its routes.
    """
    plain = app.openapi

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = complete(plain())
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]


def complete(document: dict[str, Any]) -> dict[str, Any]:
    """An OpenAPI 3.1 document of FastAPI's with what it does not know; changed in place."""
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            _refusals(method, path, operation)
            _bodies(method, path, operation)
    schemas = document.setdefault("components", {}).setdefault("schemas", {})
    for name in ("HTTPValidationError", "ValidationError"):  # FastAPI's own shape is never sent
        schemas.pop(name, None)
    schemas["Problem"] = PROBLEM
    return document


def _refusals(method: str, path: str, operation: dict[str, Any]) -> None:
    answers = operation["responses"]
    statuses = {403, *REFUSALS.get((method, path), ())}  # 403: also pages of other origins
    if answers.pop("422", None) is not None and (method in WRITES or "requestBody" in operation):
        statuses.add(400)  # what FastAPI finds wrong
    if path not in OPEN:
        statuses.add(401)
    if "{name}" in path:
        statuses.add(404)
    if method in WRITES:
        statuses.add(429)
    if path == "/readyz":
        statuses.add(503)
    shape = {"application/json": {"schema": {"$ref": "#/components/schemas/Problem"}}}
    for status in sorted(statuses):
        answers[str(status)] = {"description": HTTPStatus(status).phrase, "content": shape}
    if path == "/readyz":
        answers["503"]["content"] = {"application/json": {"schema": {"type": "object"}}}


def _bodies(method: str, path: str, operation: dict[str, Any]) -> None:
    text = {"type": "string", "minLength": 1}
    answers = operation["responses"]
    signalling = path.startswith(("/whip", "/whep"))
    if signalling and method == "post":
        operation["requestBody"] = {"required": True, "content": {SDP: {"schema": text}}}
        headers = {
            name: {"description": about, "schema": {"type": "string"}}
            for name, about in CREATED.items()
        }
        answers["201"] |= {"content": {SDP: {"schema": text}}, "headers": headers}
        if path == "/whip":
            headers = {"Location": {"schema": {"type": "string"}}}
            answers["307"] = {"description": MOVED, "headers": headers}
    elif signalling and method == "patch":
        operation["requestBody"] = {"required": True, "content": {FRAGMENT: {"schema": text}}}
        operation.setdefault("parameters", []).append(
            {
                "name": "If-Match", "in": "header", "required": True,
                "description": "the ETag that POST gave", "schema": {"type": "string"},
            }
        )  # fmt: skip
    elif signalling:
        answers["200"].pop("content", None)
    elif path == "/api/sessions/{name}/speech":
        any_file = {"schema": {"type": "string", "format": "binary"}}
        content = {"application/octet-stream": any_file}
        operation["requestBody"] = {"required": True, "content": content}
    elif path == "/metrics":
        answers["200"]["content"] = {"text/plain": {"schema": {"type": "string"}}}
