"""One forwarding replica: `python -m cloudcrest.serving.engines.upstream_server '<json>'`, secrets in the environment.

Requests go to the provider with its name for the model and its key; answers come back with our name. Streams pass event
by event, no faster than the caller reads. The provider's faults become ours to report: a key it refuses is an engine
fault (502), never the caller's 401; its rate limit stays a 429 with `retry-after`.
"""

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx2
import msgspec
import orjson
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from cloudcrest.infra.outbound import OutboundPolicy, guarded_client
from cloudcrest.infra.sealing import Sealer
from cloudcrest.kernel.errors import CloudcrestError
from cloudcrest.serving.engines.http_server import (
    MAX_BODY_BYTES,
    error_response,
    read_body,
    serve,
    unless_disconnected,
)
from cloudcrest.serving.engines.upstream import SEALED_KEY_VARIABLE, UpstreamArguments

_CONNECT_SECONDS = 10.0
_READ_SECONDS = 600.0
_CHECK_SECONDS = 5.0
_MAX_EVENT_BYTES = 4 * 1024 * 1024
_MAX_MESSAGE_CHARACTERS = 500
_PASSED_ON = (400, 404, 413, 422)


class UpstreamReplica:
    """The forwarder's state: its connection pool, its counters, and whether the provider accepts us."""

    def __init__(self, arguments: UpstreamArguments, client: httpx2.AsyncClient, key: str | None) -> None:
        self._arguments = arguments
        self._client = client
        self._headers = {"content-type": "application/json", "accept-encoding": "identity"}
        if key:
            self._headers["authorization"] = f"Bearer {key}"
        self._in_flight = 0
        self._input_tokens = 0
        self._output_tokens = 0
        self._trouble: str | None = "has not reached the provider yet"

    def routes(self) -> list[Route]:
        """The server's paths."""
        return [
            Route("/health", self._health),
            Route("/metrics", self._metrics),
            Route("/v1/chat/completions", self._forward, methods=["POST"]),
            Route("/v1/completions", self._forward, methods=["POST"]),
            Route("/v1/embeddings", self._forward, methods=["POST"]),
            Route("/v1/rerank", self._forward, methods=["POST"]),
            Route("/v1/images/generations", self._forward, methods=["POST"]),
        ]

    async def watch(self) -> None:
        """Asks the provider who we are until it answers, and again whenever it has refused us."""
        while True:
            if self._trouble is not None:
                self._trouble = await self._check()
            await asyncio.sleep(_CHECK_SECONDS if self._trouble else 1.0)

    async def _check(self) -> str | None:
        """What keeps the provider from serving us; a provider without a list of models is taken at its word."""
        try:
            response = await self._client.get(f"{self._arguments.base_url}/models", headers=self._headers)
        except CloudcrestError as error:
            return str(error)
        except httpx2.HTTPError as error:
            return f"the provider cannot be reached ({type(error).__name__})"
        if response.status_code in (401, 403):
            return f"the provider refuses this deployment's key (status {response.status_code})"
        return None

    async def _health(self, _: Request) -> Response:
        body = {"status": "ok" if self._trouble is None else "unavailable", "in_flight": self._in_flight}
        if self._trouble is not None:
            return JSONResponse(body | {"reason": self._trouble}, status_code=503)
        return JSONResponse(body)

    async def _metrics(self, _: Request) -> Response:
        counters = {
            "upstream:prompt_tokens_total": self._input_tokens,
            "upstream:tokens_predicted_total": self._output_tokens,
            "upstream:requests_processing": self._in_flight,
        }
        return PlainTextResponse("".join(f"{name} {value}\n" for name, value in counters.items()))

    async def _forward(self, request: Request) -> Response:
        try:
            body = orjson.loads(await read_body(request))
        except ValueError as error:
            return error_response(400, str(error))
        if not isinstance(body, dict):
            return error_response(400, "the body must be an object")
        is_stream = body.get("stream") is True
        wants_usage = False
        if is_stream:
            options = body.get("stream_options")
            options = options if isinstance(options, dict) else {}
            wants_usage = options.get("include_usage") is True
            # Always asked for: it is what our own counters, and whoever bills, go by.
            body["stream_options"] = options | {"include_usage": True}
        body["model"] = self._arguments.model
        path = request.url.path.removeprefix("/v1")
        return await unless_disconnected(request, self._ask(path, body, is_stream=is_stream, wants_usage=wants_usage))

    async def _ask(self, path: str, body: dict[str, Any], *, is_stream: bool, wants_usage: bool) -> Response:
        asked = self._client.build_request(
            "POST", f"{self._arguments.base_url}{path}", content=orjson.dumps(body), headers=self._headers
        )
        self._in_flight += 1
        is_handed_on = False
        try:
            answer = await self._client.send(asked, stream=True)
            try:
                if answer.status_code != 200:
                    return self._refusal(answer, await _read(answer, 64 * 1024))
                if is_stream:
                    is_handed_on = True
                    return StreamingResponse(
                        self._relay(answer, wants_usage=wants_usage), media_type="text/event-stream"
                    )
                whole = orjson.loads(await _read(answer, MAX_BODY_BYTES))
                whole["model"] = self._arguments.alias
                self._count(whole.get("usage"))
                return Response(orjson.dumps(whole), media_type="application/json")
            finally:
                if not is_handed_on:
                    await answer.aclose()
        except CloudcrestError as error:
            return error_response(502, error.message, kind="engine_error", code="upstream_error")
        except httpx2.TimeoutException:
            return error_response(
                502, "the provider did not answer in time", kind="engine_error", code="upstream_error"
            )
        except (httpx2.HTTPError, ValueError, TypeError) as error:
            message = f"the provider's answer could not be used ({type(error).__name__})"
            return error_response(502, message, kind="engine_error", code="upstream_error")
        finally:
            if not is_handed_on:
                self._in_flight -= 1

    async def _relay(self, answer: httpx2.Response, *, wants_usage: bool) -> AsyncIterator[bytes]:
        """The provider's events under our model name. A stream that breaks ends without `[DONE]`, so that it shows."""
        try:
            async for event in _events(answer):
                if event == b"[DONE]":
                    yield b"data: [DONE]\n\n"
                    return
                chunk = orjson.loads(event)
                if "model" in chunk:
                    chunk["model"] = self._arguments.alias
                if chunk.get("usage"):
                    self._count(chunk["usage"])
                    if not wants_usage and not chunk.get("choices"):
                        continue
                yield b"data: " + orjson.dumps(chunk) + b"\n\n"
        except (httpx2.HTTPError, ValueError, TypeError) as error:
            message = f"the provider's stream broke ({type(error).__name__})"
            body = {"error": {"message": message, "type": "engine_error", "param": None, "code": "upstream_error"}}
            yield b"data: " + orjson.dumps(body) + b"\n\n"
        finally:
            self._in_flight -= 1
            await answer.aclose()

    def _refusal(self, answer: httpx2.Response, body: bytes) -> Response:
        """The provider's error as the caller may see it: our model name, and whose fault it is."""
        status = answer.status_code
        message, code, param = _error_in(body)
        message = message.replace(self._arguments.model, self._arguments.alias)
        if status == 429:
            response = error_response(429, message or "the provider's rate limit is reached", kind="rate_limit_error")
            response.headers["retry-after"] = answer.headers.get("retry-after", "1")
            return response
        if status in (401, 403):
            self._trouble = f"the provider refuses this deployment's key (status {status})"
            return error_response(502, self._trouble, kind="engine_error", code="upstream_refused")
        if status in _PASSED_ON and status != 404:
            return error_response(status, message or f"the provider answered {status}", code=code, param=param)
        detail = f": {message}" if message else ""
        return error_response(
            502, f"the provider answered {status}{detail}", kind="engine_error", code="upstream_error"
        )

    def _count(self, usage: object) -> None:
        if isinstance(usage, dict):
            self._input_tokens += int(usage.get("prompt_tokens") or 0)
            self._output_tokens += int(usage.get("completion_tokens") or 0)


