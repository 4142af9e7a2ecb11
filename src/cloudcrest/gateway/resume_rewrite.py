"""A resumed stream's events as parts of the first one: same id, one role, no usage of its own. Pure.

Also `Repetition`, for an answer that is made again from its start, and `ToolHold`, which keeps a tool call back until
it is whole: half of one cannot be carried on elsewhere.
"""

import re
from typing import Any

import msgspec

from cloudcrest.gateway.sse import event_data
from cloudcrest.gateway.validate import build
from cloudcrest.kernel.units import MIB
from cloudcrest.kernel.usage import Usage

DONE = b"data: [DONE]\n\n"
MAX_HELD_BYTES = 4 * MIB
_NEVER_PASSED = ("usage", "timings")
_TOOL_CALL = re.compile(rb'"tool_calls"\s*:\s*\[\s*\{')
_FINISH = re.compile(rb'"finish_reason"\s*:\s*"')
_slices: msgspec.json.Decoder[dict[str, msgspec.Raw]] = msgspec.json.Decoder(dict[str, msgspec.Raw])


class Rewriter:
    """Fed the whole events of a resumed stream; gives them back under `identity` (JSON slices by name).

    An empty identity takes over the first chunk's. `has_role`: the client knows the role, so it is not told again.
    `[DONE]` is dropped: whoever relays adds the end.
    """

    def __init__(self, identity: dict[str, bytes], *, has_role: bool) -> None:
        self.identity = identity
        self._has_role = has_role

    def feed(self, events: bytes) -> bytes:
        """The same events, rewritten; empty where none of them is for the client."""
        return b"".join(map(self._rewritten, events.replace(b"\r\n", b"\n").split(b"\n\n")))

    def _rewritten(self, event: bytes) -> bytes:
        data = event_data(event)
        if not data.startswith(b"{"):
            return b""
        try:
            fields = {name: bytes(raw) for name, raw in _slices.decode(data).items() if name not in _NEVER_PASSED}
        except (ValueError, RecursionError):  # no JSON or no UTF-8
            return b""
        choices = fields.get("choices")
        if choices is None:
            return b""
        if not self.identity:
            self.identity = {name: raw for name, raw in fields.items() if name != "choices"}
        if b'"role"' in choices:
            if self._has_role:
                choices = _without_role(choices)
                if choices is None:
                    return b""
                fields["choices"] = choices
            self._has_role = True
        return event_of(fields | self.identity)


def event_of(fields: dict[str, bytes]) -> bytes:
    """One event with a JSON object of these slices."""
    return b"data: " + build(fields) + b"\n\n"


def finish_event(identity: dict[str, bytes], reason: str, *, is_chat: bool) -> bytes:
    """The chunk that ends the only choice."""
    content: dict[str, object] = {"delta": {}} if is_chat else {"text": ""}
    return event_of(identity | {"choices": msgspec.json.encode([{"index": 0, **content, "finish_reason": reason}])})


def usage_event(identity: dict[str, bytes], usage: Usage) -> bytes:
    """The chunk with the usage of the whole answer."""
    return event_of(identity | {"choices": b"[]", "usage": msgspec.json.encode(usage_object(usage))})


def usage_object(usage: Usage) -> dict[str, Any]:
    """Usage as an answer carries it."""
    details = {"cached_tokens": usage.cached_input_tokens}
    if usage.cache_write_tokens:
        details["cache_write_tokens"] = usage.cache_write_tokens
    said: dict[str, Any] = {
        "prompt_tokens": usage.input_tokens,
        "completion_tokens": usage.output_tokens,
        "total_tokens": usage.input_tokens + usage.output_tokens,
        "prompt_tokens_details": details,
    }
    if usage.reasoning_tokens:
        said["completion_tokens_details"] = {"reasoning_tokens": usage.reasoning_tokens}
    return said


def _without_role(choices: bytes) -> bytes | None:
    """The choices without the role; None where nothing else is said, or nothing that a client could read."""
    try:
        decoded = msgspec.json.decode(choices)
        for choice in decoded:
            choice["delta"].pop("role", None)
        is_empty = all(not any(choice["delta"].values()) and not choice.get("finish_reason") for choice in decoded)
    except ValueError:  # no JSON or no UTF-8
        return None
    except (KeyError, TypeError, AttributeError, RecursionError):
        return choices
    return None if is_empty else msgspec.json.encode(decoded)


class Repetition:
    """Takes `text`, which the client was told already, out of a stream that is made again from its start.

    `is_other`: the stream does not begin with it.
    """

    __slots__ = ("_left", "is_other")

    def __init__(self, text: str) -> None:
        self._left = text
        self.is_other = False

    def feed(self, events: bytes) -> bytes:
        """What is new in whole events of a `Rewriter`."""
        if not self._left:
            return events
        return b"".join(map(self._new, filter(None, events.split(b"\n\n"))))

    def _new(self, event: bytes) -> bytes:
        if not self._left:
            return event + b"\n\n"
        try:
            chunk: dict[str, Any] = msgspec.json.decode(event_data(event))
            (choice,) = chunk["choices"]
            text, finish = choice["delta"].get("content") or "", choice.get("finish_reason")
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            self.is_other = True
            return b""
        known = min(len(text), len(self._left))
        self.is_other = (
            self.is_other or not self._left.startswith(text[:known]) or (bool(finish) and known < len(self._left))
        )
        self._left = self._left[known:]
        if self.is_other or (known == len(text) and not finish):
            return b""
        choice["delta"]["content"] = text[known:]
        return b"data: " + msgspec.json.encode(chunk) + b"\n\n"


class ToolHold:
    """Lets events pass until a tool call begins, and holds them until the choice is finished.

    More than `MAX_HELD_BYTES` are let go unfinished: then the call cannot be made again elsewhere.
    """

    __slots__ = ("_held", "_held_bytes")

    def __init__(self) -> None:
        self._held: list[bytes] = []
        self._held_bytes = 0

    def feed(self, events: bytes) -> bytes:
        """Whole events that may go out now."""
        passed = b""
        if not self._held:
            match = _TOOL_CALL.search(events)
            if match is None:
                return events
            start = _event_start(events, match.start())
            passed, events = events[:start], events[start:]
        self._held.append(events)
        self._held_bytes += len(events)
        if _FINISH.search(events) is not None or self._held_bytes > MAX_HELD_BYTES:
            passed += self.release()
        return passed

    def release(self) -> bytes:
        """All that is held."""
        held, self._held, self._held_bytes = self._held, [], 0
        return b"".join(held)

    def drop(self) -> None:
        """Forgets what is held: its replica is lost, and it will be generated again."""
        self.release()


def _event_start(events: bytes, position: int) -> int:
    bare, full = events.rfind(b"\n\n", 0, position), events.rfind(b"\r\n\r\n", 0, position)
    return max(bare + 2 if bare >= 0 else 0, full + 4 if full >= 0 else 0)
