"""Smaller parts: errors, fan-out's arithmetic, kept bytes, paths that are internal, records."""

import json

import pytest

from cloudcrest.gateway.errors import engine_error, error_document
from cloudcrest.gateway.fakes import MemorySpool
from cloudcrest.gateway.fanout import merged_usage, split
from cloudcrest.gateway.kept import Kept
from cloudcrest.gateway.pages import home, may_read_metrics
from cloudcrest.gateway.proxy import is_internal
from cloudcrest.gateway.record import Recorder
from cloudcrest.gateway.validate import forwarded_fields, parse
from cloudcrest.kernel.errors import InvalidInput, LimitExceeded, Unavailable
from cloudcrest.kernel.usage import Usage, UsageEvent
from cloudcrest.metering.rows import Row, row_of, shared_of
from cloudcrest.metering.spool import Shared
from tests.support.gateway_cloud import chunk_event, route_document


def written(usage_event: UsageEvent) -> tuple[Row, Shared]:
    return row_of(usage_event), Shared(shared_of(usage_event))


def event(event_id: str) -> UsageEvent:
    return UsageEvent(
        id=event_id,
        started_at_microseconds=1,
        duration_milliseconds=1,
        first_token_milliseconds=None,
        region="local",
        gateway="gateway-0",
        organization_id="org_1",
        project_id="proj_1",
        key_id="key_1",
        model="m",
        deployment_id="dep_1",
        replica_id="rep_1",
        endpoint="/v1/chat/completions",
        outcome="completed",
        usage=Usage(1, 1),
    )


def test_errors_have_openais_shape() -> None:
    document = json.loads(error_document(InvalidInput("it is wrong", param="messages[0]", hint="write it right")))
    assert document == {
        "error": {
            "message": "it is wrong (write it right)",
            "type": "invalid_request_error",
            "param": "messages[0]",
            "code": "invalid_value",
        }
    }
    assert json.loads(error_document(LimitExceeded("x")))["error"]["type"] == "rate_limit_error"


LLAMA_CONTEXT = (
    b'{"error":{"code":400,"message":"request (6031 tokens) exceeds the available context size (4096 tokens)",'
    b'"type":"exceed_context_size_error","n_prompt_tokens":6031,"n_ctx":4096}}'
)
VLLM_CONTEXT = (
    b'{"object":"error","message":"This model\'s maximum context length is 512 tokens. However, you\xe2\x80\xa6"}'
)


@pytest.mark.parametrize(
    ("status", "body", "expected", "code"),
    [
        (400, LLAMA_CONTEXT, 400, "context_length_exceeded"),
        (400, VLLM_CONTEXT, 400, "context_length_exceeded"),
        (500, b'{"error":{"message":"input is too large to process. increase the physical batch size"}}', 400,
         "context_length_exceeded"),
        (400, b'{"error":{"message":"failed to parse grammar at /home/x"}}', 400, "invalid_value"),
        (400, b"secret internals", 400, "invalid_request"),
        (401, b"wrong token sk-abc", 502, "engine_error"),
        (404, b"", 502, "engine_error"),
        (500, b"traceback", 502, "engine_error"),
        (503, b"Loading model", 503, "unavailable"),
        (429, b"", 503, "unavailable"),
    ],
)  # fmt: skip
def test_engines_errors_are_mapped_and_never_passed_on(status: int, body: bytes, expected: int, code: str) -> None:
    error = engine_error(status, body, input_field="messages")
    assert (error.status, error.code) == (expected, code)
    for word in ("secret", "sk-abc", "traceback", "/home/x"):
        assert word not in str(error)


def test_a_context_error_gives_the_numbers() -> None:
    message = engine_error(400, LLAMA_CONTEXT, input_field="messages").message
    assert "4096" in message
    assert "6031" in message
    refusal = engine_error(400, VLLM_CONTEXT, input_field="prompt")
    assert "512" in refusal.message
    assert refusal.param == "prompt"


