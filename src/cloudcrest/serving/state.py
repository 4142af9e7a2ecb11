"""How a deployment is, from what its region reports of its replicas: a pure function."""

from collections.abc import Sequence
from datetime import datetime

from cloudcrest.regions.api import LINK_STALE_AFTER
from cloudcrest.serving.api import DeploymentState, ReplicaStatus
from cloudcrest.serving.records import Deployment, ReportedReplica

_ON_THE_WAY = ("placing", "fetching", "preparing", "starting")
_DOING = {
    "placing": "it waits for a place",
    "fetching": "its weights are being fetched",
    "preparing": "its runtime is being made",
    "starting": "it is starting",
}


def summarise(
    deployment: Deployment, replicas: Sequence[ReportedReplica], now: datetime
) -> tuple[DeploymentState, str | None]:
    """The state, and a sentence for every state but a plain `ready` or `stopped`.

    `ready`: as many replicas as wanted serve. `degraded`: fewer do, or the region is silent. `starting`: none does yet,
    and one is on its way. `failed`: none does, and each has failed. `pending`: the region has not picked it up.
    """
    statuses = [replica.status for replica in replicas]
    ready = [status for status in statuses if status.state == "ready"]
    if deployment.replicas_min == 0:
        return ("starting", "its last replicas are being stopped") if statuses else ("stopped", None)
    if not statuses:
        return "pending", f"region '{deployment.region}' has not picked it up yet"
    if all(now - replica.reported_at >= LINK_STALE_AFTER for replica in replicas):
        return "degraded", f"region '{deployment.region}' has stopped reporting; what it last said may be out of date"
    if len(ready) >= deployment.replicas_min:
        is_current = all(status.generation == deployment.generation for status in ready)
        return "ready", None if is_current else _replacing(deployment, statuses)
    newest = _most_telling(statuses)
    if ready:
        return "degraded", f"{len(ready)} of {deployment.replicas_min} replicas are ready: {_why(newest)}"
    if newest.state in _ON_THE_WAY and not newest.restarts:
        return "starting", _why(newest)
    if any(status.state in ("backoff", "failed") or status.restarts for status in statuses):
        return "failed", _why(newest)
    return "starting", _why(newest)


def _replacing(deployment: Deployment, statuses: Sequence[ReplicaStatus]) -> str:
    """What a rolling replacement waits for, while the replicas before it serve."""
    coming = [status for status in statuses if status.generation == deployment.generation and status.state != "ready"]
    return f"its latest change is being rolled out: {_why(coming[0]) if coming else 'it is about to start'}"


def _most_telling(statuses: Sequence[ReplicaStatus]) -> ReplicaStatus:
    """Of those not ready, the newest generation's, first one with a reason."""
    waiting = [status for status in statuses if status.state != "ready"] or list(statuses)
    return max(waiting, key=lambda status: (status.generation, status.reason is not None, status.id))


def _why(status: ReplicaStatus) -> str:
    return status.reason or _DOING.get(status.state, f"it is {status.state}")
