"""One file over HTTP, resumed with Range after any break, within this run or a later one."""

import asyncio
import re
from dataclasses import dataclass
from pathlib import Path

import httpx2

from cloudcrest.catalog.progress import Meter
from cloudcrest.catalog.sources.base import FetchContext, SourceFailed
from cloudcrest.catalog.sources.files import CHUNK_BYTES, PartFile, sha256_of
from cloudcrest.kernel.units import format_bytes

_CONTENT_RANGE = re.compile(r"bytes (\d+)-\d+/(\d+|\*)")
_BACKOFF_SECONDS = (0.2, 1.0, 2.0, 5.0, 10.0)
_REASONS = {
    401: "it asks for a token (set HF_TOKEN for Hugging Face)",
    403: "it forbids the download (a licence may have to be accepted there first)",
    404: "it has no such file",
    429: "it limits how often one may ask",
}
_TRY_AGAIN = frozenset({408, 425, 429, 500, 502, 503, 504})


class _Broken(Exception):
    """A break that another attempt may mend."""


async def download(
    context: FetchContext,
    url: str,
    target: Path,
    *,
    meter: Meter,
    size_bytes: int | None = None,
    sha256: str | None = None,
    headers: dict[str, str] | None = None,
) -> str:
    """Brings `url` to `target`; answers the SHA-256 (hex) of what came.

    A host that cannot be reached at all fails at once; a connection that breaks midway is taken up again. With
    `sha256`, a resumed download that came to another hash starts over once (its first half may be of another day).
    Raises `SourceFailed`, `DiskFull`.
    """
    if await asyncio.to_thread(target.is_file):
        meter.add((await asyncio.to_thread(target.stat)).st_size)
        return await asyncio.to_thread(sha256_of, target)
    part = PartFile(target)
    run = _Download(context, url, part, meter, size_bytes, headers or {})
    try:
        await asyncio.to_thread(part.open)
        meter.add(part.size_bytes)
        if size_bytes is not None and part.size_bytes > size_bytes:
            await run.start_over()
        resumed = part.size_bytes > 0
        context.require_space(target.parent, max(0, (size_bytes or 0) - part.size_bytes))
        await run.complete()
        if sha256 is not None and resumed and part.digest() != sha256.lower():
            await run.start_over()
            await run.complete()
        return await asyncio.to_thread(part.finish)
    finally:
        await asyncio.to_thread(part.close)


