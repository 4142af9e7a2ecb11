"""Damage to a segment costs the records it touches and no other."""

from hypothesis import given
from hypothesis import strategies as st

from cloudcrest.metering.api import MarkRecord, OpenRecord, SpoolRecord
from cloudcrest.metering.segments import encode_line, read_lines, read_tail
from tests.unit.metering.events import usage_event

RECORDS = [
    SpoolRecord(open=OpenRecord(usage_event(1, model='a "quoted" model deadbeef {"end": 1}'))),
    SpoolRecord(mark=MarkRecord("req_1", 5, 900)),
    SpoolRecord(end=usage_event(1)),
    SpoolRecord(end=usage_event(2, model="\n newline")),
    SpoolRecord(mark=MarkRecord("req_3", 7, 1900, 20)),
]
LINES = [encode_line(record) for record in RECORDS]
SEGMENT = b"".join(LINES)
SEPARATORS = {sum(map(len, LINES[:index])) + 8 for index in range(len(LINES))}
"""The space between a record and its check: neither depends on it."""


def records_in(data: bytes) -> list[SpoolRecord]:
    lines = list(read_lines(data))
    end = lines[-1].offset + lines[-1].length if lines else 0
    return [record for line in lines for record in line.records] + list(read_tail(data[end:]))


def owner_of(offset: int) -> int:
    """Which record the byte at `offset` belongs to; a newline belongs to nobody."""
    for index, line in enumerate(LINES):
        if offset < len(line):
            return -1 if offset == len(line) - 1 else index
        offset -= len(line)
    raise AssertionError("beyond the segment")


def test_what_was_written_is_read() -> None:
    assert records_in(SEGMENT) == RECORDS
    assert not any(line.is_damaged for line in read_lines(SEGMENT))


@given(st.integers(0, len(SEGMENT)))
def test_a_cut_loses_the_torn_record_alone(length: int) -> None:
    whole = 0
    while whole < len(LINES) and sum(map(len, LINES[: whole + 1])) - 1 <= length:  # its newline may be missing
        whole += 1
    assert records_in(SEGMENT[:length]) == RECORDS[:whole]


@given(st.integers(0, len(SEGMENT) - 1), st.integers(1, 255))
def test_a_changed_byte_loses_its_record_alone(offset: int, flip: int) -> None:
    data = bytearray(SEGMENT)
    data[offset] ^= flip
    lost = None if offset in SEPARATORS else owner_of(offset)
    assert records_in(bytes(data)) == [record for index, record in enumerate(RECORDS) if index != lost]


@given(st.integers(0, len(SEGMENT) - 1), st.integers(0, 400), st.binary(max_size=60))
def test_overwritten_bytes_lose_what_they_touch_alone(offset: int, length: int, rubbish: bytes) -> None:
    data = SEGMENT[:offset] + rubbish + SEGMENT[offset + length :]
    read = records_in(data)
    touched = {owner_of(at) for at in range(offset, min(offset + length, len(SEGMENT)))}
    if rubbish:  # put in between two bytes of a record
        touched.add(owner_of(offset))
    for index, record in enumerate(RECORDS):
        if index not in touched:
            assert record in read
    assert all(record in RECORDS for record in read)
