"""Requests for sound: read and checked (OpenAI's shape), and written for an engine."""

from typing import Any

import msgspec

from cloudcrest.gateway.bodies import decode_json
from cloudcrest.gateway.errors import error_document
from cloudcrest.gateway.explain import explain
from cloudcrest.gateway.parsed import Parsed
from cloudcrest.gateway.purse import Beside
from cloudcrest.gateway.request import Request
from cloudcrest.gateway.sound.fields import Sound, SpeechBody, TranscriptionBody
from cloudcrest.gateway.sound.form import BOUNDARY, TRANSCRIPTIONS
from cloudcrest.gateway.validate import build
from cloudcrest.infra.forms import Part, read_form, write_form
from cloudcrest.kernel.errors import CloudcrestError, InvalidInput
from cloudcrest.kernel.sound import format_of, least_milliseconds, most_milliseconds
from cloudcrest.kernel.usage import Usage
from cloudcrest.serving.api import MOST_MILLISECONDS_FIELD

_speech: msgspec.json.Decoder[SpeechBody] = msgspec.json.Decoder(SpeechBody)
_transcription: msgspec.json.Decoder[TranscriptionBody] = msgspec.json.Decoder(TranscriptionBody)
_LISTS = ("timestamp_granularities", "include")
"""Fields that may be given several times, as `name[]`."""


class _OpenAI:
    """Errors and heads as everywhere in OpenAI's dialect."""

    def error(self, error: CloudcrestError, request_id: str) -> bytes:  # noqa: ARG002  # the protocol's
        return error_document(error)

    def status(self, error: CloudcrestError) -> int:
        return error.status

    def head(self, request_id: str) -> bytes:  # noqa: ARG002  # the protocol's
        return b""


class Speech(_OpenAI):
    """Text to speech: a JSON body."""

    def read(self, request: Request) -> Parsed:
        return _speech_of(request.path, request.body)


class Transcription(_OpenAI):
    """Speech to text: a form with a file."""

    def read(self, request: Request) -> Parsed:
        parts = read_form(_content_type(request), request.body)
        data = _file_of(parts)
        body = _body_of(parts)
        return Parsed(
            request.path,
            len(request.body),
            body=body,
            fields={name: msgspec.json.encode(value) for name, value in msgspec.to_builtins(body).items()},
            is_stream=body.stream is True,
            sound=Sound(
                Beside(audio_milliseconds=most_milliseconds(data)),
                Usage(0, 0, is_estimate=True, audio_milliseconds=least_milliseconds(data)),
                data,
            ),
        )


class Translation(_OpenAI):
    """Speech to English text: what no engine here does."""

    def read(self, request: Request) -> Parsed:  # noqa: ARG002  # the protocol's
        raise InvalidInput(
            "no model here translates speech",
            code="unsupported_operation",
            hint=f"transcribe it at {TRANSCRIPTIONS}, and have a chat model translate the text",
        )


def form_type(request: Request) -> str:
    """The content type of a request whose body is a form; empty: it is JSON."""
    return _content_type(request) if request.path == TRANSCRIPTIONS else ""


def _content_type(request: Request) -> str:
    return next((value for name, value in request.headers if name == b"content-type"), b"").decode("latin-1")


def with_fields(parsed: Parsed, fields: dict[str, bytes]) -> Parsed:
    """The request with other texts in it, checked and measured anew; its recording stays. Raises `InvalidInput`."""
    data = build(fields)
    if isinstance(parsed.body, SpeechBody):
        return _speech_of(parsed.endpoint, data)
    body, slices = decode_json(_transcription, data)
    return parsed.rewritten(body, slices)


def _speech_of(path: str, data: bytes) -> Parsed:
    body, slices = decode_json(_speech, data)
    characters = len(body.input)
    return Parsed(
        path,
        len(data),
        body=body,
        fields=slices,
        is_stream=body.stream_format == "sse",
        sound=Sound(Beside(characters=characters), Usage(0, 0, characters=characters)),
    )


def form_for(parsed: Parsed, sound: Sound, model: str) -> bytes:
    """The form that an engine gets: the fields as they were checked, the file as it was sent."""
    fields: dict[str, Any] = msgspec.to_builtins(parsed.body)
    fields["model"] = model
    fields[MOST_MILLISECONDS_FIELD] = sound.most.audio_milliseconds
    parts = [Part(name, _text(value)) for name, value in fields.items() if name not in _LISTS]
    parts += [Part(f"{name}[]", _text(item)) for name in _LISTS for item in fields.get(name) or ()]
    return write_form(BOUNDARY, [*parts, Part("file", sound.data, "recording")])


def _text(value: object) -> bytes:
    return (value if isinstance(value, str) else msgspec.json.encode(value).decode()).encode()


def _file_of(parts: list[Part]) -> bytes:
    files = [part for part in parts if part.filename is not None]
    if len(files) != 1 or files[0].name != "file":
        raise InvalidInput(
            "the form is to have one file, named 'file'" if files else "the form has no file",
            param="file",
            code="missing_required_parameter",
            hint="as `curl -F file=@speech.wav` sends it",
        )
    data = files[0].data
    if format_of(data) is None:
        raise InvalidInput(
            "the file is empty" if not data else "the file is in no format that is known here",
            param="file",
            code="unsupported_media",
            hint="send wav, mp3, flac, ogg (Opus or Vorbis), aac, webm or m4a",
        )
    return data


def _body_of(parts: list[Part]) -> TranscriptionBody:
    """The form's fields. Raises `InvalidInput` naming the wrong one."""
    fields: dict[str, Any] = {}
    for part in parts:
        if part.filename is not None:
            continue
        name = part.name.removesuffix("[]")
        try:
            text = part.data.decode()
        except UnicodeDecodeError:
            raise InvalidInput("is no UTF-8", param=name) from None
        if name in _LISTS:
            fields.setdefault(name, []).append(text)
        elif part.name in fields:
            raise InvalidInput("is given twice", param=part.name)
        else:
            fields[part.name] = text
    try:
        body = msgspec.convert(fields, TranscriptionBody, strict=False)
    except msgspec.ValidationError as error:
        raise explain(str(error)) from None
    if body.timestamp_granularities and body.response_format != "verbose_json":
        raise InvalidInput("goes with response_format verbose_json", param="timestamp_granularities")
    if body.stream and body.response_format not in (None, "json"):
        raise InvalidInput("goes with response_format json", param="stream")
    return body
