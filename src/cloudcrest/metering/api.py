"""The public face of metering: usage batches, and what a spool holds.

A spool is a folder of one gateway worker's segment files, append-only. It survives kill -9 of anything because a record
is written to the file (the kernel's copy) before the bytes it accounts for go out, and it is fsynced in groups.

    <spool>/<worker>-<ulid>/<sequence>.log      one record a line: crc32 of the JSON (8 hex digits), a space, the JSON
    {"open": OpenRecord}  {"mark": MarkRecord}  {"end": UsageEvent}

A worker holds an exclusive flock on `<spool>/<worker>-<ulid>/lock` while it lives. Who can take that lock knows the
worker is dead, and settles its open records at their last mark.
"""

import msgspec

from cloudcrest.kernel.usage import UsageEvent

FOREIGN_REGION_CODE = "foreign_region"
"""The error code of a batch that holds another region's event."""

MAX_BATCH_EVENTS = 1_000


class OpenRecord(msgspec.Struct, frozen=True):
    """Written when a request is admitted. `event` is what it would be charged were the gateway to die now."""

    event: UsageEvent


class MarkRecord(msgspec.Struct, frozen=True):
    """Progress of an open stream, at least each second: content chunks relayed so far (about one token each)."""

    id: str
    output_tokens: int
    duration_milliseconds: int
    first_token_milliseconds: int | None = None


class SpoolRecord(msgspec.Struct, frozen=True, omit_defaults=True):
    """One line of a segment: exactly one field is set."""

    open: OpenRecord | None = None
    mark: MarkRecord | None = None
    end: UsageEvent | None = None


class UsageBatch(msgspec.Struct, frozen=True):
    """`POST /internal/v1/usage`: events in any order, any number of times; each id counts once."""

    events: tuple[UsageEvent, ...]


class IngestReceipt(msgspec.Struct, frozen=True):
    accepted: int
    duplicates: int
