"""A request's body: parsed once against the fields of its endpoint, then rebuilt from its checked slices.

The rebuilt body holds each allowed field once, as the caller wrote it: a key given twice, or an escaped spelling of
one, cannot get past the check, and the engine never sees a byte that was not checked.
"""

from typing import Any, Final

import msgspec

from cloudcrest.gateway import rerank
from cloudcrest.gateway.bodies import decode_json
from cloudcrest.gateway.fields import (
    MAX_BATCH,
    MAX_CHOICES,
    NOT_FORWARDED,
    TEXT_BODIES,
    ChatBody,
    CompletionBody,
    EmbeddingBody,
    ImageBody,
    Message,
    RerankBody,
    images_in,
)
from cloudcrest.gateway.parsed import CHAT, Body, Parsed
from cloudcrest.gateway.sound.engines import check_sound
from cloudcrest.gateway.sound.fields import SpeechBody, TranscriptionBody
from cloudcrest.gateway.validate_chat import check_nesting, check_tools, wrong_image, wrong_in
from cloudcrest.kernel.errors import InvalidInput
from cloudcrest.serving.api import EngineName, RouteDocument

MAX_PARALLEL_CHOICES = 16

_completion: msgspec.json.Decoder[CompletionBody] = msgspec.json.Decoder(CompletionBody)
_embedding: msgspec.json.Decoder[EmbeddingBody] = msgspec.json.Decoder(EmbeddingBody)
_image: msgspec.json.Decoder[ImageBody] = msgspec.json.Decoder(ImageBody)
_rerank: msgspec.json.Decoder[RerankBody] = msgspec.json.Decoder(RerankBody)
_encode = msgspec.json.encode

DECODERS: dict[str, msgspec.json.Decoder[Any]] = {
    "/v1/chat/completions": CHAT,
    "/v1/completions": _completion,
    "/v1/embeddings": _embedding,
    "/v1/rerank": _rerank,
    "/v2/rerank": _rerank,
    "/v1/images/generations": _image,
}


def parse(endpoint: str, data: bytes) -> Parsed:
    """Checks a body. Raises `InvalidInput` whose `param` is the wrong field's path, and nothing else."""
    body, slices = decode_json(DECODERS[endpoint], data)
    parsed = Parsed(endpoint, len(data), body=body, fields=slices)
    if isinstance(body, TEXT_BODIES):
        _check_text(body, parsed)
    elif isinstance(body, EmbeddingBody):
        _batch(body.input, "input", MAX_BATCH)
    elif isinstance(body, RerankBody):
        rerank.check(body)
        parsed.size_bytes = rerank.size_bytes(body, len(data))
        parsed.outlet = lambda request_id: rerank.RerankOutlet(body, request_id)
    return parsed


def _check_text(body: ChatBody | CompletionBody, parsed: Parsed) -> None:
    """Raises `InvalidInput` for what the fields' types cannot say, and notes what is asked for."""
    parsed.is_stream = body.stream is True
    parsed.max_tokens = body.max_tokens
    parsed.wants_usage = body.stream_options is not None and body.stream_options.include_usage is True
    parsed.choices = body.n or 1
    if body.stream_options is not None and not parsed.is_stream:
        raise InvalidInput("stream_options goes with stream: true", param="stream_options")
    if isinstance(body, ChatBody):
        _check_chat(body, parsed)
        if body.max_completion_tokens is not None:
            parsed.max_tokens = body.max_completion_tokens
    else:
        parsed.prompts = _batch(body.prompt, "prompt", MAX_CHOICES)
        if len(parsed.prompts) * parsed.choices > MAX_PARALLEL_CHOICES:
            raise InvalidInput(f"prompts × n is over {MAX_PARALLEL_CHOICES}", param="n")


def check_engine(parsed: Parsed, route: RouteDocument) -> None:
    """Refuses what this route's engine would silently ignore, and endpoints of another task. Raises `InvalidInput`."""
    if route.task not in _TASKS[parsed.kind]:
        raise InvalidInput(
            f"'{route.model_name}' is a model for {route.task}: {parsed.endpoint} does not serve it",
            param="model",
            code="model_not_supported",
        )
    if parsed.is_text:
        _check_text_engine(parsed, route)
        return
    body = parsed.body
    if isinstance(body, SpeechBody | TranscriptionBody):
        check_sound(body, route.engine)
    elif isinstance(body, RerankBody):
        parsed.endpoint = rerank.engine_path(route.task)


