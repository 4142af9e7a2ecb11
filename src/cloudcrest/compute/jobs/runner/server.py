"""A runner's HTTP, for its region service alone: JSON in and out, behind a token.

POST /prepare            RunnerSpec                  inputs begin to come
PUT  /inputs?path=       bytes                       an input that the region hands in
POST /go                 Go                          the command starts
POST /stop               Stop                        it ends, and why
GET  /state              → RunnerState
GET  /log?offset=&most=&wait=   → bytes; the header x-offset says where they begin
GET  /metrics?history=   → MemberMetrics
DELETE /                 what it left on this node goes; it must have ended
GET  /outputs            → Outputs
GET  /outputs/content?name=     → bytes
POST /shells             {argv, columns, rows} → {id}
GET  /shells/ID?offset=&wait=   → bytes; x-offset, x-open, x-exit-code
POST /shells/ID/input    bytes
POST /shells/ID/size     {columns, rows}
DELETE /shells/ID
"""

import os
from collections.abc import AsyncIterator
from typing import Any, TypeVar

import msgspec
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from cloudcrest.compute.jobs.runner.member import Member
from cloudcrest.compute.jobs.runner.shells import MAX_INPUT_BYTES
from cloudcrest.compute.jobs.running import Go, RunnerSpec, Stop
from cloudcrest.infra.http.internal import TokenRequired, read_body
from cloudcrest.infra.safe_paths import open_inside
from cloudcrest.kernel.errors import CloudcrestError, InvalidInput
from cloudcrest.kernel.units import MIB

MAX_SPEC_BYTES = 4 * MIB
MAX_READ_BYTES = 1 * MIB
MAX_WAIT_SECONDS = 30.0
OFFSET_HEADER = "x-offset"
OPEN_HEADER = "x-open"
EXIT_HEADER = "x-exit-code"
Body = TypeVar("Body")


class ShellWish(msgspec.Struct, frozen=True):
    """A terminal that is wanted. No command: a shell that is there."""

    argv: tuple[str, ...] = ()
    columns: int = 80
    rows: int = 24


class Size(msgspec.Struct, frozen=True):
    """A window's size in characters."""

    columns: int
    rows: int


DEFAULT_SHELL = ("/bin/sh", "-c", "if command -v bash >/dev/null 2>&1; then exec bash -i; else exec sh -i; fi")


def make_app(member: Member, token: str) -> Starlette:
    """The application over one member."""
    routes = [
        *_run_routes(member),
        *_shell_routes(member),
    ]
    return Starlette(
        routes=routes,
        middleware=[Middleware(TokenRequired, token=token)],
        exception_handlers={CloudcrestError: _on_error},
    )


def _run_routes(member: Member) -> list[Route]:
    async def prepare(request: Request) -> Response:
        member.prepare(await _read(request, RunnerSpec))
        return _json(member.state())

    async def inputs(request: Request) -> Response:
        await member.receive(request.query_params.get("path", ""), request.stream())
        return Response(status_code=204)

    async def go(request: Request) -> Response:
        await member.go(await _read(request, Go))
        return _json(member.state())

    async def stop(request: Request) -> Response:
        member.stop(await _read(request, Stop))
        return _json(member.state())

    async def state(_: Request) -> Response:
        return _json(member.state())

    async def log(request: Request) -> Response:
        offset, most = _number(request, "offset", 0), min(_number(request, "most", MAX_READ_BYTES), MAX_READ_BYTES)
        begin, chunk = await member.read_log(offset, most, _wait(request))
        return _bytes(chunk, {OFFSET_HEADER: str(begin), OPEN_HEADER: str(int(member.phase != "ended"))})

    async def metrics(request: Request) -> Response:
        return _json(member.meter.metrics(has_history=request.query_params.get("history") == "true"))

    async def forget(_: Request) -> Response:
        await member.forget()
        return Response(status_code=204)

    async def outputs(_: Request) -> Response:
        return _json(await member.outputs())

    async def content(request: Request) -> Response:
        descriptor = open_inside(member.work, request.query_params.get("name", ""), os.O_RDONLY)
        return StreamingResponse(_pieces(descriptor), media_type="application/octet-stream")

    return [
        Route("/prepare", prepare, methods=["POST"]),
        Route("/inputs", inputs, methods=["PUT"]),
        Route("/go", go, methods=["POST"]),
        Route("/stop", stop, methods=["POST"]),
        Route("/state", state),
        Route("/log", log),
        Route("/metrics", metrics),
        Route("/", forget, methods=["DELETE"]),
        Route("/outputs", outputs),
        Route("/outputs/content", content),
    ]


def _shell_routes(member: Member) -> list[Route]:
    async def opened(request: Request) -> Response:
        wish = await _read(request, ShellWish)
        shell = await member.open_shell(wish.argv or DEFAULT_SHELL, wish.columns, wish.rows)
        return _json({"id": shell.id})

    async def read(request: Request) -> Response:
        shell = member.shells.find(request.path_params["shell_id"])
        begin, chunk = await shell.read(_number(request, "offset", 0), _wait(request))
        headers = {OFFSET_HEADER: str(begin), OPEN_HEADER: str(int(shell.is_open or begin + len(chunk) < shell.end))}
        if shell.exit_code is not None:
            headers[EXIT_HEADER] = str(shell.exit_code)
        return _bytes(chunk, headers)

    async def typed(request: Request) -> Response:
        shell = member.shells.find(request.path_params["shell_id"])
        await shell.write(await read_body(request, MAX_INPUT_BYTES))
        return Response(status_code=204)

    async def sized(request: Request) -> Response:
        size = await _read(request, Size)
        member.shells.find(request.path_params["shell_id"]).resize(size.columns, size.rows)
        return Response(status_code=204)

    async def closed(request: Request) -> Response:
        await member.shells.close(request.path_params["shell_id"])
        return Response(status_code=204)

    return [
        Route("/shells", opened, methods=["POST"]),
        Route("/shells/{shell_id}", read, methods=["GET"]),
        Route("/shells/{shell_id}", closed, methods=["DELETE"]),
        Route("/shells/{shell_id}/input", typed, methods=["POST"]),
        Route("/shells/{shell_id}/size", sized, methods=["POST"]),
    ]


async def _on_error(_: Request, error: Exception) -> Response:
    assert isinstance(error, CloudcrestError)  # noqa: S101 - as it is registered
    body = {"code": error.code, "message": error.message, "hint": error.hint}
    return Response(msgspec.json.encode(body), status_code=error.status, media_type="application/json")


async def _pieces(descriptor: int) -> AsyncIterator[bytes]:
    with os.fdopen(descriptor, "rb") as file:
        while piece := file.read(MIB):
            yield piece


async def _read(request: Request, wanted: type[Body]) -> Body:
    try:
        return msgspec.json.decode(await read_body(request, MAX_SPEC_BYTES), type=wanted)
    except ValueError as error:
        raise InvalidInput(str(error)) from None


def _number(request: Request, name: str, default: int) -> int:
    value = request.query_params.get(name, "")
    return int(value) if value.isascii() and value.isdigit() else default


def _wait(request: Request) -> float:
    return min(float(_number(request, "wait", 0)), MAX_WAIT_SECONDS)


def _json(document: Any) -> Response:
    return Response(msgspec.json.encode(document), media_type="application/json")


def _bytes(chunk: bytes, headers: dict[str, str]) -> Response:
    return Response(chunk, headers=headers, media_type="application/octet-stream")
