"""A client on a bare socket: it must know its own port, and exactly where an answer was cut."""

import asyncio
import time
from typing import Literal

import msgspec

from bench.chaos.plan import Ask

ANSWER_SECONDS = 60.0
_MAX_LINE_BYTES = 1024 * 1024

Ending = Literal["whole", "refused", "error", "unfinished", "cut", "left", "hung", "garbled"]
"""Answered whole; an error status; a stream that ends with an error event, or with nothing; the connection broke; the
client hung up; nothing came for too long; what came is no answer."""


class Attempt(msgspec.Struct, frozen=True):
    """One request as its client saw it. Times are monotonic seconds, `arrivals` those of single events.

    `port`: the client's own; a connection is known by it. `usage`: input and output tokens, where the answer said them.
    """

    ask: Ask
    port: int
    opened_at: float
    began_at: float
    ended_at: float
    ending: Ending
    status: int = 0
    request_id: str = ""
    texts: tuple[str, ...] = ()
    usage: tuple[int, int] | None = None
    arrivals: tuple[float, ...] = ()
    said: str = ""


class _Message(msgspec.Struct):
    content: str | None = None


class _Choice(msgspec.Struct):
    index: int
    delta: _Message | None = None
    message: _Message | None = None
    text: str | None = None

    def said(self) -> str:
        part = self.delta or self.message
        return (self.text if part is None else part.content) or ""


class _Usage(msgspec.Struct):
    prompt_tokens: int
    completion_tokens: int


class _Answer(msgspec.Struct):
    choices: list[_Choice] = []
    usage: _Usage | None = None
    error: msgspec.Raw = msgspec.Raw()


_answer: msgspec.json.Decoder[_Answer] = msgspec.json.Decoder(_Answer)


class Line:
    """A connection that carries one request after the other."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer
        self.port: int = writer.get_extra_info("sockname")[1]
        self.opened_at = time.monotonic()

    @classmethod
    async def open(cls, port: int) -> "Line":
        """Raises `OSError`."""
        return cls(*await asyncio.open_connection("127.0.0.1", port, limit=_MAX_LINE_BYTES))

    def close(self) -> None:
        """Hangs up."""
        self.writer.transport.abort()


class _Answering:
    """An answer as it comes in."""

    def __init__(self, ask: Ask, line: Line) -> None:
        self.ask = ask
        self.line = line
        self.began_at = time.monotonic()
        self.status = 0
        self.request_id = ""
        self.texts = [""] * ask.choices
        self.usage: tuple[int, int] | None = None
        self.arrivals: list[float] = []
        self.said = ""
        self.is_done = False
        self._partial = b""

    async def run(self, key: str) -> Ending:
        """Asks, and reads to the end. Raises `OSError`, `EOFError`, `ValueError`."""
        ask, body = self.ask, self.ask.body()
        head = f"POST {ask.path} HTTP/1.1\r\nhost: chaos\r\nauthorization: Bearer {key}\r\ncontent-length: {len(body)}"
        self.line.writer.write(head.encode() + b"\r\n\r\n" + body)
        if ask.leave_after == 0:
            return "left"
        headers = await self._read_head()
        if self.status != 200:
            self.said = (await self.line.reader.readexactly(int(headers["content-length"]))).decode()
            return "refused"
        if not ask.is_stream:
            self._take(_answer.decode(await self.line.reader.readexactly(int(headers["content-length"]))))
            return "whole"
        while size := int(await self.line.reader.readuntil(b"\r\n"), 16):
            self._take_events((await self.line.reader.readexactly(size + 2))[:-2])
            if ask.leave_after is not None and len(self.arrivals) >= ask.leave_after:
                return "left"
        await self.line.reader.readexactly(2)
        if self._partial:
            raise ValueError(f"the stream ended inside an event: {self._partial[:80]!r}")
        return "error" if self.said else "whole" if self.is_done else "unfinished"

    def attempt(self, ending: Ending) -> Attempt:
        """What is known now."""
        line = self.line
        return Attempt(
            ask=self.ask,
            port=line.port,
            opened_at=line.opened_at,
            began_at=self.began_at,
            ended_at=time.monotonic(),
            ending=ending,
            status=self.status,
            request_id=self.request_id,
            texts=tuple(self.texts),
            usage=self.usage,
            arrivals=tuple(self.arrivals),
            said=self.said[:500],
        )

    async def _read_head(self) -> dict[str, str]:
        lines = (await self.line.reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines[1:])}
        self.request_id = headers["x-request-id"]
        self.status = int(lines[0].split()[1])
        return headers

    def _take_events(self, data: bytes) -> None:
        *events, self._partial = (self._partial + data).split(b"\n\n")
        for event in events:
            if self.is_done or not event.startswith(b"data: "):
                raise ValueError(f"an event that has no place there: {event[:80]!r}")
            if event == b"data: [DONE]":
                self.is_done = True
                continue
            answer = _answer.decode(event[6:])
            if answer.error:
                self.said = bytes(answer.error).decode()
            if answer.choices:
                self.arrivals.append(time.monotonic())
            self._take(answer)

    def _take(self, answer: _Answer) -> None:
        for choice in answer.choices:
            self.texts[choice.index] += choice.said()
        if answer.usage is not None:
            self.usage = (answer.usage.prompt_tokens, answer.usage.completion_tokens)


async def attempt(ask: Ask, key: str, line: Line) -> Attempt:
    """Asks on this connection. Unless the answer is whole or refused, the connection is closed."""
    answering = _Answering(ask, line)
    ending: Ending
    try:
        async with asyncio.timeout(ANSWER_SECONDS):
            ending = await answering.run(key)
    except TimeoutError:
        ending = "hung"
    except (OSError, EOFError):
        ending = "cut"
    except (ValueError, KeyError, IndexError, asyncio.LimitOverrunError) as error:
        ending = "garbled"
        answering.said = f"{type(error).__name__}: {error}"
    done = answering.attempt(ending)
    if ending not in ("whole", "refused"):
        line.close()
    return done
