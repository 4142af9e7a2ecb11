"""One Piper replica: `python -m cloudcrest.serving.engines.piper_server '<json>'`, token in the environment.

`POST /v1/audio/speech` in OpenAI's shape. The head waits for the first sound, so that a request which finds its
replica dying can go to another one; from then on sound goes out as it is made.
"""

import base64
import json
import re
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
import numpy as np
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from cloudcrest.kernel.errors import CloudcrestError, InvalidInput
from cloudcrest.serving.api import SoundUsage
from cloudcrest.serving.engines.http_server import error_response, read_body, serve, unless_disconnected
from cloudcrest.serving.engines.piper import PiperArguments
from cloudcrest.serving.engines.sound import MEDIA_TYPES, Encoder, OutputFormat, Samples
from cloudcrest.serving.engines.sound_server import Slots, following, in_thread, names, refusal, usage_headers
from cloudcrest.serving.runtimes import use_packages

MAX_PIECE_CHARACTERS = 200
"""What is spoken in one go: bounds the time to the first sound, the memory it takes, and how long an abort takes."""
PAUSE_SECONDS = 0.2
"""After a sentence, beside the silence that the voice itself leaves."""
_LAST = ".!?;:。！？；"
_ENDS = re.compile(rf"(?<=[{_LAST}])\s+|\n+")


class SpeechRequest(msgspec.Struct):
    """The fields that are honoured here; the gateway refuses others."""

    input: Annotated[str, msgspec.Meta(min_length=1, max_length=4096)]
    voice: str = "default"
    response_format: OutputFormat = "mp3"
    speed: Annotated[float, msgspec.Meta(ge=0.25, le=4.0)] = 1.0
    stream_format: Literal["audio", "sse"] = "audio"


class Voice:
    """A loaded voice. `names`: of its speakers, each with its number (None: it has but one)."""

    def __init__(self, arguments: PiperArguments) -> None:
        import onnxruntime
        from piper import PiperConfig, PiperVoice

        description: dict[str, Any] = json.loads(Path(f"{arguments.voice}.json").read_text())
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = arguments.threads
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        session = onnxruntime.InferenceSession(arguments.voice, options, providers=["CPUExecutionProvider"])
        self._config: Any = PiperConfig.from_dict(description)
        self._voice: Any = PiperVoice(session=session, config=self._config)
        self.rate: int = self._config.sample_rate
        speakers: dict[str, int] = self._config.speaker_id_map
        first = None if self._config.num_speakers <= 1 else self._config.default_speaker_id
        own = str(description.get("dataset") or "")
        defaults = ("default", own, Path(arguments.voice).stem, *arguments.voice_aliases)
        self.names: dict[str, int | None] = {**{name: first for name in defaults if name}, **speakers}

    def speak(self, text: str, speaker: int | None, speed: float) -> Samples:
        """The sound of a text; empty where nothing in it can be said."""
        from piper import SynthesisConfig

        config = SynthesisConfig(speaker_id=speaker, length_scale=self._config.length_scale / speed)
        parts = [chunk.audio_float_array for chunk in self._voice.synthesize(text, config)]
        return np.concatenate(parts) if parts else np.zeros(0, np.float32)


class PiperReplica:
    """The server's state."""

    def __init__(self, arguments: PiperArguments) -> None:
        self._voice = Voice(arguments)
        self._slots = Slots(arguments.slots, "piper")

    def routes(self) -> list[Route]:
        return [*self._slots.routes(), Route("/v1/audio/speech", self._speech, methods=["POST"])]

    async def _speech(self, request: Request) -> Response:
        try:
            body = msgspec.json.decode(await read_body(request), type=SpeechRequest)
            if body.voice not in self._voice.names:
                known = names(self._voice.names)
                raise InvalidInput(
                    f"this model has no voice '{body.voice[:64]}'", param="voice", hint=f"it has {known}"
                )
        except CloudcrestError as error:
            return refusal(error)
        except (msgspec.MsgspecError, ValueError) as error:
            return error_response(400, str(error))
        return await unless_disconnected(request, self._answer(body))

    async def _answer(self, body: SpeechRequest) -> Response:
        usage = SoundUsage(characters=len(body.input))
        sound = self._sound(body)
        try:
            first = await anext(sound)
        except StopAsyncIteration:
            return refusal(InvalidInput("there is nothing in it that can be spoken", param="input"))
        self._slots.count(usage)
        pieces, media_type = following(first, sound), MEDIA_TYPES[body.response_format]
        if body.stream_format == "sse":
            pieces, media_type = _events(pieces, usage), "text/event-stream"
        return StreamingResponse(pieces, media_type=media_type, headers=usage_headers(usage))

    async def _sound(self, body: SpeechRequest) -> AsyncIterator[bytes]:
        """The file's bytes as they are made, the first with the first sound; nothing where there is none."""
        voice, speaker = self._voice, self._voice.names[body.voice]
        has_sound = False
        async with self._slots.one():
            encoder = Encoder(body.response_format, voice.rate)

            def make(piece: str, _: Callable[[], bool]) -> bytes | None:
                samples = voice.speak(piece, speaker, body.speed)
                if len(samples) == 0:
                    return None
                pause = PAUSE_SECONDS / body.speed if piece[-1] in _LAST else 0.0
                return encoder.add(np.pad(samples, (0, int(pause * voice.rate))))

            for piece in pieces_of(body.input):
                made = await in_thread(partial(make, piece))
                if made is not None and (made or not has_sound):  # the first sound may not fill a frame
                    has_sound = True
                    yield made
            if has_sound:
                yield await in_thread(lambda _: encoder.end())


async def _events(pieces: AsyncIterator[bytes], usage: SoundUsage) -> AsyncIterator[bytes]:
    """The same as server-sent events, as OpenAI has them; usage is what is counted here, characters."""
    async with aclosing(pieces) as sound:  # type: ignore[type-var]  # an async generator
        async for piece in sound:
            if piece:
                delta = {"type": "speech.audio.delta", "audio": base64.b64encode(piece).decode()}
                yield _event(delta)
    yield _event({"type": "speech.audio.done", "usage": {"characters": usage.characters}})


def _event(body: dict[str, Any]) -> bytes:
    return b"data: " + msgspec.json.encode(body) + b"\n\n"


def pieces_of(text: str) -> list[str]:
    """A text cut at the ends of its sentences, and long ones at spaces."""
    pieces: list[str] = []
    for sentence in _ENDS.split(text):
        rest = sentence.strip()
        while len(rest) > MAX_PIECE_CHARACTERS:
            at = rest.rfind(" ", 1, MAX_PIECE_CHARACTERS)
            at = MAX_PIECE_CHARACTERS if at < 0 else at
            pieces.append(rest[:at])
            rest = rest[at:].strip()
        if rest:
            pieces.append(rest)
    return pieces


def main(argv: list[str]) -> None:
    """Serves until SIGTERM."""
    arguments = msgspec.json.decode(argv[1], type=PiperArguments)
    use_packages(Path(arguments.packages))
    serve(PiperReplica(arguments).routes(), arguments.host, arguments.port)


if __name__ == "__main__":
    main(sys.argv)
