"""A gateway worker's spool on a disk that is full: says on stdout what was admitted, ended and shipped."""

import asyncio
import errno
import json
import sys
from pathlib import Path

from cloudcrest.kernel.usage import Usage, UsageEvent
from cloudcrest.metering.api import IngestReceipt, MarkRecord, UsageBatch
from cloudcrest.metering.shipper import Shipper
from cloudcrest.metering.spool import SpoolUnavailable, SpoolWriter
from tests.support.waiting import until
from tests.unit.metering.events import end_event, open_event, usage_event

LONG = Usage(10**18, 10**18, 10**18, 10**18)


def fill(folder: Path) -> None:
    """Takes the last free block of the file system."""
    with (folder / "filler").open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise


def admit_until_refused(writer: SpoolWriter, first: int) -> list[int]:
    """The numbers of the requests that were let in."""
    admitted: list[int] = []
    while True:
        try:
            open_event(writer, usage_event(first + len(admitted)))
        except SpoolUnavailable:
            return admitted
        admitted.append(first + len(admitted))


def main(folder: Path) -> None:
    spool = folder / "spool"
    writer = SpoolWriter(spool, "gateway-0", segment_bytes=64 * 1024, floor_bytes=0)
    fill(folder)
    admitted: list[int] = []
    for _ in range(3):
        admitted_now = admit_until_refused(writer, len(admitted))
        for number in range(1000):
            writer.mark(MarkRecord(usage_event(admitted_now[0] if admitted_now else 0).id, number, 900))
        for number in admitted_now:
            end_event(writer, usage_event(number, usage=LONG))
        admitted += admitted_now
    was_full = bool(writer.marks_dropped)
    (folder / "filler").unlink()
    later = len(admitted)
    until(lambda: is_admitted(writer, later), "there is room again")
    writer.close()
    arrived: dict[str, UsageEvent] = {}

    async def send(batch: UsageBatch) -> IngestReceipt:
        arrived.update({event.id: event for event in batch.events})
        return IngestReceipt(len(batch.events), 0)

    async def ship() -> None:
        while await Shipper(spool, send).ship_once():
            pass

    asyncio.run(ship())
    completed = sorted(event.id for event in arrived.values() if event.outcome == "completed" and event.usage == LONG)
    said = {
        "admitted": [usage_event(number).id for number in admitted],
        "completed": completed,
        "later": usage_event(later).id,
        "lost": [event.id for event in arrived.values() if event.outcome == "gateway_lost"],
        "was_full": was_full,
    }
    print(json.dumps(said))  # noqa: T201 - read by the test


def is_admitted(writer: SpoolWriter, number: int) -> bool:
    try:
        open_event(writer, usage_event(number))
    except SpoolUnavailable:
        return False
    return True


if __name__ == "__main__":
    main(Path(sys.argv[1]))
