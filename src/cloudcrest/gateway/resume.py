"""Carrying a lost generation on elsewhere: what was said, whether and how it goes on, and what is sent for it. Pure.

A chat goes on as the same messages and a last one of the assistant with the text so far; a raw completion as prompt and
text. Only text of one choice can be carried on like that. `decide` says what to do, `next_body` what to send.
"""

from typing import Any

import msgspec

from cloudcrest.gateway.fields import TEXT_BODIES, ChatBody, CompletionBody, JsonObjectFormat, JsonSchemaFormat
from cloudcrest.gateway.parsed import Parsed
from cloudcrest.gateway.sse import event_data
from cloudcrest.gateway.validate import build
from cloudcrest.kernel.units import MIB
from cloudcrest.serving.api import EngineName

MAX_TEXT_CHARACTERS = 4 * MIB
IDENTITY_FIELDS = ("id", "object", "created", "model", "system_fingerprint")
GREEDY_TEMPERATURE = 1e-5
"""Below it vLLM leaves nothing to chance."""
_encode = msgspec.json.encode


class _Function(msgspec.Struct):
    name: str | None = None
    arguments: str | None = None


class _ToolCall(msgspec.Struct):
    function: _Function | None = None


class _Delta(msgspec.Struct):
    role: str | None = None
    content: str | None = None
    refusal: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    tool_calls: list[_ToolCall] | None = None


class _Choice(msgspec.Struct):
    index: int = 0
    delta: _Delta | None = None
    text: str | None = None
    finish_reason: str | None = None


class _Event(msgspec.Struct):
    choices: list[_Choice] = []


_event: msgspec.json.Decoder[_Event] = msgspec.json.Decoder(_Event)
_slices: msgspec.json.Decoder[dict[str, msgspec.Raw]] = msgspec.json.Decoder(dict[str, msgspec.Raw])


class Said:
    """What the events of one stream have told the client so far.

    `identity`: the first chunk's id, created and model as JSON. `text`: everything generated, of every kind and choice.
    `hindrance`: why it could not be carried on, as the end of a sentence; then `text` is good for counting only.
    """

    __slots__ = ("_length", "_parts", "finish_reason", "has_role", "hindrance", "identity")

    def __init__(self) -> None:
        self.identity: dict[str, bytes] = {}
        self.has_role = False
        self.finish_reason: str | None = None
        self.hindrance: str | None = None
        self._parts: list[str] = []
        self._length = 0

    @property
    def text(self) -> str:
        return "".join(self._parts)

    def add(self, event: bytes) -> None:
        """Takes in one event; what is no chunk is passed over."""
        data = event_data(event)
        if not data.startswith(b"{"):
            return
        try:
            choices = _event.decode(data).choices
            if not self.identity:
                fields = _slices.decode(data)
                self.identity = {name: bytes(fields[name]) for name in IDENTITY_FIELDS if name in fields}
        except (ValueError, RecursionError):  # no JSON, no UTF-8, or no chunk
            self.hindrance = "a part of it could not be read"
            return
        for choice in choices:
            self._add(choice)

    def _add(self, choice: _Choice) -> None:
        if choice.index != 0:
            self.hindrance = "it has several choices"
        self.finish_reason = choice.finish_reason or self.finish_reason
        self._say(choice.text)
        delta = choice.delta
        if delta is None:
            return
        self.has_role = self.has_role or delta.role is not None
        if delta.reasoning_content or delta.reasoning:
            self.hindrance = "the model was thinking aloud"
        if delta.tool_calls:
            self.hindrance = "it had begun a tool call"
        if delta.refusal:
            self.hindrance = "it is a refusal"
        self._say(delta.reasoning_content)
        self._say(delta.reasoning)
        self._say(delta.refusal)
        self._say(delta.content)
        for call in delta.tool_calls or ():
            if call.function is not None:
                self._say(call.function.name)
                self._say(call.function.arguments)

    def _say(self, text: str | None) -> None:
        if not text:
            return
        if self._length > MAX_TEXT_CHARACTERS:
            self.hindrance = "it is too long"
            return
        self._parts.append(text)
        self._length += len(text)


