"""One simulated replica: `python -m cloudcrest.serving.engines.simulated_server '<json>'`, token in the environment.

Speaks the OpenAI dialect (chat, completions, embeddings; streamed and not), `/v1/rerank`, and llama.cpp's `/tokenize`,
`/apply-template` and `/metrics`. Usage is exact: every choice is counted.
"""

import asyncio
import base64
import os
import random
import struct
import sys
import time
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing, asynccontextmanager
from typing import Any, Literal

import msgspec
import orjson
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from cloudcrest.serving.engines.http_server import error_response, read_body, serve, unless_disconnected
from cloudcrest.serving.engines.simulated import Profile, SimulatedArguments
from cloudcrest.serving.engines.simulated_text import (
    chat_prompt,
    detokenize,
    embedding,
    generate,
    relevance,
    token_bytes,
    tokenize,
)

_EXIT_AS_TOLD = 9


class TextPart(msgspec.Struct):
    type: str
    text: str = ""


class Message(msgspec.Struct):
    role: str
    content: str | list[TextPart] | None = None

    def text(self) -> str:
        """The message's text, parts joined."""
        if isinstance(self.content, list):
            return "".join(part.text for part in self.content)
        return self.content or ""


class StreamOptions(msgspec.Struct):
    include_usage: bool = False


class Generation(msgspec.Struct):
    """A chat or completion request: the fields that a simulated engine honours."""

    messages: list[Message] | None = None
    prompt: str | list[int | str] | None = None
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    n_predict: int | None = None
    n: int = 1
    seed: int | None = None
    stop: str | list[str] | None = None
    stream: bool = False
    stream_options: StreamOptions = msgspec.field(default_factory=StreamOptions)


class EmbeddingRequest(msgspec.Struct):
    input: str | list[str | int | list[int]]
    encoding_format: Literal["float", "base64"] = "float"


class RerankRequest(msgspec.Struct):
    query: str
    documents: list[str]
    top_n: int | None = None


class TokenizeRequest(msgspec.Struct):
    content: str


class TemplateRequest(msgspec.Struct):
    messages: list[Message]


class Choice(msgspec.Struct):
    """One choice under way: `tokens` made so far, `finish` once it is over. `held`: text that may begin a stop."""

    index: int
    tokens: list[int] = []
    held: str = ""
    finish: str | None = None


class Refused(Exception):
    """A request that gets an error; `response` is it."""

    def __init__(self, response: Response) -> None:
        super().__init__()
        self.response = response


