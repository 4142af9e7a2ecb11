"""A transcript in the shapes that clients ask for (OpenAI's `response_format`). Pure."""

from collections.abc import Sequence
from typing import Any, Literal

import msgspec

TranscriptFormat = Literal["json", "text", "srt", "vtt", "verbose_json"]

MEDIA_TYPES: dict[TranscriptFormat, str] = {
    "json": "application/json",
    "text": "text/plain; charset=utf-8",
    "srt": "text/plain; charset=utf-8",
    "vtt": "text/vtt; charset=utf-8",
    "verbose_json": "application/json",
}


class Segment(msgspec.Struct, frozen=True):
    """What was said between two times, in seconds. `logprob`: the mean over its tokens."""

    start: float
    end: float
    text: str
    tokens: tuple[int, ...]
    logprob: float


def full_text(segments: Sequence[Segment]) -> str:
    return " ".join(segment.text for segment in segments if segment.text)


def usage(milliseconds: int) -> dict[str, Any]:
    """How OpenAI writes usage by duration: whole seconds, begun ones counted."""
    return {"type": "duration", "seconds": -(-milliseconds // 1000)}


class Transcript:
    """One answer, written as it is heard: what `begin`, `add` and `end` return, one after the other.

    What can only be written at its end, JSON, has an empty line for each segment before it: those who wait see that
    something goes on.
    """

    def __init__(self, shape: TranscriptFormat, language: str) -> None:
        self._shape = shape
        self._language = language
        self._segments: list[Segment] = []

    def begin(self) -> bytes:
        return b"WEBVTT\n\n" if self._shape == "vtt" else b""

    def add(self, segment: Segment) -> bytes:
        self._segments.append(segment)
        number = len(self._segments)
        match self._shape:
            case "text":
                return f"{' ' if number > 1 else ''}{segment.text}".encode()
            case "srt":
                return f"{number}\n{_cue(segment, ',')}\n{segment.text}\n\n".encode()
            case "vtt":
                return f"{_cue(segment, '.')}\n{segment.text}\n\n".encode()
        return b"\n"

    def end(self, milliseconds: int) -> bytes:
        """`milliseconds`: how long the whole recording is."""
        text = full_text(self._segments)
        match self._shape:
            case "text":
                return b"\n"
            case "json":
                return msgspec.json.encode({"text": text, "usage": usage(milliseconds)})
            case "verbose_json":
                return msgspec.json.encode(
                    {
                        "task": "transcribe",
                        "language": self._language,
                        "duration": milliseconds / 1000,
                        "text": text,
                        "segments": [_verbose(n, each) for n, each in enumerate(self._segments)],
                        "usage": usage(milliseconds),
                    }
                )
        return b""


def _verbose(number: int, segment: Segment) -> dict[str, Any]:
    """Without what is not known: the chance that nobody spoke."""
    return {
        "id": number,
        "seek": 0,
        "start": segment.start,
        "end": segment.end,
        "text": segment.text,
        "tokens": segment.tokens,
        "temperature": 0.0,
        "avg_logprob": segment.logprob,
    }


def _cue(segment: Segment, point: str) -> str:
    return f"{_clock(segment.start, point)} --> {_clock(segment.end, point)}"


def _clock(seconds: float, point: str) -> str:
    milliseconds = round(seconds * 1000)
    hours, rest = divmod(milliseconds, 3_600_000)
    minutes, rest = divmod(rest, 60_000)
    return f"{hours:02}:{minutes:02}:{rest // 1000:02}{point}{rest % 1000:03}"
