"""`langchain-openai` against a whole cloud: a model that runs here, and a recorded one."""

from collections.abc import Callable
from typing import Any

from tests.acceptance.tenants import CHAT_MODEL, EMBEDDING_MODEL, Tenant
from tests.conformance.replay import Call, Replay, Step

SAID = "It is heliotrope, of all words."


def test_chats_tools_structure_and_vectors(
    tenant: Tenant, recorded: Callable[..., tuple[str, Replay]], client_calls: Callable[..., dict[str, Any]]
) -> None:
    model, _ = recorded(
        Step(SAID, when="say it", repeats=True),
        Step(calls=[Call("look_up", {"word": "heliotrope"})], when="use it"),
        Step("It is a flower.", when="heliotrope is a flower"),
    )
    told = client_calls("langchain", tenant, CHAT_MODEL, EMBEDDING_MODEL, model)
    assert told["invoked"] == told["streamed"] == SAID
    assert [each["output_tokens"] for each in told["usage"]] == [len(SAID) // 4 + 1]
    assert told["call"] == ["look_up", {"word": "heliotrope"}]
    assert told["answer"] == "It is a flower."
    assert told["structured"] == {"json_schema": "Weather", "function_calling": "Weather"}
    text, usage = told["here"]
    assert text
    assert usage["total_tokens"] == usage["input_tokens"] + usage["output_tokens"]
    assert (told["vectors"], told["query"]) == ([384, 384], 384)
