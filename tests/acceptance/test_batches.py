"""Batches, as the openai client makes them: results, errors by line, the end of a window, and kill -9 in the middle."""

import json
import os
import signal
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import httpx2
import openai
import psutil
import pytest
from openai.types import Batch

from tests.acceptance.tenants import CHAT_MODEL, EMBEDDING_MODEL, Tenant, answered, infer
from tests.acceptance.test_bad_input import refused
from tests.support.cloud import Cloud
from tests.support.load import verify_ledger
from tests.support.waiting import until

CHAT = "/v1/chat/completions"
SLOW_MODEL = "simulated-batch"
ENDED = ("completed", "failed", "expired", "cancelled")
LINES = 40


@pytest.fixture
def client(anyone: Tenant) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{anyone.base_url}/v1", api_key=anyone.key["key"], max_retries=2) as made:
        yield made


@pytest.fixture(scope="module")
def slow_model(cloud: Cloud) -> Iterator[str]:
    """A simulated model that takes a quarter of a second for an answer, with a price."""
    with cloud.client(cloud.operator_key) as operator:
        prices = {"input_price_per_million_tokens": "1", "output_price_per_million_tokens": "10"}
        answered(operator.post("/api/v1/rate-cards", json={"model": SLOW_MODEL, **prices}), 201)
        options = {"decode_tokens_per_second": 40.0, "answer_tokens": 10}
        body = {"model": CHAT_MODEL, "name": SLOW_MODEL, "engine": "simulated", "slots": 8, "engine_options": options}
        deployment = answered(operator.post("/api/v1/deployments", json=body), 201)["id"]
        until(lambda: answered(operator.get(f"/api/v1/deployments/{deployment}"))["state"] == "ready", "the model")
        yield SLOW_MODEL
        operator.delete(f"/api/v1/deployments/{deployment}")


