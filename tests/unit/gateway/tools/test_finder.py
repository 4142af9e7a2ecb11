"""Calls in the text of each family, whole and in any pieces."""

import json
from itertools import pairwise
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloudcrest.catalog.api import ToolFormat
from cloudcrest.gateway.tools.finder import MAX_BLOCK_CHARACTERS, Finder, Piece
from cloudcrest.gateway.tools.formats import FORMS, Call

SCHEMAS = {
    "get_weather": {"properties": {"city": {"type": "string"}, "days": {"type": "integer"}, "map": {"type": "object"}}},
    "now": {},
}
PARIS = Call("get_weather", '{"city":"Paris"}')
NOW = Call("now", "{}")
SAID: list[tuple[ToolFormat, str, list[Piece]]] = [
    ("hermes", 'Let me see.\n<tool_call>\n{"name": "get_weather", "arguments": {"city": "Paris"}}\n</tool_call>',
     ["Let me see.\n", PARIS]),
    ("hermes", '<tool_call>{"name": "get_weather", "arguments": {"city": "Paris"}}</tool_call>\n'
     '<tool_call>{"name": "now", "arguments": "{}"}</tool_call> Done.', [PARIS, NOW, "Done."]),
    ("hermes", "<tool_call>nonsense</tool_call> and a <tool", ["<tool_call>nonsense</tool_call> and a <tool"]),
    ("hermes", 'Text with a {"name": "now"} in it', ['Text with a {"name": "now"} in it']),
    ("hermes", "  just blanks before", ["  just blanks before"]),
    ("prompted", '{"name": "get_weather", "arguments": {"city": "Paris"}}', [PARIS]),
    ("prompted", '```json\n{"name": "now", "parameters": {}}\n```', [NOW]),
    ("prompted", '{"name": "Ada", "born": 1815}', ['{"name": "Ada", "born": 1815}']),
    ("prompted", '{"name": "unknown", "arguments": {}}', ['{"name": "unknown", "arguments": {}}']),
    ("prompted", '<tool_call>\n{"name": "now"', ['<tool_call>\n{"name": "now"']),
    ("qwen3_coder", "Now.\n<tool_call>\n<function=get_weather>\n<parameter=city>\nParis\n</parameter>\n"
     '<parameter=days>\n3\n</parameter>\n<parameter=map>\n{"a": 1}\n</parameter>\n</function>\n</tool_call>',
     ["Now.\n", Call("get_weather", '{"city":"Paris","days":3,"map":{"a":1}}')]),
    ("qwen3_coder", "<function=now>\n</function>", [NOW]),
    ("llama3_json", '{"name": "get_weather", "parameters": {"city": "Paris"}}; {"name": "now", "parameters": {}}',
     [PARIS, NOW]),
    ("llama3_json", '<|python_tag|>{"name": "now", "parameters": {}}', [NOW]),
    ("mistral", '[TOOL_CALLS][{"name": "get_weather", "arguments": {"city": "Paris"}}, '
     '{"name": "now", "arguments": {}}]',
     [PARIS, NOW]),
    ("mistral", '[TOOL_CALLS]get_weather{"city": "Paris"}[TOOL_CALLS]now[ARGS]{}', [PARIS, NOW]),
    ("deepseek_v3", "Well.<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>get_weather\n```json\n"
     '{"city": "Paris"}\n```<｜tool▁call▁end｜><｜tool▁calls▁end｜>', ["Well.", PARIS]),
    ("deepseek_v3", '<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>get_weather<｜tool▁sep｜>{"city": "Paris"}'
     "<｜tool▁call▁end｜><｜tool▁call▁begin｜>now<｜tool▁sep｜>{}<｜tool▁call▁end｜>"
     "<｜tool▁calls▁end｜>", [PARIS, NOW]),
    ("glm", "<tool_call>get_weather\n<arg_key>city</arg_key>\n<arg_value>Paris</arg_value>\n</tool_call>", [PARIS]),
    ("kimi_k2", "<|tool_calls_section_begin|><|tool_call_begin|>functions.get_weather:0<|tool_call_argument_begin|>"
     '{"city": "Paris"}<|tool_call_end|><|tool_calls_section_end|>', [PARIS]),
]  # fmt: skip


