"""The bytes of a spool: records to frames and back, whatever happened to the file in between.

A frame is an 8-byte header and the record as JSON, little-endian: 0xFF, the kind (1 open, 2 mark, 3 end), the length of
the JSON (2 bytes), its CRC-32 begun with the kind (4 bytes). A segment is full of zeros behind its last frame, and a
header is written after what it stands before: eight zeros say that nothing is written there yet.

JSON holds no byte 0xFF, so no text inside a record can pose as one. Damage costs the records it touches and no other:
what fails its check is passed over up to the next frame that holds.
"""

import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import msgspec
from msgspec.structs import astuple

from cloudcrest.metering.api import EndRecord, MarkRecord, OpenRecord, SpoolRecord
from cloudcrest.metering.rows import encode, event_of, row_of

HEADER = struct.Struct("<BBHI")
HEADER_BYTES: Final = 8  # literals that compiled modules take over, here and below
MARKER: Final = 0xFF
OPEN: Final = 1
MARK: Final = 2
END: Final = 3
MAX_BODY_BYTES: Final = 0xFFFF
MAX_FRAME_BYTES: Final = HEADER_BYTES + MAX_BODY_BYTES
SEGMENT_SUFFIX = ".seg"
OLD_SEGMENT_SUFFIX = ".log"
LOCK_NAME = "lock"
SPARE_NAME = "spare"
_NOTHING_YET = bytes(HEADER_BYTES)
_MARKER_BYTE = bytes([MARKER])


class _MarkRow(MarkRecord, frozen=True, array_like=True):
    """A mark without its fields' names."""


_decode_mark = msgspec.json.Decoder(_MarkRow).decode


class Piece(msgspec.Struct, frozen=True):
    """Consecutive bytes of a segment: a frame with its record, or None and what could not be read.

    `offset` and `length` are bytes in the segment.
    """

    offset: int
    length: int
    record: SpoolRecord | None


def segment_name(sequence: int) -> str:
    """`1` → `'0000000001.seg'`: names sort as they were written."""
    return f"{sequence:010d}{SEGMENT_SUFFIX}"


def segment_sequences(folder: Path) -> list[int]:
    """The sequence numbers of a worker's segments, oldest first."""
    stems = [path.stem for path in folder.glob(f"*{SEGMENT_SUFFIX}")]
    return sorted(int(stem) for stem in stems if stem.isdigit())


def encode_frame(record: SpoolRecord) -> bytes:
    """A record as it stands in a segment. The writer does the same in place (spool.py)."""
    match record:
        case OpenRecord(event):
            kind, body = OPEN, encode(row_of(event))
        case EndRecord(event):
            kind, body = END, encode(row_of(event))
        case _:
            kind, body = MARK, encode(astuple(record))
    return HEADER.pack(MARKER, kind, len(body), zlib.crc32(body, kind)) + body


def is_unwritten(header: bytes) -> bool:
    """Whether nothing is written at the place that begins with these bytes."""
    return header[:HEADER_BYTES] == _NOTHING_YET[: len(header)]


def frame_at(data: bytes, start: int) -> Piece | None:
    """The frame that begins at `start` of `data`; None where there is none, or not all of it."""
    if len(data) - start < HEADER_BYTES:
        return None
    marker, kind, length, check = HEADER.unpack_from(data, start)
    if marker != MARKER:
        return None
    first = start + HEADER_BYTES
    body = data[first : first + length]
    if len(body) != length or zlib.crc32(body, kind) != check:
        return None
    record = _decode(kind, body)
    return Piece(start, HEADER_BYTES + length, record) if record is not None else None


def read_frames(data: bytes) -> Iterator[Piece]:
    """The frames of `data`, and what lies damaged between two of them; what is behind the last one is left out."""
    start = 0
    while True:
        piece = frame_at(data, start)
        if piece is None:
            found = _next_frame(data, start)
            if found is None:
                return
            yield Piece(start, found.offset - start, None)
            piece = found
        yield piece
        start = piece.offset + piece.length


def _next_frame(data: bytes, after: int) -> Piece | None:
    """The first frame that begins behind `after`."""
    start = after
    while (start := data.find(_MARKER_BYTE, start + 1)) >= 0:
        piece = frame_at(data, start)
        if piece is not None:
            return piece
    return None


def _decode(kind: int, body: bytes) -> SpoolRecord | None:
    """None: written by a version that this one does not know."""
    try:
        if kind == MARK:
            return MarkRecord(*astuple(_decode_mark(body)))
        if kind in (OPEN, END):
            event = event_of(body)
            return OpenRecord(event) if kind == OPEN else EndRecord(event)
    except ValueError:
        return None
    return None
