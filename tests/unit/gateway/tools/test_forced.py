"""A call that has to be made: its schema, and how it is read while it is written."""

import json
from itertools import pairwise
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from cloudcrest.gateway.fields import Tool, ToolFunction
from cloudcrest.gateway.tools.forced import ForcedCall, call_schema


def tool(name: str, parameters: dict[str, Any] | None = None) -> Tool:
    return Tool(ToolFunction(name, parameters=parameters), "function")


def test_one_tool_is_an_object_with_its_name_and_its_arguments() -> None:
    parameters = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
    assert call_schema([tool("get_weather", parameters)]) == {
        "type": "object",
        "properties": {"name": {"const": "get_weather"}, "arguments": parameters},
        "required": ["name", "arguments"],
        "additionalProperties": False,
    }


def test_what_tools_define_stands_at_the_root_under_their_names() -> None:
    place = {"type": "object", "properties": {"near": {"$ref": "#/$defs/place"}}}
    schema = call_schema(
        [
            tool("a", {"type": "object", "properties": {"p": {"$ref": "#/$defs/place"}}, "$defs": {"place": place}}),
            tool(
                "b", {"properties": {"p": {"$ref": "#/definitions/place"}}, "definitions": {"place": {"type": "null"}}}
            ),
            tool("c"),
        ]
    )
    assert [form["properties"]["name"]["const"] for form in schema["anyOf"]] == ["a", "b", "c"]
    assert schema["anyOf"][0]["properties"]["arguments"]["properties"]["p"] == {"$ref": "#/$defs/a.place"}
    assert schema["anyOf"][1]["properties"]["arguments"] == {"properties": {"p": {"$ref": "#/$defs/b.place"}}}
    assert schema["$defs"]["a.place"]["properties"]["near"] == {"$ref": "#/$defs/a.place"}
    assert schema["$defs"]["b.place"] == {"type": "null"}


ARGUMENTS = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=12),
    lambda values: st.lists(values, max_size=3) | st.dictionaries(st.text(max_size=6), values, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.text(max_size=6), ARGUMENTS, max_size=4), st.sampled_from([None, 2]), st.data())
def test_arguments_come_as_they_are_written_in_any_pieces(
    arguments: dict[str, Any], indent: int | None, data: st.DataObject
) -> None:
    text = json.dumps({"name": "f", "arguments": arguments}, indent=indent, ensure_ascii=False) + "\n"
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=6)))
    call = ForcedCall()
    read = "".join(call.feed(text[a:b]) for a, b in pairwise([0, *cuts, len(text)])) + call.end()
    assert call.name == "f"
    assert json.loads(read) == arguments


def test_one_that_is_cut_off_says_what_there_is() -> None:
    call = ForcedCall()
    assert call.feed('{"name": "f", "arguments": {"city": "Par') + call.end() == '{"city": "Par'
    early = ForcedCall()
    assert (early.feed('{"name": "f'), early.end(), early.name) == ("", "", None) or early.name is None


def test_braces_in_an_argument_come_through_whole() -> None:
    arguments = '{"a": "' + "}" * 200_000 + 'x"}'
    call = ForcedCall()
    text = call.feed('{"name": "f", "arguments": ' + arguments + "}")
    assert text + call.end() == arguments
