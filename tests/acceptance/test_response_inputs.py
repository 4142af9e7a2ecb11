"""What an input refers to: items that are kept, and files, of the caller's own project alone."""

import base64
from collections.abc import Iterator
from typing import Any

import openai
import pytest

from tests.acceptance.tenants import CHAT_MODEL, Tenant, infer
from tests.acceptance.test_bad_input import refused
from tests.support.cloud import Cloud
from tests.support.pdfs import pdf

ASK: dict[str, Any] = {"model": CHAT_MODEL, "max_output_tokens": 8, "temperature": 0}


@pytest.fixture
def client(anyone: Tenant) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{anyone.base_url}/v1", api_key=anyone.key["key"], max_retries=0) as made:
        yield made


def test_items_are_asked_again_by_their_ids(cloud: Cloud, client: openai.OpenAI) -> None:
    first = client.responses.create(**ASK, input="Say hello.")
    talk = client.conversations.create(items=[{"type": "message", "role": "developer", "content": "Be brief."}])
    [told] = client.conversations.items.list(talk.id)
    [asked] = client.responses.input_items.list(first.id)
    ids = [told.id, asked.id, first.output[0].id]
    references: list[Any] = [{"type": "item_reference", "id": item_id} for item_id in ids]
    again: list[Any] = [*references, {"role": "user", "content": "Once more."}]
    second = client.responses.create(**ASK, input=again)
    said: list[Any] = [
        {"role": "developer", "content": "Be brief."},
        {"role": "user", "content": "Say hello."},
        {"role": "assistant", "content": first.output_text},
        {"role": "user", "content": "Once more."},
    ]
    whole = client.responses.create(**ASK, input=said)
    assert second.usage is not None
    assert whole.usage is not None
    assert second.usage.input_tokens == whole.usage.input_tokens
    assert {item.id for item in client.responses.input_items.list(second.id)} >= set(ids)
    for reference in references:
        body = {**ASK, "input": [reference]}
        answer = infer(cloud.base_url, cloud.api_key, "POST", "/v1/responses", json=body)
        error = refused(answer, 404, "item_not_found", "input[0].id")
        assert reference["id"] in error["message"]
    client.responses.delete(first.id)
    client.responses.delete(second.id)
    with pytest.raises(openai.NotFoundError):
        client.responses.create(**ASK, input=[references[2]])


def test_files_are_read_as_text(cloud: Cloud, client: openai.OpenAI) -> None:
    text = "The word is heliotrope.\n"
    file = client.files.create(file=("notes.md", text.encode()), purpose="user_data")
    data = base64.b64encode(text.encode()).decode()
    usages = []
    for part in (
        {"type": "input_file", "file_id": file.id},
        {"type": "input_file", "file_data": f"data:text/markdown;base64,{data}", "filename": "notes.md"},
        {"type": "input_text", "text": f'<file name="notes.md">\n{text}\n</file>'},
    ):
        content: list[Any] = [part, {"type": "input_text", "text": "What is the word?"}]
        response = client.responses.create(**ASK, input=[{"role": "user", "content": content}])
        assert response.usage is not None
        usages.append(response.usage.input_tokens)
        [item] = client.responses.input_items.list(response.id)
        assert "heliotrope" in item.content[0].text  # type: ignore[union-attr,index]
    assert len(set(usages)) == 1
    paper = client.files.create(file=("paper.pdf", pdf(["The word is heliotrope."])), purpose="user_data")
    content = [{"type": "input_file", "file_id": paper.id}, {"type": "input_text", "text": "What is the word?"}]
    response = client.responses.create(**ASK, input=[{"role": "user", "content": content}])
    [item] = client.responses.input_items.list(response.id)
    assert item.content[0].text == '<file name="paper.pdf">\nThe word is heliotrope.\n</file>'  # type: ignore[union-attr,index]
    body = {**ASK, "input": [{"role": "user", "content": [{"type": "input_file", "file_id": file.id}]}]}
    answer = infer(cloud.base_url, cloud.api_key, "POST", "/v1/responses", json=body)
    refused(answer, 404, "file_not_found", "input[0].content[0].file_id")


@pytest.mark.parametrize(
    ("part", "code", "name"),
    [
        ({"file_url": "https://example.com/a.txt"}, "invalid_value", ".file_url"),
        ({"filename": "a.txt"}, "missing_required_parameter", ""),
        ({"file_data": "JVBERi0xLjQK4uM=", "filename": "a.pdf"}, "unsupported_file", ".file_data"),
        ({"file_data": "a", "filename": "a.txt"}, "invalid_value", ".file_data"),
    ],
)
def test_files_that_are_not_read(cloud: Cloud, part: dict[str, Any], code: str, name: str) -> None:
    content = [{"type": "input_text", "text": "Read."}, {"type": "input_file", **part}]
    body = {**ASK, "input": [{"role": "user", "content": content}]}
    answer = infer(cloud.base_url, cloud.api_key, "POST", "/v1/responses", json=body)
    refused(answer, 400, code, f"input[0].content[1]{name}")


def test_a_conversations_items_hold_no_files(cloud: Cloud) -> None:
    items = [{"type": "message", "role": "user", "content": [{"type": "input_file", "file_id": "file_1"}]}]
    answer = infer(cloud.base_url, cloud.api_key, "POST", "/v1/conversations", json={"items": items})
    refused(answer, 400, "invalid_value", "items[0].content[0]")
