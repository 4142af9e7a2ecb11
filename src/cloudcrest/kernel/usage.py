"""The usage event: what was served, to whom, and how it ended. Money is made of these."""

from typing import Literal

import msgspec

Outcome = Literal["completed", "cancelled", "timed_out", "engine_error", "gateway_lost"]
"""How a request ended: answered whole; the client went away; its time was over; the engine failed mid-answer; its
gateway died.
"""


Tier = Literal["standard", "batch"]
"""How a request was asked: at once, or in a batch, which may wait for idle capacity and has prices of its own."""


class Usage(msgspec.Struct, frozen=True, omit_defaults=True):
    """What one request used: tokens, and what is not counted in tokens.

    `cached_input_tokens` (read from a cache of prompts) and `cache_write_tokens` (written into one, where that is
    asked for and priced) are parts of `input_tokens`, `reasoning_tokens` a part of `output_tokens`. `characters` were
    spoken, `audio_milliseconds` listened to, `images` made. `accelerator_milliseconds` and `cpu_milliseconds` were held
    by a job: a quarter of an accelerator for four seconds is a second. `is_estimate`: counted from what was relayed
    because the engine's own count was lost.
    """

    input_tokens: int
    output_tokens: int
    cached_input_tokens: int = 0
    reasoning_tokens: int = 0
    is_estimate: bool = False
    cache_write_tokens: int = 0
    characters: int = 0
    audio_milliseconds: int = 0
    images: int = 0
    accelerator_milliseconds: int = 0
    cpu_milliseconds: int = 0


UsageCounts = tuple[int, int, int, int, bool, int, int, int, int, int, int]
"""The fields of a `Usage`, in their order."""


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
    tier: Tier = "standard"
