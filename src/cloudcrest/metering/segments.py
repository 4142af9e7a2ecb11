"""The bytes of a spool: records to frames and back, whatever happened to the file in between.

A frame is an 8-byte header and the record as JSON, little-endian: 0xFF, the kind (2 mark, 4 open, 5 end; 1 and 3 are
opens and ends of the version before), the length of the JSON (2 bytes), its CRC-32 begun with the kind (4 bytes). A
segment is full of zeros behind its last frame, and a header is written after what it stands before: eight zeros say
that nothing is written there yet.

An open or an end holds what it shares with others (rows.py), or the place in its segment of a frame that does, at most
`MAX_BACK_BYTES` before it. So a segment can be read without any other.

JSON holds no byte 0xFF, so no text inside a record can pose as one. Damage costs the records it touches, and those that
share what stood there, and no other: what fails its check is passed over up to the next frame that holds.
"""

import struct
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import msgspec
from msgspec.structs import astuple

from cloudcrest.metering.api import EndRecord, MarkRecord, OpenRecord, SpoolRecord
from cloudcrest.metering.rows import (
    SHARED,
    SharedRow,
    encode,
    event_of,
    event_of_older,
    row_of,
    shared_in,
    shared_of,
)

HEADER = struct.Struct("<BBHI")
HEADER_BYTES: Final = 8  # literals that compiled modules take over, here and below
MARKER: Final = 0xFF
MARK: Final = 2
OPEN: Final = 4
END: Final = 5
OLDER_OPEN: Final = 1
OLDER_END: Final = 3
MAX_BACK_BYTES: Final = 262_144
"""How far before a record may stand what it shares: what the disk loses there costs no more than that much more."""
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

SharedAt = Callable[[int], SharedRow | None]
"""What the frame at this place of a segment shares with others; None where there is no such frame."""


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
    """A record as it stands in a segment, with all that it shares. The writer does the same in place (spool.py)."""
    match record:
        case OpenRecord(event) | EndRecord(event):
            kind = OPEN if isinstance(record, OpenRecord) else END
            body = encode([*row_of(event)[:SHARED], shared_of(event)])
        case _:
            kind, body = MARK, encode(astuple(record))
    return HEADER.pack(MARKER, kind, len(body), zlib.crc32(body, kind)) + body


def is_unwritten(header: bytes) -> bool:
    """Whether nothing is written at the place that begins with these bytes."""
    return header[:HEADER_BYTES] == _NOTHING_YET[: len(header)]


def shared_at(data: bytes, start: int) -> SharedRow | None:
    """What the frame that begins at `start` of `data` shares with others; None where it does not say."""
    found = _body_at(data, start)
    if found is None or found[0] not in (OPEN, END):
        return None
    try:
        return shared_in(found[1])
    except ValueError:
        return None


def frame_at(data: bytes, start: int, shared: SharedAt) -> Piece | None:
    """The frame that begins at `start` of `data`; None where there is none, or not all of it."""
    found = _body_at(data, start)
    if found is None:
        return None
    kind, body = found
    record = _decode(kind, body, shared)
    return Piece(start, HEADER_BYTES + len(body), record) if record is not None else None


def read_frames(data: bytes, shared: SharedAt) -> Iterator[Piece]:
    """The frames of `data`, and what lies damaged between two of them; what is behind the last one is left out."""
    start = 0
    while True:
        piece = frame_at(data, start, shared)
        if piece is None:
            found = _next_frame(data, start, shared)
            if found is None:
                return
            yield Piece(start, found.offset - start, None)
            piece = found
        yield piece
        start = piece.offset + piece.length


def _next_frame(data: bytes, after: int, shared: SharedAt) -> Piece | None:
    """The first frame that begins behind `after`."""
    start = after
    while (start := data.find(_MARKER_BYTE, start + 1)) >= 0:
        piece = frame_at(data, start, shared)
        if piece is not None:
            return piece
    return None


def _body_at(data: bytes, start: int) -> tuple[int, bytes] | None:
    """The kind and the JSON of a frame that holds."""
    if len(data) - start < HEADER_BYTES:
        return None
    marker, kind, length, check = HEADER.unpack_from(data, start)
    if marker != MARKER:
        return None
    first = start + HEADER_BYTES
    body = data[first : first + length]
    if len(body) != length or zlib.crc32(body, kind) != check:
        return None
    return kind, body


def _decode(kind: int, body: bytes, shared: SharedAt) -> SpoolRecord | None:
    """None: written by a version that this one does not know, or what it shares is lost."""
    try:
        if kind == MARK:
            return MarkRecord(*astuple(_decode_mark(body)))
        if kind in (OPEN, END):
            event = event_of(body, shared)
        elif kind in (OLDER_OPEN, OLDER_END):
            event = event_of_older(body)
        else:
            return None
    except ValueError:
        return None
    if event is None:
        return None
    return OpenRecord(event) if kind in (OPEN, OLDER_OPEN) else EndRecord(event)
