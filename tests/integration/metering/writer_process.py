"""A gateway worker's spool in a process of its own: says on stdout what was returned from, until it is killed."""

import sys
from pathlib import Path

from cloudcrest.metering.api import MarkRecord
from cloudcrest.metering.spool import SpoolWriter
from tests.unit.metering.events import end_event, open_event, usage_event


def main(folder: Path, first: int) -> None:
    writer = SpoolWriter(folder, "gateway-0", segment_bytes=64 * 1024, floor_bytes=0)
    number = first
    while True:
        event = usage_event(number)
        open_event(writer, event)
        print("open", event.id, flush=True)  # noqa: T201 - read by the test
        writer.mark(MarkRecord(event.id, 3, 900))
        if number % 3:
            end_event(writer, event)
            print("end", event.id, flush=True)  # noqa: T201 - read by the test
        number += 1


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
