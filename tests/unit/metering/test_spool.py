"""The writer: what it returned from is in the file, a full disk refuses new work and still ends the old."""

import contextlib
import errno
import mmap
import os
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cloudcrest.kernel.clock import ManualClock
from cloudcrest.kernel.usage import Usage, UsageEvent
from cloudcrest.metering.api import EndRecord, MarkRecord, OpenRecord, SpoolRecord
from cloudcrest.metering.drain import WorkerDrain
from cloudcrest.metering.segments import (
    MAX_BACK_BYTES,
    MAX_FRAME_BYTES,
    SPARE_NAME,
    encode_frame,
    read_frames,
    segment_name,
    segment_sequences,
    shared_at,
)
from cloudcrest.metering.spool import END_GROWTH_BYTES, SpoolUnavailable, SpoolWriter
from tests.support.waiting import until
from tests.unit.metering.events import end_event, open_event, usage_event

KIB = 1024
LONG = Usage(10**18, 10**18, 10**18, 10**18, is_estimate=True)


def records_of(folder: Path) -> list[SpoolRecord]:
    return [
        piece.record
        for sequence in segment_sequences(folder)
        for data in [(folder / segment_name(sequence)).read_bytes()]
        for piece in read_frames(data, partial(shared_at, data))
        if piece.record is not None
    ]


def ends_of(folder: Path) -> list[UsageEvent]:
    return [record.event for record in records_of(folder) if isinstance(record, EndRecord)]


class Disk:
    """Free space as a test wants it, and allocations and syncs that fail when told to."""

    def __init__(self) -> None:
        self.free_bytes = 1 << 40
        self.fails_with: int | None = None

    def free(self, _: Path) -> int:
        return self.free_bytes

    def allocate(self, fd: int, size_bytes: int) -> None:
        if self.fails_with is not None:
            raise OSError(self.fails_with, os.strerror(self.fails_with))
        os.truncate(fd, size_bytes)


def spool_writer(folder: Path, disk: Disk, clock: ManualClock, segment_bytes: int = 16 * KIB) -> SpoolWriter:
    return SpoolWriter(
        folder,
        "gateway-0",
        segment_bytes=segment_bytes,
        floor_bytes=1000 * KIB,
        free=disk.free,
        allocate_file=disk.allocate,
        monotonic=clock.monotonic,
    )


@pytest.fixture
def disk() -> Disk:
    return Disk()


@pytest.fixture
def writer(tmp_path: Path, disk: Disk, clock: ManualClock) -> Iterator[SpoolWriter]:
    spool = spool_writer(tmp_path, disk, clock)
    yield spool
    spool.close()


def test_records_are_in_their_segments_when_the_call_returns(writer: SpoolWriter) -> None:
    expected = []
    for number in range(160):
        event = usage_event(number)
        open_event(writer, event)
        writer.mark(MarkRecord(event.id, 3, 900))
        end_event(writer, event)
        expected += [event]
        assert ends_of(writer.folder) == expected
    assert len(segment_sequences(writer.folder)) > 2


def test_what_is_shared_is_written_once_in_a_segment(writer: SpoolWriter) -> None:
    events = [usage_event(number, model=("one", "other")[number % 2]) for number in range(120)]
    for event in events:
        open_event(writer, event)
        end_event(writer, event)
    sequences = segment_sequences(writer.folder)
    assert len(sequences) > 2
    for sequence in sequences:
        data = (writer.folder / segment_name(sequence)).read_bytes()
        assert [data.count(f'"{model}"'.encode()) for model in ("one", "other")] == [1, 1]
    assert ends_of(writer.folder) == events


