"""`openai-agents` against a whole cloud, over chat completions and over responses, to a recorded model."""

from collections.abc import Callable
from typing import Any

from tests.acceptance.tenants import Tenant
from tests.conformance.replay import Call, Replay, Step


def test_an_agent_calls_its_tool_and_answers(
    tenant: Tenant, recorded: Callable[..., tuple[str, Replay]], client_calls: Callable[..., dict[str, Any]]
) -> None:
    model, engine = recorded(
        Step("It is a flower.", when="heliotrope is a flower", repeats=True),
        Step(calls=[Call("look_up", {"word": "heliotrope"})], when="use it", repeats=True),
    )
    told = client_calls("agents", tenant, model)
    assert not engine.unanswered
    for way in ("chat", "responses"):
        done = told[way]
        assert done["whole"] == done["streamed"] == "It is a flower.", way
        assert "raw_response_event" in done["kinds"]
        requests, input_tokens, output_tokens = done["usage"]
        assert requests == 2
        assert min(input_tokens, output_tokens) > 0
    assert len(engine.requests) == 8
