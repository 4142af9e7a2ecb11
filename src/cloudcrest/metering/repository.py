"""Reading and writing stored usage events. SQL stands here and nowhere else in metering."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, cast

import msgspec
from sqlalchemy import ColumnElement, Date, Text, func, literal_column, select
from sqlalchemy import cast as sql_cast
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from cloudcrest.kernel.errors import InvalidInput, TooLarge
from cloudcrest.kernel.usage import Hold, Outcome, Tier, Usage, UsageEvent
from cloudcrest.metering.api import MAX_BATCH_EVENTS, GroupBy, UsageFilter, UsageGroup
from cloudcrest.metering.tables import UsageEventRow

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_MAX_COUNT = 10**12
_MAX_MICROSECONDS = 4_102_444_800_000_000  # the year 2100
_MAX_CHARACTERS = 256
_MAX_HOLDS = 256
_TEXTS = (
    "id",
    "region",
    "gateway",
    "organization_id",
    "project_id",
    "key_id",
    "model",
    "deployment_id",
    "replica_id",
    "endpoint",
    "rate_card_id",
)
_COUNTS = (
    *("input_tokens", "output_tokens", "cached_input_tokens", "reasoning_tokens", "cache_write_tokens"),
    *("characters", "audio_milliseconds", "images", "accelerator_milliseconds", "cpu_milliseconds"),
)


class UsageRepository:
    """The stored usage events in PostgreSQL; implements `metering.api.UsageEvents`."""

    async def store(
        self, session: AsyncSession, events: Sequence[UsageEvent], received_at: datetime
    ) -> list[UsageEvent]:
        """Raises `InvalidInput` naming the first event that cannot be stored, `TooLarge` over 1,000 events."""
        if len(events) > MAX_BATCH_EVENTS:
            raise TooLarge(f"a usage batch holds at most {MAX_BATCH_EVENTS} events")
        by_id: dict[str, UsageEvent] = {}
        for event in events:
            _check(event)
            by_id.setdefault(event.id, event)
        if not by_id:
            return []
        # In the order of their ids: batches that overlap then wait for each other and never in a circle.
        rows = [_to_row(by_id[event_id], received_at) for event_id in sorted(by_id)]
        statement = insert(UsageEventRow).on_conflict_do_nothing(index_elements=["id"]).returning(UsageEventRow.id)
        stored = (await session.execute(statement, rows)).scalars().all()
        return [by_id[event_id] for event_id in sorted(stored)]

    async def read(
        self, session: AsyncSession, wanted: UsageFilter, *, before_id: str | None, limit: int
    ) -> list[UsageEvent]:
        statement = select(UsageEventRow).where(*_conditions(wanted))
        if before_id is not None:
            statement = statement.where(UsageEventRow.id < before_id)
        rows = await session.scalars(statement.order_by(UsageEventRow.id.desc()).limit(limit))
        return [_to_event(row) for row in rows]

    async def read_forward(
        self, session: AsyncSession, *, after_id: str, limit: int, organization_id: str | None
    ) -> list[UsageEvent]:
        statement = select(UsageEventRow).where(UsageEventRow.id > after_id)
        if organization_id is not None:
            statement = statement.where(UsageEventRow.organization_id == organization_id)
        rows = await session.scalars(statement.order_by(UsageEventRow.id).limit(limit))
        return [_to_event(row) for row in rows]

    async def by_ids(self, session: AsyncSession, ids: Sequence[str]) -> list[UsageEvent]:
        rows = await session.scalars(select(UsageEventRow).where(UsageEventRow.id.in_(ids)).order_by(UsageEventRow.id))
        return [_to_event(row) for row in rows]

    async def summary(
        self, session: AsyncSession, wanted: UsageFilter, *, group_by: GroupBy, limit: int
    ) -> list[UsageGroup]:
        day = sql_cast(sql_cast(func.timezone("UTC", UsageEventRow.started_at), Date), Text)
        key: ColumnElement[str] = {
            "model": UsageEventRow.model.expression,
            "project": UsageEventRow.project_id.expression,
            "key": UsageEventRow.key_id.expression,
            "day": day,
            "day_model": day + " " + UsageEventRow.model.expression,
        }[group_by]
        statement = (
            select(
                key.label("group_key"),
                func.count(),
                func.sum(UsageEventRow.input_tokens),
                func.sum(UsageEventRow.cached_input_tokens),
                func.sum(UsageEventRow.output_tokens),
                func.sum(UsageEventRow.cache_write_tokens),
                func.sum(UsageEventRow.characters),
                func.sum(UsageEventRow.audio_milliseconds),
                func.sum(UsageEventRow.images),
                func.sum(UsageEventRow.accelerator_milliseconds),
                func.sum(UsageEventRow.cpu_milliseconds),
            )
            .where(*_conditions(wanted))
            .group_by(literal_column("group_key"))
            .order_by(literal_column("group_key"))
            .limit(limit)
        )
        rows = await session.execute(statement)
        return [UsageGroup(row[0], *map(int, row[1:])) for row in rows]


def started_at(event: UsageEvent) -> datetime:
    """When the request came in, exact to the microsecond."""
    return _EPOCH + event.started_at_microseconds * _MICROSECOND


def _conditions(wanted: UsageFilter) -> list[ColumnElement[bool]]:
    row = UsageEventRow
    conditions: list[ColumnElement[bool]] = []
    if wanted.organization_ids is not None or wanted.project_ids is not None:
        conditions.append(
            row.organization_id.in_(wanted.organization_ids or ()) | row.project_id.in_(wanted.project_ids or ())
        )
    for column, value in (
        (row.organization_id, wanted.organization_id),
        (row.project_id, wanted.project_id),
        (row.key_id, wanted.key_id),
        (row.model, wanted.model),
    ):
        if value is not None:
            conditions.append(column == value)
    if wanted.since is not None:
        conditions.append(row.started_at >= wanted.since)
    if wanted.until is not None:
        conditions.append(row.started_at < wanted.until)
    return conditions


def _check(event: UsageEvent) -> None:
    """Raises `InvalidInput` where an event cannot be stored as it is."""
    for name in _TEXTS:
        value = getattr(event, name)
        if len(value) > _MAX_CHARACTERS or "\0" in value or (name == "id" and not value):
            raise InvalidInput(f"usage event '{event.id[:64]}': {name} is empty, too long or not text", param=name)
    if len(event.grants) > _MAX_HOLDS or any(not 0 <= hold.units < 10**38 for hold in event.grants):
        raise InvalidInput(f"usage event '{event.id}': its grants are out of range", param="grants")
    numbers = {name: getattr(event.usage, name) for name in _COUNTS}
    numbers["duration_milliseconds"] = event.duration_milliseconds
    numbers["first_token_milliseconds"] = event.first_token_milliseconds or 0
    for name, number in numbers.items():
        if not 0 <= number <= _MAX_COUNT:
            raise InvalidInput(f"usage event '{event.id}': {name} {number} is out of range", param=name)
    if not 0 <= event.started_at_microseconds < _MAX_MICROSECONDS:
        raise InvalidInput(f"usage event '{event.id}': its time is out of range", param="started_at_microseconds")


def _to_row(event: UsageEvent, received_at: datetime) -> dict[str, Any]:
    values: dict[str, Any] = {name: getattr(event, name) for name in _TEXTS}
    values |= {name: getattr(event.usage, name) for name in _COUNTS}
    return values | {
        "started_at": started_at(event),
        "received_at": received_at,
        "duration_milliseconds": event.duration_milliseconds,
        "first_token_milliseconds": event.first_token_milliseconds,
        "outcome": event.outcome,
        "is_estimate": event.usage.is_estimate,
        "is_stream": event.is_stream,
        "grants": msgspec.to_builtins(event.grants) or None,
        "rate_card_id": event.rate_card_id or None,
        "tier": event.tier,
    }


def _to_event(row: UsageEventRow) -> UsageEvent:
    return UsageEvent(
        **{name: getattr(row, name) for name in _TEXTS if name != "rate_card_id"},
        started_at_microseconds=(row.started_at - _EPOCH) // _MICROSECOND,
        duration_milliseconds=row.duration_milliseconds,
        first_token_milliseconds=row.first_token_milliseconds,
        outcome=cast("Outcome", row.outcome),
        usage=Usage(**{name: getattr(row, name) for name in _COUNTS}, is_estimate=row.is_estimate),
        is_stream=row.is_stream,
        grants=msgspec.convert(row.grants or (), tuple[Hold, ...]),
        rate_card_id=row.rate_card_id or "",
        tier=cast("Tier", row.tier),
    )
