"""The choice of a replica: least expected time to the first token, for this request and those that follow it. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

UTILIZATION_WINDOW_SECONDS: Final = 120.0
_MAX_UTILIZATION: Final = 0.9
_SHARE_HURT: Final = 0.5
_BALANCE_WEIGHT: Final = 1.0
PATIENCE: Final = 0.1
"""Replicas that order their queue forgive this many seconds of prefill for each second waited."""
_OWN_WEIGHT: Final = 1.25
"""Prefill that another replica's cache would have spared also takes cache room from others."""
_NEVER: Final = float("inf")


@dataclass
class Fleet:
    """What the choice looks at, by replica index; the owner keeps it up to date.

    queue_ends_at: when the prefill work sent to it is expected to be done, monotonic seconds.
    slot_wait: seconds that a request waits there besides, for a slot.
    slowness: its prefill time over the others'; a warming-up replica is slower, too.
    assigned: recent prefill seconds sent to it, in a unit that `assigned_scale` turns into a share of its time, 0…1.
    waiting: for replicas that order their queue: [rank, prefill seconds left, as of when] of each request without a
    first token, rank = seconds left + 0.1 · arrival time; the least goes first.
    arrivals_per_second, utilization: averages over the replicas.
    """

    queue_ends_at: list[float]
    slot_wait: list[float]
    slowness: list[float]
    assigned: list[float]
    waiting: list[list[list[float]]]
    assigned_scale: float = 1.0
    arrivals_per_second: float = 0.0
    utilization: float = 0.0
    orders_queue: bool = False


def choose(fleet: Fleet, seconds: Sequence[float], *, now: float, turn: int, eligible: int) -> int:
    """The replica with the least cost of those in `eligible`, a mask that names one at least; ties rotate with `turn`.

    seconds: by replica, the request's prefill at the others' pace with what that one holds of its prefix.

    In order of arrival, cost = wait + prefill + what others will wait longer for it + a little for work sent of late.
    The third term: half of those who come while the queue and this prefill last (at rate λ, for a time stretched by
    1/(1−ρ)) wait for a part of it; λ/(2(1−ρ)) · (2·wait·prefill + prefill²) seconds of others' time.
    Where replicas order their queue, only those that the request overtakes are hurt.
    """
    costs = _ordered_costs(fleet, seconds, now) if fleet.orders_queue else arrival_costs(fleet, seconds, now)
    count = len(costs)
    if eligible != (1 << count) - 1:
        costs = [cost if eligible >> index & 1 else _NEVER for index, cost in enumerate(costs)]
    return least_of(costs, turn)


def least_of(costs: list[float], turn: int) -> int:
    """Where the least cost is; ties rotate with `turn`."""
    first, least = 0, costs[0]
    for index, cost in enumerate(costs):
        if cost < least:
            first, least = index, cost
    start = turn % len(costs)
    if first >= start or least not in costs[start:]:
        return first
    return costs.index(least, start)


def arrival_costs(fleet: Fleet, seconds: Sequence[float], now: float) -> list[float]:
    """The costs of replicas that work in order of arrival, as `choose` weighs them."""
    hurt = _SHARE_HURT * fleet.arrivals_per_second / (2 * (1 - min(fleet.utilization, _MAX_UTILIZATION)))
    weight = _BALANCE_WEIGHT * fleet.assigned_scale
    return [
        (wait := (end - now if end > now else 0.0) + slot_wait)
        + (own := prefill * slowness) * (_OWN_WEIGHT + hurt * (wait + wait + own))
        + weight * assigned
        for prefill, end, slot_wait, slowness, assigned in zip(
            seconds, fleet.queue_ends_at, fleet.slot_wait, fleet.slowness, fleet.assigned, strict=True
        )
    ]


def _ordered_costs(fleet: Fleet, seconds: Sequence[float], now: float) -> list[float]:
    weight = _BALANCE_WEIGHT * fleet.assigned_scale
    costs = []
    for prefill, waiting, slot_wait, slowness, assigned in zip(
        seconds, fleet.waiting, fleet.slot_wait, fleet.slowness, fleet.assigned, strict=True
    ):
        cost = prefill
        if waiting:
            rank = prefill + PATIENCE * now
            for other_rank, left, _ in waiting:
                cost += left if other_rank <= rank else prefill
        costs.append(slot_wait + cost * slowness + weight * assigned)
    return costs


def work_off(waiting: list[list[float]], slowness: float, now: float) -> None:
    """Brings an ordered queue up to `now`: the least rank is worked on, then the next."""
    done = (now - waiting[0][2]) / slowness
    for entry in sorted(waiting) if done > 0 else ():
        part = min(done, entry[1])
        entry[0] -= part
        entry[1] -= part
        done -= part
    for entry in waiting:
        entry[2] = now
