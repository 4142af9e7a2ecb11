"""What engines say, as far as it is read: shapes for msgspec, apart because compiled modules hold none."""

from typing import Annotated

import msgspec

Count = Annotated[int, msgspec.Meta(le=1_000_000_000)]
"""Of tokens, as far as an engine is believed: a count beyond any context would be no bill that anyone could take."""


class InputDetails(msgspec.Struct):
    """`cache_write_tokens` under the names that providers have for it."""

    cached_tokens: int | None = None
    cache_write_tokens: int | None = None
    cache_creation_tokens: int | None = None
    cache_creation_input_tokens: int | None = None


class OutputDetails(msgspec.Struct):
    reasoning_tokens: int | None = None


class UsageBody(msgspec.Struct):
    """Usage as engines and providers write it."""

    prompt_tokens: Count | None = None
    completion_tokens: Count = 0
    total_tokens: Count = 0
    prompt_tokens_details: InputDetails | None = None
    completion_tokens_details: OutputDetails | None = None
    prompt_cache_hit_tokens: int | None = None
    """What DeepSeek calls the cached ones."""
    cached_tokens: int | None = None
    """Where Moonshot has them."""
    cache_read_input_tokens: int | None = None
    cache_creation_input_tokens: int | None = None
    """As Anthropic has them; proxies before it leave them there."""


SaidCounts = tuple[
    int | None, int, int, InputDetails | None, OutputDetails | None, int | None, int | None, int | None, int | None
]
"""The fields of a `UsageBody`, in their order."""


class EndOfAnswer(msgspec.Struct):
    usage: UsageBody


class Chunk(msgspec.Struct):
    choices: list[msgspec.Raw] | None = None
    usage: UsageBody | None = None
    error: msgspec.Raw = msgspec.Raw(b"null")


class Images(msgspec.Struct):
    """As many as came."""

    data: list[msgspec.Raw] = []


class SaidError(msgspec.Struct):
    message: str = ""
    code: str | None = None
    param: str | None = None


class ErrorBody(msgspec.Struct):
    error: SaidError


chunk_of = msgspec.json.Decoder(Chunk).decode
slices_of = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
usage_of = msgspec.json.Decoder(UsageBody).decode
end_of_answer = msgspec.json.Decoder(EndOfAnswer).decode
images_of = msgspec.json.Decoder(Images).decode
error_of = msgspec.json.Decoder(ErrorBody).decode
