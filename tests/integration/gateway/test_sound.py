"""Requests for sound through the gateway, with scripted engines behind it: both ways, every ending, what is charged."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest

from cloudcrest.gateway.sound.form import CONTENT_TYPES, TRANSCRIPTIONS
from cloudcrest.identity.api import Guardrails, Limits, ProjectDocument
from cloudcrest.infra.forms import read_form
from cloudcrest.kernel.usage import Usage
from tests.integration.gateway.scripted import Cloud, cloud, error_of
from tests.support.gateway_cloud import KEY, Received, Script, framed
from tests.support.sound_files import wav
from tests.support.waiting import until_async

pytestmark = pytest.mark.anyio

SPEECH = "/v1/audio/speech"
WORDS: dict[str, Any] = {"model": "m", "input": "hello", "voice": "joe"}
VOICE = {"task": "speech", "engine": "piper", "context_tokens": 0}
EAR = {"task": "transcription", "engine": "moonshine", "context_tokens": 0}
SOUND_HEAD = (
    b"HTTP/1.1 200 OK\r\ncontent-type: audio/mpeg\r\ntransfer-encoding: chunked\r\n"
    b'x-cloudcrest-usage: {"characters":5}\r\n\r\n'
)
RECORDING = wav(2.0)


def spoken(*pieces: bytes) -> Script:
    def answer(request: Received) -> None:
        request.write(SOUND_HEAD + b"".join(framed(piece) for piece in pieces) + b"0\r\n\r\n")

    return answer


def heard(body: bytes = b'{"text":"hello"}', kind: bytes = b"application/json", status: int = 200) -> Script:
    def answer(request: Received) -> None:
        usage = b'x-cloudcrest-usage: {"audio_milliseconds":2000}\r\n' if status == 200 else b""
        head = b"HTTP/1.1 %d X\r\ncontent-type: %b\r\ncontent-length: %d\r\n%b\r\n"
        request.write(head % (status, kind, len(body), usage) + body)

    return answer


@asynccontextmanager
async def with_voice(folder: Path, *scripts: Script, **settings: Any) -> AsyncIterator[Cloud]:
    async with cloud(folder, *scripts, route=VOICE, **settings) as c:
        yield c


async def say(c: Cloud, **changes: Any) -> httpx2.Response:
    return await c.client.post(SPEECH, json=WORDS | changes, headers={"authorization": f"Bearer {KEY}"})


async def hear(c: Cloud, data: bytes = RECORDING, path: str = TRANSCRIPTIONS, **fields: Any) -> httpx2.Response:
    given = {"model": "m", **fields}
    headers = {"authorization": f"Bearer {KEY}"}
    return await c.client.post(path, data=given, files={"file": ("a.wav", data)}, headers=headers)


async def test_sound_passes_as_it_is_made_and_is_charged_by_its_characters(tmp_path: Path) -> None:
    may_go_on = asyncio.Event()

    async def answer(request: Received) -> None:
        request.write(SOUND_HEAD + framed(b"first"))
        await may_go_on.wait()
        request.write(framed(b"second") + b"0\r\n\r\n")

    async with with_voice(tmp_path, answer) as c:
        headers = {"authorization": f"Bearer {KEY}"}
        async with c.client.stream("POST", SPEECH, json=WORDS, headers=headers) as response:
            pieces = response.aiter_raw()
            assert await anext(pieces) == b"first"
            assert c.spool.opened[0].usage == Usage(0, 0, characters=5)
            may_go_on.set()
            assert await anext(pieces) == b"second"
        assert response.headers["content-type"] == "audio/mpeg"
        (event,) = c.spool.ended
        assert (event.usage, event.outcome, event.endpoint) == (Usage(0, 0, characters=5), "completed", SPEECH)
        assert event.first_token_milliseconds is not None
        assert c.upstreams[0].received[0].json == {"model": "m", "input": "hello", "voice": "joe"}


async def test_a_recording_reaches_the_engine_as_it_was_sent_between_new_lines(tmp_path: Path) -> None:
    async with cloud(tmp_path, heard(), route=EAR) as c:
        for _ in range(2):  # the second answer comes under a head that was seen before
            response = await hear(c, language="en", response_format="json")
            assert response.json() == {"text": "hello"}
            assert response.headers["content-type"] == "application/json"
        assert [event.usage for event in c.spool.ended] == [Usage(0, 0, audio_milliseconds=2000)] * 2
        received = c.upstreams[0].received[0]
        assert f"content-type: {CONTENT_TYPES[TRANSCRIPTIONS].decode()}\r\n" in received.head
        parts = read_form(CONTENT_TYPES[TRANSCRIPTIONS].decode(), received.body)
        assert {part.name: part.data for part in parts} == {
            "model": b"m",
            "language": b"en",
            "response_format": b"json",
            "cloudcrest_most_milliseconds": b"2103",
            "file": RECORDING,
        }


async def test_a_transcript_of_another_kind_and_a_streamed_one_pass_too(tmp_path: Path) -> None:
    async with cloud(tmp_path, heard(b"hello\n", b"text/plain; charset=utf-8"), route=EAR) as c:
        response = await hear(c, response_format="text")
        assert (response.text, response.headers["content-type"]) == ("hello\n", "text/plain; charset=utf-8")

    events = b'data: {"type":"transcript.text.delta","delta":"hello"}\n\n'
    async with cloud(tmp_path, heard(events, b"text/event-stream"), route=EAR) as c:
        response = await hear(c, stream="true")
        assert response.content == events
        assert response.headers["cache-control"] == "no-cache"
        assert c.spool.ended[0].is_stream


async def test_another_replica_speaks_where_one_dies_before_its_first_sound(tmp_path: Path) -> None:
    def dies(request: Received) -> None:
        request.transport.abort()

    async with with_voice(tmp_path, dies, dies, spoken(b"sound")) as c:
        response = await say(c)
        assert response.content == b"sound"
        assert [event.outcome for event in c.spool.ended] == ["completed"]


async def test_a_recording_that_is_cut_off_is_seen_to_be_and_costs_nothing(tmp_path: Path) -> None:
    async def breaks(request: Received) -> None:
        request.write(SOUND_HEAD + framed(b"half"))
        await asyncio.sleep(0)
        request.transport.close()

    async with with_voice(tmp_path, breaks) as c:
        with pytest.raises(httpx2.RemoteProtocolError):
            await say(c)
        await c.settled()
        assert (c.spool.ended[0].outcome, c.spool.ended[0].usage) == ("engine_error", Usage(0, 0))


async def test_events_that_are_cut_off_say_so(tmp_path: Path) -> None:
    async def breaks(request: Received) -> None:
        head = SOUND_HEAD.replace(b"audio/mpeg", b"text/event-stream")
        request.write(head + framed(b'data: {"type":"speech.audio.delta","audio":"AA=="}\n\n'))
        await asyncio.sleep(0)
        request.transport.close()

    async with with_voice(tmp_path, breaks) as c:
        response = await say(c, stream_format="sse")
        last = json.loads(response.text.strip().split("\n\n")[-1].removeprefix("data: "))
        assert last["error"]["code"] == "engine_error"


async def test_a_client_that_leaves_ends_the_engine_and_pays_for_its_text(tmp_path: Path) -> None:
    async def endless(request: Received) -> None:
        request.write(SOUND_HEAD + framed(b"first"))
        await request.is_gone.wait()

    async with with_voice(tmp_path, endless) as c:
        headers = {"authorization": f"Bearer {KEY}"}
        async with c.client.stream("POST", SPEECH, json=WORDS, headers=headers) as response:
            pieces = response.aiter_raw()
            await anext(pieces)
        await c.settled()
        assert (c.spool.ended[0].outcome, c.spool.ended[0].usage) == ("cancelled", Usage(0, 0, characters=5))
        await asyncio.wait_for(c.upstreams[0].received[0].is_gone.wait(), 5)


async def test_a_recording_whose_time_is_over_is_charged_by_what_its_head_says(tmp_path: Path) -> None:
    async def silent(request: Received) -> None:
        await request.is_gone.wait()

    async with cloud(tmp_path, silent, route=EAR) as c:
        headers = {"authorization": f"Bearer {KEY}", "x-request-timeout-ms": "300"}
        files = {"file": ("a.wav", RECORDING)}
        response = await c.client.post(TRANSCRIPTIONS, data={"model": "m"}, files=files, headers=headers)
        assert response.status_code == 504
        (event,) = c.spool.ended
        assert event.outcome == "timed_out"
        assert event.usage == Usage(0, 0, is_estimate=True, audio_milliseconds=2003)


async def test_what_our_engines_say_is_passed_on_and_costs_nothing(tmp_path: Path) -> None:
    said = {"error": {"message": "the wav file is damaged", "type": "x", "code": "unsupported_media", "param": "file"}}
    async with cloud(tmp_path, heard(json.dumps(said).encode(), status=400), route=EAR) as c:
        error = error_of(await hear(c))
        assert (error["message"], error["code"], error["param"]) == (
            "the wav file is damaged",
            "unsupported_media",
            "file",
        )
        assert c.spool.ended[0].usage == Usage(0, 0)


async def test_an_engine_that_counts_nothing_is_charged_by_what_is_known(tmp_path: Path) -> None:
    def mute(request: Received) -> None:
        request.write(b"HTTP/1.1 200 OK\r\ncontent-type: audio/mpeg\r\ncontent-length: 2\r\n\r\nab")

    async with with_voice(tmp_path, mute) as c:
        assert (await say(c, input="ÄÖ")).content == b"ab"
        assert c.spool.ended[0].usage == Usage(0, 0, characters=2)


async def test_a_slow_listener_holds_the_engine_back(tmp_path: Path) -> None:
    total, piece = 200, b"x" * 65_536
    written = 0

    async def much(request: Received) -> None:
        nonlocal written
        request.write(SOUND_HEAD)
        for _ in range(total):
            await until_async(
                lambda: request.transport.get_write_buffer_size() == 0, "the gateway reads on", seconds=30
            )
            request.write(framed(piece))
            written += 1
        request.write(b"0\r\n\r\n")

    async with with_voice(tmp_path, much) as c:
        reader, writer = await asyncio.open_connection("127.0.0.1", c.running.gateway.port, limit=65_536)
        body = json.dumps(WORDS).encode()
        head = (
            f"POST {SPEECH} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {KEY}\r\ncontent-length: {len(body)}\r\n\r\n"
        )
        writer.write(head.encode() + body)
        await until_async(lambda: written > 0, "the engine has begun")
        seen = -1
        while seen != written:  # until it makes no headway any more
            seen = written
            for _ in range(2_000):
                await asyncio.sleep(0)
        assert written < total
        size = 0
        while size < total * len(piece):
            size += len(await reader.read(1 << 20))
        writer.close()
        await c.settled()
        assert c.spool.ended[0].outcome in ("completed", "cancelled")


@pytest.mark.parametrize(
    ("fields", "param", "code"),
    [
        ({"input": ""}, "input", "invalid_value"),
        ({"input": "x" * 4097}, "input", "invalid_value"),
        ({"speed": 9}, "speed", "invalid_value"),
        ({"response_format": "ogg"}, "response_format", "invalid_value"),
        ({"instructions": "whisper"}, "instructions", "unsupported_parameter"),
        ({"pitch": 2}, "pitch", "unknown_parameter"),
    ],
)
async def test_speech_is_refused_by_the_field(tmp_path: Path, fields: dict[str, Any], param: str, code: str) -> None:
    async with with_voice(tmp_path, spoken(b"x")) as c:
        response = await say(c, **fields)
        error = error_of(response)
        assert (response.status_code, error["param"], error["code"]) == (400, param, code)
        assert c.spool.opened == []


@pytest.mark.parametrize(
    ("fields", "param", "code"),
    [
        ({"prompt": "names"}, "prompt", "unsupported_parameter"),
        ({"temperature": "0.5"}, "temperature", "unsupported_value"),
        ({"temperature": "hot"}, "temperature", "invalid_value"),
        ({"stream": "true", "response_format": "srt"}, "stream", "invalid_value"),
        ({"timestamp_granularities[]": "segment"}, "timestamp_granularities", "invalid_value"),
        (
            {"timestamp_granularities[]": "word", "response_format": "verbose_json"},
            "timestamp_granularities",
            "unsupported_value",
        ),
        ({"include[]": "logprobs"}, "include", "unsupported_parameter"),
        ({"chunking_strategy": "{}"}, "chunking_strategy", "unsupported_value"),
        ({"response_format": "diarized_json"}, "response_format", "invalid_value"),
        ({"diarize": "1"}, "diarize", "unknown_parameter"),
        ({"language": ["en", "de"]}, "language", "invalid_value"),
        ({"cloudcrest_most_milliseconds": "99"}, "cloudcrest_most_milliseconds", "unknown_parameter"),
        ({"model": ""}, "model", "invalid_value"),
    ],
)
async def test_a_form_is_refused_by_the_field(tmp_path: Path, fields: dict[str, Any], param: str, code: str) -> None:
    async with cloud(tmp_path, heard(), route=EAR) as c:
        response = await hear(c, **fields)
        error = error_of(response)
        assert (response.status_code, error["param"], error["code"]) == (400, param, code)
        assert c.spool.opened == []


async def test_what_is_no_form_no_sound_or_of_another_task_is_refused(tmp_path: Path) -> None:
    headers = {"authorization": f"Bearer {KEY}"}
    async with cloud(tmp_path, heard(), route=EAR, max_body_bytes=200_000) as c:
        assert error_of(await hear(c, b"no sound"))["code"] == "unsupported_media"
        assert error_of(await hear(c, b""))["code"] == "unsupported_media"
        plain = await c.client.post(TRANSCRIPTIONS, json={"model": "m"}, headers=headers)
        assert error_of(plain)["code"] == "invalid_form"
        fields = await c.client.post(TRANSCRIPTIONS, files={"model": (None, "m")}, headers=headers)
        assert error_of(fields)["param"] == "file"
        assert (await hear(c, wav(20.0))).status_code == 413
        assert error_of(await hear(c, path="/v1/audio/translations"))["code"] == "unsupported_operation"
        assert error_of(await say(c))["code"] == "model_not_supported"
        anonymous = await c.client.post(TRANSCRIPTIONS, data={"model": "m"}, files={"file": ("a", RECORDING)})
        assert anonymous.status_code == 401


async def test_a_lenient_project_has_dropped_what_nobody_honours(tmp_path: Path) -> None:
    async with cloud(tmp_path, heard(b'\n\n{"text":"hello"}'), route=EAR) as c:
        project = ProjectDocument("proj_1", "org_1", strict=False)
        c.running.set_documents("project", {"proj_1": project})
        fields: dict[str, Any] = {"diarize": "1", "prompt": "names", "include[]": "logprobs"}
        response = await hear(c, **fields)
        assert response.content == b'{"text":"hello"}'  # without the empty lines that say that something goes on
        assert response.headers["x-cloudcrest-ignored"] == "diarize, prompt, include"
        sent = read_form(CONTENT_TYPES[TRANSCRIPTIONS].decode(), c.upstreams[0].received[0].body)
        assert [part.name for part in sent] == ["model", "cloudcrest_most_milliseconds", "file"]
        assert sent[-1].data == RECORDING


async def test_requests_are_limited_and_tokens_are_not(tmp_path: Path) -> None:
    limits = Limits(requests_per_minute=2, tokens_per_minute=1)
    async with with_voice(tmp_path, spoken(b"x"), key_limits=limits) as c:
        assert [(await say(c)).status_code for _ in range(3)] == [200, 200, 429]


def guarded(c: Cloud, **stages: Any) -> None:
    """The project's guardrails from now on."""
    project = ProjectDocument("proj_1", "org_1", guardrails=Guardrails(**stages))
    c.running.set_documents("project", {"proj_1": project})


