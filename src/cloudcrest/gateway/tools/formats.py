"""How model families write tool calls in their text, and how a block of such text is read. Pure.

The forms are those of the families' own chat templates. A block that cannot be read is text and stays text.
"""

import re
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from cloudcrest.catalog.api import ToolFormat


class Call(msgspec.Struct, frozen=True):
    """One call. `arguments`: a JSON object, as text."""

    name: str
    arguments: str


Schemas = Mapping[str, Mapping[str, Any]]
"""By the tools' names, the JSON schemas of their parameters."""
Read = Callable[[str, Schemas], list[Call] | None]
"""The calls in a block, its markers included; None: it is something else."""


class Form(msgspec.Struct, frozen=True):
    """A block of calls begins with `opening` and goes on to `closing`, or to the end of the text where that is None.

    `at_start`: only where nothing but white space stands before it.
    """

    opening: str
    closing: str | None
    read: Read
    at_start: bool = False


# Each takes time in proportion to a block, whatever a model was made to write: names are bounded, and a block is cut
# behind the last closing marker (`_closed`), so that no opening one searches to the end in vain.
_FUNCTION = re.compile(r"<function=([^>\s]{1,256})>(.*?)</function>", re.DOTALL)
_PARAMETER = re.compile(r"<parameter=([^>\s]{1,256})>(.*?)</parameter>", re.DOTALL)
_GLM_ARGUMENT = re.compile(r"<arg_key>([^<]{1,256})</arg_key>\s*<arg_value>(.*?)</arg_value>", re.DOTALL)
_DEEPSEEK = re.compile(
    r"<｜tool▁call▁begin｜>(?:function<｜tool▁sep｜>(?P<name>[^\n<]+)\n```json\n(?P<fenced>(?:(?!<｜tool▁call▁end｜>).)*?)\n```"
    r"|(?P<bare_name>[^<]+)<｜tool▁sep｜>(?P<bare>.*?))<｜tool▁call▁end｜>",
    re.DOTALL,
)
_KIMI = re.compile(
    r"<\|tool_call_begin\|>\s*(?:functions\.)?([^:\s<]+)(?::\d+)?\s*<\|tool_call_argument_begin\|>(.*?)<\|tool_call_end\|>",
    re.DOTALL,
)
_MISTRAL = re.compile(r"\[TOOL_CALLS\]\s*(?P<name>[^\s{\[]+)(?:\[CALL_ID\][^\[{]*)?(?:\[ARGS\])?\s*(?=\{)")
_json = msgspec.json.Decoder()


