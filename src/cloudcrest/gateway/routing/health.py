"""Which replicas are left out for a while because they fail or have become slow, and how new ones warm up. Pure."""

from collections.abc import Sequence
from statistics import median

import msgspec


class HealthRules(msgspec.Struct, frozen=True):
    """When a replica is ejected, and for how long: `ejection_seconds` times the number of ejections without a success
    for `max_ejection_seconds`, at most that. Never more than `max_ejected_share` of the replicas, and never all.
    """

    failures_in_a_row: int = 5
    slow_factor: float = 4.0
    slow_samples: int = 20
    slow_replicas_min: int = 3
    ejection_seconds: float = 10.0
    max_ejection_seconds: float = 300.0
    max_ejected_share: float = 0.5
    warm_up_seconds: float = 30.0
    cold_slowness: float = 5.0


class Health(msgspec.Struct):
    """One replica's record. `since`: when it was admitted (first, or again), monotonic seconds."""

    since: float = 0.0
    failures_in_a_row: int = 0
    slow_samples: int = 0
    ejections: int = 0
    ejected_until: float = 0.0


def is_ejected(health: Health, now: float) -> bool:
    return health.ejected_until > now


def to_eject(healths: Sequence[Health], slowness: Sequence[float], now: float, rules: HealthRules) -> list[int]:
    """The replicas to leave out from now on, worst first, within the share that may be.

    Failing: `failures_in_a_row`. Slow: over `slow_factor` times the median slowness of those in service.
    """
    allowed = int(len(healths) * rules.max_ejected_share) - sum(is_ejected(health, now) for health in healths)
    allowed = min(allowed, len(healths) - 1)
    if allowed <= 0:
        return []
    serving = [index for index, health in enumerate(healths) if not is_ejected(health, now)]
    failing = [index for index in serving if healths[index].failures_in_a_row >= rules.failures_in_a_row]
    failing.sort(key=lambda index: -healths[index].failures_in_a_row)
    slow: list[int] = []
    if len(serving) >= rules.slow_replicas_min:
        limit = rules.slow_factor * median(slowness[index] for index in serving)
        slow = [
            index
            for index in serving
            if slowness[index] > limit and healths[index].slow_samples >= rules.slow_samples and index not in failing
        ]
        slow.sort(key=lambda index: -slowness[index])
    return (failing + slow)[:allowed]


def ejected(health: Health, now: float, rules: HealthRules) -> Health:
    """Its record after it was ejected: readmitted later each time, as a new replica that warms up."""
    was_long_ago = now - health.ejected_until > rules.max_ejection_seconds
    ejections = 1 if was_long_ago else health.ejections + 1
    until = now + min(rules.ejection_seconds * ejections, rules.max_ejection_seconds)
    return Health(since=until, ejections=ejections, ejected_until=until)


def warmth(health: Health, now: float, rules: HealthRules) -> float:
    """How much slower a young replica is taken to be: `cold_slowness` at first, 1 once it is warm."""
    age = max(0.0, now - health.since)
    if age >= rules.warm_up_seconds:
        return 1.0
    return rules.cold_slowness + (1.0 - rules.cold_slowness) * age / rules.warm_up_seconds
