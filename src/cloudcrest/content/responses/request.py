"""A Responses request as a chat completion's: items become messages. Pure."""

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import msgspec

from cloudcrest.content.responses.fields import (
    FunctionCallItem,
    FunctionOutputItem,
    InputFile,
    InputImage,
    InputText,
    Item,
    ItemReference,
    MessageItem,
    ObjectFormat,
    OutputText,
    Part,
    ReasoningItem,
    ResponseBody,
    SchemaFormat,
)
from cloudcrest.gateway.explain import explain
from cloudcrest.kernel.errors import InvalidInput

PREFIXES = {"message": "msg", "function_call": "fc", "function_call_output": "fco", "reasoning": "rs"}
"""Of items' ids, by their type."""

_SAME_NAMES = (
    *("temperature", "top_p", "presence_penalty", "frequency_penalty"),
    *("parallel_tool_calls", "user", "prompt_cache_key", "safety_identifier"),
)
"""What a chat completion calls as a response does."""


def references_in(body: ResponseBody) -> list[tuple[str, str]]:
    """Each item that the input refers to, as often as it does: its id, and where that stands. Raises `InvalidInput`."""
    references: list[tuple[str, str]] = []
    for index, written in enumerate(body.input if isinstance(body.input, list) else ()):
        if _is_reference(written):
            path = f"input[{index}]"
            references.append((_convert(written, ItemReference, path).id, f"{path}.id"))
    return references


def items_of(
    body: ResponseBody, new_id: Callable[[str], str], referred: Mapping[str, Item] = MappingProxyType({})
) -> list[Item]:
    """The input as items, each with an id; `referred`: those it refers to, by their id.

    Raises `InvalidInput` with the path of what is not understood.
    """
    if isinstance(body.input, str):
        return [MessageItem("user", [InputText(body.input)], id=new_id("msg"), status="completed")]
    return read_items(body.input, "input", new_id, referred)


def read_items(
    written_items: Sequence[dict[str, Any]],
    field: str,
    new_id: Callable[[str], str],
    referred: Mapping[str, Item] = MappingProxyType({}),
) -> list[Item]:
    """Items as they are written in this field, each with an id. Raises `InvalidInput` as `items_of` does."""
    items: list[Item] = []
    for index, written in enumerate(written_items):
        if referred and _is_reference(written):
            items.append(referred[written["id"]])
            continue
        item = {"type": "message", **written} if "role" in written else written
        read: Item = _convert(item, Item, f"{field}[{index}]")
        read.id = read.id or new_id(PREFIXES[str(read.__struct_config__.tag)])
        if isinstance(read, MessageItem) and isinstance(read.content, str):
            kind = OutputText if read.role == "assistant" else InputText
            read.content = [kind(read.content)]
        read.status = read.status or "completed"
        items.append(read)
    return items


def _is_reference(written: dict[str, Any]) -> bool:
    """OpenAI's may come without a type: then an id is all there is."""
    kind = written.get("type")
    return kind == "item_reference" or (kind is None and written.keys() <= {"id", "type"} and "id" in written)


def _convert(written: dict[str, Any], kind: Any, path: str) -> Any:
    if kind is ItemReference:
        written = {**written, "type": "item_reference"}
    try:
        return msgspec.convert(written, kind)
    except msgspec.ValidationError as error:
        told = explain(str(error))
        inner = path + (f".{told.param}" if told.param else "")
        raise InvalidInput(told.message.replace(f"'{told.param}'", f"'{inner}'"), param=inner, code=told.code) from None


def said_before(documents: Sequence[dict[str, Any]], field: str) -> list[Item]:
    """Items as they were kept. Raises `InvalidInput` for what a model made that none can be asked with."""
    items: list[Item] = []
    for document in documents:
        try:
            items.append(msgspec.convert(document, Item))
        except msgspec.ValidationError as error:  # a call of a function whose name cannot be one
            raise InvalidInput(
                f"the item '{document.get('id')}' cannot be asked again: {error}",
                param=field,
                hint="go on without it: delete it from its conversation, or send the items that are to be asked",
            ) from None
    return items


