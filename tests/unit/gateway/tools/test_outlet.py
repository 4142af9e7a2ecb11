"""Text of answers as tool calls, whole and streamed."""

import json
from typing import Any

from cloudcrest.gateway.tools.formats import FORMS
from cloudcrest.gateway.tools.outlet import FoundCalls, MadeCall, ToolOutlet

TEXT = 'Let me see.\n<tool_call>{"name": "now", "arguments": {"zone": "utc"}}</tool_call>'


def outlet(*, most: int | None = None) -> ToolOutlet:
    return ToolOutlet(lambda prefix: FoundCalls(FORMS["hermes"], {"now": {}}, prefix, most=most), "req_01abc")


def answer(text: str, finish: str = "stop", **message: Any) -> bytes:
    choice = {"index": 0, "message": {"role": "assistant", "content": text, **message}, "finish_reason": finish}
    return json.dumps({"id": "x", "choices": [choice], "usage": {"prompt_tokens": 1}}).encode()


def stream(*deltas: dict[str, Any], finish: str = "stop") -> bytes:
    choices = [{"index": 0, "delta": delta, "finish_reason": None} for delta in deltas]
    chunks: list[dict[str, Any]] = [{"id": "x", "choices": [choice]} for choice in choices]
    chunks += [{"id": "x", "choices": [{"index": 0, "delta": {}, "finish_reason": finish}]}]
    chunks += [{"id": "x", "choices": [], "usage": {"prompt_tokens": 1}}]
    return b"".join(b"data: " + json.dumps(chunk).encode() + b"\n\n" for chunk in chunks) + b"data: [DONE]\n\n"


def chunks(events: bytes) -> list[dict[str, Any]]:
    return [json.loads(line[6:]) for line in events.splitlines() if line.startswith(b"data: {")]


def test_a_whole_answer_says_its_calls() -> None:
    choice = json.loads(outlet().answer(answer(TEXT)))["choices"][0]
    assert choice["message"]["content"] == "Let me see.\n"
    [call] = choice["message"]["tool_calls"]
    assert call == {
        "id": "call_01abc_0",
        "type": "function",
        "function": {"name": "now", "arguments": '{"zone":"utc"}'},
    }
    assert choice["finish_reason"] == "tool_calls"


def test_what_the_engine_read_itself_stays() -> None:
    body = answer("", "tool_calls", tool_calls=[{"id": "y"}])
    assert json.loads(outlet().answer(body)) == json.loads(body)
    assert outlet().answer(b"no JSON") == b"no JSON"


def test_only_one_call_goes_out_where_one_is_wanted() -> None:
    choice = json.loads(outlet(most=1).answer(answer(TEXT + TEXT)))["choices"][0]
    assert len(choice["message"]["tool_calls"]) == 1


def test_a_stream_says_them_when_they_are_whole() -> None:
    o = outlet()
    out = o.events(stream({"role": "assistant", "content": None}, *[{"content": letter} for letter in TEXT])) + o.end()
    assert out.endswith(b"data: [DONE]\n\n")
    said = chunks(out)
    deltas = [chunk["choices"][0]["delta"] for chunk in said if chunk["choices"]]
    assert deltas[0]["role"] == "assistant"
    assert "".join(delta.get("content") or "" for delta in deltas) == "Let me see.\n"
    [call] = [call for delta in deltas for call in delta.get("tool_calls", ())]
    assert (call["index"], call["function"]) == (0, {"name": "now", "arguments": '{"zone":"utc"}'})
    assert [c["choices"][0]["finish_reason"] for c in said if c["choices"] and c["choices"][0]["finish_reason"]] == [
        "tool_calls"
    ]
    assert said[-1]["usage"] == {"prompt_tokens": 1}


def test_text_at_the_end_is_not_lost() -> None:
    o = outlet()
    said = chunks(o.events(stream({"content": "a <tool"}, finish="length")) + o.end())
    assert "".join(c["choices"][0]["delta"].get("content") or "" for c in said if c["choices"]) == "a <tool"
    assert [c["choices"][0]["finish_reason"] for c in said if c["choices"]][-1] == "length"


def test_a_forced_call_streams_its_arguments() -> None:
    text = '{"name": "now", "arguments": {"zone": "utc"}}'
    o = ToolOutlet(MadeCall, "req_01abc")
    said = chunks(o.events(stream(*[{"content": letter} for letter in text])) + o.end())
    calls = [call for c in said if c["choices"] for call in c["choices"][0]["delta"].get("tool_calls", ())]
    assert calls[0]["function"]["name"] == "now"
    assert calls[0]["id"] == "call_01abc_0"
    assert "".join(call["function"]["arguments"] for call in calls) == '{"zone": "utc"}'
    assert all("content" not in c["choices"][0]["delta"] for c in said if c["choices"])
    whole = json.loads(ToolOutlet(MadeCall, "req_01abc").answer(answer(text)))["choices"][0]
    assert whole["message"]["tool_calls"][0]["function"]["arguments"] == '{"zone": "utc"}'
    assert whole["message"]["content"] is None


def test_a_forced_call_that_is_cut_off_ends_as_too_long() -> None:
    whole = json.loads(ToolOutlet(MadeCall, "req_01abc").answer(answer('{"name": "n', "length")))["choices"][0]
    assert (whole["message"]["content"], whole["finish_reason"]) == (None, "length")
    assert "tool_calls" not in whole["message"]
