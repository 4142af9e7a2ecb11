"""Limits on guessing: attempts per subject (an account, an address) in a window, in bounded memory.

Counted per process: with several control planes an attacker has that many times the attempts.
"""

from collections import OrderedDict
from ipaddress import IPv4Address, ip_address

from cloudcrest.kernel.clock import Clock
from cloudcrest.kernel.errors import LimitExceeded

_ONE_IPV6_CUSTOMER_BITS = 64


def guesser(address: str) -> str:
    """Who tries from an address: the address itself, and for IPv6 its /64, of which one customer has every address."""
    try:
        parsed = ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if isinstance(parsed, IPv4Address):
        return str(parsed)
    if parsed.ipv4_mapped is not None:
        return str(parsed.ipv4_mapped)
    shift = 128 - _ONE_IPV6_CUSTOMER_BITS
    return f"{type(parsed)(int(parsed) >> shift << shift)}/{_ONE_IPV6_CUSTOMER_BITS}"


class AttemptLimiter:
    """At most `attempts` per subject within `window_seconds`. Beyond `max_subjects`, the longest idle is forgotten."""

    def __init__(self, clock: Clock, *, attempts: int, window_seconds: float, max_subjects: int = 20_000) -> None:
        self._clock = clock
        self._attempts = attempts
        self._window_seconds = window_seconds
        self._max_subjects = max_subjects
        self._counts: OrderedDict[str, tuple[int, float]] = OrderedDict()

    def attempt(self, subject: str) -> None:
        """Counts an attempt before it is tried, so that parallel ones count too. Raises `LimitExceeded`."""
        now = self._clock.monotonic()
        count, window_end = self._counts.pop(subject, (0, 0.0))
        if now >= window_end:
            count, window_end = 0, now + self._window_seconds
        self._counts[subject] = (min(count + 1, self._attempts), window_end)
        while len(self._counts) > self._max_subjects:
            self._counts.popitem(last=False)
        if count >= self._attempts:
            raise LimitExceeded(
                "too many attempts",
                code="too_many_attempts",
                hint="wait, then try again",
                retry_after_seconds=window_end - now,
            )

    def forgive(self, subject: str) -> None:
        """Forgets a subject's attempts, after a good one."""
        self._counts.pop(subject, None)

    def __len__(self) -> int:
        return len(self._counts)
