"""A chat completion's chunks as a response and its events, in the order and shape of OpenAI's stream. Pure.

created, in_progress, then for each item: output_item.added, its parts and deltas, their ends, output_item.done; at last
completed, incomplete or failed. `sequence_number` counts from 0.
"""

from collections.abc import Callable, Iterator
from typing import Any

import msgspec

from cloudcrest.content.responses.fields import ResponseBody

Event = dict[str, Any]


class _Function(msgspec.Struct):
    name: str | None = None
    arguments: str | None = None


class _Call(msgspec.Struct):
    index: int = 0
    id: str | None = None
    function: _Function = msgspec.field(default_factory=_Function)


class _Delta(msgspec.Struct):
    content: str | None = None
    reasoning_content: str | None = None
    refusal: str | None = None
    tool_calls: list[_Call] | None = None


class _Logprobs(msgspec.Struct):
    content: list[dict[str, Any]] | None = None


class _Choice(msgspec.Struct):
    delta: _Delta = msgspec.field(default_factory=_Delta)
    finish_reason: str | None = None
    logprobs: _Logprobs | None = None


class _Details(msgspec.Struct):
    """`cache_write_tokens` under the names that providers have for it."""

    cached_tokens: int | None = None
    cache_write_tokens: int | None = None
    cache_creation_tokens: int | None = None
    cache_creation_input_tokens: int | None = None
    reasoning_tokens: int | None = None


class _Usage(msgspec.Struct):
    prompt_tokens: int = 0
    completion_tokens: int = 0
    prompt_tokens_details: _Details | None = None
    completion_tokens_details: _Details | None = None


class Chunk(msgspec.Struct):
    """What is read of a `chat.completion.chunk`, or of an error in its place."""

    choices: list[_Choice] = []
    usage: _Usage | None = None
    error: dict[str, Any] | None = None


class _WholeChoice(msgspec.Struct):
    message: dict[str, Any] = {}
    finish_reason: str | None = None
    logprobs: _Logprobs | None = None


class _Whole(msgspec.Struct):
    choices: list[_WholeChoice] = []
    usage: _Usage | None = None


def chunk_of(completion: bytes) -> Chunk:
    """A whole chat completion as the one chunk that would have brought it. Raises `msgspec.DecodeError`."""
    whole = msgspec.json.decode(completion, type=_Whole)
    choices = []
    for choice in whole.choices:
        calls = [{"index": index, **call} for index, call in enumerate(choice.message.get("tool_calls") or ())]
        delta = msgspec.convert({**choice.message, "tool_calls": calls or None}, _Delta)
        choices.append(_Choice(delta, choice.finish_reason, choice.logprobs))
    return Chunk(choices, whole.usage)


class ResponseMaker:
    """One response on its way. `document` is what it is so far; `new_id` makes ids of its items."""

    def __init__(
        self, body: ResponseBody, response_id: str, created_at_seconds: int, new_id: Callable[[str], str]
    ) -> None:
        self.document = _blank(body, response_id, created_at_seconds)
        self.output: list[dict[str, Any]] = self.document["output"]
        self._new_id = new_id
        self._sequence = 0
        self._open: dict[str, Any] | None = None
        self._open_call = -1
        self._text: list[str] = []
        self._logprobs: list[dict[str, Any]] = []
        self._finish: str | None = None

    def begin(self) -> Iterator[Event]:
        """The first two events."""
        yield self._event("response.created", response=self._snapshot())
        yield self._event("response.in_progress", response=self._snapshot())

    def take(self, chunk: Chunk) -> Iterator[Event]:
        """What a chunk brings."""
        for choice in chunk.choices[:1]:
            delta = choice.delta
            if delta.reasoning_content:
                yield from self._say("reasoning", delta.reasoning_content)
            if delta.content or delta.refusal:
                logprobs = (choice.logprobs.content or []) if choice.logprobs is not None else []
                yield from self._say("message", delta.content or delta.refusal or "", logprobs)
            for call in delta.tool_calls or ():
                yield from self._call(call)
            self._finish = choice.finish_reason or self._finish
        if chunk.usage is not None:
            self.document["usage"] = _usage(chunk.usage)

    def end(self, completed_at_seconds: int) -> Iterator[Event]:
        """The stream of chunks is whole."""
        reasons = {"length": "max_output_tokens", "content_filter": "content_filter"}
        reason = reasons.get(self._finish or "")
        status = "completed" if reason is None else "incomplete"
        yield from self._close(status)
        self.document["status"] = status
        if reason is None:
            self.document["completed_at"] = completed_at_seconds
        else:
            self.document["incomplete_details"] = {"reason": reason}
        yield self._event(f"response.{status}", response=self._snapshot())

    def fail(self, code: str, message: str) -> Iterator[Event]:
        """It cannot go on."""
        yield from self._close("incomplete")
        self.document["status"] = "failed"
        self.document["error"] = {"code": code, "message": message}
        yield self._event("response.failed", response=self._snapshot())

    def _say(self, kind: str, text: str, logprobs: list[dict[str, Any]] | None = None) -> Iterator[Event]:
        if self._open is None or self._open["type"] != kind:
            yield from self._close("completed")
            yield from self._open_text(kind)
        self._text.append(text)
        self._logprobs += logprobs or []
        name = "response.output_text.delta" if kind == "message" else "response.reasoning_text.delta"
        more: dict[str, Any] = {"logprobs": logprobs or []} if kind == "message" else {}
        yield self._event(name, **self._place(), content_index=0, delta=text, **more)

    def _open_text(self, kind: str) -> Iterator[Event]:
        is_message = kind == "message"
        item: dict[str, Any] = {"id": self._new_id("msg" if is_message else "rs"), "type": kind}
        own: dict[str, Any] = {"role": "assistant"} if is_message else {"summary": []}
        item |= {"status": "in_progress", "content": [], **own}
        yield from self._add(item)
        part = _part(kind, "", [])
        yield self._event("response.content_part.added", **self._place(), content_index=0, part=part)

    def _call(self, call: _Call) -> Iterator[Event]:
        item = self._open
        if item is None or item["type"] != "function_call" or call.index != self._open_call:
            yield from self._close("completed")
            item = {"id": self._new_id("fc"), "type": "function_call", "status": "in_progress"}
            item |= {"call_id": call.id or self._new_id("call"), "name": call.function.name or "", "arguments": ""}
            self._open_call = call.index
            yield from self._add(item)
        if call.function.arguments:
            self._text.append(call.function.arguments)
            name = "response.function_call_arguments.delta"
            yield self._event(name, **self._place(), delta=call.function.arguments)

    def _add(self, item: dict[str, Any]) -> Iterator[Event]:
        self._open, self._text, self._logprobs = item, [], []
        self.output.append(item)
        yield self._event("response.output_item.added", output_index=len(self.output) - 1, item=_copy(item))

    def _close(self, status: str) -> Iterator[Event]:
        """Ends the item that is open."""
        item, self._open = self._open, None
        if item is None:
            return
        text = "".join(self._text)
        place = {"item_id": item["id"], "output_index": len(self.output) - 1}
        item["status"] = status
        if item["type"] == "function_call":
            item["arguments"] = text
            name = "response.function_call_arguments.done"
            yield self._event(name, **place, name=item["name"], arguments=text)
        else:
            part = _part(item["type"], text, self._logprobs)
            item["content"] = [part]
            is_message = item["type"] == "message"
            name = "response.output_text.done" if is_message else "response.reasoning_text.done"
            more: dict[str, Any] = {"logprobs": self._logprobs} if is_message else {}
            yield self._event(name, **place, content_index=0, text=text, **more)
            yield self._event("response.content_part.done", **place, content_index=0, part=part)
        yield self._event("response.output_item.done", output_index=len(self.output) - 1, item=_copy(item))

    def _place(self) -> dict[str, Any]:
        assert self._open is not None  # noqa: S101 - a delta is of the open item
        return {"item_id": self._open["id"], "output_index": len(self.output) - 1}

    def _event(self, kind: str, **fields: Any) -> Event:
        sequence, self._sequence = self._sequence, self._sequence + 1
        return {"type": kind, "sequence_number": sequence, **fields}

    def _snapshot(self) -> dict[str, Any]:
        return {**self.document, "output": [_copy(item) for item in self.output]}


