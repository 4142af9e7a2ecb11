"""Files, as the openai client sends and reads them: isolation, bounds, and nothing left of what broke."""

import os
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import openai
import psutil
import pytest

from tests.acceptance.tenants import Tenant, infer
from tests.acceptance.test_bad_input import refused
from tests.support.cloud import Cloud
from tests.support.waiting import until

LINES = b'{"x": 1}\n' * 50


@pytest.fixture
def client(anyone: Tenant) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{anyone.base_url}/v1", api_key=anyone.key["key"], max_retries=0) as made:
        yield made


def objects(cloud: Cloud) -> set[Path]:
    """What the region's object store has on disk."""
    return {path for path in (cloud.data / "regions/local/objects").rglob("*") if path.is_file()}


def test_a_file_from_its_upload_to_its_deletion(cloud: Cloud, client: openai.OpenAI) -> None:
    before = objects(cloud)
    file = client.files.create(file=("a b.jsonl", LINES), purpose="batch")
    assert (file.bytes, file.filename, file.purpose, file.status) == (len(LINES), "a b.jsonl", "batch", "processed")
    assert client.files.retrieve(file.id) == file
    assert client.files.content(file.id).read() == LINES
    assert len(objects(cloud) - before) == 1
    assert client.files.delete(file.id).deleted
    with pytest.raises(openai.NotFoundError):
        client.files.content(file.id)
    until(lambda: objects(cloud) == before, "its object is removed", seconds=90)


def test_files_are_listed_by_pages_and_purpose(client: openai.OpenAI) -> None:
    made = [client.files.create(file=(f"{number}.txt", b"x"), purpose="user_data").id for number in range(3)]
    other = client.files.create(file=("v.png", b"x"), purpose="vision").id
    first = client.files.list(limit=2, order="asc")
    assert ([file.id for file in first.data], first.has_more) == (made[:2], True)
    assert [file.id for file in client.files.list(limit=2)] == [other, *made[::-1]]  # newest first, every page
    assert [file.id for file in client.files.list(purpose="vision")] == [other]
    with pytest.raises(openai.BadRequestError, match="limit"):
        client.files.list(limit=0)


def test_a_file_says_when_it_expires(client: openai.OpenAI) -> None:
    expires = {"anchor": "created_at", "seconds": 3600}
    file = client.files.create(file=("a.txt", b"x"), purpose="user_data", expires_after=expires)  # type: ignore[arg-type]
    assert file.expires_at == file.created_at + 3600
    with pytest.raises(openai.BadRequestError, match="expires_after"):
        client.files.create(file=("a.txt", b"x"), purpose="user_data", expires_after={**expires, "seconds": 5})  # type: ignore[arg-type]


def test_another_tenants_file_is_not_there(cloud: Cloud, client: openai.OpenAI) -> None:
    file = client.files.create(file=("a.jsonl", LINES), purpose="batch")
    for method, path in (("GET", ""), ("GET", "/content"), ("DELETE", "")):
        refused(infer(cloud.base_url, cloud.api_key, method, f"/v1/files/{file.id}{path}"), 404, "not_found", "file_id")
    assert file.id not in infer(cloud.base_url, cloud.api_key, "GET", "/v1/files").text
    assert client.files.content(file.id).read() == LINES


def test_what_is_refused(cloud: Cloud, anyone: Tenant) -> None:
    key = anyone.key["key"]

    def send(data: dict[str, str], name: str = "a.jsonl") -> object:
        return infer(cloud.base_url, key, "POST", "/v1/files", data=data, files={"file": (name, LINES)})

    refused(send({"purpose": "nonsense"}), 400, "invalid_value", "purpose")  # type: ignore[arg-type]
    refused(send({"purpose": "batch_output"}), 400, "invalid_value", "purpose")  # type: ignore[arg-type]
    refused(send({"purpose": "batch"}, "a.csv"), 400, "invalid_value", "file")  # type: ignore[arg-type]
    refused(send({"purpose": "batch", "private": "1"}), 400, "unknown_parameter", "private")  # type: ignore[arg-type]
    refused(infer(cloud.base_url, key, "POST", "/v1/files", json={}), 400, "invalid_value")
    refused(infer(cloud.base_url, key, "PUT", "/v1/files"), 405, "method_not_allowed")
    refused(infer(cloud.base_url, key, "GET", "/v1/files/a/b/c"), 404, "not_found")
    assert infer(cloud.base_url, key, "GET", "/v1/files").json()["data"] == []


def begin_upload(cloud: Cloud, key: str, announced_bytes: int) -> socket.socket:
    """An upload whose form has begun, on a connection of its own."""
    host, port = cloud.base_url.removeprefix("http://").split(":")
    head = (
        f"POST /v1/files HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {key}\r\n"
        f"content-type: multipart/form-data; boundary=xx\r\ncontent-length: {announced_bytes}\r\n\r\n"
        '--xx\r\ncontent-disposition: form-data; name="file"; filename="a"\r\n\r\n'
    )
    link = socket.create_connection((host, int(port)), timeout=60)
    link.sendall(head.encode() + b"x" * 3_000_000)
    return link


def test_a_file_that_is_too_large_is_refused_at_its_head(cloud: Cloud, anyone: Tenant) -> None:
    with begin_upload(cloud, anyone.key["key"], 600 * 2**20) as link:
        assert b" 413 " in link.recv(1000)


def test_a_broken_upload_leaves_nothing(cloud: Cloud, anyone: Tenant) -> None:
    key = anyone.key["key"]
    before = objects(cloud)
    with begin_upload(cloud, key, 8_000_000):
        until(lambda: objects(cloud) != before, "the upload is on its way")
    until(lambda: objects(cloud) == before, "what it left is removed")
    assert infer(cloud.base_url, key, "GET", "/v1/files").json()["data"] == []


def test_an_upload_that_content_dies_in_leaves_nothing(cloud: Cloud, anyone: Tenant) -> None:
    key = anyone.key["key"]
    before = objects(cloud)
    pid = cloud.pid_of("content")
    with begin_upload(cloud, key, 8_000_000):
        until(lambda: objects(cloud) != before, "the upload is on its way")
        os.kill(pid, signal.SIGKILL)
        until(lambda: not psutil.pid_exists(pid), "the end of content")
    until(lambda: infer(cloud.base_url, key, "GET", "/v1/files").status_code == 200, "content is back")
    assert objects(cloud) == before
    assert infer(cloud.base_url, key, "GET", "/v1/files").json()["data"] == []


@pytest.mark.parametrize("path", ["files", "batches", "responses", "conversations"])
def test_an_id_that_no_database_holds_is_no_fault_of_ours(cloud: Cloud, path: str) -> None:
    answer = infer(cloud.base_url, cloud.api_key, "GET", f"/v1/{path}/a%00b")
    assert answer.status_code in (400, 404), answer.text
    assert answer.json()["error"]["type"] in ("invalid_request_error", "not_found_error")
