"""Admission: rates of requests and tokens, growth, and concurrency, per key, project, organization and model. Pure but
for the state it is given; time comes in as monotonic seconds.

A request takes one from each request bucket and its estimated tokens from each token bucket, in all scopes or in none.
When it ends, the estimate is corrected to what was used: a bucket may go into debt, which later requests wait out.
"""

from collections.abc import Callable, Sequence
from typing import Literal

from cloudcrest.gateway.growth import Ramp
from cloudcrest.identity.api import GROWTH_FLOOR_REQUESTS_PER_MINUTE, Limits
from cloudcrest.kernel.errors import LimitExceeded

ScopeKind = Literal["key", "project", "organization", "model"]
GROWTH_CODE = "limit_burst_rate"
"""As other clouds call it."""
_SLACK = 1e-9
"""What rounding may take from a bucket."""


class OverLimit(LimitExceeded):
    """A scope has no room now; who waits, waits for that one's. `is_of_tokens`: for so many tokens."""

    def __init__(self, scope: "Scope", message: str, hint: str, wait_seconds: float, code: str | None = None) -> None:
        super().__init__(message, hint=hint, retry_after_seconds=wait_seconds, code=code)
        self.scope = scope
        self.is_of_tokens = False


class Bucket:
    """A token bucket: `per_minute` at most at once, refilled evenly."""

    __slots__ = ("level", "per_minute", "updated_at_seconds")

    def __init__(self, per_minute: int, now: float) -> None:
        self.per_minute = per_minute
        self.level = float(per_minute)
        self.updated_at_seconds = now

    def refill(self, now: float) -> None:
        elapsed_seconds = now - self.updated_at_seconds
        if elapsed_seconds > 0:
            level = self.level + elapsed_seconds * self.per_minute / 60
            self.level = level if level < self.per_minute else float(self.per_minute)
            self.updated_at_seconds = now

    def has(self, amount: int, now: float) -> bool:
        """Whether `amount` can be taken now."""
        most = self.per_minute
        elapsed_seconds = now - self.updated_at_seconds
        if elapsed_seconds > 0:  # as `refill` does, without the call: each request asks several buckets
            level = self.level + elapsed_seconds * most / 60
            self.level = level if level < most else float(most)
            self.updated_at_seconds = now
        if amount <= self.level:  # nearly always
            return most > 0
        return self.level >= min(most, amount) - _SLACK and most > 0

    def need(self, amount: int) -> float:
        """What must be there for `amount`: no more than a full bucket, so that a large request can pass at all."""
        return float(min(amount, self.per_minute))

    def wait_seconds(self, amount: int) -> float:
        """How long until `amount` can be taken (0: now). Call `refill` first."""
        missing = self.need(amount) - self.level
        if missing <= _SLACK:
            return 0.0
        return missing * 60 / self.per_minute if self.per_minute else 60.0

    def reset_seconds(self) -> float:
        """How long until the bucket is full."""
        return (self.per_minute - self.level) * 60 / self.per_minute if self.per_minute else 60.0

    def correct(self, amount: float) -> None:
        """Gives `amount` back, or takes it (below 0) even where that leaves a debt."""
        level = self.level + amount
        self.level = level if level < self.per_minute else float(self.per_minute)

    def resize(self, per_minute: int, now: float) -> None:
        """Changes the limit and keeps the share that is left."""
        self.refill(now)
        share = self.level / self.per_minute if self.per_minute else 0.0
        self.per_minute = per_minute
        self.level = min(1.0, share) * per_minute


class Scope:
    """The limits of one key, project, organization or model, and what is used of them.

    `digest` and `corrections` are those of its row where several workers share a table (shared_limits.py).
    """

    __slots__ = ("concurrent", "corrections", "digest", "growth", "id", "kind", "limits", "requests", "tokens")

    def __init__(self, kind: ScopeKind, scope_id: str, limits: Limits, now: float) -> None:
        self.kind = kind
        self.id = scope_id
        self.concurrent = 0
        self.corrections = 0.0
        self.digest: bytes | None = None
        self.limits = limits
        self.requests = _resized(None, limits.requests_per_minute, now)
        self.tokens = _resized(None, limits.tokens_per_minute, now)
        self.growth = _regrown(None, limits, now)

    def set_limits(self, limits: Limits, now: float) -> None:
        """Follows a change; what runs and what was used stays counted."""
        self.limits = limits
        self.requests = _resized(self.requests, limits.requests_per_minute, now)
        self.tokens = _resized(self.tokens, limits.tokens_per_minute, now)
        self.growth = _regrown(self.growth, limits, now)


