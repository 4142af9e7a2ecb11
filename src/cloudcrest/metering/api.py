"""The public face of metering: usage batches, and what a spool holds.

A spool is a folder of one gateway worker's segment files, each written from its start to its end. It survives kill -9
of anything because a record is in the file (the kernel's copy) before the bytes it accounts for go out, and it is
synced in groups.

    <spool>/<worker>-<ulid>/<sequence>.seg      OpenRecord, MarkRecord and EndRecord as frames (segments.py)
    <spool>/<worker>-<ulid>/spare               the next segment, allocated ahead

A worker holds an exclusive flock on `<spool>/<worker>-<ulid>/lock` while it lives. Who can take that lock knows the
worker is dead, and settles its open records at their last mark.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Literal, Protocol

import msgspec

from cloudcrest.kernel.usage import UsageEvent

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncSession

GroupBy = Literal["model", "day", "project", "key", "day_model"]
"""What usage is summed by; `day_model`: by day, and each day by model."""

FOREIGN_REGION_CODE = "foreign_region"
"""The error code of a batch that holds another region's event."""

MAX_BATCH_EVENTS = 1_000


class OpenRecord(msgspec.Struct, frozen=True):
    """Written when a request is admitted. `event` is what it would be charged were the gateway to die now.

    A second one of the same id takes the first's place: another model answers in its stead.
    """

    event: UsageEvent


class MarkRecord(msgspec.Struct, frozen=True):
    """Progress of an open stream, at least each second: content chunks relayed so far (about one token each)."""

    id: str
    output_tokens: int
    duration_milliseconds: int
    first_token_milliseconds: int | None = None


class EndRecord(msgspec.Struct, frozen=True):
    """Written when a request has ended: what is charged."""

    event: UsageEvent


SpoolRecord = OpenRecord | MarkRecord | EndRecord


class UsageBatch(msgspec.Struct, frozen=True):
    """`POST /internal/v1/usage`: events in any order, any number of times; each id counts once."""

    events: tuple[UsageEvent, ...]


class IngestReceipt(msgspec.Struct, frozen=True):
    accepted: int
    duplicates: int


class UsageFilter(msgspec.Struct, frozen=True):
    """Which events to read. None: no restriction.

    `organization_ids` and `project_ids` say what the reader may see: whole organizations, or single projects. An
    event in either is seen; both None sees everything. The rest narrows that. `since` is included, `until` is not.
    """

    organization_ids: frozenset[str] | None = None
    project_ids: frozenset[str] | None = None
    organization_id: str | None = None
    project_id: str | None = None
    key_id: str | None = None
    model: str | None = None
    since: datetime | None = None
    until: datetime | None = None


class UsageGroup(msgspec.Struct, frozen=True):
    """Sums over the events that share `key`: a model, a day (`2026-11-23`, UTC), a project's id or a key's id.

    By `day_model` it is a day, a space and a model.
    """

    key: str
    requests: int
    input_tokens: int
    cached_input_tokens: int
    output_tokens: int
    cache_write_tokens: int = 0
    characters: int = 0
    audio_milliseconds: int = 0
    images: int = 0
    accelerator_milliseconds: int = 0
    cpu_milliseconds: int = 0


class UsageEvents(Protocol):
    """The stored usage events, append-only; metering/repository.py implements it."""

    async def store(
        self, session: "AsyncSession", events: Sequence[UsageEvent], received_at: datetime
    ) -> list[UsageEvent]:
        """Stores events in the session's transaction; returns those that were not there before, sorted by id."""
        ...

    async def read(
        self, session: "AsyncSession", wanted: UsageFilter, *, before_id: str | None, limit: int
    ) -> list[UsageEvent]:
        """At most `limit` events, newest first, with ids below `before_id`."""
        ...

    async def read_forward(
        self, session: "AsyncSession", *, after_id: str, limit: int, organization_id: str | None
    ) -> list[UsageEvent]:
        """At most `limit` events with ids above `after_id`, in order; for going through all of them."""
        ...

    async def by_ids(self, session: "AsyncSession", ids: Sequence[str]) -> list[UsageEvent]:
        """The events with these ids, sorted by id."""
        ...

    async def summary(
        self, session: "AsyncSession", wanted: UsageFilter, *, group_by: GroupBy, limit: int
    ) -> list[UsageGroup]:
        """Sums by group, sorted by key, at most `limit` groups."""
        ...
