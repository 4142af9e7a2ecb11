"""What tenants ask of their jobs in a region, by name of the job: its output, metrics, outputs, terminals.

    GET    /v1/jobs/ID/logs?attempt=&member=&offset=       text; where it goes on is in a header
    GET    /v1/jobs/ID/logs?follow=true…                   server-sent events until the job has ended
    GET    /v1/jobs/ID/metrics                             what each member uses
    GET    /v1/jobs/ID/metrics?member=&history=true        what one has used over its run
    GET    /v1/jobs/ID/outputs, /outputs/NAME              files it wrote
    POST   /v1/jobs/ID/shells                              a terminal beside its command
    GET    /v1/jobs/ID/shells/SHELL?offset=&wait=          what it shows
    POST   /v1/jobs/ID/shells/SHELL/input, /size           what is typed
    DELETE /v1/jobs/ID/shells/SHELL

While a member runs it is asked itself, later the object store. Another project's job is not there.
"""

import base64
from collections.abc import AsyncIterator, Callable
from typing import Any
from urllib.parse import quote

import msgspec
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from cloudcrest.compute.jobs.api import JobReport
from cloudcrest.compute.jobs.controller import JobController
from cloudcrest.compute.jobs.entry import Entry, MemberEntry
from cloudcrest.compute.jobs.follow import Followed, follow, last_event
from cloudcrest.compute.jobs.link import RunnerLink
from cloudcrest.compute.jobs.runner.server import EXIT_HEADER, OFFSET_HEADER, OPEN_HEADER, ShellWish
from cloudcrest.compute.jobs.store import JobStore, log_prefix
from cloudcrest.infra.http.internal import read_body
from cloudcrest.kernel.errors import (
    Conflict,
    InvalidInput,
    LimitExceeded,
    NotFound,
    Unavailable,
)
from cloudcrest.kernel.places import Places
from cloudcrest.kernel.units import KIB, MIB

NEXT_OFFSET_HEADER = "x-cloudcrest-next-offset"
MAX_LOG_BYTES = 1 * MIB
MAX_BODY_BYTES = 64 * KIB
MAX_WAIT_SECONDS = 30
MAX_COMMAND_WORDS = 100
_NO_STORE = {"cache-control": "no-store", "x-content-type-options": "nosniff"}


class ShellRequest(msgspec.Struct, frozen=True):
    """A terminal that is wanted: in which member, its size, what runs in it (none: a shell that is there)."""

    member: int = 0
    command: tuple[str, ...] = ()
    columns: int = 80
    rows: int = 24


