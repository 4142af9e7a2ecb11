"""The guard of answers: a stream says what the whole answer says, whatever its events."""

import json
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from cloudcrest.gateway.guard_outlet import GuardOutlet
from cloudcrest.governance.api import Findings, Placeholders, detectors_for
from cloudcrest.identity.api import GuardrailAction

ACTIONS: dict[str, GuardrailAction] = {"email": "redact", "card": "block", "phone": "redact"}
TEXTS = st.lists(
    st.sampled_from(["hi ", "ann@x.org", " 4111 1111", " 1111 1111", "+49 30 901820", ", ", "ok", "é"]), max_size=6
).map("".join)


def outlet(*, wants_usage: bool = False) -> GuardOutlet:
    return GuardOutlet(
        ACTIONS,
        detectors_for(ACTIONS),
        Placeholders(),
        Findings(),
        lambda: None,
        wants_usage=wants_usage,
        choices=1,
        is_json=False,
    )


def event(delta: dict[str, Any], finish: str | None = None) -> bytes:
    choice = {"index": 0, "delta": delta, "finish_reason": finish}
    return b"data: " + json.dumps({"id": "c", "choices": [choice]}).encode() + b"\n\n"


def streamed(events: list[bytes]) -> tuple[dict[str, str], str | None]:
    guard = outlet()
    said: dict[str, str] = {"reasoning_content": "", "content": "", "arguments": ""}
    finish = None
    out = b"".join(guard.events(each) for each in events) + guard.end()
    for line in out.decode().splitlines():
        if not line.startswith("data: {"):
            continue
        (choice,) = json.loads(line[6:])["choices"]
        assert finish is None, "nothing follows the end"
        finish = choice["finish_reason"]
        for name in ("reasoning_content", "content"):
            said[name] += choice["delta"].get(name) or ""
        for call in choice["delta"].get("tool_calls", ()):
            said["arguments"] += call["function"].get("arguments", "")
    assert out.count(b"[DONE]") == 1
    return said, finish


@settings(max_examples=150, deadline=None)
@given(thought=TEXTS, text=TEXTS, argument=TEXTS, data=st.data())
def test_a_stream_says_what_the_whole_answer_says(thought: str, text: str, argument: str, data: st.DataObject) -> None:
    arguments = json.dumps({"a": argument}, ensure_ascii=False)
    events = [event({"role": "assistant", "content": None})]
    for name, value in (("reasoning_content", thought), ("content", text), ("arguments", arguments)):
        places = sorted(data.draw(st.lists(st.integers(0, len(value)), max_size=4)))
        for start, end in zip([0, *places], [*places, len(value)], strict=True):
            piece: Any = {name: value[start:end]}
            if name == "arguments":
                piece = {"tool_calls": [{"index": 0, "id": "c", "function": {"name": "f", **piece}}]}
            events.append(event(piece))
    events += [event({}, "tool_calls"), b"data: [DONE]\n\n"]
    calls = [{"id": "c", "type": "function", "function": {"name": "f", "arguments": arguments}}]
    message = {"role": "assistant", "reasoning_content": thought, "content": text, "tool_calls": calls}
    choices = [{"index": 0, "message": message, "finish_reason": "tool_calls"}]
    (whole,) = json.loads(outlet().answer(json.dumps({"choices": choices}).encode()))["choices"]
    said, finish = streamed(events)
    assert finish == whole["finish_reason"]
    assert said["reasoning_content"] == whole["message"]["reasoning_content"]
    assert said["content"] == whole["message"]["content"]
    if finish == "tool_calls":
        assert said["arguments"] == whole["message"]["tool_calls"][0]["function"]["arguments"]


def test_what_cannot_be_looked_into_does_not_go_out() -> None:
    strange = {"content": "hi ", "reasoning_details": [{"text": "ann@x.org"}], "annotations": []}
    assert b"ann@" not in outlet().events(event(strange))
    call = {"index": 0, "id": "c", "function": {"name": "f", "arguments": {"to": "ann@x.org"}}}
    assert outlet().events(event({"tool_calls": [call]})) == b""
    choices = [{"index": 0, "message": strange | {"role": "assistant"}, "finish_reason": "stop"}]
    (choice,) = json.loads(outlet().answer(json.dumps({"choices": choices}).encode()))["choices"]
    assert choice["message"] == {"role": "assistant", "content": "hi ", "annotations": []}
    parts = event({"content": [{"type": "text", "text": "ann@x.org"}]})
    assert b"ann@" not in outlet().events(parts)
    failed = b'data: {"error":{"message":"no"}}\n\n'
    assert outlet().events(failed) == failed


def test_a_blocked_stream_is_over_unless_its_usage_is_wanted() -> None:
    for wants_usage in (False, True):
        guard = outlet(wants_usage=wants_usage)
        guard.events(event({"content": "4111 1111 1111 1111, so"}))
        assert guard.is_over is not wants_usage
        usage = b'data: {"choices":[],"usage":{"prompt_tokens":1}}\n\n'
        assert (guard.events(event({"content": "more"}, "stop") + usage) == usage) is wants_usage
