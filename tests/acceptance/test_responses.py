"""Responses by the openai client: streamed and not, stored, chained, another tenant's, refused."""

from collections.abc import Iterator
from typing import Any

import openai
import pytest

from tests.acceptance.tenants import CHAT_MODEL, Tenant, infer
from tests.acceptance.test_bad_input import refused
from tests.acceptance.test_batches import kill
from tests.support.cloud import Cloud
from tests.support.waiting import until

ASK: dict[str, Any] = {"model": CHAT_MODEL, "input": "Say hello.", "max_output_tokens": 8, "temperature": 0}


@pytest.fixture
def client(anyone: Tenant) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{anyone.base_url}/v1", api_key=anyone.key["key"], max_retries=0) as made:
        yield made


def test_a_response_is_answered_stored_followed_and_charged(anyone: Tenant, client: openai.OpenAI) -> None:
    first = client.responses.create(**ASK, instructions="Be brief.", metadata={"a": "b"})
    assert (first.object, first.status, first.metadata) == ("response", first.status, {"a": "b"})
    assert first.status in ("completed", "incomplete")
    assert first.output_text
    stored = client.responses.retrieve(first.id)
    assert stored.model_dump() == first.model_dump()
    listed = client.responses.input_items.list(first.id)
    assert [item.content[0].text for item in listed] == ["Say hello."]  # type: ignore[union-attr,index]
    second = client.responses.create(**{**ASK, "input": "Once more."}, previous_response_id=first.id)
    assert first.usage is not None
    assert second.usage is not None
    assert second.usage.input_tokens > first.usage.input_tokens  # what was said before is asked with it
    until(lambda: len(anyone.usage()) == 2, "both are in the usage")
    tokens = sum(event["usage"]["input_tokens"] + event["usage"]["output_tokens"] for event in anyone.usage())
    assert tokens == first.usage.total_tokens + second.usage.total_tokens
    client.responses.delete(first.id)
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(first.id)
    with pytest.raises(openai.BadRequestError) as gone:
        client.responses.create(**ASK, previous_response_id=second.id)
    assert gone.value.code == "previous_response_not_found"


def test_a_stream_has_the_events_that_the_client_knows(client: openai.OpenAI) -> None:
    events = list(client.responses.create(**ASK, stream=True))
    last = events[-1]
    assert last.type in ("response.completed", "response.incomplete")
    final = last.response
    assert [event.sequence_number for event in events] == sorted(event.sequence_number for event in events)
    assert events[0].type == "response.created"
    texts = [event.delta for event in events if event.type == "response.output_text.delta"]
    assert "".join(texts) == final.output_text == client.responses.create(**ASK).output_text
    assert client.responses.retrieve(final.id).output_text == final.output_text


def test_what_is_not_to_be_stored_is_not(cloud: Cloud, client: openai.OpenAI) -> None:
    response = client.responses.create(**ASK, store=False)
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(response.id)


def test_another_tenants_response_is_not_there(cloud: Cloud, client: openai.OpenAI) -> None:
    response = client.responses.create(**ASK)
    for method, path in (("GET", ""), ("GET", "/input_items"), ("POST", "/cancel"), ("DELETE", "")):
        answer = infer(cloud.base_url, cloud.api_key, method, f"/v1/responses/{response.id}{path}")
        refused(answer, 404, "not_found", "response_id")
    body = {**ASK, "previous_response_id": response.id}
    refused(
        infer(cloud.base_url, cloud.api_key, "POST", "/v1/responses", json=body), 400, "previous_response_not_found"
    )
    assert client.responses.retrieve(response.id).id == response.id


def test_in_the_background_it_is_polled_followed_and_cancelled(client: openai.OpenAI) -> None:
    begun = client.responses.create(**ASK, background=True)
    assert (begun.status, begun.background) == ("in_progress", True)
    ended = until(lambda: _ended(client, begun.id), "the response has ended", seconds=60)
    assert ended.output_text
    events = list(client.responses.retrieve(begun.id, stream=True))
    rest = list(client.responses.retrieve(begun.id, stream=True, starting_after=2))
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert rest == events[3:]
    assert client.responses.cancel(begun.id).status == ended.status  # it is over: nothing changes
    long = client.responses.create(
        **{**ASK, "input": "Tell a very long story.", "max_output_tokens": 1500}, background=True
    )
    assert client.responses.cancel(long.id).status == "cancelled"
    assert client.responses.retrieve(long.id).status == "cancelled"


def test_what_ran_in_the_background_of_a_killed_process_has_failed(cloud: Cloud, client: openai.OpenAI) -> None:
    long = client.responses.create(
        **{**ASK, "input": "Tell a very long story.", "max_output_tokens": 1500}, background=True
    )
    kill(cloud, "content")
    failed = until(lambda: _ended(client, long.id), "content is back", seconds=60)
    assert failed.status == "failed"
    assert failed.error is not None
    assert failed.error.code == "server_error"


def _ended(client: openai.OpenAI, response_id: str) -> Any:
    try:
        found = client.responses.retrieve(response_id)
    except (openai.APIStatusError, openai.APIConnectionError):  # content may be starting anew
        return None
    return None if found.status == "in_progress" else found


@pytest.mark.parametrize(
    ("changes", "status", "code", "param"),
    [
        ({"model": "no-such-model"}, 404, "model_not_found", "model"),
        ({"background": True, "store": False}, 400, "invalid_value", "store"),
        ({"conversation": "conv_1"}, 400, "unknown_parameter", "conversation"),
        ({"truncation": "auto"}, 400, "invalid_value", "truncation"),
        ({"tools": [{"type": "web_search"}]}, 400, "invalid_value", "tools[0].type"),
        ({"input": [{"type": "item_reference", "id": "x"}]}, 400, "invalid_value", "input[0].type"),
        ({"temperature": 3}, 400, "invalid_value", "temperature"),
        ({"input": "word " * 20_000}, 400, "context_length_exceeded", "input"),
        (
            {"input": [{"type": "function_call_output", "call_id": "c", "output": ""}]},
            400,
            "invalid_value",
            "input[0].call_id",
        ),
    ],
)
def test_what_is_refused(cloud: Cloud, changes: dict[str, Any], status: int, code: str, param: str) -> None:
    answer = infer(cloud.base_url, cloud.api_key, "POST", "/v1/responses", json={**ASK, **changes})
    assert refused(answer, status, code)["param"] == param