def check_state(body: ResponseBody) -> None:
    """Raises `InvalidInput` where what it goes on with and what is kept of it do not go together."""
    if body.store is False and body.background:
        raise InvalidInput("a response in the background is stored", param="store")
    if body.store is False and body.conversation is not None:
        raise InvalidInput("what a conversation goes on with is stored", param="store", hint="leave out one of the two")
    if body.previous_response_id is not None and body.conversation is not None:
        raise InvalidInput(
            "a response goes on with a conversation or with a response, not both",
            param="previous_response_id",
            code="mutually_exclusive_parameters",
        )


def chat_request(body: ResponseBody, items: Sequence[Item], *, is_stream: bool = True) -> dict[str, Any]:
    """The chat completion's body for these items: those before, then those of the request."""
    request: dict[str, Any] = {"model": body.model, "messages": _messages(body.instructions, items)}
    if is_stream:
        request |= {"stream": True, "stream_options": {"include_usage": True}}
    for name in _SAME_NAMES:
        if getattr(body, name) is not None:
            request[name] = getattr(body, name)
    if body.max_output_tokens is not None:
        request["max_completion_tokens"] = body.max_output_tokens
    if body.wants_logprobs:
        request |= {"logprobs": True, "top_logprobs": body.top_logprobs or 0}
    if body.reasoning is not None and body.reasoning.effort is not None:
        request["reasoning_effort"] = body.reasoning.effort
    if body.tools:
        request["tools"] = [{"type": "function", "function": _without_type(tool)} for tool in body.tools]
        if body.tool_choice is not None:
            choice = body.tool_choice
            named = choice if isinstance(choice, str) else {"type": "function", "function": {"name": choice.name}}
            request["tool_choice"] = named
    elif body.tool_choice not in (None, "auto", "none"):
        raise InvalidInput("tool_choice goes with tools", param="tool_choice")
    else:
        request.pop("parallel_tool_calls", None)  # of no tools, at most one
    written = body.text.format if body.text is not None else None
    if isinstance(written, SchemaFormat):
        request["response_format"] = {"type": "json_schema", "json_schema": _without_type(written)}
    elif isinstance(written, ObjectFormat):
        request["response_format"] = {"type": "json_object"}
    return request


def _messages(instructions: str | None, items: Sequence[Item]) -> list[dict[str, Any]]:
    """What a model said, thought and called in one go is one message of the assistant."""
    messages: list[dict[str, Any]] = []
    if instructions:
        messages.append({"role": "system", "content": instructions})
    turn: dict[str, Any] | None = None
    for item in items:
        if isinstance(item, FunctionOutputItem):
            output = item.output if isinstance(item.output, str) else "".join(part.text for part in item.output)
            messages.append({"role": "tool", "tool_call_id": item.call_id, "content": output})
            turn = None
        elif isinstance(item, MessageItem) and item.role != "assistant":
            messages.append({"role": item.role, "content": _content(item.content)})
            turn = None
        else:
            if turn is None or (isinstance(item, MessageItem) and "content" in turn):
                turn = {"role": "assistant"}
                messages.append(turn)
            _add(turn, item)
    return [message for message in messages if message.keys() - {"role", "reasoning_content"}]


def _add(turn: dict[str, Any], item: Item) -> None:
    if isinstance(item, MessageItem):
        parts = item.content if isinstance(item.content, list) else [OutputText(item.content)]
        turn["content"] = "".join(part.text for part in parts if isinstance(part, OutputText | InputText))
    elif isinstance(item, FunctionCallItem):
        call = {"name": item.name, "arguments": item.arguments}
        turn.setdefault("tool_calls", []).append({"id": item.call_id, "type": "function", "function": call})
    elif isinstance(item, ReasoningItem) and item.content:
        turn["reasoning_content"] = "".join(part.text for part in item.content)


def _content(content: str | list[Part]) -> str | list[dict[str, Any]]:
    if isinstance(content, str):
        return content
    if len(content) == 1 and isinstance(content[0], InputText | OutputText):
        return content[0].text
    return [_part(part) for part in content]


def _part(part: Part) -> dict[str, Any]:
    if isinstance(part, InputImage):
        image = {"url": part.image_url} if part.detail is None else {"url": part.image_url, "detail": part.detail}
        return {"type": "image_url", "image_url": image}
    assert not isinstance(part, InputFile)  # noqa: S101 - its text has taken its place
    return {"type": "text", "text": part.text if isinstance(part, InputText | OutputText) else part.refusal}


def _without_type(struct: msgspec.Struct) -> dict[str, Any]:
    built: dict[str, Any] = msgspec.to_builtins(struct)
    del built["type"]
    return built
