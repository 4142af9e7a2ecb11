"""Reading a worker's folder while it writes, or after a kill at any byte: nothing is lost, nothing comes twice."""

import shutil
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cloudcrest.kernel.usage import UsageEvent
from cloudcrest.metering.api import EndRecord, MarkRecord, OpenRecord, SpoolRecord
from cloudcrest.metering.drain import WorkerDrain
from cloudcrest.metering.segments import HEADER_BYTES, SPARE_NAME, encode_frame, segment_name
from cloudcrest.metering.spool import SpoolWriter
from tests.unit.metering.events import borrowing_frame, end_event, open_event, usage_event

SIZE = 4096
RECORDS: list[SpoolRecord] = [
    OpenRecord(usage_event(1)),
    OpenRecord(usage_event(2)),
    MarkRecord(usage_event(2).id, 31, 900),
    EndRecord(usage_event(1)),
    OpenRecord(usage_event(3)),
    EndRecord(usage_event(3)),
    EndRecord(usage_event(2)),
]
FRAMES = [encode_frame(record) for record in RECORDS]
WHOLE = b"".join(FRAMES)
SHARING = FRAMES[:1] + [
    encode_frame(record) if isinstance(record, MarkRecord) else borrowing_frame(record, 0) for record in RECORDS[1:]
]
"""The same, where all name the place of the first one for what they share, as they do when they are written."""
ENDS = [record.event for record in RECORDS if isinstance(record, EndRecord)]

no_fixture_check = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


