"""Open Responses' acceptance cases, in our own words: each answer and each event fits its schemas.

The official suite is a program for Bun that is on no registry. What it asks, and what it looks for, is asked here; the
schemas are those of `openresponses-types`, generated from the specification.
"""

import base64
import json
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from tests.acceptance.tenants import CHAT_MODEL, Tenant, answered
from tests.conformance.replay import Call, Replay, Step

_HERE = Path(__file__).parent
_SECONDS = 60
WEATHER = {
    "type": "function",
    "name": "get_weather",
    "description": "Get the current weather for a location",
    "parameters": {
        "type": "object",
        "properties": {"location": {"type": "string", "description": "The city and state, e.g. San Francisco, CA"}},
        "required": ["location"],
    },
}
PLACE = {"location": "San Francisco, CA"}
ASKS_FOR_WEATHER: dict[str, Any] = {
    "input": [{"type": "message", "role": "user", "content": "What's the weather like in San Francisco?"}],
    "tools": [WEATHER],
}
PIXEL = base64.b64encode(
    bytes.fromhex(
        "89504e470d0a1a0a0000000d4948445200000001000000010806000000"
        "1f15c4890000000d49444154789c6360f8cfc0000003010100c9fe92ef0000000049454e44ae426082"
    )
).decode()


@pytest.fixture
def http(tenant: Tenant) -> Iterator[httpx2.Client]:
    headers = {"authorization": f"Bearer {tenant.key['key']}"}
    with httpx2.Client(base_url=tenant.base_url, headers=headers, timeout=_SECONDS, trust_env=False) as client:
        yield client


