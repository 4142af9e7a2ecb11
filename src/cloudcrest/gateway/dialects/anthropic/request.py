"""A body of Anthropic's Messages as a canonical chat. Pure.

System blocks become one system message; results of tools become messages of role tool, before what their turn says;
thinking becomes reasoning_content. Turns of the same role that follow each other are one, as at Anthropic.
"""

from collections.abc import Iterator, Sequence
from typing import Any, cast

import msgspec

from cloudcrest.gateway.dialects.anthropic.fields import (
    AnyChoice,
    Base64Source,
    CacheControl,
    CountBody,
    DocumentBlock,
    EnabledThinking,
    ImageBlock,
    MessagesBody,
    NoChoice,
    OutputConfig,
    RedactedThinkingBlock,
    TextBlock,
    ThinkingBlock,
    Tool,
    ToolChoice,
    ToolKind,
    ToolResultBlock,
    ToolUseBlock,
)
from cloudcrest.gateway.explain import explain
from cloudcrest.gateway.validate_chat import check_nesting
from cloudcrest.kernel.errors import InvalidInput

BETWEEN_BLOCKS = "\n\n"
_messages: msgspec.json.Decoder[MessagesBody] = msgspec.json.Decoder(MessagesBody)
_count: msgspec.json.Decoder[CountBody] = msgspec.json.Decoder(CountBody)
_tool: msgspec.json.Decoder[Tool] = msgspec.json.Decoder(Tool)
_kind: msgspec.json.Decoder[ToolKind] = msgspec.json.Decoder(ToolKind)
Said = dict[str, Any]
Parts = list[dict[str, Any]]
Marked = tuple[str, TextBlock | ImageBlock | ToolResultBlock]
"""A text, and the block whose mark it has."""
_NO_EDIT = {"type": "clear_thinking_20251015", "keep": "all"}
_USUAL_EFFORT = "high"


def decode(data: bytes) -> MessagesBody:
    """A checked body of /v1/messages. Raises `InvalidInput` whose `param` is the wrong field's path."""
    return cast(MessagesBody, _decoded(_messages, data))


def decode_count(data: bytes) -> CountBody:
    """A checked body of /v1/messages/count_tokens. Raises as `decode` does."""
    return cast(CountBody, _decoded(_count, data))


def canonical(body: CountBody) -> dict[str, Any]:
    """The same as a body of OpenAI's chat completions. Raises `InvalidInput` for what cannot be said there.

    Marked text is a part with `cache_control`, others are plain: `gateway/marks.py` makes all of it plain again.
    """
    _check_thinking(body)
    chat: dict[str, Any] = {"messages": _joined(_turns(body)), "model": body.model}
    if body.cache_control is not None and chat["messages"][-1]["role"] in ("user", "tool"):
        chat["messages"][-1] = _marked_at_its_end(chat["messages"][-1], body.cache_control)
    tools = [_read_tool(raw, f"tools[{at}]") for at, raw in enumerate(body.tools or ())]
    if tools:
        chat["tools"] = [_function(tool) for tool in tools]
    chat |= _tool_choice(body, {tool.name for tool in tools})
    config = body.output_config or OutputConfig()
    form = config.format or body.output_format
    if form is not None:
        check_nesting(form.json_schema, "output_config.format.schema" if config.format else "output_format.schema")
        schema = {"name": "output", "schema": form.json_schema, "strict": True}
        chat["response_format"] = {"type": "json_schema", "json_schema": schema}
    if isinstance(body, MessagesBody):
        chat |= _sampling(body)
        if config.effort not in (None, _USUAL_EFFORT):
            chat["reasoning_effort"] = config.effort
    return chat


def _check_thinking(body: CountBody) -> None:
    if isinstance(body.thinking, EnabledThinking) and body.thinking.budget_tokens is not None:
        raise InvalidInput(
            "no model here holds to a budget of thinking",
            param="thinking.budget_tokens",
            code="unsupported_parameter",
            hint="send {'type': 'adaptive'}: the model thinks as much as it does by itself",
        )
    if body.context_management is not None and any(edit != _NO_EDIT for edit in body.context_management.edits):
        raise InvalidInput(
            "what was said before is not edited here",
            param="context_management",
            code="unsupported_parameter",
            hint=f"leave it out, or send {_NO_EDIT}",
        )
    if body.output_config is not None and body.output_config.effort == "max":
        raise InvalidInput(
            "no model here has this level", param="output_config.effort", code="unsupported_value", hint="take 'xhigh'"
        )


def _decoded(decoder: msgspec.json.Decoder[Any], data: bytes) -> Any:
    try:
        return decoder.decode(data)
    except msgspec.ValidationError as error:
        raise explain(str(error)) from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InvalidInput(f"the body is not valid JSON: {error}", code="invalid_json") from None
    except RecursionError:
        raise InvalidInput("the body is nested too deeply", code="invalid_json") from None


