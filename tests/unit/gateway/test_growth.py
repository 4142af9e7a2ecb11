"""How fast load may grow."""

from itertools import pairwise
from math import log

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloudcrest.gateway.admit import OverLimit, Scope, admit
from cloudcrest.gateway.growth import BURST_SECONDS, FORGOTTEN_AFTER_SECONDS, Ramp
from cloudcrest.identity.api import Limits


def offer(ramp: Ramp, start: float, seconds: float, per_second: float) -> int:
    """How many of a steady load are admitted."""
    admitted = 0
    for number in range(round(seconds * per_second)):
        if ramp.wait_seconds(start + number / per_second) == 0:
            ramp.take()
            admitted += 1
    return admitted


@given(
    percent=st.integers(1, 300),
    floor=st.integers(1, 600),
    waits=st.lists(st.floats(0, 30), min_size=1, max_size=150),
    burst=st.integers(1, 20),
)
def test_what_is_admitted_never_grows_faster_than_said(
    percent: int, floor: int, waits: list[float], burst: int
) -> None:
    ramp = Ramp(percent, floor, 0.0)
    now, admitted, factor = 0.0, 0, 1 + percent / 100
    for wait in waits:
        now += wait
        for _ in range(burst):
            if ramp.wait_seconds(now) == 0:
                ramp.take()
                admitted += 1
        allowed = floor * factor ** (now / 60)
        since_the_start = floor * (factor ** (now / 60) - 1) / log(factor)
        assert admitted <= since_the_start + max(1.0, allowed * BURST_SECONDS / 60) + 1e-6
        assert floor <= ramp.allowed_per_minute <= allowed + 1e-6


def test_a_load_that_keeps_pushing_doubles_each_minute() -> None:
    ramp = Ramp(100, 60, 0.0)
    minutes = [offer(ramp, 60.0 * minute, 60, 50) for minute in range(5)]
    for before, after in pairwise(minutes[1:]):
        assert 1.6 <= after / before <= 2.1
    assert minutes[0] <= 2 * 60 + 10


def test_a_steady_load_is_never_refused_once_it_is_there_and_a_rest_takes_it_back() -> None:
    ramp = Ramp(100, 60, 0.0)
    offer(ramp, 0, 300, 10)
    assert offer(ramp, 300, 120, 10) == 1200
    assert ramp.allowed_per_minute <= 2 * 600 * 1.05
    assert ramp.wait_seconds(420 + FORGOTTEN_AFTER_SECONDS) == 0
    assert ramp.allowed_per_minute == 60


def test_up_to_the_floor_growth_is_free() -> None:
    ramp = Ramp(1, 600, 0.0)
    assert offer(ramp, 0, 60, 10) == 600


def test_the_refusal_says_what_is_possible_and_has_a_code_of_its_own() -> None:
    scope = Scope("organization", "org_1", Limits(growth_percent_per_minute=50), 0.0)
    for _ in range(10):
        admit([scope], 1, 0.0)
    with pytest.raises(OverLimit) as caught:
        admit([scope], 1, 0.0)
    assert (caught.value.status, caught.value.code) == (429, "limit_burst_rate")
    assert "grows by more than 50 % a minute: about 60 requests per minute" in caught.value.message
    assert caught.value.retry_after_seconds == pytest.approx(1)
    admit([scope], 1, 1.0)


def test_a_changed_limit_keeps_the_load_in_mind() -> None:
    scope = Scope("key", "key_1", Limits(growth_percent_per_minute=100), 0.0)
    assert scope.growth is not None
    offer(scope.growth, 0, 180, 20)
    allowed = scope.growth.allowed_per_minute
    scope.set_limits(Limits(growth_percent_per_minute=50, growth_floor_requests_per_minute=10), 180)
    assert scope.growth.allowed_per_minute == allowed > 300
    scope.set_limits(Limits(), 180)
    assert scope.growth is None
