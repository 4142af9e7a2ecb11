"""What recording usage costs a gateway worker: processor time of its thread, in a loop with warm caches.

    python -m bench.spool [--records N] [--folder FOLDER]

FOLDER is on the disk to be measured (the system's folder for temporary files where it is left out). Prints the best of
seven turns; what syncing costs in the background, and waiting, are not in it.
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from cloudcrest.kernel.usage import Usage, UsageEvent
from cloudcrest.metering.api import MarkRecord
from cloudcrest.metering.rows import row_of, shared_of
from cloudcrest.metering.spool import Shared, SpoolWriter

TURNS = 7
NUMBER = "0" * 26


def usage_event() -> UsageEvent:
    """An event with ids of their usual lengths."""
    return UsageEvent(
        id=f"req_{NUMBER}",
        started_at_microseconds=1_767_225_600_000_000,
        duration_milliseconds=1200,
        first_token_milliseconds=80,
        region="local",
        gateway="gateway-0",
        organization_id=f"org_{NUMBER}",
        project_id=f"proj_{NUMBER}",
        key_id=f"key_{NUMBER}",
        model="smollm2-135m-instruct",
        deployment_id=f"dep_{NUMBER}",
        replica_id=f"rep_{NUMBER}",
        endpoint="/v1/chat/completions",
        outcome="completed",
        usage=Usage(37, 20, 7),
        is_stream=True,
    )


def microseconds(call: Callable[[], None], records: int) -> float:
    """Processor time of one call."""
    best = float("inf")
    for _ in range(TURNS):
        began = time.thread_time()
        for _ in range(records):
            call()
        best = min(best, (time.thread_time() - began) / records)
    return best * 1e6


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(prog="python -m bench.spool", description=__doc__.partition("\n")[0])
    parser.add_argument("--records", type=int, default=20_000, help="records of each turn")
    parser.add_argument("--folder", type=Path, help="where to write")
    arguments = parser.parse_args()
    event = usage_event()
    mark = MarkRecord(event.id, 5, 1000, 80)
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        writer = SpoolWriter(Path(folder), "bench")

        shared = Shared(shared_of(event))

        def request() -> None:
            writer.open(row_of(event), shared)
            writer.end(row_of(event), shared)

        print(f"open and end  {microseconds(request, arguments.records):.2f} µs")
        print(f"mark          {microseconds(lambda: writer.mark(mark), arguments.records):.2f} µs")
        writer.close()


if __name__ == "__main__":
    main()
