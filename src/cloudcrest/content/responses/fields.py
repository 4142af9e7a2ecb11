"""The fields of a Responses request that are honoured. What is not here is refused by name.

After https://platform.openai.com/docs/api-reference/responses/create.
"""

from typing import Annotated, Any, Literal

from msgspec import Meta, Struct

Text = Annotated[str, Meta(max_length=10_000_000)]
Id = Annotated[str, Meta(max_length=256)]
Name = Annotated[str, Meta(pattern=r"^[a-zA-Z0-9_-]{1,64}$")]
Metadata = Annotated[
    dict[Annotated[str, Meta(max_length=64)], Annotated[str, Meta(max_length=512)]], Meta(max_length=16)
]
Status = Literal["in_progress", "completed", "incomplete"]


class _Strict(Struct, forbid_unknown_fields=True, omit_defaults=True):
    pass


class InputText(_Strict, tag_field="type", tag="input_text"):
    text: Text


class OutputText(_Strict, tag_field="type", tag="output_text"):
    """What a model said, as it came; nobody reads its annotations."""

    text: Text
    annotations: list[Any] | None = None
    logprobs: list[Any] | None = None


class Refusal(_Strict, tag_field="type", tag="refusal"):
    refusal: Text


class InputImage(_Strict, tag_field="type", tag="input_image"):
    image_url: Text
    detail: Literal["auto", "low", "high"] | None = None


class InputFile(_Strict, tag_field="type", tag="input_file"):
    """One of `file_id` and `file_data`; the text that is in it takes its place before anything is kept."""

    file_id: Id | None = None
    file_data: Text | None = None
    filename: Annotated[str, Meta(pattern=r'^[^\x00-\x1f"<>]{1,255}$')] | None = None
    file_url: Text | None = None
    detail: Literal["auto", "low", "high"] | None = None


Part = InputText | OutputText | Refusal | InputImage | InputFile
Parts = Annotated[list[Part], Meta(max_length=256)]


class MessageItem(_Strict, tag_field="type", tag="message"):
    role: Literal["user", "assistant", "system", "developer"]
    content: Text | Parts
    id: Id | None = None
    status: Status | None = None


class FunctionCallItem(_Strict, tag_field="type", tag="function_call"):
    call_id: Id
    name: Name
    arguments: Text
    id: Id | None = None
    status: Status | None = None


class FunctionOutputItem(_Strict, tag_field="type", tag="function_call_output"):
    call_id: Id
    output: Text | Annotated[list[InputText], Meta(max_length=256)]
    id: Id | None = None
    status: Status | None = None


class SummaryText(_Strict, tag_field="type", tag="summary_text"):
    text: Text


class ReasoningText(_Strict, tag_field="type", tag="reasoning_text"):
    text: Text


class ReasoningItem(_Strict, tag_field="type", tag="reasoning"):
    summary: list[SummaryText] = []
    content: list[ReasoningText] | None = None
    encrypted_content: None = None
    id: Id | None = None
    status: Status | None = None


class ItemReference(_Strict, tag_field="type", tag="item_reference"):
    """An item that is kept, in place of the item itself."""

    id: Id


Item = MessageItem | FunctionCallItem | FunctionOutputItem | ReasoningItem


class FunctionTool(_Strict, tag_field="type", tag="function"):
    name: Name
    parameters: dict[str, Any] | None = None
    strict: bool | None = None
    description: Annotated[str, Meta(max_length=16_384)] | None = None


class NamedTool(_Strict):
    type: Literal["function"]
    name: Name


class TextFormat(_Strict, tag_field="type", tag="text"):
    pass


class ObjectFormat(_Strict, tag_field="type", tag="json_object"):
    pass


class SchemaFormat(_Strict, tag_field="type", tag="json_schema", rename={"json_schema": "schema"}):
    name: Name
    json_schema: dict[str, Any]
    description: str | None = None
    strict: bool | None = None


class TextOptions(_Strict):
    format: TextFormat | ObjectFormat | SchemaFormat | None = None
    verbosity: Literal["medium"] | None = None


class Reasoning(_Strict):
    """`summary`: "auto" leaves it to the model, and none here writes one."""

    effort: Literal["none", "minimal", "low", "medium", "high", "xhigh"] | None = None
    summary: Literal["auto"] | None = None


class StreamOptions(_Strict):
    include_obfuscation: Literal[False] | None = None


class ConversationReference(_Strict):
    id: Id


class ResponseBody(_Strict, kw_only=True):
    """POST /v1/responses. `items`: its `input` where that is a list; set by request.py."""

    model: Annotated[str, Meta(min_length=1, max_length=256)]
    input: Text | Annotated[list[dict[str, Any]], Meta(min_length=1, max_length=2048)]
    instructions: Text | None = None
    previous_response_id: Id | None = None
    conversation: Id | ConversationReference | None = None
    store: bool | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    background: bool | None = None
    max_output_tokens: Annotated[int, Meta(ge=1, le=1_000_000)] | None = None
    temperature: Annotated[float, Meta(ge=0, le=2)] | None = None
    top_p: Annotated[float, Meta(ge=0, le=1)] | None = None
    presence_penalty: Annotated[float, Meta(ge=-2, le=2)] | None = None
    frequency_penalty: Annotated[float, Meta(ge=-2, le=2)] | None = None
    top_logprobs: Annotated[int, Meta(ge=0, le=20)] | None = None
    tools: Annotated[list[FunctionTool], Meta(max_length=128)] | None = None
    tool_choice: Literal["none", "auto", "required"] | NamedTool | None = None
    parallel_tool_calls: bool | None = None
    text: TextOptions | None = None
    reasoning: Reasoning | None = None
    include: list[Literal["message.output_text.logprobs", "reasoning.encrypted_content"]] | None = None
    metadata: Metadata | None = None
    truncation: Literal["auto", "disabled"] | None = None
    service_tier: Literal["auto", "default"] | None = None
    user: Annotated[str, Meta(max_length=512)] | None = None
    safety_identifier: Annotated[str, Meta(max_length=512)] | None = None
    prompt_cache_key: Annotated[str, Meta(max_length=512)] | None = None
    client_metadata: (
        Annotated[dict[Annotated[str, Meta(max_length=64)], Annotated[str, Meta(max_length=8192)]], Meta(max_length=32)]
        | None
    ) = None
    """What Codex tells OpenAI of itself; nobody here reads it."""

    @property
    def conversation_id(self) -> str | None:
        given = self.conversation
        return given.id if isinstance(given, ConversationReference) else given

    @property
    def wants_logprobs(self) -> bool:
        return bool(self.top_logprobs) or "message.output_text.logprobs" in (self.include or ())
