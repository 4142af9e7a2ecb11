"""A canonical stream as Anthropic's events. Pure; any split of the stream gives the same events.

    message_start, ping
    content_block_start, content_block_delta …, content_block_stop      for each block, one after the other
    message_delta (why it ended, and the usage), message_stop           or: error

How much was read is known only at the end: `message_start` says 0, `message_delta` the truth, which clients take over.
"""

from typing import Any

import msgspec

from cloudcrest.gateway.dialects.anthropic.answer import (
    NOTHING,
    About,
    Call,
    Canonical,
    Choice,
    Function,
    Said,
    call_id,
    canonical,
    ending,
    head,
    usage,
    whole,
)
from cloudcrest.gateway.dialects.anthropic.errors import error_document
from cloudcrest.gateway.sse import event_data, to_usage
from cloudcrest.kernel.errors import CloudcrestError, EngineFault

_encode = msgspec.json.encode
_DELTAS = {"text": ("text_delta", "text"), "thinking": ("thinking_delta", "thinking")}
_UNREADABLE = "the model's engine wrote a stream that cannot be read"


class MessageOutlet:
    """The outlet of one answer. Blocks are written one after the other, as their parts come."""

    def __init__(self, request_id: str, about: About) -> None:
        self.is_over = False
        self._request_id = request_id
        self._about = about
        self._has_begun = False
        self._open = ""
        self._blocks = 0
        self._calls: list[int] = []
        self._ending: Choice | None = None
        self._is_refusal = False
        self._usage = NOTHING

    def answer(self, body: bytes) -> bytes:
        return whole(body, self._request_id, self._about)

    def events(self, events: bytes) -> bytes:
        return b"".join(map(self._event, events.replace(b"\r\n", b"\n").split(b"\n\n")))

    def end(self) -> bytes:
        if self.is_over:
            return b""
        self.is_over = True
        choice = self._ending or Choice()
        reason, sequence = ending(choice.finish_reason, choice.stop_reason, self._about, has_calls=bool(self._calls))
        delta = {"stop_reason": "refusal" if self._is_refusal else reason, "stop_sequence": sequence}
        said = {"type": "message_delta", "delta": delta, "usage": usage(self._usage)}
        return self._begin(None) + self._close() + _event(said) + _event({"type": "message_stop"})

    def error(self, error: CloudcrestError) -> bytes:
        self.is_over = True
        return b"event: error\ndata: " + error_document(error, self._request_id) + b"\n\n"

    def _event(self, event: bytes) -> bytes:
        data = event_data(event)
        if self.is_over or not data.startswith(b"{"):
            return b""
        try:
            chunk = canonical.decode(data)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return self.error(EngineFault(_UNREADABLE))
        if chunk.usage is not None:
            self._usage = to_usage(chunk.usage)
        out = self._begin(chunk)
        for choice in chunk.choices:
            if choice.delta is not None and not self.is_over:
                out += self._said(choice.delta)
            if choice.finish_reason is not None and not self.is_over:
                self._ending = choice
                out += self._close()
        return out

    def _begin(self, chunk: Canonical | None) -> bytes:
        if self._has_begun:
            return b""
        self._has_begun = True
        model = (chunk.model if chunk is not None else None) or self._about.model
        message = {**head(self._request_id, model), "usage": usage(NOTHING)}
        return _event({"type": "message_start", "message": message}) + _event({"type": "ping"})

    def _said(self, delta: Said) -> bytes:
        out = b""
        thought = delta.reasoning_content or delta.reasoning
        if thought and self._about.shows_thinking:
            out += self._text("thinking", "" if self._about.omits_thought else thought)
        if delta.content:
            out += self._text("text", delta.content)
        if delta.refusal:
            self._is_refusal = True
            out += self._text("text", delta.refusal)
        for call in delta.tool_calls or ():
            if not self.is_over:
                out += self._call(call)
        return out

    def _text(self, kind: str, text: str) -> bytes:
        out = b""
        if self._open != kind:
            block = {"type": kind, kind: ""}
            out = self._start(kind, block | {"signature": ""} if kind == "thinking" else block)
        name, field = _DELTAS[kind]
        return out + self._delta({"type": name, field: text}) if text else out

    def _call(self, call: Call) -> bytes:
        """A part of a call. An engine writes one call after the other; what comes for an earlier one is no stream."""
        function = call.function or Function()
        out = b""
        if not self._calls or self._calls[-1] != call.index or not self._open.startswith("call"):
            if call.index in self._calls:
                return self.error(EngineFault(_UNREADABLE))
            self._calls.append(call.index)
            at = len(self._calls) - 1
            made = {"id": call_id(call, self._request_id, at), "name": function.name or "", "input": {}}
            out = self._start(f"call {at}", {"type": "tool_use", **made})
        if function.arguments:
            out += self._delta({"type": "input_json_delta", "partial_json": function.arguments})
        return out

    def _start(self, kind: str, block: dict[str, Any]) -> bytes:
        out = self._close()
        self._open = kind
        return out + _event({"type": "content_block_start", "index": self._blocks, "content_block": block})

    def _delta(self, delta: dict[str, Any]) -> bytes:
        return _event({"type": "content_block_delta", "index": self._blocks, "delta": delta})

    def _close(self) -> bytes:
        if not self._open:
            return b""
        self._open = ""
        self._blocks += 1
        return _event({"type": "content_block_stop", "index": self._blocks - 1})


def _event(body: dict[str, Any]) -> bytes:
    kind: str = body["type"]
    return b"event: " + kind.encode() + b"\ndata: " + _encode(body) + b"\n\n"