def test_what_is_shared_is_written_again_where_it_is_far_back(tmp_path: Path, disk: Disk, clock: ManualClock) -> None:
    writer = spool_writer(tmp_path, disk, clock, segment_bytes=4 * MAX_BACK_BYTES)
    events = [usage_event(number) for number in range(2 * MAX_BACK_BYTES // 300)]
    for event in events:
        open_event(writer, event)
        end_event(writer, event)
    data = (writer.folder / segment_name(1)).read_bytes()
    assert data.count(events[0].model.encode()) == 3
    assert ends_of(writer.folder) == events
    writer.close()


def test_each_start_has_a_folder_of_its_own(writer: SpoolWriter, tmp_path: Path) -> None:
    other = SpoolWriter(tmp_path, "gateway-0", segment_bytes=16 * KIB)
    assert other.folder != writer.folder
    assert not WorkerDrain(other.folder).worker_is_dead()
    other.close()
    assert WorkerDrain(other.folder).worker_is_dead()
    assert not WorkerDrain(writer.folder).worker_is_dead()


def test_what_is_not_used_is_given_back(writer: SpoolWriter) -> None:
    for number in range(100):
        open_event(writer, usage_event(number))
        end_event(writer, usage_event(number))
    first = writer.folder / segment_name(1)
    until((writer.folder / SPARE_NAME).exists, "the next segment is made ahead of its use")
    until(lambda: first.stat().st_size < 16 * KIB, "the keeper closes full segments")
    assert [piece.record for piece in read_frames(first.read_bytes(), partial(shared_at, first.read_bytes()))][
        -1
    ] is not None
    writer.close()
    assert not (writer.folder / SPARE_NAME).exists()
    assert sum(path.stat().st_size for path in writer.folder.iterdir()) < 50 * KIB
    assert ends_of(writer.folder) == [usage_event(number) for number in range(100)]


def test_written_memory_is_let_go_and_stays_in_the_file(tmp_path: Path, clock: ManualClock) -> None:
    writer = spool_writer(tmp_path, Disk(), clock, segment_bytes=4 * 1024 * KIB)
    smaps = Path("/proc/self/smaps")
    if not smaps.exists() or not hasattr(mmap, "MADV_DONTNEED"):
        pytest.skip("there is no /proc/self/smaps here")
    for number in range(4000):
        open_event(writer, usage_event(number))
        end_event(writer, usage_event(number))

    def resident_kib() -> int:
        text = smaps.read_text()
        here = text[text.index(segment_name(1)) :]
        return int(here[here.index("Rss:") :].split()[1])

    until(lambda: resident_kib() < 600, "the keeper lets go of what is written")
    assert len(ends_of(writer.folder)) == 4000
    writer.close()


def test_little_free_space_refuses_new_work_and_ends_the_old(
    writer: SpoolWriter, disk: Disk, clock: ManualClock
) -> None:
    open_event(writer, usage_event(1))
    disk.free_bytes = 999 * KIB
    clock.advance(1)
    with pytest.raises(SpoolUnavailable, match="almost full") as caught:
        open_event(writer, usage_event(2))
    assert (caught.value.status, caught.value.code) == (503, "spool_unavailable")
    end_event(writer, usage_event(1))
    disk.free_bytes = 1 << 40
    clock.advance(1.1)
    open_event(writer, usage_event(2))
    assert [type(record) for record in records_of(writer.folder)] == [OpenRecord, EndRecord, OpenRecord]


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EIO, errno.EDQUOT])
def test_a_full_disk_takes_the_ends_of_all_that_is_open(
    writer: SpoolWriter, disk: Disk, clock: ManualClock, error: int
) -> None:
    disk.fails_with = error
    opened = 0
    with pytest.raises(SpoolUnavailable):  # noqa: PT012 - how many go through is not ours to say
        while True:
            open_event(writer, usage_event(opened))
            opened += 1
    assert opened >= 20
    for number in range(1000):
        writer.mark(MarkRecord(usage_event(0).id, number, 900))
    assert writer.marks_dropped > 0
    with pytest.raises(SpoolUnavailable):
        open_event(writer, usage_event(1000))
    for number in range(opened):
        end_event(writer, usage_event(number, usage=LONG))
    assert ends_of(writer.folder) == [usage_event(number, usage=LONG) for number in range(opened)]

    disk.fails_with = None
    clock.advance(2)
    open_event(writer, usage_event(1001))
    assert records_of(writer.folder)[-1] == OpenRecord(usage_event(1001))


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("open"), st.integers(0, 3000)),
        st.tuples(st.sampled_from(["mark", "end", "end", "open again"]), st.integers(0, 100)),
        st.tuples(st.just("disk"), st.sampled_from([0, 0, errno.ENOSPC])),
    ),
    max_size=150,
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=STEPS)
def test_who_was_let_in_can_always_end(tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[str, int]]) -> None:
    clock, disk = ManualClock(), Disk()
    writer = spool_writer(tmp_path_factory.mktemp("spool"), disk, clock)
    is_open: list[UsageEvent] = []
    ended: list[UsageEvent] = []
    for number, (step, value) in enumerate([*steps, *[("end", 0)] * len(steps)]):
        match step:
            case "disk":
                disk.fails_with = value or None
                clock.advance(2)
            case "open":
                event = usage_event(number, model="m" * value)
                try:
                    open_event(writer, event)
                except SpoolUnavailable:
                    continue
                is_open.append(event)
            case "open again" if is_open:
                place = value % len(is_open)
                event = usage_event(int(is_open[place].id[4:]), model="m" * 10 * value)
                with contextlib.suppress(SpoolUnavailable):
                    open_event(writer, event)
                    is_open[place] = event
            case "mark" if is_open:
                writer.mark(MarkRecord(is_open[value % len(is_open)].id, value, 900))
            case "end" if is_open:
                event = is_open.pop(value % len(is_open))
                ended.append(usage_event(int(event.id[4:]), model=event.model, usage=LONG))
                end_event(writer, ended[-1])
    assert ends_of(writer.folder) == ended
    disk.fails_with = None
    clock.advance(2)
    open_event(writer, usage_event(1000, model="m" * 15_000))  # nothing is owed any more: there is room for the longest
    writer.close()