def _turns(body: CountBody) -> Iterator[Said]:
    system = body.system if isinstance(body.system, str) else _said([(b.text, b) for b in body.system or ()])
    if system:
        yield {"role": "system", "content": system}
    for at, message in enumerate(body.messages):
        path = f"messages[{at}].content"
        content = [TextBlock(text=message.content)] if isinstance(message.content, str) else message.content
        if not content:
            raise InvalidInput("a turn needs content", param=path)
        if message.role == "assistant":
            yield _answer(content, path)
        elif message.role == "system":
            yield {"role": "system", "content": _text(content, path, "a system turn")}
        else:
            yield from _question(content, path)


def _question(content: Sequence[Any], path: str) -> Iterator[Said]:
    """A turn of the user: results of tools, then what is shown (by the results, too) and said."""
    shown: Parts = []
    texts: list[Marked] = []
    is_after_results = False
    for at, block in enumerate(content):
        where = f"{path}[{at}]"
        if isinstance(block, ToolResultBlock):
            if is_after_results:
                raise InvalidInput("results of tools come before what else a turn says", param=where)
            result = _said([(_result(block, where, shown), block)])
            yield {"role": "tool", "tool_call_id": block.tool_use_id, "content": result}
            continue
        is_after_results = True
        if isinstance(block, ImageBlock):
            shown += [*_text_parts(texts), _image(block, where)]
            texts = []
        else:
            texts.append((_text([block], path, "a turn of the user", at), block))
    if shown:
        yield {"role": "user", "content": [*shown, *_text_parts(texts)]}
    elif texts:
        yield {"role": "user", "content": _said(texts)}


def _result(block: ToolResultBlock, path: str, shown: Parts) -> str:
    """What a tool said. Its images go to `shown`: only the user can show any."""
    content = block.content or ""
    if isinstance(content, str):
        text = content
    else:
        images = [(at, each) for at, each in enumerate(content) if isinstance(each, ImageBlock)]
        shown += [_image(each, f"{path}.content[{at}]") for at, each in images]
        texts = [each.text for each in content if isinstance(each, TextBlock)]
        text = BETWEEN_BLOCKS.join(texts) or ("The image follows." if images else "")
    # OpenAI's shape has no field for it, and models are told in words.
    return f"Error: {text}" if block.is_error else text


def _image(block: ImageBlock, path: str) -> dict[str, Any]:
    source = block.source
    if not isinstance(source, Base64Source):
        raise InvalidInput(
            "images are not fetched here", param=f"{path}.source.type", code="unsupported_content", hint="send base64"
        )
    url = f"data:{source.media_type};base64,{source.data}"
    return {"type": "image_url", "image_url": {"url": url}, **_mark(block.cache_control)}


def _text_parts(texts: Sequence[Marked]) -> Parts:
    return [_marked({"type": "text", "text": text}, block.cache_control) for text, block in texts]


def _said(texts: Sequence[Marked]) -> str | Parts:
    """What blocks say: one text, or a part for each where one is marked. Put together, the parts are that text."""
    if not any(text and block.cache_control for text, block in texts):
        return BETWEEN_BLOCKS.join(text for text, _ in texts)
    *before, last = texts
    return _text_parts([*((text + BETWEEN_BLOCKS, block) for text, block in before), last])


def _mark(given: CacheControl | None) -> dict[str, Any]:
    """A mark as providers with OpenAI's shape take it: Anthropic's own, without whom it is kept for."""
    if given is None:
        return {}
    return {"cache_control": {"type": given.type, **({} if given.ttl is None else {"ttl": given.ttl})}}


def _marked(part: dict[str, Any], given: CacheControl | None) -> dict[str, Any]:
    """With its mark. An empty text has none, as a result without output: Anthropic refuses to keep nothing."""
    return part if part.get("text") == "" else part | _mark(given)


def _marked_at_its_end(turn: Said, given: CacheControl) -> Said:
    content = turn["content"]
    parts = content if isinstance(content, list) else [{"type": "text", "text": content}]
    last = _marked(parts[-1], given)
    return turn if last is parts[-1] else {**turn, "content": [*parts[:-1], last]}


def _answer(content: Sequence[Any], path: str) -> Said:
    """A turn of the assistant: what it thought, said, and called."""
    thoughts, texts, calls = [], [], []
    for at, block in enumerate(content):
        if isinstance(block, ToolUseBlock):
            check_nesting(block.input, f"{path}[{at}].input")
            arguments = msgspec.json.encode(block.input).decode()
            calls.append({"id": block.id, "type": "function", "function": {"name": block.name, "arguments": arguments}})
        elif isinstance(block, ThinkingBlock):
            thoughts.append(block.thinking)
        else:
            texts.append(_text([block], path, "a turn of the assistant", at))
    said: Said = {"role": "assistant", "content": BETWEEN_BLOCKS.join(texts)}
    if calls:
        said["tool_calls"] = calls
        said["content"] = said["content"] or None
    if thoughts:
        said["reasoning_content"] = BETWEEN_BLOCKS.join(thoughts)
    return said


