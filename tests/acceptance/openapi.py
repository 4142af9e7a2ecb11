"""Requests made from the OpenAPI document: every operation, with ids put where the document has them."""

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import httpx2

Document = dict[str, Any]
METHODS = ("get", "post", "put", "patch", "delete")


@dataclass(frozen=True)
class Operation:
    """One method of one path, with its parameters' names and its body's schema."""

    method: str
    path: str
    path_parameters: tuple[str, ...]
    query_parameters: tuple[str, ...]
    body: Document | None

    def __str__(self) -> str:
        return f"{self.method} {self.path}"


@dataclass(frozen=True)
class Call:
    """A request of an operation."""

    operation: Operation
    path: str
    query: dict[str, str]
    body: Any

    def send(self, client: httpx2.Client) -> httpx2.Response:
        return client.request(self.operation.method, self.path, params=self.query or None, json=self.body)

    def holds(self, word: str) -> bool:
        """Whether the request itself says `word`: an answer that repeats it gives nothing away."""
        return word in self.path or word in self.query.values() or word in str(self.body)


def operations(document: Document) -> Iterator[Operation]:
    """Every operation of the document."""
    for path, methods in document["paths"].items():
        for method in METHODS:
            if method in methods:
                yield _operation(document, method.upper(), path, methods[method])


def calls(document: Document, operation: Operation, ids: Mapping[str, str], own: Mapping[str, str]) -> Iterator[Call]:
    """The operation with `ids` everywhere; with each mixture of `ids` and one's `own` in its path; and with each of
    its query parameters that name an id.
    """
    choices = [(ids[name], own[name]) if name in own else (ids[name],) for name in operation.path_parameters]
    for values in itertools.product(*choices):
        named = dict(zip(operation.path_parameters, values, strict=True))
        if operation.path_parameters and all(own.get(name) == value for name, value in named.items()):
            continue
        body = None if operation.body is None else example(document, operation.body, ids)
        yield Call(operation, operation.path.format(**named), {}, body)
    for name in operation.query_parameters:
        if name in ids and not operation.path_parameters:
            yield Call(operation, operation.path, {name: ids[name]}, None)


def example(document: Document, schema: Document, ids: Mapping[str, str], name: str = "") -> Any:
    """A value that fits a schema: an id where its name asks for one, else its example, else the least of its type."""
    schema = _resolve(document, schema)
    if name in ids:
        return ids[name]
    if schema.get("examples"):
        return schema["examples"][0]
    for choice in ("const", "default"):
        if choice in schema:
            return schema[choice]
    if "enum" in schema:
        return schema["enum"][0]
    for choice in ("anyOf", "oneOf", "allOf"):
        if choice in schema:
            return example(document, schema[choice][0], ids)
    kind = schema.get("type")
    if kind == "object":
        required = schema.get("required", [])
        properties = schema.get("properties", {})
        wanted = [field for field in properties if field in required or field in ids]
        return {field: example(document, properties[field], ids, field) for field in wanted}
    if kind == "array":
        return [example(document, schema["items"], ids)] if schema.get("minItems") else []
    plain: dict[Any, Any] = {"integer": schema.get("minimum", 1), "number": 1.0, "boolean": False}
    return plain.get(kind, "x" * max(1, schema.get("minLength", 1)))


def _operation(document: Document, method: str, path: str, described: Document) -> Operation:
    parameters = [_resolve(document, parameter) for parameter in described.get("parameters", [])]
    body = described.get("requestBody", {}).get("content", {}).get("application/json", {}).get("schema")
    return Operation(
        method,
        path,
        tuple(parameter["name"] for parameter in parameters if parameter["in"] == "path"),
        tuple(parameter["name"] for parameter in parameters if parameter["in"] == "query"),
        body,
    )


def _resolve(document: Document, schema: Document) -> Document:
    while "$ref" in schema:
        found: Any = document
        for part in schema["$ref"].removeprefix("#/").split("/"):
            found = found[part]
        schema = found
    return schema