@pytest.mark.parametrize(
    "path", ["/internal", "/internal/v1/feed",
              "//internal/x", "/./internal", "/api/../internal/v1/usage", "/Internal/x",
             "/\\internal", "/api/..\\internal"]
)  # fmt: skip
def test_internal_paths_are_seen_however_they_are_spelled(path: str) -> None:
    assert is_internal(path)


@pytest.mark.parametrize("path", ["/", "/api/v1/internal", "/internals", "/console/internal"])
def test_other_paths_are_not_internal(path: str) -> None:
    assert not is_internal(path)


def test_fan_out_counts_each_prompt_once_and_every_choice() -> None:
    usages = [Usage(5, 2, 4), Usage(5, 3, 5), Usage(9, 1, 0), Usage(9, 4, 9)]
    assert merged_usage(usages, choices=2) == Usage(14, 10, 4)


def test_fan_out_gives_each_choice_its_own_seed_and_each_prompt_its_choices() -> None:
    body = json.dumps({"model": "m", "prompt": ["a", "b"], "n": 2, "seed": 40}).encode()
    parsed = parse("/v1/completions", body)
    bodies = [json.loads(single) for single in split(parsed, forwarded_fields(parsed, route_document()))]
    assert [(single["prompt"], single["seed"]) for single in bodies] == [
        ("a", 40),
        ("a", 41),
        ("b", 40),
        ("b", 41),
    ]
    assert not any("n" in single for single in bodies)


def test_kept_events_are_boiled_down_to_their_text() -> None:
    kept = Kept(max_bytes=300)
    for number in range(50):
        kept.add(chunk_event(f"w{number} ") + b": ping\n\n")
    assert kept.text() == "".join(f"w{number} " for number in range(50))
    assert kept.text() == kept.text()


def test_what_is_kept_is_counted_as_it_came() -> None:
    kept = Kept(max_bytes=10_000)
    kept.add(b"data: 1\n\n")
    first = kept.run(b'data: "', b'"\n\n').words
    first += b'a"bc"'
    kept.add(b"data: 2\n\n")
    second = kept.run(b'data: "', b'"}\n\n').words
    assert kept.size_bytes == len(b'data: 1\n\ndata: "a"\n\ndata: "bc"\n\ndata: 2\n\n')
    second += b'd"'
    assert kept.size_bytes == len(b'data: 1\n\ndata: "a"\n\ndata: "bc"\n\ndata: 2\n\ndata: "d"}\n\n')
    kept.said()
    assert kept.size_bytes == 0
    second += b'e"'
    assert kept.size_bytes == len(b'data: "e"}\n\n')


def test_an_end_that_cannot_be_written_is_kept_and_nothing_new_is_served() -> None:
    spool = MemorySpool()
    recorder = Recorder(spool)
    recorder.open(*written(event("req_1")))
    spool.fault = Unavailable("the disk is full")
    recorder.end(*written(event("req_1")))
    assert not recorder.is_writable()
    with pytest.raises(Unavailable):
        recorder.open(*written(event("req_2")))
    spool.fault = None
    with pytest.raises(Unavailable):
        recorder.open(*written(event("req_2")))
    recorder.retry()
    recorder.open(*written(event("req_2")))
    assert [ended.id for ended in spool.ended] == ["req_1"]


def test_the_front_page_escapes_the_host_it_is_told() -> None:
    content_type, page = home(accepts_html=True, base_url="http://<script>", docs_url="/api/v1/docs")
    assert content_type.startswith(b"text/html")
    assert b"<script>" not in page
    assert json.loads(home(accepts_html=False, base_url="", docs_url="/d")[1])["docs"] == "/d"


@pytest.mark.parametrize(
    ("peer", "authorization", "token", "allowed"),
    [
        ("127.0.0.1", None, None, True),
        ("::1", None, None, True),
        ("10.0.0.1", None, None, False),
        ("10.0.0.1", b"Bearer secret", "secret", True),
        ("127.0.0.1", b"Bearer wrong", "secret", False),
        ("127.0.0.1", None, "secret", False),
    ],
)
def test_who_may_read_metrics(peer: str, authorization: bytes | None, token: str | None, allowed: bool) -> None:
    assert may_read_metrics(peer, authorization, token) is allowed
