"""An event as its records hold it: values in their order, without the names of their fields.

Most of an event is the same in thousands of records: whose it is, of what model, at which prices, held of which grants.
A record has the rest, its row, and beside that what is shared: all of it, or the place of a record that has the same.
"""

from collections.abc import Callable
from typing import Any, Final

import msgspec
from msgspec.structs import astuple

from cloudcrest.kernel.usage import Hold, Outcome, Tier, Usage, UsageEvent

Row = list[Any]
"""A request's own values: id, started at, duration, time of the first token, replica, outcome, usage, the units held.
The last place is the spool's: for what is shared.
"""
SHARED: Final = 8

_encoder = msgspec.json.Encoder()
encode = _encoder.encode
"""The JSON of a row."""
encode_into = _encoder.encode_into
"""The same into a `bytearray`, which is then as long as it: a third cheaper."""


class SharedRow(msgspec.Struct, frozen=True, array_like=True):
    """What records have in common. `sources`: the scopes and grants of what is held.

    A field that is added goes last, with a default for the rows that were written before it.
    """

    region: str
    gateway: str
    organization_id: str
    project_id: str
    key_id: str
    model: str
    deployment_id: str
    endpoint: str
    is_stream: bool = False
    rate_card_id: str = ""
    tier: Tier = "standard"
    sources: tuple[tuple[str, str], ...] = ()


class _Record(msgspec.Struct, frozen=True, array_like=True):
    """A row and what is shared, or the place where that stands."""

    id: str
    started_at_microseconds: int
    duration_milliseconds: int
    first_token_milliseconds: int | None
    replica_id: str
    outcome: Outcome
    usage: Usage
    units: tuple[int, ...]
    shared: SharedRow | int


class _EventRow(UsageEvent, frozen=True, array_like=True):
    """All of an event in the order of its fields, as the version before wrote it."""


_decode = msgspec.json.Decoder(_Record).decode
_decode_event = msgspec.json.Decoder(_EventRow).decode


def row_of(event: UsageEvent) -> Row:
    """An event's own values."""
    return [
        event.id,
        event.started_at_microseconds,
        event.duration_milliseconds,
        event.first_token_milliseconds,
        event.replica_id,
        event.outcome,
        event.usage,
        [hold.units for hold in event.grants],
        None,
    ]


def shared_of(event: UsageEvent) -> SharedRow:
    """What it has in common with others."""
    return SharedRow(
        event.region,
        event.gateway,
        event.organization_id,
        event.project_id,
        event.key_id,
        event.model,
        event.deployment_id,
        event.endpoint,
        event.is_stream,
        event.rate_card_id,
        event.tier,
        tuple([(hold.scope, hold.grant_id) for hold in event.grants]),
    )


def event_of(record: bytes, shared_at: Callable[[int], SharedRow | None]) -> UsageEvent | None:
    """The event of an encoded record; None where what it shares is not where it says. Raises `ValueError`."""
    row = _decode(record)
    shared = shared_at(row.shared) if isinstance(row.shared, int) else row.shared
    if shared is None or len(shared.sources) != len(row.units):
        return None
    return UsageEvent(
        row.id,
        row.started_at_microseconds,
        row.duration_milliseconds,
        row.first_token_milliseconds,
        shared.region,
        shared.gateway,
        shared.organization_id,
        shared.project_id,
        shared.key_id,
        shared.model,
        shared.deployment_id,
        row.replica_id,
        shared.endpoint,
        row.outcome,
        row.usage,
        shared.is_stream,
        tuple([Hold(scope, grant, units) for (scope, grant), units in zip(shared.sources, row.units, strict=True)]),
        shared.rate_card_id,
        shared.tier,
    )


def shared_in(record: bytes) -> SharedRow | None:
    """What an encoded record says itself of what it shares. Raises `ValueError`."""
    shared = _decode(record).shared
    return None if isinstance(shared, int) else shared


def event_of_older(record: bytes) -> UsageEvent:
    """The event of a record of the version before. Raises `ValueError`."""
    return UsageEvent(*astuple(_decode_event(record)))
