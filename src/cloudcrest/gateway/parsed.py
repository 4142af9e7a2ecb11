"""A checked body, as every stage of a request sees it."""

from dataclasses import dataclass

from cloudcrest.gateway.fields import TEXT_BODIES, ChatBody, CompletionBody, EmbeddingBody, ImageBody, RerankBody
from cloudcrest.gateway.outlet import MakeOutlet
from cloudcrest.gateway.purse import Beside
from cloudcrest.gateway.sound.fields import Sound, SpeechBody, TranscriptionBody

BYTES_PER_TOKEN = 4
"""Rough, for reservations only; what is charged is counted."""
DEFAULT_OUTPUT_TOKENS = 512

Body = ChatBody | CompletionBody | EmbeddingBody | RerankBody | ImageBody | SpeechBody | TranscriptionBody


@dataclass(init=False)
class Parsed:
    """A checked body. `fields` are its slices as written; `prompts` the prompts of a completion, one or several.

    `has_developer`: one of its messages is of the role developer, which engines know as system. `images`: how many its
    messages show. `outlet`: what translates the answer into the dialect that it was asked for in; None: it is
    OpenAI's. `calls_outlet`: what reads the calls of tools out of the engine's text, where that is left to us.
    `goes_on`: the last message is the beginning of the answer. `guard_outlet`: what looks through the answer, where its
    project has guardrails. `sound`: what is known of it where it is for sound. `has_marks`: its dialect put marks of
    what is to be kept into its messages, which go to providers that take them alone (marks.py). `is_plain`: a chat of
    which no field but `PLAIN_FIELDS` is given.
    """

    endpoint: str
    body: Body
    fields: dict[str, bytes]
    size_bytes: int
    is_stream: bool
    wants_usage: bool
    choices: int
    max_tokens: int | None
    prompts: tuple[bytes, ...]
    has_developer: bool
    images: int
    outlet: MakeOutlet | None
    calls_outlet: MakeOutlet | None
    goes_on: bool
    guard_outlet: MakeOutlet | None
    sound: Sound | None
    has_marks: bool
    is_plain: bool

    def __init__(  # written out: one that is made is not compiled, and each request has one
        self,
        endpoint: str,
        body: Body,
        fields: dict[str, bytes],
        size_bytes: int,
        *,
        is_stream: bool = False,
        wants_usage: bool = False,
        choices: int = 1,
        max_tokens: int | None = None,
        prompts: tuple[bytes, ...] = (),
        has_developer: bool = False,
        images: int = 0,
        outlet: MakeOutlet | None = None,
        calls_outlet: MakeOutlet | None = None,
        goes_on: bool = False,
        guard_outlet: MakeOutlet | None = None,
        sound: Sound | None = None,
        has_marks: bool = False,
        is_plain: bool = False,
    ) -> None:
        self.endpoint = endpoint
        self.body = body
        self.fields = fields
        self.size_bytes = size_bytes
        self.is_stream = is_stream
        self.wants_usage = wants_usage
        self.choices = choices
        self.max_tokens = max_tokens
        self.prompts = prompts
        self.has_developer = has_developer
        self.images = images
        self.outlet = outlet
        self.calls_outlet = calls_outlet
        self.goes_on = goes_on
        self.guard_outlet = guard_outlet
        self.sound = sound
        self.has_marks = has_marks
        self.is_plain = is_plain

    def outlets(self) -> list[MakeOutlet]:
        """What the answer passes on its way out, in order."""
        made = (self.calls_outlet, self.guard_outlet, self.outlet)
        return [make for make in made if make is not None]

    @property
    def input_field(self) -> str:
        """Where the caller wrote the prompt."""
        if isinstance(self.body, ChatBody):
            return "messages"
        if isinstance(self.body, RerankBody):
            return "documents"
        return "prompt" if isinstance(self.body, CompletionBody | ImageBody) else "input"

    @property
    def beside(self) -> Beside | None:
        """What it can use at most of what is not counted in tokens; None: it is counted in tokens."""
        if self.sound is not None:
            return self.sound.most
        body = self.body
        return Beside(images=body.n or 1) if type(body) is ImageBody else None

    @property
    def role_events(self) -> int:
        """How many events of a stream name only the role: one for each choice of a chat, before its first token."""
        return self.choices if isinstance(self.body, ChatBody) else 0

    def estimated_input_tokens(self) -> int:
        """From its size, roughly."""
        return self.size_bytes // BYTES_PER_TOKEN + 1

    def estimated_tokens(self, context_tokens: int) -> int:
        """What to reserve from token limits until the true count is known. Sound and images have no tokens."""
        if self.beside is not None:
            return 0
        if not isinstance(self.body, TEXT_BODIES):
            return self.estimated_input_tokens()
        output = min(self.max_tokens or DEFAULT_OUTPUT_TOKENS, context_tokens)
        return self.size_bytes // BYTES_PER_TOKEN + 1 + output * self.choices * (len(self.prompts) or 1)
