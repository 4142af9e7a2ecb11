"""The account of one admitted request: opened in the spool, marked while it streams, ended once."""

from collections.abc import Callable
from typing import Final

from msgspec.structs import astuple

from cloudcrest.gateway.admit import Grant
from cloudcrest.gateway.metrics import Metrics, Served
from cloudcrest.gateway.purse import Claim, Purse
from cloudcrest.gateway.record import Recorder
from cloudcrest.identity.api import KeyDocument
from cloudcrest.kernel.clock import Clock
from cloudcrest.kernel.usage import Outcome, Tier, Usage, UsageCounts
from cloudcrest.metering.api import MarkRecord
from cloudcrest.metering.rows import Row, SharedRow
from cloudcrest.metering.spool import Shared
from cloudcrest.serving.api import RouteDocument

MAX_KNOWN: Final = 20_000

Kind = tuple[str, Tier, str, tuple[Purse, ...]]
"""Endpoint, tier, prices, and what grants it draws on."""


class _Standing:
    """A key's requests for a deployment, streams or others: their counters, the kind of the last one, and what its
    records share.
    """

    __slots__ = ("is_stream", "key", "kind", "route", "served", "shared")

    def __init__(self, key: KeyDocument, route: RouteDocument, is_stream: bool, served: Served) -> None:
        self.key = key
        self.route = route
        self.is_stream = is_stream
        self.served = served
        self.kind: Kind | None = None
        self.shared: Shared | None = None


class Origin:
    """What every event of a worker carries and uses."""

    def __init__(self, region: str, gateway: str, recorder: Recorder, metrics: Metrics, clock: Clock) -> None:
        self.region = region
        self.gateway = gateway
        self.recorder = recorder
        self.metrics = metrics
        self.monotonic: Callable[[], float] = clock.monotonic
        self._unix_seconds: Callable[[], float] = clock.unix_seconds
        self._of_streams: dict[str, dict[str, _Standing]] = {}
        self._of_others: dict[str, dict[str, _Standing]] = {}
        self._known = 0

    def microseconds(self) -> int:
        """The wall time, Unix."""
        return int(self._unix_seconds() * 1_000_000 + 0.5)

    def standing(self, key: KeyDocument, route: RouteDocument, is_stream: bool) -> _Standing:
        """What is known of this key's requests for a deployment, until the feed says something else of either."""
        of_key = (self._of_streams if is_stream else self._of_others).get(key.id)
        standing = None if of_key is None else of_key.get(route.deployment_id)
        if standing is None or standing.key is not key or standing.route is not route:
            standing = self._new_standing(key, route, is_stream)
        return standing

    def _new_standing(self, key: KeyDocument, route: RouteDocument, is_stream: bool) -> _Standing:
        self._known += 1
        if self._known > MAX_KNOWN:
            self._of_streams.clear()
            self._of_others.clear()
            self._known = 1
        standing = _Standing(key, route, is_stream, self.metrics.of(route.model_name))
        standings = self._of_streams if is_stream else self._of_others
        standings.setdefault(key.id, {})[route.deployment_id] = standing
        return standing

    def shared(self, standing: _Standing, kind: Kind) -> Shared:
        """What a request's records have in common with those of others of its kind."""
        shared = standing.shared
        if shared is None or standing.kind != kind:
            key, route = standing.key, standing.route
            endpoint, tier, rate_card_id, purses = kind
            row = SharedRow(
                self.region,
                self.gateway,
                key.organization_id,
                key.project_id,
                key.id,
                route.model_name,
                route.deployment_id,
                endpoint,
                standing.is_stream,
                rate_card_id,
                tier,
                tuple([(purse.pocket.scope, purse.id) for purse in purses]),
            )
            standing.kind = kind
            shared = standing.shared = Shared(row)
        return shared


