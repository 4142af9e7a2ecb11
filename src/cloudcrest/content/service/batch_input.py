"""Reads a batch's input file into lines, piece by piece."""

from collections.abc import AsyncIterator
from hashlib import blake2b

from cloudcrest.content.batch_lines import MAX_LINE_BYTES, Line, duplicate, read_line, too_long


async def read_lines(pieces: AsyncIterator[bytes], endpoint: str) -> AsyncIterator[Line]:
    """The lines of a file, checked. Empty ones are passed over, and keep their numbers."""
    seen: set[bytes] = set()
    async for number, start_byte, data in _split(pieces):
        if isinstance(data, int):
            yield too_long(number, start_byte, data)
            continue
        if not data.strip():
            continue
        line = read_line(data, number, start_byte, endpoint)
        if line.error is None and line.custom_id is not None:
            digest = blake2b(line.custom_id.encode(), digest_size=16).digest()
            if digest in seen:
                line = duplicate(line)
            seen.add(digest)
        yield line


async def _split(pieces: AsyncIterator[bytes]) -> AsyncIterator[tuple[int, int, bytes | int]]:
    """Number, first byte and bytes of each line; of one that is too long, where it ends instead."""
    number, start_byte, at_byte = 1, 0, 0
    held = bytearray()
    async for piece in pieces:
        begin = 0
        while (end := piece.find(b"\n", begin)) >= 0:
            _hold(held, piece[begin:end])
            line_end = at_byte + end
            yield number, start_byte, _whole(held, line_end)
            held.clear()
            number, start_byte, begin = number + 1, line_end + 1, end + 1
        _hold(held, piece[begin:])
        at_byte += len(piece)
    if at_byte > start_byte:
        yield number, start_byte, _whole(held, at_byte)


def _hold(held: bytearray, data: bytes) -> None:
    """Keeps no more of a line than it takes to see that it is too long."""
    held += data[: MAX_LINE_BYTES + 1 - len(held)]


def _whole(held: bytearray, line_end: int) -> bytes | int:
    return line_end if len(held) > MAX_LINE_BYTES else bytes(held)
