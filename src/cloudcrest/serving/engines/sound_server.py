"""What the servers for sound share: slots, counters, work in threads that stops when its client is gone."""

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator, Callable, Iterable
from typing import TypeVar

import msgspec
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from cloudcrest.kernel.errors import CloudcrestError
from cloudcrest.serving.api import USAGE_HEADER, SoundUsage
from cloudcrest.serving.engines.http_server import error_response

T = TypeVar("T")


class Slots:
    """How many requests run at once, how many there are, and what was worked on. `prefix`: of its metrics."""

    def __init__(self, slots: int, prefix: str) -> None:
        self._free = asyncio.Semaphore(slots)
        self._prefix = prefix
        self.in_flight = 0
        self.worked = SoundUsage()

    @contextlib.asynccontextmanager
    async def one(self) -> AsyncIterator[None]:
        self.in_flight += 1
        try:
            async with self._free:
                yield
        finally:
            self.in_flight -= 1

    def count(self, usage: SoundUsage) -> None:
        """Notes what a request is charged for."""
        self.worked = SoundUsage(
            self.worked.characters + usage.characters,
            self.worked.audio_milliseconds + usage.audio_milliseconds,
        )

    def routes(self) -> list[Route]:
        """Health and metrics."""
        return [Route("/health", self._health), Route("/metrics", self._metrics)]

    async def _health(self, _: Request) -> Response:
        return JSONResponse({"status": "ok", "in_flight": self.in_flight})

    async def _metrics(self, _: Request) -> Response:
        values = {
            "characters_total": self.worked.characters,
            "audio_milliseconds_total": self.worked.audio_milliseconds,
            "requests_processing": self.in_flight,
        }
        return PlainTextResponse("".join(f"{self._prefix}:{name} {value}\n" for name, value in values.items()))


async def in_thread(work: Callable[[Callable[[], bool]], T]) -> T:
    """Runs blocking work, which is given a question: is nobody waiting any more? Cancelled, waits until it has seen."""
    stop = threading.Event()
    task = asyncio.ensure_future(asyncio.to_thread(work, stop.is_set))
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        stop.set()
        await asyncio.gather(task, return_exceptions=True)
        raise


async def following(first: T | None, rest: AsyncIterator[T]) -> AsyncIterator[T]:
    """An iterator whose first item was taken already; None: there was none."""
    if first is not None:
        yield first
    async for item in rest:
        yield item


def usage_headers(usage: SoundUsage) -> dict[str, str]:
    return {USAGE_HEADER: msgspec.json.encode(usage).decode()}


def refusal(error: CloudcrestError) -> Response:
    """An error as its caller is to see it: the gateway passes our own engines' words on."""
    message = f"{error.message} ({error.hint})" if error.hint else error.message
    return error_response(error.status, message, code=error.code, param=error.param)


def names(values: Iterable[str]) -> str:
    return ", ".join(f"'{value}'" for value in values)
