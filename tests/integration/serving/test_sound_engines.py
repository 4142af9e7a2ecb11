"""The engines for sound with real weights: what one says the other hears, in every format, and both count it."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import httpx2
import pytest

from cloudcrest.serving.api import USAGE_HEADER
from tests.support.replicas import Replica
from tests.support.sound import SENTENCE, running_sound, share_heard
from tests.support.sound_files import wav
from tests.support.waiting import until_async

pytestmark = pytest.mark.anyio

FORMATS = {"mp3": "audio/mpeg", "opus": "audio/ogg", "aac": "audio/aac", "flac": "audio/flac", "wav": "audio/wav"}
LONG = "It goes on and on, and nobody listens any more. " * 80


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    """One event loop for all, so that replicas can be shared."""
    return "asyncio"


@pytest.fixture(scope="module")
async def voice(anyio_backend: str) -> AsyncIterator[Replica]:
    async with running_sound("piper", {"voice_aliases": "alloy, nova"}) as replica:
        yield replica


@pytest.fixture(scope="module")
async def ear(anyio_backend: str) -> AsyncIterator[Replica]:
    async with running_sound("moonshine") as replica:
        yield replica


async def say(replica: Replica, text: str = SENTENCE, **fields: Any) -> httpx2.Response:
    return await replica.client.post("/v1/audio/speech", json={"input": text, **fields})


async def hear(ear: Replica, data: bytes, **fields: str) -> httpx2.Response:
    return await ear.client.post("/v1/audio/transcriptions", files={"file": ("sound", data)}, data=fields)


async def counted(replica: Replica, name: str) -> int:
    text = (await replica.client.get("/metrics")).text
    return next(int(line.split()[1]) for line in text.splitlines() if line.partition(":")[2].startswith(name))


async def idle(replica: Replica) -> None:
    async def look() -> bool:
        return await replica.in_flight() == 0

    await until_async(look, "the replica is idle again", seconds=20)


@pytest.mark.parametrize("output", FORMATS)
async def test_what_is_said_is_heard_in_every_format_and_counted(voice: Replica, ear: Replica, output: str) -> None:
    before = await counted(voice, "characters"), await counted(ear, "audio_milliseconds")
    said = await say(voice, response_format=output)
    assert said.status_code == 200, said.text
    assert said.headers["content-type"] == FORMATS[output]
    assert json.loads(said.headers[USAGE_HEADER]) == {"characters": len(SENTENCE)}
    heard = await hear(ear, said.content, response_format="verbose_json", language="en")
    assert heard.status_code == 200, heard.text
    answer = heard.json()
    assert share_heard(SENTENCE, answer["text"]) > 0.8
    milliseconds = json.loads(heard.headers[USAGE_HEADER])["audio_milliseconds"]
    assert answer["duration"] == milliseconds / 1000
    assert answer["segments"][-1]["end"] <= answer["duration"]
    assert await counted(voice, "characters") - before[0] == len(SENTENCE)
    assert await counted(ear, "audio_milliseconds") - before[1] == milliseconds


async def test_pcm_is_24_kilohertz_and_speed_is_honoured(voice: Replica) -> None:
    whole = (await say(voice, response_format="pcm")).content
    fast = (await say(voice, response_format="pcm", speed=2.0)).content
    assert 3 < len(whole) / 2 / 24_000 < 7
    assert 0.35 < len(fast) / len(whole) < 0.7


async def test_speech_streams_as_events_too(voice: Replica) -> None:
    answer = await say(voice, stream_format="sse", response_format="mp3", voice="nova")
    events = [json.loads(line.removeprefix("data: ")) for line in answer.text.splitlines() if line]
    assert {event["type"] for event in events[:-1]} == {"speech.audio.delta"}
    assert events[-1] == {"type": "speech.audio.done", "usage": {"characters": len(SENTENCE)}}


async def test_a_transcript_streams_as_it_is_heard(voice: Replica, ear: Replica) -> None:
    data = (await say(voice)).content
    answer = await hear(ear, data, stream="true")
    events = [json.loads(line.removeprefix("data: ")) for line in answer.text.splitlines() if line]
    deltas = "".join(event["delta"] for event in events[:-1])
    assert events[-1]["type"] == "transcript.text.done"
    assert events[-1]["text"] == deltas
    assert events[-1]["usage"]["type"] == "duration"


async def test_silence_says_nothing_and_is_heard_all_the_same(ear: Replica) -> None:
    answer = await hear(ear, wav(3.0))
    assert answer.json() == {"text": "", "usage": {"type": "duration", "seconds": 3}}
    streamed = await hear(ear, wav(3.0), stream="true")
    assert streamed.text.startswith('data: {"type":"transcript.text.done","text":""')


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"this is no sound",
        b"RIFF1234WAVEfmt ",
        b"ID3" + bytes(2_000),
        b"OggS" + bytes(100),
        wav(600.0, rate=1),
        b"\x1aE\xdf\xa3" + bytes(100),
        b"\x00\x00\x00\x20ftypM4A " + bytes(100),
    ],
)
async def test_what_is_no_sound_is_refused(ear: Replica, data: bytes) -> None:
    answer = await hear(ear, data)
    assert answer.status_code == 400
    assert answer.json()["error"]["code"] == "unsupported_media"
    assert answer.json()["error"]["param"] == "file"


async def test_a_recording_is_held_to_what_was_admitted(ear: Replica) -> None:
    answer = await hear(ear, wav(3.0), cloudcrest_most_milliseconds="2999")
    assert answer.json()["error"]["code"] == "audio_too_long"
    assert (await hear(ear, wav(3.0), cloudcrest_most_milliseconds="3000")).status_code == 200


async def test_what_a_model_cannot_do_is_refused_by_name(voice: Replica, ear: Replica) -> None:
    for answer, param in (
        (await hear(ear, wav(1.0), language="de"), "language"),
        (await say(voice, voice="echo"), "voice"),
        (await say(voice, "... ..."), "input"),
    ):
        assert answer.status_code == 400
        assert answer.json()["error"]["param"] == param
    assert (await voice.client.post("/v1/audio/speech", content=b"{")).status_code == 400
    wrong = {"authorization": "Bearer wrong"}
    assert (await voice.client.post("/v1/audio/speech", json={}, headers=wrong)).status_code == 401


async def test_speaking_stops_when_nobody_listens_any_more(voice: Replica) -> None:
    async with voice.client.stream("POST", "/v1/audio/speech", json={"input": LONG[:4096]}) as answer:
        assert answer.status_code == 200
        parts = answer.aiter_bytes()
        await anext(parts)
        assert await voice.in_flight() == 1
    await idle(voice)
    request = voice.client.post("/v1/audio/speech", json={"input": LONG[:4096], "response_format": "wav"}, timeout=0.5)
    with pytest.raises(httpx2.TimeoutException):
        await request
    await idle(voice)


async def test_hearing_stops_when_nobody_waits_any_more(ear: Replica) -> None:
    noise = wav(300.0, rate=16_000, sample=b"\x00\x40")
    task = asyncio.ensure_future(hear(ear, noise))
    await until_async(ear_is_busy(ear), "it has begun", seconds=20)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    await idle(ear)


def ear_is_busy(ear: Replica) -> Any:
    async def look() -> bool:
        return await ear.in_flight() == 1

    return look
