"""The fields of the endpoints for sound, with their types and bounds, and what is known of a request's sound."""

from typing import Annotated, Literal

from msgspec import Meta, Struct

from cloudcrest.gateway.purse import Beside
from cloudcrest.kernel.usage import Usage

MAX_CHARACTERS = 4_096
"""Of a text to speak, as OpenAI has it."""
ModelName = Annotated[str, Meta(min_length=1, max_length=256)]


class SpeechBody(Struct, forbid_unknown_fields=True, omit_defaults=True, kw_only=True):
    """POST /v1/audio/speech"""

    model: ModelName
    input: Annotated[str, Meta(min_length=1, max_length=MAX_CHARACTERS)]
    voice: Annotated[str, Meta(min_length=1, max_length=128)] | None = None
    response_format: Literal["mp3", "opus", "aac", "flac", "wav", "pcm"] | None = None
    speed: Annotated[float, Meta(ge=0.25, le=4.0)] | None = None
    stream_format: Literal["audio", "sse"] | None = None
    instructions: Annotated[str, Meta(max_length=MAX_CHARACTERS)] | None = None


class TranscriptionBody(Struct, forbid_unknown_fields=True, omit_defaults=True, kw_only=True):
    """POST /v1/audio/transcriptions, a form: all but its file."""

    model: ModelName
    language: Annotated[str, Meta(min_length=2, max_length=32)] | None = None
    prompt: Annotated[str, Meta(max_length=8_192)] | None = None
    response_format: Literal["json", "text", "srt", "verbose_json", "vtt"] | None = None
    temperature: Annotated[float, Meta(ge=0, le=1)] | None = None
    timestamp_granularities: Annotated[list[Literal["word", "segment"]], Meta(max_length=2)] | None = None
    stream: bool | None = None
    include: Annotated[list[Annotated[str, Meta(max_length=64)]], Meta(max_length=8)] | None = None
    chunking_strategy: Annotated[str, Meta(max_length=512)] | None = None


class Sound(Struct, frozen=True):
    """What is known of a request for sound before it is served: the recording as it was sent, and what it can come to.

    `most`: what is claimed of budgets, and what the engine holds the recording to; `least`: what is charged where the
    engine had the request and its own count was lost.
    """

    most: Beside
    least: Usage
    data: bytes = b""