@pytest.fixture
def fits(python_with: Callable[[str], Path], tmp_path: Path) -> Callable[..., set[str]]:
    """Holds responses and events against the schemas; the kinds of events that it knows."""

    def check(responses: list[dict[str, Any]], events: list[dict[str, Any]] | None = None) -> set[str]:
        told = tmp_path / "told.json"
        told.write_text(json.dumps({"responses": responses, "events": events or []}))
        done = subprocess.run(
            [str(python_with("openresponses") / "python"), str(_HERE / "openresponses_calls.py"), str(told)],
            env={"PATH": os.environ["PATH"]},
            capture_output=True,
            text=True,
            timeout=_SECONDS,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        found = json.loads(done.stdout)
        assert found["errors"] == []
        assert found["responses"] == len(responses)
        return set(found["kinds"])

    return check


def asked(http: httpx2.Client, **body: Any) -> dict[str, Any]:
    """A whole response."""
    return answered(http.post("/v1/responses", json=body))


def streamed(http: httpx2.Client, **body: Any) -> list[dict[str, Any]]:
    """The events of a response, numbered one after the other, each named as it is."""
    events: list[dict[str, Any]] = []
    with http.stream("POST", "/v1/responses", json={**body, "stream": True}) as answer:
        assert answer.status_code == 200, answer.read()
        name = ""
        for line in answer.iter_lines():
            field, _, value = line.partition(": ")
            if field == "event":
                name = value
            elif field == "data":
                events.append(json.loads(value))
                assert events[-1]["type"] == name
    assert [event["sequence_number"] for event in events] == [*range(len(events))]
    return events


def test_a_message_is_answered(http: httpx2.Client, fits: Callable[..., set[str]]) -> None:
    said = asked(http, model=CHAT_MODEL, input=[{"type": "message", "role": "user", "content": "Say hello."}])
    assert said["status"] == "completed"
    assert said["output"]
    stored = answered(http.get(f"/v1/responses/{said['id']}"))
    assert stored == said
    fits([said, stored])


def test_a_message_is_answered_as_a_stream(http: httpx2.Client, fits: Callable[..., set[str]]) -> None:
    events = streamed(http, model=CHAT_MODEL, input=[{"type": "message", "role": "user", "content": "Say hello."}])
    assert events[-1]["type"] == "response.completed"
    assert events[-1]["response"]["status"] == "completed"
    kinds = fits([events[-1]["response"]], events)
    assert {"response.created", "response.output_text.delta", "response.output_item.done"} <= kinds


def test_a_message_of_the_system_is_heeded(
    http: httpx2.Client, recorded: Callable[..., tuple[str, Replay]], fits: Callable[..., set[str]]
) -> None:
    model, engine = recorded(Step("Ahoy, matey!"))
    told = [
        {"type": "message", "role": "system", "content": "You are a pirate. Always respond in pirate speak."},
        {"type": "message", "role": "user", "content": "Say hello."},
    ]
    said = asked(http, model=model, input=told)
    assert said["output"][0]["content"][0]["text"] == "Ahoy, matey!"
    assert [message["role"] for message in engine.requests[0]["messages"]] == ["system", "user"]
    fits([said])


def test_a_function_is_called(
    http: httpx2.Client, recorded: Callable[..., tuple[str, Replay]], fits: Callable[..., set[str]]
) -> None:
    model, _ = recorded(Step(calls=[Call("get_weather", PLACE)]), Step("It is sunny.", when="sunny"))
    said = asked(http, model=model, **ASKS_FOR_WEATHER)
    [call] = said["output"]
    assert (call["type"], call["name"], json.loads(call["arguments"])) == ("function_call", "get_weather", PLACE)
    output = {"type": "function_call_output", "call_id": call["call_id"], "output": "sunny"}
    then = asked(http, model=model, input=[*ASKS_FOR_WEATHER["input"], call, output], tools=[WEATHER])
    assert then["output"][0]["content"][0]["text"] == "It is sunny."
    fits([said, then])


def test_a_function_is_called_in_a_stream(
    http: httpx2.Client, recorded: Callable[..., tuple[str, Replay]], fits: Callable[..., set[str]]
) -> None:
    model, _ = recorded(Step("I look.", calls=[Call("get_weather", PLACE)], thought="Where is it?"))
    events = streamed(http, model=model, **ASKS_FOR_WEATHER)
    of_call = [event for event in events if event.get("output_index") == 2]
    kinds = [event["type"] for event in of_call]
    assert kinds[0] == "response.output_item.added"
    assert of_call[0]["item"]["type"] == "function_call"
    assert set(kinds[1:-2]) == {"response.function_call_arguments.delta"}
    assert kinds[-2:] == ["response.function_call_arguments.done", "response.output_item.done"]
    deltas = "".join(event["delta"] for event in of_call[1:-2])
    assert deltas == of_call[-2]["arguments"] == of_call[-1]["item"]["arguments"]
    assert json.loads(deltas) == PLACE
    assert [item["type"] for item in events[-1]["response"]["output"]] == ["reasoning", "message", "function_call"]
    assert "response.function_call_arguments.delta" in fits([events[-1]["response"]], events)


def test_an_image_is_shown_to_models_that_take_images(
    http: httpx2.Client, recorded: Callable[..., tuple[str, Replay]], fits: Callable[..., set[str]]
) -> None:
    model, engine = recorded(Step("A red dot."), model="gemma-3-4b-it")
    image = {"type": "input_image", "image_url": f"data:image/png;base64,{PIXEL}"}
    parts = [{"type": "input_text", "text": "What do you see?"}, image]
    said = asked(http, model=model, input=[{"type": "message", "role": "user", "content": parts}])
    assert said["status"] == "completed"
    shown = engine.requests[0]["messages"][0]["content"][1]
    assert shown == {"type": "image_url", "image_url": {"url": image["image_url"]}}
    fits([said])
    asks = {"model": CHAT_MODEL, "input": [{"type": "message", "role": "user", "content": parts}]}
    refused = answered(http.post("/v1/responses", json=asks), 400)["error"]
    assert "takes no images" in refused["message"]


def test_turns_before_are_remembered(
    http: httpx2.Client, recorded: Callable[..., tuple[str, Replay]], fits: Callable[..., set[str]]
) -> None:
    model, engine = recorded(Step("Your name is Alice."))
    turns = [("user", "My name is Alice."), ("assistant", "Hello Alice!"), ("user", "What is my name?")]
    items = [{"type": "message", "role": role, "content": text} for role, text in turns]
    said = asked(http, model=model, input=items, presence_penalty=0.5, frequency_penalty=0.25)
    assert said["output"][0]["content"][0]["text"] == "Your name is Alice."
    assert (said["presence_penalty"], said["frequency_penalty"]) == (0.5, 0.25)
    asked_of_it = engine.requests[0]
    assert [(message["role"], message["content"]) for message in asked_of_it["messages"]] == turns
    assert (asked_of_it["presence_penalty"], asked_of_it["frequency_penalty"]) == (0.5, 0.25)
    fits([said])
