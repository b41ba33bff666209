"""The page at `/docs`: the API's own description as plain HTML, nothing from another host."""

from __future__ import annotations

from collections.abc import Iterator
from html import escape
from typing import Any

METHODS = ("get", "post", "put", "patch", "delete")


def render_reference(description: dict[str, Any]) -> str:
    """A page without scripts.

    Args:
        description: an OpenAPI 3.1 document.
    """
    title = escape(f"{description['info']['title']} {description['info']['version']}")
    groups: dict[str, list[str]] = {}
    for path, methods in description["paths"].items():
        for method in METHODS:
            if operation := methods.get(method):
                group = (operation.get("tags") or ["sessions"])[0]
                groups.setdefault(group, []).append("".join(_route(method, path, operation)))
    schemas = description.get("components", {}).get("schemas", {})
    routes = "".join(f"<h2>{escape(g)}</h2>{''.join(rows)}" for g, rows in sorted(groups.items()))
    bodies = "".join("".join(_schema(name, schema)) for name, schema in sorted(schemas.items()))
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<meta name="color-scheme" content="dark light"><title>{title}: routes</title>'
        '<link rel="icon" href="/static/icon.svg" type="image/svg+xml">'
        '<link rel="stylesheet" href="/static/style.css"></head><body><main class="reference">'
        f'<h1><a href="/">{title}</a></h1><p>Every error is <code>{{"error": "one line"}}</code>. '
        'For programs: <a href="/openapi.json">openapi.json</a>.</p>'
        f"{routes}<h2>bodies</h2>{bodies}</main></body></html>"
    )


def _route(method: str, path: str, operation: dict[str, Any]) -> Iterator[str]:
    yield f"<section><h3><code>{method.upper()} {escape(path)}</code></h3>"
    if text := operation.get("description"):
        yield f"<p>{escape(text)}</p>"
    body = operation.get("requestBody", {}).get("content", {})
    for kind, content in body.items():
        yield f"<p>Body: {escape(kind)}, {_kind(content.get('schema', {}))}</p>"
    yield from _table(
        (p["name"], p["schema"], p.get("required", False), p.get("description", ""))
        for p in operation.get("parameters", ())
    )
    answers = operation.get("responses", {}).items()
    shown = ", ".join(escape(f"{status} {answer['description']}") for status, answer in answers)
    yield f"<p>Answers: {shown}</p></section>"


def _schema(name: str, schema: dict[str, Any]) -> Iterator[str]:
    yield f'<section><h3 id="{escape(name)}"><code>{escape(name)}</code></h3>'
    if text := schema.get("description"):
        yield f"<p>{escape(text)}</p>"
    required = schema.get("required", ())
    yield from _table(
        (field, about, field in required, about.get("description", ""))
        for field, about in schema.get("properties", {}).items()
    )
    yield "</section>"


def _table(rows: Any) -> Iterator[str]:
    lines = [
        f"<tr><td><code>{escape(name)}</code></td><td>{_kind(schema)}</td>"
        f"<td>{'required' if required else ''}</td><td>{escape(text)}</td></tr>"
        for name, schema, required, text in rows
    ]
    if lines:
        yield f"<table>{''.join(lines)}</table>"


def _kind(schema: dict[str, Any]) -> str:
    """A JSON schema in a few words."""
    if reference := schema.get("$ref"):
        name = escape(reference.rsplit("/", 1)[-1])
        return f'<a href="#{name}">{name}</a>'
    if choices := schema.get("anyOf"):
        return " or ".join(_kind(choice) for choice in choices)
    if "enum" in schema:
        words = " | ".join(escape(str(value)) for value in schema["enum"])
    elif "const" in schema:
        words = escape(str(schema["const"]))
    elif schema.get("type") == "array":
        words = f"list of {_kind(schema.get('items', {}))}"
    else:
        words = escape(str(schema.get("type", "anything")))
    lowest, highest = schema.get("minimum"), schema.get("maximum")
    if lowest is not None or highest is not None:
        words += f", {lowest if lowest is not None else ''} to {highest or ''}".rstrip()
    if schema.get("default") is not None:
        words += f", default {escape(str(schema['default']))}"
    return words