@pytest.mark.parametrize("length", [16 * KIB, 70_000])  # longer than this writer's segments, and than any record
def test_a_record_that_is_too_long_is_refused(writer: SpoolWriter, clock: ManualClock, length: int) -> None:
    with pytest.raises(SpoolUnavailable, match="too long"):
        open_event(writer, usage_event(1, model="m" * length))
    clock.advance(2)
    open_event(writer, usage_event(2))
    with pytest.raises(SpoolUnavailable, match="too long"):
        end_event(writer, usage_event(2, model="m" * length))
    clock.advance(2)
    end_event(writer, usage_event(2))
    assert records_of(writer.folder) == [OpenRecord(usage_event(2)), EndRecord(usage_event(2))]


def test_who_could_not_be_ended_is_refused(tmp_path: Path, disk: Disk, clock: ManualClock) -> None:
    writer = spool_writer(tmp_path, disk, clock, segment_bytes=256 * KIB)
    whole = len(encode_frame(OpenRecord(usage_event(1, model=""))))
    longest = usage_event(1, model="m" * (MAX_FRAME_BYTES - END_GROWTH_BYTES - whole))
    open_event(writer, longest)
    end_event(writer, msgspec.structs.replace(longest, usage=LONG))
    for longer in (
        msgspec.structs.replace(longest, model=longest.model + "m"),
        msgspec.structs.replace(longest, replica_id=longest.replica_id + "r"),  # short: it shares what stands there
    ):
        with pytest.raises(SpoolUnavailable, match="too long"):
            open_event(writer, longer)
        clock.advance(2)
    assert [type(record) for record in records_of(writer.folder)] == [OpenRecord, EndRecord]
    writer.close()


def test_what_could_not_be_copied_is_no_place_for_others(writer: SpoolWriter, monkeypatch: pytest.MonkeyPatch) -> None:
    events = [usage_event(number, key_id=key_id) for number, key_id in enumerate(("key_a", "key_b", "key_a"))]
    gone = mmap.mmap(-1, mmap.PAGESIZE)
    gone.close()
    with monkeypatch.context() as patch:
        patch.setattr(writer, "_bytes", gone)
        with pytest.raises(ValueError, match="closed"):
            open_event(writer, events[0])
    for event in events[1:]:
        open_event(writer, event)
        end_event(writer, event)
    assert ends_of(writer.folder) == events[1:]


def test_a_sync_that_fails_refuses_new_work(
    writer: SpoolWriter, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    def sync(_: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    def is_refused() -> bool:
        try:
            open_event(writer, usage_event(2))
        except SpoolUnavailable as error:
            return "failed to sync" in str(error)
        return False

    open_event(writer, usage_event(1))
    with monkeypatch.context() as patch:
        patch.setattr("cloudcrest.metering.spool._sync", sync)
        until(is_refused, "the keeper says what the disk said")
        end_event(writer, usage_event(1))

    def is_admitted() -> bool:
        clock.advance(2)
        return not is_refused()

    until(is_admitted, "the disk syncs again")


def test_a_resting_keeper_is_woken_by_a_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[int] = []
    monkeypatch.setattr("cloudcrest.metering.spool._sync", synced.append)
    writer = SpoolWriter(tmp_path, "gateway-0", segment_bytes=16 * KIB, sync_interval_seconds=0.0001, floor_bytes=0)
    until(lambda: writer._is_idle, "nothing is written for a while")
    before = len(synced)
    open_event(writer, usage_event(1))
    until(lambda: len(synced) > before, "it is synced")
    writer.close()


def test_closing_syncs_at_once_however_far_apart_syncs_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[int] = []
    monkeypatch.setattr("cloudcrest.metering.spool._sync", synced.append)
    writer = SpoolWriter(tmp_path, "gateway-0", segment_bytes=16 * KIB, sync_interval_seconds=3_600.0, floor_bytes=0)
    until(lambda: bool(synced), "it is synced for the first time")
    open_event(writer, usage_event(1))
    before = len(synced)
    closing = threading.Thread(target=writer.close, daemon=True)
    closing.start()
    closing.join(30.0)
    assert not closing.is_alive()
    assert len(synced) > before


def test_a_closed_spool_refuses(writer: SpoolWriter) -> None:
    writer.close()
    with pytest.raises(SpoolUnavailable):
        open_event(writer, usage_event(1))
    with pytest.raises(SpoolUnavailable):
        end_event(writer, usage_event(1))
    writer.mark(MarkRecord("req_1", 1, 1))
    writer.close()


def test_a_folder_that_cannot_be_written_is_said_so(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SpoolUnavailable, match="cannot be written"):
        SpoolWriter(tmp_path / "file" / "spool", "gateway-0")