def _text(content: Sequence[Any], path: str, whose: str, first: int = 0) -> str:
    """The text of blocks. Raises `InvalidInput` for others."""
    texts = []
    for at, block in enumerate(content, first):
        if isinstance(block, TextBlock):
            texts.append(block.text)
            continue
        if isinstance(block, ImageBlock):
            why, hint = "only the user shows images", None
        elif isinstance(block, DocumentBlock):
            why, hint = "documents are not read here", "send their text"
        elif isinstance(block, RedactedThinkingBlock):
            why, hint = "only Anthropic can read redacted thinking", "leave the block out"
        else:
            why, hint = f"{whose} has no blocks of this type", None
        raise InvalidInput(why, param=f"{path}[{at}].type", code="unsupported_content", hint=hint)
    return BETWEEN_BLOCKS.join(texts)


def _joined(turns: Iterator[Said]) -> list[Said]:
    """Turns of user or assistant that follow each other as one."""
    said: list[Said] = []
    for turn in turns:
        last = said[-1] if said else {"role": ""}
        is_same = last["role"] == turn["role"] and turn["role"] in ("user", "assistant")
        if is_same and "tool_calls" not in last and "reasoning_content" not in turn:
            said[-1] = {**last, **turn, "content": _both(last["content"], turn["content"])}
        else:
            said.append(turn)
    return said


def _both(first: str | Parts | None, second: str | Parts | None) -> str | Parts:
    if isinstance(first, list) or isinstance(second, list):
        one, two = (
            said if isinstance(said, list) else [{"type": "text", "text": said}] if said else []
            for said in (first, second)
        )
        if one and two and all(part["type"] == "text" for part in (*one, *two)):
            one = [*one[:-1], {**one[-1], "text": one[-1]["text"] + BETWEEN_BLOCKS}]
        return [*one, *two]
    return BETWEEN_BLOCKS.join(text for text in (first, second) if text)


def _read_tool(raw: msgspec.Raw, path: str) -> Tool:
    try:
        kind = _kind.decode(raw).type
        if kind not in (None, "custom"):
            raise InvalidInput(
                f"tools of the type '{kind[:64]}' run at Anthropic or are known to its models alone",
                param=f"{path}.type",
                code="unsupported_tool",
                hint="describe the tool with name, description and input_schema",
            )
        tool = _tool.decode(raw)
    except msgspec.ValidationError as error:
        text = str(error)
        where = f"`$.{path}"
        raise explain(text.replace("`$", where, 1) if "`$" in text else f"{text} - at {where}`") from None
    check_nesting(tool.input_schema, f"{path}.input_schema")
    return tool


def _function(tool: Tool) -> dict[str, Any]:
    function: dict[str, Any] = {"name": tool.name, "parameters": tool.input_schema}
    if tool.description is not None:
        function["description"] = tool.description
    if tool.strict is not None:
        function["strict"] = tool.strict
    return {"type": "function", "function": function, **_mark(tool.cache_control)}


def _tool_choice(body: CountBody, names: set[str]) -> dict[str, Any]:
    choice = body.tool_choice
    if choice is None or (not names and not isinstance(choice, AnyChoice | ToolChoice)):
        return {}
    if not names:
        raise InvalidInput("tool_choice goes with tools", param="tool_choice")
    if isinstance(choice, NoChoice):
        return {"tool_choice": "none"}
    chosen: dict[str, Any] = {"tool_choice": "required" if isinstance(choice, AnyChoice) else "auto"}
    if isinstance(choice, ToolChoice):
        if choice.name not in names:
            raise InvalidInput(f"there is no tool '{choice.name}' among the tools", param="tool_choice.name")
        chosen = {"tool_choice": {"type": "function", "function": {"name": choice.name}}}
    if choice.disable_parallel_tool_use:
        chosen["parallel_tool_calls"] = False
    return chosen


def _sampling(body: MessagesBody) -> dict[str, Any]:
    chat: dict[str, Any] = {"max_tokens": body.max_tokens}
    for name in ("temperature", "top_p", "top_k"):
        value = getattr(body, name)
        if value is not None:
            chat[name] = value
    if body.stop_sequences:
        chat["stop"] = body.stop_sequences
    if body.metadata is not None and body.metadata.user_id is not None:
        chat["user"] = body.metadata.user_id
    if body.stream:
        chat |= {"stream": True, "stream_options": {"include_usage": True}}
    return chat
