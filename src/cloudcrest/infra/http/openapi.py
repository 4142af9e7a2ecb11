"""The OpenAPI document: what FastAPI derives from the routes, plus what holds for all of them."""

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from cloudcrest.infra.http.problems import MEDIA_TYPE, Problem

_METHODS = ("get", "put", "post", "delete", "patch")
_FASTAPI_SCHEMAS = ("HTTPValidationError", "ValidationError")
_PROBLEM = {"$ref": "#/components/schemas/Problem"}

_IDEMPOTENCY_KEY = {
    "name": "Idempotency-Key",
    "in": "header",
    "required": False,
    "description": "Repeating a request with the same key within 24 hours does nothing and gives the first answer",
    "schema": {"type": "string", "minLength": 1, "maxLength": 255, "pattern": "^[ -~]+$"},
    "example": "3f1c9a52-5d0e-4c6f-9a57-0c1b2f6d7e10",
}


def install_openapi(app: FastAPI, *, session_cookie: str) -> None:
    """Makes `app.openapi()` give the finished document.

    Routes open to everyone say `openapi_extra={"security": []}`.
    """

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = _document(app, session_cookie)
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign] # FastAPI's documented way to extend the document


def _document(app: FastAPI, session_cookie: str) -> dict[str, Any]:
    document = get_openapi(
        title=app.title, version=app.version, description=app.description, routes=app.routes, tags=app.openapi_tags
    )
    document["paths"] = {path: item for path, item in document["paths"].items() if path.startswith("/api/")}
    document["servers"] = [{"url": "/", "description": "This cloud"}]
    document["info"]["license"] = {"name": "Apache-2.0", "identifier": "Apache-2.0"}
    components = document.setdefault("components", {})
    components["securitySchemes"] = {
        "api_key": {
            "type": "http",
            "scheme": "bearer",
            "description": "An API key with the `management` scope: `Authorization: Bearer sk-cc-…`",
        },
        "session": {
            "type": "apiKey",
            "in": "cookie",
            "name": session_cookie,
            "description": "A signed-in person. Changing requests also need the CSRF header.",
        },
    }
    document["security"] = [{"api_key": []}, {"session": []}]
    _add_schemas(components.setdefault("schemas", {}))
    for item in document["paths"].values():
        for method in _METHODS:
            if method in item:
                _finish(item[method], method)
    return document


def _add_schemas(schemas: dict[str, Any]) -> None:
    for name in _FASTAPI_SCHEMAS:
        schemas.pop(name, None)
    problem = Problem.model_json_schema(ref_template="#/components/schemas/{model}")
    schemas.update(problem.pop("$defs", {}))
    schemas["Problem"] = problem


def _finish(operation: dict[str, Any], method: str) -> None:
    """Every problem in its media type; the answers any route can give; the idempotency header."""
    answers: dict[str, Any] = operation["responses"]
    secured = operation.get("security") != []
    if secured:
        answers.setdefault("401", {"description": "Not authenticated"})
        if method == "post":
            operation.setdefault("parameters", []).append(_IDEMPOTENCY_KEY)
            answers.setdefault("409", {"description": "Conflict"})
    if "422" in answers or operation.get("parameters") or operation.get("requestBody"):
        answers["422"] = {"description": "Invalid request"}
    answers.setdefault("default", {"description": "Any other problem"})
    for status, answer in answers.items():
        if status == "default" or status >= "400":
            answer["content"] = {MEDIA_TYPE: {"schema": _PROBLEM}}
