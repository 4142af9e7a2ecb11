"""Damage to a segment costs the records it touches and no other."""

import zlib

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from cloudcrest.kernel.usage import UsageEvent
from cloudcrest.metering.api import EndRecord, MarkRecord, OpenRecord, SpoolRecord
from cloudcrest.metering.segments import (
    END,
    HEADER,
    HEADER_BYTES,
    MARKER,
    encode_frame,
    frame_at,
    is_unwritten,
    read_frames,
)
from tests.unit.metering.events import usage_event

HIDDEN = encode_frame(EndRecord(usage_event(9))).decode("latin-1")
RECORDS: list[SpoolRecord] = [
    OpenRecord(usage_event(1, model="a model that poses as a record: " + HIDDEN)),
    MarkRecord("req_1", 5, 900),
    EndRecord(usage_event(1)),
    EndRecord(usage_event(2, model="\n\0 \U0001f600")),
    MarkRecord("req_3", 7, 1900, 20),
]
FRAMES = [encode_frame(record) for record in RECORDS]
SEGMENT = b"".join(FRAMES)


def records_in(data: bytes) -> list[SpoolRecord]:
    return [piece.record for piece in read_frames(data) if piece.record is not None]


def owner_of(offset: int) -> int:
    """Which record the byte at `offset` belongs to."""
    for index, frame in enumerate(FRAMES):
        if offset < len(frame):
            return index
        offset -= len(frame)
    raise AssertionError("beyond the segment")


def test_what_was_written_is_read() -> None:
    assert records_in(SEGMENT + bytes(100)) == RECORDS
    assert sum(piece.length for piece in read_frames(SEGMENT + bytes(100))) == len(SEGMENT)


@given(st.from_type(UsageEvent))
def test_every_field_of_an_event_comes_back(event: UsageEvent) -> None:
    assert records_in(encode_frame(EndRecord(event))) == [EndRecord(event)]


def test_an_older_row_gets_the_default_of_a_newer_field() -> None:
    event = usage_event(1)
    row = msgspec.json.encode(msgspec.structs.astuple(event)[:-1])
    (record,) = records_in(HEADER.pack(MARKER, END, len(row), zlib.crc32(row, END)) + row)
    newest = msgspec.structs.fields(event)[-1]
    assert record == EndRecord(msgspec.structs.replace(event, **{newest.name: newest.default}))


def test_a_row_from_before_there_were_other_units_is_read() -> None:
    row = (
        b'["req_00000000000000000000000001",1767225600000001,1200,80,"local","gateway-0","org_a","proj_a","key_a",'
        b'"smollm2-135m-instruct","dep_a","rep_a","/v1/chat/completions","completed",{"input_tokens":37,'
        b'"output_tokens":20,"cached_input_tokens":7,"reasoning_tokens":0,"is_estimate":false},true,[],""]'
    )
    (record,) = records_in(HEADER.pack(MARKER, END, len(row), zlib.crc32(row, END)) + row)
    assert record == EndRecord(usage_event(1))


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
    assert records_in(bytes(data)) == [record for index, record in enumerate(RECORDS) if index != owner_of(offset)]


@given(st.integers(0, len(SEGMENT) - 1), st.integers(0, 400), st.binary(max_size=60))
def test_overwritten_bytes_lose_what_they_touch_alone(offset: int, length: int, rubbish: bytes) -> None:
    data = SEGMENT[:offset] + rubbish + SEGMENT[offset + length :]
    touched = {owner_of(at) for at in range(offset, min(offset + length, len(SEGMENT)))}
    if rubbish:  # put in between two bytes of a record
        touched.add(owner_of(offset))
    read = records_in(data)
    for index, record in enumerate(RECORDS):
        if index not in touched:
            assert record in read
    assert all(record in RECORDS for record in read)


@given(st.integers(0, len(SEGMENT)), st.integers(0, 8192))
def test_a_page_that_never_reached_the_disk_loses_what_stood_on_it_alone(offset: int, length: int) -> None:
    data = bytearray(SEGMENT)
    data[offset : offset + length] = bytes(len(data[offset : offset + length]))
    touched = {owner_of(at) for at in range(offset, min(offset + length, len(SEGMENT)))}
    read = records_in(bytes(data))
    assert [record for record in RECORDS if record in read] == read
    assert all(record in read for index, record in enumerate(RECORDS) if index not in touched)


def test_nothing_is_read_where_nothing_is_written() -> None:
    assert is_unwritten(bytes(HEADER_BYTES))
    assert is_unwritten(b"")
    assert not is_unwritten(FRAMES[0])
    assert frame_at(bytes(1000), 0) is None
    assert list(read_frames(bytes(100_000))) == []