class Account:
    """One request's. `release` frees its limits, `end` writes its event; each counts once.

    `claim`: what is held of budgets for it; no more than that is ever counted. `started_at`: Unix microseconds.
    """

    def __init__(
        self,
        origin: Origin,
        *,
        request_id: str,
        endpoint: str,
        key: KeyDocument,
        route: RouteDocument,
        grant: Grant,
        is_stream: bool,
        claim: Claim | None,
        started_at: int,
        tier: Tier = "standard",
    ) -> None:
        self.id = request_id
        self._origin = origin
        self._endpoint = endpoint
        self._grant = grant
        self._started_at_seconds = origin.monotonic()
        self._started_at_microseconds = started_at
        self._claim = claim
        standing = origin.standing(key, route, is_stream)
        self._served = standing.served
        parts = [] if claim is None else claim.priced_parts()
        rate_card_id = "" if claim is None else claim.rate_card_id
        purses = tuple([purse for purse, _ in parts])
        self._shared = origin.shared(standing, (endpoint, tier, rate_card_id, purses))
        self._units = [units for _, units in parts]
        self._first_token_milliseconds: int | None = None
        self._lasted_milliseconds: int | None = None
        self._marked_tokens = 0
        self._is_ended = False
        self.replica_id = ""

    def open(self, replica_id: str, estimate: Usage) -> None:
        """Raises `Unavailable` where the spool cannot take it: then nothing may be served."""
        self.replica_id = replica_id
        claim = self._claim
        if claim is not None and not claim.has_room_for(estimate.input_tokens, estimate.output_tokens):
            estimate = claim.within(estimate)
        origin = self._origin
        origin.recorder.open(self._row("gateway_lost", estimate), self._shared)
        origin.metrics.in_flight += 1

    def first_token(self) -> None:
        """Something of the answer goes out now."""
        if self._first_token_milliseconds is None:
            self._first_token_milliseconds = self._milliseconds()

    def resumed(self, reason: str) -> None:
        """Its replica was lost in the middle of the answer, which goes on elsewhere."""
        self._origin.metrics.resumes[reason] += 1

    def mark(self, output_tokens: int) -> None:
        """Writes progress where there is any."""
        if self._claim is not None:
            output_tokens = min(output_tokens, self._claim.output_tokens)
        if output_tokens > self._marked_tokens and not self._is_ended:
            self._marked_tokens = output_tokens
            self._origin.recorder.mark(
                MarkRecord(self.id, output_tokens, self._milliseconds(), self._first_token_milliseconds)
            )

    def release(self, used_tokens: int) -> None:
        """The request is over for its limits and its duration; its event may still be counted."""
        if self._lasted_milliseconds is None:
            self._lasted_milliseconds = self._milliseconds()
            self._origin.metrics.in_flight -= 1
            self._grant.settle(used_tokens)

    def end(self, outcome: Outcome, usage: Usage) -> None:
        """Writes the final event, once."""
        if self._is_ended:
            return
        self._is_ended = True
        counts: UsageCounts = astuple(usage)  # all at once: compiled, each look at a field takes long
        input_tokens, output_tokens, cached, _, _, written, characters, sound, images, _, _ = counts
        self.release(input_tokens + output_tokens)
        claim, served = self._claim, self._served
        # What jobs hold is metered elsewhere (job_meter.py).
        is_plain = not (cached or written or characters or sound or images)
        if is_plain and (claim is None or claim.has_room_for(input_tokens, output_tokens)):
            charge = 0 if claim is None else claim.charge_of_tokens(input_tokens, output_tokens)
            served.count_tokens(self._endpoint, outcome, input_tokens, output_tokens, self._first_token_milliseconds)
        else:
            usage = usage if claim is None else claim.within(usage)
            charge = 0 if claim is None else claim.charge(usage)
            served.count(self._endpoint, outcome, usage, self._first_token_milliseconds)
        is_written = self._origin.recorder.end(self._row(outcome, usage), self._shared)
        # Until it is, the request would be charged at its last mark were this worker to die, and that may be more.
        if claim is not None and is_written:
            claim.settle(charge)

    def abandon(self) -> None:
        """Another account of the same request is open, and takes this one's place in the spool."""
        self._is_ended = True
        if self._claim is not None:
            self._claim.settle(0)

    @property
    def is_ended(self) -> bool:
        return self._is_ended

    def _milliseconds(self) -> int:
        lasted = self._lasted_milliseconds
        return lasted if lasted is not None else int((self._origin.monotonic() - self._started_at_seconds) * 1000 + 0.5)

    def _row(self, outcome: Outcome, usage: Usage) -> Row:
        """What its event has of its own."""
        return [
            self.id,
            self._started_at_microseconds,
            self._lasted_milliseconds or 0,  # known of one that is over
            self._first_token_milliseconds,
            self.replica_id,
            outcome,
            usage,
            self._units,
            None,
        ]
