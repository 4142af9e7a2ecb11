"""Request ids: `req_` and a ULID, as kernel/ids.py makes them, with the randomness taken in batches."""

import os
from collections.abc import Callable
from typing import Final

from cloudcrest.kernel.ids import encode_ulid

_CROCKFORD: Final = "0123456789abcdefghjkmnpqrstvwxyz"
_TO_CROCKFORD: Final = _CROCKFORD.encode() * 8  # 256 bytes: of each random byte five bits count
_PAIRS: Final = [first + second for first in _CROCKFORD for second in _CROCKFORD]
_COARSE_CHARACTERS: Final = 8
_RANDOM_CHARACTERS: Final = 16
_BATCH: Final = 256


class RequestIds:
    """A worker's. `random_bytes(n)` gives n random bytes (the operating system's); each is used once."""

    def __init__(self, random_bytes: Callable[[int], bytes] = os.urandom) -> None:
        self._random_bytes = random_bytes
        self._random = ""
        self._position = 0
        self._coarse = -1
        self._prefix = ""

    def make(self, unix_seconds: float) -> str:
        """A fresh id that sorts by its time, to the millisecond."""
        milliseconds = int(unix_seconds * 1000)
        if milliseconds >> 10 != self._coarse:
            self._coarse = milliseconds >> 10
            self._prefix = "req_" + encode_ulid(milliseconds, 0)[:_COARSE_CHARACTERS]
        start = self._position
        if start == len(self._random):
            batch = self._random_bytes(_BATCH * _RANDOM_CHARACTERS)
            self._random, start = batch.translate(_TO_CROCKFORD).decode(), 0
        self._position = end = start + _RANDOM_CHARACTERS
        return f"{self._prefix}{_PAIRS[milliseconds & 1023]}{self._random[start:end]}"
