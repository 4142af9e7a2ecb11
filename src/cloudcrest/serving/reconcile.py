"""What to do next, so that the replicas that are become the replicas that are wanted: a pure function.

    wanted (deployments) ┐
    known  (replicas)    ├─► reconcile ─► start, restart, drain, stop … and when to look again
    now                  ┘

Rules: a replica is *live* from the decision to start it until it is gone. A deployment has at most `most` of them:
`replicas_max`, or one more than `replicas_min` while a new generation takes over from an old one that is serving. A
serving replica of an old generation, or on a node that is being drained, goes only where at least `replicas_min`
replicas are ready without it; one whose place another needs goes at once, and one whose node is lost is gone already.
Nothing here takes time or fails; the controller does that.
"""

from collections.abc import Sequence
from typing import Literal

import msgspec

from cloudcrest.serving.settings import ServingSettings

Phase = Literal["placing", "fetching", "preparing", "starting", "ready", "draining", "backoff", "stopping"]
Leaving = Literal["", "moves", "preempted", "lost"]
"""Why a replica has to leave its place: its node is being drained, another needs it, or the node is lost."""
_LEAVING = ("draining", "stopping")


class Wanted(msgspec.Struct, frozen=True):
    """What reconcile needs to know of a deployment."""

    deployment_id: str
    generation: int
    replicas_min: int
    replicas_max: int


class Known(msgspec.Struct, frozen=True):
    """What reconcile needs to know of a replica. Times are seconds of the monotonic clock.

    `since`: when it came into its phase. `retry_at`: when a replica in backoff is to be tried again. `in_flight`: the
    requests that a draining replica still works on, None where unknown.
    """

    id: str
    deployment_id: str
    generation: int
    phase: Phase
    since: float
    failures: int = 0
    retry_at: float = 0.0
    in_flight: int | None = None
    leaving: Leaving = ""


class Start(msgspec.Struct, frozen=True):
    """Make a new replica of this generation."""

    deployment_id: str
    generation: int


class Restart(msgspec.Struct, frozen=True):
    """Try a replica in backoff again."""

    replica_id: str


class Drain(msgspec.Struct, frozen=True):
    """Take a ready replica out of the route and let it finish."""

    replica_id: str


class Stop(msgspec.Struct, frozen=True):
    """End a replica and forget it."""

    replica_id: str


Action = Start | Restart | Drain | Stop


class Plan(msgspec.Struct, frozen=True):
    """What to do now, and the time by which something may be due although nothing happens (None: nothing is)."""

    actions: tuple[Action, ...]
    look_again_at: float | None


def reconcile(wanted: Sequence[Wanted], known: Sequence[Known], now: float, settings: ServingSettings) -> Plan:
    """The next steps towards what is wanted. Doing them and asking again converges."""
    actions: list[Action] = []
    waits: list[float] = []
    by_deployment: dict[str, list[Known]] = {}
    for replica in known:
        by_deployment.setdefault(replica.deployment_id, []).append(replica)
    for deployment in wanted:
        actions += _reconcile_one(deployment, by_deployment.pop(deployment.deployment_id, []), now)
    for replicas in by_deployment.values():
        actions += [_retire(replica) for replica in replicas if replica.phase not in _LEAVING]
    for replica in known:
        if replica.phase == "draining":
            due = now if replica.leaving == "lost" else _drain_ends_at(replica, settings)
            if due <= now:
                actions.append(Stop(replica.id))
            else:
                waits.append(due)
        elif replica.phase == "backoff" and replica.retry_at > now and not replica.leaving:
            waits.append(replica.retry_at)
    return Plan(tuple(actions), min(waits, default=None))


def backoff_seconds(failures: int, settings: ServingSettings) -> float:
    """How long to wait after the `failures`-th failure in a row (from 1): 1, 2, 4 … up to the most."""
    doublings = min(max(failures, 1) - 1, 30)
    return min(settings.backoff_first_seconds * 2.0**doublings, settings.backoff_most_seconds)


def failures_after(failures: int, healthy_seconds: float | None, settings: ServingSettings) -> int:
    """The failures in a row after one more: a replica that was healthy long enough starts counting anew."""
    if healthy_seconds is not None and healthy_seconds >= settings.healthy_after_seconds:
        return 1
    return failures + 1


def _reconcile_one(deployment: Wanted, replicas: list[Known], now: float) -> list[Action]:
    target = deployment.replicas_min
    there = [replica for replica in replicas if replica.phase not in _LEAVING]
    evicted = [replica for replica in there if replica.leaving in ("preempted", "lost")]
    staying = [replica for replica in there if replica not in evicted]
    old = [replica for replica in staying if replica.generation != deployment.generation or replica.leaving]
    # Those that do not serve come first, then the youngest: the order in which they are given up.
    current = [replica for replica in staying if replica not in old]
    current.sort(key=lambda replica: (replica.phase == "ready", -replica.since, replica.id))
    surplus, current = current[: max(0, len(current) - target)], current[max(0, len(current) - target) :]

    stopped = [replica for replica in old if replica.phase != "ready"]
    old_ready = sorted(
        (replica for replica in old if replica.phase == "ready"), key=lambda replica: (replica.since, replica.id)
    )
    ready = sum(1 for replica in current if replica.phase == "ready")
    # The old serve until the new do, one for one.
    replaced = old_ready[: len(old_ready) if ready >= target else max(0, ready + len(old_ready) - target)]

    most = max(deployment.replicas_max, target + 1 if old_ready else 0)
    held = sum(1 for replica in replicas if replica.leaving != "lost")
    missing = min(target - len(current), most - held)
    return [
        *(_retire(replica) for replica in [*evicted, *stopped, *surplus, *replaced]),
        *(Start(deployment.deployment_id, deployment.generation) for _ in range(missing)),
        *(Restart(replica.id) for replica in current if replica.phase == "backoff" and replica.retry_at <= now),
    ]


def _retire(replica: Known) -> Action:
    return Drain(replica.id) if replica.phase == "ready" and replica.leaving != "lost" else Stop(replica.id)


def _drain_ends_at(replica: Known, settings: ServingSettings) -> float:
    """When a draining replica may be stopped: idle and past the least wait, or past the most."""
    seconds = settings.drain_least_seconds if replica.in_flight == 0 else settings.drain_most_seconds
    return replica.since + seconds
