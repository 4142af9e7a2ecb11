"""Usage events for tests."""

import zlib
from pathlib import Path
from typing import Any

from cloudcrest.kernel.usage import Hold, Usage, UsageEvent
from cloudcrest.metering.api import EndRecord, OpenRecord
from cloudcrest.metering.rows import SHARED, SharedRow, encode, row_of, shared_of
from cloudcrest.metering.segments import END, HEADER, MARKER, OPEN
from cloudcrest.metering.spool import Shared, SpoolWriter

_SHARED: dict[tuple[Path, SharedRow], Shared] = {}


def usage_event(
    number: int = 1,
    *,
    organization_id: str = "org_a",
    project_id: str = "proj_a",
    key_id: str = "key_a",
    model: str = "smollm2-135m-instruct",
    region: str = "local",
    usage: Usage | None = None,
    started_at_microseconds: int = 1_767_225_600_000_000,
    grants: tuple[Hold, ...] = (),
    rate_card_id: str = "",
) -> UsageEvent:
    """The event of request `number`, which began at the start of 2026."""
    return UsageEvent(
        id=f"req_{number:026d}",
        started_at_microseconds=started_at_microseconds + number,
        duration_milliseconds=1200,
        first_token_milliseconds=80,
        region=region,
        gateway="gateway-0",
        organization_id=organization_id,
        project_id=project_id,
        key_id=key_id,
        model=model,
        deployment_id="dep_a",
        replica_id="rep_a",
        endpoint="/v1/chat/completions",
        outcome="completed",
        usage=usage or Usage(input_tokens=37, output_tokens=20, cached_input_tokens=7),
        is_stream=True,
        grants=grants,
        rate_card_id=rate_card_id,
    )


def frame(kind: int, record: list[Any]) -> bytes:
    """A frame of whatever is written there."""
    body = encode(record)
    return HEADER.pack(MARKER, kind, len(body), zlib.crc32(body, kind)) + body


def borrowing_frame(record: OpenRecord | EndRecord, lender: int) -> bytes:
    """One that names the place of the record that has what it shares."""
    return frame(OPEN if isinstance(record, OpenRecord) else END, [*row_of(record.event)[:SHARED], lender])


def open_event(writer: SpoolWriter, event: UsageEvent) -> None:
    """Records the event as one that begins."""
    writer.open(row_of(event), _shared(writer, event))


def end_event(writer: SpoolWriter, event: UsageEvent) -> None:
    """Records it as one that is over."""
    writer.end(row_of(event), _shared(writer, event))


def _shared(writer: SpoolWriter, event: UsageEvent) -> Shared:
    """One for all that have the same in common, as in a gateway."""
    row = shared_of(event)
    return _SHARED.setdefault((writer.folder, row), Shared(row))
