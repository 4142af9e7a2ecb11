"""A thousand callers at once who will not take no for an answer: over raw connections, so that they cost little."""

import asyncio
import json
import random
from typing import Any
from urllib.parse import urlsplit

import msgspec

_PAUSE_SECONDS = 0.05


class Answer(msgspec.Struct, frozen=True):
    """How a request ended. `body` empty: its connection was lost."""

    status: int
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


async def ask(base_url: str, key: str, body: dict[str, Any]) -> Answer:
    """One chat completion, not streamed, over a connection of its own. Status 0: it was lost."""
    return await _post(base_url, key, json.dumps(body).encode())


async def _post(base_url: str, key: str, data: bytes) -> Answer:
    address = urlsplit(base_url)
    head = (
        f"POST /v1/chat/completions HTTP/1.1\r\nhost: {address.netloc}\r\nauthorization: Bearer {key}\r\n"
        f"content-type: application/json\r\ncontent-length: {len(data)}\r\nconnection: close\r\n\r\n"
    )
    try:
        reader, writer = await asyncio.open_connection(address.hostname, address.port)
    except OSError:
        return Answer(0, b"")
    try:
        writer.write(head.encode() + data)
        answer = await reader.read(-1)
    except OSError:
        return Answer(0, b"")
    finally:
        writer.close()
    top, separator, rest = answer.partition(b"\r\n\r\n")
    length = next(
        (int(line[15:]) for line in top.lower().split(b"\r\n") if line.startswith(b"content-length:")), len(rest)
    )
    if not separator or len(rest) < length:
        return Answer(0, b"")
    return Answer(int(top.split(b" ", 2)[1]), rest)


class Burst:
    """Callers with `max_tokens` of their own, each of whom asks until it is answered or all are told to stop.

    `waiting`: the bodies and limits of those that were not answered, by the caller's number.
    """

    def __init__(self, base_url: str, key: str, model: str, wishes: list[int]) -> None:
        self._base_url = base_url
        self._key = key
        self.waiting = {number: (_body(model, number, wish), wish) for number, wish in enumerate(wishes)}
        self.answered: list[dict[str, Any]] = []
        self.refusals = 0
        self.others: list[Answer] = []
        self._is_over = asyncio.Event()

    def stop(self) -> None:
        """Nobody asks again."""
        self._is_over.set()

    async def run(self) -> None:
        """Everyone, until they are answered or stopped."""
        await asyncio.gather(*(self._caller(number) for number in list(self.waiting)))

    async def _caller(self, number: int) -> None:
        rng = random.Random(number)
        body, _ = self.waiting[number]
        while not self._is_over.is_set():
            answer = await _post(self._base_url, self._key, body)
            if answer.status == 200:
                self.answered.append(answer.json)
                del self.waiting[number]
                return
            if answer.status == 429 and b"insufficient_quota" in answer.body:
                self.refusals += 1
            elif answer.status not in (0, 503):
                self.others.append(answer)
            try:
                await asyncio.wait_for(self._is_over.wait(), rng.uniform(_PAUSE_SECONDS, 10 * _PAUSE_SECONDS))
            except TimeoutError:
                continue


def _body(model: str, number: int, max_tokens: int) -> bytes:
    question = f"Question {number}: {'why ' * random.Random(number).randint(1, 20)}?"
    messages = [{"role": "user", "content": question}]
    return json.dumps({"model": model, "messages": messages, "max_tokens": max_tokens}).encode()
