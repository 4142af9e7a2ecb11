"""Responses: asked of the gateway as chat completions on behalf of the caller's key, translated, stored and chained."""

from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack
from datetime import timedelta
from typing import Any

import httpx2
import msgspec

from cloudcrest.content.api import Caller, StoredResponse
from cloudcrest.content.batch_lines import error_code
from cloudcrest.content.inference import Answer, Inference, gateway_lost, read_answer
from cloudcrest.content.repository import responses as repository
from cloudcrest.content.responses.answer import Chunk, Event, ResponseMaker, chunk_of
from cloudcrest.content.responses.conversation import ids_of, is_id
from cloudcrest.content.responses.fields import FunctionCallItem, FunctionOutputItem, Item, ResponseBody
from cloudcrest.content.responses.refusal import in_own_words
from cloudcrest.content.responses.request import chat_request, check_state, items_of, references_in, said_before
from cloudcrest.content.responses.truncation import without_oldest
from cloudcrest.content.service.conversations import Conversations
from cloudcrest.content.service.referred import Referred
from cloudcrest.content.settings import ContentSettings
from cloudcrest.infra.database import Database
from cloudcrest.kernel.clock import Clock
from cloudcrest.kernel.errors import ContextTooLong, InvalidInput, NotFound
from cloudcrest.kernel.ids import NewId

MAX_CHAIN = 200
_TRIMMED_AT_ONCE = 500
_RECOVERED_AT_ONCE = 10_000
_PATH = "/v1/chat/completions"
_DONE = "[DONE]"
_SAID = ("completed", "incomplete")
"""How a response ends whose turn belongs to its conversation: one that failed or was cancelled can be asked anew."""
_CODES = ("server_error", "rate_limit_exceeded")
"""Of a response that failed, as OpenAI has them."""


class Refused(Exception):
    """The gateway's refusal, which goes to the caller as it is."""

    def __init__(self, answer: Answer) -> None:
        super().__init__(f"the gateway said {answer.status}")
        self.answer = answer


