"""How two runners of an attempt know each other: both prove that they have its key, and neither sends it.

    dialer   ─ hello: magic, who dials, who is dialled, a nonce ─►   listener
             ◄─ a nonce, proof over both nonces ──────────────────
             ─ proof over both nonces ───────────────────────────►   packets from here on, both ways

A proof is HMAC-SHA-256 (RFC 2104) over the side that makes it, both members and both nonces, so none of another
connection, side or attempt counts here.
"""

import asyncio
import hashlib
import hmac
import os
import socket
import struct

_MAGIC = b"ccgang1\n"
_HELLO = struct.Struct("!8sHH32s")
NONCE_BYTES = PROOF_BYTES = 32


class Refused(Exception):
    """The other side is no member of this attempt, or not the one that was meant."""


async def dial(connection: socket.socket, key: bytes, own: int, other: int) -> None:
    """The dialer's side. Raises `Refused`, `OSError`."""
    loop = asyncio.get_running_loop()
    nonce = os.urandom(NONCE_BYTES)
    await loop.sock_sendall(connection, _HELLO.pack(_MAGIC, own, other, nonce))
    answer = await _read(connection, NONCE_BYTES + PROOF_BYTES)
    theirs, proof = answer[:NONCE_BYTES], answer[NONCE_BYTES:]
    if not hmac.compare_digest(proof, _proof(key, b"listener", own, other, nonce + theirs)):
        raise Refused("what listens there has not the key of this attempt")
    await loop.sock_sendall(connection, _proof(key, b"dialer", own, other, nonce + theirs))


async def listen(connection: socket.socket, key: bytes, own: int) -> int:
    """The listener's side; who dialled. Raises `Refused`, `OSError`."""
    loop = asyncio.get_running_loop()
    magic, other, meant, theirs = _HELLO.unpack(await _read(connection, _HELLO.size))
    if magic != _MAGIC or meant != own:
        raise Refused("it speaks of something else")
    nonce = os.urandom(NONCE_BYTES)
    await loop.sock_sendall(connection, nonce + _proof(key, b"listener", other, own, theirs + nonce))
    proof = await _read(connection, PROOF_BYTES)
    if not hmac.compare_digest(proof, _proof(key, b"dialer", other, own, theirs + nonce)):
        raise Refused("who dials has not the key of this attempt")
    return int(other)


def _proof(key: bytes, side: bytes, dialer: int, listener: int, nonces: bytes) -> bytes:
    words = struct.pack("!8sHH", side, dialer, listener) + nonces
    return hmac.new(key, words, hashlib.sha256).digest()


async def _read(connection: socket.socket, size: int) -> bytes:
    """Exactly so many bytes: what follows is for others to read."""
    loop, found = asyncio.get_running_loop(), b""
    while len(found) < size:
        piece = await loop.sock_recv(connection, size - len(found))
        if not piece:
            raise Refused("it hung up")
        found += piece
    return found
