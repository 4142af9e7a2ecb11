"""An event as its records hold it: the values of its fields in their order, without their names.

Much of it is the same in thousands of records. That is made JSON once: a row may hold consecutive values joined.
"""

from typing import Any

import msgspec
from msgspec.structs import astuple

from cloudcrest.kernel.usage import UsageEvent

Row = tuple[Any, ...]
"""The values, first the id; in place of some that follow each other it may have what `joined` made of them."""

_encoder = msgspec.json.Encoder()
encode = _encoder.encode
"""The JSON of a row."""
encode_into = _encoder.encode_into
"""The same into a `bytearray`, which is then as long as it: a third cheaper."""


class _EventRow(UsageEvent, frozen=True, array_like=True):
    """An event without its fields' names. Older rows stay readable where a field is added last, with a default."""


_decode = msgspec.json.Decoder(_EventRow).decode


def row_of(event: UsageEvent) -> Row:
    """The row of an event."""
    return astuple(event)


def joined(*values: str) -> msgspec.Raw:
    """Consecutive values of a row, as JSON."""
    return msgspec.Raw(encode(values)[1:-1])


def event_of(encoded: bytes | bytearray) -> UsageEvent:
    """The event of an encoded row. Raises `ValueError`."""
    return UsageEvent(*astuple(_decode(encoded)))
