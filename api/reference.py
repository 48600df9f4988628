"""GET /docs: the contract of /openapi.json as a page to read: plain HTML, no script, nothing from outside."""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Callable, Iterator, Mapping, Sequence
from hashlib import sha256
from html import escape
from typing import Any

from fastapi import APIRouter
from starlette.responses import Response

_STYLE = (
    "body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem}"
    ":root{color-scheme:light dark}"
    "section{border-top:1px solid #8886;margin-top:2rem}table{border-collapse:collapse;width:100%}"
    "td{border-top:1px solid #8883;padding:.25rem .75rem .25rem 0;vertical-align:top}"
    "td:first-child{white-space:nowrap}"
    "pre{overflow:auto;padding:.75rem;background:#8882}"
)
_HASH = b64encode(sha256(_STYLE.encode()).digest()).decode()
_POLICY = (
    f"default-src 'none'; style-src 'sha256-{_HASH}'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


def reference_routes(openapi: Callable[[], Mapping[str, Any]]) -> APIRouter:
    """The one route, outside the contract that it shows."""
    router = APIRouter(include_in_schema=False)

    @router.get("/docs")
    async def docs() -> Response:
        headers = {"content-security-policy": _POLICY}
        return Response(_page(openapi()), media_type="text/html; charset=utf-8", headers=headers)

    return router


def _page(contract: Mapping[str, Any]) -> str:
    info = contract["info"]
    title = escape(f"{info['title']} {info['version']}")
    parts = [
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{title}</title>'
        f'<meta name="viewport" content="width=device-width"><style>{_STYLE}</style><h1>{title}</h1>',
        _prose(info.get("description", "")),
        '<p>The same for programs: <a href="openapi.json">openapi.json</a></p>',
    ]
    for path, methods in contract["paths"].items():
        for method, route in methods.items():
            parts += _route(f"{method.upper()} {path}", route)
    return "".join(parts)


def _route(name: str, route: Mapping[str, Any]) -> Iterator[str]:
    yield f"<section><h2><code>{escape(name)}</code></h2><p><b>{escape(route.get('summary', ''))}</b></p>"
    yield _prose(route.get("description", ""))
    parameters = [
        (f"{one['name']} ({one['in']})", _bounds(one.get("schema", {})), one.get("description", ""))
        for one in route.get("parameters", ())
    ]
    yield _table("Parameters", parameters)
    for kind, media in route.get("requestBody", {}).get("content", {}).items():
        example = media.get("example", media.get("schema", {}).get("example"))
        yield f"<h3>Body: <code>{escape(kind)}</code></h3>"
        if example is not None:
            shown = example if isinstance(example, str) else json.dumps(example, indent=2)
            yield f"<pre>{escape(shown)}</pre>"
    yield _table("Answers", [(status, one["description"]) for status, one in route["responses"].items()])
    yield "</section>"


def _bounds(schema: Mapping[str, Any]) -> str:
    named = {"type": "", "default": "default ", "minimum": "at least ", "maximum": "at most "}
    return ", ".join(
        f"{said}{schema[name]}" for name, said in named.items() if schema.get(name) not in (None, "")
    )


def _table(title: str, rows: Sequence[tuple[str, ...]]) -> str:
    if not rows:
        return ""
    cells = ("".join(f"<td>{escape(cell)}" for cell in row) for row in rows)
    return f"<h3>{title}</h3><table>{''.join(f'<tr>{row}' for row in cells)}</table>"


def _prose(text: str) -> str:
    return "".join(f"<p>{escape(part)}</p>" for part in text.strip().split("\n\n") if part)