def _check_text_engine(parsed: Parsed, route: RouteDocument) -> None:
    """Raises `InvalidInput` for what this route's engine would ignore, and limits the answer to what it can hold."""
    engine = route.engine
    if parsed.plain is None:
        body = parsed.body
        if isinstance(body, TEXT_BODIES):
            _check_fields_engine(body, engine)
    if parsed.goes_on and engine in ("vllm", "upstream"):
        raise InvalidInput(
            "this model's engine does not go on with an answer that the caller has begun",
            param="messages",
            hint="end with a message of the user",
        )
    if parsed.images and not (engine in ("vllm", "upstream") and "image" in route.input_modalities):
        raise InvalidInput(
            f"'{route.model_name}' takes no images here",
            param="messages",
            code="unsupported_content",
            hint="ask a model whose input_modalities name images, on vLLM or at a provider",
        )
    if parsed.max_tokens is not None and parsed.max_tokens > route.context_tokens and engine != "upstream":
        parsed.max_tokens = route.context_tokens


def _check_fields_engine(body: ChatBody | CompletionBody, engine: EngineName) -> None:
    """Raises `InvalidInput` for fields that the engine would ignore."""
    if body.repetition_penalty not in (None, NO_PENALTY) and engine not in _REPETITION:
        raise InvalidInput(
            "this model's engine has no repetition_penalty",
            param="repetition_penalty",
            code="unsupported_parameter",
            hint="use presence_penalty or frequency_penalty",
        )
    if isinstance(body, ChatBody):
        _check_chat_engine(body, engine)
    elif body.logprobs is not None and engine == "llamacpp":
        raise InvalidInput(
            "this model's engine gives no logprobs in the shape of /v1/completions",
            param="logprobs",
            code="unsupported_parameter",
            hint="ask /v1/chat/completions for them",
        )


def _check_chat_engine(body: ChatBody, engine: EngineName) -> None:
    """Raises `InvalidInput`."""
    if body.enable_thinking is not None and engine not in _TEMPLATES:
        raise InvalidInput(
            "this model's engine cannot be told whether to think", param="enable_thinking", code="unsupported_parameter"
        )
    if body.reasoning_effort is not None and engine != "upstream":
        raise InvalidInput(
            "this model's engine has no levels of reasoning", param="reasoning_effort", code="unsupported_parameter"
        )


_TASKS: dict[type[Body], tuple[str, ...]] = {
    ChatBody: ("chat",),
    CompletionBody: ("chat", "completion"),
    EmbeddingBody: ("embedding",),
    RerankBody: ("rerank", "embedding"),
    ImageBody: ("image",),
    SpeechBody: ("speech",),
    TranscriptionBody: ("transcription",),
}
"""For which tasks a model may be to be asked with a body."""
NO_PENALTY = 1.0
_SYSTEM = {"role": "system"}
_REPETITION: dict[EngineName, str] = {"llamacpp": "repeat_penalty", "vllm": "repetition_penalty"}
"""What engines call it; those that are not here do not have it."""
_TEMPLATES = frozenset(("llamacpp", "vllm"))
"""Engines that hand chat templates what they are to know beside the messages."""


def forwarded_fields(parsed: Parsed, route: RouteDocument) -> dict[str, bytes]:
    """The fields an engine gets: the checked slices, with the model's alias, limits and usage spliced in."""
    body = parsed.body
    fields = {name: raw for name, raw in parsed.fields.items() if name not in NOT_FORWARDED and raw != b"null"}
    fields["model"] = _encode(route.model_name)
    if not isinstance(body, TEXT_BODIES):
        if isinstance(body, RerankBody):
            return {"model": fields["model"], **rerank.engine_fields(body, route.task)}
        if isinstance(body, ImageBody) and body.n is not None:
            fields["n"] = b"%d" % body.n
        return fields
    if parsed.is_stream:
        fields["stream_options"] = b'{"include_usage":true}'
    _respell(body, parsed, route.engine, fields)
    _limit_output(fields, parsed, route.engine, route.context_tokens)
    if parsed.has_developer and isinstance(body, ChatBody):
        # As they were written: structs leave out a call's type, which templates may look for.
        written = msgspec.json.decode(fields["messages"])
        fields["messages"] = _encode([each | _SYSTEM if each["role"] == "developer" else each for each in written])
    return fields