class SimulatedReplica:
    """The engine's state: its slots, its counters, its randomness."""

    def __init__(self, arguments: SimulatedArguments) -> None:
        self._arguments = arguments
        self._profile: Profile = arguments.profile
        self._slots = asyncio.Semaphore(arguments.slots)
        self._in_flight = 0
        self._input_tokens = 0
        self._output_tokens = 0
        self._cancelled = 0
        self._random = random.Random(self._profile.jitter_seed)  # noqa: S311 - a timing profile, not a secret
        self._ready_at_seconds = time.monotonic() + self._profile.load_seconds

    def routes(self) -> list[Route]:
        """The server's paths."""
        return [
            Route("/health", self._health),
            Route("/metrics", self._metrics),
            Route("/v1/models", self._models),
            Route("/v1/chat/completions", self._generation, methods=["POST"]),
            Route("/v1/completions", self._generation, methods=["POST"]),
            Route("/completion", self._generation, methods=["POST"]),
            Route("/v1/embeddings", self._embeddings, methods=["POST"]),
            Route("/v1/rerank", self._rerank, methods=["POST"]),
            Route("/tokenize", self._tokenize, methods=["POST"]),
            Route("/apply-template", self._apply_template, methods=["POST"]),
        ]

    async def _health(self, _: Request) -> Response:
        if time.monotonic() < self._ready_at_seconds:
            body = {"status": "loading", "in_flight": 0, "reason": "is loading its weights"}
            return JSONResponse(body, status_code=503)
        return JSONResponse({"status": "ok", "in_flight": self._in_flight})

    async def _metrics(self, _: Request) -> Response:
        counters = {
            "simulated:prompt_tokens_total": self._input_tokens,
            "simulated:tokens_predicted_total": self._output_tokens,
            "simulated:requests_cancelled_total": self._cancelled,
            "simulated:requests_processing": self._in_flight,
        }
        return PlainTextResponse("".join(f"{name} {value}\n" for name, value in counters.items()))

    async def _models(self, _: Request) -> Response:
        model = {"id": self._arguments.alias, "object": "model", "created": 0, "owned_by": "simulated"}
        return JSONResponse({"object": "list", "data": [model]})

    async def _tokenize(self, request: Request) -> Response:
        body = msgspec.json.decode(await read_body(request), type=TokenizeRequest)
        return JSONResponse({"tokens": tokenize(body.content)})

    async def _apply_template(self, request: Request) -> Response:
        body = msgspec.json.decode(await read_body(request), type=TemplateRequest)
        return JSONResponse({"prompt": chat_prompt([(message.role, message.text()) for message in body.messages])})

    async def _embeddings(self, request: Request) -> Response:
        try:
            body = msgspec.json.decode(await read_body(request), type=EmbeddingRequest)
        except (msgspec.MsgspecError, ValueError) as error:
            return error_response(400, str(error))
        texts = _embedding_texts(body.input)
        count = sum(len(tokenize(text)) for text in texts)
        async with self._slot():
            await self._spend(count, self._profile.prefill_tokens_per_second)
            self._input_tokens += count
        vectors = [embedding(text, self._arguments.dimensions) for text in texts]
        data = [
            {"object": "embedding", "index": index, "embedding": _encoded(vector, body.encoding_format)}
            for index, vector in enumerate(vectors)
        ]
        usage = {"prompt_tokens": count, "total_tokens": count}
        return JSONResponse({"object": "list", "model": self._arguments.alias, "data": data, "usage": usage})

    async def _rerank(self, request: Request) -> Response:
        try:
            body = msgspec.json.decode(await read_body(request), type=RerankRequest)
        except (msgspec.MsgspecError, ValueError) as error:
            return error_response(400, str(error))
        count = sum(len(tokenize(body.query)) + len(tokenize(text)) for text in body.documents)
        async with self._slot():
            await self._spend(count, self._profile.prefill_tokens_per_second)
            self._input_tokens += count
        scores = {index: relevance(body.query, text) for index, text in enumerate(body.documents)}
        best = sorted(scores, key=lambda index: -scores[index])[: body.top_n]
        results = [{"index": index, "relevance_score": scores[index]} for index in best]
        usage = {"prompt_tokens": count, "total_tokens": count}
        return JSONResponse({"object": "list", "model": self._arguments.alias, "results": results, "usage": usage})

    async def _generation(self, request: Request) -> Response:
        try:
            body = msgspec.json.decode(await read_body(request), type=Generation)
            prompt = self._prompt_tokens(body)
        except Refused as refused:
            return refused.response
        except (msgspec.MsgspecError, ValueError) as error:
            return error_response(400, str(error))
        is_chat = body.messages is not None
        identity = {
            "id": f"{'chatcmpl' if is_chat else 'cmpl'}-{random.getrandbits(64):016x}",
            "created": int(time.time()),
            "model": self._arguments.alias,
        }
        if body.stream:
            return StreamingResponse(
                self._stream(body, prompt, identity, is_chat=is_chat), media_type="text/event-stream"
            )
        return await unless_disconnected(request, self._answer(body, prompt, identity, is_chat=is_chat))

    def _prompt_tokens(self, body: Generation) -> list[int]:
        if body.messages is not None:
            prompt = tokenize(chat_prompt([(message.role, message.text()) for message in body.messages]))
        elif isinstance(body.prompt, str):
            prompt = tokenize(body.prompt)
        elif body.prompt and all(isinstance(part, int) for part in body.prompt):
            prompt = [part for part in body.prompt if isinstance(part, int)]
        elif body.prompt and len(body.prompt) == 1:
            prompt = tokenize(str(body.prompt[0]))
        else:
            raise Refused(error_response(400, "prompt must be a string or a list of tokens", param="prompt"))
        if not 1 <= body.n <= 128:
            raise Refused(error_response(400, "n must be between 1 and 128", param="n"))
        context_tokens = self._arguments.context_tokens
        if len(prompt) >= context_tokens:
            message = f"request ({len(prompt)} tokens) exceeds the available context size ({context_tokens} tokens)"
            error = {"code": 400, "message": message, "type": "exceed_context_size_error"}
            error |= {"n_prompt_tokens": len(prompt), "n_ctx": context_tokens}
            raise Refused(JSONResponse({"error": error}, status_code=400))
        return prompt

    async def _answer(
        self, body: Generation, prompt: Sequence[int], identity: dict[str, Any], *, is_chat: bool
    ) -> Response:
        choices = [Choice(index) for index in range(body.n)]
        async with aclosing(self._tokens(body, prompt, choices)) as steps:
            async for _ in steps:
                pass
        answers = []
        for choice in choices:
            text = _until_stop(detokenize(choice.tokens), _stops(body))
            content = {"message": {"role": "assistant", "content": text}} if is_chat else {"text": text}
            answers.append({"index": choice.index, **content, "logprobs": None, "finish_reason": choice.finish})
        kind = "chat.completion" if is_chat else "text_completion"
        answer = identity | {"object": kind, "choices": answers, "usage": _usage(prompt, choices)}
        return Response(orjson.dumps(answer), media_type="application/json")

    async def _stream(
        self, body: Generation, prompt: Sequence[int], identity: dict[str, Any], *, is_chat: bool
    ) -> AsyncIterator[bytes]:
        choices = [Choice(index) for index in range(body.n)]
        head = identity | {"object": "chat.completion.chunk" if is_chat else "text_completion"}

        def chunk(index: int, text: str | None, finish: str | None, *, is_first: bool = False) -> bytes:
            delta: dict[str, Any] = {} if text is None else {"content": text}
            if is_first:
                delta = {"role": "assistant", "content": ""}
            content = {"delta": delta} if is_chat else {"text": text or ""}
            return _event(head | {"choices": [{"index": index, **content, "finish_reason": finish}]})

        if is_chat:
            for choice in choices:
                yield chunk(choice.index, None, None, is_first=True)
        async with aclosing(self._tokens(body, prompt, choices)) as steps:
            async for choice, text in steps:
                # A stop and the text before it are one event: between the two a cut would show no token's end.
                if text or choice.finish:
                    yield chunk(choice.index, text or None, choice.finish)
        if body.stream_options.include_usage:
            yield _event(head | {"choices": [], "usage": _usage(prompt, choices)})
        yield b"data: [DONE]\n\n"

    async def _tokens(
        self, body: Generation, prompt: Sequence[int], choices: list[Choice]
    ) -> AsyncGenerator[tuple[Choice, str], None]:
        """The choices' tokens as they are made, and each choice's finish. Cancelled: stops at once."""
        profile = self._profile
        room = self._arguments.context_tokens - len(prompt)
        wanted = body.max_completion_tokens or body.max_tokens or body.n_predict
        limit = room if wanted is None or wanted < 0 else min(wanted, room)
        stops = _stops(body)
        async with self._slot():
            self._input_tokens += len(prompt)
            await self._spend(len(prompt), profile.prefill_tokens_per_second)
            makers = {
                choice.index: generate(
                    prompt, answer_tokens=profile.answer_tokens, seed=(body.seed or 0) + choice.index
                )
                for choice in choices
            }
            while unfinished := [choice for choice in choices if choice.finish is None]:
                await self._spend(1, profile.decode_tokens_per_second)
                for choice in unfinished:
                    token = next(makers[choice.index], None) if len(choice.tokens) < limit else None
                    if token is None:
                        choice.finish = "length" if len(choice.tokens) >= limit else "stop"
                        yield choice, choice.held
                        continue
                    choice.tokens.append(token)
                    self._count_output_token()
                    text = choice.held + token_bytes(token).decode(errors="replace")
                    if stops and any(stop in text for stop in stops):
                        choice.finish, text, choice.held = "stop", _until_stop(text, stops), ""
                    elif stops:
                        text, choice.held = _hold_back(text, stops)
                    yield choice, text

    def _count_output_token(self) -> None:
        self._output_tokens += 1
        if self._profile.die_after_tokens and self._output_tokens > self._profile.die_after_tokens:
            os._exit(_EXIT_AS_TOLD)

    async def _spend(self, tokens: int, tokens_per_second: float) -> None:
        """Takes the time that so many tokens take; always lets others run."""
        if tokens_per_second <= 0:
            await asyncio.sleep(0)
            return
        jitter = self._random.uniform(1 - self._profile.jitter, 1 + self._profile.jitter)
        await asyncio.sleep(tokens / tokens_per_second * jitter)

    @asynccontextmanager
    async def _slot(self) -> AsyncIterator[None]:
        self._in_flight += 1
        try:
            async with self._slots:
                yield
        except (asyncio.CancelledError, GeneratorExit):
            self._cancelled += 1
            raise
        finally:
            self._in_flight -= 1


