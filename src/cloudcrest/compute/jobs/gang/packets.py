"""The private network of an attempt's members: who has which address, and which packets pass. Pure.

Packets are whole IPv4 packets (RFC 791). In a stream they follow each other with nothing between them: each says its
own length. Those with options, which lead elsewhere or nowhere, do not pass, and neither does anything else than IPv4.
"""

import struct

DEVICE = "gang0"
PREFIX_BITS = 16
MTU_BYTES = 65_520
MEMBERS_MOST = 256
_NETWORK = 10 << 24 | 77 << 16
_HEAD = struct.Struct(">BxH8xII")
"""Version and length of the header, length of all, source, destination."""
_PLAIN = 0x45
"""IPv4, and a header of five words: without options."""


def number_of(member: int) -> int:
    """A member's address as a number. Raises `ValueError` where there can be no such member."""
    if not 0 <= member < MEMBERS_MOST:
        raise ValueError(f"a gang has at most {MEMBERS_MOST} members, there is no member {member}")
    return _NETWORK + member + 1


def address_of(member: int) -> str:
    """A member's address, from 10.77.0.1 on. Raises `ValueError`."""
    number = number_of(member)
    return ".".join(str(number >> shift & 255) for shift in (24, 16, 8, 0))


def destination_of(packets: bytes | bytearray | memoryview, begin: int, end: int, source: int) -> int:
    """Where a packet from this source goes that is all of [begin, end); 0: it does not pass."""
    if end - begin < _HEAD.size:
        return 0
    kind, size, sender, destination = _HEAD.unpack_from(packets, begin)
    return destination if kind == _PLAIN and size == end - begin and sender == source else 0


def cut(
    stream: bytes | bytearray | memoryview, end: int, source: int, destination: int
) -> tuple[list[tuple[int, int]], int]:
    """The packets in stream[:end] that are whole, go from this source to this destination and so pass, as [begin, end);
    and where the first begins that is not whole yet. Raises `ValueError` where that is no stream of packets.
    """
    passing, at = [], 0
    while end - at >= _HEAD.size:
        kind, size, sender, receiver = _HEAD.unpack_from(stream, at)
        if kind != _PLAIN or not _HEAD.size <= size <= MTU_BYTES:
            raise ValueError("what came is no packet that is carried here")
        if at + size > end:
            break
        if sender == source and receiver == destination:
            passing.append((at, at + size))
        at += size
    return passing, at
