"""How a deployment is, from what its region reports."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from cloudcrest.identity.api import Limits
from cloudcrest.serving.api import ReplicaStatus
from cloudcrest.serving.records import Deployment, ReportedReplica
from cloudcrest.serving.state import summarise
from tests.unit.serving.documents import MODEL

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def wanted(low: int = 1, generation: int = 1) -> Deployment:
    return Deployment(
        id="dep_1",
        name="tiny",
        model=MODEL,
        engine="llamacpp",
        engine_options={},
        region="local",
        generation=generation,
        replicas_min=low,
        replicas_max=max(low, 1),
        context_tokens=1024,
        slots=1,
        memory_bytes=None,
        cpu_threads=None,
        organization_id=None,
        limits=Limits(),
        weight=100,
        created_at=NOW,
        updated_at=NOW,
    )


def reported(state: Any, *, age_seconds: float = 1, **rest: Any) -> ReportedReplica:
    fields = {"id": "rep_1", "deployment_id": "dep_1", "generation": 1, "state": state} | rest
    return ReportedReplica(ReplicaStatus(**fields), NOW - timedelta(seconds=age_seconds))


@pytest.mark.parametrize(
    ("low", "replicas", "state", "says"),
    [
        (0, [], "stopped", None),
        (0, [reported("draining")], "starting", "being stopped"),
        (1, [], "pending", "has not picked it up"),
        (1, [reported("fetching")], "starting", "weights are being fetched"),
        (1, [reported("preparing", reason="makes the runtime")], "starting", "makes the runtime"),
        (1, [reported("backoff", reason="needs memory")], "failed", "needs memory"),
        (1, [reported("starting", restarts=3, reason="exited with code 1")], "failed", "exited with code 1"),
        (1, [reported("ready")], "ready", None),
        (2, [reported("ready"), reported("backoff", id="rep_2", reason="crashed")], "degraded", "1 of 2"),
        (1, [reported("ready", age_seconds=100)], "degraded", "stopped reporting"),
    ],
)
def test_summarises(low: int, replicas: list[ReportedReplica], state: str, says: str | None) -> None:
    found, reason = summarise(wanted(low), replicas, NOW)
    assert found == state
    assert reason == says or (says is not None and says in (reason or ""))


def test_a_change_that_is_rolled_out_is_told_while_the_old_serve() -> None:
    replicas = [reported("ready"), reported("starting", id="rep_2", generation=2, reason="is loading its weights")]
    state, reason = summarise(wanted(generation=2), replicas, NOW)
    assert (state, reason) == ("ready", "its latest change is being rolled out: is loading its weights")
