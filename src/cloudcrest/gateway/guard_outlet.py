"""The guard of an answer on its way out: an outlet (outlet.py) that lets text go as far as nothing can be found in it.

Each choice has its texts: content, reasoning, refusal, and the arguments of each tool call. Where one follows another,
the one before is whole. A block ends its choice with finish_reason "content_filter"; what went out stays out. When all
choices are blocked the stream is over, unless its client asked for usage: then the engine says it at its end.
"""

from collections.abc import Callable, Iterator
from typing import Any

import msgspec

from cloudcrest.gateway.errors import error_event
from cloudcrest.gateway.sse import event_data
from cloudcrest.governance.api import Actions, Detector, Findings, Guard, Placeholders
from cloudcrest.kernel.errors import CloudcrestError

_DONE = b"data: [DONE]\n\n"
_TEXTS = ("reasoning_content", "reasoning", "content", "refusal")
_BLOCKED = "content_filter"
_MALFORMED = (KeyError, TypeError, AttributeError)
"""What an engine writes that cannot be looked into does not go out."""
_encode = msgspec.json.encode


class _Choice:
    """What is held back of one choice. `field`: which text is being written, a tool call by its index."""

    def __init__(self) -> None:
        self.guard: Guard | None = None
        self.field: str | int = ""
        self._is_blocked = False

    def ended_by(self, guard: Guard) -> None:
        self._is_blocked = guard.is_blocked

    def is_blocked(self) -> bool:
        return self._is_blocked