def _resized(bucket: Bucket | None, per_minute: int | None, now: float) -> Bucket | None:
    if per_minute is None:
        return None
    if bucket is None:
        return Bucket(per_minute, now)
    if bucket.per_minute != per_minute:
        bucket.resize(per_minute, now)
    return bucket


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

    def __init__(self, scopes: Sequence[Scope], reserved_tokens: int) -> None:
        self.scopes = scopes
        self.reserved_tokens = reserved_tokens
        self.freed: Callable[[Sequence[Scope]], None] | None = None
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
            if scope.tokens is not None:
                scope.tokens.correct(tokens)


Admit = Callable[[Sequence[Scope], int, float], Grant]
"""Admits a request of about so many tokens at a time (monotonic seconds), or raises `LimitExceeded`: `admit`, or that
of a table which several workers share."""


def admit(scopes: Sequence[Scope], tokens: int, now: float) -> Grant:
    """Takes one request of about `tokens` tokens from every scope. Raises `LimitExceeded` and then takes nothing."""
    take(scopes, tokens, now)
    return Grant(scopes, tokens)


def take(scopes: Sequence[Scope], tokens: int, now: float) -> None:
    """The same, without the hold that gives it back."""
    for scope in scopes:
        _check(scope, tokens, now)
    for scope in scopes:
        scope.concurrent += 1
        if scope.requests is not None:
            scope.requests.level -= 1
        if scope.tokens is not None:
            scope.tokens.level -= tokens
        if scope.growth is not None:
            scope.growth.take()


def _check(scope: Scope, tokens: int, now: float) -> None:
    most = scope.limits.concurrent_requests
    if most is not None and scope.concurrent >= most:
        raise _refusal(scope, f"{most} concurrent requests", 1.0)
    bucket = scope.requests
    if bucket is not None and not bucket.has(1, now):
        raise _refusal(scope, f"{bucket.per_minute} requests per minute", bucket.wait_seconds(1) or 60.0)
    bucket = scope.tokens
    if bucket is not None and not bucket.has(tokens, now):
        error = _refusal(scope, f"{bucket.per_minute} tokens per minute", bucket.wait_seconds(tokens) or 60.0)
        error.is_of_tokens = True
        raise error
    if scope.growth is not None:
        wait_seconds = scope.growth.wait_seconds(now)
        if wait_seconds > 0:
            raise _grows_too_fast(scope, scope.growth, wait_seconds)


def _refusal(scope: Scope, limit: str, wait_seconds: float) -> OverLimit:
    hint = f"try again in {format_reset(wait_seconds)}"
    return OverLimit(scope, f"the limit of {limit} of this {scope.kind} is reached", hint, wait_seconds)


def _grows_too_fast(scope: Scope, ramp: Ramp, wait_seconds: float) -> OverLimit:
    return OverLimit(
        scope,
        f"the load of this {scope.kind} grows by more than {ramp.percent} % a minute: about "
        f"{round(ramp.allowed_per_minute)} requests per minute are possible now",
        f"try again in {format_reset(wait_seconds)}, and send more requests little by little",
        wait_seconds,
        GROWTH_CODE,
    )


def limit_headers(scopes: Sequence[Scope], now: float) -> bytes:
    """The `x-ratelimit-*` lines of the tightest scope; empty where nothing is limited."""
    requests: Bucket | None = None
    tokens: Bucket | None = None
    for scope in scopes:
        bucket = scope.requests
        if bucket is not None:
            if bucket.updated_at_seconds != now:
                bucket.refill(now)
            if requests is None or bucket.level < requests.level:
                requests = bucket
        bucket = scope.tokens
        if bucket is not None:
            if bucket.updated_at_seconds != now:
                bucket.refill(now)
            if tokens is None or bucket.level < tokens.level:
                tokens = bucket
    lines = "" if requests is None else _lines("requests", requests)
    return (lines if tokens is None else lines + _lines("tokens", tokens)).encode()


def _lines(what: str, bucket: Bucket) -> str:
    left = int(bucket.level) if bucket.level > 0 else 0
    return (
        f"x-ratelimit-limit-{what}: {bucket.per_minute}\r\nx-ratelimit-remaining-{what}: {left}\r\n"
        f"x-ratelimit-reset-{what}: {format_reset(bucket.reset_seconds())}\r\n"
    )


def format_reset(seconds: float) -> str:
    """As OpenAI writes it: `12ms`, `1.5s`, `6m0s`."""
    if seconds < 1:
        return f"{round(seconds * 1000) if seconds > 0 else 0}ms"
    if seconds < 60:
        return f"{seconds:.1f}s".replace(".0s", "s")
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}m{rest}s"
