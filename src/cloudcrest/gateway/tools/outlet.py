"""Turns the text of an answer into tool calls, whole or streamed: what a `Finder` finds, or the one that was forced."""

from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from cloudcrest.gateway.errors import error_event
from cloudcrest.gateway.sse import event_data
from cloudcrest.gateway.tools.finder import Finder
from cloudcrest.gateway.tools.forced import ForcedCall
from cloudcrest.gateway.tools.formats import Call, Form, Schemas
from cloudcrest.kernel.errors import CloudcrestError

Deltas = list[dict[str, Any]]
_FINISHES = ("stop", "tool_calls")


class _Calls:
    """The calls of one choice so far, with ids of their own."""

    def __init__(self, prefix: str) -> None:
        self._prefix = prefix
        self.made = 0

    def new(self, name: str, arguments: str) -> dict[str, Any]:
        index, self.made = self.made, self.made + 1
        function = {"name": name, "arguments": arguments}
        return {"index": index, "id": f"{self._prefix}_{index}", "type": "function", "function": function}


class FoundCalls:
    """A choice's text in which calls are looked for. `most`: how many of them go out."""

    def __init__(self, forms: Sequence[Form], schemas: Schemas, prefix: str, *, most: int | None) -> None:
        self._finder = Finder(forms, schemas)
        self._calls = _Calls(prefix)
        self._most = most

    @property
    def has_called(self) -> bool:
        return self._calls.made > 0

    def feed(self, text: str) -> Deltas:
        return self._deltas(self._finder.feed(text))

    def end(self) -> Deltas:
        return self._deltas(self._finder.end())

    def _deltas(self, pieces: Sequence[str | Call]) -> Deltas:
        deltas: Deltas = []
        for piece in pieces:
            if isinstance(piece, str):
                deltas.append({"content": piece})
            elif self._most is None or self._calls.made < self._most:
                deltas.append({"tool_calls": [self._calls.new(piece.name, piece.arguments)]})
        return deltas


class MadeCall:
    """A choice's text that is one call."""

    def __init__(self, prefix: str) -> None:
        self._call = ForcedCall()
        self._calls = _Calls(prefix)

    @property
    def has_called(self) -> bool:
        return self._calls.made > 0

    def feed(self, text: str) -> Deltas:
        return self._deltas(self._call.feed(text))

    def end(self) -> Deltas:
        return self._deltas(self._call.end())

    def _deltas(self, arguments: str) -> Deltas:
        if self._call.name is None:
            return []
        if not self.has_called:
            return [{"tool_calls": [self._calls.new(self._call.name, arguments)]}]
        return [{"tool_calls": [{"index": 0, "function": {"arguments": arguments}}]}] if arguments else []


Reader = FoundCalls | MadeCall


class ToolOutlet:
    """Of one answer. `make_reader`: for a choice, by the prefix of its calls' ids."""

    def __init__(self, make_reader: Callable[[str], Reader], request_id: str) -> None:
        self._make_reader = make_reader
        self._id = request_id.rpartition("_")[2]
        self._readers: dict[int, Reader] = {}
        self.is_over = False

    def answer(self, body: bytes) -> bytes:
        try:
            answer = msgspec.json.decode(body)
            for choice in answer["choices"]:
                self._read_whole(choice)
        except (msgspec.DecodeError, KeyError, TypeError, AttributeError):
            return body  # no completion: not ours to judge
        return msgspec.json.encode(answer)

    def events(self, events: bytes) -> bytes:
        return b"".join(map(self._event, events.replace(b"\r\n", b"\n").split(b"\n\n")))

    def end(self) -> bytes:
        return b""

    def error(self, error: CloudcrestError) -> bytes:
        return error_event(error)

    def _reader(self, index: int) -> Reader:
        reader = self._readers.get(index)
        if reader is None:
            prefix = f"call_{self._id}" if index == 0 else f"call_{self._id}_{index}"
            reader = self._readers[index] = self._make_reader(prefix)
        return reader

    def _read_whole(self, choice: dict[str, Any]) -> None:
        message = choice["message"]
        if message.get("tool_calls") or not message.get("content"):
            return
        reader = self._reader(choice.get("index", 0))
        deltas = [*reader.feed(message["content"]), *reader.end()]
        calls: list[dict[str, Any]] = []
        for delta in deltas:
            for call in delta.get("tool_calls", ()):
                if "id" in call:
                    calls.append({name: value for name, value in call.items() if name != "index"})
                else:
                    calls[-1]["function"]["arguments"] += call["function"]["arguments"]
        message["content"] = "".join(delta.get("content", "") for delta in deltas) or None
        if calls:
            message["tool_calls"] = calls
            if choice.get("finish_reason") in _FINISHES:
                choice["finish_reason"] = "tool_calls"

    def _event(self, event: bytes) -> bytes:
        data = event_data(event)
        if not data.startswith(b"{"):
            return event + b"\n\n" if event else b""
        try:
            chunk = msgspec.json.decode(data)
            choices = [each for choice in chunk["choices"] for each in self._choices(choice)]
        except (msgspec.DecodeError, KeyError, TypeError, AttributeError):
            return event + b"\n\n"
        if not chunk["choices"]:  # the usage
            return event + b"\n\n"
        lines = [msgspec.json.encode({**chunk, "choices": [choice]}) for choice in choices]
        return b"".join(b"data: " + line + b"\n\n" for line in lines)

    def _choices(self, choice: dict[str, Any]) -> list[dict[str, Any]]:
        """A choice of a chunk as those that go out for it."""
        delta, finish = choice["delta"], choice.get("finish_reason")
        text = delta.get("content")
        if not text and not finish:
            return [choice]
        reader = self._reader(choice.get("index", 0))
        found = reader.feed(text) if text else []
        if finish:
            found += reader.end()
        rest = {name: value for name, value in delta.items() if name != "content"}
        out = [{**choice, "delta": each, "finish_reason": None} for each in ([rest] if rest else []) + found]
        if finish:
            finish = "tool_calls" if reader.has_called and finish in _FINISHES else finish
            out.append({**choice, "delta": {}, "finish_reason": finish})
        return out