@dataclass(frozen=True)
class _Download:
    context: FetchContext
    url: str
    part: PartFile
    meter: Meter
    size_bytes: int | None
    headers: dict[str, str]

    async def complete(self) -> None:
        """Attempts until the part is whole; patience starts afresh with every attempt that brought bytes."""
        settings = self.context.settings
        failures = 0
        for _ in range(settings.attempts * 20):
            before = self.part.size_bytes
            try:
                await self._attempt()
                return
            except (httpx2.ConnectError, httpx2.ConnectTimeout) as error:
                reason = f"{_host(self.url)} cannot be reached ({_words(error)})"
                if not self.part.size_bytes:
                    raise SourceFailed(reason) from error
            except (httpx2.TransportError, _Broken) as error:
                reason = f"the connection to {_host(self.url)} broke ({_words(error)})"
            except (httpx2.HTTPError, httpx2.InvalidURL) as error:
                raise SourceFailed(f"{_host(self.url)} does not lead to the file ({_words(error)})") from error
            failures = 1 if self.part.size_bytes > before else failures + 1
            if failures >= settings.attempts:
                kept = f" after {format_bytes(self.part.size_bytes)}, which are kept for the next try"
                raise SourceFailed(reason + (kept if self.part.size_bytes else ""))
            await self.context.sleep(_BACKOFF_SECONDS[min(failures - 1, len(_BACKOFF_SECONDS) - 1)])
        raise SourceFailed(f"{_host(self.url)} broke off too often; what came is kept for the next try")

    async def start_over(self) -> None:
        """Forgets what came."""
        self.meter.add(-self.part.size_bytes)
        await asyncio.to_thread(self.part.restart)

    async def _attempt(self) -> None:
        if self.size_bytes is not None and self.part.size_bytes == self.size_bytes:
            return
        asked = {**self.headers, "accept-encoding": "identity"}
        if self.part.size_bytes:
            asked["range"] = f"bytes={self.part.size_bytes}-"
        async with self.context.client.stream("GET", self.url, headers=asked, follow_redirects=True) as response:
            if response.status_code == 416:
                await self.start_over()
                raise _Broken("it does not have the rest of this file")
            _check_status(self.url, response)
            if self.part.size_bytes and not _continues(response, self.part.size_bytes):
                await self.start_over()
            expected_bytes = self.size_bytes if self.size_bytes is not None else _announced(response, self.part)
            await self._receive(response, expected_bytes)
        if expected_bytes is not None and self.part.size_bytes < expected_bytes:
            raise _Broken(f"it ended {format_bytes(expected_bytes - self.part.size_bytes)} early")

    async def _receive(self, response: httpx2.Response, expected_bytes: int | None) -> None:
        max_bytes = self.context.settings.max_file_bytes
        limit_bytes = max_bytes if expected_bytes is None else expected_bytes
        if limit_bytes > max_bytes:
            raise SourceFailed(f"the file is {format_bytes(limit_bytes)}, over the limit of {format_bytes(max_bytes)}")
        waiting = bytearray()
        try:
            async for chunk in response.aiter_raw():
                if self.part.size_bytes + len(waiting) + len(chunk) > limit_bytes:
                    waiting.clear()
                    await self.start_over()
                    raise SourceFailed(f"{_host(self.url)} sends more than the {format_bytes(limit_bytes)} of the file")
                waiting += chunk
                if len(waiting) >= CHUNK_BYTES:
                    await self._write(waiting)
        finally:
            # Also when the connection broke: what came before the break is where the next attempt begins.
            await self._write(waiting)

    async def _write(self, waiting: bytearray) -> None:
        chunk = bytes(waiting)
        waiting.clear()
        await asyncio.to_thread(self.part.write, chunk)
        self.meter.add(len(chunk))


def _check_status(url: str, response: httpx2.Response) -> None:
    if response.status_code in (200, 206):
        return
    if response.status_code in _TRY_AGAIN:
        raise _Broken(f"status {response.status_code}")
    reason = _REASONS.get(response.status_code, "that is not the file")
    raise SourceFailed(f"{_host(url)} answers {response.status_code}: {reason}")


def _continues(response: httpx2.Response, offset_bytes: int) -> bool:
    """Whether the answer goes on where we are; a server without Range sends it all from the start."""
    match = _CONTENT_RANGE.match(response.headers.get("content-range", ""))
    return response.status_code == 206 and match is not None and int(match.group(1)) == offset_bytes


def _announced(response: httpx2.Response, part: PartFile) -> int | None:
    length = response.headers.get("content-length", "")
    return part.size_bytes + int(length) if length.isdigit() else None


def _words(error: Exception) -> str:
    """What the error says; some say nothing but their name."""
    return str(error) or type(error).__name__


def _host(url: str) -> str:
    """The host alone: a URL may carry credentials."""
    return httpx2.URL(url).host


async def get_json(context: FetchContext, url: str, headers: dict[str, str] | None = None) -> httpx2.Response:
    """A small document, whole. Raises `SourceFailed`."""
    try:
        async with context.client.stream("GET", url, headers=headers, follow_redirects=True) as response:
            if response.status_code != 200:
                reason = _REASONS.get(response.status_code, "that is no answer")
                raise SourceFailed(f"{_host(url)} answers {response.status_code}: {reason}")
            body = bytearray()
            async for chunk in response.aiter_bytes():
                body += chunk
                if len(body) > context.settings.max_listing_bytes:
                    raise SourceFailed(f"the listing of {_host(url)} is too large")
            return httpx2.Response(200, headers=_plain(response), content=bytes(body), request=response.request)
    except (httpx2.ConnectError, httpx2.ConnectTimeout) as error:
        raise SourceFailed(f"{_host(url)} cannot be reached ({_words(error)})") from error
    except (httpx2.HTTPError, httpx2.InvalidURL) as error:
        raise SourceFailed(f"asking {_host(url)} failed ({_words(error)})") from error


def _plain(response: httpx2.Response) -> dict[str, str]:
    return {"content-type": response.headers.get("content-type", "")}
