"""Admission: buckets, concurrency, headers."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloudcrest.gateway.admit import Scope, admit, format_reset, limit_headers
from cloudcrest.identity.api import Limits
from cloudcrest.kernel.errors import LimitExceeded

steps = st.lists(
    st.tuples(st.floats(0, 30), st.integers(1, 200), st.integers(0, 400), st.integers(0, 3)), min_size=1, max_size=60
)


@given(per_minute=st.integers(1, 100), waits=st.lists(st.floats(0, 20), max_size=200))
def test_requests_over_any_time_stay_within_a_burst_and_the_rate(per_minute: int, waits: list[float]) -> None:
    scope = Scope("key", "key_1", Limits(requests_per_minute=per_minute), 0.0)
    now, admitted = 0.0, 0
    waits_told: list[float] = []
    for wait in waits:
        now += wait
        try:
            admit([scope], 1, now)
            admitted += 1
        except LimitExceeded as error:
            waits_told.append(error.retry_after_seconds or 0)
    assert all(seconds > 0 for seconds in waits_told)
    assert admitted <= per_minute + now * per_minute / 60 + 1e-6


@given(steps=steps)
def test_settled_tokens_leave_exactly_what_was_used(steps: list[tuple[float, int, int, int]]) -> None:
    """Without time passing, the level is the capacity less what was really used (never above the capacity)."""
    scope = Scope("project", "proj_1", Limits(tokens_per_minute=1_000, concurrent_requests=3), 0.0)
    level = 1_000.0
    open_grants = 0
    for _, estimate, used, _ in steps:
        try:
            grant = admit([scope], estimate, 0.0)
        except LimitExceeded:
            assert level < min(estimate, 1_000)
            continue
        open_grants += 1
        assert scope.concurrent == 1
        grant.settle(used)
        grant.settle(used)
        level = min(1_000.0, level - used)
        assert scope.tokens.level == pytest.approx(level)
    assert scope.concurrent == 0


def test_a_refusal_takes_nothing_from_any_scope() -> None:
    wide = Scope("organization", "org_1", Limits(requests_per_minute=100, tokens_per_minute=1_000), 0.0)
    narrow = Scope("key", "key_1", Limits(concurrent_requests=0), 0.0)
    with pytest.raises(LimitExceeded):
        admit([wide, narrow], 10, 0.0)
    assert (wide.requests.level, wide.tokens.level, wide.concurrent) == (100, 1_000, 0)


def test_concurrency_is_freed_when_a_request_ends() -> None:
    scope = Scope("model", "m", Limits(concurrent_requests=1), 0.0)
    grant = admit([scope], 1, 0.0)
    with pytest.raises(LimitExceeded, match="1 concurrent requests of this model"):
        admit([scope], 1, 0.0)
    grant.settle(1)
    admit([scope], 1, 0.0)


def test_a_request_larger_than_the_bucket_passes_when_it_is_full_and_is_paid_for_in_time() -> None:
    scope = Scope("key", "key_1", Limits(tokens_per_minute=60), 0.0)
    admit([scope], 600, 0.0).settle(120)
    with pytest.raises(LimitExceeded) as caught:
        admit([scope], 1, 0.0)
    assert caught.value.retry_after_seconds == pytest.approx(61)
    admit([scope], 1, 61.1)


def test_changed_limits_keep_the_share_that_is_left_and_what_runs() -> None:
    scope = Scope("key", "key_1", Limits(requests_per_minute=10), 0.0)
    for _ in range(5):
        admit([scope], 1, 0.0)
    scope.set_limits(Limits(requests_per_minute=100), 0.0)
    assert scope.requests.level == pytest.approx(50)
    assert scope.concurrent == 5
    scope.set_limits(Limits(), 0.0)
    assert limit_headers([scope], 0.0) == b""


def test_headers_show_the_tightest_scope() -> None:
    wide = Scope("organization", "org_1", Limits(requests_per_minute=100), 0.0)
    narrow = Scope("key", "key_1", Limits(requests_per_minute=60, tokens_per_minute=600), 0.0)
    admit([narrow, wide], 100, 0.0)
    lines = limit_headers([narrow, wide], 0.0).decode().split("\r\n")
    assert "x-ratelimit-limit-requests: 60" in lines
    assert "x-ratelimit-remaining-requests: 59" in lines
    assert "x-ratelimit-reset-requests: 1s" in lines
    assert "x-ratelimit-remaining-tokens: 500" in lines
    assert limit_headers([], 0.0) == b""
    only_tokens = Scope("project", "proj_1", Limits(tokens_per_minute=60), 0.0)
    assert limit_headers([only_tokens], 0.0) == (
        b"x-ratelimit-limit-tokens: 60\r\nx-ratelimit-remaining-tokens: 60\r\nx-ratelimit-reset-tokens: 0ms\r\n"
    )


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.0124, "12ms"), (0, "0ms"), (1, "1s"), (1.5, "1.5s"), (360, "6m0s"), (-1, "0ms")]
)
def test_reset_times_are_written_as_openai_does(seconds: float, text: str) -> None:
    assert format_reset(seconds).decode() == text


@given(seconds=st.floats(0, 10_000))
def test_reset_times_are_off_by_half_of_what_they_show_at_most(seconds: float) -> None:
    text = format_reset(seconds).decode()
    if text.endswith("ms"):
        shown, unit = float(text[:-2]) / 1_000, 0.001
    elif "m" in text:
        minutes, rest = text[:-1].split("m")
        assert int(rest) < 60
        shown, unit = int(minutes) * 60.0 + int(rest), 1.0
    else:
        shown, unit = float(text[:-1]), 0.1
        assert 1 <= shown < 60
    assert shown == pytest.approx(seconds, abs=unit / 2 + 1e-9)


@given(
    requests=st.floats(-5, 5),
    tokens=st.floats(-50, 50),
    capacity=st.integers(0, 50),
    wanted=st.integers(0, 80),
    running=st.integers(0, 3),
)
def test_a_request_is_admitted_if_nothing_is_short(
    requests: float, tokens: float, capacity: int, wanted: int, running: int
) -> None:
    limits = Limits(requests_per_minute=5, tokens_per_minute=capacity, concurrent_requests=2)
    scope = Scope("key", "key_1", limits, 0.0)
    scope.requests.level, scope.tokens.level, scope.concurrent = requests, min(tokens, float(capacity)), running
    waits = scope.requests.wait_seconds(1), scope.tokens.wait_seconds(wanted)
    before = scope.requests.level, scope.tokens.level, scope.concurrent
    try:
        admit([scope], wanted, 0.0)
    except LimitExceeded:
        assert running >= 2 or max(waits) > 0
        assert (scope.requests.level, scope.tokens.level, scope.concurrent) == before
    else:
        assert running < 2
        assert waits == (0.0, 0.0)
        assert (scope.requests.level, scope.tokens.level, scope.concurrent) == (
            before[0] - 1,
            before[1] - wanted,
            running + 1,
        )


def test_a_limit_of_zero_admits_nothing() -> None:
    scope = Scope("key", "key_1", Limits(requests_per_minute=0), 0.0)
    with pytest.raises(LimitExceeded):
        admit([scope], 1, 1_000.0)
    assert b"remaining-requests: 0\r\nx-ratelimit-reset-requests: 1m0s\r\n" in limit_headers([scope], 1_000.0)
