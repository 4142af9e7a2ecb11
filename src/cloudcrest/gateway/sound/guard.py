"""The guard of a transcript on its way out: an outlet (outlet.py) over the shapes that transcripts have.

A block ends the transcript where it was found; what was heard before stays. Tokens would spell out what is redacted, so
they are left out.
"""

from collections.abc import Callable
from typing import Any

import msgspec

from cloudcrest.gateway.errors import error_event
from cloudcrest.gateway.sse import event_data
from cloudcrest.governance.api import Guard
from cloudcrest.kernel.errors import CloudcrestError

_encode = msgspec.json.encode
_TIMES = " --> "


class TranscriptGuard:
    """Of one answer. `make_guard`: of one text of it. `told` is called when something may have been found."""

    def __init__(self, make_guard: Callable[[], Guard], told: Callable[[], None], shape: str) -> None:
        self._make_guard = make_guard
        self._told = told
        self._shape = shape
        self._stream = make_guard()
        self._said = ""
        self.is_over = False

    def answer(self, body: bytes) -> bytes:
        if self._shape in ("srt", "vtt"):
            out = self._subtitles(body.decode("utf-8", "replace")).encode()
        elif self._shape == "text":
            out = self._make_guard().whole(body.decode("utf-8", "replace")).encode()
        else:
            out = self._document(body)
        self._told()
        return out

    def events(self, events: bytes) -> bytes:
        out = b"".join(map(self._event, events.split(b"\n\n")))
        self._told()
        return out

    def end(self) -> bytes:
        return b""

    def error(self, error: CloudcrestError) -> bytes:
        """What was held back is not known to be clear, so it stays back."""
        return error_event(error)

    def _document(self, body: bytes) -> bytes:
        answer: dict[str, Any] = msgspec.json.decode(body)
        answer["text"] = self._make_guard().whole(str(answer.get("text", "")))
        segments = []
        for segment in answer.get("segments") or ():
            guard = self._make_guard()
            segment["text"] = guard.whole(str(segment.get("text", "")))
            segment.pop("tokens", None)
            segments.append(segment)
            if guard.is_blocked:
                break
        if segments:
            answer["segments"] = segments
        return _encode(answer)

    def _subtitles(self, text: str) -> str:
        """Cue by cue: the lines after one of times are what was said."""
        lines: list[str] = []
        is_said = False
        for line in text.split("\n"):
            if not is_said or not line:
                is_said = _TIMES in line
                lines.append(line)
                continue
            guard = self._make_guard()
            lines.append(guard.whole(line))
            if guard.is_blocked:
                return "\n".join([*lines, "", ""])
        return "\n".join(lines)

    def _event(self, event: bytes) -> bytes:
        data = event_data(event)
        if not data:
            return event + b"\n\n" if event.strip() else b""
        said: dict[str, Any] = msgspec.json.decode(data)
        if said.get("type") == "transcript.text.delta":
            return self._delta(self._stream.feed(str(said.get("delta", ""))))
        if said.get("type") == "transcript.text.done":
            rest = self._delta(self._stream.end())
            return rest + b"data: " + _encode(said | {"text": self._said}) + b"\n\n"
        return event + b"\n\n"

    def _delta(self, text: str) -> bytes:
        self._said += text
        return b"data: " + _encode({"type": "transcript.text.delta", "delta": text}) + b"\n\n" if text else b""
