"""Responses and conversations by the openai client: streamed and not, stored, chained, another tenant's, refused."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
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
        ({"conversation": "conv_1"}, 404, "not_found", "conversation"),
        ({"conversation": {"id": "a\x00b"}}, 404, "not_found", "conversation"),
        (
            {"conversation": "c", "previous_response_id": "r"},
            400,
            "mutually_exclusive_parameters",
            "previous_response_id",
        ),
        ({"conversation": "c", "store": False}, 400, "invalid_value", "store"),
        ({"truncation": "middle"}, 400, "invalid_value", "truncation"),
        ({"tools": [{"type": "web_search"}]}, 400, "invalid_value", "tools[0].type"),
        ({"input": [{"type": "item_reference", "id": "x"}]}, 404, "item_not_found", "input[0].id"),
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


def test_what_is_too_long_is_cut_where_that_is_asked_for_and_an_error_else(client: openai.OpenAI) -> None:
    turns: list[Any] = [{"role": "developer", "content": "Answer in one word."}]
    for text in ("sea " * 6_000, "And?", "And?"):
        turns += [{"role": "user", "content": text}, {"role": "assistant", "content": "Yes."}]
    turns.append({"role": "user", "content": "Say hello."})
    with pytest.raises(openai.BadRequestError) as refused:
        client.responses.create(model=CHAT_MODEL, input=turns, max_output_tokens=16)
    assert refused.value.code == "context_length_exceeded"
    cut = client.responses.create(model=CHAT_MODEL, input=turns, max_output_tokens=16, truncation="auto")
    assert (cut.truncation, cut.status in ("completed", "incomplete")) == ("auto", True)
    assert cut.usage is not None
    assert 20 < cut.usage.input_tokens < 200
    last: list[Any] = [{"role": "user", "content": "sea " * 6_000}]
    with pytest.raises(openai.BadRequestError) as still:
        client.responses.create(model=CHAT_MODEL, input=last, truncation="auto", max_output_tokens=16)
    assert still.value.code == "context_length_exceeded"


def test_a_conversation_goes_on_with_every_response(client: openai.OpenAI) -> None:
    rules: Any = {"type": "message", "role": "developer", "content": "Be brief."}
    talk = client.conversations.create(items=[rules], metadata={"a": "b"})
    assert (talk.object, talk.metadata) == ("conversation", {"a": "b"})
    first = client.responses.create(**ASK, conversation=talk.id)
    assert first.conversation is not None
    assert first.conversation.id == talk.id
    events = list(client.responses.create(**{**ASK, "input": "Once more."}, conversation={"id": talk.id}, stream=True))
    second: Any = events[-1].response
    assert first.usage is not None
    assert second.usage is not None
    assert second.usage.input_tokens > first.usage.input_tokens  # what was said before is asked with it
    said = ["Be brief.", "Say hello.", first.output_text, "Once more.", second.output_text]
    assert _texts(client, talk.id) == said
    pages: list[Any] = list(client.conversations.items.list(talk.id, limit=2))  # newest first, page after page
    assert [item.content[0].text for item in pages] == said[::-1]
    with pytest.raises(openai.BadRequestError) as refused_chain:
        client.responses.create(**ASK, previous_response_id=second.id)
    assert refused_chain.value.param == "previous_response_id"
    background = client.responses.create(**ASK, conversation=talk.id, background=True)
    ended = until(lambda: _ended(client, background.id), "the response has ended", seconds=60)
    assert ended.status in ("completed", "incomplete"), ended.error
    assert len(_texts(client, talk.id)) == len(said) + 2


def test_responses_at_once_lose_nothing_of_a_conversation(client: openai.OpenAI) -> None:
    talk = client.conversations.create()
    inputs = [f"Say {number}." for number in range(4)]
    with ThreadPoolExecutor(len(inputs)) as pool:
        made = pool.map(lambda text: client.responses.create(**{**ASK, "input": text}, conversation=talk.id), inputs)
        turns = {(text, response.output_text) for text, response in zip(inputs, made, strict=True)}
    texts = _texts(client, talk.id)
    assert set(zip(texts[::2], texts[1::2], strict=True)) == turns  # each turn in one piece


def test_a_conversations_items_are_put_in_looked_at_and_deleted(client: openai.OpenAI) -> None:
    talk = client.conversations.create()
    written: Any = [
        {"role": "user", "content": "One."},
        {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"},
    ]
    added = client.conversations.items.create(talk.id, items=written)
    message, call = added.data
    assert (added.first_id, added.last_id, added.has_more) == (message.id, call.id, False)
    assert client.conversations.items.retrieve(message.id or "", conversation_id=talk.id) == message
    assert client.conversations.items.delete(call.id or "", conversation_id=talk.id).id == talk.id
    assert [item.id for item in client.conversations.items.list(talk.id)] == [message.id]
    assert client.conversations.update(talk.id, metadata={"c": "d"}).metadata == {"c": "d"}
    assert client.conversations.retrieve(talk.id).metadata == {"c": "d"}
    assert client.conversations.delete(talk.id).deleted
    for gone in (client.conversations.retrieve, client.conversations.items.list, client.conversations.delete):
        with pytest.raises(openai.NotFoundError):
            gone(talk.id)


def test_another_tenants_conversation_is_not_there(cloud: Cloud, client: openai.OpenAI) -> None:
    item: Any = {"role": "user", "content": "Mine.", "id": "msg_mine"}
    talk = client.conversations.create(items=[item])
    calls: list[tuple[str, str, Any]] = [
        ("GET", "", None),
        ("POST", "", {"metadata": {}}),
        ("DELETE", "", None),
        ("GET", "/items", None),
    ]
    calls += [("POST", "/items", {"items": [item]}), ("GET", "/items/msg_mine", None)]
    for method, path, body in [*calls, ("DELETE", "/items/msg_mine", None)]:
        answer = infer(cloud.base_url, cloud.api_key, method, f"/v1/conversations/{talk.id}{path}", json=body)
        refused(answer, 404, "not_found", "conversation_id")
    asked = infer(cloud.base_url, cloud.api_key, "POST", "/v1/responses", json={**ASK, "conversation": talk.id})
    refused(asked, 404, "not_found", "conversation")
    assert _texts(client, talk.id) == ["Mine."]


def test_what_a_conversation_does_not_take(cloud: Cloud, client: openai.OpenAI) -> None:
    item = {"role": "user", "content": "One.", "id": "msg_one"}
    talk = client.conversations.create(items=[item])  # type: ignore[list-item]
    one = f"/v1/conversations/{talk.id}"

    def post(path: str, body: dict[str, Any]) -> Any:
        return infer(cloud.base_url, client.api_key, "POST", path, json=body)

    refused(post(f"{one}/items", {"items": [item]}), 400, "duplicate_item", "items[0].id")
    refused(post(f"{one}/items", {"items": [{"role": "user", "content": "x"}] * 21}), 400, "invalid_value", "items")
    refused(post(f"{one}/items", {"items": [{"type": "mcp_call"}]}), 400, "invalid_value", "items[0].type")
    refused(post("/v1/conversations", {"metadata": {"a": "b" * 513}}), 400, "invalid_value")
    refused(post("/v1/conversations", {"name": "x"}), 400, "unknown_parameter", "name")
    refused(post("/v1/responses", {**ASK, "conversation": talk.id, "input": [item]}), 400, "duplicate_item")
    for query, param in (("after=msg_two", "after"), ("limit=0", "limit"), ("order=up", "order")):
        answer = infer(cloud.base_url, client.api_key, "GET", f"{one}/items?{query}")
        refused(answer, 400, "invalid_value", param)
    missing = infer(cloud.base_url, client.api_key, "GET", f"{one}/items/msg%00two")
    refused(missing, 404, "not_found", "item_id")
    assert _texts(client, talk.id) == ["One."]


def _texts(client: openai.OpenAI, conversation_id: str) -> list[str]:
    """What was said, oldest first."""
    items: list[Any] = list(client.conversations.items.list(conversation_id, order="asc"))
    return [item.content[0].text for item in items]