async def test_a_text_is_looked_through_before_it_is_spoken(tmp_path: Path) -> None:
    async with with_voice(tmp_path, spoken(b"x")) as c:
        guarded(c, input={"email": "redact", "card": "block"})
        assert (await say(c, input="Write to ann@x.org.")).status_code == 200
        assert c.upstreams[0].received[0].json["input"] == "Write to [EMAIL_1]."
        assert c.spool.opened[0].usage == Usage(0, 0, characters=len("Write to [EMAIL_1]."))
        error = error_of(await say(c, input="Card 4111 1111 1111 1111"))
        assert (error["code"], error["param"]) == ("content_blocked", "input")


async def test_a_transcript_is_looked_through_in_every_shape(tmp_path: Path) -> None:
    text = "Write to ann@x.org. Pay with 4111 1111 1111 1111 today."
    segments = [
        {"text": part, "tokens": [1], "start": 0} for part in ("Write to ann@x.org.", "4111 1111 1111 1111", "X")
    ]
    document = json.dumps({"text": text, "segments": segments}).encode()
    srt = (
        b"1\n00:00:00,000 --> 00:00:01,000\nann@x.org\n\n2\n00:00:01,000 --> 00:00:02,000\nPay 4111 1111 1111 1111\n\n"
    )
    events = b"".join(
        b"data: " + json.dumps(event).encode() + b"\n\n"
        for event in (
            {"type": "transcript.text.delta", "delta": "Write to ann@"},
            {"type": "transcript.text.delta", "delta": "x.org today."},
            {"type": "transcript.text.done", "text": "Write to ann@x.org today.", "usage": {}},
        )
    )
    scripts = {b"json": (document, b"application/json"), b"srt": (srt, b"text/plain")}

    def answer(request: Received) -> None:
        if b"true" in request.body:
            heard(events, b"text/event-stream")(request)
        else:
            heard(*scripts[b"srt" if b"srt" in request.body else b"json"])(request)

    async with cloud(tmp_path, answer, route=EAR) as c:
        guarded(c, output={"email": "redact", "card": "block"})
        whole = await hear(c, response_format="verbose_json")
        assert whole.json()["text"] == "Write to [EMAIL_1]. Pay with "
        assert [segment["text"] for segment in whole.json()["segments"]] == ["Write to [EMAIL_1].", ""]
        assert b"tokens" not in whole.content
        assert "email=redact" in whole.headers["x-cloudcrest-guardrails"]
        subtitles = (await hear(c, response_format="srt")).text
        assert subtitles == (
            "1\n00:00:00,000 --> 00:00:01,000\n[EMAIL_1]\n\n2\n00:00:01,000 --> 00:00:02,000\nPay \n\n"
        )
        streamed = (await hear(c, stream="true")).text
        assert "ann@" not in streamed
        assert json.loads(streamed.strip().split("\n\n")[-1][6:])["text"] == "Write to [EMAIL_1] today."
