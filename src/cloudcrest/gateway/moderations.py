"""`POST /v1/moderations`, in OpenAI's shape: by a deployed guard model where there is one, else by the rule model.

A guard model is asked as any chat is, on the key's behalf: each input is a request of its own with limits, budget and
usage record. The rule model runs here, costs nothing and is held to the caller's limits.
"""

import asyncio
from collections.abc import Callable
from time import time as unix_time
from typing import Annotated, Any, Protocol

import msgspec
from msgspec import Meta, Struct

from cloudcrest.gateway.admit import Admit, Grant, limit_headers
from cloudcrest.gateway.call import Calls
from cloudcrest.gateway.deadline import least_timeout, set_deadline
from cloudcrest.gateway.explain import explain
from cloudcrest.gateway.fields import ModelName
from cloudcrest.gateway.metrics import Metrics
from cloudcrest.gateway.parsed import Parsed
from cloudcrest.gateway.request import Connection, Request, Responder
from cloudcrest.gateway.small_answer import SmallAnswer
from cloudcrest.gateway.snapshot import Route, Snapshot
from cloudcrest.gateway.validate import parse
from cloudcrest.governance.api import RULE_MODEL, Verdict, result, rule_verdict, verdict
from cloudcrest.identity.api import KeyDocument
from cloudcrest.kernel.errors import CloudcrestError, EngineFault, InvalidInput, NotFound, Unavailable
from cloudcrest.kernel.places import Places
from cloudcrest.kernel.units import KIB

PATH = "/v1/moderations"
MAX_INPUTS = 128
MAX_INPUT_CHARACTERS = 64 * KIB
MAX_RUNNING = 64
"""Of one worker; of one organization half of them."""
_CHAT = "/v1/chat/completions"
_VERDICT_TOKENS = 64
_OPENAIS = ("omni-moderation-", "text-moderation-")
"""Names that clients ask for by default: whatever moderates here answers to them."""

Text = Annotated[str, Meta(min_length=1)]


class _Text(Struct, forbid_unknown_fields=True, tag_field="type", tag="text"):
    text: Text


class _ImageAddress(Struct, forbid_unknown_fields=True):
    url: str


class _Image(Struct, forbid_unknown_fields=True, tag_field="type", tag="image_url"):
    image_url: _ImageAddress


class _Body(Struct, forbid_unknown_fields=True):
    input: (
        Text
        | Annotated[
            list[Annotated[str, Meta(min_length=1)] | _Text | _Image], Meta(min_length=1, max_length=MAX_INPUTS)
        ]
    )
    model: ModelName | None = None


_body: msgspec.json.Decoder[_Body] = msgspec.json.Decoder(_Body)


class Serve(Protocol):
    """Has a checked request answered (inference.py)."""

    def __call__(self, connection: Connection, request: Request, key: KeyDocument, parsed: Parsed) -> Responder: ...


