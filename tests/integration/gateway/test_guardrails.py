"""Guardrails through the gateway with a scripted engine behind it: before the model, and on the answer's way out."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx2
import pytest

from cloudcrest.identity.api import GuardrailAction, Guardrails, OrganizationDocument, ProjectDocument
from cloudcrest.kernel.usage import Usage
from tests.integration.gateway.scripted import Cloud, cloud, error_of
from tests.support.gateway_cloud import COMPLETION, KEY, chunk_event, json_answer, stream_answer, usage

pytestmark = pytest.mark.anyio

HEADER = "x-cloudcrest-guardrails"
Rules = dict[str, GuardrailAction]


def guard(c: Cloud, input: Rules | None = None, output: Rules | None = None) -> None:  # noqa: A002
    """The project's guardrails from now on."""
    project = ProjectDocument("proj_1", "org_1", guardrails=Guardrails(input=input or {}, output=output or {}))
    c.running.set_documents("project", {"proj_1": project, "proj_2": ProjectDocument("proj_2", "org_2")})


def saying(text: str) -> list[dict[str, str]]:
    return [{"role": "system", "content": "be kind"}, {"role": "user", "content": text}]


def refused(response: httpx2.Response, code: str) -> dict[str, Any]:
    error = error_of(response)
    assert (response.status_code, error["code"]) == (400, code)
    return error


def told(content: bytes) -> tuple[str, list[str]]:
    """The text of a stream, and how its choices finish."""
    text, finishes = "", []
    for line in content.decode().splitlines():
        if line.startswith("data: {"):
            for choice in json.loads(line[6:])["choices"]:
                text += choice["delta"].get("content") or ""
                finishes += [choice["finish_reason"]] if choice["finish_reason"] else []
    return text, finishes


async def test_without_a_policy_nothing_is_looked_at(tmp_path: Path) -> None:
    async with cloud(tmp_path, json_answer(COMPLETION)) as c:
        guard(c)
        assert not c.running.gateway.snapshot.policies.is_any
        response = await c.chat(messages=saying("ann@x.org"))
        assert HEADER not in response.headers
        assert c.upstreams[0].received[0].json["messages"][1]["content"] == "ann@x.org"


async def test_a_block_says_what_and_where_and_never_the_value(tmp_path: Path) -> None:
    async with cloud(tmp_path, json_answer(COMPLETION)) as c:
        guard(c, input={"pii": "flag", "card": "block"})
        response = await c.chat(messages=saying("pay with 4111 1111 1111 1111"))
        error = refused(response, "content_blocked")
        assert error["param"] == "messages[1].content"
        assert "card" in error["message"]
        assert "4111" not in response.text
        assert response.headers[HEADER] == "input card=block:1"
        assert (c.upstreams[0].received, c.spool.opened) == ([], [])
        page = (await c.client.get("/metrics")).text
        assert 'cloudcrest_gateway_guardrails_total{stage="input",kind="card",action="block"} 1' in page


async def test_what_is_redacted_reaches_no_model(tmp_path: Path) -> None:
    async with cloud(tmp_path, json_answer(COMPLETION), route={"engine": "upstream"}) as c:
        guard(c, input={"pii": "redact", "secrets": "redact"})
        call = {"id": "call_1", "type": "function", "function": {"name": "f", "arguments": '{"to":"ann@x.org","n":1}'}}
        tool = {"type": "function", "function": {"name": "f", "description": "mails bob@x.org", "parameters": {}}}
        messages = [
            {"role": "user", "content": [{"type": "text", "text": "I am ann@x.org, key AKIAIOSFODNN7EXAMPLE"}]},
            {"role": "assistant", "content": None, "tool_calls": [call]},
            {"role": "tool", "tool_call_id": "call_1", "content": "ann@x.org and bob@x.org have +49 30 901820"},
        ]
        response = await c.chat(messages=messages, tools=[tool], user="carl@x.org")
        assert response.headers[HEADER] == "input email=redact:5 phone=redact:1 secret=redact:1"
        sent = c.upstreams[0].received[0].json
        assert sent["messages"][0]["content"][0]["text"] == "I am [EMAIL_1], key [SECRET_1]"
        assert json.loads(sent["messages"][1]["tool_calls"][0]["function"]["arguments"])["to"] == "[EMAIL_1]"
        assert sent["messages"][2]["content"] == "[EMAIL_1] and [EMAIL_2] have [PHONE_1]"
        assert sent["tools"][0]["function"]["description"] == "mails [EMAIL_2]"