class Worker:
    """A worker's folder, whose segment holds what a test puts there."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "gateway-0-1"
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir()
        (self.folder / "lock").touch()
        self.drain = WorkerDrain(self.folder)

    def holds(self, data: bytes, sequence: int = 1) -> None:
        (self.folder / segment_name(sequence)).write_bytes(data.ljust(SIZE, b"\0"))

    def read(self, batch_events: int = 2) -> list[UsageEvent]:
        """What is new and can be read, acknowledged."""
        events: list[UsageEvent] = []
        while True:
            batch = self.drain.next_batch(batch_events)
            self.drain.acknowledge(batch)
            if not batch.events:
                return events
            events += batch.events

    def settle(self) -> list[UsageEvent]:
        assert self.drain.worker_is_dead()
        return self.read() + list(self.drain.settle(100))


@pytest.fixture
def worker(tmp_path: Path) -> Worker:
    return Worker(tmp_path)


@no_fixture_check
@given(
    lengths=st.lists(st.integers(0, len(WHOLE)), max_size=8),
    headers_last=st.booleans(),
    frames=st.sampled_from((FRAMES, SHARING)),
)
def test_what_is_read_while_it_is_written_comes_once(
    tmp_path: Path, lengths: list[int], headers_last: bool, frames: list[bytes]
) -> None:
    worker, events = Worker(tmp_path), []
    for length in [*sorted(lengths), len(WHOLE)]:
        worker.holds(written(length, frames, headers_last=headers_last))
        events += worker.read()
    assert events == ENDS
    assert worker.drain.corrupt_pieces == 0


@no_fixture_check
@given(
    length=st.integers(0, len(WHOLE)),
    headers_last=st.booleans(),
    was_read=st.booleans(),
    frames=st.sampled_from((FRAMES, SHARING)),
)
def test_a_kill_at_any_byte_costs_what_was_not_written_yet(
    tmp_path: Path, length: int, headers_last: bool, was_read: bool, frames: list[bytes]
) -> None:
    worker, events = Worker(tmp_path), []
    worker.holds(written(length, frames, headers_last=headers_last))
    if was_read:
        events += worker.read()
    events += worker.settle()
    whole = [record for index, record in enumerate(RECORDS) if sum(map(len, frames[: index + 1])) <= length]
    ended = [record.event for record in whole if isinstance(record, EndRecord)]
    opened = [record.event.id for record in whole if isinstance(record, OpenRecord)]
    assert sorted(event.id for event in events) == sorted(opened)
    assert [event for event in events if event.outcome == "completed"] == ended
    marked = [event for event in events if event.id == usage_event(2).id and event.outcome == "gateway_lost"]
    if any(isinstance(record, MarkRecord) for record in whole):
        assert all(event.usage.output_tokens == 31 for event in marked)
    if headers_last:
        assert worker.drain.corrupt_pieces == 0


def written(length: int, frames: list[bytes], *, headers_last: bool) -> bytes:
    """The first bytes of the segment; the header of a record that is not whole may not be there yet."""
    data = bytearray(b"".join(frames)[:length])
    start = 0
    for frame in frames:
        if start + len(frame) > length:
            if headers_last:
                data[start : start + HEADER_BYTES] = bytes(len(data[start : start + HEADER_BYTES]))
            break
        start += len(frame)
    return bytes(data)


def test_damage_before_records_that_hold_is_passed_over_at_the_second_look(worker: Worker) -> None:
    worker.holds(b"\xff" * len(FRAMES[0]) + WHOLE[len(FRAMES[0]) :])
    assert worker.read() == []
    assert worker.drain.corrupt_pieces == 0
    assert worker.read() == ENDS
    assert worker.drain.corrupt_pieces == 1


def test_a_record_that_was_only_late_is_not_damaged(worker: Worker) -> None:
    worker.holds(b"\xff" * len(FRAMES[0]) + WHOLE[len(FRAMES[0]) :])
    assert worker.read() == []
    worker.holds(WHOLE)
    assert worker.read() == ENDS
    assert worker.drain.corrupt_pieces == 0


def test_what_others_share_may_be_late_too(worker: Worker) -> None:
    whole, first = b"".join(SHARING), len(SHARING[0])
    worker.holds(bytes(first) + whole[first:])
    assert worker.read() == []
    worker.holds(b"\xff" * first + whole[first:])
    assert worker.read() == []
    worker.holds(whole)
    assert worker.read() == ENDS
    assert worker.drain.corrupt_pieces == 0


def test_keys_that_take_turns_do_not_open_the_file_for_each_event(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    events = [usage_event(number, key_id=f"key_{number % 1_000}") for number in range(3_000)]
    writer = SpoolWriter(tmp_path, "gateway-0", floor_bytes=0)
    for event in events:
        open_event(writer, event)
        end_event(writer, event)
    looks = 0
    look = WorkerDrain._bytes_at

    def counted(drain: WorkerDrain, sequence: int, offset: int, size: int) -> bytes:
        nonlocal looks
        looks += 1
        return look(drain, sequence, offset, size)

    monkeypatch.setattr(WorkerDrain, "_bytes_at", counted)
    drain = WorkerDrain(writer.folder)
    read: list[UsageEvent] = []
    while batch := drain.next_batch(500).events:
        read += batch
        drain.acknowledge(drain.next_batch(500))
    writer.close()
    assert read == events
    assert looks < 50


def test_a_record_without_its_header_in_the_middle_costs_itself_alone(worker: Worker) -> None:
    data = bytearray(WHOLE)
    start = sum(map(len, FRAMES[:3]))
    data[start : start + HEADER_BYTES] = bytes(HEADER_BYTES)
    worker.holds(bytes(data))
    events = worker.settle()
    assert [event for event in events if event.outcome == "completed"] == ENDS[1:]
    assert [event.id for event in events if event.outcome == "gateway_lost"] == [usage_event(1).id]
    assert worker.drain.corrupt_pieces == 1


def test_the_next_segment_says_that_one_is_finished(worker: Worker) -> None:
    worker.holds(WHOLE[: len(FRAMES[0])])
    assert worker.read() == []
    worker.holds(WHOLE)
    worker.holds(encode_frame(EndRecord(usage_event(7))), sequence=2)
    assert worker.read() == [*ENDS, usage_event(7)]
    assert not (worker.folder / segment_name(1)).exists()


@pytest.mark.parametrize("length", [0, len(FRAMES[0]), len(WHOLE)])
def test_what_a_dead_worker_did_not_use_is_given_back_before_anything_arrives(worker: Worker, length: int) -> None:
    worker.holds(WHOLE[:length].ljust(3_000_000, b"\0"))
    (worker.folder / SPARE_NAME).write_bytes(bytes(SIZE))
    assert worker.drain.worker_is_dead()
    assert (worker.folder / segment_name(1)).stat().st_size == length
    assert not (worker.folder / SPARE_NAME).exists()
    assert worker.read() == (ENDS if length == len(WHOLE) else [])


def test_a_living_worker_keeps_what_it_allocated(tmp_path: Path) -> None:
    writer = SpoolWriter(tmp_path, "gateway-0", segment_bytes=SIZE, floor_bytes=0)
    assert not WorkerDrain(writer.folder).worker_is_dead()
    assert (writer.folder / segment_name(1)).stat().st_size == SIZE
    assert (writer.folder / SPARE_NAME).stat().st_size == SIZE
    writer.close()


def test_a_long_segment_is_read_to_its_end(worker: Worker) -> None:
    count = 6_000
    worker.holds(b"".join(encode_frame(EndRecord(usage_event(number))) for number in range(count)))
    assert [event.id for event in worker.read(500)] == [usage_event(number).id for number in range(count)]
