"""What serving keeps of a deployment, as plain values."""

from datetime import datetime

import msgspec

from cloudcrest.catalog.api import ModelDocument
from cloudcrest.identity.api import Limits
from cloudcrest.serving.api import DeploymentDocument, EngineName, Placement, ReplicaStatus

EngineOptions = dict[str, str | int | float | bool]


class Deployment(msgspec.Struct, frozen=True):
    """Desired state as the control plane keeps it. `engine_options` may hold a sealed key."""

    id: str
    name: str
    model: ModelDocument
    engine: EngineName
    engine_options: EngineOptions
    region: str
    generation: int
    replicas_min: int
    replicas_max: int
    context_tokens: int
    slots: int
    memory_bytes: int | None
    cpu_threads: int | None
    organization_id: str | None
    limits: Limits
    weight: int
    created_at: datetime
    updated_at: datetime
    placement: Placement = Placement()

    def document(self) -> DeploymentDocument:
        """What the region is told."""
        return DeploymentDocument(
            id=self.id,
            generation=self.generation,
            region=self.region,
            model_name=self.name,
            model=self.model,
            engine=self.engine,
            replicas_min=self.replicas_min,
            replicas_max=self.replicas_max,
            context_tokens=self.context_tokens,
            slots=self.slots,
            created_at_unix_seconds=int(self.created_at.timestamp()),
            engine_options=self.engine_options,
            memory_bytes=self.memory_bytes,
            cpu_threads=self.cpu_threads,
            organization_id=self.organization_id,
            limits=self.limits,
            weight=self.weight,
            placement=self.placement,
        )


class ReportedReplica(msgspec.Struct, frozen=True):
    """What a region last said of a replica, and when."""

    status: ReplicaStatus
    reported_at: datetime