async def test_prompts_and_inputs_are_looked_at_and_token_numbers_refused(tmp_path: Path) -> None:
    async with cloud(tmp_path, json_answer(COMPLETION)) as c:
        guard(c, input={"email": "redact"})
        headers = {"authorization": f"Bearer {KEY}"}
        body = {"model": "m", "prompt": "to ann@x.org"}
        await c.client.post("/v1/completions", json=body, headers=headers)
        assert c.upstreams[0].received[0].json["prompt"] == "to [EMAIL_1]"
        answer = await c.client.post("/v1/completions", json=body | {"prompt": [1, 2, 3]}, headers=headers)
        assert refused(answer, "unsupported_content")["param"] == "prompt"


async def test_a_long_request_is_looked_through_in_steps(tmp_path: Path) -> None:
    async with cloud(tmp_path, json_answer(COMPLETION)) as c:
        guard(c, input={"email": "redact", "card": "block"})
        words = "some words of no interest " * 4000
        response = await c.chat(messages=saying(words + "ann@x.org " + words))
        assert response.json() == COMPLETION
        assert c.upstreams[0].received[0].json["messages"][1]["content"] == words + "[EMAIL_1] " + words
        refused(await c.chat(messages=saying(words + "4111111111111111")), "content_blocked")


async def test_an_organizations_least_holds_in_a_project_without_any(tmp_path: Path) -> None:
    async with cloud(tmp_path, json_answer(COMPLETION)) as c:
        least = OrganizationDocument("org_1", guardrails=Guardrails(input={"moderation": "block", "email": "flag"}))
        c.running.set_documents("organization", {"org_1": least, "org_2": OrganizationDocument("org_2")})
        refused(await c.chat(messages=saying("i will kill you")), "content_blocked")
        guard(c, input={"email": "off"})
        response = await c.chat(messages=saying("ann@x.org"))
        assert response.headers[HEADER] == "input email=flag:1"
        c.running.set_documents("organization", {"org_1": OrganizationDocument("org_1")})
        assert HEADER not in (await c.chat(messages=saying("ann@x.org"))).headers


async def test_a_whole_answer_is_redacted_or_ends_before_what_is_blocked(tmp_path: Path) -> None:
    said = {"role": "assistant", "content": "ask ann@x.org, card 4111 1111 1111 1111, bye"}
    answer = COMPLETION | {"choices": [{"index": 0, "message": said, "finish_reason": "stop"}]}
    async with cloud(tmp_path, json_answer(answer)) as c:
        guard(c, output={"pii": "redact"})
        response = await c.chat()
        (choice,) = response.json()["choices"]
        assert choice["message"]["content"] == "ask [EMAIL_1], card [CARD_1], bye"
        assert response.headers[HEADER] == "output card=redact:1 email=redact:1"
        guard(c, output={"card": "block"})
        (choice,) = (await c.chat()).json()["choices"]
        assert (choice["message"]["content"], choice["finish_reason"]) == ("ask ann@x.org, card ", "content_filter")
        assert [event.usage for event in c.spool.ended] == [Usage(5, 7), Usage(5, 7)]


@pytest.mark.parametrize("pieces", [list, lambda text: [text], lambda text: [text[:9], text[9:30], text[30:]]])
async def test_a_stream_is_redacted_whatever_its_chunks(tmp_path: Path, pieces: Callable[[str], list[str]]) -> None:
    text = "ask ann@x.org or (555) 123-4567, card 4111 1111 1111 1111"
    chunks = pieces(text)
    async with cloud(tmp_path, stream_answer(chunks, _end(len(chunks)))) as c:
        guard(c, input={"pii": "redact"}, output={"pii": "redact"})
        asked = await c.chat(messages=saying("I am bob@x.org"), stream=True, stream_options={"include_usage": True})
        assert told(asked.content) == ("ask [EMAIL_2] or [PHONE_1], card [CARD_1]", ["stop"])
        assert asked.content.endswith(b"data: [DONE]\n\n")
        assert b'"completion_tokens":%d' % len(chunks) in asked.content
        assert c.spool.ended[0].usage == Usage(5, len(chunks))