def _part(kind: str, text: str, logprobs: list[dict[str, Any]]) -> dict[str, Any]:
    if kind == "message":
        return {"type": "output_text", "text": text, "annotations": [], "logprobs": logprobs}
    return {"type": "reasoning_text", "text": text}


def _copy(item: dict[str, Any]) -> dict[str, Any]:
    return {name: [*value] if isinstance(value, list) else value for name, value in item.items()}


def _usage(usage: _Usage) -> dict[str, Any]:
    inputs, outputs = usage.prompt_tokens_details or _Details(), usage.completion_tokens_details or _Details()
    written = inputs.cache_write_tokens or inputs.cache_creation_input_tokens or inputs.cache_creation_tokens
    return {
        "input_tokens": usage.prompt_tokens,
        "input_tokens_details": {"cached_tokens": inputs.cached_tokens or 0, "cache_write_tokens": written or 0},
        "output_tokens": usage.completion_tokens,
        "output_tokens_details": {"reasoning_tokens": outputs.reasoning_tokens or 0},
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
    }


def _blank(body: ResponseBody, response_id: str, created_at_seconds: int) -> dict[str, Any]:
    """A response of which there is nothing yet, with what was asked for."""
    written = body.text.format if body.text is not None else None
    return {
        "id": response_id,
        "object": "response",
        "created_at": created_at_seconds,
        "completed_at": None,
        "status": "in_progress",
        "background": body.background is True,
        "conversation": None if body.conversation_id is None else {"id": body.conversation_id},
        "error": None,
        "frequency_penalty": body.frequency_penalty or 0.0,
        "incomplete_details": None,
        "instructions": body.instructions,
        "max_output_tokens": body.max_output_tokens,
        "max_tool_calls": None,
        "model": body.model,
        "output": [],
        "parallel_tool_calls": body.parallel_tool_calls is not False,
        "presence_penalty": body.presence_penalty or 0.0,
        "previous_response_id": body.previous_response_id,
        "prompt_cache_key": body.prompt_cache_key,
        "reasoning": {
            "effort": body.reasoning.effort if body.reasoning is not None else None,
            "summary": None,
        },
        "safety_identifier": body.safety_identifier,
        "service_tier": "default",
        "store": body.store is not False,
        "temperature": 1.0 if body.temperature is None else body.temperature,
        "text": {
            "format": {"type": "text"} if written is None else msgspec.to_builtins(written),
            "verbosity": "medium",
        },
        "tool_choice": "auto" if body.tool_choice is None else msgspec.to_builtins(body.tool_choice),
        "tools": [_tool(msgspec.to_builtins(tool)) for tool in body.tools or ()],
        "top_logprobs": body.top_logprobs or 0,
        "top_p": 1.0 if body.top_p is None else body.top_p,
        "truncation": body.truncation or "disabled",
        "usage": None,
        "user": body.user,
        "metadata": body.metadata or {},
    }


def _tool(tool: dict[str, Any]) -> dict[str, Any]:
    """A tool with every field that OpenAI's has."""
    return {"description": None, "parameters": None, "strict": None, **tool}
