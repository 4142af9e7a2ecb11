"""How long a request may take: the least of what is asked for and what is allowed."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloudcrest.gateway.admit import Scope
from cloudcrest.gateway.deadline import least_timeout, set_deadline
from cloudcrest.gateway.request import Request
from cloudcrest.identity.api import Limits
from cloudcrest.kernel.errors import InvalidInput

Seconds = st.integers(1, 10_000)


def request(timeout: bytes | None = None) -> Request:
    headers = [(b"host", b"a")] + ([] if timeout is None else [(b"x-request-timeout-ms", timeout)])
    made = Request(b"POST", b"/v1/chat/completions", "1.1", headers, True)
    made.read_head()
    return made


@given(most=Seconds, scopes=st.lists(st.none() | Seconds, max_size=4), asked=st.none() | st.integers(1, 10**9))
def test_the_least_of_all_holds(most: int, scopes: list[int | None], asked: int | None) -> None:
    made = request(None if asked is None else b"%d" % asked)
    limits = [Scope("key", "k", Limits(request_timeout_seconds=seconds), 0.0) for seconds in scopes]
    set_deadline(made, least_timeout(limits), most, 100.0)
    allowed = [most, *[seconds for seconds in scopes if seconds is not None], *([asked / 1000] if asked else [])]
    assert made.timeout_seconds == min(allowed)
    assert made.deadline == 100.0 + min(allowed)


@pytest.mark.parametrize("value", [b"", b"0", b"-1", b"1.5", b"ten", b"1e3", b"9" * 13, "\u0663".encode()])
def test_what_is_no_time_is_refused_by_name(value: bytes) -> None:
    with pytest.raises(InvalidInput, match="whole number of milliseconds") as caught:
        set_deadline(request(value), 10.0, 10.0, 0.0)
    assert caught.value.param == "x-request-timeout-ms"
