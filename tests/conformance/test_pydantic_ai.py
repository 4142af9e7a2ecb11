"""`pydantic-ai` against a whole cloud: a tool and structure by a recorded model, structure by one that runs here."""

from collections.abc import Callable
from typing import Any

from tests.acceptance.tenants import CHAT_MODEL, Tenant
from tests.conformance.replay import Call, Replay, Step


def test_an_agent_calls_its_tool_and_answers_in_a_structure(
    tenant: Tenant, recorded: Callable[..., tuple[str, Replay]], client_calls: Callable[..., dict[str, Any]]
) -> None:
    model, engine = recorded(
        Step("It is a flower.", when="heliotrope is a flower", repeats=True),
        Step(calls=[Call("look_up", {"word": "heliotrope"})], when="use it", repeats=True),
        Step(calls=[Call("final_result", {"city": "Rome", "is_warm": True})], when="the weather"),
    )
    told = client_calls("pydantic_ai", tenant, CHAT_MODEL, model)
    assert not engine.unanswered
    assert told["whole"] == told["streamed"] == "It is a flower."
    assert told["by tool"] == {"city": "Rome", "is_warm": True}
    assert told["by schema"].keys() == {"city", "is_warm"}
