"""Images that a provider makes: what is sent, what is charged, and what is refused."""

from pathlib import Path
from typing import Any

import pytest

from cloudcrest.kernel.usage import Usage
from tests.integration.gateway.scripted import Cloud, cloud
from tests.support.gateway_cloud import KEY, json_answer

pytestmark = pytest.mark.anyio
IMAGES = "/v1/images/generations"
ROUTE: dict[str, Any] = {"task": "image", "engine": "upstream"}
CAT: dict[str, Any] = {"model": "m", "prompt": "a cat", "n": 3, "size": "1024x1024", "response_format": "b64_json"}


async def ask(c: Cloud, **changes: Any) -> Any:
    return await c.client.post(IMAGES, json={**CAT, **changes}, headers={"authorization": f"Bearer {KEY}"})


async def test_images_are_charged_by_how_many_came(tmp_path: Path) -> None:
    made = {"created": 1, "data": [{"b64_json": "aaaa"}, {"b64_json": "bbbb"}], "usage": {"total_tokens": 5}}
    async with cloud(tmp_path, json_answer(made), route=ROUTE) as c:
        answer = await ask(c, user="ada")
        assert answer.status_code == 200, answer.text
        assert answer.json() == made
        sent = c.upstreams[0].received[-1]
        assert sent.json == CAT
        assert c.spool.opened[0].usage == Usage(0, 0, is_estimate=True, images=3)
        assert c.spool.ended[0].usage == Usage(0, 0, images=2)
        assert c.spool.ended[0].endpoint == IMAGES


@pytest.mark.parametrize(
    ("changes", "param"),
    [
        ({"n": 11}, "n"),
        ({"size": "huge"}, "size"),
        ({"prompt": ""}, "prompt"),
        ({"stream": True}, "stream"),
        ({"mask": "x"}, "mask"),
    ],
)
async def test_what_is_wrong_is_named(tmp_path: Path, changes: dict[str, Any], param: str) -> None:
    async with cloud(tmp_path, json_answer({}), route=ROUTE) as c:
        answer = await ask(c, **changes)
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)
        assert not c.spool.opened


async def test_a_chat_model_makes_none(tmp_path: Path) -> None:
    async with cloud(tmp_path, json_answer({})) as c:
        answer = await ask(c)
        assert (answer.status_code, answer.json()["error"]["code"]) == (400, "model_not_supported")