class Restart(msgspec.Struct, frozen=True):
    """Nothing of the text is out: the same request from the start."""


class Repeat(msgspec.Struct, frozen=True):
    """The same request from the start, for an answer that begins with `text` again: only what follows goes out."""

    text: str


class Continue(msgspec.Struct, frozen=True):
    """The generation goes on after `text`."""

    text: str


class Finish(msgspec.Struct, frozen=True):
    """All of it is out but its end. `reason`: the finish_reason that is still to be said, None where it was."""

    text: str
    reason: str | None = None


class Impossible(msgspec.Struct, frozen=True):
    """It cannot go on. `why`: the end of a sentence."""

    why: str


Decision = Restart | Repeat | Continue | Finish | Impossible


def decide(said: Said, parsed: Parsed, engine: EngineName) -> Decision:
    """What becomes of a stream that lost its replica after the client was told `said`."""
    text = said.text
    if said.finish_reason is not None and parsed.choices == 1:
        return Finish(text)
    if said.hindrance is not None:
        return Impossible(said.hindrance)
    if not text:
        return Restart()
    body = parsed.body
    if not isinstance(body, TEXT_BODIES):
        return Impossible("it has no text")
    if parsed.choices > 1 or len(parsed.prompts) > 1:
        return Impossible("it has several choices")
    if body.logprobs:
        return Impossible("its logprobs cannot be carried on")
    if engine == "upstream":
        return Impossible("its provider cannot carry an answer on")
    if isinstance(body, ChatBody):
        last = body.messages[-1]
        if engine != "vllm" and last.role == "assistant" and (last.tool_calls or last.refusal is not None):
            return Impossible("the conversation ends with a tool call")
        if engine == "vllm" and isinstance(body.response_format, JsonObjectFormat | JsonSchemaFormat):
            # Its grammar would start anew after the text so far, which breaks the JSON.
            if body.seed is None and (body.temperature is None or body.temperature >= GREEDY_TEMPERATURE):
                return Impossible("this engine makes structured output again only with temperature 0 or a seed")
            return Repeat(text)
    return Continue(text)


def tokens_left(body: bytes, said_tokens: int) -> int | None:
    """How much of the limit in a request's body is left after so many tokens; None where it has no limit."""
    limit = _slices.decode(body).get("max_tokens")
    return None if limit is None else max(0, msgspec.json.decode(limit, type=int) - said_tokens)


def next_body(
    body: bytes, parsed: Parsed, engine: EngineName, text: str, *, text_tokens: list[int], left: int | None
) -> bytes:
    """The body that has an engine go on after `text`, which is `text_tokens`, for at most `left` tokens."""
    fields = {name: bytes(raw) for name, raw in _slices.decode(body).items()}
    if left is not None:
        fields["max_tokens"] = b"%d" % left
    if parsed.kind is CompletionBody:
        fields["prompt"] = _longer_prompt(parsed.prompts[0], text, text_tokens)
        return build(fields)
    messages: list[Any] = msgspec.json.decode(fields["messages"])
    if engine == "vllm":
        fields["add_generation_prompt"] = b"false"
        fields["continue_final_message"] = b"true"
    elif messages[-1]["role"] == "assistant":
        # The caller had begun the answer, and the engine goes on after its last message: there is to be only one.
        text = _content_text(messages.pop().get("content")) + text
    fields["messages"] = _encode([*messages, {"role": "assistant", "content": text}])
    return build(fields)


def _longer_prompt(prompt: bytes, text: str, text_tokens: list[int]) -> bytes:
    value = msgspec.json.decode(prompt)
    return _encode(value + text) if isinstance(value, str) else _encode([*value, *text_tokens])


def _content_text(content: str | list[dict[str, str]] | None) -> str:
    if isinstance(content, list):
        return "".join(part.get("text", "") for part in content)
    return content or ""
