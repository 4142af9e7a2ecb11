"""The account of one admitted request: opened in the spool, marked while it streams, ended once."""

from collections.abc import Callable
from typing import Final

from cloudcrest.gateway.admit import Grant
from cloudcrest.gateway.metrics import Metrics, Served
from cloudcrest.gateway.purse import Claim
from cloudcrest.gateway.record import Recorder
from cloudcrest.identity.api import KeyDocument
from cloudcrest.kernel.clock import Clock
from cloudcrest.kernel.usage import Outcome, Tier, Usage
from cloudcrest.metering.api import MarkRecord
from cloudcrest.metering.rows import Row, joined
from cloudcrest.serving.api import RouteDocument

MAX_KNOWN: Final = 50_000


class _Key:
    """What all records of a key have in common, until the feed says something else of it."""

    __slots__ = ("document", "values")

    def __init__(self, document: KeyDocument, region: str, gateway: str) -> None:
        self.document = document
        self.values = joined(region, gateway, document.organization_id, document.project_id, document.id)


class _Model:
    """What all records of a deployment have in common, until the feed says something else of it; its counters."""

    __slots__ = ("document", "served", "values")

    def __init__(self, document: RouteDocument, served: Served) -> None:
        self.document = document
        self.values = joined(document.model_name, document.deployment_id)
        self.served = served


class Origin:
    """What every event of a worker carries and uses."""

    def __init__(self, region: str, gateway: str, recorder: Recorder, metrics: Metrics, clock: Clock) -> None:
        self.region = region
        self.gateway = gateway
        self.recorder = recorder
        self.metrics = metrics
        self.monotonic: Callable[[], float] = clock.monotonic
        self._unix_seconds: Callable[[], float] = clock.unix_seconds
        self._keys: dict[str, _Key] = {}
        self._models: dict[str, _Model] = {}

    def microseconds(self) -> int:
        """The wall time, Unix."""
        return int(self._unix_seconds() * 1_000_000 + 0.5)

    def key(self, document: KeyDocument) -> _Key:
        """What the records of a key say of it."""
        key = self._keys.get(document.id)
        if key is None or key.document is not document:
            if len(self._keys) >= MAX_KNOWN:
                self._keys.clear()
            key = self._keys[document.id] = _Key(document, self.region, self.gateway)
        return key

    def model(self, document: RouteDocument) -> _Model:
        """What the records of a deployment say of it."""
        model = self._models.get(document.deployment_id)
        if model is None or model.document is not document:
            if len(self._models) >= MAX_KNOWN:
                self._models.clear()
            model = self._models[document.deployment_id] = _Model(document, self.metrics.of(document.model_name))
        return model


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
        self._key = origin.key(key)
        self._model = origin.model(route)
        self._grant = grant
        self._is_stream = is_stream
        self._tier = tier
        self._started_at_seconds = origin.monotonic()
        self._started_at_microseconds = started_at
        self._claim = claim
        self._holds = () if claim is None else claim.holds_row()
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
        origin.recorder.open(self._row("gateway_lost", estimate))
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
        input_tokens, output_tokens = usage.input_tokens, usage.output_tokens
        self.release(input_tokens + output_tokens)
        claim, served = self._claim, self._model.served
        if _is_plain(usage) and (claim is None or claim.has_room_for(input_tokens, output_tokens)):
            charge = 0 if claim is None else claim.charge_of_tokens(input_tokens, output_tokens)
            served.count_tokens(self._endpoint, outcome, input_tokens, output_tokens, self._first_token_milliseconds)
        else:
            usage = usage if claim is None else claim.within(usage)
            charge = 0 if claim is None else claim.charge(usage)
            served.count(self._endpoint, outcome, usage, self._first_token_milliseconds)
        is_written = self._origin.recorder.end(self._row(outcome, usage))
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
        """Its event, field by field."""
        return (
            self.id,
            self._started_at_microseconds,
            self._milliseconds(),
            self._first_token_milliseconds,
            self._key.values,  # from `region` to `key_id`
            self._model.values,  # `model` and `deployment_id`
            self.replica_id,
            self._endpoint,
            outcome,
            usage,
            self._is_stream,
            self._holds,
            "" if self._claim is None else self._claim.rate_card_id,
            self._tier,
        )


def _is_plain(usage: Usage) -> bool:
    """Whether tokens were used alone, none of them from a cache. Compiled, each look at a field of a usage takes long,
    so it is looked at once for all who would ask. (What jobs hold is metered elsewhere: job_meter.py.)
    """
    return not (
        usage.cached_input_tokens
        or usage.cache_write_tokens
        or usage.characters
        or usage.audio_milliseconds
        or usage.images
    )