def _respell(body: ChatBody | CompletionBody, parsed: Parsed, engine: EngineName, fields: dict[str, bytes]) -> None:
    """Puts in what engines know by another name, or are told in another way."""
    if body.repetition_penalty not in (None, NO_PENALTY):
        fields[_REPETITION[engine]] = parsed.fields["repetition_penalty"]
    if parsed.choices > 1:
        fields["n"] = b"%d" % parsed.choices
    if isinstance(body, ChatBody) and body.enable_thinking is not None:
        fields["chat_template_kwargs"] = b'{"enable_thinking":%b}' % parsed.fields["enable_thinking"]


class _Keys(dict[str, bytes]):
    """JSON keys with their colon, most made once: names are those of the bodies' fields, or what an engine says."""

    def __missing__(self, name: str) -> bytes:
        key = _encode(name) + b":"
        if len(self) < _MAX_KEYS:
            self[name] = key
        return key


_MAX_KEYS: Final = 256
_KEYS = _Keys()


def build(fields: dict[str, bytes]) -> bytes:
    """The JSON object of these slices."""
    keys = _KEYS
    return b"{" + b",".join([keys[name] + raw for name, raw in fields.items()]) + b"}"


def _limit_output(fields: dict[str, bytes], parsed: Parsed, engine: EngineName, context_tokens: int) -> None:
    if engine == "upstream":  # providers differ in which of the two names they take: the caller's own stays
        if parsed.max_tokens is not None and not fields.keys() & {"max_tokens", "max_completion_tokens"}:
            fields["max_tokens"] = b"%d" % parsed.max_tokens  # what a budget affords
        return
    fields.pop("max_completion_tokens", None)
    if parsed.max_tokens is not None:
        fields["max_tokens"] = b"%d" % parsed.max_tokens
    elif engine == "llamacpp":
        fields["max_tokens"] = b"%d" % context_tokens  # without one it would go on for as long as it likes


def _check_chat(body: ChatBody, parsed: Parsed) -> None:
    """Raises `InvalidInput` for what the fields' types cannot say, and notes what is said of its messages."""
    if body.max_tokens is not None and body.max_completion_tokens is not None:
        raise InvalidInput("give max_tokens or max_completion_tokens, not both", param="max_tokens")
    if body.top_logprobs is not None and not body.logprobs:
        raise InvalidInput("top_logprobs goes with logprobs: true", param="top_logprobs")
    if body.tool_choice not in (None, "none") and not body.tools:
        raise InvalidInput("tool_choice goes with tools", param="tool_choice")
    check_tools(body)
    _check_messages(body.messages, parsed)
    if body.response_format is not None and hasattr(body.response_format, "json_schema"):
        check_nesting(body.response_format.json_schema.json_schema, "response_format.json_schema.schema")


def _check_messages(messages: list[Message], parsed: Parsed) -> None:
    """Raises `InvalidInput` for what does not go with a message's role, and notes what they hold."""
    for index, message in enumerate(messages):
        role, content = message.role, message.content
        if role == "developer":
            parsed.has_developer = True
        wrong = wrong_in(message)
        if isinstance(content, list):
            wrong = wrong or wrong_image(role, content)
            parsed.images += images_in(message)
        if wrong is not None:
            field, why = wrong
            raise InvalidInput(why, param=f"messages[{index}].{field}")


def _batch(value: str | list[Any], name: str, most: int) -> tuple[bytes, ...]:
    """The single inputs of a batch as JSON: a text, token numbers, or a list of either."""
    if isinstance(value, str):
        return (_encode(value),)
    kinds = {type(item) for item in value}
    if len(kinds) != 1:
        raise InvalidInput("is either texts or token numbers, not a mixture", param=name)
    if kinds == {int}:
        _check_tokens(value, name)
        return (_encode(value),)
    if len(value) > most:
        raise InvalidInput(f"has more than {most} items", param=name)
    for index, item in enumerate(value):
        if not item:
            raise InvalidInput("is empty", param=f"{name}[{index}]")
        if isinstance(item, list):
            _check_tokens(item, f"{name}[{index}]")
    return tuple(_encode(item) for item in value)


def _check_tokens(tokens: list[int], path: str) -> None:
    if not all(0 <= token < 10_000_000 for token in tokens):
        raise InvalidInput("holds a number that is no token", param=path)
