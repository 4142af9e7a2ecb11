"""The writer: what it returned from is on disk, a full disk refuses new work and still ends the old."""

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from cloudcrest.kernel.clock import ManualClock
from cloudcrest.metering.api import MarkRecord, SpoolRecord
from cloudcrest.metering.drain import WorkerDrain
from cloudcrest.metering.segments import read_lines, segment_name, segment_sequences
from cloudcrest.metering.spool import RESERVE_NAME, SpoolUnavailable, SpoolWriter
from tests.unit.metering.events import usage_event

KIB = 1024


def records_of(folder: Path) -> list[SpoolRecord]:
    return [
        record
        for sequence in segment_sequences(folder)
        for line in read_lines((folder / segment_name(sequence)).read_bytes())
        for record in line.records
    ]


class Disk:
    """Free space as a test wants it, and writes that fail when told to."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.free_bytes = 1 << 40
        self.fails_with: int | None = None
        self.torn_bytes = 0
        self._write = os.write
        self._reserved: set[int] = set()
        monkeypatch.setattr("os.write", self.write)

    def free(self, _: Path) -> int:
        return self.free_bytes

    def write(self, fd: int, data: bytes) -> int:
        if self.fails_with is None or fd in self._reserved or self._is_preallocated(fd):
            return self._write(fd, data)
        if self.torn_bytes:
            return self._write(fd, data[: self.torn_bytes])
        raise OSError(self.fails_with, os.strerror(self.fails_with))

    def _is_preallocated(self, fd: int) -> bool:
        position = os.lseek(fd, 0, os.SEEK_CUR)
        return os.fstat(fd).st_size > position + KIB


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Disk:
    return Disk(monkeypatch)


@pytest.fixture
def writer(tmp_path: Path, disk: Disk, clock: ManualClock) -> Iterator[SpoolWriter]:
    spool = SpoolWriter(
        tmp_path,
        "gateway-0",
        segment_bytes=4 * KIB,
        floor_bytes=1000 * KIB,
        reserve_bytes=16 * KIB,
        free=disk.free,
        monotonic=clock.monotonic,
    )
    yield spool
    spool.close()


def test_records_are_in_their_segments_when_the_call_returns(writer: SpoolWriter) -> None:
    expected = []
    for number in range(20):
        event = usage_event(number)
        writer.open(event)
        writer.mark(MarkRecord(event.id, 3, 900))
        writer.end(event)
        expected += [event]
        assert [record.end for record in records_of(writer.folder) if record.end] == expected
    assert len(segment_sequences(writer.folder)) > 2


def test_each_start_has_a_folder_of_its_own(writer: SpoolWriter, tmp_path: Path) -> None:
    other = SpoolWriter(tmp_path, "gateway-0", reserve_bytes=KIB)
    assert other.folder != writer.folder
    assert not WorkerDrain(other.folder).worker_is_dead()
    other.close()
    assert WorkerDrain(other.folder).worker_is_dead()
    assert not WorkerDrain(writer.folder).worker_is_dead()


def test_little_free_space_refuses_new_work_and_ends_the_old(
    writer: SpoolWriter, disk: Disk, clock: ManualClock
) -> None:
    writer.open(usage_event(1))
    disk.free_bytes = 999 * KIB
    clock.advance(1)
    with pytest.raises(SpoolUnavailable, match="almost full") as caught:
        writer.open(usage_event(2))
    assert (caught.value.status, caught.value.code) == (503, "spool_unavailable")
    writer.end(usage_event(1))
    disk.free_bytes = 1 << 40
    clock.advance(1.1)
    writer.open(usage_event(2))
    assert [bool(record.open) for record in records_of(writer.folder)] == [True, False, True]


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EIO, errno.EDQUOT])
def test_a_full_disk_keeps_the_reserve_for_ends(
    writer: SpoolWriter, disk: Disk, clock: ManualClock, error: int
) -> None:
    for number in range(8):
        writer.open(usage_event(number))
    disk.fails_with = error
    with pytest.raises(SpoolUnavailable):
        writer.open(usage_event(9))
    for _ in range(1000):
        writer.mark(MarkRecord(usage_event(0).id, 3, 900))
    assert writer.marks_dropped > 0
    for number in range(8):
        writer.end(usage_event(number))
    with pytest.raises(SpoolUnavailable):
        writer.open(usage_event(9))
    with contextlib.suppress(SpoolUnavailable):
        for number in range(100):
            writer.end(usage_event(number))
    with pytest.raises(SpoolUnavailable):
        writer.end(usage_event(0))

    disk.fails_with = None
    clock.advance(2)
    writer.open(usage_event(10))
    assert (writer.folder / RESERVE_NAME).stat().st_size == 16 * KIB
    ends = [record.end for record in records_of(writer.folder) if record.end]
    assert ends[:8] == [usage_event(number) for number in range(8)]
    assert records_of(writer.folder)[-1].open is not None


def test_a_torn_write_is_taken_back(writer: SpoolWriter, disk: Disk, clock: ManualClock) -> None:
    writer.open(usage_event(1))
    disk.fails_with, disk.torn_bytes = errno.ENOSPC, 20
    with pytest.raises(SpoolUnavailable):
        writer.open(usage_event(2))
    disk.fails_with = None
    clock.advance(2)
    writer.open(usage_event(3))
    lines = list(read_lines((writer.folder / segment_name(1)).read_bytes()))
    assert [record.open.event.id for line in lines for record in line.records if record.open] == [
        usage_event(1).id,
        usage_event(3).id,
    ]
    assert not any(line.is_damaged for line in lines)


def test_a_closed_spool_refuses(writer: SpoolWriter) -> None:
    writer.close()
    with pytest.raises(SpoolUnavailable):
        writer.open(usage_event(1))
    with pytest.raises(SpoolUnavailable):
        writer.end(usage_event(1))
    with contextlib.suppress(SpoolUnavailable):
        writer.mark(MarkRecord("req_1", 1, 1))
    writer.close()


def test_a_folder_that_cannot_be_written_is_said_so(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SpoolUnavailable, match="cannot be written"):
        SpoolWriter(tmp_path / "file" / "spool", "gateway-0")
