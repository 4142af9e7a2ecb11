"""The body's check: what is allowed, what is refused and how it is named, and what an engine gets."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloudcrest.gateway.validate import _KEYS, _MAX_KEYS, build, check_engine, forwarded_fields, parse
from cloudcrest.kernel.errors import InvalidInput
from tests.support.gateway_cloud import route_document

CHAT = "/v1/chat/completions"
COMPLETIONS = "/v1/completions"
EMBEDDINGS = "/v1/embeddings"
HELLO = {"model": "m", "messages": [{"role": "user", "content": "hello"}]}


def chat(**changes: Any) -> bytes:
    return json.dumps(HELLO | changes).encode()


def refusal(endpoint: str, body: bytes) -> InvalidInput:
    with pytest.raises(InvalidInput) as caught:
        parse(endpoint, body)
    return caught.value


def sent(body: bytes, endpoint: str = CHAT, **route: Any) -> Any:
    """What an engine would get."""
    return json.loads(build(forwarded_fields(parse(endpoint, body), route_document(**route))))


@pytest.mark.parametrize(
    ("body", "param"),
    [
        (chat(messages=[{"role": "wizard", "content": "x"}]), "messages[0].role"),
        (chat(messages=[HELLO["messages"][0], {"role": "user", "content": 5}]), "messages[1].content"),
        (chat(messages=[{"role": "user", "content": [{"type": "video"}]}]), "messages[0].content[0].type"),
        (chat(messages=[{"role": "user"}]), "messages[0].content"),
        (chat(messages=[{"role": "tool", "content": "x"}]), "messages[0].tool_call_id"),
        (chat(messages=[{"role": "user", "content": "x", "tool_calls": []}]), "messages[0].tool_calls"),
        (chat(messages=[{"role": "user", "content": "x", "mood": 1}]), "messages[0].mood"),
        (chat(messages=[]), "messages"),
        (chat(messages="hello"), "messages"),
        (chat(temperature=2.1), "temperature"),
        (chat(temperature="hot"), "temperature"),
        (chat(max_tokens=0), "max_tokens"),
        (chat(max_tokens=1.5), "max_tokens"),
        (chat(max_tokens=True), "max_tokens"),
        (chat(n=9), "n"),
        (chat(stop=["a"] * 17), "stop"),
        (chat(top_logprobs=3), "top_logprobs"),
        (chat(stream_options={"include_usage": True}), "stream_options"),
        (chat(stream=True, stream_options={"x": 1}), "stream_options.x"),
        (chat(max_tokens=3, max_completion_tokens=3), "max_tokens"),
        (chat(model=""), "model"),
        (chat(store=True), "store"),
        (chat(tool_choice="auto"), "tool_choice"),
        (chat(seed=2**70), "seed"),
        (chat(response_format={"type": "xml"}), "response_format.type"),
        (b'{"model":"m"}', "messages"),
        (b'{"messages":[]}', "messages"),
    ],
)
def test_what_is_wrong_is_named_by_its_path(body: bytes, param: str) -> None:
    assert refusal(CHAT, body).param == param


@pytest.mark.parametrize(
    "name",
    ["n_predict", "cache_prompt", "id_slot", "grammar", "lora", "n_probs", "samplers", "timings_per_token", "prompt",
     "return_progress", "slot_id", "json_schema", "max_new_tokens", "n_ctx", "chat_template", "priority", "N", "Model"],
)  # fmt: skip
def test_engine_private_and_unknown_fields_are_refused_by_name(name: str) -> None:
    error = refusal(CHAT, chat(**{name: 1}))
    assert (error.param, error.code) == (name, "unknown_parameter")


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"[]", b"null", b'"x"', b"\xff\xfe", b"{}x", b'{"a":NaN}', b'{"model":"\\ud800"}', b"[" * 200_000],
)
def test_what_is_no_json_object_is_refused(body: bytes) -> None:
    refusal(CHAT, body)


def test_deep_nesting_is_refused() -> None:
    schema: dict[str, Any] = {}
    for _ in range(100):
        schema = {"properties": schema}
    tool = {"type": "function", "function": {"name": "f", "parameters": schema}}
    assert refusal(CHAT, chat(tools=[tool])).param == "tools[0].function.parameters"
    raw = b'{"type":"function","function":{"name":"f","parameters":{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}}}"
    refusal(CHAT, b'{"model":"m","messages":[{"role":"user","content":"x"}],"tools":[' + raw + b"]}")


def test_a_key_given_twice_reaches_the_engine_once_as_it_was_checked() -> None:
    body = (
        b'{"model":"m","max_tokens":5,"messages":[{"role":"user","content":"x"}],"max_tokens":7,"max_t\\u006fkens":9}'
    )
    fields = forwarded_fields(parse(CHAT, body), route_document())
    data = build(fields)
    assert data.count(b"tokens") == 1
    assert json.loads(data)["max_tokens"] == 9
    wrong_first = b'{"max_tokens":"a lot","model":"m","messages":[{"role":"user","content":"x"}],"max_tokens":7}'
    assert refusal(CHAT, wrong_first).param == "max_tokens"


def test_names_are_written_such_that_they_can_be_read_however_many_there_are() -> None:
    names = ['a"b', "\reated", "\\", "é\u2028", *(f"name {number}" for number in range(1_000))]
    assert json.loads(build(dict.fromkeys(names, b"1"))) == dict.fromkeys(names, 1)
    assert len(_KEYS) <= _MAX_KEYS


def test_the_engine_gets_slices_as_written_and_only_what_is_of_use_to_it() -> None:
    body = (
        b'{"model": "m", "messages" : [ {"role":"user" ,"content":"a\\u00e9 \\"n_predict\\": 5"} ],'
        b'"user":"someone","metadata":{"a":"b"},"temperature":null,"n":1,"stream":true}'
    )
    parsed = parse(CHAT, body)
    data = build(forwarded_fields(parsed, route_document()))
    assert b'[ {"role":"user" ,"content":"a\\u00e9 \\"n_predict\\": 5"} ]' in data
    assert set(json.loads(data)) == {"model", "messages", "stream", "stream_options"}
    assert json.loads(data)["stream_options"] == {"include_usage": True}


def test_output_limits_are_spliced_for_engines_that_have_none_of_their_own() -> None:
    assert sent(chat(), engine="llamacpp", context_tokens=512)["max_tokens"] == 512
    assert "max_tokens" not in sent(chat(), engine="vllm")
    limited = sent(chat(max_completion_tokens=9), engine="llamacpp")
    assert limited["max_tokens"] == 9
    assert "max_completion_tokens" not in limited
    assert sent(chat(max_completion_tokens=9), engine="upstream")["max_completion_tokens"] == 9


def test_developer_messages_become_system_messages() -> None:
    messages = [
        {"role": "developer", "content": "be brief"},
        {"role": "user", "content": [{"type": "text", "text": "x"}]},
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [{"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}],
        },
        {"role": "tool", "tool_call_id": "c", "content": "y"},
    ]
    assert sent(chat(messages=messages))["messages"] == [{"role": "system", "content": "be brief"}, *messages[1:]]


@pytest.mark.parametrize(
    ("endpoint", "task"), [(CHAT, "embedding"), (EMBEDDINGS, "chat"), (CHAT, "completion"), (EMBEDDINGS, "rerank")]
)
def test_a_model_for_another_task_is_refused(endpoint: str, task: Any) -> None:
    body = json.dumps({"model": "m", "input": "x"}).encode() if endpoint == EMBEDDINGS else chat()
    with pytest.raises(InvalidInput) as caught:
        check_engine(parse(endpoint, body), route_document(task=task))
    assert caught.value.param == "model"


def test_a_value_that_is_not_taken_is_told_without_jargon() -> None:
    body = json.dumps({"model": "m", "prompt": "x", "echo": True}).encode()
    assert refusal(COMPLETIONS, body).message == "'echo': Unsupported value True"
    message = {"role": "usr", "content": "x"}
    assert refusal(CHAT, chat(messages=[message])).message == "'messages[0].role': Unsupported value 'usr'"


def test_what_llamacpp_ignores_is_refused() -> None:
    parsed = parse(COMPLETIONS, json.dumps({"model": "m", "prompt": "x", "logprobs": 1}).encode())
    with pytest.raises(InvalidInput, match="gives no logprobs") as caught:
        check_engine(parsed, route_document(engine="llamacpp"))
    assert "/v1/chat/completions" in (caught.value.hint or "")
    check_engine(parsed, route_document(engine="vllm"))


@pytest.mark.parametrize(
    ("endpoint", "name", "value", "param"),
    [
        (COMPLETIONS, "prompt", [], "prompt"),
        (COMPLETIONS, "prompt", ["a", 1], "prompt"),
        (COMPLETIONS, "prompt", ["a"] * 9, "prompt"),
        (COMPLETIONS, "prompt", [-1], "prompt"),
        (EMBEDDINGS, "input", "", "input"),
        (EMBEDDINGS, "input", ["a", ""], "input[1]"),
        (EMBEDDINGS, "input", [[1], []], "input[1]"),
        (EMBEDDINGS, "input", ["a"] * 2049, "input"),
        (EMBEDDINGS, "input", {"a": 1}, "input"),
        (EMBEDDINGS, "input", [1.5], "input[0]"),
    ],
)
def test_batches_are_checked(endpoint: str, name: str, value: Any, param: str) -> None:
    assert refusal(endpoint, json.dumps({"model": "m", name: value}).encode()).param == param


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=12), inner, max_size=4),
    max_leaves=12,
)
field_names = st.sampled_from(
    ["model", "messages", "stream", "stream_options", "n", "tools", "tool_choice", "stop", "logit_bias", "prompt",
     "input", "response_format", "max_tokens", "seed", "encoding_format", "metadata", "role", "content"]
)  # fmt: skip
near_bodies = st.dictionaries(field_names, json_values, max_size=8)


@given(
    endpoint=st.sampled_from([CHAT, COMPLETIONS, EMBEDDINGS]),
    body=st.binary(max_size=200) | json_values.map(lambda v: json.dumps(v).encode())
    | near_bodies.map(lambda v: json.dumps(v).encode())
    | near_bodies.map(lambda v: json.dumps(HELLO | {"prompt": "x", "input": "x"} | v).encode()),
)  # fmt: skip
def test_nothing_but_our_own_errors_comes_out(endpoint: str, body: bytes) -> None:
    try:
        parsed = parse(endpoint, body)
    except InvalidInput:
        return
    assert json.loads(build(forwarded_fields(parsed, route_document())))["model"] == "m"
    assert parsed.estimated_tokens(4096) > 0


def test_completions_logprobs_are_refused_where_the_engine_answers_in_chats_shape() -> None:
    parsed = parse(COMPLETIONS, json.dumps({"model": "m", "prompt": "a", "logprobs": 2}).encode())
    with pytest.raises(InvalidInput, match="logprobs") as caught:
        check_engine(parsed, route_document(engine="llamacpp"))
    assert caught.value.param == "logprobs"
    check_engine(parsed, route_document(engine="vllm"))


PIXEL = "data:image/png;base64,iVBORw0KGgo="


def shown(url: str = PIXEL, role: str = "user") -> dict[str, object]:
    parts = [{"type": "text", "text": "What is this?"}, {"type": "image_url", "image_url": {"url": url}}]
    return {"role": role, "content": parts}


def test_images_go_to_models_that_take_them() -> None:
    parsed = parse(CHAT, chat(messages=[shown(), shown()]))
    assert parsed.images == 2
    check_engine(parsed, route_document(engine="vllm", input_modalities=("text", "image")))
    for route in (
        route_document(engine="vllm"),
        route_document(engine="llamacpp", input_modalities=("text", "image")),
    ):
        with pytest.raises(InvalidInput) as caught:
            check_engine(parsed, route)
        assert caught.value.code == "unsupported_content"


@pytest.mark.parametrize(
    ("message", "param"),
    [
        (shown("https://example.com/cat.png"), "messages[0].content[1].image_url.url"),
        (shown("file:///etc/passwd"), "messages[0].content[1].image_url.url"),
        (shown("data:text/html;base64,AAAA"), "messages[0].content[1].image_url.url"),
        (shown(role="system"), "messages[0].content[1]"),
    ],
)
def test_an_image_is_given_whole_by_the_user(message: dict[str, object], param: str) -> None:
    assert refusal(CHAT, chat(messages=[message])).param == param


@pytest.mark.parametrize(
    ("engine", "name"), [("llamacpp", "repeat_penalty"), ("vllm", "repetition_penalty"), ("upstream", None)]
)
def test_a_penalty_for_repeating_goes_by_the_engines_name(engine: Any, name: str | None) -> None:
    route = route_document(engine=engine)
    parsed = parse(CHAT, chat(repetition_penalty=1.25))
    if name is None:
        with pytest.raises(InvalidInput) as caught:
            check_engine(parsed, route)
        assert (caught.value.param, caught.value.code) == ("repetition_penalty", "unsupported_parameter")
        none = parse(CHAT, chat(repetition_penalty=1))
        check_engine(none, route)
        assert "repetition_penalty" not in forwarded_fields(none, route)
        return
    check_engine(parsed, route)
    fields = forwarded_fields(parsed, route)
    assert {key: raw for key, raw in fields.items() if "penalty" in key} == {name: b"1.25"}


@pytest.mark.parametrize("engine", ["llamacpp", "vllm", "upstream", "simulated"])
def test_whether_to_think_is_told_to_chat_templates(engine: Any) -> None:
    route = route_document(engine=engine)
    parsed = parse(CHAT, chat(enable_thinking=False))
    if engine in ("upstream", "simulated"):
        with pytest.raises(InvalidInput) as caught:
            check_engine(parsed, route)
        assert caught.value.param == "enable_thinking"
        return
    check_engine(parsed, route)
    assert forwarded_fields(parsed, route)["chat_template_kwargs"] == b'{"enable_thinking":false}'


def test_an_answer_comes_back_as_the_openai_client_keeps_it() -> None:
    function = {"name": "f", "arguments": "{}", "parsed_arguments": None}
    kept: dict[str, Any] = {
        "role": "assistant",
        "content": None,
        "refusal": None,
        "parsed": None,
        "audio": None,
        "function_call": None,
    }
    kept |= {"annotations": [], "tool_calls": [{"id": "c", "type": "function", "index": 0, "function": function}]}
    assert parse(CHAT, chat(messages=[*HELLO["messages"], kept])).size_bytes
    for name, value in (("annotations", ["x"]), ("parsed", {"a": 1}), ("audio", {}), ("function_call", {})):
        assert refusal(CHAT, chat(messages=[kept | {name: value}])).param == f"messages[0].{name}"
