"""The region service's side of a runner's HTTP."""

import hashlib
import hmac
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import httpx2
import msgspec

from cloudcrest.compute.jobs.entry import MemberEntry
from cloudcrest.compute.jobs.runner.server import OFFSET_HEADER, OPEN_HEADER
from cloudcrest.compute.jobs.running import Go, MemberMetrics, Outputs, RunnerSpec, RunnerState, Stop
from cloudcrest.kernel.errors import (
    CloudcrestError,
    Conflict,
    InvalidInput,
    LimitExceeded,
    NotFound,
    TooLarge,
    Unavailable,
)

_TIMEOUT = httpx2.Timeout(10.0, connect=3.0)
_LONG_SECONDS = 60.0
_ERRORS: tuple[type[CloudcrestError], ...] = (InvalidInput, NotFound, Conflict, TooLarge, LimitExceeded, Unavailable)
Document = TypeVar("Document")


class LogChunk(msgspec.Struct, frozen=True):
    """A piece of output: from where it is, and whether more may come."""

    offset: int
    data: bytes
    is_open: bool


def runner_token(secret: str, process_id: str) -> str:
    """A runner's token: it follows from the region's secret, so it need not be kept anywhere."""
    return hmac.new(secret.encode(), f"runner:{process_id}".encode(), hashlib.sha256).hexdigest()


class RunnerLink:
    """Calls runners. Every call raises `Unavailable` where the runner does not answer, else what it refuses with."""

    def __init__(self, client: httpx2.AsyncClient, secret: str) -> None:
        self._client = client
        self._secret = secret

    async def state(self, member: MemberEntry) -> RunnerState:
        return _decoded(await self._call(member, "GET", "/state"), RunnerState)

    async def prepare(self, member: MemberEntry, spec: RunnerSpec) -> RunnerState:
        return _decoded(await self._call(member, "POST", "/prepare", spec), RunnerState)

    async def hand_in(self, member: MemberEntry, path: str, pieces: AsyncIterator[bytes]) -> None:
        timeout = httpx2.Timeout(_LONG_SECONDS)
        await self._request(member, "PUT", "/inputs", params={"path": path}, content=pieces, timeout=timeout)

    async def go(self, member: MemberEntry, order: Go) -> RunnerState:
        return _decoded(await self._call(member, "POST", "/go", order), RunnerState)

    async def stop(self, member: MemberEntry, order: Stop) -> RunnerState:
        return _decoded(await self._call(member, "POST", "/stop", order), RunnerState)

    async def forget(self, member: MemberEntry) -> None:
        await self._call(member, "DELETE", "/")

    async def metrics(self, member: MemberEntry, *, has_history: bool = False) -> MemberMetrics:
        params = {"history": "true"} if has_history else None
        answer = await self._request(member, "GET", "/metrics", params=params, timeout=_TIMEOUT)
        return _decoded(answer, MemberMetrics)

    async def log(self, member: MemberEntry, offset: int, most_bytes: int, wait_seconds: int = 0) -> LogChunk:
        params = {"offset": str(offset), "most": str(most_bytes), "wait": str(wait_seconds)}
        timeout = httpx2.Timeout(wait_seconds + 10.0)
        answer = await self._request(member, "GET", "/log", params=params, timeout=timeout)
        return LogChunk(int(answer.headers[OFFSET_HEADER]), answer.content, answer.headers[OPEN_HEADER] == "1")

    async def outputs(self, member: MemberEntry) -> Outputs:
        answer = await self._request(member, "GET", "/outputs", timeout=httpx2.Timeout(_LONG_SECONDS))
        return _decoded(answer, Outputs)

    @asynccontextmanager
    async def output(self, member: MemberEntry, name: str) -> AsyncIterator[AsyncIterator[bytes]]:
        """The bytes of an output file."""
        url = f"{_url(member)}/outputs/content"
        try:
            async with self._client.stream(
                "GET", url, params={"name": name}, headers=self._headers(member), timeout=httpx2.Timeout(_LONG_SECONDS)
            ) as answer:
                if answer.is_error:
                    await answer.aread()
                    raise _refusal(answer)
                yield answer.aiter_bytes()
        except httpx2.HTTPError as error:
            raise Unavailable(f"the runner does not answer: {error!r}") from error

    async def raw(
        self,
        member: MemberEntry,
        method: str,
        path: str,
        *,
        params: Mapping[str, str] | None = None,
        content: bytes | None = None,
        wait_seconds: float = 0.0,
    ) -> httpx2.Response:
        """A call that is passed on for a tenant: to shells."""
        timeout = httpx2.Timeout(wait_seconds + 10.0)
        return await self._request(member, method, path, params=params, content=content, timeout=timeout)

    async def _call(self, member: MemberEntry, method: str, path: str, body: Any = None) -> httpx2.Response:
        content = None if body is None else msgspec.json.encode(body)
        return await self._request(member, method, path, content=content, timeout=_TIMEOUT)

    async def _request(
        self,
        member: MemberEntry,
        method: str,
        path: str,
        *,
        timeout: httpx2.Timeout,
        params: Mapping[str, str] | None = None,
        content: bytes | AsyncIterator[bytes] | None = None,
    ) -> httpx2.Response:
        url, headers = f"{_url(member)}{path}", self._headers(member)
        try:
            answer = await self._client.request(
                method, url, params=params, content=content, headers=headers, timeout=timeout
            )
        except httpx2.HTTPError as error:
            raise Unavailable(f"the runner does not answer: {error!r}") from error
        if answer.is_error:
            raise _refusal(answer)
        return answer

    def _headers(self, member: MemberEntry) -> dict[str, str]:
        return {"authorization": f"Bearer {runner_token(self._secret, member.process_id)}"}


def _url(member: MemberEntry) -> str:
    host = f"[{member.address}]" if ":" in member.address else member.address
    return f"http://{host}:{member.port}"


def _decoded(answer: httpx2.Response, wanted: type[Document]) -> Document:
    try:
        return msgspec.json.decode(answer.content, type=wanted)
    except ValueError as error:
        raise Unavailable(f"what answers is no runner: {error}") from error


def _refusal(answer: httpx2.Response) -> CloudcrestError:
    kinds = {kind.status: kind for kind in _ERRORS}
    try:
        body = msgspec.json.decode(answer.content, type=dict[str, Any])
    except ValueError:
        body = {}
    message = str(body.get("message") or f"the runner answered {answer.status_code}")
    hint = body.get("hint")
    # 401: on that port is another's runner by now.
    kind = kinds.get(answer.status_code, Unavailable)
    return kind(message, code=body.get("code"), hint=hint if isinstance(hint, str) else None)