class GuardOutlet:
    """Of one answer. `told` is called when something was found. `is_json`: its content is JSON, and stays so."""

    def __init__(
        self,
        actions: Actions,
        detectors: tuple[Detector, ...],
        placeholders: Placeholders,
        findings: Findings,
        told: Callable[[], None],
        *,
        wants_usage: bool,
        choices: int,
        is_json: bool,
    ) -> None:
        self._actions = actions
        self._detectors = detectors
        self._placeholders = placeholders
        self._findings = findings
        self._told = told
        self._wants_usage = wants_usage
        self._expected = choices
        self._is_json = is_json
        self._choices: dict[int, _Choice] = {}
        self.is_over = False

    def answer(self, body: bytes) -> bytes:
        answer = _completion(body)
        if answer is None:
            return body
        try:
            for choice in answer["choices"]:
                self._whole(choice)
        except _MALFORMED:
            answer["choices"] = []
        self._tell()
        return _encode(answer)

    def events(self, events: bytes) -> bytes:
        if self.is_over:
            return b""
        out = b"".join(map(self._event, events.replace(b"\r\n", b"\n").split(b"\n\n")))
        self._tell()
        if self._is_all_blocked() and not self._wants_usage:
            self.is_over = True
            out += _DONE
        return out

    def end(self) -> bytes:
        return b""

    def error(self, error: CloudcrestError) -> bytes:
        """What was held back is not known to be clear, so it stays back."""
        return error_event(error)

    # whole answers

    def _whole(self, choice: dict[str, Any]) -> None:
        if "message" in choice:
            choice["message"] = _known(choice["message"])
        message = choice.get("message", choice)
        is_blocked = False
        for field in ("text", *_TEXTS):
            text = message.get(field)
            if isinstance(text, str):
                guard = self._guard(field)
                message[field] = "" if is_blocked else guard.whole(text)  # what would come after a block does not
                is_blocked = is_blocked or guard.is_blocked
        if is_blocked:
            choice["finish_reason"] = _BLOCKED
            message.pop("tool_calls", None)
            return
        for call in message.get("tool_calls") or ():
            guard = self._guard(0)
            call["function"]["arguments"] = guard.whole(call["function"]["arguments"])
            if guard.is_blocked:
                choice["finish_reason"] = _BLOCKED
                message.pop("tool_calls")
                return

    # streams

    def _event(self, event: bytes) -> bytes:
        text = event_data(event)
        if not text or text == b"[DONE]":
            return event + b"\n\n" if event.strip() else b""
        chunk = _completion(text)
        if chunk is None:
            return event + b"\n\n"
        out: list[dict[str, Any] | None]
        try:
            out = [piece for choice in chunk["choices"] for piece in self._pieces(choice)]
        except _MALFORMED:
            out = []
        if chunk.get("usage") is not None and not out:
            out = [None]
        return b"".join(
            b"data: " + _encode(chunk | {"choices": [] if piece is None else [piece]}) + b"\n\n" for piece in out
        )

    def _pieces(self, choice: dict[str, Any]) -> Iterator[dict[str, Any] | None]:
        """What goes out of a choice's part of a chunk, in as many parts as it takes."""
        state = self._choices.setdefault(choice.get("index", 0), _Choice())
        if state.is_blocked():
            return
        for part in self._parts(choice, state):
            yield part
            if state.is_blocked():
                yield {**_bare(choice), "finish_reason": _BLOCKED}
                return

    def _parts(self, choice: dict[str, Any], state: _Choice) -> Iterator[dict[str, Any]]:
        finish = choice.get("finish_reason")
        if "delta" not in choice:  # a raw completion
            text = self._feed(state, "text", choice.get("text") or "")
            if finish is not None and not state.is_blocked():
                text += self._end(state)
            if text or finish is not None or state.is_blocked():
                yield {**_bare(choice), "text": text, "finish_reason": None if state.is_blocked() else finish}
            return
        delta = _known(choice["delta"])
        calls = delta.pop("tool_calls", None) or ()
        texts = {name: delta.pop(name) for name in _TEXTS if isinstance(delta.get(name), str)}
        if delta:  # the role, and what else holds no text
            yield _part(choice, delta | {name: "" for name, text in texts.items() if not text})
        for name, text in texts.items():
            yield from self._field(choice, state, name, text)
        for call in calls:
            yield from self._call(choice, state, call)
        if finish is not None and not state.is_blocked():
            yield from self._flushed(choice, state)
            if not state.is_blocked():
                yield {**_bare(choice), "finish_reason": finish}

    def _call(self, choice: dict[str, Any], state: _Choice, call: dict[str, Any]) -> Iterator[dict[str, Any]]:
        if state.is_blocked():
            return
        index, function = call.get("index", 0), dict(call.get("function") or {})
        arguments = function.pop("arguments", None) or ""
        if state.field != index:
            yield from self._flushed(choice, state)
        if call.get("id") or function:
            begun: dict[str, Any] = {name: call[name] for name in ("index", "id", "type") if name in call}
            begun["function"] = {"name": function["name"], "arguments": ""} if "name" in function else {"arguments": ""}
            yield _part(choice, {"tool_calls": [begun]})
        yield from self._field(choice, state, index, arguments)

    def _field(self, choice: dict[str, Any], state: _Choice, field: str | int, text: str) -> Iterator[dict[str, Any]]:
        if state.is_blocked():
            return
        if state.field != field:
            yield from self._flushed(choice, state)
            if state.is_blocked():
                return
        said = self._feed(state, field, text)
        if said or state.is_blocked():
            yield _part(choice, _said(field, said))

    def _flushed(self, choice: dict[str, Any], state: _Choice) -> Iterator[dict[str, Any]]:
        """The text before is whole: what was held back of it."""
        field, said = state.field, self._end(state)
        if said or state.is_blocked():
            yield _part(choice, _said(field, said))

    def _feed(self, state: _Choice, field: str | int, text: str) -> str:
        if state.guard is None:
            state.guard, state.field = self._guard(field), field
        said = state.guard.feed(text)
        state.ended_by(state.guard)
        return said

    def _end(self, state: _Choice) -> str:
        guard, state.guard = state.guard, None
        if guard is None:
            return ""
        said = guard.end()
        state.ended_by(guard)
        return said

    # both

    def _guard(self, field: str | int) -> Guard:
        is_json = isinstance(field, int) or (self._is_json and field == "content")
        return Guard(self._actions, self._detectors, self._placeholders, self._findings, is_json=is_json)

    def _is_all_blocked(self) -> bool:
        blocked = sum(choice.is_blocked() for choice in self._choices.values())
        return blocked >= self._expected

    def _tell(self) -> None:
        if self._findings.counts:
            self._told()


def _completion(data: bytes) -> dict[str, Any] | None:
    """What has choices; None: an error, say, which has no text of a model."""
    try:
        found = msgspec.json.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
    return found if isinstance(found, dict) and isinstance(found.get("choices"), list) else None


def _known(message: dict[str, Any]) -> dict[str, Any]:
    """A message or delta without fields that are not looked into here, but for empty ones."""
    return {
        name: value
        for name, value in message.items()
        if not value or (isinstance(value, str) if name in _TEXTS else name in ("role", "tool_calls"))
    }


def _bare(choice: dict[str, Any]) -> dict[str, Any]:
    empty: dict[str, Any] = {"delta": {}} if "delta" in choice else {"text": ""}
    return {"index": choice.get("index", 0), **empty}


def _part(choice: dict[str, Any], delta: dict[str, Any]) -> dict[str, Any]:
    return {"index": choice.get("index", 0), "delta": delta, "finish_reason": None}


def _said(field: str | int, said: str) -> dict[str, Any]:
    """The delta that says this of a text, or of a tool call's arguments."""
    if not said:
        return {}
    return (
        {field: said} if isinstance(field, str) else {"tool_calls": [{"index": field, "function": {"arguments": said}}]}
    )