def found(tool_format: ToolFormat, parts: list[str]) -> list[Piece]:
    finder = Finder(FORMS[tool_format], SCHEMAS)
    pieces = [piece for part in parts for piece in finder.feed(part)] + finder.end()
    joined: list[Piece] = []
    for piece in pieces:
        if isinstance(piece, str) and joined and isinstance(joined[-1], str):
            joined[-1] += piece
        else:
            joined.append(piece)
    return joined


@pytest.mark.parametrize(("tool_format", "text", "pieces"), SAID)
def test_each_family_is_read(tool_format: ToolFormat, text: str, pieces: list[Piece]) -> None:
    assert found(tool_format, [text]) == pieces
    assert found(tool_format, list(text)) == pieces


@given(st.sampled_from(SAID), st.data())
def test_any_split_reads_the_same(said: tuple[ToolFormat, str, list[Piece]], data: st.DataObject) -> None:
    tool_format, text, pieces = said
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=6)))
    assert found(tool_format, [text[a:b] for a, b in pairwise([0, *cuts, len(text)])]) == pieces


MARKERS = sorted({mark for forms in FORMS.values() for form in forms for mark in (form.opening, form.closing or "")})


@given(
    st.sampled_from(get_args(ToolFormat)),
    st.lists(st.one_of(st.sampled_from([*MARKERS, "{", "}", '"name"', " ", "\n"]), st.text(max_size=8)), max_size=20),
)
def test_what_is_no_call_stays_text_in_any_pieces(tool_format: ToolFormat, parts: list[str]) -> None:
    text = "".join(parts)
    pieces = found(tool_format, parts)
    assert pieces == found(tool_format, [text])
    for piece in pieces:
        if isinstance(piece, Call):
            json.loads(piece.arguments)
    if all(isinstance(piece, str) for piece in pieces):
        assert "".join(map(str, pieces)) == text


def test_text_is_not_held_back_for_longer_than_a_marker() -> None:
    finder = Finder(FORMS["hermes"], SCHEMAS)
    assert finder.feed("one < two <tool_ca") == ["one < two "]
    assert finder.feed("ke") == ["<tool_cake"]


def test_a_block_without_an_end_is_let_go_when_it_is_too_long() -> None:
    finder = Finder(FORMS["hermes"], SCHEMAS)
    assert finder.feed("<tool_call>" + "x" * MAX_BLOCK_CHARACTERS) == ["<tool_call>" + "x" * MAX_BLOCK_CHARACTERS]


@pytest.mark.parametrize(
    ("form", "opening", "repeated", "closing"),
    [
        ("qwen3_coder", "<tool_call>", "<function=a>", "</tool_call>"),
        ("qwen3_coder", "<tool_call>", "<function=", "</tool_call>"),
        ("glm", "<tool_call>f", "<arg_key>", "</tool_call>"),
        ("kimi_k2", "<|tool_calls_section_begin|>", "<|tool_call_begin|>f", "<|tool_calls_section_end|>"),
        (
            "deepseek_v3",
            "<｜tool▁calls▁begin｜>",
            "<｜tool▁call▁begin｜>function<｜tool▁sep｜>a\n```json\n<｜tool▁call▁end｜>",
            "<｜tool▁calls▁end｜>",
        ),
        ("hermes", "{}", " ", "x"),
    ],
)
def test_markers_without_end_are_read_in_one_go(form: ToolFormat, opening: str, repeated: str, closing: str) -> None:
    finder = Finder(FORMS[form], {})  # in time that grew with the square, this would take hours
    whole = opening + repeated * 100_000 + closing
    pieces = [*finder.feed(whole), *finder.end()]
    said = "".join(piece for piece in pieces if isinstance(piece, str))
    assert said == whole or any(isinstance(piece, Call) for piece in pieces)
