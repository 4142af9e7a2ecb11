"""A canonical answer as one of Anthropic's messages: whole, and what streams (stream.py) are made of. Pure."""

from collections.abc import Sequence
from typing import Any

import msgspec

from cloudcrest.gateway.dialects.anthropic.errors import error_document
from cloudcrest.gateway.engine_words import UsageBody
from cloudcrest.gateway.sse import to_usage
from cloudcrest.kernel.errors import EngineFault
from cloudcrest.kernel.usage import Usage

Block = dict[str, Any]
_REASONS = {
    "stop": "end_turn",
    "length": "max_tokens",
    "tool_calls": "tool_use",
    "function_call": "tool_use",
    "content_filter": "refusal",
}
NOTHING = Usage(0, 0)
INVALID_JSON = "INVALID_JSON"
"""What Anthropic calls a tool's input that is no JSON object, where it has to be told in one."""


class Function(msgspec.Struct):
    name: str | None = None
    arguments: str | None = None


class Call(msgspec.Struct):
    index: int = 0
    id: str | None = None
    function: Function | None = None


class Said(msgspec.Struct):
    """A message or a delta of one."""

    content: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    refusal: str | None = None
    tool_calls: list[Call] | None = None


class Choice(msgspec.Struct):
    """`stop_reason`: on vLLM the text, or the token, that ended it."""

    message: Said | None = None
    delta: Said | None = None
    finish_reason: str | None = None
    stop_reason: str | int | None = None


class Canonical(msgspec.Struct):
    """A whole answer or a chunk of one, as far as it is told."""

    model: str | None = None
    choices: list[Choice] = []
    usage: UsageBody | None = None


canonical: msgspec.json.Decoder[Canonical] = msgspec.json.Decoder(Canonical)


class About(msgspec.Struct, frozen=True):
    """What is known of an answer before it comes.

    `stop_sequences`: the caller's. `shows_thinking`: whether the caller asked to be told what the model thinks;
    `omits_thought`: then only that it does. `begun`: how the caller has begun the answer, which llama.cpp says again in
    whole answers, and the caller is not told again.
    """

    model: str
    stop_sequences: tuple[str, ...] = ()
    shows_thinking: bool = False
    omits_thought: bool = False
    begun: str = ""


def message_id(request_id: str) -> str:
    """`msg_…` of the same request as `req_…`."""
    return "msg_" + request_id.removeprefix("req_")


def whole(body: bytes, request_id: str, about: About) -> bytes:
    """A whole answer."""
    try:
        answer = canonical.decode(body)
        said = answer.choices[0].message or Said()
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, IndexError):
        return error_document(EngineFault("the model's engine gave no answer that could be read"), request_id)
    choice = answer.choices[0]
    reason, sequence = ending(choice.finish_reason, choice.stop_reason, about, has_calls=bool(said.tool_calls))
    if said.refusal:
        reason = "refusal"
    message = {
        **head(request_id, answer.model or about.model),
        "content": _blocks(said, request_id, about),
        "stop_reason": reason,
        "stop_sequence": sequence,
        "usage": usage(to_usage(answer.usage) if answer.usage is not None else NOTHING),
    }
    return msgspec.json.encode(message)


def head(request_id: str, model: str) -> dict[str, Any]:
    """The fields of a message that has said nothing yet."""
    return {
        "id": message_id(request_id),
        "type": "message",
        "role": "assistant",
        "model": model,
        "content": [],
        "stop_reason": None,
        "stop_sequence": None,
    }


def ending(
    finish_reason: str | None, stop_reason: str | int | None, about: About, *, has_calls: bool
) -> tuple[str, str | None]:
    """(stop_reason, stop_sequence). Which of several sequences it was is known only where the engine says so."""
    if finish_reason == "stop" and stop_reason in about.stop_sequences:
        return "stop_sequence", str(stop_reason)
    if has_calls and finish_reason in (None, "stop"):
        return "tool_use", None
    return _REASONS.get(finish_reason or "stop", "end_turn"), None


def usage(counted: Usage) -> dict[str, Any]:
    """Token counts. What was read from a cache or written into one is no part of `input_tokens`, as it is elsewhere."""
    counts: dict[str, Any] = {
        "input_tokens": counted.input_tokens - counted.cached_input_tokens - counted.cache_write_tokens,
        "cache_creation_input_tokens": counted.cache_write_tokens,
        "cache_read_input_tokens": counted.cached_input_tokens,
        "output_tokens": counted.output_tokens,
    }
    if counted.reasoning_tokens:
        counts["output_tokens_details"] = {"thinking_tokens": counted.reasoning_tokens}
    return counts


def call_id(call: Call, request_id: str, at: int) -> str:
    """The engine's id of a call, or one made of the request's."""
    return call.id or f"toolu_{request_id.removeprefix('req_')}_{at}"


def tool_input(arguments: str | None) -> dict[str, Any]:
    """A call's arguments as an object, whatever the model wrote."""
    if not arguments or not arguments.strip():
        return {}
    try:
        return msgspec.json.decode(arguments, type=dict[str, Any])
    except (msgspec.DecodeError, RecursionError):
        return {INVALID_JSON: arguments}


def _blocks(said: Said, request_id: str, about: About) -> list[Block]:
    blocks: list[Block] = []
    thought = said.reasoning_content or said.reasoning
    if thought and about.shows_thinking:
        blocks.append({"type": "thinking", "thinking": "" if about.omits_thought else thought, "signature": ""})
    text = (said.content or "").removeprefix(about.begun) + (said.refusal or "")
    if text:
        blocks.append({"type": "text", "text": text})
    blocks += _calls(said.tool_calls or (), request_id)
    return blocks


def _calls(calls: Sequence[Call], request_id: str) -> list[Block]:
    blocks = []
    for at, call in enumerate(calls):
        function = call.function or Function()
        name, given = function.name or "", tool_input(function.arguments)
        blocks.append({"type": "tool_use", "id": call_id(call, request_id, at), "name": name, "input": given})
    return blocks
