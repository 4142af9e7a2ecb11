"""Usage in an engine's answer: at the end of a stream, found without reading the chunks before it, or in JSON.

Engines end a stream with a chunk that has `"choices":[]` and `"usage":{…}`. The scanner lets whole events pass
untouched and looks only at those that hold the word; a quotation mark inside generated text is always escaped, so text
that talks about usage does not match.
"""

import re
from typing import Final

from msgspec.structs import astuple

from cloudcrest.gateway.engine_words import SaidCounts, UsageBody, chunk_of, end_of_answer, slices_of, usage_of
from cloudcrest.gateway.validate import build
from cloudcrest.kernel.units import MIB
from cloudcrest.kernel.usage import Usage

MAX_EVENT_BYTES = 4 * MIB
_EVENT = re.compile(rb".*?(?:\n\n|\r\n\r\n)", re.DOTALL)
_USAGE_OBJECT = re.compile(rb'"usage"\s*+:\s*+(\{(?:[^{}"]++|"[^"\\]*+"|\{[^{}]*+\})*+\})')
_DONE: Final = b"[DONE]"
_LINE_FEED: Final = 0x0A
_CARRIAGE_RETURN: Final = 0x0D
_end_of_answer: Final = end_of_answer


class StreamScanner:
    """Fed the payload of a stream in any pieces; gives back whole events to pass on.

    `usage`: the last one seen. `events`: passed on so far. `error`: the engine's own error event, kept back.
    `partial`: the beginning of an event. `is_finished`: `[DONE]` was seen. The usage chunk is kept back unless
    `passes_usage`.
    """

    __slots__ = ("_passes_usage", "error", "events", "is_finished", "partial", "usage")

    def __init__(self, *, passes_usage: bool) -> None:
        self._passes_usage = passes_usage
        self.partial = b""
        self.usage: Usage | None = None
        self.events = 0
        self.error: bytes | None = None
        self.is_finished = False

    def feed(self, data: bytes) -> bytes:
        """The whole events that `data` completes, less what is kept back."""
        if self.partial:
            data = self.partial + data
            self.partial = b""
        if not data.endswith(b"\n\n"):
            end = _last_event_end(data)
            data, self.partial = data[:end], data[end:]
            if len(self.partial) > MAX_EVENT_BYTES:
                self.error, self.partial = b"an event is too large", b""
            if not data:
                return b""
        if data.find(b'"usage"') >= 0 or data.find(b'"error"') >= 0 or data.find(_DONE) >= 0:  # faster than `in`
            return self._sift(data)
        self.events += data.count(b"\n\n") or data.count(b"\r\n\r\n")
        return data

    def end(self) -> bytes:
        """What is left when the stream ends inside an event."""
        rest, self.partial = self.partial, b""
        return rest

    def _sift(self, data: bytes) -> bytes:
        kept: list[bytes] = []
        wholes, rest = _split(data)
        for whole in wholes:
            event = self._sifted(whole)
            if event is not whole:  # empty lines before it go on: cut elsewhere they would have, before it was seen
                kept.append(whole[: len(whole) - len(whole.lstrip(b"\n"))])
            if event:
                kept.append(event)
                self.events += 1
        kept.append(rest)
        return b"".join(kept)

    def _sifted(self, event: bytes) -> bytes:
        """What of an event goes on: all of it, all but its usage, or nothing."""
        text = event_data(event)
        if text == _DONE:
            self.is_finished = True
            return event
        if text.find(b'"usage"') < 0 and text.find(b'"error"') < 0:
            return event
        try:
            chunk = chunk_of(text)
        except (ValueError, RecursionError):  # no JSON or no UTF-8
            return event
        if not chunk.choices and bytes(chunk.error) != b"null":
            self.error = bytes(chunk.error)
            return b""
        if chunk.usage is None:
            return event
        self.usage = to_usage(chunk.usage)
        if self._passes_usage or chunk.choices is None:
            return event
        return _without_usage(event, text) if chunk.choices else b""


def _without_usage(event: bytes, text: bytes) -> bytes:
    """An event but for the usage in its chunk `text`: llama.cpp's raw completions say it beside the last choice."""
    try:
        slices = slices_of(text)
    except ValueError:  # a field's name is no UTF-8
        return event
    return b"data: " + build({name: bytes(raw) for name, raw in slices.items() if name != "usage"}) + b"\n\n"


def _split(data: bytes) -> tuple[list[bytes], bytes]:
    """Whole events, and the beginning of one."""
    if _CARRIAGE_RETURN not in data:
        pieces = data.split(b"\n\n")
        return [piece + b"\n\n" for piece in pieces[:-1]], pieces[-1]
    wholes: list[bytes] = []
    at = 0
    for match in _EVENT.finditer(data):
        wholes.append(match[0])
        at = match.end()
    return wholes, data[at:]


def _last_event_end(data: bytes) -> int:
    """Where the last whole event ends; 0 where there is none."""
    bare, full = data.rfind(b"\n\n"), data.rfind(b"\r\n\r\n")
    return max(bare + 2 if bare >= 0 else 0, full + 4 if full >= 0 else 0)


def event_data(event: bytes) -> bytes:
    """The data of one server-sent event, its lines joined; empty for a comment."""
    line = event[:-2] if event[-2:] == b"\n\n" else event
    if line[:5] == b"data:" and _LINE_FEED not in line and _CARRIAGE_RETURN not in line:  # all there is to most
        return line[5:].strip()
    lines = [line[5:].strip() for line in event.splitlines() if line.startswith(b"data:")]
    return b"\n".join(lines)


def usage_in_answer(body: bytes) -> Usage | None:
    """The usage of a whole JSON answer; None where it has none."""
    start = body.rfind(b'"usage"')
    if start < 0:
        return None
    try:
        # Where it is a field of the answer itself, the rest of the answer is an object that begins with it.
        return to_usage(_end_of_answer(b"{" + body[start:]).usage)
    except (ValueError, RecursionError):  # no JSON or no UTF-8
        match = _USAGE_OBJECT.match(body, start)
    try:
        return to_usage(usage_of(match[1])) if match is not None else None
    except (ValueError, RecursionError):  # no JSON or no UTF-8
        return None


def to_usage(body: UsageBody) -> Usage:
    """An engine's counts, as far as they can be true."""
    counts: SaidCounts = astuple(body)  # all at once: compiled, each look at a field takes long
    prompt_tokens, completion_tokens, total_tokens, details, output_details, hit, kept, read, written_there = counts
    output_tokens = max(0, completion_tokens)
    # vLLM's rankings say the sum alone.
    input_tokens = max(0, total_tokens - output_tokens if prompt_tokens is None else prompt_tokens)
    cached = hit or kept or read or 0
    written, reasoning = written_there or 0, 0
    if details is not None:
        cached = details.cached_tokens or cached
        written = (
            details.cache_write_tokens
            or details.cache_creation_input_tokens
            or details.cache_creation_tokens
            or written
        )
    if output_details is not None:
        reasoning = output_details.reasoning_tokens or 0
    cached = min(max(0, cached), input_tokens)
    reasoning = min(max(0, reasoning), output_tokens)
    written = min(max(0, written), input_tokens - cached)
    return Usage(input_tokens, output_tokens, cached, reasoning, False, written)
