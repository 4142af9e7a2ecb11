"""The fields that each endpoint takes, with their types and bounds. What is not here is refused by name.

Engine-private fields (`n_predict`, `cache_prompt`, `id_slot`, `grammar`, `lora`, …) are left out on purpose: some
of them get around limits. What the engines do not honour is left out too, so that a caller never believes it was.
"""

from typing import Annotated, Any, Literal

from msgspec import Meta, Raw, Struct

MAX_CHOICES = 8
MAX_BATCH = 2048
MAX_MESSAGES = 10_000
MAX_TOOL_CALLS = 128
"""Of one message."""
MAX_DOCUMENTS = 1000
"""Of one request to rank them."""

ModelName = Annotated[str, Meta(min_length=1, max_length=256)]
Name = Annotated[str, Meta(pattern=r"^[a-zA-Z0-9_-]{1,64}$")]
ShortText = Annotated[str, Meta(max_length=512)]
MaxTokens = Annotated[int, Meta(ge=1, le=1_000_000)]
Penalty = Annotated[float, Meta(ge=-2, le=2)]
Stop = Annotated[list[Annotated[str, Meta(min_length=1, max_length=256)]], Meta(max_length=16)]
Schema = dict[str, Any]


class _Strict(Struct, forbid_unknown_fields=True, omit_defaults=True):
    pass


class CacheMark(_Strict):
    """Asks a provider to keep the prompt up to here. Our own engines keep prompts by themselves and pass it over."""

    type: Literal["ephemeral"]
    ttl: Literal["5m", "1h"] | None = None


class TextPart(_Strict, tag_field="type", tag="text"):
    text: str
    cache_control: CacheMark | None = None


class RefusalPart(_Strict, tag_field="type", tag="refusal"):
    refusal: str


class ImageUrl(_Strict):
    """`url`: the image itself, as a `data:` URL."""

    url: str
    detail: Literal["auto", "low", "high"] | None = None


class ImagePart(_Strict, tag_field="type", tag="image_url"):
    image_url: ImageUrl
    cache_control: CacheMark | None = None


class FunctionCall(_Strict):
    """`parsed_arguments`: as `parsed` of a message."""

    name: Name
    arguments: str
    parsed_arguments: None = None


class ToolCall(_Strict):
    """`index`: its place, which clients keep of a stream."""

    id: ShortText
    function: FunctionCall
    type: Literal["function"] = "function"
    index: Annotated[int, Meta(ge=0, le=MAX_TOOL_CALLS)] | None = None


class Message(_Strict):
    """One message; which fields go with which role is checked in validate_chat.py.

    `annotations`, `audio`, `function_call`, `parsed`: empty, from clients that give an answer back as they got it.
    """

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | Annotated[list[TextPart | RefusalPart | ImagePart], Meta(max_length=256)] | None = None
    name: Name | None = None
    tool_calls: Annotated[list[ToolCall], Meta(max_length=MAX_TOOL_CALLS)] | None = None
    tool_call_id: ShortText | None = None
    refusal: str | None = None
    reasoning_content: str | None = None
    annotations: Annotated[list[str], Meta(max_length=0)] | None = None
    audio: None = None
    function_call: None = None
    parsed: None = None


def text_of(message: Message) -> str:
    """What a message says, its parts joined."""
    content = message.content
    if isinstance(content, list):
        return "".join(part.text for part in content if isinstance(part, TextPart))
    return content or ""


def images_in(message: Message) -> int:
    """How many images it shows."""
    content = message.content
    return sum(isinstance(part, ImagePart) for part in content) if isinstance(content, list) else 0


class StreamOptions(_Strict):
    include_usage: bool | None = None
    include_obfuscation: Literal[False] | None = None


class TextFormat(_Strict, tag_field="type", tag="text"):
    pass


class JsonObjectFormat(_Strict, tag_field="type", tag="json_object"):
    pass


class JsonSchemaBody(_Strict, rename={"json_schema": "schema"}):
    name: Name
    json_schema: Schema
    description: Annotated[str, Meta(max_length=4096)] | None = None
    strict: bool | None = None


class JsonSchemaFormat(_Strict, tag_field="type", tag="json_schema"):
    json_schema: JsonSchemaBody


class ToolFunction(_Strict):
    name: Name
    description: Annotated[str, Meta(max_length=65_536)] | None = None
    parameters: Schema | None = None
    strict: bool | None = None


class Tool(_Strict):
    function: ToolFunction
    type: Literal["function"]
    cache_control: CacheMark | None = None


class NamedFunction(_Strict):
    name: Name


class NamedTool(_Strict):
    type: Literal["function"]
    function: NamedFunction


class _Common(_Strict, kw_only=True):
    """What goes with everything else, and what every engine takes as it is."""

    model: ModelName
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: MaxTokens | None = None
    temperature: Annotated[float, Meta(ge=0, le=2)] | None = None
    top_p: Annotated[float, Meta(ge=0, le=1)] | None = None
    top_k: Annotated[int, Meta(ge=-1, le=100_000)] | None = None
    min_p: Annotated[float, Meta(ge=0, le=1)] | None = None
    stop: Annotated[str, Meta(max_length=256)] | Stop | None = None
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None
    seed: Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)] | None = None
    user: ShortText | None = None


