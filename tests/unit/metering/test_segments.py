"""Damage to a segment costs the records it touches, those that share what stood there, and no other."""

import zlib
from functools import partial

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from cloudcrest.kernel.usage import Hold, UsageEvent
from cloudcrest.metering.api import EndRecord, MarkRecord, OpenRecord, SpoolRecord
from cloudcrest.metering.rows import SHARED, row_of, shared_of
from cloudcrest.metering.segments import (
    END,
    HEADER,
    HEADER_BYTES,
    MARKER,
    OLDER_END,
    OLDER_OPEN,
    encode_frame,
    frame_at,
    is_unwritten,
    read_frames,
    shared_at,
)
from tests.unit.metering.events import borrowing_frame, frame, usage_event

HIDDEN = encode_frame(EndRecord(usage_event(9))).decode("latin-1")
RECORDS: list[SpoolRecord] = [
    OpenRecord(usage_event(1, model="a model that poses as a record: " + HIDDEN)),
    MarkRecord("req_1", 5, 900),
    EndRecord(usage_event(1)),
    EndRecord(usage_event(2, model="\n\0 \U0001f600")),
    MarkRecord("req_3", 7, 1900, 20),
    OpenRecord(usage_event(4)),
    EndRecord(usage_event(5, model="\n\0 \U0001f600")),
]
FRAMES = [encode_frame(record) for record in RECORDS[:5]]
LENDERS = {5: 2, 6: 3}
"""Whose places the last two name for what they share."""
FRAMES += [
    borrowing_frame(record, sum(map(len, FRAMES[: LENDERS[index]])))
    for index, record in enumerate(RECORDS)
    if index in LENDERS and not isinstance(record, MarkRecord)
]
SEGMENT = b"".join(FRAMES)
WHOLE = b"".join(FRAMES[:5])
"""Those that say themselves what they share: where bytes move, no place is where it was."""


def records_in(data: bytes) -> list[SpoolRecord]:
    return [piece.record for piece in read_frames(data, partial(shared_at, data)) if piece.record is not None]


def owner_of(offset: int) -> int:
    """Which record the byte at `offset` belongs to."""
    for index, written in enumerate(FRAMES):
        if offset < len(written):
            return index
        offset -= len(written)
    raise AssertionError("beyond the segment")


def owners_of(offset: int) -> set[int]:
    """That one, and who shares what it has."""
    owner = owner_of(offset)
    return {owner} | {borrower for borrower, lender in LENDERS.items() if lender == owner}


def test_what_was_written_is_read() -> None:
    assert records_in(SEGMENT + bytes(100)) == RECORDS
    assert sum(piece.length for piece in read_frames(SEGMENT + bytes(100), partial(shared_at, SEGMENT))) == len(SEGMENT)


@given(st.from_type(UsageEvent))
def test_every_field_of_an_event_comes_back(event: UsageEvent) -> None:
    assert records_in(encode_frame(EndRecord(event))) == [EndRecord(event)]


def test_an_older_row_gets_the_default_of_a_newer_field() -> None:
    event = usage_event(1)
    shared = msgspec.structs.astuple(shared_of(event))[:-1]
    assert records_in(frame(END, [*row_of(event)[:SHARED], shared])) == [EndRecord(event)]


def test_a_row_that_holds_more_than_its_sources_say_is_damaged() -> None:
    row = row_of(usage_event(1, grants=(Hold("bud_a", "grant_a", 5),)))
    assert records_in(frame(END, [*row[:SHARED], shared_of(usage_event(1))])) == []


def test_a_record_that_shares_what_is_not_there_is_damaged() -> None:
    borrower = borrowing_frame(EndRecord(usage_event(1)), 0)
    for data in (borrower, encode_frame(MarkRecord("req_1", 5, 900)) + borrower, bytes(100) + borrower):
        assert [record for record in records_in(data) if not isinstance(record, MarkRecord)] == []