class Moderations:
    """Those that one worker is at."""

    def __init__(
        self,
        *,
        snapshot: Snapshot,
        calls: Calls,
        metrics: Metrics,
        admit: Admit,
        key_of: Callable[[Request], KeyDocument],
        serve: Serve,
        new_id: Callable[[float], str],
    ) -> None:
        self._snapshot = snapshot
        self._calls = calls
        self._metrics = metrics
        self._admit = admit
        self._key_of = key_of
        self._serve = serve
        self._new_id = new_id
        self._places = Places(MAX_RUNNING, MAX_RUNNING // 2)

    def begin(self, connection: Connection, request: Request) -> "Moderation":
        """Begins to judge a whole request's inputs. Raises before anything is sent."""
        key = self._key_of(request)
        body = _read(request.body)
        request.body = b""
        texts = _texts(body)
        route = self._route(key, body.model)
        if not self._places.is_free(key.organization_id):
            raise Unavailable("too many moderations are under way", code="overloaded", retry_after_seconds=1)
        scopes = self._snapshot.scopes_of(key, route)
        now = self._calls.monotonic()
        set_deadline(request, least_timeout(scopes), self._calls.settings.request_timeout_seconds, now)
        moderation = Moderation(connection, request, self._metrics)
        grant: Grant | None = None
        if route is None:
            try:
                grant = self._admit(scopes, 0, now)
            finally:
                request.extra_head += limit_headers(scopes, now)
            work = self._by_rules(moderation, texts)
        else:  # each of its requests is held to the limits
            work = self._by_model(moderation, key, route, texts)
        self._places.take(key.organization_id)

        def ended(_: "asyncio.Task[None]") -> None:
            if grant is not None:
                grant.settle(0)
            self._places.leave(key.organization_id)

        moderation.task = self._calls.spawn(work)
        moderation.task.add_done_callback(ended)
        return moderation

    def _route(self, key: KeyDocument, model: str | None) -> Route | None:
        """The guard model that is asked; None: the rules. Raises `NotFound` and `InvalidInput`."""
        if model == RULE_MODEL:
            return None
        if model is None or model.startswith(_OPENAIS):
            for name in self._snapshot.visible_models(key):
                route = self._snapshot.routes[name]
                if route.document.moderation_format is not None:
                    return route
            return None
        try:
            route = self._snapshot.access(key, model).route
        except NotFound as error:
            raise NotFound(
                error.message,
                code=error.code,
                param=error.param,
                hint=f"leave model out, or ask '{RULE_MODEL}'",
            ) from None
        if route.document.moderation_format is None:
            raise InvalidInput(
                f"'{model}' is no model for moderation",
                param="model",
                code="model_not_supported",
                hint=f"ask '{RULE_MODEL}', or a model with a moderation_format in the catalog",
            )
        return route

    async def _by_rules(self, moderation: "Moderation", texts: list[str]) -> None:
        results: list[dict[str, Any]] = []
        for text in texts:
            results.append(result(rule_verdict(text)))
            await asyncio.sleep(0)  # others' turn
        moderation.judged(RULE_MODEL, results)

    async def _by_model(self, moderation: "Moderation", key: KeyDocument, route: Route, texts: list[str]) -> None:
        name = route.document.model_name
        try:
            results = [result(await self._asked(moderation, key, route, text)) for text in texts]
        except CloudcrestError as error:
            moderation.refuse(error)
        else:
            moderation.judged(name, results)

    async def _asked(self, moderation: "Moderation", key: KeyDocument, route: Route, text: str) -> Verdict:
        document = route.document
        body = {
            "model": document.model_name,
            "messages": [{"role": "user", "content": text}],
            "max_tokens": min(_VERDICT_TOKENS, document.context_tokens),
            "temperature": 0,
        }
        asked = moderation.request.beside(_CHAT, self._new_id(unix_time()))
        answer = _Answer(asyncio.get_running_loop().create_future())
        responder = self._serve(answer, asked, key, parse(_CHAT, msgspec.json.encode(body)))
        moderation.asked = responder
        try:
            said = await answer.whole
        finally:
            moderation.asked = None
        if document.moderation_format is None:
            raise InvalidInput(f"'{document.model_name}' is no model for moderation any more", param="model")
        return verdict(document.moderation_format, said)


class Moderation(SmallAnswer):
    """The answer to one of these requests. `asked`: who answers its guard model's part just now."""

    asked: Responder | None = None

    def judged(self, model: str, results: list[dict[str, Any]]) -> None:
        """Answers."""
        answer = {"id": f"modr-{self.request.id.rpartition('_')[2]}", "model": model, "results": results}
        self.answer(msgspec.json.encode(answer))

    def stop(self) -> None:
        if self.asked is not None:
            self.asked.client_gone()
        super().stop()


class _Answer:
    """The connection of a request of our own: what it is answered, as a future."""

    is_tls = False
    transport = None

    def __init__(self, whole: "asyncio.Future[str]") -> None:
        self.whole = whole

    def respond(self, status: int, content_type: bytes, body: bytes, extra: bytes = b"") -> None:  # noqa: ARG002
        if self.whole.done():
            return
        try:
            said = msgspec.json.decode(body)["choices"][0]["message"]["content"]
        except (msgspec.DecodeError, LookupError, TypeError):
            said = None
        self.whole.set_result(said if isinstance(said, str) else "")

    def respond_error(self, error: CloudcrestError) -> None:
        if not self.whole.done():
            self.whole.set_exception(error)

    def start_answer(self, status: int, headers: bytes) -> None:
        """Whole answers alone are asked for."""

    def write(self, data: bytes) -> None:
        """Nor is anything streamed."""

    def finish(self, *, close: bool = False) -> None:  # noqa: ARG002
        if not self.whole.done():
            self.whole.set_exception(EngineFault("the moderation model did not answer"))

    def hold_body(self, is_held: bool) -> None:
        """There is none."""


def _read(data: bytes) -> _Body:
    try:
        return _body.decode(data)
    except msgspec.ValidationError as error:
        raise explain(str(error)) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidInput(f"the body is not valid JSON: {error}", code="invalid_json") from None


def _texts(body: _Body) -> list[str]:
    """One for each result: a list of texts has several, a list of parts is one input. Raises `InvalidInput`."""
    given = [body.input] if isinstance(body.input, str) else body.input
    kinds = {isinstance(item, str) for item in given}
    if len(kinds) > 1:
        raise InvalidInput("is either texts or parts, not a mixture", param="input")
    for index, item in enumerate(given):
        if isinstance(item, _Image):
            raise InvalidInput(
                "images are not judged here", param=f"input[{index}]", code="unsupported_content", hint="send text"
            )
    texts = [item for item in given if isinstance(item, str)]
    if not texts:
        texts = ["\n".join(item.text for item in given if isinstance(item, _Text))]
    for index, text in enumerate(texts):
        if len(text) > MAX_INPUT_CHARACTERS:
            param = "input" if len(texts) == 1 else f"input[{index}]"
            raise InvalidInput(f"is over {MAX_INPUT_CHARACTERS} characters", param=param)
    return texts
