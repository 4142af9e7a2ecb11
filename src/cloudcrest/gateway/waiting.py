"""Requests over a limit that ask to wait: first come, first served for each limit, within bounds.

A request that finds no room at a scope waits there, and with it everybody who comes after and falls under the same
scope: nobody overtakes. They look again when a request of that scope ends at this worker, and every 20 to 50 ms,
because time and other workers make room too. Who waits holds no place at any limit.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from math import inf
from typing import NamedTuple

from cloudcrest.gateway.admit import OverLimit, Scope, limit_headers
from cloudcrest.gateway.deadline import refuse
from cloudcrest.gateway.request import MAX_WAIT_HEADER, Connection, Request, Responder
from cloudcrest.kernel.errors import CloudcrestError, InvalidInput, LimitExceeded, Unavailable
from cloudcrest.kernel.units import MIB

MAX_WAIT_SECONDS = 60.0
"""However long a request asks to wait."""


class Bounds(NamedTuple):
    """How many may wait, and how large their bodies are together."""

    requests: int
    body_bytes: int


WORKER_BOUNDS = Bounds(1000, 64 * MIB)
ORGANIZATION_BOUNDS = Bounds(250, 16 * MIB)
"""Of one organization at one worker."""
LOOK_EVERY_SECONDS = 0.02
_LOOK_AGAIN_SECONDS = 0.05
_AFTER_AN_END_SECONDS = 0.001

Schedule = Callable[[float, Callable[[], None]], object]
"""Calls a function after so many seconds."""


def asked_wait_seconds(request: Request) -> float | None:
    """What the request says of it. Raises `InvalidInput` for what is no time."""
    if request.max_wait is None:
        return None
    try:
        seconds = float(request.max_wait)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds < 1e9:
        name = MAX_WAIT_HEADER.decode()
        raise InvalidInput(f"{name} is to be a number of seconds, as in 2.5", param=name)
    return seconds


def wait_seconds(asked: float | None, scopes: Sequence[Scope]) -> float:
    """How long a request waits at most: as it says, else as the narrowest of its scopes that says anything."""
    told = (scope.limits.max_wait_seconds for scope in scopes)
    seconds = next((each for each in told if each is not None), 0) if asked is None else asked
    return min(seconds, MAX_WAIT_SECONDS)


class Waiter:
    """The responder of a request that waits; then it passes on to the one who answers.

    `begin` tries to admit it and begins the answer: raises `OverLimit` where there is still no room. `fail` tells the
    client of an error. `error`: where it found no room last. `head`: the lines that its answer carries whatever comes.
    """

    def __init__(
        self,
        room: "WaitingRoom",
        connection: Connection,
        request: Request,
        *,
        organization_id: str,
        body_bytes: int,
        begin: Callable[[], Responder],
        fail: Callable[[CloudcrestError], None],
        error: OverLimit,
        head: bytes,
    ) -> None:
        self._room = room
        self._connection = connection
        self._request = request
        self._begin = begin
        self._fail = fail
        self._head = head
        self._answering: Responder | None = None
        self._is_paused = False
        self.organization_id = organization_id
        self.body_bytes = body_bytes
        self.error = error
        self.since = self.until = self.next_look = 0.0

    def enter(self, now: float, seconds: float) -> None:
        """It waits from now on, for so long at most."""
        self.since, self.until = now, now + seconds
        self._found_no_room(self.error, now)

    def look(self, now: float) -> None:
        """Goes in where there is room. Leaves with an error where that is not what it waits for."""
        self._request.extra_head = self._head + self._waited(now)
        try:
            answering = self._room.begin(self._begin)
        except OverLimit as over:
            self._found_no_room(over, now)
        except CloudcrestError as error:
            self._room.leave(self, "refused")
            self._fail(error)
        else:
            self._room.leave(self, "admitted")
            self._answering = answering
            if self._is_paused:
                answering.client_paused()

    def give_up(self, error: CloudcrestError, now: float) -> None:
        """Leaves with an error."""
        self._request.extra_head = self._head + self._waited(now) + limit_headers([self.error.scope], now)
        self._room.leave(self, "refused")
        self._fail(error)

    def _found_no_room(self, error: OverLimit, now: float) -> None:
        """Time makes room at a rate, so it is known when to look again at the latest."""
        self.error = error
        self.next_look = now + min(error.retry_after_seconds or 0.0, _LOOK_AGAIN_SECONDS)

    def _waited(self, now: float) -> bytes:
        return b"x-cloudcrest-waited: %.3f\r\n" % (now - self.since)

    # the client's side

    def client_gone(self) -> None:
        if self._answering is not None:
            self._answering.client_gone()
        else:
            self._room.leave(self, "gone")

    def client_paused(self) -> None:
        self._is_paused = True
        if self._answering is not None:
            self._answering.client_paused()

    def client_resumed(self) -> None:
        self._is_paused = False
        if self._answering is not None:
            self._answering.client_resumed()

    def deadline_passed(self) -> None:
        if self._answering is not None:
            self._answering.deadline_passed()
        else:
            self._room.leave(self, "refused")
            refuse(self._connection, self._request)

    def body_data(self, data: bytes) -> None:
        """Inference requests are gathered before they get here."""

    def body_end(self) -> None: ...


class WaitingRoom:
    """Those who wait at one worker, in the order they came. `outcomes` counts how they left."""

    def __init__(self, monotonic: Callable[[], float], outcomes: Counter[str], schedule: Schedule) -> None:
        self._monotonic = monotonic
        self._outcomes = outcomes
        self._schedule = schedule
        self._waiters: dict[Waiter, None] = {}
        self._bodies_bytes = 0
        self._of_organizations: dict[str, Bounds] = {}
        self._taken: set[Scope] = set()
        self._ahead: set[Scope] | None = None
        self._freed: set[Scope] = set()
        self._is_looking = False
        self._is_closed = False
        self._next_look_at = inf

    def __len__(self) -> int:
        return len(self._waiters)

    def check(self, scopes: list[Scope]) -> None:
        """Raises `OverLimit` where somebody waits for a scope's room already: it is theirs."""
        taken = self._taken if self._ahead is None else self._ahead
        if taken:
            for scope in scopes:
                if scope in taken:
                    message = f"others wait for room at the limits of this {scope.kind}"
                    raise OverLimit(scope, message, "try again in a moment, or wait with x-cloudcrest-max-wait", 1.0)

    def enter(self, waiter: Waiter, seconds: float) -> None:
        """Lets it wait for so long. Raises `LimitExceeded` where too many do."""
        theirs = self._of_organizations.get(waiter.organization_id, _NONE)
        here = Bounds(len(self._waiters), self._bodies_bytes)
        if self._is_closed or _is_full(here, WORKER_BOUNDS, waiter) or _is_full(theirs, ORGANIZATION_BOUNDS, waiter):
            raise LimitExceeded(
                f"{waiter.error.message}, and too many requests wait already",
                hint=waiter.error.hint,
                retry_after_seconds=waiter.error.retry_after_seconds,
                code=waiter.error.code,
            )
        self._waiters[waiter] = None
        self._bodies_bytes += waiter.body_bytes
        self._of_organizations[waiter.organization_id] = Bounds(
            theirs.requests + 1, theirs.body_bytes + waiter.body_bytes
        )
        self._taken.add(waiter.error.scope)
        waiter.enter(self._monotonic(), seconds)
        self._look_in(LOOK_EVERY_SECONDS)

    def leave(self, waiter: Waiter, outcome: str) -> None:
        """It waits no longer."""
        if self._waiters.pop(waiter, waiter) is waiter:
            return
        self._outcomes[outcome] += 1
        self._bodies_bytes -= waiter.body_bytes
        requests, body_bytes = self._of_organizations.pop(waiter.organization_id)
        if requests > 1:
            self._of_organizations[waiter.organization_id] = Bounds(requests - 1, body_bytes - waiter.body_bytes)
        if not self._waiters:
            self._taken.clear()

    def freed(self, scopes: list[Scope]) -> None:
        """A request has given back what it held of these."""
        if self._taken and not self._taken.isdisjoint(scopes):
            self._freed.update(scopes)
            self._look_in(_AFTER_AN_END_SECONDS)

    def close(self) -> None:
        """The worker stops: nobody waits any longer."""
        self._is_closed = True
        now = self._monotonic()
        for waiter in list(self._waiters):
            waiter.give_up(Unavailable("this gateway is stopping", retry_after_seconds=1), now)

    def begin(self, begin: Callable[[], Responder]) -> Responder:
        """Begins an answer with those ahead in view, not those behind."""
        try:
            return begin()
        finally:
            self._ahead = None

    def _look_in(self, seconds: float) -> None:
        at = self._monotonic() + seconds
        if not self._is_looking and at < self._next_look_at:
            self._next_look_at = at
            self._schedule(seconds, partial(self._look, at))

    def _look(self, planned_at: float) -> None:
        """Once through all who wait, in their order. What one finds taken is taken for all behind."""
        if planned_at != self._next_look_at:
            return  # one that was planned later was sooner
        now = self._monotonic()
        self._next_look_at = inf
        self._is_looking = True
        freed, self._freed = self._freed, set()
        ahead: set[Scope] = set()
        try:
            for waiter in list(self._waiters):
                scope = waiter.error.scope
                if waiter.until <= now:
                    waiter.give_up(waiter.error, now)
                    continue
                if scope not in ahead and (waiter.next_look <= now or scope in freed):
                    self._ahead = ahead
                    waiter.look(now)
                if waiter in self._waiters:
                    ahead.add(waiter.error.scope)
        finally:
            self._ahead = None
            self._is_looking = False
            self._taken = {waiter.error.scope for waiter in self._waiters}
            if self._waiters:
                self._look_in(_AFTER_AN_END_SECONDS if self._freed else LOOK_EVERY_SECONDS)


_NONE = Bounds(0, 0)


def _is_full(now: Bounds, bounds: Bounds, waiter: Waiter) -> bool:
    return now.requests >= bounds.requests or now.body_bytes + waiter.body_bytes > bounds.body_bytes
