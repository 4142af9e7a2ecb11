"""A request that several may answer: the deployments of its model, then the fallbacks that its project names.

While nothing of the answer is out and one cannot give it (no replica ready, all failing), the next takes the request
over: checked and admitted anew, for its engine, its limits and its price, within what is left of the request's time.
What the next one cannot take (its task, its context, its limits, a key that may not use it) is passed over. Where none
can, the caller hears what the first said.
"""

from collections import Counter, deque
from collections.abc import Iterable
from typing import Protocol

import structlog

from cloudcrest.gateway.account import Account
from cloudcrest.gateway.parsed import Parsed
from cloudcrest.gateway.request import Connection, Request, Responder
from cloudcrest.gateway.snapshot import Route
from cloudcrest.identity.api import KeyDocument
from cloudcrest.kernel.errors import CloudcrestError, InvalidInput, NotFound
from cloudcrest.kernel.usage import Usage

_FALLBACK_HEADER = b"x-cloudcrest-fallback: %b\r\n"
_log = structlog.get_logger(__name__)


class Serve(Protocol):
    """Begins an answer by one route and returns who gives it. Raises before anything is sent."""

    def __call__(
        self,
        connection: Connection,
        request: Request,
        key: KeyDocument,
        parsed: Parsed,
        *,
        route: Route,
        fallback: "Fallback | None",
    ) -> Responder: ...


class Fallback:
    """The responder of such a request. `candidates`: who may answer, in order.

    `taken`: counts by model those that another model than the one asked for began to answer.
    """

    def __init__(
        self,
        serve: Serve,
        connection: Connection,
        request: Request,
        key: KeyDocument,
        parsed: Parsed,
        *,
        candidates: Iterable[Route],
        taken: Counter[str],
    ) -> None:
        self._serve = serve
        self._connection = connection
        self._request = request
        self._key = key
        self._parsed = parsed
        self._candidates = deque(candidates)
        self._taken = taken
        self._head = self._first_head = request.extra_head
        self._current: Responder | None = None
        self._first_error: CloudcrestError | None = None
        self._is_paused = False
        self.has_open_account = False
        """The account of a route that failed is open until another one takes its place."""

    def start(self, missing: NotFound | None) -> Responder:
        """Begins with the first that can. Raises the first one's error. `missing`: the model itself is not there."""
        if missing is not None:
            self._note(missing)
        error = self._next()
        if error is not None:
            raise error
        return self

    def has_ready(self) -> bool:
        """Whether one of those not asked yet has a replica."""
        return any(route.replicas for route in self._candidates)

    def take_over(self, error: CloudcrestError, account: Account) -> CloudcrestError | None:
        """The answer failed before its first byte. None: another is at it; else what the caller is to be told."""
        self._note(error)
        account.release(0)
        self.has_open_account = True
        told = self._next()
        if told is None:
            account.abandon()
        else:
            account.end("engine_error", Usage(0, 0))
        return told

    # the client's side

    def client_gone(self) -> None:
        if self._current is not None:
            self._current.client_gone()

    def client_paused(self) -> None:
        self._is_paused = True
        if self._current is not None:
            self._current.client_paused()

    def client_resumed(self) -> None:
        self._is_paused = False
        if self._current is not None:
            self._current.client_resumed()

    def deadline_passed(self) -> None:
        if self._current is not None:
            self._current.deadline_passed()

    def body_data(self, data: bytes) -> None:
        """Inference requests are gathered before they get here."""

    def body_end(self) -> None: ...

    # inside

    def _next(self) -> CloudcrestError | None:
        """Goes on to the next that takes it; else what the caller is to be told."""
        while self._candidates:
            route = self._candidates.popleft()
            if not self._is_reason_for(route):
                break
            try:
                self._begin(route)
            except CloudcrestError as error:
                if error.code == "spool_unavailable":  # nobody may serve
                    return error
                self._note(error)
            else:
                return None
        self._request.extra_head = self._first_head
        return self._first_error

    def _begin(self, route: Route) -> None:
        parsed = self._parsed.twin()  # checks may change it for one engine
        name = route.document.model_name
        is_other = name != parsed.model
        self._request.extra_head = self._head + (_FALLBACK_HEADER % name.encode() if is_other else b"")
        self._current = self._serve(self._connection, self._request, self._key, parsed, route=route, fallback=self)
        if self._is_paused:
            self._current.client_paused()
        if self._first_error is not None:
            deployment = route.document.deployment_id
            _log.info("fell_back", id=self._request.id, deployment=deployment, after=self._first_error.code)
        if is_other:
            self._taken[name] += 1

    def _note(self, error: CloudcrestError) -> None:
        """Keeps what the first said."""
        if self._first_error is None:
            self._first_error = error
            self._first_head = self._request.extra_head

    def _is_reason_for(self, route: Route) -> bool:
        """Whether this one is asked after what the first said.

        What another deployment of the model refuses, this one's engine or context may take; another model is asked only
        where the first could not answer at all.
        """
        error = self._first_error
        if error is None or error.status >= 500 or isinstance(error, NotFound):
            return True
        return isinstance(error, InvalidInput) and route.document.model_name == self._parsed.model
