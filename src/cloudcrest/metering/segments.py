"""The bytes of a spool: records to lines and back, whatever happened to the file in between.

A line is `crc32 of the JSON (8 hex digits), space, JSON, newline`. Damage costs the records it touches and no other: a
line that fails its check is searched for whole records (two lines whose newline was lost), the rest of it is counted.
"""

import re
import zlib
from collections.abc import Iterator
from pathlib import Path

import msgspec

from cloudcrest.metering.api import SpoolRecord

MAX_RECORD_BYTES = 64 * 1024
SEGMENT_SUFFIX = ".log"
LOCK_NAME = "lock"

_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(SpoolRecord)
_RECORD_START = re.compile(rb"[0-9a-f]{8} \{")
_STRING_OR_BRACE = re.compile(rb'"(?:[^"\\]|\\.)*"|[{}]')
_CRC_CHARACTERS = 8


class Line(msgspec.Struct, frozen=True):
    """What one line of a segment holds: its records (one, unless a newline was lost), and whether some of it is lost.

    `offset` and `length` are bytes in the segment, newline included.
    """

    offset: int
    length: int
    records: tuple[SpoolRecord, ...]
    is_damaged: bool


def segment_name(sequence: int) -> str:
    """`1` → `'0000000001.log'`: names sort as they were written."""
    return f"{sequence:010d}{SEGMENT_SUFFIX}"


def segment_sequences(folder: Path) -> list[int]:
    """The sequence numbers of a worker's segments, oldest first."""
    stems = [path.stem for path in folder.glob(f"*{SEGMENT_SUFFIX}")]
    return sorted(int(stem) for stem in stems if stem.isdigit())


def encode_line(record: SpoolRecord) -> bytes:
    """One record as its line, newline included."""
    body = _encoder.encode(record)
    return b"%08x %b\n" % (zlib.crc32(body), body)


def decode_record(line: bytes) -> SpoolRecord | None:
    """The record of a whole line without its newline, or None where the check or the shape fails."""
    body = line[_CRC_CHARACTERS + 1 :]
    if line[:_CRC_CHARACTERS] != b"%08x" % zlib.crc32(body):
        return None
    try:
        return _decoder.decode(body)
    except msgspec.MsgspecError:  # written by a version that this one does not know
        return None


def read_lines(data: bytes, base_offset: int = 0) -> Iterator[Line]:
    """The whole lines of `data`, which begins at `base_offset` of its segment; an unfinished last line is left out."""
    start = 0
    while (end := data.find(b"\n", start)) >= 0:
        text = data[start:end]
        record = decode_record(text)
        found = (record,) if record is not None else tuple(_recover(text))
        # A zero length line is what is left of a record that was taken back.
        yield Line(base_offset + start, end + 1 - start, found, is_damaged=record is None and bool(text))
        start = end + 1


def read_tail(data: bytes) -> tuple[SpoolRecord, ...]:
    """The whole records in the unfinished end of a dead worker's segment (its newline alone may be missing)."""
    tail = data.rstrip(b"\0")
    record = decode_record(tail)
    return (record,) if record is not None else tuple(_recover(tail))


def _recover(text: bytes) -> Iterator[SpoolRecord]:
    """Whole records inside a damaged line. Strings inside JSON escape their quotes, so none can pose as a record."""
    position = 0
    while start := _RECORD_START.search(text, position):
        end = _object_end(text, start.end() - 1)
        record = None if end is None else decode_record(text[start.start() : end])
        if record is None or end is None:
            position = start.start() + 1
        else:
            yield record
            position = end


def _object_end(text: bytes, start: int) -> int | None:
    """Where the JSON object that begins at `start` ends."""
    depth = 0
    for token in _STRING_OR_BRACE.finditer(text, start, start + MAX_RECORD_BYTES):
        depth += {b"{": 1, b"}": -1}.get(token.group(), 0)
        if depth == 0:
            return token.end()
    return None
