"""kill -9 of a real writer, again and again: every record whose write returned arrives, each event once."""

import random
import subprocess
import sys
from pathlib import Path

import pytest

from cloudcrest.kernel.usage import UsageEvent
from cloudcrest.metering.api import IngestReceipt, UsageBatch
from cloudcrest.metering.shipper import Shipper
from cloudcrest.metering.spool import SpoolWriter
from tests.integration.metering import writer_process

pytestmark = pytest.mark.anyio
ROUNDS = 8


def run_and_kill(folder: Path, first: int, lines: int) -> tuple[set[str], set[str]]:
    """Lets a writer write until it has said `lines` things, kills it; what it said was opened, and ended."""
    process = subprocess.Popen(
        [sys.executable, "-m", writer_process.__name__, str(folder), str(first)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    said = [process.stdout.readline() for _ in range(lines)]
    process.kill()
    rest, _ = process.communicate()
    words = [line.split() for line in (*said, *rest.splitlines(keepends=True)) if line.endswith("\n")]
    return ({word[1] for word in words if word[0] == "open"}, {word[1] for word in words if word[0] == "end"})


async def test_nothing_a_killed_writer_returned_from_is_lost(tmp_path: Path) -> None:
    arrived: dict[str, UsageEvent] = {}

    async def send(batch: UsageBatch) -> IngestReceipt:
        arrived.update({event.id: event for event in batch.events if event.id not in arrived})
        return IngestReceipt(len(batch.events), 0)

    rng = random.Random(1)
    opened: set[str] = set()
    ended: set[str] = set()
    alive = SpoolWriter(tmp_path, "gateway-1", floor_bytes=0)
    for round_number in range(ROUNDS):
        said = run_and_kill(tmp_path, round_number * 1_000_000, rng.randrange(1, 2000))
        opened |= said[0]
        ended |= said[1]
        if round_number % 2:
            await Shipper(tmp_path, send).ship_once()
    shipper = Shipper(tmp_path, send)
    while await shipper.ship_once():
        pass
    assert opened <= set(arrived)
    assert ended <= {event_id for event_id, event in arrived.items() if event.outcome == "completed"}
    assert all(event.usage.is_estimate for event in arrived.values() if event.outcome == "gateway_lost")
    assert shipper.corrupt_pieces == 0
    assert [path.name for path in tmp_path.iterdir()] == [alive.folder.name]  # noqa: ASYNC240 - a test
    alive.close()
