"""The fields of Anthropic's Messages, with their types and bounds. What is not here is refused by name.

`cache_control` is taken wherever Anthropic takes it. It goes to providers whose deployments say that they take marks;
what other engines keep of a prompt they keep by themselves. Tools are decoded one by one (request.py): those that run
at Anthropic have other fields.
"""

from typing import Annotated, Any, Literal

from msgspec import Meta, Raw, Struct

from cloudcrest.gateway.fields import MAX_MESSAGES, ModelName, Schema, ShortText, Stop

MAX_BLOCKS = 4096
ToolName = Annotated[str, Meta(pattern=r"^[a-zA-Z0-9_-]{1,64}$")]


class _Strict(Struct, forbid_unknown_fields=True):
    pass


class CacheControl(_Strict):
    type: Literal["ephemeral"]
    ttl: Literal["5m", "1h"] | None = None
    scope: Literal["global", "org"] | None = None


class _Block(_Strict, kw_only=True, tag_field="type"):
    cache_control: CacheControl | None = None


class TextBlock(_Block, tag="text"):
    text: str
    citations: None = None


class Base64Source(_Strict, tag_field="type", tag="base64"):
    media_type: Literal["image/jpeg", "image/png", "image/gif", "image/webp"]
    data: str


class UrlSource(_Strict, tag_field="type", tag="url"):
    """Refused (request.py), as is the next one: nothing is fetched for a caller."""

    url: str


class FileSource(_Strict, tag_field="type", tag="file"):
    file_id: ShortText


class ImageBlock(_Block, tag="image"):
    source: Base64Source | UrlSource | FileSource


class ToolUseBlock(_Block, tag="tool_use"):
    id: ShortText
    name: ToolName
    input: dict[str, Any]
    caller: dict[Literal["type"], Literal["direct"]] | None = None


ResultContent = str | Annotated[list[TextBlock | ImageBlock], Meta(max_length=MAX_BLOCKS)]


class ToolResultBlock(_Block, tag="tool_result"):
    tool_use_id: ShortText
    content: ResultContent | None = None
    is_error: bool | None = None


class ThinkingBlock(_Strict, tag_field="type", tag="thinking"):
    thinking: str
    signature: str = ""


class _Foreign(Struct, tag_field="type"):
    """Of no use to the models here; decoded to be refused in words."""


class DocumentBlock(_Foreign, tag="document"):
    pass


class RedactedThinkingBlock(_Foreign, tag="redacted_thinking"):
    pass


Block = TextBlock | ImageBlock | ToolUseBlock | ToolResultBlock | ThinkingBlock | DocumentBlock | RedactedThinkingBlock


class Message(_Strict):
    """One turn; which blocks go with which role is checked in request.py."""

    role: Literal["user", "assistant", "system"]
    content: str | Annotated[list[Block], Meta(max_length=MAX_BLOCKS)]


class Tool(_Strict):
    """A tool that the caller runs. `eager_input_streaming` allows what need not be done."""

    name: ToolName
    input_schema: Schema
    description: Annotated[str, Meta(max_length=65_536)] | None = None
    type: Literal["custom"] | None = None
    strict: bool | None = None
    cache_control: CacheControl | None = None
    eager_input_streaming: bool | None = None
    defer_loading: Literal[False] | None = None
    allowed_callers: list[Literal["direct"]] | None = None


class ToolKind(Struct):
    """What a tool is, before all of it is read."""

    type: str | None = None


class _Choice(_Strict, kw_only=True, tag_field="type"):
    disable_parallel_tool_use: bool | None = None


class AutoChoice(_Choice, tag="auto"):
    pass


class AnyChoice(_Choice, tag="any"):
    pass


class ToolChoice(_Choice, tag="tool"):
    name: ToolName


class NoChoice(_Strict, tag_field="type", tag="none"):
    pass


class AdaptiveThinking(_Strict, tag_field="type", tag="adaptive"):
    """The model thinks as much as it does by itself. `display` "omitted": the caller is not told what."""

    display: Literal["summarized", "omitted"] | None = None


class EnabledThinking(_Strict, tag_field="type", tag="enabled"):
    """Without a budget, which is refused (request.py) as no engine holds to one, the same as the one above."""

    budget_tokens: int | None = None
    display: Literal["summarized", "omitted"] | None = None


class DisabledThinking(_Strict, tag_field="type", tag="disabled"):
    pass


class ContextManagement(_Strict):
    """Edits of what was said before: only the one that edits nothing is taken (request.py)."""

    edits: Annotated[list[dict[str, Any]], Meta(max_length=16)] = []


class JsonFormat(_Strict, tag_field="type", tag="json_schema", rename={"json_schema": "schema"}):
    json_schema: Schema


class OutputConfig(_Strict):
    """`effort` "high" is how a model works that is told nothing."""

    effort: Literal["low", "medium", "high", "xhigh", "max"] | None = None
    format: JsonFormat | None = None


class Metadata(_Strict):
    user_id: ShortText | None = None


class CountBody(_Strict, kw_only=True):
    """POST /v1/messages/count_tokens: what the model is to read."""

    model: ModelName
    messages: Annotated[list[Message], Meta(min_length=1, max_length=MAX_MESSAGES)]
    system: str | Annotated[list[TextBlock], Meta(max_length=MAX_BLOCKS)] | None = None
    tools: Annotated[list[Raw], Meta(max_length=128)] | None = None
    tool_choice: AutoChoice | AnyChoice | ToolChoice | NoChoice | None = None
    thinking: AdaptiveThinking | EnabledThinking | DisabledThinking | None = None
    cache_control: CacheControl | None = None
    context_management: ContextManagement | None = None
    output_config: OutputConfig | None = None
    output_format: JsonFormat | None = None
    speed: Literal["standard"] | None = None


class MessagesBody(CountBody, kw_only=True):
    """POST /v1/messages"""

    max_tokens: Annotated[int, Meta(ge=1, le=1_000_000)]
    stream: bool | None = None
    stop_sequences: Stop | None = None
    temperature: Annotated[float, Meta(ge=0, le=1)] | None = None
    top_p: Annotated[float, Meta(ge=0, le=1)] | None = None
    top_k: Annotated[int, Meta(ge=0, le=100_000)] | None = None
    metadata: Metadata | None = None
    service_tier: Literal["auto", "standard_only"] | None = None
