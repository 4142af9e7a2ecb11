"""Counting a prompt's tokens for its caller: with the engine's own template and tokenizer, at one of its replicas.

It is held to the caller's request rate and concurrency and costs nothing: nothing is generated, no account is opened.
"""

import asyncio

import structlog

from cloudcrest.gateway.admit import Admit, limit_headers
from cloudcrest.gateway.call import Calls
from cloudcrest.gateway.counting import MAX_ASKED, TOKENIZERS, count_input
from cloudcrest.gateway.deadline import set_deadline
from cloudcrest.gateway.inference import Inference
from cloudcrest.gateway.metrics import Metrics
from cloudcrest.gateway.parsed import Parsed
from cloudcrest.gateway.request import Connection, Request
from cloudcrest.gateway.small_answer import SmallAnswer
from cloudcrest.gateway.snapshot import Route, Snapshot
from cloudcrest.kernel.errors import CloudcrestError, EngineFault, InvalidInput, Unavailable
from cloudcrest.kernel.places import Places

MAX_AT_ONCE = 8
MAX_COUNTS = 64
"""Of one worker, those that wait for their turn included; of one organization half of them."""
_log = structlog.get_logger(__name__)


class TokenCounts:
    """The counts that one worker is at."""

    def __init__(
        self,
        *,
        snapshot: Snapshot,
        calls: Calls,
        metrics: Metrics,
        admit: Admit,
        inference: Inference,
    ) -> None:
        self._snapshot = snapshot
        self._calls = calls
        self._admit = admit
        self._inference = inference
        self._turns = asyncio.Semaphore(MAX_AT_ONCE)
        self._places = Places(MAX_COUNTS, MAX_COUNTS // 2)
        self._metrics = metrics

    def begin(self, connection: Connection, request: Request) -> SmallAnswer:
        """Begins to count a whole request's prompt. Raises before anything is sent."""
        key = self._inference.authenticate(request)
        parsed = self._inference.read(request, key)
        request.body = b""
        access = self._snapshot.access(key, parsed.model)
        route = _countable(access.route)
        parsed = self._inference.fit(request, key, parsed, route.document)
        if not self._places.is_free(key.organization_id):
            raise Unavailable("too many prompts are being counted", code="overloaded", retry_after_seconds=1)
        now = self._calls.monotonic()
        set_deadline(request, access.timeout_seconds, self._calls.settings.request_timeout_seconds, now)
        try:
            grant = self._admit(access.scopes, 0, now)
        finally:
            request.extra_head += limit_headers(access.scopes, now)
        self._places.take(key.organization_id)
        count = SmallAnswer(connection, request, self._metrics)
        count.task = self._calls.spawn(self._run(count, route, parsed))

        def ended(_: "asyncio.Task[None]") -> None:
            grant.settle(0)
            self._places.leave(key.organization_id)

        count.task.add_done_callback(ended)
        return count

    async def _run(self, count: SmallAnswer, route: Route, parsed: Parsed) -> None:
        try:
            async with self._turns:
                count.answer(b'{"input_tokens":%d}' % await self._count(route, parsed))
        except CloudcrestError as error:
            count.refuse(error)

    async def _count(self, route: Route, parsed: Parsed) -> int:
        """Asks one replica, and others where that one cannot. Raises `EngineFault`."""
        for replica in [*route.replicas, *route.leaving][:MAX_ASKED]:
            try:
                return await count_input(replica, route.document, parsed)
            except (
                OSError,
                EngineFault,
                ValueError,
                RecursionError,
            ) as error:  # the last two: no JSON, or too deep a one
                _log.warning("prompt_not_counted", replica=replica.name, error=str(error))
        raise EngineFault(
            "the model's engine could not count these tokens",
            hint="see that the messages fit the model's chat template; the operator finds the cause in the logs",
        )


def _countable(route: Route) -> Route:
    """The deployment of its name that is asked. Raises `InvalidInput` and `Unavailable` where none can be."""
    routes = [route] if route.split is None else route.split.routes
    document = route.document
    countable = [each for each in routes if each.document.engine in TOKENIZERS]
    if not countable:
        raise InvalidInput(
            f"the engine of '{document.model_name}' has no tokenizer that can be asked",
            param="model",
            code="unsupported_parameter",
            hint="an answer's usage says how many tokens its prompt had",
        )
    ready = next((each for each in countable if each.replicas or each.leaving), None)
    if ready is None:
        raise Unavailable(
            f"the model '{document.model_name}' cannot count now: no replica of it is ready",
            code="model_unavailable",
            retry_after_seconds=5,
        )
    return ready
