"""The text of PDFs, read by processes of their own that are held to a time and a memory (pdf_reader.py)."""

import asyncio
import sys

from cloudcrest.content.pdf_reader import UNREADABLE
from cloudcrest.kernel.errors import InvalidInput, Unavailable

MAX_AT_ONCE = 2
TIMEOUT_SECONDS = 30.0
WAIT_SECONDS = 30.0
_MARK_WITHIN_BYTES = 1_024


def is_pdf(content: bytes) -> bool:
    """Whether it says that it is one: readers allow for something before the mark."""
    return b"%PDF-" in content[:_MARK_WITHIN_BYTES]


class PdfTexts:
    """Reads a few at a time; the others wait."""

    def __init__(self) -> None:
        self._room = asyncio.Semaphore(MAX_AT_ONCE)

    async def text(self, content: bytes, filename: str, param: str, most_bytes: int) -> bytes:
        """In UTF-8. Raises `InvalidInput` that says what is wrong with it, `Unavailable` where too many are read."""
        try:
            async with asyncio.timeout(WAIT_SECONDS):
                await self._room.acquire()
        except TimeoutError:
            raise Unavailable("too many PDFs are being read", code="overloaded", retry_after_seconds=5) from None
        try:
            return await _read(content, filename, param, most_bytes)
        finally:
            self._room.release()


async def _read(content: bytes, filename: str, param: str, most_bytes: int) -> bytes:
    pipe = asyncio.subprocess.PIPE
    reader = await asyncio.create_subprocess_exec(
        *(sys.executable, "-I", "-m", "cloudcrest.content.pdf_reader", str(most_bytes)),
        stdin=pipe,
        stdout=pipe,
        stderr=pipe,
        env={},
    )
    try:
        async with asyncio.timeout(TIMEOUT_SECONDS):
            text, said = await reader.communicate(content)
    except TimeoutError:
        raise _unreadable(filename, "takes too long to read", param) from None
    finally:
        if reader.returncode is None:
            reader.kill()
            await reader.wait()
    if reader.returncode == UNREADABLE:
        raise _unreadable(filename, said.decode("utf-8", "replace"), param)
    if reader.returncode != 0:
        raise _unreadable(filename, "takes too much time or memory to read", param)
    return text


def _unreadable(filename: str, why: str, param: str) -> InvalidInput:
    return InvalidInput(f"'{filename}' {why}", param=param, code="unsupported_file", hint="send the text that is in it")
