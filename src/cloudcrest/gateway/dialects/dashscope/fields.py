"""The fields that DashScope's endpoints take. What is not here is refused by its path, as everywhere.

A field whose only value here is False or one word is there because clients send it: what it would turn on is not done.
Values are checked further where the canonical request is (fields.py); here is only what is different.
"""

from typing import Annotated, Any, Literal

from msgspec import Meta, Struct

from cloudcrest.gateway.fields import MAX_BATCH, MAX_DOCUMENTS, CacheMark, RerankDocument

MAX_PARTS = 256


class _Strict(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    pass


class Part(_Strict, frozen=True):
    """A part of a message's content: one of text, image and audio, each a text, an address or a `data:` URI."""

    text: str | None = None
    image: str | None = None
    audio: str | None = None
    type: Literal["text"] | None = None
    cache_control: CacheMark | None = None


class FunctionCall(_Strict, frozen=True):
    name: str
    arguments: str = ""


class ToolCall(_Strict, frozen=True):
    """As DashScope's answers have it: with its place, which says nothing."""

    function: FunctionCall
    id: str = ""
    type: Literal["function"] = "function"
    index: int | None = None


class Message(_Strict, frozen=True):
    role: str
    content: str | Annotated[list[Part], Meta(max_length=MAX_PARTS)] | None = None
    name: str | None = None
    tool_calls: Annotated[list[ToolCall], Meta(max_length=128)] | None = None
    tool_call_id: str | None = None
    reasoning_content: str | None = None


class GenerationInput(_Strict, frozen=True):
    """`messages`, or a `prompt`, which stands for one message of the user."""

    messages: Annotated[list[Message], Meta(min_length=1, max_length=MAX_BATCH)] | None = None
    prompt: Annotated[str, Meta(min_length=1)] | None = None


class GenerationParameters(_Strict, frozen=True):
    """Those that are of type Any go to the canonical request as they are, and are checked there."""

    result_format: Literal["text", "message"] | None = None
    incremental_output: bool | None = None
    stream: bool | None = None
    max_tokens: Any = None
    temperature: Any = None
    top_p: Any = None
    top_k: Any = None
    repetition_penalty: Any = None
    presence_penalty: Any = None
    seed: Any = None
    stop: Any = None
    tools: Any = None
    tool_choice: Any = None
    parallel_tool_calls: Any = None
    response_format: Any = None
    n: Any = None
    logprobs: Any = None
    top_logprobs: Any = None
    enable_thinking: Any = None
    enable_search: Literal[False] | None = None
    enable_code_interpreter: Literal[False] | None = None


class GenerationBody(_Strict, frozen=True):
    """POST …/aigc/text-generation/generation and …/aigc/multimodal-generation/generation"""

    model: str
    input: GenerationInput
    parameters: GenerationParameters = GenerationParameters()


class EmbeddingInput(_Strict, frozen=True):
    texts: str | Annotated[list[str], Meta(min_length=1, max_length=MAX_BATCH)]


class EmbeddingParameters(_Strict, frozen=True):
    text_type: Literal["document"] | None = None
    output_type: Literal["dense"] | None = None


class EmbeddingBody(_Strict, frozen=True):
    """POST …/embeddings/text-embedding/text-embedding"""

    model: str
    input: EmbeddingInput
    parameters: EmbeddingParameters = EmbeddingParameters()


class RerankInput(_Strict, frozen=True):
    query: str
    documents: Annotated[list[str | RerankDocument], Meta(min_length=1, max_length=MAX_DOCUMENTS)]


class RerankParameters(_Strict, frozen=True):
    top_n: Any = None
    return_documents: Any = None


class RerankBody(_Strict, frozen=True):
    """POST …/rerank/text-rerank/text-rerank"""

    model: str
    input: RerankInput
    parameters: RerankParameters = RerankParameters()