def _object(text: str) -> dict[str, Any] | None:
    try:
        value = _json.decode(text)
    except (msgspec.DecodeError, UnicodeEncodeError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _call(value: object) -> Call | None:
    """Of `{"name": …, "arguments": {…}}`, or `parameters` as Llama has it."""
    if not isinstance(value, dict):
        return None
    name = value.get("name")
    arguments = value.get("arguments", value.get("parameters", {}))
    if isinstance(arguments, str):  # some write the object as a string
        arguments = _object(arguments)
    if not isinstance(name, str) or not name or not isinstance(arguments, dict):
        return None
    return Call(name, msgspec.json.encode(arguments).decode())


def _closed(text: str, closing: str) -> str:
    """The text up to its last closing marker."""
    return text[: text.rfind(closing) + len(closing)] if closing in text else ""


def _all(calls: list[Call | None]) -> list[Call] | None:
    whole = [call for call in calls if call is not None]
    return whole if whole and len(whole) == len(calls) else None


def _typed(text: str, schema: object) -> object:
    """A parameter's value from text: what its schema says, else a string."""
    kind = schema.get("type") if isinstance(schema, Mapping) else None
    if kind in (None, "string"):
        return text
    try:
        return _json.decode(text)
    except (msgspec.DecodeError, UnicodeEncodeError, RecursionError):
        return text


def _properties(name: str, schemas: Schemas) -> Mapping[str, Any]:
    properties = schemas.get(name, {}).get("properties", {})
    return properties if isinstance(properties, Mapping) else {}


def _hermes(block: str, _: Schemas) -> list[Call] | None:
    inside = block.removeprefix("<tool_call>").removesuffix("</tool_call>").strip()
    return _all([_call(_object(inside))])


def _qwen3_coder(block: str, schemas: Schemas) -> list[Call] | None:
    calls = []
    for name, inside in _FUNCTION.findall(_closed(block, "</function>")):
        known = _properties(name, schemas)
        arguments = {
            key: _typed(value.removeprefix("\n").removesuffix("\n"), known.get(key))
            for key, value in _PARAMETER.findall(_closed(inside, "</parameter>"))
        }
        calls.append(Call(name, msgspec.json.encode(arguments).decode()))
    return calls or None


def _glm(block: str, schemas: Schemas) -> list[Call] | None:
    inside = block.removeprefix("<tool_call>").removesuffix("</tool_call>")
    name = inside.partition("<arg_key>")[0].strip()
    if not name or any(character.isspace() for character in name):
        return None
    known = _properties(name, schemas)
    written = _GLM_ARGUMENT.findall(_closed(inside, "</arg_value>"))
    arguments = {key.strip(): _typed(value, known.get(key.strip())) for key, value in written}
    return [Call(name, msgspec.json.encode(arguments).decode())]


def _deepseek(block: str, _: Schemas) -> list[Call] | None:
    return _all(
        [
            _call(
                {"name": (found["name"] or found["bare_name"]).strip(), "arguments": found["fenced"] or found["bare"]}
            )
            for found in _DEEPSEEK.finditer(_closed(block, "<｜tool▁call▁end｜>"))
        ]
    )


def _kimi(block: str, _: Schemas) -> list[Call] | None:
    written = _KIMI.findall(_closed(block, "<|tool_call_end|>"))
    return _all([_call({"name": name, "arguments": arguments}) for name, arguments in written])


def _mistral(block: str, _: Schemas) -> list[Call] | None:
    """`[TOOL_CALLS][{…}, …]`, or of newer models `[TOOL_CALLS]name{…}` once for each."""
    rest = block.removeprefix("[TOOL_CALLS]").strip()
    if rest.startswith("["):
        try:
            values = _json.decode(rest)
        except (msgspec.DecodeError, UnicodeEncodeError, RecursionError):
            return None
        return _all([_call(value) for value in values]) if isinstance(values, list) else None
    starts = list(_MISTRAL.finditer(block))
    if not starts:
        return None
    ends = [found.start() for found in starts[1:]] + [len(block)]
    return _all(
        [
            _call({"name": found["name"], "arguments": block[found.end() : end].strip()})
            for found, end in zip(starts, ends, strict=True)
        ]
    )


def _bare(block: str, schemas: Schemas) -> list[Call] | None:
    """JSON alone, fenced or not, one object or several: a call only where it names tools that are there."""
    text = block.strip().removeprefix("<|python_tag|>").strip()
    if text.startswith("```"):
        text = text.partition("\n")[2].rpartition("```")[0].strip()
    parts = [text] if _object(text) is not None else re.split(r"(?<=\})\s*+;?\s*+(?=\{)", text)
    calls = _all([_call(_object(part)) for part in parts])
    return calls if calls is not None and all(call.name in schemas for call in calls) else None


_HERMES = Form("<tool_call>", "</tool_call>", _hermes)
_BARE = tuple(Form(opening, None, _bare, at_start=True) for opening in ("{", "```json", "```\n{"))

FORMS: dict[ToolFormat, tuple[Form, ...]] = {
    "prompted": (_HERMES, *_BARE),
    "hermes": (_HERMES, *_BARE),
    "qwen3_coder": (
        Form("<tool_call>", "</tool_call>", _qwen3_coder),
        Form("<function=", "</function>", _qwen3_coder),
    ),
    "llama3_json": (Form("<|python_tag|>", None, _bare), Form("{", None, _bare, at_start=True)),
    "mistral": (Form("[TOOL_CALLS]", None, _mistral),),
    "deepseek_v3": (Form("<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>", _deepseek),),
    "glm": (Form("<tool_call>", "</tool_call>", _glm),),
    "kimi_k2": (Form("<|tool_calls_section_begin|>", "<|tool_calls_section_end|>", _kimi),),
}
