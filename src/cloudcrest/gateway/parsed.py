"""A checked body, as every stage of a request sees it."""

import msgspec

from cloudcrest.gateway.bodies import decode_json
from cloudcrest.gateway.fields import (
    TEXT_BODIES,
    ChatBody,
    CompletionBody,
    EmbeddingBody,
    ImageBody,
    PlainChat,
    RerankBody,
)
from cloudcrest.gateway.outlet import MakeOutlet, Outlet, chain
from cloudcrest.gateway.purse import Beside
from cloudcrest.gateway.sound.fields import Sound, SpeechBody, TranscriptionBody

BYTES_PER_TOKEN = 4
"""Rough, for reservations only; what is charged is counted."""
DEFAULT_OUTPUT_TOKENS = 512

CHAT: msgspec.json.Decoder[ChatBody] = msgspec.json.Decoder(ChatBody)

Body = ChatBody | CompletionBody | EmbeddingBody | RerankBody | ImageBody | SpeechBody | TranscriptionBody


class Parsed:
    """A checked body. `model`: the one that is asked for; `prompts`: the prompts of a completion, one or several.

    `plain`: where it is a plain chat, what was read of it (plain.py). Then the body, and `fields`, its slices, are made
    of that for those who ask for them: most requests end without. They are not read from what the caller wrote, where a
    name that is given twice may have something first that is refused: whoever asks late has nobody to tell.
    `kind`: what its body is; `is_text`: an engine is to write on.

    `has_developer`: one of its messages is of the role developer, which engines know as system. `images`: how many its
    messages show. `outlet`: what translates the answer into the dialect that it was asked for in; None: it is
    OpenAI's. `calls_outlet`: what reads the calls of tools out of the engine's text, where that is left to us.
    `goes_on`: the last message is the beginning of the answer. `guard_outlet`: what looks through the answer, where its
    project has guardrails. `sound`: what is known of it where it is for sound. `has_marks`: its dialect put marks of
    what is to be kept into its messages, which go to providers that take them alone (marks.py).
    """

    def __init__(
        self,
        endpoint: str,
        size_bytes: int,
        *,
        body: Body | None = None,
        fields: dict[str, bytes] | None = None,
        plain: PlainChat | None = None,
        is_stream: bool = False,
        max_tokens: int | None = None,
        sound: Sound | None = None,
    ) -> None:
        self.endpoint = endpoint
        self.size_bytes = size_bytes
        self._body = body
        self._fields = fields
        self.plain = plain
        self.is_stream = is_stream
        self.max_tokens = max_tokens
        self.sound = sound
        if body is not None:
            self.model = body.model
            self.kind: type[Body] = type(body)
            self.is_text = isinstance(body, TEXT_BODIES)
        elif plain is not None:
            self.model = plain.model
            self.kind = ChatBody
            self.is_text = True
        self.wants_usage = False
        self.choices = 1
        self.prompts: tuple[bytes, ...] = ()
        self.has_developer = False
        self.images = 0
        self.outlet: MakeOutlet | None = None
        self.calls_outlet: MakeOutlet | None = None
        self.goes_on = False
        self.guard_outlet: MakeOutlet | None = None
        self.has_marks = False

    @property
    def body(self) -> Body:
        """What it says, field by field."""
        return self._body or self._read()[0]

    @property
    def fields(self) -> dict[str, bytes]:
        """The same as JSON, by name."""
        fields = self._fields
        return self._read()[1] if fields is None else fields

    def _read(self) -> tuple[Body, dict[str, bytes]]:
        body, fields = decode_json(CHAT, msgspec.json.encode(self.plain))
        self._body, self._fields = body, fields
        return body, fields

    def twin(self) -> "Parsed":
        """The same once more: what is changed in one stays in it."""
        twin = Parsed(
            self.endpoint,
            self.size_bytes,
            body=self._body,
            fields=self._fields,
            plain=self.plain,
            is_stream=self.is_stream,
            max_tokens=self.max_tokens,
            sound=self.sound,
        )
        twin.wants_usage, twin.choices, twin.prompts = self.wants_usage, self.choices, self.prompts
        twin.has_developer, twin.images, twin.has_marks = self.has_developer, self.images, self.has_marks
        twin.outlet, twin.calls_outlet, twin.guard_outlet = self.outlet, self.calls_outlet, self.guard_outlet
        twin.goes_on = self.goes_on
        return twin

    def rewritten(self, body: Body, fields: dict[str, bytes]) -> "Parsed":
        """A request with another body and all else that is known of this one."""
        twin = self.twin()
        twin._body, twin._fields, twin.plain = body, fields, None
        return twin

    def make_outlet(self, request_id: str) -> Outlet | None:
        """What the answer passes on its way out; None: it goes as it is."""
        if self.calls_outlet is None and self.guard_outlet is None and self.outlet is None:
            return None
        made = (self.calls_outlet, self.guard_outlet, self.outlet)
        return chain([make(request_id) for make in made if make is not None])

    @property
    def has_tools(self) -> bool:
        """Whether the model is offered any."""
        if self.plain is not None:
            return False
        body = self.body
        return isinstance(body, ChatBody) and bool(body.tools)

    @property
    def input_field(self) -> str:
        """Where the caller wrote the prompt."""
        return _INPUT_FIELDS.get(self.kind, "input")

    @property
    def beside(self) -> Beside | None:
        """What it can use at most of what is not counted in tokens; None: it is counted in tokens."""
        if self.sound is not None:
            return self.sound.most
        if self.kind is not ImageBody:
            return None
        body = self.body
        return Beside(images=body.n or 1) if isinstance(body, ImageBody) else None

    @property
    def role_events(self) -> int:
        """How many events of a stream name only the role: one for each choice of a chat, before its first token."""
        return self.choices if self.kind is ChatBody else 0

    def estimated_input_tokens(self) -> int:
        """From its size, roughly."""
        return self.size_bytes // BYTES_PER_TOKEN + 1

    def estimated_tokens(self, context_tokens: int) -> int:
        """What to reserve from token limits until the true count is known. Sound and images have no tokens."""
        if self.beside is not None:
            return 0
        if not self.is_text:
            return self.estimated_input_tokens()
        output = min(self.max_tokens or DEFAULT_OUTPUT_TOKENS, context_tokens)
        return self.size_bytes // BYTES_PER_TOKEN + 1 + output * self.choices * (len(self.prompts) or 1)


_INPUT_FIELDS: dict[type[Body], str] = {
    ChatBody: "messages",
    CompletionBody: "prompt",
    ImageBody: "prompt",
    RerankBody: "documents",
}
