"""The usage event: what was served, to whom, and how it ended. Money is made of these."""

from typing import Literal

import msgspec

Outcome = Literal["completed", "cancelled", "timed_out", "engine_error", "gateway_lost"]
"""How a request ended: answered whole; the client went away; its time was over; the engine failed mid-answer; its
gateway died.
"""


class Usage(msgspec.Struct, frozen=True):
    """Token counts of one request.

    `cached_input_tokens` is a part of `input_tokens`, `reasoning_tokens` a part of `output_tokens`.
    `is_estimate`: counted from what was relayed because the engine's own count was lost.
    """

    input_tokens: int
    output_tokens: int
    cached_input_tokens: int = 0
    reasoning_tokens: int = 0
    is_estimate: bool = False


class Hold(msgspec.Struct, frozen=True, array_like=True):
    """The most a request may draw from a grant of a budget or balance (`scope`), in units of 10⁻¹⁸ of the currency."""

    scope: str
    grant_id: str
    units: int


class UsageEvent(msgspec.Struct, frozen=True):
    """One served request. `id` is the request's id (`req_…`): the same event twice is one event.

    Times are Unix microseconds, durations milliseconds. `first_token_milliseconds` is None where nothing was sent.
    `grants`: what was held of hard budgets for it. `rate_card_id`: the prices it was admitted at; empty: those in force
    when it began.
    """

    id: str
    started_at_microseconds: int
    duration_milliseconds: int
    first_token_milliseconds: int | None
    region: str
    gateway: str
    organization_id: str
    project_id: str
    key_id: str
    model: str
    deployment_id: str
    replica_id: str
    endpoint: str
    outcome: Outcome
    usage: Usage
    is_stream: bool = False
    grants: tuple[Hold, ...] = ()
    rate_card_id: str = ""
