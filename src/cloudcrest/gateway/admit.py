"""Admission: rates of requests and tokens, growth, and concurrency, per key, project, organization and model. Pure but
for the state it is given; time comes in as monotonic seconds.

A request takes one from each request bucket and its estimated tokens from each token bucket, in all scopes or in none.
When it ends, the estimate is corrected to what was used: a bucket may go into debt, which later requests wait out.
"""

from collections.abc import Callable
from math import inf
from typing import Final, Literal

from cloudcrest.gateway.growth import Ramp
from cloudcrest.identity.api import GROWTH_FLOOR_REQUESTS_PER_MINUTE, Limits
from cloudcrest.kernel.errors import LimitExceeded

ScopeKind = Literal["key", "project", "organization", "model"]
GROWTH_CODE = "limit_burst_rate"
"""As other clouds call it."""
_SLACK = 1e-9
"""What rounding may take from a bucket."""
_UNBOUNDED: Final = 1 << 60
_MILLISECONDS: Final = [b"%dms" % number for number in range(1_000)]
_TENTHS: Final = [b"%d.%ds" % divmod(number, 10) if number % 10 else b"%ds" % (number // 10) for number in range(600)]


class OverLimit(LimitExceeded):
    """A scope has no room now; who waits, waits for that one's. `is_of_tokens`: for so many tokens."""

    def __init__(self, scope: "Scope", message: str, hint: str, wait_seconds: float, code: str | None = None) -> None:
        super().__init__(message, hint=hint, retry_after_seconds=wait_seconds, code=code)
        self.scope = scope
        self.is_of_tokens = False


class Bucket:
    """A token bucket: `capacity` at most at once (inf: unlimited), refilled evenly, all of it in a minute.

    Where it is unlimited, it has no `lines`.
    """

    __slots__ = ("_before_left", "_before_reset", "_what", "capacity", "level", "per_second")

    def __init__(self, what: Literal["requests", "tokens"]) -> None:
        self._what = what.encode()
        self._before_left = b""
        self._before_reset = b"\r\nx-ratelimit-reset-%b: " % self._what
        self.capacity = self.level = self.per_second = inf

    def resize(self, capacity: float) -> None:
        """Changes the limit and keeps the share that is left. Refill it before."""
        before = self.capacity
        if capacity == before:
            return
        self.capacity = capacity
        self.per_second = capacity / 60
        if capacity == inf:
            self.level = inf
            self._before_left = b""
            return
        self.level = capacity if before == inf else min(1.0, self.level / before) * capacity if before else 0.0
        limit = b"x-ratelimit-limit-%b: %d\r\n" % (self._what, int(capacity))
        self._before_left = b"%bx-ratelimit-remaining-%b: " % (limit, self._what)

    def wait_seconds(self, amount: int) -> float:
        """How long until `amount` can be taken (0: now). A full bucket is enough for any, so that large ones pass."""
        if not self.capacity:
            return 60.0
        missing = min(float(amount), self.capacity) - self.level
        return 0.0 if missing <= _SLACK else missing / self.per_second

    def correct(self, amount: float) -> None:
        """Gives `amount` back, or takes it (below 0) even where that leaves a debt."""
        level, capacity = self.level + amount, self.capacity
        self.level = level if level < capacity else capacity  # noqa: FURB136  # a call, and each request does it often

    def lines(self) -> bytes:
        """Its `x-ratelimit-*` lines: the limit, what is left, and how long until it is full."""
        if not self._before_left:
            return b""
        level, per_second = self.level, self.per_second
        reset = format_reset((self.capacity - level) / per_second if per_second else 60.0)
        left = int(level) if level > 0 else 0
        return b"%b%d%b%b\r\n" % (self._before_left, left, self._before_reset, reset)


class Scope:
    """The limits of one key, project, organization or model, and what is used of them.

    `digest`, `row` and `corrections` are those of its row where several workers share a table (shared_limits.py).
    """

    __slots__ = (
        "concurrent",
        "corrections",
        "digest",
        "growth",
        "id",
        "kind",
        "limits",
        "most_concurrent",
        "requests",
        "row",
        "tokens",
        "updated_at_seconds",
    )

    def __init__(self, kind: ScopeKind, scope_id: str, limits: Limits, now: float) -> None:
        self.kind = kind
        self.id = scope_id
        self.concurrent = 0
        self.corrections = 0.0
        self.digest: bytes | None = None
        self.row = 0
        self.requests = Bucket("requests")
        self.tokens = Bucket("tokens")
        self.growth: Ramp | None = None
        self.updated_at_seconds = now
        self.set_limits(limits, now)

    def set_limits(self, limits: Limits, now: float) -> None:
        """Follows a change; what runs and what was used stays counted."""
        self.refill(now)
        self.limits = limits
        self.most_concurrent = _UNBOUNDED if limits.concurrent_requests is None else limits.concurrent_requests
        self.requests.resize(inf if limits.requests_per_minute is None else limits.requests_per_minute)
        self.tokens.resize(inf if limits.tokens_per_minute is None else limits.tokens_per_minute)
        self.growth = _regrown(self.growth, limits, now)

    def refill(self, now: float) -> None:
        """Brings both buckets up to a time."""
        passed_seconds = now - self.updated_at_seconds
        if passed_seconds <= 0:
            return
        self.updated_at_seconds = now
        bucket = self.requests  # as `correct` does, without the calls: each request refills several
        level, capacity = bucket.level + passed_seconds * bucket.per_second, bucket.capacity
        bucket.level = level if level < capacity else capacity  # noqa: FURB136  # the same
        bucket = self.tokens
        level, capacity = bucket.level + passed_seconds * bucket.per_second, bucket.capacity
        bucket.level = level if level < capacity else capacity  # noqa: FURB136


def _regrown(ramp: Ramp | None, limits: Limits, now: float) -> Ramp | None:
    percent = limits.growth_percent_per_minute
    if percent is None:
        return None
    floor = limits.growth_floor_requests_per_minute or GROWTH_FLOOR_REQUESTS_PER_MINUTE
    if ramp is None:
        return Ramp(percent, floor, now)
    ramp.set_limits(percent, floor)
    return ramp


class Grant:
    """An admitted request's hold on its scopes. `settle` once. `freed` is told when they have room again."""

    __slots__ = ("_is_settled", "freed", "reserved_tokens", "scopes")

    def __init__(self, scopes: list[Scope], reserved_tokens: int) -> None:
        self.scopes = scopes
        self.reserved_tokens = reserved_tokens
        self.freed: Callable[[list[Scope]], None] | None = None
        self._is_settled = False

    def settle(self, used_tokens: int) -> None:
        """Ends the request: frees its place and corrects the estimate. A second call does nothing."""
        if self._is_settled:
            return
        self._is_settled = True
        self.give_back(self.reserved_tokens - used_tokens)
        if self.freed is not None:
            self.freed(self.scopes)

    def give_back(self, tokens: int) -> None:
        """Frees the request's place in each scope, and corrects its estimate by `tokens`."""
        for scope in self.scopes:
            scope.concurrent -= 1
            scope.tokens.correct(tokens)


Admit = Callable[[list[Scope], int, float], Grant]
"""Admits a request of about so many tokens at a time (monotonic seconds), or raises `LimitExceeded`: `admit`, or that
of a table which several workers share."""


def admit(scopes: list[Scope], tokens: int, now: float) -> Grant:
    """Takes one request of about `tokens` tokens from every scope. Raises `LimitExceeded` and then takes nothing."""
    take(scopes, tokens, now)
    return Grant(scopes, tokens)


def take(scopes: list[Scope], tokens: int, now: float) -> None:
    """The same, without the hold that gives it back."""
    for scope in scopes:
        scope.refill(now)
        if (
            scope.requests.level < 1
            or scope.tokens.level <= tokens
            or scope.concurrent >= scope.most_concurrent
            or scope.growth is not None
        ):
            _check(scope, tokens, now)
    for scope in scopes:
        scope.concurrent += 1
        scope.requests.level -= 1
        scope.tokens.level -= tokens
        if scope.growth is not None:
            scope.growth.take()


def _check(scope: Scope, tokens: int, now: float) -> None:
    """Where a scope may be short of something: whether it is."""
    if scope.concurrent >= scope.most_concurrent:
        raise _refusal(scope, f"{scope.most_concurrent} concurrent requests", 1.0)
    wait_seconds = scope.requests.wait_seconds(1)
    if wait_seconds > 0:
        raise _refusal(scope, f"{int(scope.requests.capacity)} requests per minute", wait_seconds)
    wait_seconds = scope.tokens.wait_seconds(tokens)
    if wait_seconds > 0:
        error = _refusal(scope, f"{int(scope.tokens.capacity)} tokens per minute", wait_seconds)
        error.is_of_tokens = True
        raise error
    if scope.growth is not None:
        wait_seconds = scope.growth.wait_seconds(now)
        if wait_seconds > 0:
            raise _grows_too_fast(scope, scope.growth, wait_seconds)


def _refusal(scope: Scope, limit: str, wait_seconds: float) -> OverLimit:
    hint = f"try again in {format_reset(wait_seconds).decode()}"
    return OverLimit(scope, f"the limit of {limit} of this {scope.kind} is reached", hint, wait_seconds)


def _grows_too_fast(scope: Scope, ramp: Ramp, wait_seconds: float) -> OverLimit:
    return OverLimit(
        scope,
        f"the load of this {scope.kind} grows by more than {ramp.percent} % a minute: about "
        f"{round(ramp.allowed_per_minute)} requests per minute are possible now",
        f"try again in {format_reset(wait_seconds).decode()}, and send more requests little by little",
        wait_seconds,
        GROWTH_CODE,
    )


def limit_headers(scopes: list[Scope], now: float) -> bytes:
    """The `x-ratelimit-*` lines of the tightest scope; empty where nothing is limited."""
    if not scopes:
        return b""
    requests, tokens = scopes[0].requests, scopes[0].tokens
    for scope in scopes:
        if scope.updated_at_seconds != now:
            scope.refill(now)
        if scope.requests.level < requests.level:
            requests = scope.requests
        if scope.tokens.level < tokens.level:
            tokens = scope.tokens
    return requests.lines() + tokens.lines()


def format_reset(seconds: float) -> bytes:
    """As OpenAI writes it: `12ms`, `1.5s`, `6m0s`."""
    milliseconds = int(seconds * 1_000 + 0.5)
    if milliseconds < 1_000:
        return _MILLISECONDS[max(milliseconds, 0)]
    tenths = int(seconds * 10 + 0.5)
    if tenths < 600:
        return _TENTHS[tenths]
    whole = int(seconds + 0.5)
    return b"%dm%ds" % (whole // 60, whole % 60)
