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


def transcript(segments: Sequence[Segment], milliseconds: int, shape: TranscriptFormat, language: str) -> bytes:
    """The whole answer."""
    match shape:
        case "text":
            return f"{full_text(segments)}\n".encode()
        case "srt":
            cues = [f"{n}\n{_cue(each, ',')}\n{each.text}\n\n" for n, each in enumerate(segments, 1)]
            return "".join(cues).encode()
        case "vtt":
            return ("WEBVTT\n\n" + "".join(f"{_cue(each, '.')}\n{each.text}\n\n" for each in segments)).encode()
        case "json":
            return msgspec.json.encode({"text": full_text(segments), "usage": usage(milliseconds)})
        case "verbose_json":
            return msgspec.json.encode(
                {
                    "task": "transcribe",
                    "language": language,
                    "duration": milliseconds / 1000,
                    "text": full_text(segments),
                    "segments": [_verbose(n, each) for n, each in enumerate(segments)],
                    "usage": usage(milliseconds),
                }
            )


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