class Responses:
    """The responses of every project of a region."""

    def __init__(
        self,
        database: Database,
        inference: Inference,
        conversations: Conversations,
        referred: Referred,
        settings: ContentSettings,
        *,
        clock: Clock,
        new_id: NewId,
    ) -> None:
        self._database = database
        self._conversations = conversations
        self._referred = referred
        self._inference = inference
        self._settings = settings
        self._clock = clock
        self._new_id = new_id

    async def begin(self, caller: Caller, body: ResponseBody, headers: Mapping[str, str]) -> "RunningResponse":
        """Begins a response. Raises `InvalidInput`, `Refused` where the gateway does not answer it, `Unavailable`."""
        items, context = await self._context(caller, body)
        while True:
            try:
                upstream, stack = await self._open(caller, chat_request(body, context), headers)
                break
            except Refused as refusal:
                shorter = _shorter(body, context, refusal.answer)
                if shorter is None:
                    raise
                context = shorter
        created_at = int(self._clock.unix_seconds())
        maker = ResponseMaker(body, self._new_id("resp"), created_at, self._new_id)
        return RunningResponse(self, caller, body, items, maker=maker, upstream=upstream, stack=stack)

    async def answer_whole(self, caller: Caller, body: ResponseBody, request_id: str) -> Answer:
        """A response that a batch asks for, in one piece: the document, or the refusal. Asked again under the same
        `request_id` it is the same response. Raises `InvalidInput`, and `httpx2.HTTPError` where the gateway is lost.
        """
        if body.background or body.conversation is not None:
            param = "background" if body.background else "conversation"
            raise InvalidInput(f"a batch has no '{param}': its lines run in any order, in the background", param=param)
        items, context = await self._context(caller, body)
        while True:
            request = msgspec.json.encode(chat_request(body, context, is_stream=False))
            answer = await self._inference.ask(
                _PATH, request, key_id=caller.key_id, request_id=request_id, is_batch=True
            )
            shorter = None if answer.status == 200 else _shorter(body, context, answer)
            if shorter is None:
                break
            context = shorter
        if answer.status != 200:
            return msgspec.structs.replace(answer, body=in_own_words(answer.body))
        maker = ResponseMaker(body, request_id.replace("req_", "resp_", 1), self.unix_seconds(), self._new_id)
        for _ in (*maker.begin(), *maker.take(chunk_of(answer.body)), *maker.end(self.unix_seconds())):
            continue
        if body.store is not False:
            await self.keep(caller, items, maker.document)
        return msgspec.structs.replace(answer, body=msgspec.json.encode(maker.document))

    async def find(self, project_id: str, response_id: str) -> StoredResponse:
        """A stored response of a project. Raises `NotFound`."""
        found = None
        if is_id(response_id):
            async with self._database.transaction() as session:
                found = await repository.find(session, project_id, response_id, self._clock.now())
        if found is None:
            raise NotFound(f"there is no response '{response_id[:128]}'", param="response_id")
        return found

    async def delete(self, project_id: str, response_id: str) -> None:
        """Forgets a response. Raises `NotFound`. Those that follow it cannot be followed any more."""
        async with self._database.transaction() as session:
            if not await repository.remove(session, project_id, response_id[:128]):
                raise NotFound(f"there is no response '{response_id[:128]}'", param="response_id")

    async def sweep(self) -> int:
        """Forgets what is too old or too much; how much there was."""
        async with self._database.transaction() as session:
            most, most_bytes = self._settings.project_responses, self._settings.project_response_bytes
            return await repository.trim(session, self._clock.now(), most, most_bytes, _TRIMMED_AT_ONCE)

    async def recover(self) -> None:
        """Says of what the process before left running that it failed."""
        async with self._database.transaction() as session:
            for left in await repository.running(session, _RECOVERED_AT_ONCE):
                document = msgspec.json.decode(left.document)
                error = {"code": "server_error", "message": "the service was started anew while it ran"}
                document |= {"status": "failed", "error": error}
                changed = msgspec.structs.replace(left, document=msgspec.json.encode(document), is_running=False)
                await repository.put(session, changed)

    async def keep(
        self, caller: Caller, items: list[Item], document: dict[str, Any], *, is_running: bool = False
    ) -> None:
        """Stores a response, in place of what it was before."""
        now = self._clock.now()
        stored = StoredResponse(
            document["id"],
            caller.organization_id,
            caller.project_id,
            caller.key_id,
            document["previous_response_id"],
            now,
            now + timedelta(days=self._settings.response_days),
            msgspec.json.encode(items),
            msgspec.json.encode(document),
            is_running,
            ids_of(items, document["output"]),
        )
        async with self._database.transaction() as session:
            await repository.put(session, stored)
            if document["conversation"] is not None and document["status"] in _SAID:
                conversation_id, output = document["conversation"]["id"], document["output"]
                await self._conversations.append(
                    session, caller.project_id, conversation_id, items=items, output=output
                )

    def unix_seconds(self) -> int:
        return int(self._clock.unix_seconds())

    async def _open(
        self, caller: Caller, request: dict[str, Any], headers: Mapping[str, str]
    ) -> tuple[httpx2.Response, AsyncExitStack]:
        """The stream of a chat completion. Raises `Refused`, `Unavailable`."""
        stack = AsyncExitStack()
        body = msgspec.json.encode(request)
        try:
            opened = self._inference.open(_PATH, body, key_id=caller.key_id, headers=headers)
            upstream = await stack.enter_async_context(opened)
            if upstream.status_code != 200:
                raise Refused(await read_answer(upstream))
        except httpx2.HTTPError as error:
            await stack.aclose()
            raise gateway_lost() from error
        except BaseException:
            await stack.aclose()
            raise
        return upstream, stack

    async def _context(self, caller: Caller, body: ResponseBody) -> tuple[list[Item], list[Item]]:
        """The items of the request, and all that the model is asked with. Raises `InvalidInput`, `NotFound`."""
        project_id = caller.project_id
        referred = await self._referred.items(project_id, references_in(body))
        items = items_of(body, self._new_id, referred)
        check_state(body)
        await self._referred.put_in_files(project_id, items)
        history = await self._history(caller.project_id, body, items)
        context = [*history, *items]
        _check_calls(context, len(history))
        return items, context

    async def _history(self, project_id: str, body: ResponseBody, items: list[Item]) -> list[Item]:
        """What was said before, oldest first. Raises `InvalidInput`, `NotFound` for a conversation."""
        if body.conversation_id is not None:
            return await self._conversations.history(project_id, body.conversation_id, items)
        return await self._chain(project_id, body.previous_response_id)

    async def _chain(self, project_id: str, previous: str | None) -> list[Item]:
        """The responses before, oldest first. Raises `InvalidInput` where a part of it is gone."""
        turns: list[list[Item]] = []
        while previous is not None:
            if len(turns) >= MAX_CHAIN:
                raise InvalidInput(f"this is longer than {MAX_CHAIN} responses", param="previous_response_id")
            try:
                stored = await self.find(project_id, previous)
            except NotFound as error:
                raise InvalidInput(
                    error.message, param="previous_response_id", code="previous_response_not_found"
                ) from None
            if stored.is_running:
                raise InvalidInput("the response before has not ended", param="previous_response_id")
            document = msgspec.json.decode(stored.document)
            if document.get("conversation") is not None:  # what came before it is there
                raise InvalidInput(
                    "a response before belongs to a conversation",
                    param="previous_response_id",
                    hint=f"go on with conversation '{document['conversation']['id']}'",
                )
            said = said_before(document["output"], "previous_response_id")
            turns.append([*msgspec.json.decode(stored.items, type=list[Item]), *said])
            previous = stored.previous_response_id
        return [item for turn in reversed(turns) for item in turn]


