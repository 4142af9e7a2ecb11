"""The public face of serving: deployments as desired state, and the routes that gateways follow."""

from typing import Literal

import msgspec

from cloudcrest.catalog.api import Modality, ModelDocument, ModerationFormat, PullProgress, Task, ToolFormat
from cloudcrest.compute.scheduler.model import WHOLE, Domain
from cloudcrest.identity.api import Limits

DEPLOYMENT_KIND = "deployment"
ROUTE_KIND = "route"
DEFAULT_WEIGHT = 100

USAGE_HEADER = "x-cloudcrest-usage"
"""In which an engine for sound says what its answer is charged for: a `SoundUsage` in JSON."""
MOST_MILLISECONDS_FIELD = "cloudcrest_most_milliseconds"
"""Of a form for transcription: the longest recording that was admitted, which the engine holds the file to."""

EngineName = Literal["llamacpp", "vllm", "upstream", "simulated", "piper", "moonshine"]
ReplicaState = Literal[
    "placing", "fetching", "preparing", "starting", "ready", "draining", "backoff", "failed", "stopped"
]
DeploymentState = Literal["pending", "starting", "ready", "degraded", "stopped", "failed"]


class SoundUsage(msgspec.Struct, frozen=True, omit_defaults=True):
    """What an answer in sound, or to sound, is charged for: characters spoken, milliseconds heard."""

    characters: int = 0
    audio_milliseconds: int = 0


class Placement(msgspec.Struct, frozen=True, omit_defaults=True):
    """Where a deployment's replicas run, and what each is given there beside memory.

    `accelerators` × `accelerator_milli` thousandths of each (None: as the engine says), of one of `accelerator_types`,
    the first of them that is free; empty: of any. `cpu_milli`: thousandths of processors that are kept for it (None: a
    little). `spread`: as evenly as can be over such domains. `node_labels`: what its nodes must have. `tolerations`:
    the taints that these may have.
    """

    accelerators: int | None = None
    accelerator_milli: int = WHOLE
    accelerator_types: tuple[str, ...] = ()
    cpu_milli: int | None = None
    spread: Domain = "zone"
    node_labels: dict[str, str] = {}
    tolerations: tuple[str, ...] = ()


class DeploymentDocument(msgspec.Struct, frozen=True):
    """Desired state of one deployment in one region, published by the control plane.

    `model_name` is what callers write in `model`. `slots` requests run at once in a replica, each with
    `context_tokens`. `generation` grows with each change that needs new replicas. `engine_options` are the engine's
    own (simulated: timing profile; upstream: base_url, model, sealed api_key). `organization_id`: None for all tenants.
    `weight`: its share of the name's requests is weight over the sum of its name's deployments' weights.
    """

    id: str
    generation: int
    region: str
    model_name: str
    model: ModelDocument
    engine: EngineName
    replicas_min: int
    replicas_max: int
    context_tokens: int
    slots: int
    created_at_unix_seconds: int
    engine_options: dict[str, str | int | float | bool] = {}
    memory_bytes: int | None = None
    cpu_threads: int | None = None
    organization_id: str | None = None
    limits: Limits = Limits()
    weight: int = DEFAULT_WEIGHT
    placement: Placement = Placement()


class ReplicaEndpoint(msgspec.Struct, frozen=True):
    """A replica that serves: `url` is `http://host:port` (no path), `token` goes in its Authorization header.

    `leave_by_unix_seconds`: it is being drained, gets nothing new, and is stopped then at the latest.
    """

    id: str
    url: str
    token: str
    slots: int
    leave_by_unix_seconds: float | None = None


class RouteDocument(msgspec.Struct, frozen=True):
    """How a gateway reaches one deployment of a public model name. The document's id is `deployment_id`.

    None ready: `unavailable_reason` says why in a sentence. `engine` tells the gateway which quirks to expect.
    `weight`: of the name's requests, beside those of its other deployments; 0: none. `takes_marks`: it is a provider
    that is told what it is to keep of a prompt.
    """

    model_name: str
    deployment_id: str
    task: Task
    engine: EngineName
    context_tokens: int
    replicas: tuple[ReplicaEndpoint, ...]
    created_at_unix_seconds: int
    unavailable_reason: str | None = None
    organization_id: str | None = None
    limits: Limits = Limits()
    weight: int = DEFAULT_WEIGHT
    tool_format: ToolFormat | None = None
    moderation_format: ModerationFormat | None = None
    input_modalities: tuple[Modality, ...] = ("text",)
    takes_marks: bool = False


class ReplicaStatus(msgspec.Struct, frozen=True):
    """What a region reports of a replica. `reason` explains anything that is not ready. `node_id`: where it is placed,
    empty while it waits for that.
    """

    id: str
    deployment_id: str
    generation: int
    state: ReplicaState
    restarts: int = 0
    reason: str | None = None
    pull: PullProgress | None = None
    node_id: str = ""


class RegionStatus(msgspec.Struct, frozen=True):
    """A region's report to the control plane: `PUT /internal/v1/status`, on change and at least every 5 seconds."""

    replicas: tuple[ReplicaStatus, ...] = ()
    pulls: dict[str, PullProgress] = {}
