"""One replica as the controller knows it, and what others are told of it."""

import hashlib
import hmac
from collections.abc import Iterable, Mapping

from cloudcrest.catalog.api import PullProgress
from cloudcrest.compute.scheduler.model import Refused, Running
from cloudcrest.serving.api import (
    DeploymentDocument,
    ReplicaEndpoint,
    ReplicaState,
    ReplicaStatus,
    RouteDocument,
)
from cloudcrest.serving.reconcile import Known, Leaving, Phase


class Replica:
    """A replica's present. `document` is the desired state that it was started for.

    `visible_from`: the number of the first listing of the fabric that must show its process. `leave_by_unix_seconds`:
    when it is stopped at the latest, once it is being drained. `running`: its place, None while it waits for one.
    `address`: of its node. `has_no_place`: no node of the region could ever hold it.
    """

    def __init__(self, replica_id: str, document: DeploymentDocument, *, generation: int, since: float) -> None:
        self.id = replica_id
        self.document = document
        self.generation = generation
        self.phase: Phase = "placing"
        self.running: Running | None = None
        self.leaving: Leaving = ""
        self.has_no_place = False
        self.since = since
        self.reason: str | None = None
        self.pull: PullProgress | None = None
        self.address = "127.0.0.1"
        self.port = 0
        self.visible_from = 0
        self.restarts = 0
        self.failures = 0
        self.last_failure: str | None = None
        self.retry_at = 0.0
        self.in_flight: int | None = None
        self.leave_by_unix_seconds: float | None = None
        self.probed_at = float("-inf")
        self.unanswered = 0

    @property
    def has_process(self) -> bool:
        """Whether a process of it should be running."""
        return self.phase in ("starting", "ready", "draining")

    @property
    def url(self) -> str:
        host = f"[{self.address}]" if ":" in self.address else self.address
        return f"http://{host}:{self.port}"

    @property
    def node_id(self) -> str:
        return "" if self.running is None else self.running.spots[0].node_id

    def enter(self, phase: Phase, now: float, reason: str | None = None) -> None:
        """Comes into a phase."""
        self.phase = phase
        self.since = now
        self.reason = reason
        self.unanswered = 0

    def waits(self, refused: Refused | None) -> None:
        """It waits for a place, and why (None: it is about to get one)."""
        self.reason = None if refused is None else f"waits for a place: {refused.reason}"
        self.has_no_place = refused is not None and refused.code == "impossible"

    def known(self) -> Known:
        """What reconcile sees of it."""
        return Known(
            id=self.id,
            deployment_id=self.document.id,
            generation=self.generation,
            phase=self.phase,
            since=self.since,
            failures=self.failures,
            retry_at=self.retry_at,
            in_flight=self.in_flight,
            leaving=self.leaving,
        )

    def status(self) -> ReplicaStatus:
        """What the control plane is told of it."""
        state: ReplicaState = "draining" if self.phase == "stopping" else self.phase
        return ReplicaStatus(
            id=self.id,
            deployment_id=self.document.id,
            generation=self.generation,
            state="failed" if self.phase == "placing" and self.has_no_place else state,
            restarts=self.restarts,
            reason=self.reason,
            pull=self.pull if self.phase == "fetching" else None,
            node_id=self.node_id,
        )


def replica_token(secret: str, replica_id: str) -> str:
    """The token that a replica's callers send: it follows from the region's secret, so it need not be kept anywhere."""
    return hmac.new(secret.encode(), f"replica:{replica_id}".encode(), hashlib.sha256).hexdigest()


def routes_of(
    deployments: Iterable[DeploymentDocument], replicas: Iterable[Replica], secret: str
) -> dict[str, RouteDocument]:
    """The route of each deployment, by its id, over the replicas that are ready, and those that still finish.

    A route has one engine: while another engine takes over, the old one's replicas serve until the new has one ready.
    """
    by_deployment: dict[str, list[Replica]] = {}
    for replica in replicas:
        by_deployment.setdefault(replica.document.id, []).append(replica)
    return {document.id: _route(document, by_deployment.get(document.id, []), secret) for document in deployments}


def _route(document: DeploymentDocument, replicas: list[Replica], secret: str) -> RouteDocument:
    ready = [replica for replica in replicas if replica.phase == "ready"]
    newest = [replica for replica in ready if replica.generation == document.generation]
    leading = newest[0].document if newest else ready[0].document if ready else document
    endpoints = tuple(
        ReplicaEndpoint(
            id=replica.id,
            url=replica.url,
            token=replica_token(secret, replica.id),
            slots=replica.document.slots,
            leave_by_unix_seconds=replica.leave_by_unix_seconds if replica.phase == "draining" else None,
        )
        for replica in sorted(replicas, key=lambda replica: replica.id)
        if replica.phase in ("ready", "draining") and replica.document.engine == leading.engine
    )
    return RouteDocument(
        model_name=document.model_name,
        deployment_id=document.id,
        task=document.model.task,
        engine=leading.engine,
        context_tokens=min((replica.document.context_tokens for replica in ready), default=document.context_tokens),
        replicas=endpoints,
        created_at_unix_seconds=document.created_at_unix_seconds,
        unavailable_reason=None if ready else unavailable_reason(document, replicas),
        organization_id=document.organization_id,
        limits=document.limits,
        weight=document.weight,
        tool_format=document.model.tool_format,
        moderation_format=document.model.moderation_format,
        input_modalities=document.model.input_modalities,
        takes_marks=leading.engine == "upstream" and leading.engine_options.get("takes_marks") is True,
    )


_PHASE_SENTENCES: Mapping[Phase, str] = {
    "placing": "it waits for a place",
    "fetching": "its weights are being fetched",
    "preparing": "its runtime is being made",
    "starting": "it is starting",
    "draining": "it is being stopped",
    "stopping": "it is being stopped",
    "backoff": "it failed and will be tried again",
}


def unavailable_reason(document: DeploymentDocument, replicas: list[Replica]) -> str:
    """Why nobody serves a deployment, in a sentence: of its newest replica that has something to say."""
    if document.replicas_min == 0:
        return f"model '{document.model_name}' is scaled to zero replicas"
    if not replicas:
        return f"model '{document.model_name}' is about to start"
    newest = max(replicas, key=lambda replica: (replica.generation, replica.reason is not None, replica.id))
    sentence = _PHASE_SENTENCES.get(newest.phase, "it is not ready")
    detail = f": {newest.reason}" if newest.reason else ""
    return f"model '{document.model_name}' is not ready: {sentence}{detail}"