async def _read(answer: httpx2.Response, limit_bytes: int) -> bytes:
    """The whole body. Raises `ValueError` when it is over the limit."""
    parts = bytearray()
    async for part in answer.aiter_bytes():
        parts += part
        if len(parts) > limit_bytes:
            raise ValueError(f"over {limit_bytes} bytes")
    return bytes(parts)


async def _events(answer: httpx2.Response) -> AsyncIterator[bytes]:
    """The data of each server-sent event. Raises `ValueError` for one that does not end."""
    rest = b""
    async for part in answer.aiter_bytes():
        *lines, rest = (rest + part).split(b"\n")
        if len(rest) > _MAX_EVENT_BYTES:
            raise ValueError("an event is too long")
        for line in lines:
            if line.startswith(b"data:"):
                yield line[5:].strip()
    if rest.startswith(b"data:"):
        yield rest[5:].strip()


def _error_in(body: bytes) -> tuple[str, str | None, str | None]:
    """Message, code and param of an error in OpenAI's shape, as far as it has them."""
    try:
        error = orjson.loads(body)["error"]
        if isinstance(error, str):
            return error[:_MAX_MESSAGE_CHARACTERS], None, None
        message, code, param = error.get("message"), error.get("code"), error.get("param")
    except (ValueError, KeyError, TypeError, AttributeError):
        return "", None, None
    return (
        str(message or "")[:_MAX_MESSAGE_CHARACTERS],
        code if isinstance(code, str) else None,
        param if isinstance(param, str) else None,
    )


def _open_key(secrets_path: str | None) -> str | None:
    """The provider's key, opened with the master key of the secrets file."""
    sealed = os.environ.pop(SEALED_KEY_VARIABLE, None)
    if sealed is None or secrets_path is None:
        return None
    master_key = msgspec.json.decode(Path(secrets_path).read_bytes(), type=dict[str, str])["master_key"]
    return Sealer(master_key).open(sealed)


def main(argv: list[str]) -> None:
    """Serves until SIGTERM."""
    arguments = msgspec.json.decode(argv[1], type=UpstreamArguments)
    client = guarded_client(
        OutboundPolicy(arguments.outbound_allowed),
        timeout=httpx2.Timeout(_READ_SECONDS, connect=_CONNECT_SECONDS),
        limits=httpx2.Limits(max_connections=arguments.slots + 2),
    )
    replica = UpstreamReplica(arguments, client, _open_key(arguments.secrets_path))
    serve(replica.routes(), arguments.host, arguments.port, background=replica.watch)


if __name__ == "__main__":
    main(sys.argv)
