"""The newest `openai` package that is pinned here against a whole cloud: a model that runs here, and a recorded one."""

import json
from collections.abc import Callable
from typing import Any

from tests.acceptance.tenants import CHAT_MODEL, EMBEDDING_MODEL, Tenant
from tests.conformance.replay import Call, Replay, Step
from tests.support.waiting import until

SAID = "It is heliotrope, of all words."


def test_all_that_it_has_functions_for(
    tenant: Tenant, recorded: Callable[..., tuple[str, Replay]], client_calls: Callable[..., dict[str, Any]]
) -> None:
    model, _ = recorded(
        Step(SAID, when="say it", repeats=True),
        Step(calls=[Call("look_up", {"word": "heliotrope"})], when="use it", repeats=True),
        Step("A flower.", when="a flower", repeats=True),
    )
    told = client_calls("openai", tenant, CHAT_MODEL, EMBEDDING_MODEL, model)
    _check_chats(told["chats"])
    assert [[name, json.loads(text)] for name, text in told["tools"]["done"]] == [["look_up", {"word": "heliotrope"}]]
    assert told["tools"]["answer"] == "A flower."
    assert told["responses"]["whole"] == told["responses"]["streamed"] == told["async"] == SAID
    assert told["responses"]["kinds"][0] == "response.created"
    assert told["responses"]["kinds"][-1] == "response.completed"
    assert told["files"] == {"listed": True, "same": True, "deleted": True, "content": SAID}
    _check_others(told["others"])
    assert told["errors"] == {
        "no model": ["NotFoundError", "model_not_found", "model"],
        "unknown": ["BadRequestError", "unknown_parameter", "mood"],
        "too hot": ["BadRequestError", told["errors"]["too hot"][1], "temperature"],
        "no key": ["AuthenticationError", "invalid_api_key", None],
    }
    _check_charged(tenant, told["chats"])


def _check_chats(chats: dict[str, Any]) -> None:
    whole = chats["whole"]
    assert chats["streamed"] == whole["choices"][0]["message"]["content"]
    assert chats["usage"]["completion_tokens"] == whole["usage"]["completion_tokens"] > 0
    assert chats["parsed"] == "Weather"
    assert chats["logprobs"] == [2, 2, 2]
    [call] = chats["called"]
    assert call["function"]["name"] == "look_up"


def _check_others(others: dict[str, Any]) -> None:
    assert {CHAT_MODEL, EMBEDDING_MODEL} <= set(others["models"])
    assert others["model"] == CHAT_MODEL
    assert others["vectors"] == [384, 384, 384]
    assert others["completed"]
    assert others["flagged"] == [False, True]


def _check_charged(tenant: Tenant, chats: dict[str, Any]) -> None:
    def charged() -> dict[str, Any] | None:
        rows = {row["id"]: row for row in tenant.usage() if row["charge"]}
        return rows if set(chats["ids"]) <= rows.keys() else None

    rows = until(charged, "all that was answered is charged")
    assert rows is not None
    for answer_id, told in zip(chats["ids"], (chats["whole"]["usage"], chats["usage"]), strict=True):
        usage = rows[answer_id]["usage"]
        assert (usage["input_tokens"], usage["output_tokens"]) == (told["prompt_tokens"], told["completion_tokens"])