class JobAccess:
    """The routes. `project_of`: whose key came; it raises where none did. `render`: an error as its callers expect it.

    `most`, `project_most`: how many may follow a log or have a terminal open at once.
    """

    def __init__(
        self,
        controller: JobController,
        link: RunnerLink,
        store: JobStore,
        *,
        project_of: Callable[[Request], str],
        most: int = 200,
        project_most: int = 20,
    ) -> None:
        self._controller = controller
        self._link = link
        self._store = store
        self._project_of = project_of
        self._followers = Places(most, project_most)

    def routes(self) -> list[Route]:
        """All of them."""
        return [
            Route("/v1/jobs/{job_id}/logs", self._logs),
            Route("/v1/jobs/{job_id}/metrics", self._metrics),
            Route("/v1/jobs/{job_id}/outputs", self._outputs),
            Route("/v1/jobs/{job_id}/outputs/{name:path}", self._output),
            Route("/v1/jobs/{job_id}/shells", self._open_shell, methods=["POST"]),
            Route("/v1/jobs/{job_id}/shells/{shell_id}", self._read_shell, methods=["GET"]),
            Route("/v1/jobs/{job_id}/shells/{shell_id}", self._close_shell, methods=["DELETE"]),
            Route("/v1/jobs/{job_id}/shells/{shell_id}/input", self._pass_to_shell, methods=["POST"]),
            Route("/v1/jobs/{job_id}/shells/{shell_id}/size", self._pass_to_shell, methods=["POST"]),
        ]

    async def _logs(self, request: Request) -> Response:
        project_id, job_id = self._project_of(request), request.path_params["job_id"]
        report = await self._report(project_id, job_id)
        attempt = _number(request, "attempt", 0)
        member, offset = _number(request, "member", 0), _number(request, "offset", 0)
        if request.query_params.get("follow") == "true":
            if not self._followers.is_free(project_id):
                raise LimitExceeded("too many logs of this project are followed at once", retry_after_seconds=5)
            begins = attempt or max(report.attempt, 1)
            if (last := last_event(request.headers.get("last-event-id", ""))) is not None:
                begins, offset = last
            followed = Followed(project_id, job_id, begins, member, offset, attempt == 0)
            events = follow(followed, self._controller, self._link, self._store)
            return StreamingResponse(
                self._counted(project_id, events), media_type="text/event-stream", headers=_NO_STORE
            )
        begin, data = await self._read_log(project_id, job_id, attempt or report.attempt, member, offset)
        headers = {OFFSET_HEADER: str(begin), NEXT_OFFSET_HEADER: str(begin + len(data)), **_NO_STORE}
        return Response(data, headers=headers, media_type="text/plain; charset=utf-8")

    async def _read_log(
        self, project_id: str, job_id: str, attempt: int, member: int, offset: int
    ) -> tuple[int, bytes]:
        entry = self._controller.find(project_id, job_id)
        if entry is not None and entry.attempt == attempt and member < len(entry.members):
            try:
                chunk = await self._link.log(entry.members[member], offset, MAX_LOG_BYTES)
            except Unavailable:
                pass  # its node is away; what was collected is there
            else:
                return chunk.offset, chunk.data
        return await self._store.read_log(log_prefix(project_id, job_id, attempt, member), offset, MAX_LOG_BYTES)

    async def _metrics(self, request: Request) -> Response:
        entry = await self._running(request)
        wanted: list[int] = list(range(len(entry.members)))
        if request.query_params.get("member") is not None:
            wanted = [_number(request, "member", 0)]
            _member(entry, wanted[0])
        has_history = request.query_params.get("history") == "true"
        if has_history and len(wanted) > 1:
            raise InvalidInput("the history is of one member: name it", param="member")
        members = []
        for number in wanted:
            used = await self._link.metrics(entry.members[number], has_history=has_history)
            facts = msgspec.to_builtins(used)
            if not has_history:
                facts.pop("history")
            members.append({"member": number, **facts})
        return _json({"job_id": entry.id, "attempt": entry.attempt, "members": members})

    async def _outputs(self, request: Request) -> Response:
        project_id, job_id = self._project_of(request), request.path_params["job_id"]
        report = await self._report(project_id, job_id)
        manifest = await self._store.manifest(project_id, job_id)
        files = [{"name": name, "size_bytes": manifest[name].size_bytes} for name in sorted(manifest)]
        return _json({"object": "list", "data": files, "problem": report.outputs_problem})

    async def _output(self, request: Request) -> Response:
        project_id, job_id = self._project_of(request), request.path_params["job_id"]
        await self._report(project_id, job_id)
        name = request.path_params["name"]
        kept = (await self._store.manifest(project_id, job_id)).get(name)
        if kept is None:
            raise NotFound(f"the job has no output '{name}'", hint="those there are: GET /v1/jobs/ID/outputs")
        headers = {
            "content-length": str(kept.size_bytes),
            "content-disposition": f"attachment; filename*=UTF-8''{quote(name.rsplit('/', 1)[-1])}",
            **_NO_STORE,
        }
        return StreamingResponse(self._store.output(kept), headers=headers, media_type="application/octet-stream")

    async def _open_shell(self, request: Request) -> Response:
        entry = await self._running(request)
        try:
            wish = msgspec.json.decode(await read_body(request, MAX_BODY_BYTES) or b"{}", type=ShellRequest)
        except ValueError as error:
            raise InvalidInput(f"the body is not what opens a shell: {error}") from None
        if len(wish.command) > MAX_COMMAND_WORDS or any("\x00" in word for word in wish.command):
            raise InvalidInput(f"a command has up to {MAX_COMMAND_WORDS} words without NUL", param="command")
        member = _member(entry, wish.member)
        content = msgspec.json.encode(ShellWish(wish.command, wish.columns, wish.rows))
        answer = msgspec.json.decode((await self._link.raw(member, "POST", "/shells", content=content)).content)
        return _json({"id": f"{wish.member}.{answer['id']}", "object": "shell", "member": wish.member}, 201)

    async def _read_shell(self, request: Request) -> Response:
        member, shell_id = await self._shell(request)
        wait = min(_number(request, "wait", 0), MAX_WAIT_SECONDS)
        params = {"offset": str(_number(request, "offset", 0)), "wait": str(wait)}
        answer = await self._link.raw(member, "GET", f"/shells/{shell_id}", params=params, wait_seconds=wait)
        offset = int(answer.headers[OFFSET_HEADER])
        exit_code = answer.headers.get(EXIT_HEADER)
        return _json(
            {
                "offset": offset,
                "next_offset": offset + len(answer.content),
                "data": base64.b64encode(answer.content).decode(),
                "is_open": answer.headers[OPEN_HEADER] == "1",
                "exit_code": None if exit_code is None else int(exit_code),
            }
        )

    async def _pass_to_shell(self, request: Request) -> Response:
        member, shell_id = await self._shell(request)
        what = request.url.path.rsplit("/", 1)[1]
        await self._link.raw(
            member, "POST", f"/shells/{shell_id}/{what}", content=await read_body(request, MAX_BODY_BYTES)
        )
        return Response(status_code=204)

    async def _close_shell(self, request: Request) -> Response:
        member, shell_id = await self._shell(request)
        await self._link.raw(member, "DELETE", f"/shells/{shell_id}")
        return Response(status_code=204)

    async def _shell(self, request: Request) -> tuple[MemberEntry, str]:
        entry = await self._running(request)
        number, _, shell_id = request.path_params["shell_id"].partition(".")
        if not (number.isascii() and number.isdigit() and len(number) < 16 and shell_id.replace("_", "").isalnum()):
            raise NotFound("there is no such shell")
        return _member(entry, int(number)), shell_id

    async def _running(self, request: Request) -> Entry:
        """The job of the request. Raises `NotFound`, `Conflict` where it does not run now."""
        project_id, job_id = self._project_of(request), request.path_params["job_id"]
        entry = self._controller.find(project_id, job_id)
        if entry is None or not entry.members:
            state = (await self._report(project_id, job_id)).state
            raise Conflict(
                f"the job does not run: it is {state}",
                code="job_not_running",
                hint="`cloudcrest jobs show` says how it ended and what it used",
            )
        return entry

    async def _report(self, project_id: str, job_id: str) -> JobReport:
        """How a job is, or was when the region forgot it. Raises `NotFound`."""
        entry = self._controller.find(project_id, job_id)
        if entry is not None:
            return entry.report()
        try:
            return await self._store.report(project_id, job_id)
        except NotFound:
            raise NotFound(
                f"there is no job '{job_id[:100]}' in this region", hint="see `cloudcrest jobs list`"
            ) from None

    async def _counted(self, project_id: str, events: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        with self._followers.held(project_id):
            async for event in events:
                yield event


def _member(entry: Entry, number: int) -> MemberEntry:
    if not 0 <= number < len(entry.members):
        raise NotFound(f"the job has {len(entry.members)} members, numbered from 0", param="member")
    return entry.members[number]


def _number(request: Request, name: str, default: int) -> int:
    value = request.query_params.get(name)
    if value is None:
        return default
    if not (value.isascii() and value.isdigit() and len(value) < 16):
        raise InvalidInput(f"'{name}' is a number from 0", param=name)
    return int(value)


def _json(document: Any, status: int = 200) -> Response:
    return Response(msgspec.json.encode(document), status_code=status, media_type="application/json", headers=_NO_STORE)
