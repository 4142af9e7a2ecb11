"""Prefixed ids that sort by creation time: `org_01jd…`.

The part after the prefix is a ULID (https://github.com/ulid/spec): 48 bits of Unix milliseconds, 80 random bits, in
Crockford's base32, lower case.
"""

import secrets
from collections.abc import Callable

from cloudcrest.kernel.clock import Clock, SystemClock

_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"
_ULID_CHARACTERS = 26
_RANDOM_BITS = 80

NewId = Callable[[str], str]
"""Makes a fresh id for a prefix: `new_id("org")`."""


def encode_ulid(unix_milliseconds: int, random_bits: int) -> str:
    """26 characters that sort as (time, random) does."""
    value = (unix_milliseconds << _RANDOM_BITS) | random_bits
    return "".join(_ALPHABET[(value >> shift) & 31] for shift in range((_ULID_CHARACTERS - 1) * 5, -1, -5))


def id_maker(clock: Clock | None = None, random_bits: Callable[[int], int] = secrets.randbits) -> NewId:
    """A `new_id` over the given clock and source of randomness (`random_bits(80)` gives an int below 2**80)."""
    source = clock or SystemClock()

    def new_id(prefix: str) -> str:
        milliseconds = int(source.now().timestamp() * 1000)
        return f"{prefix}_{encode_ulid(milliseconds, random_bits(_RANDOM_BITS))}"

    return new_id


new_id: NewId = id_maker()
"""The process's own: system clock, operating system randomness."""