async def test_a_blocked_stream_ends_as_filtered_and_its_usage_is_counted(tmp_path: Path) -> None:
    chunks = ["my ", "card is 4111 1111", " 1111 1111", " and", " more"]
    async with cloud(tmp_path, stream_answer(chunks, _end(5))) as c:
        guard(c, output={"card": "block"})
        response = await c.chat(stream=True)
        assert told(response.content) == ("my card is ", ["content_filter"])
        assert response.content.endswith(b"data: [DONE]\n\n")
        asked = await c.chat(stream=True, stream_options={"include_usage": True})
        assert told(asked.content) == ("my card is ", ["content_filter"])
        assert b'"completion_tokens":5' in asked.content
        assert c.spool.ended[-1].usage == Usage(5, 5)


async def test_arguments_of_calls_are_looked_at(tmp_path: Path) -> None:
    def call(**function: str) -> bytes:
        delta = {"tool_calls": [{"index": 0, "id": "call_1", "type": "function", "function": function}]}
        return chunk_event(choices=[{"index": 0, "delta": delta, "finish_reason": None}])

    parts = [call(name="pay", arguments=""), call(arguments='{"card":4111111'), call(arguments='111111111,"a":1}')]
    tail = b"".join(parts) + _end(3)
    tool = {"type": "function", "function": {"name": "pay", "parameters": {}}}
    async with cloud(tmp_path, stream_answer(["so "], tail), route={"engine": "upstream"}) as c:
        guard(c, output={"card": "redact"})
        response = await c.chat(stream=True, tools=[tool])
        arguments = ""
        for line in response.content.decode().splitlines():
            for choice in json.loads(line[6:])["choices"] if line.startswith("data: {") else ():
                for each in choice["delta"].get("tool_calls", ()):
                    arguments += each["function"].get("arguments", "")
        assert json.loads(arguments) == {"card": "[CARD_1]", "a": 1}
        assert told(response.content) == ("so ", ["stop"])


async def test_logprobs_would_spell_it_out(tmp_path: Path) -> None:
    async with cloud(tmp_path, json_answer(COMPLETION)) as c:
        guard(c, output={"pii": "redact"})
        assert refused(await c.chat(logprobs=True), "unsupported_parameter")["param"] == "logprobs"


async def test_several_choices_are_looked_at_each(tmp_path: Path) -> None:
    async with cloud(tmp_path, stream_answer(["ann@", "x.org ", "bye"], _end(3)), route={"engine": "llamacpp"}) as c:
        guard(c, output={"email": "block"})
        response: httpx2.Response = await c.chat(stream=True, n=2)
        assert told(response.content) == ("", ["content_filter", "content_filter"])


async def test_documents_to_rank_are_looked_at(tmp_path: Path) -> None:
    ranked = {"results": [{"index": 0, "relevance_score": 0.5}], "usage": usage(3, 0)}
    async with cloud(tmp_path, json_answer(ranked), route={"task": "rerank"}) as c:
        guard(c, input={"email": "redact"})
        body = {"model": "m", "query": "who is ann@x.org?", "documents": ["ann@x.org", "bob@x.org"]}
        await c.client.post("/v1/rerank", json=body, headers={"authorization": f"Bearer {KEY}"})
        sent = c.upstreams[0].received[0].body.decode()
        assert "x.org" not in sent
        assert "who is [EMAIL_1]?" in sent


def _end(tokens: int) -> bytes:
    stop: dict[str, Any] = {"index": 0, "delta": {}, "finish_reason": "stop"}
    return chunk_event(choices=[stop]) + chunk_event(choices=[], usage=usage(5, tokens)) + b"data: [DONE]\n\n"