class RunningResponse:
    """A response whose inference has begun. `events` once, to its end; leaving early ends the inference."""

    def __init__(
        self,
        responses: Responses,
        caller: Caller,
        body: ResponseBody,
        items: list[Item],
        *,
        maker: ResponseMaker,
        upstream: httpx2.Response,
        stack: AsyncExitStack,
    ) -> None:
        self._responses = responses
        self._caller = caller
        self._body = body
        self._items = items
        self._maker = maker
        self._upstream = upstream
        self._stack = stack

    @property
    def document(self) -> dict[str, Any]:
        """The response as it is."""
        return self._maker.document

    async def events(self) -> AsyncIterator[Event]:
        """Its events. It is stored before the last one goes out."""
        maker = self._maker
        async with self._stack:
            for event in maker.begin():
                yield event
            failure: tuple[str, str] | None = ("server_error", "the model's answer broke off")
            try:
                async for line in self._upstream.aiter_lines():
                    data = line.removeprefix("data:").strip()
                    if data == _DONE:
                        failure = None
                        break
                    if not line.startswith("data:"):
                        continue
                    chunk = msgspec.json.decode(data, type=Chunk)
                    if chunk.error is not None:
                        code = str(chunk.error.get("code"))
                        failure = code if code in _CODES else "server_error", str(chunk.error.get("message"))
                        break
                    for event in maker.take(chunk):
                        yield event
            except (httpx2.HTTPError, msgspec.DecodeError):
                pass  # it stays a failure
            ended = maker.end(self._responses.unix_seconds()) if failure is None else maker.fail(*failure)
            last = list(ended)
            if self._body.store is not False:
                await self.keep()
            for event in last:
                yield event

    async def keep(self, *, is_running: bool = False) -> None:
        """Stores it as it is."""
        await self._responses.keep(self._caller, self._items, self._maker.document, is_running=is_running)

    async def close(self) -> None:
        """Ends the inference, where it has not ended."""
        await self._stack.aclose()


def _shorter(body: ResponseBody, context: list[Item], refused: Answer) -> list[Item] | None:
    """What to ask with in place of this. None: it was refused for good."""
    if body.truncation != "auto" or error_code(refused.body) != ContextTooLong.default_code:
        return None
    return without_oldest(context)


def _check_calls(context: list[Item], known: int) -> None:
    """Raises `InvalidInput` for an output of a call that nobody made."""
    made: set[str] = set()
    for index, item in enumerate(context):
        if isinstance(item, FunctionCallItem):
            made.add(item.call_id)
        elif isinstance(item, FunctionOutputItem) and item.call_id not in made:
            raise InvalidInput(
                f"there is no function call '{item.call_id[:100]}' before its output",
                param="conversation" if index < known else f"input[{index - known}].call_id",
                hint="send the function_call item too, or its previous_response_id",
            )