class SaidMessage(_Strict):
    """A message that is a text and nothing else. The text stays as it was written: nobody here reads it."""

    role: Literal["user", "assistant", "system"]
    content: Raw


class PlainChat(_Common, kw_only=True):
    """POST /v1/chat/completions with nothing in it that is to be looked at twice (plain.py). Most are."""

    messages: Annotated[list[SaidMessage], Meta(min_length=1, max_length=MAX_MESSAGES)]
    max_completion_tokens: MaxTokens | None = None


class _Sampling(_Common, kw_only=True):
    n: Annotated[int, Meta(ge=1, le=MAX_CHOICES)] | None = None
    repetition_penalty: Annotated[float, Meta(gt=0, le=2)] | None = None
    logit_bias: (
        Annotated[
            dict[Annotated[str, Meta(pattern=r"^\d{1,7}$")], Annotated[float, Meta(ge=-100, le=100)]],
            Meta(max_length=1024),
        ]
        | None
    ) = None


class ChatBody(_Sampling, kw_only=True):
    """POST /v1/chat/completions"""

    messages: Annotated[list[Message], Meta(min_length=1, max_length=MAX_MESSAGES)]
    max_completion_tokens: MaxTokens | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Meta(ge=0, le=20)] | None = None
    response_format: TextFormat | JsonObjectFormat | JsonSchemaFormat | None = None
    tools: Annotated[list[Tool], Meta(max_length=128)] | None = None
    tool_choice: Literal["none", "auto", "required"] | NamedTool | None = None
    parallel_tool_calls: bool | None = None
    metadata: (
        Annotated[dict[Annotated[str, Meta(max_length=64)], Annotated[str, Meta(max_length=512)]], Meta(max_length=16)]
        | None
    ) = None
    enable_thinking: bool | None = None
    store: Literal[False] | None = None
    service_tier: Literal["auto", "default"] | None = None
    modalities: list[Literal["text"]] | None = None
    reasoning_effort: Literal["none", "minimal", "low", "medium", "high", "xhigh"] | None = None
    prompt_cache_key: ShortText | None = None
    safety_identifier: ShortText | None = None


class CompletionBody(_Sampling, kw_only=True):
    """POST /v1/completions. `prompt`: a text or a list of token numbers, or a list of up to 8 of either."""

    prompt: str | Annotated[list[str | int | list[int]], Meta(min_length=1, max_length=1_000_000)]
    logprobs: Annotated[int, Meta(ge=0, le=5)] | None = None
    echo: Literal[False] | None = None
    best_of: Literal[1] | None = None
    suffix: Literal[""] | None = None


class EmbeddingBody(_Strict, kw_only=True):
    """POST /v1/embeddings. `input`: a text or a list of token numbers, or a batch of either."""

    model: ModelName
    input: (
        Annotated[str, Meta(min_length=1)]
        | Annotated[list[str | int | list[int]], Meta(min_length=1, max_length=1_000_000)]
    )
    encoding_format: Literal["float", "base64"] | None = None
    user: ShortText | None = None


class RerankDocument(_Strict):
    text: str


class RerankBody(_Strict, kw_only=True):
    """POST /v1/rerank, as Cohere and Jina have it."""

    model: ModelName
    query: Annotated[str, Meta(min_length=1)]
    documents: Annotated[list[str | RerankDocument], Meta(min_length=1, max_length=MAX_DOCUMENTS)]
    top_n: Annotated[int, Meta(ge=1)] | None = None
    return_documents: bool | None = None
    max_tokens_per_doc: Annotated[int, Meta(ge=1)] | None = None
    user: ShortText | None = None


class ImageBody(_Strict, kw_only=True):
    """POST /v1/images/generations"""

    model: ModelName
    prompt: Annotated[str, Meta(min_length=1, max_length=32_000)]
    n: Annotated[int, Meta(ge=1, le=10)] | None = None
    size: Annotated[str, Meta(pattern=r"^(auto|\d{2,5}x\d{2,5})$")] | None = None
    quality: Literal["auto", "low", "medium", "high", "standard", "hd"] | None = None
    style: Literal["vivid", "natural"] | None = None
    background: Literal["auto", "transparent", "opaque"] | None = None
    moderation: Literal["auto", "low"] | None = None
    output_format: Literal["png", "jpeg", "webp"] | None = None
    output_compression: Annotated[int, Meta(ge=0, le=100)] | None = None
    response_format: Literal["url", "b64_json"] | None = None
    stream: Literal[False] | None = None
    user: ShortText | None = None


TEXT_BODIES = (ChatBody, CompletionBody)
"""Of requests for text. A tuple, the commonest first: `isinstance` with a union of structs takes longer than decoding a
small body.
"""
NOT_FORWARDED = frozenset(
    (
        *("user", "metadata", "store", "service_tier", "echo", "best_of", "suffix", "n", "stream_options", "model"),
        *("modalities", "prompt_cache_key", "safety_identifier"),
        *("repetition_penalty", "enable_thinking"),
    )
)
"""Checked here and of no use to an engine, or spliced anew. Who a tenant's users are is not the engine's business."""
ONE_VALUE = frozenset(
    ("store", "service_tier", "echo", "best_of", "suffix", "modalities", "stream_options.include_obfuscation")
)
"""Fields of OpenAI's that are taken with the value alone that changes nothing."""
