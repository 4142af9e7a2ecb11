"""What a replica asks of the placer, and what its process says of its place. Pure."""

from cloudcrest.compute.api import ProcessStatus
from cloudcrest.compute.fabric.machine import NODE_ID
from cloudcrest.compute.placement.labels import running_of
from cloudcrest.compute.scheduler.model import Demand, Running, Spot, Workload
from cloudcrest.serving.api import DeploymentDocument
from cloudcrest.serving.engines.api import Engine, find_artifact
from cloudcrest.serving.settings import ServingSettings

SOURCE = "serving"
_CORE_MILLI = 1000


def workload_of(
    replica_id: str, document: DeploymentDocument, engine: Engine, settings: ServingSettings, since: float
) -> Workload:
    """One replica, as the placer is offered it. It is the cloud's own, whomever it serves. `since`: Unix seconds."""
    placement = document.placement
    accelerators = engine.accelerators(document) if placement.accelerators is None else placement.accelerators
    return Workload(
        id=replica_id,
        demand=Demand(
            cpu_milli=settings.replica_cpu_milli if placement.cpu_milli is None else placement.cpu_milli,
            memory_bytes=needed_memory_bytes(document, engine),
            accelerators=accelerators,
            milli=placement.accelerator_milli,
            types=frozenset(placement.accelerator_types) if accelerators else frozenset(),
        ),
        priority=settings.replica_priority,
        spread=placement.spread,
        group=document.id,
        labels=placement.node_labels,
        tolerations=frozenset(placement.tolerations),
        prefers="order" if len(placement.accelerator_types) > 1 else "packing",
        type_order=placement.accelerator_types,
        since=since,
    )


def needed_memory_bytes(document: DeploymentDocument, engine: Engine) -> int:
    """What a replica is given, before its weights are there: as the deployment says, else what is known of them."""
    if document.memory_bytes is not None:
        return document.memory_bytes
    artifact = find_artifact(document.model, engine.artifact_format) if engine.artifact_format is not None else None
    weights_bytes = sum(file.size_bytes or 0 for file in artifact.files) if artifact is not None else 0
    return weights_bytes + engine.memory_bytes(document, None)


def cores_of(kept_milli: int, node_milli: int) -> int:
    """How many cores a replica computes on, where its deployment does not say. Both in thousandths of a core.

    A whole core or more that is kept for it is what it counts on; less says only that it shares, and it may have all
    that its node has. A part of a core takes a thread, too.
    """
    node_cores = max(1, -(-node_milli // _CORE_MILLI))
    return min(-(-kept_milli // _CORE_MILLI), node_cores) if kept_milli >= _CORE_MILLI else node_cores


def found_running(process: ProcessStatus, workload: Workload, since: float) -> Running:
    """A replica that was running before: as its labels say, else (of an older version's) as it would be asked for."""
    return running_of(process.id, [process.labels]) or Running(
        workload, (Spot(process.node_id or NODE_ID, tuple(range(workload.demand.accelerators))),), since
    )
