"""The API's description as a page: the OpenAPI document in plain HTML, with an example of every body.

It runs no script and loads nothing from elsewhere: it works where there is no internet, and nobody else's code runs
on the origin that sessions live on.
"""

import json
from collections.abc import Callable, Iterator
from functools import cache
from html import escape
from typing import Any

from fastapi import APIRouter, FastAPI
from fastapi.responses import HTMLResponse

Json = dict[str, Any]
_MAX_DEPTH = 8
_STYLE = """body{font:15px/1.55 system-ui,sans-serif;max-width:56rem;margin:2rem auto;padding:0 1rem}
summary{cursor:pointer;padding:.25rem 0}summary b{display:inline-block;width:4.5rem}h2{margin-top:2rem}
details[open]{border-left:3px solid #ddd;padding-left:1rem;margin-bottom:1rem}code,pre{background:#f4f4f4}
pre{padding:.8rem;overflow:auto}td,th{text-align:left;vertical-align:top;padding:.15rem 1rem .15rem 0}"""
_HEADERS = {"content-security-policy": "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'"}


def router(path: str, openapi_url: str, document: Callable[[], Json]) -> APIRouter:
    """GET `path`: the page of what `document` gives."""
    routes = APIRouter(include_in_schema=False)

    @cache
    def page() -> str:
        return render(document(), openapi_url)

    async def docs() -> HTMLResponse:
        return HTMLResponse(page(), headers=_HEADERS)

    routes.add_api_route(path, docs, methods=["GET"], response_class=HTMLResponse)
    return routes


def install(app: FastAPI, path: str) -> None:
    """Puts the page into the application."""
    app.include_router(router(path, app.openapi_url or "", app.openapi))


def render(document: Json, openapi_url: str) -> str:
    """The page: operations by tag, each with its parameters, an example of its body and its answers."""
    info = document["info"]
    title = escape(f"{info['title']} {info['version']}")
    return "\n".join(
        (
            '<!doctype html><html lang="en"><meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width">',
            f"<title>{title}</title><style>{_STYLE}</style><h1>{title}</h1>",
            f"<p>{escape(info.get('description', ''))}</p>",
            "<p>Calls carry <code>Authorization: Bearer sk-cc-…</code>, a key with the <code>management</code> scope, ",
            "or a session's cookie. Lists answer <code>data</code> and <code>next_cursor</code>, which goes into ",
            f'<code>?cursor=</code>. For programs: <a href="{escape(openapi_url)}">{escape(openapi_url)}</a>.</p>',
            *_sections(document),
            "</html>",
        )
    )


def _sections(document: Json) -> Iterator[str]:
    by_tag: dict[str, list[str]] = {}
    for path, item in document["paths"].items():
        for method, operation in item.items():
            if isinstance(operation, dict) and "responses" in operation:
                shown = _operation(document, method, path, operation)
                by_tag.setdefault((operation.get("tags") or ["other"])[0], []).append(shown)
    for tag in sorted(by_tag):
        yield f'<h2 id="{escape(tag)}">{escape(tag)}</h2>'
        yield from by_tag[tag]


def _operation(document: Json, method: str, path: str, operation: Json) -> str:
    body = operation.get("requestBody", {}).get("content", {}).get("application/json", {}).get("schema")
    is_open = "<p>Open to everyone.</p>" if operation.get("security") == [] else ""
    return "".join(
        (
            f'<details id="{escape(operation.get("operationId", ""))}">',
            f"<summary><b>{method.upper()}</b><code>{escape(path)}</code> {escape(operation.get('summary', ''))}",
            f"</summary><p>{escape(operation.get('description', ''))}</p>{is_open}",
            _parameters(operation.get("parameters", [])),
            "" if body is None else f"<h4>Body</h4>{_described(document, body)}{_example(document, body)}",
            "<h4>Answers</h4>",
            *(_answer(document, status, answer) for status, answer in operation["responses"].items()),
            "</details>",
        )
    )


def _parameters(parameters: list[Json]) -> str:
    if not parameters:
        return ""
    rows = "".join(
        f"<tr><td><code>{escape(item['name'])}</code><td>{item['in']}<td>{'required' if item.get('required') else ''}"
        f"<td>{escape(item.get('description') or item.get('schema', {}).get('description') or '')}"
        for item in parameters
    )
    return f"<h4>Parameters</h4><table>{rows}</table>"


def _answer(document: Json, status: str, answer: Json) -> str:
    said = f"<p><b>{escape(status)}</b> {escape(answer.get('description', ''))}</p>"
    content = answer.get("content", {}).get("application/json", {}).get("schema")
    return said if content is None or status >= "400" else said + _example(document, content)


def _described(document: Json, schema: Json) -> str:
    text = _resolved(document, schema).get("description", "")
    return f"<p>{escape(text)}</p>" if text else ""


def _example(document: Json, schema: Json) -> str:
    text = json.dumps(example(document, schema), indent=2, ensure_ascii=False)
    return f"<pre>{escape(text)}</pre>"


def example(document: Json, schema: Json, depth: int = 0) -> Any:
    """A value of this schema: its own example or default where it has one, else made of its parts'."""
    schema = {**_resolved(document, schema), **{name: schema[name] for name in ("examples",) if name in schema}}
    for given in (schema.get("examples") or [])[:1]:
        return given
    if "const" in schema or "enum" in schema:
        return schema.get("const", (schema.get("enum") or [None])[0])
    if schema.get("default") not in (None, {}):
        return schema["default"]
    choices = schema.get("anyOf") or schema.get("oneOf") or schema.get("allOf")
    if choices and depth < _MAX_DEPTH:
        return example(document, choices[0], depth + 1)
    kind = schema.get("type")
    if kind == "object" and depth < _MAX_DEPTH:
        return {name: example(document, part, depth + 1) for name, part in schema.get("properties", {}).items()}
    if kind == "array" and depth < _MAX_DEPTH:
        return [example(document, schema.get("items", {}), depth + 1)]
    if kind == "string":
        return "2030-01-31T12:00:00Z" if schema.get("format") == "date-time" else "…"
    return {"integer": 1, "number": 1.0, "boolean": False}.get(str(kind))


def _resolved(document: Json, schema: Json) -> Json:
    """What a reference stands for."""
    name = schema.get("$ref", "").rpartition("/")[2]
    found: Json = document.get("components", {}).get("schemas", {}).get(name, {}) if name else schema
    return found
