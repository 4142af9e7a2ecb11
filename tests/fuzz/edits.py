"""How input is made wrong: small edits of what is right, and cuts anywhere.

`CLOUDCREST_FUZZ_TIMES` (1): how many times as many examples are tried; `make fuzz` sets it.
"""

import itertools
import os
from collections.abc import Sequence
from typing import NamedTuple

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

TIMES = int(os.environ.get("CLOUDCREST_FUZZ_TIMES", "1"))

WORDS = (
    b"\r\n", b"\n", b"\r", b"\r\n\r\n", b"\n\n", b" ", b"\t", b"\0", b":", b": ", b"0", b"0\r\n\r\n", b"5\r\n",
    b"-1", b"+", b"ffffffffffffffff", b"1e9", b"Content-Length: 3\r\n", b"content-length:0\r\n",
    b"Transfer-Encoding: chunked\r\n", b"Transfer-Encoding : chunked\r\n", b"transfer-encoding: gzip, chunked\r\n",
    b"Connection: close\r\n", b"Host: b\r\n", b"Expect: 100-continue\r\n", b"GET / HTTP/1.1\r\n", b"HTTP/1.1",
    b"HTTP/1.0", b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 100 C\r\n\r\n", b"data: ", b"data:", b"data: [DONE]\n\n",
    b'"usage"', b'"usage":{"prompt_tokens":1,"completion_tokens":2}', b'"error"', b'"role"', b'"tool_calls":[{',
    b'"finish_reason":"', b"{", b"}", b"[", b"]", b'"', b"\\", b",", b"null", b"\xff", b"\xc3", b"\\ud800",
    b": comment\n", b"event: x\n",
)  # fmt: skip


class Edit(NamedTuple):
    """At a place, so many bytes less and these in their stead."""

    at: int
    drop: int
    put: bytes


edits = st.lists(
    st.builds(
        Edit,
        at=st.integers(0, 1 << 16),
        drop=st.integers(0, 8),
        put=st.one_of(st.sampled_from(WORDS), st.binary(max_size=4), st.just(b"")),
    ),
    max_size=4,
)
cuts = st.lists(st.integers(0, 1 << 16), max_size=8)


def edited(data: bytes, changes: Sequence[Edit]) -> bytes:
    """`data` with these edits, wherever they fall."""
    for change in changes:
        at = change.at % (len(data) + 1)
        data = data[:at] + change.put + data[at + change.drop :]
    return data


def pieces(data: bytes, places: Sequence[int]) -> list[bytes]:
    """`data` in pieces, none of them empty."""
    ends = sorted({0, len(data), *(place % (len(data) + 1) for place in places)})
    return [data[start:end] for start, end in itertools.pairwise(ends)]


def often(examples: int) -> settings:
    """So many examples, and more where more is asked for."""
    return settings(
        max_examples=examples * TIMES,
        deadline=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much],
    )