def _usage(prompt: Sequence[int], choices: list[Choice]) -> dict[str, Any]:
    output_tokens = sum(len(choice.tokens) for choice in choices)
    return {
        "prompt_tokens": len(prompt),
        "completion_tokens": output_tokens,
        "total_tokens": len(prompt) + output_tokens,
        "prompt_tokens_details": {"cached_tokens": 0},
    }


def _stops(body: Generation) -> list[str]:
    stops = [body.stop] if isinstance(body.stop, str) else body.stop or []
    return [stop for stop in stops if stop]


def _until_stop(text: str, stops: list[str]) -> str:
    places = [place for place in (text.find(stop) for stop in stops) if place >= 0]
    return text[: min(places)] if places else text


def _hold_back(text: str, stops: list[str]) -> tuple[str, str]:
    """The text that may go out, and its end where a stop may have begun: a cut stream then never ends inside one."""
    longest = min(len(text), max(map(len, stops)) - 1)
    for size in range(longest, 0, -1):
        if any(stop.startswith(text[-size:]) for stop in stops):
            return text[:-size], text[-size:]
    return text, ""


def _embedding_texts(given: str | list[str | int | list[int]]) -> list[str]:
    if isinstance(given, str):
        return [given]
    tokens = [part for part in given if isinstance(part, int)]
    texts = [part if isinstance(part, str) else detokenize(part) for part in given if not isinstance(part, int)]
    return [detokenize(tokens), *texts] if tokens else texts


def _encoded(vector: list[float], encoding_format: str) -> list[float] | str:
    if encoding_format == "float":
        return vector
    return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()


def _event(body: dict[str, Any]) -> bytes:
    return b"data: " + orjson.dumps(body) + b"\n\n"


def main(argv: list[str]) -> None:
    """Serves until SIGTERM."""
    arguments = msgspec.json.decode(argv[1], type=SimulatedArguments)
    serve(SimulatedReplica(arguments).routes(), arguments.host, arguments.port)


if __name__ == "__main__":
    main(sys.argv)
