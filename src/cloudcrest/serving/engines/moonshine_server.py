"""One Moonshine replica: `python -m cloudcrest.serving.engines.moonshine_server '<json>'`, token in the environment.

`POST /v1/audio/transcriptions` in OpenAI's shape: a form with a file. A recording is decoded once to be measured, which
also finds what is broken or too long before any work, and once more piece by piece; none of it is kept.
"""

import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any, Literal

import msgspec
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from cloudcrest.infra.forms import read_form
from cloudcrest.kernel.errors import CloudcrestError, InvalidInput
from cloudcrest.kernel.sound import MAX_MILLISECONDS
from cloudcrest.kernel.units import MIB
from cloudcrest.serving.api import MOST_MILLISECONDS_FIELD, SoundUsage
from cloudcrest.serving.engines.http_server import MAX_BODY_BYTES, error_response, read_body, serve, unless_disconnected
from cloudcrest.serving.engines.moonshine import MoonshineArguments
from cloudcrest.serving.engines.moonshine_model import MoonshineModel
from cloudcrest.serving.engines.silences import Cutter, Piece
from cloudcrest.serving.engines.sound import HEARING_RATE, decoded, measured
from cloudcrest.serving.engines.sound_server import Slots, following, in_thread, refusal, usage_headers
from cloudcrest.serving.engines.transcripts import (
    MEDIA_TYPES,
    Segment,
    Transcript,
    TranscriptFormat,
    full_text,
    usage,
)
from cloudcrest.serving.runtimes import use_packages

MAX_HELD_BYTES = 512 * MIB
"""Of recordings that wait or are heard; where there are more, another replica is asked."""
_LANGUAGE_NAMES = {"en": "english"}
"""As OpenAI writes them in verbose answers."""


class Fields(msgspec.Struct):
    """The fields that are honoured here; the gateway refuses others. `most_milliseconds`: what was admitted."""

    response_format: TranscriptFormat = "json"
    language: str | None = None
    stream: Literal["true", "false"] = "false"
    most_milliseconds: int = msgspec.field(default=MAX_MILLISECONDS, name=MOST_MILLISECONDS_FIELD)


class MoonshineReplica:
    """The server's state."""

    def __init__(self, arguments: MoonshineArguments) -> None:
        self._model = MoonshineModel(Path(arguments.folder), arguments.threads)
        self._language = arguments.language
        self._slots = Slots(arguments.slots, "moonshine")
        self._held_bytes = 0

    def routes(self) -> list[Route]:
        return [*self._slots.routes(), Route("/v1/audio/transcriptions", self._transcription, methods=["POST"])]

    async def _transcription(self, request: Request) -> Response:
        try:
            size_bytes = int(request.headers.get("content-length", MAX_BODY_BYTES))
            if self._held_bytes + size_bytes > MAX_HELD_BYTES:
                return error_response(503, "too many recordings are waiting here", kind="server_error")
            fields, data = _read(request.headers.get("content-type", ""), await read_body(request))
            if fields.language not in (None, self._language, _LANGUAGE_NAMES.get(self._language)):
                raise InvalidInput(
                    f"this model understands '{self._language}' alone, not '{(fields.language or '')[:20]}'",
                    param="language",
                )
        except CloudcrestError as error:
            return refusal(error)
        except (msgspec.MsgspecError, ValueError) as error:
            return error_response(400, str(error))
        return await unless_disconnected(request, self._answer(fields, data))

    async def _answer(self, fields: Fields, data: bytes) -> Response:
        try:
            segments = self._segments(data, min(fields.most_milliseconds, MAX_MILLISECONDS))
            # The first item is the length, measured before anything is heard.
            length = await anext(segments)
            assert isinstance(length, int)  # noqa: S101 - as `_segments` says
            first = await anext(segments, None)
        except CloudcrestError as error:
            return refusal(error)
        worked = SoundUsage(audio_milliseconds=length)
        self._slots.count(worked)
        heard = following(first, segments)
        if fields.stream == "true":
            return StreamingResponse(_events(heard, length), 200, usage_headers(worked), "text/event-stream")
        written = Transcript(fields.response_format, _LANGUAGE_NAMES.get(self._language, self._language))
        kind = MEDIA_TYPES[fields.response_format]
        return StreamingResponse(_written(heard, length, written), 200, usage_headers(worked), kind)

    @asynccontextmanager
    async def _holding(self, size_bytes: int) -> AsyncIterator[None]:
        self._held_bytes += size_bytes
        try:
            yield
        finally:
            self._held_bytes -= size_bytes

    async def _segments(self, data: bytes, most_milliseconds: int) -> AsyncIterator[int | Segment]:
        """The recording's length in milliseconds, then what is said in it. Raises `InvalidInput`."""
        async with self._holding(len(data)), self._slots.one():
            yield await in_thread(partial(measured, data, most_milliseconds))
            pieces = _pieces(data)

            def hear(is_cancelled: Callable[[], bool]) -> Segment | None:
                for piece in pieces:
                    heard = self._model.hear(piece.samples, is_cancelled)
                    if heard.text:
                        start, end = round(piece.start / HEARING_RATE, 2), round(piece.end / HEARING_RATE, 2)
                        return Segment(start, end, heard.text, heard.tokens, heard.logprob)
                return None

            while (segment := await in_thread(hear)) is not None:
                yield segment


def _pieces(data: bytes) -> Iterator[Piece]:
    cutter = Cutter()
    for block in decoded(data):
        yield from cutter.add(block)
    yield from cutter.end()


def _read(content_type: str, body: bytes) -> tuple[Fields, bytes]:
    """The form's fields and its file. Raises `InvalidInput`, `TooLarge`."""
    parts = read_form(content_type, body)
    files = [part for part in parts if part.name == "file" and part.filename is not None]
    if len(files) != 1:
        raise InvalidInput("the form is to have one file", param="file")
    texts = {part.name: part.data.decode() for part in parts if part.filename is None}
    return msgspec.convert(texts, Fields, strict=False), files[0].data


async def _written(
    segments: AsyncIterator[int | Segment], milliseconds: int, transcript: Transcript
) -> AsyncIterator[bytes]:
    yield transcript.begin()
    async for segment in segments:
        if isinstance(segment, Segment):
            yield transcript.add(segment)
    yield transcript.end(milliseconds)


async def _events(segments: AsyncIterator[int | Segment], milliseconds: int) -> AsyncIterator[bytes]:
    """What is said as it is heard, as OpenAI streams it."""
    said: list[Segment] = []
    async for segment in segments:
        if isinstance(segment, Segment):
            delta = f" {segment.text}" if said else segment.text
            said.append(segment)
            yield _event({"type": "transcript.text.delta", "delta": delta})
    yield _event({"type": "transcript.text.done", "text": full_text(said), "usage": usage(milliseconds)})


def _event(body: dict[str, Any]) -> bytes:
    return b"data: " + msgspec.json.encode(body) + b"\n\n"


def main(argv: list[str]) -> None:
    """Serves until SIGTERM."""
    arguments = msgspec.json.decode(argv[1], type=MoonshineArguments)
    use_packages(Path(arguments.packages))
    serve(MoonshineReplica(arguments).routes(), arguments.host, arguments.port)


if __name__ == "__main__":
    main(sys.argv)
