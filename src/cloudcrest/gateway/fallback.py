"""A request that others may answer than the model it asks for, where its project wants that.

While nothing of the answer is out and a route cannot give one (no replica ready, all failing), the next takes the
request over: admitted anew, under that model's limits, fields and price, within what is left of its time. What the
next one cannot take (its task, its context, its limits, a key that may not use it) is passed over. Where none can, the
caller hears of the model it asked for.
"""

from collections import Counter
from collections.abc import Iterator
from typing import Protocol

import msgspec
import structlog

from cloudcrest.gateway.account import Account
from cloudcrest.gateway.request import Connection, Request, Responder
from cloudcrest.gateway.snapshot import Route
from cloudcrest.gateway.validate import Parsed
from cloudcrest.identity.api import KeyDocument
from cloudcrest.kernel.errors import CloudcrestError, NotFound
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
    """The responder of such a request. `others` are asked in turn after the route of the model that was asked for.

    `taken`: counts by model those that went to another route.
    """

    def __init__(
        self,
        serve: Serve,
        connection: Connection,
        request: Request,
        key: KeyDocument,
        parsed: Parsed,
        *,
        others: Iterator[Route],
        taken: Counter[str],
    ) -> None:
        self._serve = serve
        self._connection = connection
        self._request = request
        self._key = key
        self._parsed = parsed
        self._others = others
        self._taken = taken
        self._head = self._first_head = request.extra_head
        self._current: Responder | None = None
        self._first_error: CloudcrestError | None = None
        self._is_paused = False

    def start(self, route: Route) -> Responder:
        """Begins with this route or the next that can. Raises the error of this one."""
        try:
            self._begin(route)
        except CloudcrestError as error:
            return self.start_after(error)
        return self

    def start_after(self, error: CloudcrestError) -> Responder:
        """Begins with the first of the others that can. Raises the error where there is none, or it is no reason."""
        told = self._next() if self._is_passed_on(error) else error
        if told is not None:
            raise told
        return self

    def take_over(self, error: CloudcrestError, account: Account) -> CloudcrestError | None:
        """The answer failed before its first byte. None: another route is at it; else what the caller is to be told."""
        if not self._is_passed_on(error):
            account.end("engine_error", Usage(0, 0))
            return error
        account.release(0)
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
        """Goes on to the first route that takes it; else what the caller is to be told."""
        for route in self._others:
            try:
                self._begin(route)
            except CloudcrestError as error:
                if not self._is_passed_on(error):
                    return error
            else:
                return None
        self._request.extra_head = self._first_head
        return self._first_error

    def _begin(self, route: Route) -> None:
        parsed = msgspec.structs.replace(self._parsed)  # checks may change it for one engine
        name = route.document.model_name
        is_other = name != parsed.body.model
        self._request.extra_head = self._head + (_FALLBACK_HEADER % name.encode() if is_other else b"")
        self._current = self._serve(self._connection, self._request, self._key, parsed, route=route, fallback=self)
        if self._is_paused:
            self._current.client_paused()
        if self._first_error is not None:
            self._taken[name] += 1
            _log.info("fell_back", id=self._request.id, model=name, after=self._first_error.code)

    def _is_passed_on(self, error: CloudcrestError) -> bool:
        """Whether the next route is asked after this: the first must have failed, a later one need only not take it."""
        if error.code == "spool_unavailable":
            return False
        if self._first_error is None:
            if error.status < 500 and not isinstance(error, NotFound):
                return False
            self._first_error = error
            self._first_head = self._request.extra_head
        return True