def line(custom_id: str, url: str = CHAT, **body: Any) -> bytes:
    asked = {"model": CHAT_MODEL, "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 4, **body}
    return json.dumps({"custom_id": custom_id, "method": "POST", "url": url, "body": asked}).encode()


def send(client: openai.OpenAI, *lines: bytes, endpoint: str = CHAT) -> Batch:
    file = client.files.create(file=("in.jsonl", b"\n".join(lines) + b"\n"), purpose="batch")
    return client.batches.create(input_file_id=file.id, endpoint=endpoint, completion_window="24h")  # type: ignore[arg-type]


def ended(client: openai.OpenAI, batch: Batch, seconds: float = 90) -> Batch:
    def look() -> Batch | None:
        with suppress(openai.APIStatusError, openai.APIConnectionError):  # content may be starting anew
            found = client.batches.retrieve(batch.id)
            return found if found.status in ENDED else None
        return None

    found = until(look, "the batch has ended", seconds=seconds, pause_seconds=0.2)
    assert found is not None
    return found


def lines_of(client: openai.OpenAI, file_id: str | None) -> dict[str | None, dict[str, Any]]:
    assert file_id is not None
    found = [json.loads(each) for each in client.files.content(file_id).read().splitlines()]
    assert len({each["id"] for each in found}) == len(found)
    return {each["custom_id"]: each for each in found}


def test_broken_lines_are_named_and_the_others_run(anyone: Tenant, client: openai.OpenAI) -> None:
    batch = send(
        client,
        line("a"),
        b'{"custom_id": "half',
        line("b", url="/v1/embeddings"),
        b"",
        line("a"),
        line("c", stream=True),
        line("d", temperature=9),
        line("e", model="no-such-model"),
        line("f", max_tokens=3),
    )
    assert (batch.status, batch.object, batch.completion_window) == ("validating", "batch", "24h")
    done = ended(client, batch)
    assert done.status == "completed"
    assert done.request_counts is not None
    assert (done.request_counts.total, done.request_counts.completed, done.request_counts.failed) == (8, 2, 6)
    assert done.errors is not None
    assert [error.line for error in done.errors.data or ()] == [2, 3, 5, 6]

    results = lines_of(client, done.output_file_id)
    assert set(results) == {"a", "f"}
    answers = {name: result["response"] for name, result in results.items()}
    assert all(answer["status_code"] == 200 for answer in answers.values())
    assert answers["f"]["body"]["choices"][0]["message"]["role"] == "assistant"

    assert done.error_file_id is not None
    errors = [json.loads(each) for each in client.files.content(done.error_file_id).read().splitlines()]
    by_code = {error["error"]["code"]: error for error in errors if error["error"] is not None}
    assert set(by_code) == {"invalid_json_line", "mismatched_url", "duplicate_custom_id", "unsupported_stream"}
    assert by_code["invalid_json_line"]["error"]["message"].startswith("line 2: ")
    answered_errors = {error["custom_id"]: error["response"] for error in errors if error["response"] is not None}
    assert answered_errors["d"]["body"]["error"]["param"] == "temperature"
    assert (answered_errors["e"]["status_code"], answered_errors["e"]["body"]["error"]["code"]) == (
        404,
        "model_not_found",
    )

    served = {event["id"]: event for event in until(lambda: _events(anyone, 2), "both answers are in the usage")}
    assert {answer["request_id"] for answer in answers.values()} == set(served)
    assert done.usage is not None
    assert done.usage.total_tokens == sum(answer["body"]["usage"]["total_tokens"] for answer in answers.values())
    assert client.files.retrieve(done.output_file_id or "").purpose == "batch_output"


def test_embeddings_in_a_batch(client: openai.OpenAI) -> None:
    body = {"custom_id": "x", "method": "POST", "url": "/v1/embeddings", "body": {"model": EMBEDDING_MODEL}}
    body["body"]["input"] = ["one", "two"]  # type: ignore[index]
    done = ended(client, send(client, json.dumps(body).encode(), endpoint="/v1/embeddings"))
    result = lines_of(client, done.output_file_id)["x"]
    assert len(result["response"]["body"]["data"]) == 2
    assert done.error_file_id is None


@pytest.mark.parametrize("lines", [[b"no", b"lines"], [b""]])
def test_a_file_without_a_line_that_could_run_fails(client: openai.OpenAI, lines: list[bytes]) -> None:
    done = ended(client, send(client, *lines))
    assert (done.status, done.output_file_id) == ("failed", None)
    assert done.errors is not None
    assert done.errors.data


def test_what_is_refused(cloud: Cloud, anyone: Tenant, client: openai.OpenAI) -> None:
    key = anyone.key["key"]
    file = client.files.create(file=("in.jsonl", line("a")), purpose="batch").id
    other = client.files.create(file=("in.txt", b"x"), purpose="user_data").id
    good = {"input_file_id": file, "endpoint": CHAT, "completion_window": "24h"}

    def send_body(key: str = key, **changes: Any) -> httpx2.Response:
        return infer(cloud.base_url, key, "POST", "/v1/batches", json=good | changes)

    refused(send_body(input_file_id="file_none"), 400, "file_not_found", "input_file_id")
    refused(send_body(input_file_id=other), 400, "wrong_purpose", "input_file_id")
    refused(send_body(key=cloud.api_key), 400, "file_not_found", "input_file_id")  # another tenant's
    refused(send_body(endpoint="/v1/files"), 400, "invalid_value", "endpoint")
    refused(send_body(completion_window="1h"), 400, "invalid_value", "completion_window")
    refused(send_body(private=1), 400, "unknown_parameter", "private")
    refused(send_body(metadata={"k": "v" * 513}), 400, "invalid_value", "metadata[...]")
    refused(infer(cloud.base_url, key, "GET", "/v1/batches/batch_none"), 404, "not_found", "batch_id")
    assert infer(cloud.base_url, key, "GET", "/v1/batches").json()["data"] == []


def test_another_tenants_batch_is_not_there(cloud: Cloud, client: openai.OpenAI) -> None:
    batch = send(client, line("a"))
    for method, path in (("GET", ""), ("POST", "/cancel")):
        refused(infer(cloud.base_url, cloud.api_key, method, f"/v1/batches/{batch.id}{path}"), 404, "not_found")
    assert batch.id not in infer(cloud.base_url, cloud.api_key, "GET", "/v1/batches").text
    done = ended(client, batch)
    assert done.output_file_id is not None
    theirs = infer(cloud.base_url, cloud.api_key, "GET", f"/v1/files/{done.output_file_id}/content")
    refused(theirs, 404, "not_found")


def test_a_cancelled_batch_keeps_what_it_has(slow_model: str, anyone: Tenant, client: openai.OpenAI) -> None:
    batch = send(client, *(line(f"l{number}", model=slow_model) for number in range(200)))
    with pytest.raises(openai.ConflictError, match="reads this file"):
        client.files.delete(batch.input_file_id)
    _wait_for(client, batch, 3)
    assert client.batches.cancel(batch.id).status == "cancelling"
    done = ended(client, batch)
    assert done.status == "cancelled"
    results, errors = lines_of(client, done.output_file_id), lines_of(client, done.error_file_id)
    assert done.request_counts is not None
    assert len(results) == done.request_counts.completed < 200
    assert len(results) + len(errors) == 200
    assert {error["error"]["code"] for error in errors.values()} == {"batch_cancelled"}
    with pytest.raises(openai.ConflictError, match="nothing to cancel"):
        client.batches.cancel(batch.id)
    until(lambda: _events(anyone, len(results)), "each answer is in the usage")


@pytest.mark.timeout(300)
def test_kill_9_in_the_middle_and_each_line_is_answered_and_charged_once(
    cloud: Cloud, slow_model: str, anyone: Tenant, client: openai.OpenAI
) -> None:
    batch = send(client, *(line(f"l{number}", model=slow_model) for number in range(LINES)))
    for process, wanted in (("content", 3), ("content", 12), ("gateway", 20)):
        _wait_for(client, batch, wanted)
        kill(cloud, process)
    done = ended(client, batch)
    assert done.status == "completed"
    results = lines_of(client, done.output_file_id)
    assert set(results) == {f"l{number}" for number in range(LINES)}
    ids = Counter(result["response"]["request_id"] for result in results.values())
    assert set(ids.values()) == {1}

    events = until(lambda: _events(anyone, LINES), "each line is in the usage", seconds=60)
    assert Counter(event["id"] for event in events) == ids  # every line's own id, each of them once
    whole = [event for event in events if event["outcome"] == "completed"]
    # Only what a killed gateway had under way is charged for less than its answer.
    assert len(whole) >= LINES - 16
    for event in whole:
        assert event["usage"]["output_tokens"] == 4
    verify_ledger(cloud)


def _wait_for(client: openai.OpenAI, batch: Batch, completed: int) -> None:
    until(lambda: _completed(client, batch) >= completed, f"{completed} lines are answered", seconds=60)


def kill(cloud: Cloud, process: str) -> None:
    """Kill -9, and waits for its successor."""
    pid = cloud.pid_of(process)
    os.kill(pid, signal.SIGKILL)
    until(lambda: not psutil.pid_exists(pid), f"the end of {process}")
    until(lambda: cloud.pid_of(process) != pid, f"{process} is back")


def _completed(client: openai.OpenAI, batch: Batch) -> int:
    try:
        counts = client.batches.retrieve(batch.id).request_counts
    except (openai.APIStatusError, openai.APIConnectionError):
        return 0
    return 0 if counts is None else counts.completed


def _events(tenant: Tenant, count: int) -> list[dict[str, Any]]:
    """The tenant's usage, once there is so much of it."""
    found = tenant.usage()
    return found if len(found) >= count else []


def test_responses_run_in_batches_and_are_kept_as_others_are(anyone: Tenant, client: openai.OpenAI) -> None:
    url = "/v1/responses"

    def asked(custom_id: str, **more: Any) -> bytes:
        body = {"model": CHAT_MODEL, "input": "Hi", "max_output_tokens": 16, **more}
        return json.dumps({"custom_id": custom_id, "method": "POST", "url": url, "body": body}).encode()

    lines = (
        asked("kept", instructions="Be short."),
        asked("not kept", store=False),
        asked("wrong", temperature=9),
        asked("thoughtful", reasoning={"effort": "high"}),
        asked("behind", background=True),
    )
    batch = ended(client, send(client, *lines, endpoint=url))
    assert batch.status == "completed"
    assert batch.request_counts is not None
    assert (batch.request_counts.completed, batch.request_counts.failed) == (2, 3)
    results = lines_of(client, batch.output_file_id)
    kept, passing = (results[name]["response"]["body"] for name in ("kept", "not kept"))
    for document in (kept, passing):
        assert (document["object"], document["status"] in ("completed", "incomplete")) == ("response", True)
        assert document["output"][0]["content"][0]["text"]
    assert client.responses.retrieve(kept["id"]).output_text == kept["output"][0]["content"][0]["text"]
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(passing["id"])
    assert batch.usage is not None
    assert batch.usage.output_tokens == kept["usage"]["output_tokens"] + passing["usage"]["output_tokens"] > 0
    errors = {name: line["response"]["body"]["error"] for name, line in lines_of(client, batch.error_file_id).items()}
    assert {name: error["param"] for name, error in errors.items()} == {
        "wrong": "temperature",
        "thoughtful": "reasoning.effort",
        "behind": "background",
    }
    rows = until(lambda: len(found := anyone.usage()) == 2 and found, "both are charged")
    assert rows
    assert {row["tier"] for row in rows} == {"batch"}