def test_a_row_of_the_version_before_is_read() -> None:
    row = (
        b'["req_00000000000000000000000001",1767225600000001,1200,80,"local","gateway-0","org_a","proj_a","key_a",'
        b'"smollm2-135m-instruct","dep_a","rep_a","/v1/chat/completions","completed",{"input_tokens":37,'
        b'"output_tokens":20,"cached_input_tokens":7,"reasoning_tokens":0,"is_estimate":false},true,[],""]'
    )
    for kind, record in ((OLDER_OPEN, OpenRecord(usage_event(1))), (OLDER_END, EndRecord(usage_event(1)))):
        assert records_in(HEADER.pack(MARKER, kind, len(row), zlib.crc32(row, kind)) + row) == [record]


@given(st.integers(0, len(SEGMENT)), st.integers(0, 100))
def test_a_cut_loses_the_torn_record_alone(length: int, zeros: int) -> None:
    whole = 0
    while whole < len(FRAMES) and sum(map(len, FRAMES[: whole + 1])) <= length:
        whole += 1
    assert records_in(SEGMENT[:length] + bytes(zeros)) == RECORDS[:whole]


@given(st.integers(0, len(SEGMENT) - 1), st.integers(1, 255))
def test_a_changed_byte_loses_its_record_alone(offset: int, flip: int) -> None:
    data = bytearray(SEGMENT)
    data[offset] ^= flip
    assert records_in(bytes(data)) == [record for index, record in enumerate(RECORDS) if index not in owners_of(offset)]


@given(st.integers(0, len(SEGMENT) - 1), st.integers(0, 400), st.binary(max_size=60))
def test_overwritten_bytes_lose_what_they_touch_alone(offset: int, length: int, rubbish: bytes) -> None:
    data = bytearray(SEGMENT)
    length = min(length, len(SEGMENT) - offset)
    data[offset : offset + length] = (rubbish * length)[:length].ljust(length, b"\xff")
    touched = set().union(*(owners_of(at) for at in range(offset, min(offset + length, len(SEGMENT)))))
    read = records_in(bytes(data))
    for index, record in enumerate(RECORDS):
        if index not in touched:
            assert record in read
    assert all(record in RECORDS for record in read)


@given(st.integers(0, len(WHOLE) - 1), st.integers(0, 400), st.binary(max_size=60))
def test_bytes_that_are_missing_or_too_many_lose_what_they_touch_alone(
    offset: int, length: int, rubbish: bytes
) -> None:
    data = WHOLE[:offset] + rubbish + WHOLE[offset + length :]
    touched = {owner_of(at) for at in range(offset, min(offset + length, len(WHOLE)))}
    if rubbish:  # put in between two bytes of a record
        touched.add(owner_of(offset))
    read = records_in(data)
    assert all(record in read for index, record in enumerate(RECORDS[:5]) if index not in touched)
    assert all(record in RECORDS for record in read)


@given(st.integers(0, len(SEGMENT)), st.integers(0, 8192))
def test_a_page_that_never_reached_the_disk_loses_what_stood_on_it_alone(offset: int, length: int) -> None:
    data = bytearray(SEGMENT)
    data[offset : offset + length] = bytes(len(data[offset : offset + length]))
    touched = set().union(*(owners_of(at) for at in range(offset, min(offset + length, len(SEGMENT)))))
    read = records_in(bytes(data))
    assert [record for record in RECORDS if record in read] == read
    assert all(record in read for index, record in enumerate(RECORDS) if index not in touched)


def test_nothing_is_read_where_nothing_is_written() -> None:
    assert is_unwritten(bytes(HEADER_BYTES))
    assert is_unwritten(b"")
    assert not is_unwritten(FRAMES[0])
    assert frame_at(bytes(1000), 0, partial(shared_at, b"")) is None
    assert list(read_frames(bytes(100_000), partial(shared_at, b""))) == []
