"""Where a worker asks its region for more of a budget, and where requests wait for that: bounded, off the hot path."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from functools import partial
from time import time_ns
from typing import NoReturn

import msgspec
import structlog

from cloudcrest.billing.grants import GrantsAnswer, GrantsRequest, Refusal
from cloudcrest.gateway.budget import Wallet
from cloudcrest.gateway.deadline import refuse
from cloudcrest.gateway.metrics import Metrics
from cloudcrest.gateway.parts import Admitted
from cloudcrest.gateway.purse import Claim, Pocket
from cloudcrest.gateway.request import Responder
from cloudcrest.kernel.errors import CloudcrestError, LimitExceeded, Unavailable

WAIT_SECONDS = 1.0
COLD_WAIT_SECONDS = 15.0
"""Where nothing was ever heard of a scope: so long may the region and the control plane take to start again."""
MAX_WAITING = 10_000
_TELL_SECONDS = 1.0
_LOOK_SECONDS = 0.05
_MAX_PAUSE_SECONDS = 0.5
_log = structlog.get_logger(__name__)

Exchange = Callable[[bytes], Awaitable[bytes]]
"""Posts a `GrantsRequest` to the region; its `GrantsAnswer`. Raises `OSError` or `Unavailable` where none came."""
Decided = Callable[[CloudcrestError | None], None]
"""Told once: None, it is reserved; else why it is refused."""


class Waiter:
    """A claim that waits. `cancel` where nobody does any more."""

    __slots__ = ("claim", "decided", "gives_up_at", "has_asked", "timer")

    def __init__(self, claim: Claim, decided: Decided, timer: asyncio.TimerHandle, gives_up_at: float) -> None:
        self.claim = claim
        self.gives_up_at = gives_up_at
        self.decided = decided
        self.timer = timer
        self.has_asked = False


class Desk:
    """Asks for what the wallet wishes, tells what it gives back, and serves who waits."""

    def __init__(self, wallet: Wallet) -> None:
        self.wallet = wallet
        self._waiters: dict[int, Waiter] = {}
        self._is_kicked = asyncio.Event()
        self._waited = 0

    def kick(self) -> None:
        """There is something to say or to look at: at once, beside what is going on."""
        self._is_kicked.set()

    def wait(self, claim: Claim, decided: Decided) -> Callable[[], None]:
        """Has a claim wait for up to a second, longer where nobody has answered yet; the answer takes it off. Raises
        `LimitExceeded` where too many wait.
        """
        if len(self._waiters) >= MAX_WAITING:
            raise refused(self.wallet.short_of(claim))
        self._waited += 1
        number = self._waited
        loop = asyncio.get_running_loop()
        timer = loop.call_later(WAIT_SECONDS, self._give_up, number)
        self._waiters[number] = Waiter(claim, decided, timer, loop.time() + COLD_WAIT_SECONDS)
        self.kick()
        return partial(self._cancel, number)

    async def run(self, exchange: Exchange) -> NoReturn:
        """Talks to the region until cancelled, one message at a time."""
        pause_seconds = _LOOK_SECONDS
        while True:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._is_kicked.wait(), _LOOK_SECONDS if self._waiters else _TELL_SECONDS)
            self._is_kicked.clear()
            self._serve(())
            now = _now()
            asked = {id(claim) for claim in self.wallet.ask_for([each.claim for each in self._waiters.values()], now)}
            for waiter in self._waiters.values():
                waiter.has_asked = waiter.has_asked or id(waiter.claim) in asked
            request = self.wallet.message(now)
            if request is None:
                continue
            try:
                answer = await self._ask(exchange, request)
            except (OSError, Unavailable, ValueError) as error:
                _log.warning("grants_not_answered", error=str(error) or repr(error))
                await asyncio.sleep(pause_seconds)
                pause_seconds = min(2 * pause_seconds, _MAX_PAUSE_SECONDS)
                continue
            pause_seconds = _LOOK_SECONDS
            self.wallet.heard(request, answer, _now())
            self._serve(answer.refusals)
            if self.wallet.has_news:
                self.kick()

    async def _ask(self, exchange: Exchange, request: GrantsRequest) -> GrantsAnswer:
        return msgspec.json.decode(await exchange(msgspec.json.encode(request)), type=GrantsAnswer)

    def _serve(self, refusals: tuple[Refusal, ...]) -> None:
        """Reserves for those that can be, in the order they came, and refuses what is out of reach."""
        wallet, loop = self.wallet, asyncio.get_running_loop()
        for number, waiter in list(self._waiters.items()):
            claim = waiter.claim
            if wallet.reserve(claim) or (waiter.has_asked and wallet.reserve_what_there_is(claim)):
                self._take_off(number)
                loop.call_soon(waiter.decided, None)
            elif refusals and (pocket := wallet.is_out_of_reach(claim, refusals)) is not None:
                self._take_off(number)
                loop.call_soon(waiter.decided, refused(pocket))

    def _give_up(self, number: int) -> None:
        waiter = self._waiters.get(number)
        if waiter is None:
            return
        wallet, loop = self.wallet, asyncio.get_running_loop()
        if wallet.reserve(waiter.claim) or wallet.reserve_what_there_is(waiter.claim):
            self._take_off(number)
            waiter.decided(None)
            return
        pocket = wallet.short_of(waiter.claim)
        is_cold = pocket is not None and pocket.is_cold
        if is_cold and loop.time() < waiter.gives_up_at:
            waiter.timer = loop.call_later(_TELL_SECONDS, self._give_up, number)
            return
        self._take_off(number)
        waiter.decided(_not_known(pocket) if is_cold and pocket is not None else refused(pocket))

    def _cancel(self, number: int) -> None:
        self._take_off(number)

    def _take_off(self, number: int) -> Waiter | None:
        waiter = self._waiters.pop(number, None)
        if waiter is not None:
            waiter.timer.cancel()
        return waiter


class WaitingForBudget:
    """A request whose budget is being asked for, then whoever answers it."""

    def __init__(self, admitted: Admitted, begin: Callable[[Admitted], Responder], metrics: Metrics) -> None:
        self._admitted = admitted
        self._begin = begin
        self._metrics = metrics
        self._inner: Responder | None = None
        self._is_paused = False
        self._is_over = False
        self.cancel: Callable[[], None] = lambda: None

    def decided(self, error: CloudcrestError | None) -> None:
        """Reserved, or why not."""
        if self._is_over:
            if error is None and self._admitted.claim is not None:
                self._admitted.claim.settle(0)
            return
        if error is not None:
            self._admitted.grant.settle(0)
        else:
            try:
                self._inner = self._begin(self._admitted)
                if self._is_paused:
                    self._inner.client_paused()
            except CloudcrestError as reason:
                error = reason
        if error is not None:
            self._metrics.responses[error.status] += 1
            self._admitted.connection.respond_error(error)

    def client_gone(self) -> None:
        if self._inner is not None:
            self._inner.client_gone()
        else:
            self._leave()

    def deadline_passed(self) -> None:
        if self._inner is not None:
            self._inner.deadline_passed()
        else:
            self._leave()
            refuse(self._admitted.connection, self._admitted.request)

    def client_paused(self) -> None:
        self._is_paused = True
        if self._inner is not None:
            self._inner.client_paused()

    def client_resumed(self) -> None:
        self._is_paused = False
        if self._inner is not None:
            self._inner.client_resumed()

    def body_data(self, data: bytes) -> None:
        """Inference requests are gathered before they get here."""

    def body_end(self) -> None: ...

    def _leave(self) -> None:
        """Nobody waits any more."""
        self._is_over = True
        self.cancel()
        self._admitted.grant.settle(0)


def refused(pocket: Pocket | None) -> LimitExceeded:
    """Why a request is not served: the scope named."""
    name = "a budget" if pocket is None else pocket.name
    return LimitExceeded(
        f"what is left of {name} does not cover the most this request can cost",
        code="insufficient_quota",
        hint="lower max_tokens, or add to it; requests under way give back what they do not use",
        retry_after_seconds=1,
    )


def _not_known(pocket: Pocket) -> Unavailable:
    return Unavailable(
        f"{pocket.name} cannot be asked for now, so nothing can be spent of it",
        code="budget_unavailable",
        hint="try again shortly",
        retry_after_seconds=2,
    )


def _now() -> int:
    return time_ns() // 1_000
