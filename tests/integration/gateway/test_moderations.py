"""`/v1/moderations` through the gateway, with OpenAI's client: by rules, and by a guard model that is scripted."""

import json
from pathlib import Path
from typing import Any

import openai
import pytest

from cloudcrest.governance.api import RULE_MODEL
from cloudcrest.identity.api import Limits
from cloudcrest.kernel.usage import Usage
from tests.integration.gateway.scripted import Cloud, cloud
from tests.support.gateway_cloud import COMPLETION, KEY, Received, json_answer, usage

pytestmark = pytest.mark.anyio

GUARD = {"moderation_format": "llama-guard"}


def client(c: Cloud, key: str = KEY) -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(api_key=key, base_url=f"{c.running.url}/v1", max_retries=0)


def guard_model(request: Received) -> None:
    """Unsafe where something is to be bombed."""
    said = "unsafe\nS9" if "bomb" in request.json["messages"][0]["content"] else "\n\nsafe"
    message = {"role": "assistant", "content": said}
    choices = [{"index": 0, "message": message, "finish_reason": "stop"}]
    json_answer(COMPLETION | {"choices": choices, "usage": usage(9, 3)})(request)


async def test_the_rule_model_judges_texts_and_parts(tmp_path: Path) -> None:
    async with cloud(tmp_path, json_answer(COMPLETION)) as c, client(c) as openai_client:
        one = await openai_client.moderations.create(input="I will kill you")
        assert one.model == RULE_MODEL
        assert one.results[0].flagged
        assert one.results[0].categories.harassment_threatening
        assert one.results[0].category_scores.harassment > 0.9
        several = await openai_client.moderations.create(model="omni-moderation-latest", input=["hello", "child porn"])
        assert [each.flagged for each in several.results] == [False, True]
        parts: Any = [{"type": "text", "text": "i will"}, {"type": "text", "text": "kill you"}]
        assert len((await openai_client.moderations.create(input=parts)).results) == 1
        assert (c.upstreams[0].received, c.spool.opened) == ([], [])


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"input": []}, "input"),
        ({"input": ""}, "input"),
        ({"input": ["a", {"type": "text", "text": "b"}]}, "input"),
        ({"input": [{"type": "image_url", "image_url": {"url": "https://x.org/a.png"}}]}, "input[0]"),
        ({"input": "a" * 70_000}, "input"),
        ({"input": "a", "threshold": 1}, "threshold"),
        ({"input": "a", "model": "m"}, "model"),
        ({"model": "m"}, "input"),
    ],
)
async def test_what_is_wrong_is_named(tmp_path: Path, body: dict[str, Any], param: str) -> None:
    async with cloud(tmp_path, json_answer(COMPLETION)) as c:
        response = await c.client.post("/v1/moderations", json=body, headers={"authorization": f"Bearer {KEY}"})
        assert (response.status_code, response.json()["error"]["param"]) == (400, param)


async def test_rules_are_held_to_the_callers_limits(tmp_path: Path) -> None:
    limits = Limits(requests_per_minute=1)
    async with cloud(tmp_path, json_answer(COMPLETION), key_limits=limits) as c, client(c) as openai_client:
        await openai_client.moderations.create(input="a")
        with pytest.raises(openai.RateLimitError):
            await openai_client.moderations.create(input="a")
        with pytest.raises(openai.AuthenticationError):
            await client(c, "sk-cc-nobody").moderations.create(input="a")


async def test_a_guard_model_judges_where_there_is_one(tmp_path: Path) -> None:
    async with cloud(tmp_path, guard_model, route=GUARD) as c, client(c) as openai_client:
        judged = await openai_client.moderations.create(input=["a cake", "a bomb"])
        assert judged.model == "m"
        assert [each.flagged for each in judged.results] == [False, True]
        assert judged.results[1].categories.illicit_violent
        sent = c.upstreams[0].received[1].json
        assert (sent["messages"], sent["temperature"]) == ([{"role": "user", "content": "a bomb"}], 0)
        assert [event.usage for event in c.spool.ended] == [Usage(9, 3), Usage(9, 3)]
        assert len({event.id for event in c.spool.ended}) == 2
        assert (await openai_client.moderations.create(model=RULE_MODEL, input="a")).model == RULE_MODEL
        with pytest.raises(openai.NotFoundError):
            await openai_client.moderations.create(model="other", input="a")


async def test_a_guard_model_without_a_verdict_is_an_error(tmp_path: Path) -> None:
    async with cloud(tmp_path, json_answer(COMPLETION), route=GUARD) as c, client(c) as openai_client:
        with pytest.raises(openai.InternalServerError, match="no verdict"):
            await openai_client.moderations.create(input="a")
        failing = json.dumps({"error": {"code": 500, "message": "no"}})
        c.upstreams[0].script = json_answer(json.loads(failing), status=500)
        with pytest.raises(openai.InternalServerError):
            await openai_client.moderations.create(input="a")
