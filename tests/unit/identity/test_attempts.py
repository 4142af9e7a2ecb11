"""Limits on guessing."""

import pytest

from cloudcrest.identity.attempts import AttemptLimiter, guesser
from cloudcrest.kernel.clock import ManualClock
from cloudcrest.kernel.errors import LimitExceeded


def test_beyond_the_limit_one_waits_for_the_window(clock: ManualClock) -> None:
    limiter = AttemptLimiter(clock, attempts=2, window_seconds=60)
    limiter.attempt("ada")
    clock.advance(30)
    limiter.attempt("ada")
    with pytest.raises(LimitExceeded) as refused:
        limiter.attempt("ada")
    assert refused.value.retry_after_seconds == 30
    limiter.attempt("bob")
    clock.advance(30)
    limiter.attempt("ada")


def test_refused_attempts_do_not_prolong_the_wait(clock: ManualClock) -> None:
    limiter = AttemptLimiter(clock, attempts=1, window_seconds=60)
    limiter.attempt("ada")
    for _ in range(5):
        clock.advance(10)
        with pytest.raises(LimitExceeded):
            limiter.attempt("ada")
    clock.advance(10)
    limiter.attempt("ada")


def test_a_good_attempt_is_forgiven(clock: ManualClock) -> None:
    limiter = AttemptLimiter(clock, attempts=1, window_seconds=60)
    for _ in range(3):
        limiter.attempt("ada")
        limiter.forgive("ada")


def test_memory_is_bounded_and_the_busy_are_remembered(clock: ManualClock) -> None:
    limiter = AttemptLimiter(clock, attempts=3, window_seconds=60, max_subjects=10)
    for number in range(100):
        if number < 3:
            limiter.attempt("busy")
        else:
            with pytest.raises(LimitExceeded):
                limiter.attempt("busy")
        limiter.attempt(f"passer-by {number}")
    assert len(limiter) == 10


@pytest.mark.parametrize(
    ("address", "counted_as"),
    [
        ("203.0.113.7", "203.0.113.7"),
        ("::ffff:203.0.113.7", "203.0.113.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2::1", "2001:db8:1:2::/64"),
        ("2001:db8:1:3::1", "2001:db8:1:3::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("unknown", "unknown"),
    ],
)
def test_the_addresses_of_one_customer_are_one_guesser(address: str, counted_as: str) -> None:
    assert guesser(address) == counted_as
